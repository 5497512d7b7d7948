/** What a form with bracketed names means: `leads[add][0][id]=1` is `{leads: {add: {"0": {id: "1"}}}}`. */
export interface FormTree {
  readonly [name: string]: string | FormTree;
}

export interface FormLimits {
  /** Deepest nesting. @defaultValue 10 */
  readonly maxDepth?: number;
  /** Most fields. @defaultValue 5_000 */
  readonly maxFields?: number;
  /** Largest number in brackets. @defaultValue 10_000 */
  readonly maxIndex?: number;
}

export type FormResult =
  | { readonly ok: true; readonly form: FormTree }
  | {
      readonly ok: false;
      readonly reason: "too_deep" | "too_many_fields" | "index_too_large" | "forbidden_name" | "conflict";
    };

const forbidden = new Set(["__proto__", "constructor", "prototype"]);

/**
 * Reads a form body with PHP's bracketed names into objects without a prototype. `a[]=x` counts up from the largest
 * index so far. A name that is given twice keeps the last value; one whose brackets do not match is taken as it is.
 * Never throws.
 */
export function parseForm(body: string | Uint8Array | URLSearchParams, limits: FormLimits = {}): FormResult {
  const { maxDepth = 10, maxFields = 5_000, maxIndex = 10_000 } = limits;
  const fields =
    body instanceof URLSearchParams
      ? body
      : new URLSearchParams(typeof body === "string" ? body : new TextDecoder().decode(body));
  const root: Record<string, unknown> = Object.create(null);
  /** The number that the next `[]` of an object stands for: one above its largest. */
  const nextIndex = new Map<object, number>();
  let count = 0;
  for (const [name, value] of fields) {
    if (++count > maxFields) return { ok: false, reason: "too_many_fields" };
    const path = readPath(name);
    if (path.length > maxDepth) return { ok: false, reason: "too_deep" };
    let node = root;
    for (const [depth, part] of path.entries()) {
      const key = part === "" && depth > 0 ? String(nextIndex.get(node) ?? 0) : part;
      if (forbidden.has(key)) return { ok: false, reason: "forbidden_name" };
      if (depth > 0 && /^\d+$/.test(key)) {
        if (Number(key) > maxIndex) return { ok: false, reason: "index_too_large" };
        nextIndex.set(node, Math.max(nextIndex.get(node) ?? 0, Number(key) + 1));
      }
      if (depth === path.length - 1) {
        if (typeof node[key] === "object") return { ok: false, reason: "conflict" };
        node[key] = value;
        break;
      }
      const child = node[key] ?? Object.create(null);
      if (typeof child !== "object") return { ok: false, reason: "conflict" };
      node[key] = child;
      node = child as Record<string, unknown>;
    }
  }
  return { ok: true, form: root as FormTree };
}

/** `a[b][0]` gives `a`, `b`, `0`. */
function readPath(name: string): readonly string[] {
  const open = name.indexOf("[");
  if (open <= 0 || !/^(?:\[[^[\]]*\])+$/.test(name.slice(open))) return [name];
  return [name.slice(0, open), ...name.slice(open + 1, -1).split("][")];
}
