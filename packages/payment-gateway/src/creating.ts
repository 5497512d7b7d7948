import { toStandardSecret } from "@orderbridge/core/signature";
import * as v from "valibot";
import { type Engine, type RequestKey, resourceOf, toStorageKey } from "./engine.ts";
import { randomId } from "./ids.ts";
import { type Currency, formatAmount } from "./money.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider } from "./provider.ts";
import { Refusal } from "./refusal.ts";
import { webhookSecret as webhookSecretSchema } from "./schemas.ts";
import type { Sender } from "./sender.ts";

export interface CreatePaymentRequest {
  readonly merchant: string;
  readonly amountMinor: bigint;
  readonly currency?: Currency | undefined;
  readonly description?: string | undefined;
  readonly webhookUrl?: string | undefined;
  /** `whsec_…` or any text. Left out: the merchant's own secret signs. */
  readonly webhookSecret?: string | undefined;
  /** JSON text of an object. */
  readonly metadata?: string | undefined;
  readonly returnUrl?: string | undefined;
  readonly lifeMs?: number | undefined;
  readonly provider?: string | undefined;
  readonly idempotency?: RequestKey | undefined;
}

export interface CreatedPayment {
  readonly payment: Payment;
  readonly paymentUrl: string;
  /** The signing secret in the form that Standard Webhooks libraries take; only when there is a webhook address. */
  readonly webhookSecret?: string;
}

/** Provider calls of one request end in this time; then another request with the same key may take the work over. */
const workMs = 60_000;

/** @throws {Refusal} for a secret that cannot sign. */
export function checkSecret(secret: string, field: string): void {
  const { issues } = v.safeParse(webhookSecretSchema, secret);
  if (issues) throw new Refusal("invalid", issues[0].message, field);
}

export function createCreation({
  engine,
  sender,
  payUrl,
  defaultCurrency,
  lifeMs,
}: {
  readonly engine: Engine;
  readonly sender: Pick<Sender, "refuse">;
  readonly payUrl: (id: string) => string;
  readonly defaultCurrency: Currency;
  readonly lifeMs: number;
}): (request: CreatePaymentRequest) => Promise<CreatedPayment> {
  const { storage, clock, logger, providers, ownPayment } = engine;
  const [first] = providers.keys();

  /** @throws {Refusal} naming the field that is wrong. */
  function check(request: CreatePaymentRequest): { readonly provider: PaymentProvider; readonly currency: Currency } {
    const { amountMinor, webhookUrl, webhookSecret } = request;
    const provider = providers.get(request.provider ?? first ?? "");
    if (!provider) throw new Refusal("invalid", `is not one of ${[...providers.keys()].join(", ")}`, "provider");
    const currency = request.currency ?? defaultCurrency;
    const rule = provider.currencies[currency];
    if (!rule) {
      const known = Object.keys(provider.currencies).join(", ");
      throw new Refusal("invalid", `is not taken by ${provider.name}; use ${known}`, "currency");
    }
    if (amountMinor <= 0n) throw new Refusal("invalid", "must be more than zero", "amount");
    if (amountMinor % rule.stepMinor !== 0n) {
      const step = formatAmount(rule.stepMinor);
      throw new Refusal("invalid", `must be a multiple of ${step}, the smallest step of ${provider.name}`, "amount");
    }
    const problem = webhookUrl === undefined ? undefined : sender.refuse(webhookUrl);
    if (problem !== undefined) throw new Refusal("invalid", problem, "webhook_url");
    if (webhookSecret !== undefined) checkSecret(webhookSecret, "webhook_secret");
    return { provider, currency };
  }

  /** The provider's part of creating. Repeated with the same payment after a crash, never with a second one. */
  async function startAtProvider(
    provider: PaymentProvider,
    payment: Payment,
    idempotency: RequestKey | undefined,
  ): Promise<Payment> {
    if (!provider.start) return payment;
    try {
      const { askAfterMs, ...started } = await provider.start(payment, {
        nextNumber: () => storage.nextNumber(`provider:${provider.name}`),
      });
      const result = await storage.change(payment.id, (current) => ({ payment: { ...current, ...started } }));
      if (askAfterMs !== undefined) await storage.scheduleCheck(payment.id, { delayMs: askAfterMs });
      if (idempotency) await storage.finishKey(payment.merchant, idempotency.key);
      return result.state === "changed" ? result.payment : payment;
    } catch (error) {
      if (idempotency) await storage.releaseKey(payment.merchant, idempotency.key);
      logger.error("provider could not start a payment", { payment: payment.id, provider: provider.name, error });
      throw new Refusal("provider_failed", "the provider did not start the payment; repeat with the same key");
    }
  }

  const merchantSecret = (merchant: string): Promise<string> =>
    storage.merchantSecret(merchant, toStandardSecret(randomId()));

  async function describe(payment: Payment): Promise<CreatedPayment> {
    const paymentUrl = payUrl(payment.id);
    if (payment.webhookUrl === undefined) return { payment, paymentUrl };
    const secret = payment.webhookSecret ?? (await merchantSecret(payment.merchant));
    return { payment, paymentUrl, webhookSecret: toStandardSecret(secret) };
  }

  return async (request) => {
    const {
      merchant,
      amountMinor,
      description = "",
      webhookUrl,
      webhookSecret,
      metadata = "{}",
      idempotency,
    } = request;
    const { provider, currency } = check(request);
    const now = clock.now();
    const payment: Payment = {
      id: randomId(),
      merchant,
      provider: provider.name,
      status: "pending",
      currency,
      amountMinor,
      paidMinor: 0n,
      refundedMinor: 0n,
      refundingMinor: 0n,
      description,
      metadata,
      ...(webhookUrl === undefined ? {} : { webhookUrl }),
      ...(webhookSecret === undefined ? {} : { webhookSecret }),
      ...(request.returnUrl === undefined ? {} : { returnUrl: request.returnUrl }),
      late: false,
      test: provider.test ?? false,
      sequence: 0,
      createdAt: now,
      updatedAt: now,
      expiresAt: new Date(now.getTime() + (request.lifeMs ?? lifeMs)),
      version: 1,
    };
    // The secret must exist before the payment: nothing goes out unsigned.
    if (webhookUrl !== undefined && webhookSecret === undefined) await merchantSecret(merchant);
    const key = toStorageKey(merchant, idempotency, payment.id, provider.start ? workMs : 0);
    const result = await storage.createPayment(payment, key);
    if (result.state === "created") return describe(await startAtProvider(provider, payment, idempotency));
    const stored = await ownPayment(merchant, resourceOf(result.key));
    if (result.key.state === "done") return describe(stored);
    return describe(await startAtProvider(provider, stored, idempotency));
  };
}
