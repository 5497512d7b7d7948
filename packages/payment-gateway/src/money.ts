/** Currencies whose minor unit is a hundredth: every amount on the wire has two decimals. */
export const currencies = ["KZT", "RUB", "USD", "EUR", "KGS", "UZS", "BYN", "AMD", "AZN", "GEL", "CNY", "TRY"] as const;

export type Currency = (typeof currencies)[number];

/** The largest sum of a payment, in minor units: sums of several still fit into a database's `bigint` exactly. */
export const maxAmountMinor = 1_000_000_000_000_00n;

/** What {@link parseAmount} takes, zero excepted, for documents. Holds as long as the largest sum is a power of ten. */
export const amountPattern = `^(?:[1-9][0-9]{0,${String(maxAmountMinor / 100n).length - 2}}(?:\\.[0-9]{1,2})?|0\\.(?:0[1-9]|[1-9][0-9]?)|${maxAmountMinor / 100n}(?:\\.0{1,2})?)$`;

export type AmountProblem = "malformed" | "too_many_decimals" | "too_large";

export type AmountResult =
  | { readonly ok: true; readonly amountMinor: bigint }
  | { readonly ok: false; readonly problem: AmountProblem };

/**
 * Reads an amount in major units from its digits: `"500"`, `"500.5"`, `"500.50"`. Signs, exponents, leading zeros and
 * a third decimal are refused, not rounded.
 */
export function parseAmount(digits: string): AmountResult {
  const match = /^(0|[1-9]\d*)(?:\.(\d+))?$/.exec(digits);
  if (!match) return { ok: false, problem: "malformed" };
  const [, whole = "", decimals = ""] = match;
  if (decimals.length > 2) return { ok: false, problem: "too_many_decimals" };
  if (whole.length > 16) return { ok: false, problem: "too_large" };
  const amountMinor = BigInt(whole) * 100n + BigInt(decimals.padEnd(2, "0"));
  return amountMinor > maxAmountMinor ? { ok: false, problem: "too_large" } : { ok: true, amountMinor };
}

/** Minor units as text with two decimals: `50050n` is `"500.50"`. */
export function formatAmount(amountMinor: bigint): string {
  return `${amountMinor / 100n}.${String(amountMinor % 100n).padStart(2, "0")}`;
}
