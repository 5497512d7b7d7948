import { checkAmount, fromMinor, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import type { Robokassa } from "./robokassa.ts";
import type { PaymentRequest } from "./start.ts";
import type { Order, RobokassaStorage } from "./storage.ts";

export interface PlaceOrderOptions extends Omit<PaymentRequest, "invId" | "outSum"> {
  readonly robokassa: Robokassa;
  readonly storage: Pick<RobokassaStorage, "orders">;
  /** The shop's own id; the same order placed twice gets the same InvId. */
  readonly id: string;
  /** Decimal text: `"1000.00"`. */
  readonly total: string;
}

/**
 * Stores an order with its InvId, then makes the link: a payment can never arrive for a number that nobody knows.
 *
 * @throws {InputError} naming the field, before anything is stored.
 */
export async function placeOrder({
  robokassa,
  storage,
  id,
  total,
  ...request
}: PlaceOrderOptions): Promise<{ readonly order: Order; readonly paymentUrl: string }> {
  const outSum = fromMinor(toMinor(checkAmount("total", total)));
  if (typeof id !== "string" || id === "" || id.length > 191)
    throw new InputError("id", "must have 1 to 191 characters");
  const test = request.test ?? robokassa.test;
  // Everything but the number is known: a request that cannot become a link stores nothing.
  robokassa.paymentUrl({ ...request, invId: "9223372036854775807", outSum });
  const order = await storage.orders.create({
    id,
    test,
    total: outSum,
    currency: request.outSumCurrency,
    description: request.description,
  });
  if (!order) throw new InputError("id", "is known with another total, description, currency or mode");
  const start = { ...request, invId: order.invId, outSum };
  await storage.orders.keepLink(id, robokassa.traceLink(start));
  return { order, paymentUrl: robokassa.paymentUrl(start) };
}
