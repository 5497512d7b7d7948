import {
  type Clock,
  ConfigError,
  type FetchHandler,
  type Logger,
  redactingLogger,
  systemClock,
} from "@orderbridge/core";
import { toStandardSecret } from "@orderbridge/core/signature";
import {
  bookMoney,
  endPayment,
  failAttempt,
  refundableMinor,
  rememberState,
  reserveRefund,
  settleRefund,
} from "./decisions.ts";
import { createDeliverer, defaultRetryDelaysMs } from "./delivery.ts";
import type { AdminOptions } from "./http/admin-session.ts";
import { createHttpSurface } from "./http/surface.ts";
import { isId, randomId } from "./ids.ts";
import { type Currency, formatAmount } from "./money.ts";
import { type Payment, sums } from "./payment.ts";
import type { PaymentProvider, ProviderContext } from "./provider.ts";
import { Refusal } from "./refusal.ts";
import { createSender, type Sender, type SenderOptions } from "./sender.ts";
import type { DeliveryRecord, GatewayStorage, IdempotencyKey, PaymentFilter, Refund, UsedKey } from "./storage.ts";
import { createTokenRegistry, type StaticToken, type TokenRegistry } from "./tokens.ts";

export interface PaymentGatewayOptions {
  readonly storage: GatewayStorage;
  /** Ways to pay; the first one is used when a request names none. */
  readonly providers: readonly PaymentProvider[];
  /** Where payers and providers reach this gateway, e.g. `https://pay.example`. */
  readonly publicUrl: string;
  /** Tokens that exist by configuration; more are made with `tokens.create`. */
  readonly tokens?: readonly StaticToken[];
  /** Used when a request names no currency. @defaultValue "KZT" */
  readonly defaultCurrency?: Currency;
  /** Life of a payment when a request names none, in milliseconds. @defaultValue 3_600_000 */
  readonly lifeMs?: number;
  /** Pause after each failed try of a webhook, in milliseconds, with 20 % jitter; then it is given up. @defaultValue 5 s … 24 h */
  readonly retryDelaysMs?: readonly number[];
  /** Also send `X-Webhook-Event`, `X-Webhook-Timestamp` and `X-Webhook-Signature`. @defaultValue true */
  readonly seedHeaders?: boolean;
  /** Addresses that webhooks may or must not reach, deadline, size of the kept answer. */
  readonly webhooks?: Omit<SenderOptions, "clock">;
  /** Tries that run at the same time. @defaultValue 32 */
  readonly concurrency?: number;
  /** Of these, at one receiver (one origin). @defaultValue 8 */
  readonly concurrencyPerReceiver?: number;
  /** Pause between two looks for due work, in milliseconds. New events of this process are sent at once. @defaultValue 500 */
  readonly pollIntervalMs?: number;
  /** After a start nothing expires for so long, in milliseconds: providers may have called while we were down. @defaultValue 120_000 */
  readonly expiryHoldMs?: number;
  /** Switches `/admin` on. */
  readonly admin?: AdminOptions;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
  /** Uniform in [0, 1), for the jitter. @defaultValue Math.random */
  readonly random?: () => number;
}

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

/** A request that may be repeated: the same key gives the same result, another fingerprint is refused. */
export interface RequestKey {
  readonly key: string;
  readonly fingerprint: string;
}

export interface CreatedPayment {
  readonly payment: Payment;
  readonly paymentUrl: string;
  /** The signing secret in the form that Standard Webhooks libraries take; only when there is a webhook address. */
  readonly webhookSecret?: string;
}

/** Every method works on payments of one merchant and treats those of others as not existing. */
export interface Payments {
  /** @throws {Refusal} naming the field that is wrong. */
  create(request: CreatePaymentRequest): Promise<CreatedPayment>;
  get(merchant: string, id: string): Promise<Payment | undefined>;
  /** Payments of a filter, the newest first; go on with the last one as `after`. */
  list(merchant: string, filter?: Omit<PaymentFilter, "merchant">, limit?: number): Promise<readonly Payment[]>;
  /** Ends a payment that has no money. @throws {Refusal} when it has, or has ended otherwise. */
  cancel(merchant: string, id: string): Promise<Payment>;
  /** Gives money back; without `amountMinor` everything that is left. A `pending` refund settles by itself. */
  refund(request: {
    readonly merchant: string;
    readonly id: string;
    readonly amountMinor?: bigint | undefined;
    readonly idempotency?: RequestKey | undefined;
  }): Promise<{ readonly payment: Payment; readonly refund: Refund }>;
  /** Webhook bodies after a cursor, without gaps. `after` is empty or a former `next`. */
  events(
    merchant: string,
    after: string,
    limit?: number,
  ): Promise<{ readonly bodies: readonly string[]; readonly next: string }>;
  /** Sends the webhook of an event again: same id, same bytes. */
  resend(merchant: string, eventId: string): Promise<void>;
  deliveries(merchant: string, id: string): Promise<readonly DeliveryRecord[]>;
}

export interface PaymentGateway {
  /** The whole HTTP surface: `/api`, `/pay`, `/providers`, `/docs`, `/openapi.json`, `/admin`. */
  readonly handle: FetchHandler;
  readonly payments: Payments;
  readonly tokens: Pick<TokenRegistry, "create" | "revoke">;
  /** Does everything that is due now and resolves when it is done: for cron calls and tests. */
  work(): Promise<void>;
  /** Works until `signal` is aborted, then lets tries in flight end. Several processes may run at the same time. */
  run(signal: AbortSignal): Promise<void>;
  /** Closes connections to receivers. */
  close(): Promise<void>;
}

/** Provider calls of one request end in this time; then another request with the same key may take the work over. */
const workMs = 60_000;
/** How long a refund may be open before it is asked about again. */
const refundPatienceMs = 30_000;

/** A payment centre in this process: API, pay page, provider callbacks, signed webhooks. */
export function createPaymentGateway(options: PaymentGatewayOptions): PaymentGateway {
  const {
    storage,
    providers,
    defaultCurrency = "KZT",
    lifeMs = 3_600_000,
    retryDelaysMs = defaultRetryDelaysMs,
    seedHeaders = true,
    webhooks = {},
    concurrency = 32,
    concurrencyPerReceiver = 8,
    pollIntervalMs = 500,
    expiryHoldMs = 120_000,
    clock = systemClock,
    random = Math.random,
  } = options;
  const publicUrl = options.publicUrl.replace(/\/+$/, "");
  if (!URL.canParse(publicUrl))
    throw new ConfigError("publicUrl must be an absolute address, e.g. https://pay.example");
  if (!(pollIntervalMs > 0)) throw new ConfigError("pollIntervalMs must be positive");
  if (!(concurrency >= 1)) throw new ConfigError("concurrency must be at least 1");
  if (!(concurrencyPerReceiver >= 1)) throw new ConfigError("concurrencyPerReceiver must be at least 1");
  if (retryDelaysMs.some((delayMs) => !(delayMs >= 0))) throw new ConfigError("retryDelaysMs must not be negative");
  const logger = redactingLogger(options.logger ?? console);
  const byName = readProviders(providers);
  const tokens = createTokenRegistry({ storage, clock, tokens: options.tokens ?? [] });
  const sender: Sender = createSender({ ...webhooks, clock });
  const deliverer = createDeliverer({
    storage,
    sender,
    clock,
    logger,
    retryDelaysMs,
    concurrencyPerReceiver,
    claimMs: (webhooks.timeoutMs ?? 15_000) * 2 + 15_000,
    seedHeaders,
    random,
  });
  const payUrl = (id: string): string => `${publicUrl}/pay/${id}`;

  /** Tells the loop of this process that there is something to send. */
  let wake: () => void = () => undefined;

  const findPayment = async (id: string): Promise<Payment | undefined> =>
    isId(id) ? storage.getPayment(id) : undefined;

  async function ownPayment(merchant: string, id: string): Promise<Payment> {
    const payment = await findPayment(id);
    if (payment?.merchant !== merchant) throw new Refusal("not_found", "there is no such payment");
    return payment;
  }

  const providerOf = (payment: Payment): PaymentProvider | undefined => byName.get(payment.provider);

  const toKey = (
    merchant: string,
    idempotency: RequestKey | undefined,
    resourceId: string,
    forMs: number,
  ): IdempotencyKey | undefined => idempotency && { merchant, ...idempotency, resourceId, workMs: forMs };

  async function create(request: CreatePaymentRequest): Promise<CreatedPayment> {
    const {
      merchant,
      amountMinor,
      description = "",
      webhookUrl,
      webhookSecret,
      metadata = "{}",
      idempotency,
    } = request;
    const provider = byName.get(request.provider ?? (providers[0] as PaymentProvider).name);
    if (!provider) {
      throw new Refusal("invalid", `is not one of ${[...byName.keys()].join(", ")}`, "provider");
    }
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
    if (webhookSecret !== undefined && !isSecret(webhookSecret)) {
      throw new Refusal(
        "invalid",
        "must be text of 8 to 256 characters; after whsec_ it must be base64",
        "webhook_secret",
      );
    }
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
    const key = toKey(merchant, idempotency, payment.id, provider.start ? workMs : 0);
    const result = await storage.createPayment(payment, key);
    if (result.state === "created") return describe(await startAtProvider(provider, payment, idempotency));
    const stored = await ownPayment(merchant, resourceOf(result.key));
    if (result.key.state === "done") return describe(stored);
    return describe(await startAtProvider(provider, stored, idempotency));
  }

  /** The provider's part of creating. Repeated with the same payment after a crash, never with a second one. */
  async function startAtProvider(
    provider: PaymentProvider,
    payment: Payment,
    idempotency: RequestKey | undefined,
  ): Promise<Payment> {
    if (!provider.start) return payment;
    try {
      const started = await provider.start(payment, {
        nextNumber: () => storage.nextNumber(`provider:${provider.name}`),
      });
      const result = await storage.change(payment.id, (current) => ({ payment: { ...current, ...started } }));
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

  async function cancel(merchant: string, id: string): Promise<Payment> {
    const payment = await ownPayment(merchant, id);
    if (payment.status === "cancelled") return payment;
    const provider = providerOf(payment);
    if (provider?.cancel && payment.paidMinor === 0n) {
      const remote = await provider.cancel(payment, contextOf(provider));
      if (remote.state === "paid") await contextOf(provider).book(id, remote.money);
      if (remote.state === "unknown") {
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
  }

  const refund: Payments["refund"] = async ({ merchant, id, amountMinor, idempotency }) => {
    const payment = await ownPayment(merchant, id);
    const provider = providerOf(payment);
    if (!provider?.refund) throw new Refusal("conflict", `${payment.provider} cannot refund; do it in its own cabinet`);
    if (amountMinor !== undefined && amountMinor <= 0n)
      throw new Refusal("invalid", "must be more than zero", "amount");
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
      toKey(merchant, idempotency, refundId, 0),
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
  };

  /** Asks the provider about an open refund; its key makes a repeated question harmless. */
  async function settle(open: Refund | undefined): Promise<Refund> {
    if (!open) throw new Refusal("not_found", "there is no such refund");
    const payment = await storage.getPayment(open.paymentId);
    const provider = payment && providerOf(payment);
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

  const payments: Payments = {
    create,
    async get(merchant, id) {
      const payment = await findPayment(id);
      return payment?.merchant === merchant ? payment : undefined;
    },
    list: (merchant, filter = {}, limit = 100) => storage.listPayments({ ...filter, merchant }, limit),
    cancel,
    refund,
    async events(merchant, after, limit = 100) {
      if (!/^\d{0,15}$/.test(after)) throw new Refusal("invalid", 'must be empty or a former "next"', "after");
      const found = await storage.eventsAfter(merchant, Number(after), limit);
      return { bodies: found.map(({ body }) => body), next: String(found.at(-1)?.position ?? Number(after)) };
    },
    async resend(merchant, eventId) {
      const event = isId(eventId) ? await storage.getEvent(eventId) : undefined;
      if (event?.merchant !== merchant) throw new Refusal("not_found", "there is no such event");
      if ((await storage.redeliver(eventId)) === 0) {
        throw new Refusal("conflict", "the payment has no webhook address");
      }
      wake();
    },
    async deliveries(merchant, id) {
      await ownPayment(merchant, id);
      return storage.deliveriesOf(id);
    },
  };

  const contextOf = (provider: PaymentProvider): ProviderContext => {
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
      async cancelled(id) {
        if (!(await own(id))) return;
        const result = await storage.change(id, (current) => endPayment(current, "cancelled", clock.now()));
        if (result.state === "changed") wake();
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
      async failed(id) {
        if (await own(id)) await storage.change(id, (current) => failAttempt(current, clock.now()));
      },
    };
  };

  /** Asks the provider a last time; while it does not know, or money may still come, nothing expires. */
  async function expire(id: string): Promise<void> {
    const payment = await storage.getPayment(id);
    const provider = payment && providerOf(payment);
    if (!payment) return;
    if (provider?.state) {
      const remote = await provider.state(payment, contextOf(provider)).catch(() => ({ state: "unknown" as const }));
      if (remote.state === "unknown") return;
      if (remote.state === "paid") {
        await contextOf(provider).book(id, remote.money);
        return;
      }
    }
    await storage.change(id, (current) => endPayment(current, "expired", clock.now()));
  }

  const startedMs = clock.monotonicMs();

  /** One that fails does not hold up the others. */
  async function each<Item>(
    what: string,
    items: readonly Item[],
    job: (item: Item) => Promise<unknown>,
  ): Promise<void> {
    for (const item of items) {
      try {
        await job(item);
      } catch (error) {
        logger.error(`${what} failed and will be repeated`, { error });
      }
    }
  }

  async function expireDue(): Promise<void> {
    if (clock.monotonicMs() - startedMs < expiryHoldMs) return;
    await each("expiring a payment", await storage.dueForExpiry(100), expire);
  }

  async function settleOpenRefunds(): Promise<void> {
    await each("settling a refund", await storage.openRefunds(refundPatienceMs, 20), settle);
  }

  async function chores(): Promise<void> {
    await expireDue();
    await settleOpenRefunds();
  }

  return {
    handle: createHttpSurface({
      payments,
      tokens,
      providers: byName,
      contextOf,
      findPayment,
      publicUrl,
      logger,
      storage,
      clock,
      admin: options.admin,
    }),
    payments,
    tokens,
    async work() {
      await chores();
      for (;;) {
        const started = await deliverer.start(concurrency);
        if (started.length === 0) return;
        await Promise.all(started);
      }
    },
    async run(signal) {
      const inFlight = new Set<Promise<unknown>>();
      // When a try of this process is to be repeated, in monotonic time: the loop need not wait for its next look.
      let repeatAtMs = Number.POSITIVE_INFINITY;
      const attempt = async (what: string, job: () => Promise<void>): Promise<void> => {
        try {
          await job();
        } catch (error) {
          logger.error(`${what} failed and will be repeated`, { error });
        }
      };
      const deliverDue = async (): Promise<void> => {
        while (!signal.aborted && inFlight.size < concurrency) {
          const started = await deliverer.start(concurrency - inFlight.size);
          if (started.length === 0) return;
          for (const delivery of started) {
            const done = delivery.then((delayMs) => {
              inFlight.delete(done);
              if (delayMs !== undefined) repeatAtMs = Math.min(repeatAtMs, clock.monotonicMs() + delayMs);
              wake(); // the next event of the payment may be waiting behind this one
            });
            inFlight.add(done);
          }
        }
      };
      let nextChoresMs = Number.NEGATIVE_INFINITY;
      while (!signal.aborted) {
        const { promise: woken, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        if (clock.monotonicMs() >= repeatAtMs) repeatAtMs = Number.POSITIVE_INFINITY;
        await attempt("delivering webhooks", deliverDue);
        if (clock.monotonicMs() >= nextChoresMs) {
          await attempt("expiry and refunds", chores);
          nextChoresMs = clock.monotonicMs() + pollIntervalMs;
        }
        const nap = new AbortController();
        const stop = () => nap.abort();
        signal.addEventListener("abort", stop, { once: true });
        if (signal.aborted) stop();
        const napMs = Math.max(1, Math.min(pollIntervalMs, repeatAtMs - clock.monotonicMs()));
        await Promise.race([woken, clock.sleep(napMs, nap.signal).catch(() => undefined)]);
        signal.removeEventListener("abort", stop);
        nap.abort();
      }
      await Promise.all(inFlight);
    },
    close: () => sender.close(),
  };
}

function readProviders(providers: readonly PaymentProvider[]): ReadonlyMap<string, PaymentProvider> {
  if (providers.length === 0) throw new ConfigError("providers: at least one is needed");
  const byName = new Map<string, PaymentProvider>();
  for (const provider of providers) {
    if (!/^[a-z0-9-]+$/.test(provider.name)) {
      throw new ConfigError(`providers: the name "${provider.name}" may hold a-z, 0-9 and - only`);
    }
    if (byName.has(provider.name)) throw new ConfigError(`providers: "${provider.name}" is there twice`);
    byName.set(provider.name, provider);
  }
  return byName;
}

/** The payment or refund of a key that was used before; the other states are refusals. */
function resourceOf(key: UsedKey): string {
  if (key.state === "mismatch") {
    throw new Refusal("key_reused", "the Idempotency-Key was used with another request; make a new one");
  }
  if (key.state === "running") throw new Refusal("in_flight", "a request with this Idempotency-Key is at work; wait");
  return key.resourceId;
}

function isSecret(secret: string): boolean {
  if (secret.length < 8 || secret.length > 256 || !secret.isWellFormed() || /\p{Cc}/u.test(secret)) return false;
  if (secret.startsWith("enc1.")) return false; // how an encrypted value begins in the database
  return !secret.startsWith("whsec_") || /^[A-Za-z0-9+/]+={0,2}$/.test(secret.slice(6));
}
