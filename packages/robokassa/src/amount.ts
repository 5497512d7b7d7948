import { InputError } from "./errors.ts";

/**
 * Checks an amount that we are about to send: decimal text with a dot and at most two decimals, more than zero.
 * Numbers are refused: 0.1 + 0.2 is not a price.
 *
 * @throws {InputError}
 */
export function checkAmount(field: string, value: unknown): string {
  if (typeof value !== "string") throw new InputError(field, 'must be decimal text such as "1000.00", not a number');
  if (!/^(0|[1-9]\d{0,12})(\.\d{1,2})?$/.test(value)) {
    throw new InputError(
      field,
      'must be decimal text such as "1000.00": at most 13 digits, a dot, at most two decimals',
    );
  }
  if (toMinor(value) === 0n) throw new InputError(field, "must be more than zero");
  return value;
}

/** `"1000.5"` is `100050n`. Expects text that {@link checkAmount} accepted. */
export function toMinor(amount: string): bigint {
  const [whole = "0", fraction = ""] = amount.split(".");
  return BigInt(whole) * 100n + BigInt(fraction.padEnd(2, "0"));
}

/** `100050n` is `"1000.50"`. */
export function fromMinor(minor: bigint): string {
  return `${minor / 100n}.${String(minor % 100n).padStart(2, "0")}`;
}

/** Amounts as Robokassa writes them: two decimals in tests, six in production. */
export const isReceivedAmount = (text: string): boolean => /^\d{1,15}(\.\d{1,6})?$/.test(text);

/** Compares as decimals: `1000.000000` and `1000.00` are the same money. Both must be plain decimal text. */
export function sameAmount(left: string, right: string): boolean {
  return isReceivedAmount(left) && isReceivedAmount(right) && canonical(left) === canonical(right);
}

function canonical(amount: string): string {
  const [whole = "", fraction = ""] = amount.split(".");
  return `${BigInt(whole)}.${fraction.replace(/0+$/, "")}`;
}

/** Whether `left` is less money than `right`; both must be plain decimal text. */
export function isLess(left: string, right: string): boolean {
  return toMillionths(left) < toMillionths(right);
}

function toMillionths(amount: string): bigint {
  const [whole = "0", fraction = ""] = amount.split(".");
  return BigInt(whole) * 1_000_000n + BigInt(fraction.padEnd(6, "0"));
}
