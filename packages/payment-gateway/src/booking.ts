import { bookMoney, endPayment, failAttempt, refuseMoney, rememberState } from "./decisions.ts";
import type { Engine } from "./engine.ts";
import { type Payment, sums } from "./payment.ts";
import type { PaymentProvider, ProviderContext, ReportedMoney } from "./provider.ts";

/**
 * Books money that the provider told of when it was asked. Resolves to whether it is here; money that cannot be this
 * payment's calls a person.
 */
export async function bookAnswer(
  { storage, clock }: Pick<Engine, "storage" | "clock">,
  context: ProviderContext,
  payment: Payment,
  money: ReportedMoney,
): Promise<boolean> {
  const { state } = await context.book(payment.id, money);
  if (state === "booked") return true;
  const owner = state === "duplicate" ? (await context.findBooking(money.transactionId))?.paymentId : undefined;
  if (owner === payment.id) return true;
  const reason = owner === undefined ? `came in ${money.currency}` : `was booked for the payment ${owner}`;
  await storage.change(payment.id, (current) => refuseMoney(current, money, reason, clock.now()));
  return false;
}

/** What a provider may do with payments: those of its own name only. */
export function createProviderContext(
  { storage, clock, logger, wake, findPayment }: Engine,
  provider: PaymentProvider,
  payUrl: (id: string) => string,
): ProviderContext {
  const own = async (id: string): Promise<Payment | undefined> => {
    const payment = await findPayment(id);
    return payment?.provider === provider.name ? payment : undefined;
  };
  const mayBook = (payment: Payment, money: ReportedMoney): boolean => {
    if (money.amountMinor <= 0n) throw new RangeError("booked money must be more than zero");
    if (payment.currency === money.currency) return true;
    logger.error("money in another currency was not booked", { payment: payment.id, provider: provider.name });
    return false;
  };
  const booked = (payment: Payment): void => {
    const { late } = payment;
    if (late || sums(payment).overpaidMinor > 0n) {
      logger.warn("money arrived late or beyond the amount", { payment: payment.id, late });
    }
    wake();
  };
  return {
    find: own,
    findByAccount: (account) => storage.findByAccount(provider.name, account),
    findBooking: (transactionId) => storage.getBooking(provider.name, transactionId),
    payUrl,
    async book(id, money) {
      const payment = await own(id);
      if (!payment) return { state: "not_found" };
      if (!mayBook(payment, money)) return { state: "wrong_currency", payment };
      const result = await storage.change(id, (current) => bookMoney(current, money, clock.now()));
      if (result.state === "not_found") return result;
      if (result.state !== "changed") return { state: "duplicate", payment: result.payment };
      booked(result.payment);
      return { state: "booked", payment: result.payment };
    },
    async remember(payment, { money, ...state }) {
      const stored = await own(payment.id);
      if (!stored || (money && !mayBook(stored, money))) return undefined;
      const result = await storage.change(payment.id, (current) => {
        if (current.session !== payment.session) return undefined;
        const change = rememberState(current, state, clock.now());
        return money ? { ...change, ...bookMoney(change.payment, money, clock.now()) } : change;
      });
      if (result.state !== "changed") return undefined;
      if (money) booked(result.payment);
      return result.payment;
    },
    async cancelled(id) {
      if (!(await own(id))) return;
      const result = await storage.change(id, (current) => endPayment(current, "cancelled", clock.now()));
      if (result.state === "changed") wake();
    },
    async failed(id) {
      if (await own(id)) await storage.change(id, (current) => failAttempt(current, clock.now()));
    },
  };
}
