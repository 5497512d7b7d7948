import type { Clock, Logger } from "@orderbridge/core";
import { isLess, isReceivedAmount, sameAmount } from "./amount.ts";
import { type BookingResult, type Order, type PaymentSource, payable, type RobokassaStorage } from "./storage.ts";

/** A payment that is proven: by a signature, or by Robokassa's own state query. */
export interface ProvenPayment {
  readonly invId: string;
  /** Must be the order's total, or what was asked for of its hold. */
  readonly outSum?: string | undefined;
  /** What the buyer paid, where `outSum` is not told: a surcharge may make it more than the total, nothing makes it less. */
  readonly paidSum?: string | undefined;
  readonly currency?: string | undefined;
  readonly test: boolean;
  readonly source: PaymentSource;
  readonly opKey?: string | undefined;
  /** When Robokassa says that it happened; ResultURL does not say it. */
  readonly happenedAt?: Date | undefined;
}

/**
 * Runs inside the transaction that books the payment: what it writes through `transaction` is saved exactly when the
 * payment is, and once. When it throws nothing is booked, and Robokassa calls again.
 */
export type OnPaid<Transaction> = (order: Order, transaction: Transaction) => Promise<void>;

export type Booking =
  | { readonly state: "booked" | "repeated"; readonly order: Order }
  | {
      readonly state: "refused";
      readonly reason: /** No order has this InvId: it was not stored, or Robokassa chose it. */
        | "unknown_order"
        /** The order has another total. */
        | "amount_differs"
        | "currency_differs"
        /** Paid with the test passwords, but the order is live. */
        | "test_payment_for_live_order"
        /** Paid with the live passwords, but the order was started as a test. Real money: a person must look. */
        | "live_payment_for_test_order"
        /** The payment is older than the order: this number was sold before, by another database or program. */
        | "number_used_before";
    };

export interface BookingContext<Transaction> {
  readonly storage: Pick<RobokassaStorage<Transaction>, "orders">;
  readonly onPaid?: OnPaid<Transaction> | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** How far this machine's clock may be ahead of Robokassa's, in milliseconds. */
const clockToleranceMs = 600_000;

/** Whether something happened before the order existed: then it belongs to a former order with the same number. */
export const isFormer = (order: Order, happenedAt: Date | undefined): boolean =>
  happenedAt !== undefined && happenedAt.getTime() < order.createdAt.getTime() - clockToleranceMs;

/** The one way in which an order becomes paid: ResultURL, ResultUrl2 and reconcile may race here. */
export async function bookPayment<Transaction>(
  { storage, onPaid, clock, logger }: BookingContext<Transaction>,
  payment: ProvenPayment,
): Promise<Booking> {
  const { invId, source, opKey, outSum, paidSum } = payment;
  for (;;) {
    const order = await storage.orders.getByInvId(invId);
    if (!order) return { state: "refused", reason: "unknown_order" };
    if (payment.test !== order.test) {
      return { state: "refused", reason: payment.test ? "test_payment_for_live_order" : "live_payment_for_test_order" };
    }
    if (isFormer(order, payment.happenedAt)) return { state: "refused", reason: "number_used_before" };
    const compared = payable(order);
    const differs =
      (outSum !== undefined && !sameAmount(outSum, compared)) ||
      (paidSum !== undefined && (!isReceivedAmount(paidSum) || isLess(paidSum, compared)));
    if (differs) return { state: "refused", reason: "amount_differs" };
    if (payment.currency !== undefined && payment.currency !== order.currency) {
      return { state: "refused", reason: "currency_differs" };
    }
    const booking = { invId, source, opKey, paidAt: clock.now(), payable: compared };
    const result = await storage.orders.bookPayment(booking, onPaid);
    if (result.state === "changed") continue; // a capture of another part was asked for meanwhile
    logger.info(`robokassa: payment ${result.state}`, { invId, source, test: payment.test });
    return toBooking(result);
  }
}

/** Money is reserved, not paid. An older message than the last one, or one for a paid order, changes nothing. */
export async function bookHold<Transaction>(
  { storage, logger }: BookingContext<Transaction>,
  hold: { readonly invId: string; readonly opKey: string | undefined; readonly sentAt: Date },
): Promise<Booking> {
  const order = await storage.orders.getByInvId(hold.invId);
  if (!order) return { state: "refused", reason: "unknown_order" };
  if (order.test) return { state: "refused", reason: "live_payment_for_test_order" };
  if (isFormer(order, hold.sentAt)) return { state: "refused", reason: "number_used_before" };
  const result = await storage.orders.bookHold(hold);
  logger.info(`robokassa: hold ${result.state}`, { invId: hold.invId });
  return toBooking(result);
}

const toBooking = (result: BookingResult): Booking =>
  result.state === "unknown" ? { state: "refused", reason: "unknown_order" } : result;
