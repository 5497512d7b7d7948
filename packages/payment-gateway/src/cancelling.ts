import { bookAnswer } from "./booking.ts";
import { endPayment, hasBegun } from "./decisions.ts";
import type { Engine } from "./engine.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext, ProviderState } from "./provider.ts";
import { Refusal } from "./refusal.ts";

/**
 * Ends a payment that has no money. The provider is asked first, to cancel or, where it cannot, for the state: money wins,
 * also money whose report was lost.
 */
export function createCancellation(
  engine: Engine,
  contextOf: (provider: PaymentProvider) => ProviderContext,
): (merchant: string, id: string) => Promise<Payment> {
  const { storage, clock, logger, providers, wake, ownPayment } = engine;

  async function ask(provider: PaymentProvider, payment: Payment): Promise<ProviderState | undefined> {
    try {
      return await (provider.cancel ?? provider.state)?.call(provider, payment, contextOf(provider));
    } catch (error) {
      logger.warn("the provider did not cancel a payment", { payment: payment.id, provider: provider.name, error });
      return { state: "unknown" };
    }
  }

  /** Resolves to `undefined` when the payer has begun since the provider was asked. */
  async function cancel(merchant: string, id: string): Promise<Payment | undefined> {
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
      if (remote?.state === "paid" && !(await bookAnswer(engine, contextOf(provider), payment, remote.money))) {
        throw new Refusal("conflict", "the provider has money for the payment that could not be booked");
      }
      if (remote?.state === "unknown" || remote?.state === "processing") {
        throw new Refusal("conflict", "the provider does not say whether the payment can still be paid; try again");
      }
    }
    const result = await storage.change(id, (current) => {
      const ended = hasBegun(provider, payment, current) ? undefined : endPayment(current, "cancelled", clock.now());
      // What lives on at the provider is asked about: money that comes of it is booked.
      return ended && askAgainMs !== undefined ? { ...ended, checkInMs: askAgainMs } : ended;
    });
    if (result.state === "changed") {
      wake();
      return result.payment;
    }
    const current = await ownPayment(merchant, id);
    if (current.status === "cancelled") return current;
    if (current.paidMinor > 0n) throw new Refusal("conflict", "the payment has money: refund it instead");
    if (hasBegun(provider, payment, current)) return undefined;
    throw new Refusal("conflict", `the payment is already ${current.status}`);
  }

  return async (merchant, id) => {
    for (let tries = 0; tries < 3; tries++) {
      const cancelled = await cancel(merchant, id);
      if (cancelled) return cancelled;
    }
    throw new Refusal("conflict", "the payer begins again and again; try again");
  };
}
