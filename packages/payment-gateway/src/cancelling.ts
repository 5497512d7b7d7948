import { endPayment } from "./decisions.ts";
import type { Engine } from "./engine.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext } from "./provider.ts";
import { Refusal } from "./refusal.ts";

/** Ends a payment that has no money. The provider is asked first, and money wins. */
export function createCancellation(
  { storage, clock, providers, wake, ownPayment }: Engine,
  contextOf: (provider: PaymentProvider) => ProviderContext,
): (merchant: string, id: string) => Promise<Payment> {
  return async (merchant, id) => {
    const payment = await ownPayment(merchant, id);
    if (payment.status === "cancelled") return payment;
    const provider = providers.get(payment.provider);
    if (provider?.cancel && payment.paidMinor === 0n) {
      const remote = await provider.cancel(payment, contextOf(provider));
      if (remote.state === "paid") await contextOf(provider).book(id, remote.money);
      if (remote.state === "unknown" || remote.state === "processing") {
        throw new Refusal("conflict", "the provider does not say whether the payment can still be paid; try again");
      }
    }
    const result = await storage.change(id, (current) => endPayment(current, "cancelled", clock.now()));
    if (result.state === "changed") {
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
