import { eventBody } from "./event-body.ts";
import { randomId } from "./ids.ts";
import type { Payment, PaymentEventName } from "./payment.ts";
import type { PaymentProvider, RememberedState, ReportedMoney } from "./provider.ts";
import type { PaymentChange, PaymentEvent, Refund } from "./storage.ts";

/** What follows for a payment from what happened. Pure: the stores ask again after a conflict. */

const hasEnded: ReadonlySet<Payment["status"]> = new Set(["cancelled", "expired", "refunded"]);

/** An instant of a payment never lies before the one before, even when the clock was set back. */
const instantOf = (payment: Payment, now: Date): Date => (now < payment.updatedAt ? payment.updatedAt : now);

function withEvent(
  payment: Payment,
  name: PaymentEventName,
  refundMinor?: bigint,
): { readonly payment: Payment; readonly event: PaymentEvent } {
  const id = randomId("evt_");
  const next = { ...payment, sequence: payment.sequence + 1 };
  const at = next.updatedAt;
  return {
    payment: next,
    event: {
      id,
      paymentId: payment.id,
      merchant: payment.merchant,
      sequence: next.sequence,
      name,
      body: eventBody({ id, name, payment: next, at, ...(refundMinor === undefined ? {} : { refundMinor }) }),
      createdAt: at,
    },
  };
}

const notBooked = ({ transactionId }: ReportedMoney): string => `transaction ${transactionId} was not booked`;

/** The provider has money that cannot be this payment's. Once the same money is booked after all, nobody is called any more. */
export function refuseMoney(
  payment: Payment,
  money: ReportedMoney,
  reason: string,
  now: Date,
): PaymentChange | undefined {
  const needsAttention = `${notBooked(money)}: it ${reason}`;
  if (payment.needsAttention === needsAttention) return undefined;
  return { payment: { ...payment, needsAttention, updatedAt: instantOf(payment, now) } };
}

/** Money arrived. It is booked in every state; after the end of a payment it is told as late. */
export function bookMoney(payment: Payment, money: ReportedMoney, now: Date): PaymentChange {
  const late = payment.late || hasEnded.has(payment.status);
  const paidMinor = payment.paidMinor + money.amountMinor;
  const status = paidMinor >= payment.amountMinor ? "paid" : "partially_paid";
  const updatedAt = instantOf(payment, now);
  const { needsAttention, ...rest } = payment;
  const before = needsAttention?.startsWith(notBooked(money)) ? undefined : needsAttention;
  const reason = payment.status === "refunded" ? "money arrived after a full refund" : before;
  return {
    ...withEvent(
      { ...rest, status, paidMinor, late, updatedAt, ...(reason === undefined ? {} : { needsAttention: reason }) },
      status,
    ),
    booking: {
      provider: payment.provider,
      transactionId: money.transactionId,
      paymentId: payment.id,
      amountMinor: money.amountMinor,
      paidAt: money.paidAt ?? now,
    },
  };
}

/** Ends a payment that has no money. */
export function endPayment(payment: Payment, status: "cancelled" | "expired", now: Date): PaymentChange | undefined {
  if (payment.paidMinor > 0n || (payment.status !== "pending" && payment.status !== "processing")) return undefined;
  return withEvent({ ...payment, status, updatedAt: instantOf(payment, now) }, status);
}

/** Whether the payer has begun something since the provider was asked about `asked`, so that its answer says nothing of it. */
export function hasBegun(provider: Pick<PaymentProvider, "attempts">, asked: Payment, current: Payment): boolean {
  const attempts = (payment: Payment): number => provider.attempts?.(payment).length ?? 0;
  const isShown = current.status === "processing" && asked.status !== "processing";
  return isShown || attempts(current) > attempts(asked);
}

/** The payer has begun at the provider. */
export function beginAttempt(payment: Payment, now: Date): PaymentChange | undefined {
  if (payment.status !== "pending") return undefined;
  return { payment: { ...payment, status: "processing", updatedAt: instantOf(payment, now) } };
}

/** A failed attempt is no event: the payer may try again. */
export function failAttempt(payment: Payment, now: Date): PaymentChange | undefined {
  if (payment.status !== "processing") return undefined;
  return { payment: { ...payment, status: "pending", updatedAt: instantOf(payment, now) } };
}

/** What a provider wants to find again. An attempt shows only in a payment that waits for money. */
export function rememberState(payment: Payment, state: RememberedState, now: Date): PaymentChange {
  const { needsAttention: before, ...rest } = payment;
  const attention = state.attention === undefined ? before : (state.attention ?? undefined);
  const isOpen = payment.status === "pending" || payment.status === "processing";
  const shown = state.processing === true ? "processing" : "pending";
  return {
    payment: {
      ...rest,
      session: state.session,
      status: isOpen && state.processing !== undefined ? shown : payment.status,
      ...(attention === undefined ? {} : { needsAttention: attention }),
      updatedAt: instantOf(payment, now),
    },
    ...(state.askAgainMs === undefined ? {} : { checkInMs: state.askAgainMs }),
  };
}

/** What could be refunded now: paid, minus refunded, minus refunds that are still open. */
export const refundableMinor = (payment: Payment): bigint =>
  payment.paidMinor - payment.refundedMinor - payment.refundingMinor;

/** Reserves the sum before the provider is asked, so that parallel refunds cannot exceed what was paid. */
export function reserveRefund(payment: Payment, refund: Refund): PaymentChange | undefined {
  if (refund.amountMinor > refundableMinor(payment)) return undefined;
  const refundingMinor = payment.refundingMinor + refund.amountMinor;
  return { payment: { ...payment, refundingMinor, updatedAt: instantOf(payment, refund.createdAt) }, refund };
}

/** The provider told how a refund ended. */
export function settleRefund(
  payment: Payment,
  refund: Refund,
  status: "succeeded" | "failed",
  now: Date,
): PaymentChange {
  const updatedAt = instantOf(payment, now);
  const refundingMinor = payment.refundingMinor - refund.amountMinor;
  const settled = { ...refund, status, updatedAt };
  if (status === "failed") return { payment: { ...payment, refundingMinor, updatedAt }, refund: settled };
  const refundedMinor = payment.refundedMinor + refund.amountMinor;
  const next = refundedMinor === payment.paidMinor ? "refunded" : payment.status;
  return {
    ...withEvent(
      { ...payment, status: next, refundedMinor, refundingMinor, updatedAt },
      "refunded",
      refund.amountMinor,
    ),
    refund: settled,
  };
}
