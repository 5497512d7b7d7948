import { createHash } from "node:crypto";
import { memoize } from "./memoize.ts";
import type { Payment, PaymentEventName, PaymentStatus } from "./payment.ts";

/** A payment as it is created. */
export interface NewPayment extends Payment {
  /**
   * Signs the webhooks of this payment; left out, the merchant's own secret does. A payment is read without it: only
   * deliveries need it, and one that cannot be opened must stop nothing else.
   */
  readonly webhookSecret?: string;
}

/** Money that a provider reported. One provider transaction is booked once, whatever repeats. */
export interface Booking {
  readonly provider: string;
  /** The provider's id of the transfer, as text. */
  readonly transactionId: string;
  readonly paymentId: string;
  readonly amountMinor: bigint;
  /** When the provider says that it was paid. */
  readonly paidAt: Date;
}

export interface PaymentEvent {
  /** `evt_…`; the `webhook-id` of every delivery. */
  readonly id: string;
  readonly paymentId: string;
  readonly merchant: string;
  /** 1 for the first event of a payment. */
  readonly sequence: number;
  readonly name: PaymentEventName;
  /** The JSON that is signed and sent, fixed here. */
  readonly body: string;
  readonly createdAt: Date;
}

export type RefundStatus = "pending" | "succeeded" | "failed";

export interface Refund {
  /** Also the idempotency key towards the provider. */
  readonly id: string;
  readonly paymentId: string;
  readonly amountMinor: bigint;
  readonly status: RefundStatus;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** One change of a payment. Everything in it is stored together, or nothing. */
export interface PaymentChange {
  readonly payment: Payment;
  /** When it was booked before, the whole change is dropped. */
  readonly booking?: Booking;
  /** With a webhook address in the payment each one also becomes a delivery. */
  readonly event?: PaymentEvent;
  /** Inserted, or settled by its id. When it was settled before, the whole change is dropped. */
  readonly refund?: Refund;
  /**
   * The next check comes after so many milliseconds, as by `scheduleCheck`, and with the change or not at all. Left out, the
   * time that was set before stays.
   */
  readonly checkInMs?: number;
}

export type ChangeResult =
  | { readonly state: "changed"; readonly payment: Payment }
  /** The decision was to change nothing. */
  | { readonly state: "unchanged"; readonly payment: Payment }
  /** The booking was there before, or the refund was settled. */
  | { readonly state: "duplicate"; readonly payment: Payment }
  | { readonly state: "key_used"; readonly payment: Payment; readonly key: UsedKey }
  | { readonly state: "not_found" };

export interface IdempotencyKey {
  readonly merchant: string;
  readonly key: string;
  /** Digest of method, path and body. */
  readonly fingerprint: string;
  /** Payment or refund that the request makes. */
  readonly resourceId: string;
  /** While the request is at work others are told to wait, at most so long; 0: it is finished with this change. */
  readonly workMs: number;
}

export type UsedKey =
  | { readonly state: "done"; readonly resourceId: string }
  | { readonly state: "running" }
  /** Whoever worked on it is gone: the work is the caller's now. */
  | { readonly state: "taken_over"; readonly resourceId: string }
  | { readonly state: "mismatch" };

type CreateResult = { readonly state: "created" } | { readonly state: "key_used"; readonly key: UsedKey };

export type DeliveryState =
  | "pending"
  | "delivered"
  /** Given up: a person should look. */
  | "exhausted"
  /** Not sent because a person wanted it so: the endpoint was switched off or removed, or the webhook dismissed. */
  | "dropped";

/** A try that failed so often in a row lets later events of its payment pass, and waits in the late lane. */
export const overtakenAfter = 3;

/** How long a refund may be open before its provider is asked again; then at most a quarter of its age passes. */
export const refundPatienceMs = 30_000;

/** A payment that is due for a question to its provider, or for its end. */
export interface DueCheck {
  readonly payment: Payment;
  /** Its life has ended, by the clock that judges due times. */
  readonly isOver: boolean;
  /** Proves the claim. */
  readonly claim: string;
}

/** A check that is due for longer than this is a matter for a person. */
export const lateCheckMs = 300_000;

/** Secrets of one endpoint, or of one merchant, that may be in force at the same time. */
export const maxSecrets = 10;

/** Endpoints of one merchant. */
export const maxEndpoints = 20;

/** Where a merchant wants to hear of all its payments, beside the address of each one. */
export interface WebhookEndpoint {
  readonly id: string;
  readonly merchant: string;
  readonly url: string;
  /** `gone`: it answered 410. */
  readonly state: "enabled" | "disabled" | "gone";
  readonly createdAt: Date;
}

/** A receiver that is not called for a while, because nothing but failures came of it. */
export interface PausedReceiver {
  readonly merchant: string;
  /** `https://shop.example` */
  readonly origin: string;
  /** Failed tries in a row. */
  readonly failures: number;
  readonly until: Date;
}

/** When a breaker opens, and for how long. */
export interface BreakerRule {
  /** Failed tries of one origin and merchant in a row. */
  readonly failures: number;
  /** Pause before one try is let through; doubled with each further failure. */
  readonly pauseMs: number;
  readonly maxPauseMs: number;
}

/** What the daily clean-up did. */
export interface CleanUpCounts {
  /** Expired payments of which a tombstone is left. */
  readonly payments: number;
  readonly keys: number;
}

export interface ClaimedDelivery {
  readonly id: string;
  readonly eventId: string;
  readonly eventName: PaymentEventName;
  readonly paymentId: string;
  readonly merchant: string;
  readonly url: string;
  /** Empty for the address of the payment itself. */
  readonly endpointId: string;
  readonly body: string;
  /** 1 for the first try. A number without an entry in the log is a try whose process ended: its outcome is unknown. */
  readonly attempt: number;
  /** The same number, counted from the last time that a person asked for delivery. */
  readonly scheduleAttempt: number;
  /** Secrets in force now, the newest first; none when they cannot be read. */
  readonly secrets: readonly string[];
  /** Proves the claim. */
  readonly claim: string;
}

/** One try, as it is kept for people. */
export interface DeliveryAttempt {
  readonly attempt: number;
  readonly startedAt: Date;
  readonly durationMs: number;
  /** `http_200`, `timeout`, `no_answer`, `blocked`, `no_secret`. Never tells which address was blocked. */
  readonly outcome: string;
  readonly status?: number;
  /** Beginning of the answer. */
  readonly answer?: string;
}

export interface DeliveryRecord {
  readonly id: string;
  readonly eventId: string;
  /** Empty for the address of the payment itself. */
  readonly endpointId: string;
  readonly state: DeliveryState;
  readonly attempts: number;
  readonly dueAt: Date;
  readonly log: readonly DeliveryAttempt[];
}

/** How the tries of one process are shared among receivers. */
export interface ReceiverShare {
  /** Tries that one origin may have at the same time. */
  readonly limit: number;
  /** Tries that are running, by origin as {@link originOf} writes it. */
  readonly running: ReadonlyMap<string, number>;
}

/** What a column for keys holds. */
const maxOriginLength = 191;

/**
 * `https://shop.example`: receivers are told apart by it. A longer one than a key may be is cut and ends in its digest, so
 * that no address keeps money from being booked.
 */
export const originOf: (url: string) => string = memoize(1_000, (url) => {
  const origin = URL.canParse(url) ? new URL(url).origin : "";
  if (origin.length <= maxOriginLength) return origin;
  const digest = createHash("sha256").update(origin).digest("hex");
  return `${origin.slice(0, maxOriginLength - digest.length - 1)}~${digest}`;
});

/** When a webhook that waits behind an open breaker is given up without further tries. */
export interface GivingUpRule {
  /** So long it has been due, in milliseconds. */
  readonly waitedMs: number;
  /** So often the breaker of its receiver has opened in a row. */
  readonly openings: number;
}

/** Whether a failed try says something about the receiver: 410 is an answer, and a missing secret is our own matter. */
export const isReceiversFault = ({ attempt, verdict }: FinishedDelivery): boolean =>
  verdict.state !== "delivered" && attempt.outcome !== "no_secret" && attempt.status !== 410;

/** How long a breaker stays open that has opened `openings` times in a row before. */
export const pauseOf = ({ pauseMs, maxPauseMs }: BreakerRule, openings: number): number =>
  Math.min(maxPauseMs, pauseMs * 2 ** openings);

/** Places for further tries, by origin. */
export interface Room {
  at(origin: string): number;
  take(origin: string): void;
}

/** Without shares nobody is ever full. */
export function createRoom(receivers: ReceiverShare | undefined): Room {
  const running = new Map(receivers?.running);
  const runningAt = (origin: string): number => running.get(origin) ?? 0;
  return {
    at: (origin) => (receivers ? receivers.limit - runningAt(origin) : Number.POSITIVE_INFINITY),
    take: (origin) => void running.set(origin, runningAt(origin) + 1),
  };
}

export type DeliveryVerdict =
  | { readonly state: "delivered" }
  /** `gone`: the receiver asked never to be called again, so its endpoint is switched off. */
  | { readonly state: "exhausted"; readonly gone?: boolean }
  | { readonly state: "pending"; readonly delayMs: number };

/** A try, how it went, and what follows. */
export interface FinishedDelivery {
  readonly delivery: ClaimedDelivery;
  readonly attempt: DeliveryAttempt;
  readonly verdict: DeliveryVerdict;
}

export interface ApiTokenRecord {
  readonly id: string;
  readonly merchant: string;
  readonly scopes: readonly string[];
  readonly createdAt: Date;
}

/** Which payments to list; what is left out does not matter. */
export interface PaymentFilter {
  readonly merchant?: string;
  readonly status?: PaymentStatus;
  /** The whole id or account, or a part of the description or metadata; upper and lower case differ. */
  readonly search?: string;
  /** Only payments that a person must look at. */
  readonly needsAttention?: true;
  /** Only payments with a webhook that was given up. */
  readonly givenUp?: true;
  /** Only payments that stand behind this one. */
  readonly after?: Pick<Payment, "id" | "createdAt">;
}

/** Counts of one day of UTC. */
export interface ActivityDay {
  /** Its first instant. */
  readonly day: Date;
  /** Payments that were created on it. */
  readonly created: number;
  /** Of these, the ones that have money by now. */
  readonly paid: number;
  /** Tries of webhooks that were answered with 2xx. */
  readonly delivered: number;
  /** Tries that were not. */
  readonly failed: number;
}

/** Numbers of the days that begin in the time given, counted from 1970. */
export function activityDays(from: Date, until: Date): readonly number[] {
  const first = Math.floor(from.getTime() / 86_400_000);
  const last = Math.ceil(until.getTime() / 86_400_000);
  return Array.from({ length: last - first }, (_, index) => first + index);
}

/** Calls to one provider that failed on one day of UTC. */
export interface ProviderErrors {
  readonly provider: string;
  /** Its first instant. */
  readonly day: Date;
  readonly failures: number;
  /** The latest of them. */
  readonly last: {
    readonly at: Date;
    /** `start`, `state`, `cancel` or `refund`. */
    readonly call: string;
    /** Redacted, at most 300 characters. */
    readonly message: string;
  };
}

/** Counts of failed calls are kept for so long. */
export const providerErrorsForMs = 30 * 86_400_000;

/** What happened to a payment, each list the oldest first. */
export interface PaymentHistory {
  readonly events: readonly PaymentEvent[];
  readonly bookings: readonly Booking[];
  readonly refunds: readonly Refund[];
}

export interface GatewayHealth {
  /** Deliveries that wait, for their time or for a worker. */
  readonly pending: number;
  /** Deliveries whose time has come. */
  readonly due: number;
  /** How long the oldest of those has waited, in milliseconds; 0 without one. */
  readonly lagMs: number;
  /** Deliveries that were given up. */
  readonly exhausted: number;
  readonly openRefunds: number;
  /** Addresses with deliveries that failed and are to be repeated, the worst first, at most 20. */
  readonly failingReceivers: readonly { readonly url: string; readonly deliveries: number }[];
  /** Receivers whose breaker is open, at most 20. */
  readonly pausedReceivers: readonly PausedReceiver[];
  /** Endpoints that answered 410. */
  readonly goneEndpoints: number;
  /** Payments whose check has been due for more than {@link lateCheckMs}, by provider: no process looks after it. */
  readonly lateChecks: readonly {
    readonly provider: string;
    readonly payments: number;
    /** How long the oldest of them has waited, in milliseconds. */
    readonly lagMs: number;
  }[];
}

/** Word from other processes that there is something to send. It may come late, twice, or never. */
export interface DeliveryHints {
  /** Calls `onHint` until the result is called. Never rejects: while it cannot listen, there are no hints. */
  listen(onHint: () => void): () => Promise<void>;
}

/** Everything that the gateway remembers. Each sentence of a comment is a case in `gatewayStorageCases`. */
export interface GatewayStorage {
  /** Inserts a payment together with its idempotency key. A used key inserts nothing. */
  createPayment(payment: NewPayment, key?: IdempotencyKey): Promise<CreateResult>;
  getPayment(id: string): Promise<Payment | undefined>;
  /** Of one provider no two payments have the same account. */
  findByAccount(provider: string, account: string): Promise<Payment | undefined>;
  /**
   * Decides on a payment that nobody else changes meanwhile, and stores the decision in one transaction. `decide` may
   * be asked again after a conflict, so it must not do anything else. With a key the decision is made only when the key
   * is new, and the key is kept only when there was a change.
   *
   * @throws {ForbiddenChangeError} when the decision breaks the rules; nothing is stored then.
   */
  change(
    paymentId: string,
    decide: (payment: Payment) => PaymentChange | undefined,
    key?: IdempotencyKey,
  ): Promise<ChangeResult>;
  /** Money that was booked under this id of the provider. */
  getBooking(provider: string, transactionId: string): Promise<Booking | undefined>;
  /** Payments of a filter, the newest first. */
  listPayments(filter: PaymentFilter, limit: number): Promise<readonly Payment[]>;
  historyOf(paymentId: string): Promise<PaymentHistory>;
  health(): Promise<GatewayHealth>;
  /** Counts by day from the first instant of one to the first instant of another, days without anything included. */
  activity(from: Date, until: Date): Promise<readonly ActivityDay[]>;
  /** Adds failed calls to those of their provider and day; what several processes add is summed, the latest one is kept. */
  recordProviderErrors(errors: ProviderErrors): Promise<void>;
  /** Failed calls since the day of an instant, by day and provider, the newest day first. */
  providerErrors(since: Date): Promise<readonly ProviderErrors[]>;
  /** The next of 1, 2, 3, … under this name; never the same twice. */
  nextNumber(name: string): Promise<number>;
  /** Ends the work of a key: later callers get `done`. */
  finishKey(merchant: string, key: string): Promise<void>;
  /** Gives the work of a key back: the next caller takes it over at once. */
  releaseKey(merchant: string, key: string): Promise<void>;
  /**
   * Claims payments of one provider that are due for a check, the oldest first: those whose life has ended, and those that
   * the provider wanted to be asked about. Nobody else gets them for `ttlMs`; then they are handed out again.
   */
  claimChecks(options: {
    readonly provider: string;
    readonly limit: number;
    readonly ttlMs: number;
  }): Promise<readonly DueCheck[]>;
  /**
   * The next check comes after `delayMs`, also of a payment that has ended, and in any case when it expires; left out, only
   * then. Ends the claim. With a claim that was lost nothing changes.
   */
  scheduleCheck(paymentId: string, next: { readonly delayMs?: number; readonly claim?: string }): Promise<void>;
  getRefund(id: string): Promise<Refund | undefined>;
  /** Keeps what a request for a refund is answered, unless an answer is kept, and resolves to the one that is kept. */
  keepRefundAnswer(id: string, answer: string): Promise<string>;
  /**
   * Claims open refunds of one provider whose outcome is to be asked for, the oldest first. Nobody else gets them for
   * `ttlMs` or a quarter of their age, whichever is longer, at most `maxPauseMs`; then, unless they were settled, they are
   * handed out again.
   */
  claimRefunds(options: {
    readonly provider: string;
    readonly limit: number;
    readonly ttlMs: number;
    /** @defaultValue without end */
    readonly maxPauseMs?: number;
  }): Promise<readonly Refund[]>;

  /**
   * Events of a merchant after a position, in the order of positions. Positions are given after commit, so a reader
   * who goes on from the last one misses nothing.
   */
  eventsAfter(
    merchant: string,
    position: number,
    limit: number,
  ): Promise<readonly { readonly position: number; readonly body: string }[]>;
  getEvent(id: string): Promise<PaymentEvent | undefined>;

  /**
   * Claims due deliveries for `ttlMs`; an expired claim is handed out again. Of one payment and target (its own address
   * or an endpoint) one delivery at a time, in the order of events; a delivery that failed three times lets later ones
   * pass and waits in the lane `late`, and only beside such a one may two processes that look at the same moment hold
   * another one, too. A new event of the payment makes waiting ones due at once. Receivers
   * (merchant and origin) have their turns: a call goes on behind the one that was served last. With `receivers` no origin
   * gets more than its share; those of others are claimed instead. While the breaker of an origin and merchant is
   * open nothing is claimed for it; afterwards one at a time, until one succeeds.
   */
  claimDeliveries(options: {
    readonly limit: number;
    readonly ttlMs: number;
    readonly lane: "prompt" | "late";
    readonly receivers?: ReceiverShare;
  }): Promise<readonly ClaimedDelivery[]>;
  /**
   * Stores tries and what follows from them: in the order given, whether each claim still held. A lost claim changes
   * nothing. Failures in a row open the breaker of a receiver, a success closes it.
   */
  finishDeliveries(finished: readonly FinishedDelivery[], breaker: BreakerRule): Promise<readonly boolean[]>;
  /**
   * Gives claims back whose tries were not begun, so that they use up no schedule; each that still holds is due at once, but
   * for the one try of a breaker, whose turn comes again when its claim would have ended. A lost claim changes nothing.
   */
  releaseDeliveries(claimed: readonly ClaimedDelivery[]): Promise<void>;
  /**
   * Makes the deliveries of an event due at once, same id and bytes, with a new schedule, and closes the breakers of their
   * receivers. Endpoints that are switched off are left out, and with `only` what is in another state. Resolves to how many
   * there are.
   */
  redeliver(eventId: string, options?: { readonly only?: "exhausted" }): Promise<number>;
  /** Drops the deliveries of an event that were given up, so that they call nobody any more. Resolves to how many. */
  dismiss(eventId: string): Promise<number>;
  deliveriesOf(paymentId: string): Promise<readonly DeliveryRecord[]>;

  /** The merchant's own webhook secret, the newest one; `proposal` is stored when there is none. */
  merchantSecret(merchant: string, proposal: string): Promise<string>;
  /**
   * Makes `secret` the merchant's own. Tries from now on that it signs for are signed with it first; former ones sign beside
   * it for `overlapMs` more. Resolves to `false`, changing nothing, with ten secrets in force.
   */
  rotateMerchantSecret(
    merchant: string,
    rotation: { readonly secret: string; readonly overlapMs: number },
  ): Promise<boolean>;

  /** Adds an endpoint that hears of events from now on. Resolves to `false`, changing nothing, when the merchant has twenty. */
  addEndpoint(endpoint: WebhookEndpoint, secret: string): Promise<boolean>;
  /** Endpoints of a merchant, the oldest first. */
  listEndpoints(merchant: string): Promise<readonly WebhookEndpoint[]>;
  /**
   * Tries from now on are signed with `secret` first; former secrets sign beside it for `overlapMs` more. Resolves to
   * `false`, changing nothing, for an endpoint that this merchant does not have, or with ten secrets in force.
   */
  rotateEndpointSecret(
    merchant: string,
    id: string,
    rotation: { readonly secret: string; readonly overlapMs: number },
  ): Promise<boolean>;
  /** Resolves to `false` for an endpoint that this merchant does not have. Switched off, what waits for it or was given up is dropped. */
  setEndpointState(merchant: string, id: string, state: "enabled" | "disabled"): Promise<boolean>;
  /** Forgets an endpoint with its secrets and drops what waits for it or was given up. */
  removeEndpoint(merchant: string, id: string): Promise<boolean>;
  /**
   * Gives up what has been due for `waitedMs` behind a breaker that opened `openings` times in a row or more, which means
   * that its receiver failed every try of that time. At most `limit` of them. Resolves to how many.
   */
  giveUpWaiting(options: GivingUpRule & { readonly limit: number }): Promise<number>;
  /** Closes the breaker of a receiver. Resolves to `false` when there was none. */
  unblockReceiver(merchant: string, origin: string): Promise<boolean>;

  addToken(token: ApiTokenRecord & { readonly hash: string }): Promise<void>;
  findToken(hash: string): Promise<ApiTokenRecord | undefined>;
  listTokens(): Promise<readonly ApiTokenRecord[]>;
  /** Resolves to `false` for an unknown id. */
  removeToken(id: string): Promise<boolean>;

  /**
   * Takes payments that expired longer ago than `expiredForMs`, have no money, and whose webhooks were taken or given up
   * longer ago than `exhaustedForMs`, at most `limit`, each in a transaction of its own. Description, metadata, return
   * address, events, tries and answers go; id, sums, merchant, provider ids and the webhook target stay, so that money
   * which comes after all is booked and told. Also deletes idempotency keys older than `keysForMs`, secrets that have
   * ended, and counts of failed calls older than {@link providerErrorsForMs}.
   */
  cleanUp(options: {
    readonly expiredForMs: number;
    readonly exhaustedForMs: number;
    readonly keysForMs: number;
    readonly limit: number;
  }): Promise<CleanUpCounts>;
  /**
   * The same for one payment in any state, money records excepted. Resolves to `waiting`, changing nothing, while a
   * webhook of it is to be sent.
   */
  erasePayment(id: string): Promise<"erased" | "waiting" | "not_found">;

  /** Left out: processes find what others have to send at their next look. */
  readonly hints?: DeliveryHints;
  /** Resolves when the storage answers. */
  ping(): Promise<void>;
}
