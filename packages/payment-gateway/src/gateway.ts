import {
  type Clock,
  ConfigError,
  type FetchHandler,
  type Job,
  type JobEngine,
  type Logger,
  redactingLogger,
  systemClock,
} from "@orderbridge/core";
import { createProviderContext } from "./booking.ts";
import { createCancellation } from "./cancelling.ts";
import { createChecks } from "./checks.ts";
import { type CreatedPayment, type CreatePaymentRequest, createCreation, maxLifeMs } from "./creating.ts";
import { createDeliverer, defaultBreaker, defaultRetryDelaysMs } from "./delivery.ts";
import { createWebhookEndpoints, type WebhookEndpoints } from "./endpoints.ts";
import { createEngine } from "./engine.ts";
import type { AdminOptions } from "./http/admin-session.ts";
import { createHttpSurface } from "./http/surface.ts";
import { isId } from "./ids.ts";
import { createMerchantSecrets, type MerchantSecrets } from "./merchant-secrets.ts";
import type { Currency } from "./money.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext } from "./provider.ts";
import { reportProviderHealth, watchProviders } from "./provider-health.ts";
import { createRefunds, type RefundRequest, type RefundResult } from "./refunds.ts";
import { Refusal } from "./refusal.ts";
import { createSender, type Sender, type SenderOptions } from "./sender.ts";
import type { BreakerRule, DeliveryRecord, GatewayStorage, PaymentFilter, Refund } from "./storage.ts";
import { createTokenRegistry, type StaticToken, type TokenRegistry } from "./tokens.ts";
import { createWorkLoop } from "./work-loop.ts";

export interface PaymentGatewayOptions {
  readonly storage: GatewayStorage;
  /** Ways to pay; the first one is used when a request names none. */
  readonly providers: readonly PaymentProvider[];
  /**
   * Names of the providers that a merchant may use, the first one when a request names none: so each merchant is paid into
   * its own account. None: this merchant can create no payment. Asked at each creation; what was created stays with its
   * provider. @defaultValue all of them
   */
  readonly providersOf?: (merchant: string) => readonly string[];
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
  /** Tries that run at the same time. @defaultValue 512 */
  readonly concurrency?: number;
  /** Of these, at one receiver (one origin). @defaultValue 8 */
  readonly concurrencyPerReceiver?: number;
  /**
   * Receivers that fail so often in a row are left alone for a while, each merchant's by origin; the schedule of their
   * webhooks waits meanwhile. @defaultValue 10 failures, 30 s, doubled up to 5 min
   */
  readonly breaker?: Partial<BreakerRule>;
  /**
   * What the daily clean-up deletes; `false` switches it off.
   * @defaultValue payments expired for 7 days (30 days where nobody took the webhook), idempotency keys after 30 days
   */
  readonly cleanUp?: Partial<CleanUpRule> | false;
  /**
   * Shares the chores (checks of payments, open refunds, clean-up) over the fleet: `createJobEngine` with leases, or
   * `createBullmqJobEngine`. Left out: each process does them, and claims in the storage keep them apart.
   */
  readonly jobs?: (jobs: readonly Job[]) => Pick<JobEngine, "run">;
  /** Pause between two looks for due work, in milliseconds. New events of this process are sent at once. @defaultValue 500 */
  readonly pollIntervalMs?: number;
  /**
   * After a start nothing expires for so long, in milliseconds: providers may have called while we were down. 0 where each
   * `work()` is a process of its own. @defaultValue 120_000
   */
  readonly expiryHoldMs?: number;
  /**
   * How long a question to a provider keeps other processes from asking it too, in milliseconds; more than
   * `providerTimeoutMs`. After a crash payments that were being asked about wait so long.
   * @defaultValue 10 s more than `providerTimeoutMs`
   */
  readonly checkClaimMs?: number;
  /**
   * What a provider has not answered in so long, in milliseconds, counts as not known, and its late answer is dropped; less
   * than 60_000. @defaultValue 30_000
   */
  readonly providerTimeoutMs?: number;
  /** Switches `/admin` on. */
  readonly admin?: AdminOptions;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
  /** Uniform in [0, 1), for the jitter. @defaultValue Math.random */
  readonly random?: () => number;
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
  refund(request: RefundRequest): Promise<RefundResult>;
  /**
   * Ends a refund whose outcome the provider cannot tell, once a person has found it out; `needsAttention` says when.
   * @throws {Refusal} for a refund that waits for nobody.
   */
  settleRefund(merchant: string, id: string, refundId: string, outcome: "succeeded" | "failed"): Promise<RefundResult>;
  /** The refunds of a payment, the oldest first; those that failed too, of which no event tells. @throws {Refusal} for an unknown one. */
  refunds(merchant: string, id: string): Promise<readonly Refund[]>;
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

/** When the daily clean-up takes what. */
export interface CleanUpRule {
  /** @defaultValue 7 days */
  readonly expiredForMs: number;
  /** Where the webhook was given up. @defaultValue 30 days */
  readonly exhaustedForMs: number;
  /** Age of idempotency keys. @defaultValue 30 days */
  readonly keysForMs: number;
}

export interface PaymentGateway {
  /** The whole HTTP surface: `/api`, `/pay`, `/providers`, `/docs`, `/openapi.json`, `/admin`. */
  readonly handle: FetchHandler;
  readonly payments: Payments;
  readonly tokens: Pick<TokenRegistry, "create" | "list" | "revoke">;
  readonly endpoints: WebhookEndpoints;
  readonly secrets: MerchantSecrets;
  /**
   * Does everything that is due now and resolves when it is done: for cron calls and tests. Where each call is a process of
   * its own give `expiryHoldMs: 0`: a hold that begins with each process never ends, and nothing would expire.
   */
  work(): Promise<void>;
  /** Works until `signal` is aborted, then lets tries in flight end. Several processes may run at the same time. */
  run(signal: AbortSignal): Promise<void>;
  /** Closes connections to receivers. */
  close(): Promise<void>;
}

const dayMs = 86_400_000;

/** A try begins in the first two thirds of its claim, and ends before the claim does. */
const claimOfTries = (timeoutMs = 15_000): number => Math.max(2 * timeoutMs + 15_000, 3 * timeoutMs);

/** A payment centre in this process: API, pay page, provider callbacks, signed webhooks. */
export function createPaymentGateway(options: PaymentGatewayOptions): PaymentGateway {
  const {
    storage,
    defaultCurrency = "KZT",
    lifeMs = 3_600_000,
    retryDelaysMs = defaultRetryDelaysMs,
    seedHeaders = true,
    webhooks = {},
    concurrency = 512,
    concurrencyPerReceiver = 8,
    pollIntervalMs = 500,
    expiryHoldMs = 120_000,
    providerTimeoutMs = 30_000,
    checkClaimMs = providerTimeoutMs + 10_000,
    clock = systemClock,
    random = Math.random,
  } = options;
  const publicUrl = options.publicUrl.replace(/\/+$/, "");
  if (!/^https?:\/\/[^?#]+$/.test(publicUrl) || !URL.canParse(publicUrl)) {
    throw new ConfigError("publicUrl must be an http(s) address without ? and #, e.g. https://pay.example");
  }
  if (!(pollIntervalMs > 0)) throw new ConfigError("pollIntervalMs must be positive");
  if (!(providerTimeoutMs > 0 && providerTimeoutMs < 60_000)) {
    throw new ConfigError("providerTimeoutMs must be positive and less than 60000");
  }
  if (!(checkClaimMs > providerTimeoutMs)) throw new ConfigError("checkClaimMs must be more than providerTimeoutMs");
  if (!(Number.isInteger(lifeMs) && lifeMs >= 1 && lifeMs <= maxLifeMs)) {
    throw new ConfigError("lifeMs must be whole milliseconds, from 1 to 30 days");
  }
  if (!(concurrency >= 1)) throw new ConfigError("concurrency must be at least 1");
  if (!(concurrencyPerReceiver >= 1)) throw new ConfigError("concurrencyPerReceiver must be at least 1");
  if (retryDelaysMs.some((delayMs) => !(delayMs >= 0))) throw new ConfigError("retryDelaysMs must not be negative");
  const breaker = { ...defaultBreaker, ...options.breaker };
  if (!(breaker.failures >= 1)) throw new ConfigError("breaker: failures must be at least 1");
  // What waits behind a breaker has as long as all tries together would take.
  const waitedMs = Math.max(
    dayMs,
    retryDelaysMs.reduce((sum, delayMs) => sum + delayMs, 0),
  );
  const logger = redactingLogger(options.logger ?? console);
  const watched = watchProviders(readProviders(options.providers), {
    storage,
    clock,
    logger,
    timeoutMs: providerTimeoutMs,
  });
  const { providers } = watched;
  const payUrl = (id: string): string => `${publicUrl}/pay/${id}`;

  // The loop comes last, because it calls the parts that tell it when there is something to send.
  const engine = createEngine({ storage, clock, logger, providers, wake: () => loop.wake() });
  const contexts = new Map<string, ProviderContext>(
    [...providers.values()].map((provider) => [provider.name, createProviderContext(engine, provider, payUrl)]),
  );
  const contextOf = ({ name }: PaymentProvider): ProviderContext => contexts.get(name) as ProviderContext;
  const tokens = createTokenRegistry({ storage, clock, tokens: options.tokens ?? [] });
  const sender: Sender = createSender({ ...webhooks, clock });
  const endpoints = createWebhookEndpoints(engine, sender);
  const secrets = createMerchantSecrets(engine);
  const refunds = createRefunds(engine, contextOf, providerTimeoutMs);
  const loop = createWorkLoop({
    engine,
    deliverer: createDeliverer({
      storage,
      sender,
      clock,
      logger,
      retryDelaysMs,
      concurrency,
      concurrencyPerReceiver,
      breaker,
      claimMs: claimOfTries(webhooks.timeoutMs),
      seedHeaders,
      random,
    }),
    dueWork: [
      ...createChecks({ engine, contextOf, expiryHoldMs, claimMs: checkClaimMs, timeoutMs: providerTimeoutMs }),
      ...refunds.due,
    ],
    pollIntervalMs,
    givingUp: { waitedMs, openings: Math.ceil(waitedMs / breaker.maxPauseMs) },
    cleanUp:
      options.cleanUp === false
        ? undefined
        : { expiredForMs: 7 * dayMs, exhaustedForMs: 30 * dayMs, keysForMs: 30 * dayMs, ...options.cleanUp },
    jobs: options.jobs,
  });

  const payments: Payments = {
    create: createCreation({ engine, sender, payUrl, defaultCurrency, lifeMs, providersOf: options.providersOf }),
    async get(merchant, id) {
      const payment = await engine.findPayment(id);
      return payment?.merchant === merchant ? payment : undefined;
    },
    list: (merchant, filter = {}, limit = 100) => storage.listPayments({ ...filter, merchant }, limit),
    cancel: createCancellation(engine, contextOf),
    refund: refunds.refund,
    settleRefund: refunds.settleByHand,
    async refunds(merchant, id) {
      await engine.ownPayment(merchant, id);
      return (await storage.historyOf(id)).refunds;
    },
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
      loop.wake();
    },
    async deliveries(merchant, id) {
      await engine.ownPayment(merchant, id);
      return storage.deliveriesOf(id);
    },
  };

  return {
    handle: createHttpSurface({
      payments,
      endpoints,
      secrets,
      tokens,
      providers,
      contextOf,
      findPayment: engine.findPayment,
      publicUrl,
      defaults: { currency: defaultCurrency, lifeMs },
      logger,
      storage,
      clock,
      admin: options.admin,
      async providerHealth() {
        await watched.flush();
        return reportProviderHealth(storage, providers.keys(), clock.now());
      },
    }),
    payments,
    endpoints,
    secrets,
    tokens,
    async work() {
      await loop.work();
      await watched.flush();
    },
    async run(signal) {
      await loop.run(signal);
      await watched.flush();
    },
    async close() {
      await watched.flush();
      await sender.close();
    },
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
