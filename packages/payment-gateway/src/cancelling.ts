import { endPayment } from "./decisions.ts";
import type { Engine } from "./engine.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext, ProviderState } from "./provider.ts";
import { Refusal } from "./refusal.ts";

/**
 * Ends a payment that has no money. The provider is asked first, to cancel or, where it cannot, for the state: money wins,
 * also money whose report was lost.
 */
export function createCancellation(
  { storage, clock, logger, providers, wake, ownPayment }: Engine,
  contextOf: (provider: PaymentProvider) => ProviderContext,
): (merchant: string, id: string) => Promise<Payment> {
  async function ask(provider: PaymentProvider, payment: Payment): Promise<ProviderState | undefined> {
    try {
      return await (provider.cancel ?? provider.state)?.call(provider, payment, contextOf(provider));
    } catch (error) {
      logger.warn("the provider did not cancel a payment", { payment: payment.id, provider: provider.name, error });
      return { state: "unknown" };
    }
  }

  return async (merchant, id) => {
    const payment = await ownPayment(merchant, id);
    if (payment.status === "cancelled") return payment;
    const provider = providers.get(payment.provider);
    if (!provider) {
      throw new Refusal(
        "conflict",
        `this server lacks the provider ${payment.provider}; cancel where it is configured`,
      );
    }
    let askAgainMs: number | undefined;
    if (payment.paidMinor === 0n) {
      const remote = await ask(provider, payment);
      if (remote && "askAgainMs" in remote) ({ askAgainMs } = remote);
      if (remote?.state === "paid") await contextOf(provider).book(id, remote.money);
      if (remote?.state === "unknown" || remote?.state === "processing") {
        throw new Refusal("conflict", "the provider does not say whether the payment can still be paid; try again");
      }
    }
    const result = await storage.change(id, (current) => endPayment(current, "cancelled", clock.now()));
    if (result.state === "changed") {
      // What lives on at the provider is asked about: money that comes of it is booked.
      if (askAgainMs !== undefined) await storage.scheduleCheck(id, { delayMs: askAgainMs });
      wake();
      return result.payment;
    }
    const current = await ownPayment(merchant, id);
    if (current.status === "cancelled") return current;
    throw new Refusal(
      "conflict",
      current.paidMinor > 0n ? "the payment has money: refund it instead" : `the payment is already ${current.status}`,
    );
  };
}
