/**
 * Minor units (tiyn, kopecks) of an amount in major units: a JSON number or decimal text. Read from its digits, so no
 * float arithmetic touches it; digits below one minor unit are rounded half up. `undefined` for anything else.
 */
export function toMinor(amount: unknown): bigint | undefined {
  const scaled = toScaled(amount, 3);
  if (scaled === undefined) return undefined;
  return scaled < 0n ? -((-scaled + 5n) / 10n) : (scaled + 5n) / 10n;
}

/** `12345` -> `"123.45"`. */
export function formatMinor(minor: bigint): string {
  return formatScaled(minor, 2, 2);
}

/** Whole major units, rounded half up: what amoCRM takes as the price of a lead. */
export function toWholeUnits(minor: bigint): number {
  return Number((minor + 50n) / 100n);
}

/** A decimal as an integer of `scale` digits after the point; further digits are cut. */
export function toScaled(value: unknown, scale: number): bigint | undefined {
  if (typeof value !== "number" && typeof value !== "string") return undefined;
  const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(String(value).trim());
  if (!match) return undefined;
  const [, sign, whole = "", fraction = ""] = match;
  const scaled = BigInt(whole + fraction.slice(0, scale).padEnd(scale, "0"));
  return sign === "-" ? -scaled : scaled;
}

/** The decimal text of a scaled integer, with at least `minFraction` digits after the point. */
export function formatScaled(scaled: bigint, scale: number, minFraction = 0): string {
  const digits = (scaled < 0n ? -scaled : scaled).toString().padStart(scale + 1, "0");
  const fraction = digits.slice(-scale).replace(/0+$/, "").padEnd(minFraction, "0");
  return `${scaled < 0n ? "-" : ""}${digits.slice(0, -scale)}${fraction && `.${fraction}`}`;
}
