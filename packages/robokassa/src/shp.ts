import { checkObject, InputError } from "./errors.ts";

/** `[name, value]`, the value as it is hashed: encoded once when it needs encoding. */
export type ShpPair = readonly [name: string, value: string];

/**
 * What "alphabetical order" means. `name`: by name, case ignored (the official WordPress plugin). `pair`: by the bytes
 * of `name=value` (the official PHP SDK). They differ for `Shp_a`, `Shp_a1` and for mixed case.
 */
export type ShpOrder = "name" | "pair";

const compareText = (left: string, right: string): number => (left < right ? -1 : left > right ? 1 : 0);

/** `name=value` texts in the order that is hashed. */
export function sortShp(pairs: readonly ShpPair[], order: ShpOrder): readonly string[] {
  const sorted =
    order === "name"
      ? [...pairs].sort(([a], [b]) => compareText(a.toLowerCase(), b.toLowerCase()))
      : [...pairs].sort((a, b) => Buffer.compare(Buffer.from(a.join("=")), Buffer.from(b.join("="))));
  return sorted.map((pair) => pair.join("="));
}

/**
 * Checks and encodes the buyer's `Shp_` parameters for a payment start, sorted as they are sent and hashed.
 *
 * Values are URL-encoded once here; that text is hashed, and transport encodes it again.
 *
 * @param order Left out: a set on which the two orders disagree is refused.
 * @throws {InputError}
 */
export function prepareShp(shp: Readonly<Record<string, string>>, order: ShpOrder | undefined): readonly ShpPair[] {
  checkObject("shp", shp);
  const pairs: ShpPair[] = [];
  const prefixes = new Set<string>();
  const seen = new Set<string>();
  for (const [name, value] of Object.entries(shp)) {
    const prefix = /^(Shp_|SHP_|shp_)[A-Za-z0-9_]+$/.exec(name)?.[1];
    if (!prefix) throw new InputError(`shp.${name}`, "must be named Shp_ followed by letters, digits and underscores");
    if (typeof value !== "string") throw new InputError(`shp.${name}`, "must be text");
    if (!value.isWellFormed()) throw new InputError(`shp.${name}`, "holds half of a surrogate pair");
    if (seen.has(name.toLowerCase())) throw new InputError(`shp.${name}`, "is given twice in different case");
    seen.add(name.toLowerCase());
    prefixes.add(prefix);
    pairs.push([name, encodeURIComponent(value)]);
  }
  if (prefixes.size > 1) throw new InputError("shp", "mixes spellings of the prefix; write Shp_ everywhere");
  const length = pairs.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
  if (length > 2048) throw new InputError("shp", "is longer than 2048 characters in all");
  const byName = sortShp(pairs, "name").join(":");
  const byPair = sortShp(pairs, "pair").join(":");
  if (!order && byName !== byPair) {
    throw new InputError(
      "shp",
      "has names whose order Robokassa's own software disagrees on; use lower-case names of which none begins another, or set readings.shpOrder",
    );
  }
  const rank = new Map(sortShp(pairs, order ?? "name").map((text, index) => [text, index]));
  return [...pairs].sort((a, b) => (rank.get(a.join("=")) ?? 0) - (rank.get(b.join("=")) ?? 0));
}

/** The value that the shop meant; text that is not percent-encoding is given as it is. */
export function decodeShpValue(value: string): string {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}
