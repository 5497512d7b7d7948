import { refundableMinor, reserveRefund, settleRefund } from "./decisions.ts";
import { createDueWork, type DueWork } from "./due-work.ts";
import { type Engine, type RequestKey, resourceOf, toStorageKey } from "./engine.ts";
import { randomId } from "./ids.ts";
import { formatAmount } from "./money.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext } from "./provider.ts";
import { Refusal } from "./refusal.ts";
import { type Refund, refundPatienceMs } from "./storage.ts";

export interface RefundRequest {
  readonly merchant: string;
  readonly id: string;
  /** Left out: everything that is left. */
  readonly amountMinor?: bigint | undefined;
  readonly idempotency?: RequestKey | undefined;
}

export interface RefundResult {
  readonly payment: Payment;
  readonly refund: Refund;
}

export function createRefunds(
  engine: Engine,
  contextOf: (provider: PaymentProvider) => ProviderContext,
  timeoutMs: number,
): {
  refund(request: RefundRequest): Promise<RefundResult>;
  settleByHand(merchant: string, id: string, refundId: string, outcome: "succeeded" | "failed"): Promise<RefundResult>;
  /** Asks about refunds whose outcome has been open for a while, each provider's on their own. */
  readonly due: readonly DueWork[];
} {
  const { storage, clock, logger, providers, wake, ownPayment } = engine;
  /** A question that may still be under way is not asked again. */
  const patienceMs = Math.max(refundPatienceMs, timeoutMs);

  /** Asks the provider about an open refund; its key makes a repeated question harmless. */
  async function settle(open: Refund | undefined): Promise<Refund> {
    if (!open) throw new Refusal("not_found", "there is no such refund");
    const payment = await storage.getPayment(open.paymentId);
    const provider = payment && providers.get(payment.provider);
    if (!payment || !provider?.refund || open.status !== "pending") return open;
    const status = await provider
      .refund({ payment, amountMinor: open.amountMinor, key: open.id, context: contextOf(provider) })
      .catch((error: unknown) => {
        logger.warn("outcome of a refund is not known yet", { refund: open.id, provider: provider.name, error });
        return "pending" as const;
      });
    if (status === "pending") return open;
    // Two processes may have asked; the store keeps the first answer.
    await storage.change(open.paymentId, (current) => settleRefund(current, open, status, clock.now()));
    wake();
    return (await storage.getRefund(open.id)) ?? open;
  }

  return {
    async refund({ merchant, id, amountMinor, idempotency }) {
      const payment = await ownPayment(merchant, id);
      const provider = providers.get(payment.provider);
      if (!provider?.refund) {
        throw new Refusal("conflict", `${payment.provider} cannot refund; do it in its own cabinet`);
      }
      if (amountMinor !== undefined && amountMinor <= 0n) {
        throw new Refusal("invalid", "must be more than zero", "amount");
      }
      const { stepMinor = 1n } = provider.currencies[payment.currency] ?? {};
      if (amountMinor !== undefined && amountMinor % stepMinor !== 0n) {
        const step = formatAmount(stepMinor);
        throw new Refusal("invalid", `must be a multiple of ${step}, the smallest step of ${provider.name}`, "amount");
      }
      const now = clock.now();
      const refundId = randomId("re_");
      const result = await storage.change(
        id,
        (current) => {
          const sumMinor = amountMinor ?? refundableMinor(current);
          if (sumMinor <= 0n) return undefined;
          return reserveRefund(current, {
            id: refundId,
            paymentId: id,
            amountMinor: sumMinor,
            status: "pending",
            createdAt: now,
            updatedAt: now,
          });
        },
        toStorageKey(merchant, idempotency, refundId, 0),
      );
      if (result.state === "key_used") {
        const stored = await storage.getRefund(resourceOf(result.key));
        if (stored?.paymentId !== id) throw new Refusal("key_reused", "the key was used for another request");
        return { payment: result.payment, refund: stored };
      }
      if (result.state !== "changed") {
        const left = formatAmount(refundableMinor(await ownPayment(merchant, id)));
        throw new Refusal("conflict", `no more than ${left} can be refunded`);
      }
      const settled = await settle(await storage.getRefund(refundId));
      return { payment: await ownPayment(merchant, id), refund: settled };
    },

    async settleByHand(merchant, id, refundId, outcome) {
      const payment = await ownPayment(merchant, id);
      const open = await storage.getRefund(refundId);
      if (open?.paymentId !== id) throw new Refusal("not_found", "there is no such refund");
      const provider = providers.get(payment.provider);
      const context = provider && contextOf(provider);
      const isWritten =
        context && open.status === "pending"
          ? await provider.settleRefund?.({ payment, key: refundId, outcome, context })
          : false;
      if (!isWritten) throw new Refusal("conflict", "the outcome of this refund is not waiting for a person");
      const refund = await settle(open);
      return { payment: await ownPayment(merchant, id), refund };
    },

    due: [...providers.values()]
      .filter(({ refund }) => refund)
      .map(({ name: provider, refundPauseMs }) =>
        createDueWork<Refund>(engine, {
          name: `gateway refunds ${provider}`,
          claim: (limit) =>
            storage.claimRefunds({
              provider,
              limit,
              ttlMs: patienceMs,
              ...(refundPauseMs === undefined ? {} : { maxPauseMs: Math.max(patienceMs, refundPauseMs) }),
            }),
          beginMs: Number.POSITIVE_INFINITY,
          id: ({ id }) => id,
          // Whoever was asked to make it may still be waiting for the first answer.
          work: async (open) => clock.now().getTime() - open.createdAt.getTime() < timeoutMs || settle(open),
        }),
      ),
  };
}
