import { bookMoney, endPayment, failAttempt, rememberState } from "./decisions.ts";
import type { Engine } from "./engine.ts";
import { type Payment, sums } from "./payment.ts";
import type { PaymentProvider, ProviderContext } from "./provider.ts";

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
  return {
    find: own,
    findByAccount: (account) => storage.findByAccount(provider.name, account),
    findBooking: (transactionId) => storage.getBooking(provider.name, transactionId),
    payUrl,
    async book(id, money) {
      const payment = await own(id);
      if (!payment) return { state: "not_found" };
      if (payment.currency !== money.currency) {
        logger.error("money in another currency was not booked", { payment: id, provider: provider.name });
        return { state: "wrong_currency", payment };
      }
      if (money.amountMinor <= 0n) throw new RangeError("booked money must be more than zero");
      const result = await storage.change(id, (current) => bookMoney(current, money, clock.now()));
      if (result.state === "not_found") return result;
      if (result.state !== "changed") return { state: "duplicate", payment: result.payment };
      const { overpaidMinor } = sums(result.payment);
      if (result.payment.late || overpaidMinor > 0n) {
        logger.warn("money arrived late or beyond the amount", { payment: id, late: result.payment.late });
      }
      wake();
      return { state: "booked", payment: result.payment };
    },
    async remember(payment, state) {
      if (!(await own(payment.id))) return undefined;
      // First, so that a process that ends in between leaves a question too many, not one too few.
      if (state.askAgainMs !== undefined) await storage.scheduleCheck(payment.id, { delayMs: state.askAgainMs });
      const result = await storage.change(payment.id, (current) =>
        current.session === payment.session ? rememberState(current, state, clock.now()) : undefined,
      );
      return result.state === "changed" ? result.payment : undefined;
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
