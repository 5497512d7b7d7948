import { InputError } from "./errors.ts";

/** Points at the result of an earlier command of the same batch: `reference("deal")`, `reference("page", 49, "ID")`. */
export interface Reference {
  readonly [referenceMarker]: string;
}

const referenceMarker = Symbol("reference");

/** A value that JSON and a batch's query can carry; `undefined` is left out, a `Date` is sent as ISO 8601 in UTC. */
export type Parameter =
  | string
  | number
  | bigint
  | boolean
  | null
  | undefined
  | Date
  | Reference
  | readonly Parameter[]
  | { readonly [name: string]: Parameter };

/** Parameters of a method by their names, as the vendor writes them. */
export type Parameters = { readonly [name: string]: Parameter };

/**
 * A value that Bitrix24 takes from an earlier command's result. When the path does not exist there, Bitrix24 inserts the
 * deepest value that it found, so use `halt` and refer only to what must be there.
 */
export function reference(key: string, ...path: readonly (string | number)[]): Reference {
  return { [referenceMarker]: `$result[${[key, ...path].join("][")}]` };
}

const isReference = (value: unknown): value is Reference =>
  typeof value === "object" && value !== null && referenceMarker in value;

/** Keys of the commands that the parameters refer to. */
export function referencedKeys(value: Parameter): readonly string[] {
  if (isReference(value)) return [value[referenceMarker].slice("$result[".length).split("]", 1)[0] as string];
  if (typeof value !== "object" || value === null || value instanceof Date) return [];
  return Object.values(value).flatMap((part) => referencedKeys(part as Parameter));
}

/** JSON would write `null` for these, which empties the field. @throws {InputError} */
function checkExact(value: Parameter, name: string): void {
  if (typeof value === "number" && !Number.isFinite(value)) throw new InputError(name, "is not a number");
  if (value instanceof Date && Number.isNaN(value.getTime())) throw new InputError(name, "is not a real date");
}

/** For a JSON body. References have no meaning outside a batch. */
export function toJsonParameters(value: Parameter, name: string): unknown {
  if (isReference(value)) throw new InputError(name, "is a reference; references work inside a batch only");
  checkExact(value, name);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  if (Array.isArray(value)) return value.map((item, index) => toJsonParameters(item, `${name}[${index}]`));
  return Object.fromEntries(
    Object.entries(value as Parameters).map(([key, item]) => [key, toJsonParameters(item, `${name}.${key}`)]),
  );
}

/** A text that Bitrix24 would take for a reference when it runs a batch. */
const looksLikeReference = /\$(result|next|total|error)\[/;

/**
 * The query of a batch command, in PHP's bracket form, each name and value encoded once. `true` and `false` become `Y`
 * and `N`.
 *
 * @throws {InputError} for `null`, which a query cannot carry, for an empty list or object, which would vanish, and for
 *   text that Bitrix24 would take for a reference.
 */
export function toCommandQuery(parameters: Parameters): string {
  const pairs: string[] = [];
  const add = (name: string, value: Parameter): void => {
    if (value === undefined) return;
    checkExact(value, name);
    if (value === null) throw new InputError(name, 'is null, which a batch cannot carry; use "" or a single call');
    if (isReference(value)) {
      pairs.push(`${encodeURIComponent(name)}=${encodeURIComponent(value[referenceMarker])}`);
      return;
    }
    if (typeof value === "object" && !(value instanceof Date)) {
      const entries = Object.entries(value);
      if (entries.length === 0) throw new InputError(name, "is empty, which a batch cannot carry; use a single call");
      for (const [key, item] of entries) add(`${name}[${key}]`, item as Parameter);
      return;
    }
    const text =
      value instanceof Date ? value.toISOString() : typeof value === "boolean" ? (value ? "Y" : "N") : String(value);
    if (looksLikeReference.test(text)) {
      throw new InputError(name, "holds text that a batch would take for a reference; send it by a single call");
    }
    pairs.push(`${encodeURIComponent(name)}=${encodeURIComponent(text)}`);
  };
  for (const [name, value] of Object.entries(parameters)) add(name, value);
  return pairs.join("&");
}

/** Adds what a row is read from to a `select`; without one, or with `*`, the portal gives it anyway. */
export function withFields(parameters: Parameters, fields: readonly string[]): Parameters {
  const { select } = parameters;
  return Array.isArray(select) ? { ...parameters, select: [...new Set([...select, ...fields])] } : parameters;
}
