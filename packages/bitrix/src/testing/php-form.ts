/** What PHP makes of bracketed names, and the arrays and objects of its JSON. The fake's own: it must not share our client's reading. */
export type PhpValue = string | { [key: string]: PhpValue };

/** `a[b][]=1` to nested maps. A list counts up from 0. */
export function parsePhpForm(text: string): { [key: string]: PhpValue } {
  const root: { [key: string]: PhpValue } = {};
  for (const [name, value] of new URLSearchParams(text)) {
    const head = /^[^[]+/.exec(name)?.[0];
    if (head === undefined || head === "__proto__") continue;
    const path = [head, ...[...name.slice(head.length).matchAll(/\[([^\]]*)\]/g)].map((match) => match[1] ?? "")];
    let node = root;
    for (const [index, raw] of path.entries()) {
      const key = raw === "" ? String(Object.keys(node).length) : raw;
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
