/** What PHP makes of bracketed names, and the arrays and objects of its JSON. The fake's own: it must not share our client's reading. */
export type PhpValue = string | { [key: string]: PhpValue };

/** The key after the highest number so far. */
const nextKey = (node: { readonly [key: string]: PhpValue }): string =>
  String(
    Math.max(
      -1,
      ...Object.keys(node)
        .filter((key) => /^\d+$/.test(key))
        .map(Number),
    ) + 1,
  );

/** `a[b][]=1` to nested maps, as PHP reads a query, a form and the parts of a multipart body. */
export function nestPhpNames(pairs: Iterable<readonly [string, string]>): { [key: string]: PhpValue } {
  const root: { [key: string]: PhpValue } = {};
  for (const [name, value] of pairs) {
    const first = /^[^[]+/.exec(name)?.[0];
    if (first === undefined || first === "__proto__") continue;
    const inBrackets = [...name.slice(first.length).matchAll(/\[([^\]]*)\]/g)].map((match) => match[1] ?? "");
    // Names of variables have neither dots nor spaces.
    const path = [first.replace(/[. ]/g, "_"), ...inBrackets];
    let node = root;
    for (const [index, raw] of path.entries()) {
      const key = raw === "" ? nextKey(node) : raw;
      if (key === "__proto__") break;
      if (index === path.length - 1) node[key] = value;
      else {
        const child = node[key];
        const next = typeof child === "object" ? child : {};
        node[key] = next;
        node = next;
      }
    }
  }
  return root;
}

export const parsePhpForm = (text: string): { [key: string]: PhpValue } => nestPhpNames(new URLSearchParams(text));

/** PHP's `json_encode` of a map: a list when it is empty or its keys are 0, 1, 2… */
export function encodePhpMap(entries: readonly (readonly [string, unknown])[]): unknown {
  return entries.every(([key], index) => key === String(index))
    ? entries.map(([, value]) => value)
    : Object.fromEntries(entries);
}

/** Nested values as a bracketed form, every leaf a string. */
export function toPhpForm(value: Readonly<Record<string, unknown>>): URLSearchParams {
  const form = new URLSearchParams();
  const add = (name: string, leaf: unknown): void => {
    if (typeof leaf === "object" && leaf !== null) {
      for (const [key, child] of Object.entries(leaf)) add(`${name}[${key}]`, child);
    } else form.append(name, String(leaf));
  };
  for (const [name, leaf] of Object.entries(value)) add(name, leaf);
  return form;
}
