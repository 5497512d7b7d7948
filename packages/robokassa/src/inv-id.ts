import { InputError } from "./errors.ts";

/** Largest InvId: 2^63 - 1. Beyond what a JavaScript number holds, so ids are text or bigint. */
export const maxInvId = 9_223_372_036_854_775_807n;

/**
 * An InvId as it is sent. `""` leaves the number to Robokassa with an empty slot in the hash, `"0"` with a `0` in it.
 *
 * @throws {InputError}
 */
export function checkInvId(value: unknown, field = "invId"): string {
  const text = typeof value === "bigint" ? String(value) : value;
  if (typeof text !== "string" || !/^(|0|[1-9]\d{0,18})$/.test(text) || BigInt(text) > maxInvId) {
    throw new InputError(field, "must be digits as text, or a bigint, from 1 to 9223372036854775807");
  }
  return text;
}

/** An InvId that names a payment: not empty, not 0. */
export function checkOwnInvId(value: unknown, field = "invId"): string {
  const text = checkInvId(value, field);
  if (text === "" || text === "0") throw new InputError(field, "must name a payment: it is empty or 0");
  return text;
}
