import { checkAmount, fromMinor, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import type { Robokassa } from "./robokassa.ts";
import type { PaymentForm, PaymentRequest } from "./start.ts";
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
 * @throws {InputError} naming the field, before anything is stored; also for a receipt that makes the link longer than
 *   2000 characters: use {@link placeOrderForm} then.
 */
export async function placeOrder(
  options: PlaceOrderOptions,
): Promise<{ readonly order: Order; readonly paymentUrl: string }> {
  const { order, start: paymentUrl } = await place(options, options.robokassa.paymentUrl);
  return { order, paymentUrl };
}

/**
 * The same with a form that the buyer's browser posts, which a basket of any size fits into.
 *
 * @throws {InputError} naming the field, before anything is stored.
 */
export async function placeOrderForm(
  options: PlaceOrderOptions,
): Promise<{ readonly order: Order; readonly paymentForm: PaymentForm }> {
  const { order, start: paymentForm } = await place(options, options.robokassa.paymentForm);
  return { order, paymentForm };
}

async function place<Start>(
  { robokassa, storage, id, total, ...request }: PlaceOrderOptions,
  makeStart: (request: PaymentRequest) => Start,
): Promise<{ readonly order: Order; readonly start: Start }> {
  const outSum = fromMinor(toMinor(checkAmount("total", total)));
  if (typeof id !== "string" || id === "" || id.length > 191)
    throw new InputError("id", "must have 1 to 191 characters");
  const test = request.test ?? robokassa.test;
  // Everything but the number is known: a request that cannot become a start stores nothing.
  makeStart({ ...request, invId: "9223372036854775807", outSum });
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
  return { order, start: makeStart(start) };
}
