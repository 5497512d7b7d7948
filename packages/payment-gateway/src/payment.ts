import type { Currency } from "./money.ts";

export type PaymentStatus =
  /** Waits for the payer. */
  | "pending"
  /** The provider is at work on an attempt. */
  | "processing"
  /** Some money is here, less than asked for. */
  | "partially_paid"
  | "paid"
  | "cancelled"
  | "expired"
  /** Everything that was paid went back. */
  | "refunded";

export type PaymentEventName = "paid" | "partially_paid" | "cancelled" | "refunded" | "expired";

/**
 * Where a payment may go from each state; everything else is refused by the stores. Money that arrives after the end
 * of a payment leads out of `cancelled`, `expired` and `refunded`: it is booked and told, never dropped.
 */
export const paymentMoves: Readonly<Record<PaymentStatus, readonly PaymentStatus[]>> = {
  pending: ["processing", "partially_paid", "paid", "cancelled", "expired"],
  processing: ["pending", "partially_paid", "paid", "cancelled", "expired"],
  partially_paid: ["paid", "refunded"],
  paid: ["refunded"],
  cancelled: ["partially_paid", "paid"],
  expired: ["partially_paid", "paid"],
  refunded: ["partially_paid", "paid"],
};

export interface Payment {
  /** On the wire `transaction_id`. */
  readonly id: string;
  readonly merchant: string;
  readonly provider: string;
  readonly status: PaymentStatus;
  readonly currency: Currency;
  readonly amountMinor: bigint;
  /** All money booked; refunds do not lower it. */
  readonly paidMinor: bigint;
  /** Money that went back, as confirmed by the provider. */
  readonly refundedMinor: bigint;
  /** Money of refunds whose outcome is still open. */
  readonly refundingMinor: bigint;
  readonly description: string;
  /** JSON text of an object, digits of numbers as the merchant sent them. */
  readonly metadata: string;
  readonly webhookUrl?: string;
  readonly returnUrl?: string;
  /** What a payer types to find this payment, for providers that work so. */
  readonly account?: string;
  /** What the provider needs to find its side again; its own text. */
  readonly session?: string;
  /** Money arrived after the payment had ended. */
  readonly late: boolean;
  /** No real money: the provider is a sandbox. */
  readonly test: boolean;
  /** Why a person must look at it. */
  readonly needsAttention?: string;
  /** Description, metadata and events were deleted then; what is left serves to book money. */
  readonly erasedAt?: Date;
  /** Number of the newest event; 0 before the first. */
  readonly sequence: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly expiresAt: Date;
  /** Grows with each change; a store changes a payment only from the version that the change was decided on. */
  readonly version: number;
}

/** Sums that follow from the booked ones. */
export function sums({ amountMinor, paidMinor }: Pick<Payment, "amountMinor" | "paidMinor">): {
  readonly remainingMinor: bigint;
  readonly overpaidMinor: bigint;
} {
  const differenceMinor = amountMinor - paidMinor;
  return differenceMinor >= 0n
    ? { remainingMinor: differenceMinor, overpaidMinor: 0n }
    : { remainingMinor: 0n, overpaidMinor: -differenceMinor };
}

/** A change that the rules forbid; nothing was stored. */
export class ForbiddenChangeError extends Error {
  override readonly name = "ForbiddenChangeError";
}

/**
 * What each store asks before it writes.
 *
 * @throws {ForbiddenChangeError} for a move outside {@link paymentMoves}, or sums that cannot be.
 */
export function checkChange(before: Payment, after: Payment): void {
  if (before.status !== after.status && !paymentMoves[before.status].includes(after.status)) {
    throw new ForbiddenChangeError(`a payment cannot go from ${before.status} to ${after.status}`);
  }
  if (after.paidMinor < before.paidMinor) throw new ForbiddenChangeError("booked money cannot become less");
  if (after.refundedMinor < before.refundedMinor) throw new ForbiddenChangeError("refunded money cannot become less");
  if (after.refundingMinor < 0n || after.refundedMinor + after.refundingMinor > after.paidMinor) {
    throw new ForbiddenChangeError("refunds cannot exceed what was paid");
  }
}
