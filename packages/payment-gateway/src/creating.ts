import { toStandardSecret } from "@orderbridge/core/signature";
import * as v from "valibot";
import { type Engine, type RequestKey, resourceOf, toStorageKey } from "./engine.ts";
import { parseExactJson } from "./exact-json.ts";
import { randomId } from "./ids.ts";
import { type Currency, formatAmount, maxAmountMinor } from "./money.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider } from "./provider.ts";
import { Refusal } from "./refusal.ts";
import { createInitRequest, webhookSecret as webhookSecretSchema } from "./schemas.ts";
import type { Sender } from "./sender.ts";
import { isMerchant } from "./tokens.ts";

export interface CreatePaymentRequest {
  /** 1 to 100 characters. */
  readonly merchant: string;
  readonly amountMinor: bigint;
  readonly currency?: Currency | undefined;
  /** At most 500 characters. */
  readonly description?: string | undefined;
  readonly webhookUrl?: string | undefined;
  /** `whsec_…` or any text. Left out: the merchant's own secret signs. */
  readonly webhookSecret?: string | undefined;
  /** JSON text of an object, with the limits of the API: 50 keys, 5 levels, 8 192 bytes. */
  readonly metadata?: string | undefined;
  readonly returnUrl?: string | undefined;
  /** Whole milliseconds, at most 30 days. */
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

/** Then another request with the same key may take the work over; calls to providers end before. */
const workMs = 60_000;

export const maxLifeMs = 30 * 86_400_000;

/** @throws {Refusal} naming the field. */
function read<Schema extends v.GenericSchema>(schema: Schema, value: unknown, field: string): v.InferOutput<Schema> {
  const { success, output, issues } = v.safeParse(schema, value);
  if (!success) throw new Refusal("invalid", issues[0].message, field);
  return output;
}

function parseMetadata(text: string): unknown {
  try {
    return parseExactJson(text);
  } catch {
    throw new Refusal("invalid", "must be the JSON text of an object", "metadata");
  }
}

/** @throws {Refusal} for a secret that cannot sign. */
export function checkSecret(secret: string, field: string): void {
  read(webhookSecretSchema, secret, field);
}

/** Whether the provider's part is done, and its outcome stored. */
const isStarted = ({ session, account }: Payment): boolean => session !== undefined || account !== undefined;

export function createCreation({
  engine,
  sender,
  payUrl,
  defaultCurrency,
  lifeMs,
  providersOf,
}: {
  readonly engine: Engine;
  readonly sender: Pick<Sender, "refuse">;
  readonly payUrl: (id: string) => string;
  readonly defaultCurrency: Currency;
  readonly lifeMs: number;
  readonly providersOf: ((merchant: string) => readonly string[]) | undefined;
}): (request: CreatePaymentRequest) => Promise<CreatedPayment> {
  const { storage, clock, logger, providers, ownPayment } = engine;
  const fields = createInitRequest({ providers: [...providers.keys()], currency: defaultCurrency, lifeMs }).entries;

  /**
   * Callers in code are held to what the API allows: a payment that cannot be stored or told exactly is not made.
   *
   * @throws {Refusal} naming the field that is wrong.
   */
  function check(request: CreatePaymentRequest): {
    readonly provider: PaymentProvider;
    readonly currency: Currency;
    readonly description: string;
    readonly metadata: string;
    readonly returnUrl: string | undefined;
  } {
    const { merchant, amountMinor, webhookUrl, webhookSecret, lifeMs: ownLifeMs = lifeMs } = request;
    if (!isMerchant(merchant)) throw new Refusal("invalid", "must have 1 to 100 characters", "merchant");
    const names = providersOf?.(merchant) ?? [...providers.keys()];
    if (names.length === 0) throw new Refusal("conflict", "this merchant has no provider", "provider");
    const name = request.provider ?? names[0] ?? "";
    const provider = names.includes(name) ? providers.get(name) : undefined;
    if (!provider) throw new Refusal("invalid", `is not one of ${names.join(", ")}`, "provider");
    const currency = request.currency ?? defaultCurrency;
    const rule = provider.currencies[currency];
    if (!rule) {
      const known = Object.keys(provider.currencies).join(", ");
      throw new Refusal("invalid", `is not taken by ${provider.name}; use ${known}`, "currency");
    }
    if (amountMinor <= 0n) throw new Refusal("invalid", "must be more than zero", "amount");
    if (amountMinor > maxAmountMinor) {
      throw new Refusal("invalid", `must be at most ${formatAmount(maxAmountMinor)}`, "amount");
    }
    if (amountMinor % rule.stepMinor !== 0n) {
      const step = formatAmount(rule.stepMinor);
      throw new Refusal("invalid", `must be a multiple of ${step}, the smallest step of ${provider.name}`, "amount");
    }
    const problem = webhookUrl === undefined ? undefined : sender.refuse(webhookUrl);
    if (problem !== undefined) throw new Refusal("invalid", problem, "webhook_url");
    if (webhookSecret !== undefined) checkSecret(webhookSecret, "webhook_secret");
    if (!(Number.isInteger(ownLifeMs) && ownLifeMs >= 1 && ownLifeMs <= maxLifeMs)) {
      throw new Refusal("invalid", "must be from a millisecond to 30 days", "expires_in");
    }
    return {
      provider,
      currency,
      description: read(fields.description, request.description, "description") ?? "",
      metadata:
        request.metadata === undefined
          ? "{}"
          : (read(fields.metadata, parseMetadata(request.metadata), "metadata") ?? "{}"),
      returnUrl: read(fields.return_url, request.returnUrl, "return_url"),
    };
  }

  /**
   * Stores what the provider has prepared. The first outcome stays: its account or session may have been told already. For
   * a payment that has ended nothing is prepared.
   */
  async function storeStart(provider: PaymentProvider, payment: Payment): Promise<Payment> {
    if (!provider.start || isStarted(payment) || payment.status !== "pending") return payment;
    const { askAfterMs, ...prepared } = await provider.start(payment, {
      nextNumber: () => storage.nextNumber(`provider:${provider.name}`),
    });
    const result = await storage.change(payment.id, (current) =>
      isStarted(current)
        ? undefined
        : {
            payment: { ...current, ...prepared },
            ...(askAfterMs === undefined ? {} : { checkInMs: askAfterMs }),
          },
    );
    return "payment" in result ? result.payment : payment;
  }

  /** The provider's part of creating. Repeated with the same payment after a crash, never with a second one. */
  async function startAtProvider(
    provider: PaymentProvider,
    payment: Payment,
    idempotency: RequestKey | undefined,
    workEndsMs: number,
  ): Promise<Payment> {
    try {
      const started = await storeStart(provider, payment);
      if (idempotency) await storage.finishKey(payment.merchant, idempotency.key);
      return started;
    } catch (error) {
      // After that time the key may be another's, who must not be disturbed; then it is free anyway.
      const isOurs = clock.monotonicMs() < workEndsMs;
      if (idempotency && isOurs) await storage.releaseKey(payment.merchant, idempotency.key);
      logger.error("provider could not start a payment", { payment: payment.id, provider: provider.name, error });
      throw new Refusal("provider_failed", "the provider did not start the payment; repeat with the same key");
    }
  }

  const merchantSecret = (merchant: string): Promise<string> =>
    storage.merchantSecret(merchant, toStandardSecret(randomId()));

  /** A repeated request is the same one, so its secret is that of the payment. */
  async function describe(payment: Payment, ownSecret: string | undefined): Promise<CreatedPayment> {
    const paymentUrl = payUrl(payment.id);
    if (payment.webhookUrl === undefined) return { payment, paymentUrl };
    const secret = ownSecret ?? (await merchantSecret(payment.merchant));
    return { payment, paymentUrl, webhookSecret: toStandardSecret(secret) };
  }

  return async (request) => {
    const { merchant, amountMinor, webhookUrl, webhookSecret, idempotency } = request;
    const { provider, currency, description, metadata, returnUrl } = check(request);
    const now = clock.now();
    const keyWorkMs = provider.start ? workMs : 0;
    const workEndsMs = clock.monotonicMs() + keyWorkMs;
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
      ...(returnUrl === undefined ? {} : { returnUrl }),
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
    const key = toStorageKey(merchant, idempotency, payment.id, keyWorkMs);
    const secret = webhookSecret === undefined ? {} : { webhookSecret };
    const result = await storage.createPayment({ ...payment, ...secret }, key);
    if (result.state === "created") {
      const started = provider.start ? await startAtProvider(provider, payment, idempotency, workEndsMs) : payment;
      return describe(started, webhookSecret);
    }
    const stored = await ownPayment(merchant, resourceOf(result.key));
    if (result.key.state === "done") return describe(stored, webhookSecret);
    // Its own provider, which need not be the one that a request without a name would get now.
    const own = providers.get(stored.provider);
    if (!own) {
      if (idempotency) await storage.releaseKey(merchant, idempotency.key);
      throw new Refusal("conflict", `this server lacks the provider ${stored.provider}; repeat where it is configured`);
    }
    return describe(await startAtProvider(own, stored, idempotency, workEndsMs), webhookSecret);
  };
}
