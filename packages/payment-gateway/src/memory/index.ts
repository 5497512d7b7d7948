import { type Clock, systemClock } from "@orderbridge/core";
import { checkChange, type Payment } from "../payment.ts";
import {
  type ApiTokenRecord,
  activityDays,
  type Booking,
  type ClaimedDelivery,
  createRoom,
  type DeliveryAttempt,
  type DeliveryState,
  type GatewayStorage,
  type IdempotencyKey,
  isReceiversFault,
  lateCheckMs,
  maxEndpoints,
  maxSecrets,
  originOf,
  overtakenAfter,
  type PaymentEvent,
  type ProviderErrors,
  pauseOf,
  providerErrorsForMs,
  type Refund,
  refundPatienceMs,
  type UsedKey,
  type WebhookEndpoint,
} from "../storage.ts";

interface DeliveryRow {
  readonly id: string;
  readonly event: PaymentEvent;
  readonly url: string;
  readonly endpointId: string;
  isLate: boolean;
  state: DeliveryState;
  attempts: number;
  scheduleAttempts: number;
  dueAt: number;
  claim: string | undefined;
  claimEndsAt: number;
  readonly log: DeliveryAttempt[];
}

interface HeldSecret {
  readonly secret: string;
  readonly endsAt: number;
}

interface EndpointRow extends WebhookEndpoint {
  /** The newest first. */
  readonly secrets: readonly HeldSecret[];
}

interface ReceiverRow {
  readonly merchant: string;
  readonly origin: string;
  failures: number;
  openings: number;
  openUntil: number;
  probe: string | undefined;
}

interface Check {
  readonly at: number;
  readonly claim: string | undefined;
}

/** Storage in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createPaymentGatewayMemoryStorage({
  clock = systemClock,
}: {
  readonly clock?: Clock;
} = {}): GatewayStorage {
  const payments = new Map<string, Payment>();
  const paymentSecrets = new Map<string, string>();
  const bookings = new Map<string, Booking>();
  const events: { readonly position: number; readonly event: PaymentEvent }[] = [];
  let lastPosition = 0;
  let deliveries: DeliveryRow[] = []; // in the order of events
  const checks = new Map<string, Check>();
  const refundChecks = new Map<string, number>();
  const endpoints = new Map<string, EndpointRow>();
  const receivers = new Map<string, ReceiverRow>();
  const refunds = new Map<string, Refund>();
  const refundAnswers = new Map<string, string>();
  const keys = new Map<string, IdempotencyKey & { workEndsAt: number; readonly createdAt: number }>();
  const counters = new Map<string, number>();
  const providerErrors = new Map<string, ProviderErrors>();
  const merchantSecrets = new Map<string, readonly HeldSecret[]>();
  const tokens = new Map<string, ApiTokenRecord & { readonly hash: string }>();
  const now = (): number => clock.now().getTime();
  const rowKey = (...parts: readonly string[]): string => JSON.stringify(parts);

  function useKey(key: IdempotencyKey): UsedKey | undefined {
    const id = rowKey(key.merchant, key.key);
    const row = keys.get(id);
    if (!row) {
      keys.set(id, { ...key, createdAt: now(), workEndsAt: key.workMs === 0 ? 0 : now() + key.workMs });
      return undefined;
    }
    if (row.fingerprint !== key.fingerprint) return { state: "mismatch" };
    if (row.workEndsAt === 0) return { state: "done", resourceId: row.resourceId };
    if (row.workEndsAt > now()) return { state: "running" };
    row.workEndsAt = now() + key.workMs;
    return { state: "taken_over", resourceId: row.resourceId };
  }

  function addEvent(event: PaymentEvent, url: string | undefined): void {
    events.push({ position: ++lastPosition, event });
    for (const row of deliveries) {
      if (row.event.paymentId === event.paymentId && row.state === "pending") row.dueAt = Math.min(row.dueAt, now());
    }
    const own = url === undefined ? [] : [{ id: event.id, endpointId: "", url }];
    const others = [...endpoints.values()]
      .filter(({ merchant, state }) => merchant === event.merchant && state === "enabled")
      .map((endpoint) => ({ id: `${event.id}.${endpoint.id}`, endpointId: endpoint.id, url: endpoint.url }));
    for (const target of [...own, ...others]) {
      deliveries.push({
        ...target,
        event,
        isLate: false,
        state: "pending",
        attempts: 0,
        scheduleAttempts: 0,
        dueAt: now(),
        claim: undefined,
        claimEndsAt: 0,
        log: [],
      });
    }
  }

  const receiverOf = (merchant: string, url: string): ReceiverRow | undefined =>
    receivers.get(rowKey(merchant, originOf(url)));

  /** Ends what waits for an endpoint; what a person switched off calls nobody, nor what was given up before. */
  function end(endpointId: string, state: "exhausted" | "dropped"): void {
    for (const row of deliveries) {
      const isOpen = row.state === "pending" || (row.state === "exhausted" && state === "dropped");
      if (row.endpointId !== endpointId || !isOpen) continue;
      row.state = state;
      row.dueAt = now();
    }
  }

  const ownEndpoint = (merchant: string, id: string): EndpointRow | undefined => {
    const endpoint = endpoints.get(id);
    return endpoint?.merchant === merchant ? endpoint : undefined;
  };

  const heldNow = (held: readonly HeldSecret[] = []): readonly HeldSecret[] =>
    held.filter(({ endsAt }) => endsAt > now());

  /** `undefined` when there are too many. */
  function rotated(
    held: readonly HeldSecret[] | undefined,
    secret: string,
    overlapMs: number,
  ): readonly HeldSecret[] | undefined {
    const former = overlapMs > 0 ? heldNow(held) : [];
    if (former.length >= maxSecrets) return undefined;
    return [
      { secret, endsAt: Number.POSITIVE_INFINITY },
      ...former.map((one) => ({ ...one, endsAt: Math.min(one.endsAt, now() + overlapMs) })),
    ];
  }

  function leaveTombstone(payment: Payment): void {
    for (let index = events.length - 1; index >= 0; index--) {
      if (events[index]?.event.paymentId === payment.id) events.splice(index, 1);
    }
    deliveries = deliveries.filter(({ event }) => event.paymentId !== payment.id);
    for (const refund of refunds.values()) if (refund.paymentId === payment.id) refundAnswers.delete(refund.id);
    const { returnUrl: _returnUrl, ...rest } = payment;
    payments.set(payment.id, {
      ...rest,
      description: "",
      metadata: "{}",
      erasedAt: new Date(now()),
      version: payment.version + 1,
    });
  }

  const waits = (paymentId: string): boolean =>
    deliveries.some(({ event, state }) => event.paymentId === paymentId && state === "pending");

  function scheduleCheck({ id, status, expiresAt }: Payment, delayMs: number | undefined): void {
    const isOpen = status === "pending" || status === "processing";
    const endsAt = expiresAt.getTime();
    if (delayMs === undefined && !isOpen) {
      checks.delete(id);
      return;
    }
    const wanted = delayMs === undefined ? endsAt : now() + delayMs;
    checks.set(id, { at: isOpen && endsAt > now() ? Math.min(wanted, endsAt) : wanted, claim: undefined });
  }

  function refuseTakenAccount({ id, provider, account }: Payment): void {
    if (account === undefined) return;
    for (const other of payments.values()) {
      if (other.id !== id && other.provider === provider && other.account === account) {
        throw new Error("another payment of this provider has the account");
      }
    }
  }

  /** The receiver that was served last, by lane. */
  const served = { prompt: "", late: "" };
  const turnOf = ({ event, url }: DeliveryRow): string => JSON.stringify([originOf(url), event.merchant]);
  /** By receiver, beginning behind the one that was served last. */
  function inTurns(rows: readonly DeliveryRow[], last: string): readonly DeliveryRow[] {
    const byReceiver = Map.groupBy(rows, turnOf);
    const receivers = [...byReceiver.keys()].sort();
    const isBehind = (receiver: string): boolean => receiver > last;
    return [...receivers.filter(isBehind), ...receivers.filter((receiver) => !isBehind(receiver))].flatMap(
      (receiver) => byReceiver.get(receiver) ?? [],
    );
  }

  const isHeldBack = (row: DeliveryRow): boolean =>
    deliveries.some(
      (other) =>
        other.event.paymentId === row.event.paymentId &&
        other.endpointId === row.endpointId &&
        other.event.sequence < row.event.sequence &&
        other.state === "pending" &&
        other.scheduleAttempts < overtakenAfter,
    );

  const isFree = (row: DeliveryRow): boolean => row.claim === undefined || row.claimEndsAt <= now();

  return {
    async createPayment({ webhookSecret, ...payment }, key) {
      refuseTakenAccount(payment);
      const used = key && useKey(key);
      if (used) return { state: "key_used", key: used };
      payments.set(payment.id, payment);
      if (webhookSecret !== undefined) paymentSecrets.set(payment.id, webhookSecret);
      checks.set(payment.id, { at: payment.expiresAt.getTime(), claim: undefined });
      return { state: "created" };
    },
    async getPayment(id) {
      return payments.get(id);
    },
    async findByAccount(provider, account) {
      return [...payments.values()].find((payment) => payment.provider === provider && payment.account === account);
    },
    async change(paymentId, decide, key) {
      const before = payments.get(paymentId);
      if (!before) return { state: "not_found" };
      const isNewKey = key !== undefined && !keys.has(rowKey(key.merchant, key.key));
      const used = key && useKey(key);
      if (used) return { state: "key_used", payment: before, key: used };
      const forgetKey = () => {
        if (isNewKey) keys.delete(rowKey(key.merchant, key.key));
      };
      try {
        const change = decide(before);
        if (!change) {
          forgetKey();
          return { state: "unchanged", payment: before };
        }
        const { booking, event, refund } = change;
        const bookingKey = booking && rowKey(booking.provider, booking.transactionId);
        const isSettled = refund !== undefined && (refunds.get(refund.id)?.status ?? "pending") !== "pending";
        if (isSettled || (bookingKey !== undefined && bookings.has(bookingKey))) {
          forgetKey();
          return { state: "duplicate", payment: before };
        }
        checkChange(before, change.payment);
        refuseTakenAccount(change.payment);
        const payment = { ...change.payment, version: before.version + 1 };
        payments.set(paymentId, payment);
        const hasEnded = !["pending", "processing", "partially_paid"].includes(payment.status);
        // A question that a provider wished for stays: its QR may outlive the payment.
        if (hasEnded && payment.status !== before.status && checks.get(paymentId)?.at === payment.expiresAt.getTime()) {
          checks.delete(paymentId);
        }
        if (change.checkInMs !== undefined) scheduleCheck(payment, change.checkInMs);
        if (booking && bookingKey !== undefined) bookings.set(bookingKey, booking);
        if (refund && !refunds.has(refund.id)) refundChecks.set(refund.id, now() + refundPatienceMs);
        if (refund) refunds.set(refund.id, refund);
        if (event) addEvent(event, payment.webhookUrl);
        return { state: "changed", payment };
      } catch (error) {
        forgetKey();
        throw error;
      }
    },
    async getBooking(provider, transactionId) {
      return bookings.get(rowKey(provider, transactionId));
    },
    async listPayments({ merchant, status, search, needsAttention, givenUp, after }, limit) {
      const isBehind = ({ id, createdAt }: Payment): boolean =>
        after === undefined ||
        createdAt < after.createdAt ||
        (createdAt.getTime() === after.createdAt.getTime() && id < after.id);
      return [...payments.values()]
        .filter(({ erasedAt, paidMinor }) => erasedAt === undefined || paidMinor > 0n)
        .filter((payment) => merchant === undefined || payment.merchant === merchant)
        .filter((payment) => status === undefined || payment.status === status)
        .filter((payment) => !needsAttention || payment.needsAttention !== undefined)
        .filter(
          ({ id }) =>
            !givenUp || deliveries.some(({ event, state }) => event.paymentId === id && state === "exhausted"),
        )
        .filter(
          ({ id, account, description, metadata }) =>
            search === undefined ||
            id === search ||
            account === search ||
            description.includes(search) ||
            metadata.includes(search),
        )
        .filter(isBehind)
        .sort((left, right) => right.createdAt.getTime() - left.createdAt.getTime() || (left.id < right.id ? 1 : -1))
        .slice(0, limit);
    },
    async historyOf(paymentId) {
      const isOwn = (entry: { readonly paymentId: string }) => entry.paymentId === paymentId;
      return {
        events: events.map(({ event }) => event).filter(isOwn),
        bookings: [...bookings.values()].filter(isOwn),
        refunds: [...refunds.values()].filter(isOwn),
      };
    },
    async health() {
      const pending = deliveries.filter(({ state }) => state === "pending");
      const due = pending.filter(({ dueAt }) => dueAt <= now());
      const failing = Map.groupBy(
        pending.filter((row) => row.scheduleAttempts > 0),
        ({ url }) => url,
      );
      return {
        pending: pending.length,
        due: due.length,
        lagMs: Math.max(0, ...due.map(({ dueAt }) => now() - dueAt)),
        exhausted: deliveries.filter(({ state }) => state === "exhausted").length,
        openRefunds: [...refunds.values()].filter(({ status }) => status === "pending").length,
        failingReceivers: [...failing]
          .map(([url, rows]) => ({ url, deliveries: rows.length }))
          .sort((left, right) => right.deliveries - left.deliveries)
          .slice(0, 20),
        pausedReceivers: [...receivers.values()]
          .filter(({ openUntil }) => openUntil > now())
          .sort((left, right) => right.failures - left.failures)
          .slice(0, 20)
          .map(({ merchant, origin, failures, openUntil }) => ({
            merchant,
            origin,
            failures,
            until: new Date(openUntil),
          })),
        goneEndpoints: [...endpoints.values()].filter(({ state }) => state === "gone").length,
        lateChecks: [
          ...Map.groupBy(
            [...checks].filter(([, { at }]) => at < now() - lateCheckMs),
            ([id]) => payments.get(id)?.provider ?? "",
          ),
        ]
          .map(([provider, late]) => ({
            provider,
            payments: late.length,
            lagMs: now() - Math.min(...late.map(([, { at }]) => at)),
          }))
          .sort((left, right) => (left.provider < right.provider ? -1 : 1)),
      };
    },
    async activity(from, until) {
      const tries = deliveries.flatMap(({ log }) => log);
      const isGood = ({ status = 0 }: DeliveryAttempt): boolean => status >= 200 && status < 300;
      return activityDays(from, until).map((day) => {
        const isThen = (at: Date): boolean => Math.floor(at.getTime() / 86_400_000) === day && at >= from && at < until;
        const created = [...payments.values()].filter(({ createdAt }) => isThen(createdAt));
        const then = tries.filter(({ startedAt }) => isThen(startedAt));
        return {
          day: new Date(day * 86_400_000),
          created: created.length,
          paid: created.filter(({ paidMinor }) => paidMinor > 0n).length,
          delivered: then.filter(isGood).length,
          failed: then.filter((one) => !isGood(one)).length,
        };
      });
    },
    async recordProviderErrors(errors) {
      const key = rowKey(errors.provider, String(errors.day.getTime()));
      const before = providerErrors.get(key);
      const last = before && before.last.at > errors.last.at ? before.last : errors.last;
      providerErrors.set(key, { ...errors, failures: errors.failures + (before?.failures ?? 0), last });
    },
    async providerErrors(since) {
      const from = Math.floor(since.getTime() / 86_400_000) * 86_400_000;
      return [...providerErrors.values()]
        .filter(({ day }) => day.getTime() >= from)
        .sort((left, right) => right.day.getTime() - left.day.getTime() || (left.provider < right.provider ? -1 : 1));
    },
    async nextNumber(name) {
      const next = (counters.get(name) ?? 0) + 1;
      counters.set(name, next);
      return next;
    },
    async finishKey(merchant, key) {
      const row = keys.get(rowKey(merchant, key));
      if (row) row.workEndsAt = 0;
    },
    async releaseKey(merchant, key) {
      const row = keys.get(rowKey(merchant, key));
      if (row && row.workEndsAt !== 0) row.workEndsAt = Math.min(row.workEndsAt, now());
    },
    async claimChecks({ provider, limit, ttlMs }) {
      return [...checks]
        .filter(([, { at }]) => at <= now())
        .sort(([, left], [, right]) => left.at - right.at)
        .map(([id]) => payments.get(id) as Payment)
        .filter((payment) => payment.provider === provider)
        .slice(0, limit)
        .map((payment) => {
          const claim = crypto.randomUUID();
          checks.set(payment.id, { at: now() + ttlMs, claim });
          const isOpen = payment.status === "pending" || payment.status === "processing";
          return { payment, isOver: isOpen && payment.expiresAt.getTime() <= now(), claim };
        });
    },
    async scheduleCheck(paymentId, { delayMs, claim }) {
      const payment = payments.get(paymentId);
      if (!payment || (claim !== undefined && checks.get(paymentId)?.claim !== claim)) return;
      scheduleCheck(payment, delayMs);
    },
    async getRefund(id) {
      return refunds.get(id);
    },
    async keepRefundAnswer(id, answer) {
      const kept = refundAnswers.get(id) ?? answer;
      if (refunds.has(id)) refundAnswers.set(id, kept);
      return kept;
    },
    async claimRefunds({ provider, limit, ttlMs, maxPauseMs = Number.POSITIVE_INFINITY }) {
      const due = [...refunds.values()]
        .filter(({ paymentId }) => payments.get(paymentId)?.provider === provider)
        .filter(({ id, status }) => status === "pending" && (refundChecks.get(id) ?? 0) <= now())
        .sort((left, right) => (refundChecks.get(left.id) ?? 0) - (refundChecks.get(right.id) ?? 0))
        .slice(0, limit);
      for (const { id, createdAt } of due) {
        const pauseMs = Math.max(ttlMs, Math.floor((now() - createdAt.getTime()) / 4));
        refundChecks.set(id, now() + Math.min(pauseMs, maxPauseMs));
      }
      return due;
    },
    async eventsAfter(merchant, position, limit) {
      return events
        .filter((entry) => entry.position > position && entry.event.merchant === merchant)
        .slice(0, limit)
        .map(({ event, position: at }) => ({ position: at, body: event.body }));
    },
    async getEvent(id) {
      return events.find(({ event }) => event.id === id)?.event;
    },
    async claimDeliveries({ limit, ttlMs, lane, receivers: share }) {
      const room = createRoom(share);
      const claimed: ClaimedDelivery[] = [];
      const candidates = deliveries
        .filter((row) => row.state === "pending" && row.isLate === (lane === "late"))
        .filter((row) => row.dueAt <= now() && isFree(row));
      const taken = new Set<string>();
      for (const row of inTurns(candidates, served[lane])) {
        if (claimed.length >= limit) break;
        const { event } = row;
        const target = rowKey(event.paymentId, row.endpointId);
        const isBusy = deliveries.some(
          (other) => other.event.paymentId === event.paymentId && other.endpointId === row.endpointId && !isFree(other),
        );
        const receiver = receiverOf(event.merchant, row.url);
        if (receiver && receiver.openUntil > now()) continue;
        if (taken.has(target) || isBusy || isHeldBack(row) || room.at(originOf(row.url)) <= 0) continue;
        if (receiver && receiver.openUntil > 0) {
          receiver.openUntil = now() + ttlMs; // one try tells whether the breaker may close
          receiver.probe = row.id;
        }
        taken.add(target);
        served[lane] = turnOf(row);
        room.take(originOf(row.url));
        row.attempts++;
        row.scheduleAttempts++;
        row.claim = crypto.randomUUID();
        row.claimEndsAt = now() + ttlMs;
        const own = paymentSecrets.get(event.paymentId);
        const held =
          row.endpointId === "" ? merchantSecrets.get(event.merchant) : endpoints.get(row.endpointId)?.secrets;
        const inForce = row.endpointId === "" && own !== undefined ? [own] : heldNow(held).map(({ secret }) => secret);
        claimed.push({
          id: row.id,
          eventId: event.id,
          eventName: event.name,
          paymentId: event.paymentId,
          merchant: event.merchant,
          url: row.url,
          endpointId: row.endpointId,
          body: event.body,
          attempt: row.attempts,
          scheduleAttempt: row.scheduleAttempts,
          secrets: inForce,
          claim: row.claim,
        });
      }
      const dueTimes = new Map(candidates.map(({ id, dueAt }) => [id, dueAt]));
      return claimed.toSorted((left, right) => (dueTimes.get(left.id) ?? 0) - (dueTimes.get(right.id) ?? 0));
    },
    async finishDeliveries(finished, breaker) {
      return finished.map((one) => {
        const { delivery, attempt, verdict } = one;
        const row = deliveries.find(({ id }) => id === delivery.id);
        if (row?.claim !== delivery.claim) return false;
        row.claim = undefined;
        row.log.push(attempt);
        const wasPending = row.state === "pending";
        if (wasPending || verdict.state === "delivered") row.state = verdict.state;
        row.dueAt = now() + (verdict.state === "pending" ? verdict.delayMs : 0);
        row.isLate = delivery.scheduleAttempt >= overtakenAfter;
        const endpoint = endpoints.get(row.endpointId);
        // What a person switched off meanwhile stays as it is, and so does what was enabled anew.
        if (verdict.state === "exhausted" && verdict.gone && wasPending && endpoint?.state === "enabled") {
          endpoints.set(endpoint.id, { ...endpoint, state: "gone" });
          end(endpoint.id, "exhausted");
        }
        const { merchant } = delivery;
        const origin = originOf(delivery.url);
        if (verdict.state === "delivered") receivers.delete(rowKey(merchant, origin));
        if (!isReceiversFault(one)) return true;
        const known = receivers.get(rowKey(merchant, origin)) ?? {
          merchant,
          origin,
          failures: 0,
          openings: 0,
          openUntil: 0,
          probe: undefined,
        };
        receivers.set(rowKey(merchant, origin), known);
        known.failures++;
        const isProbe = known.probe === delivery.id;
        if (known.failures >= breaker.failures && (isProbe || known.openUntil <= now())) {
          known.openUntil = now() + pauseOf(breaker, known.openings++);
          known.probe = undefined;
        }
        return true;
      });
    },
    async releaseDeliveries(claimed) {
      for (const { id, claim } of claimed) {
        const row = deliveries.find((one) => one.id === id);
        if (row?.claim !== claim) continue;
        row.claim = undefined;
        row.attempts--;
        row.scheduleAttempts--;
      }
    },
    async redeliver(eventId, { only } = {}) {
      const rows = deliveries.filter(
        ({ event, endpointId, state }) =>
          event.id === eventId &&
          (endpointId === "" || endpoints.get(endpointId)?.state === "enabled") &&
          (only === undefined || state === only),
      );
      for (const row of rows) {
        row.state = "pending";
        row.claim = undefined; // a try under way no longer counts
        row.scheduleAttempts = 0;
        row.isLate = false;
        row.dueAt = now();
        const receiver = receiverOf(row.event.merchant, row.url);
        if (receiver) receiver.openUntil = 0;
      }
      return rows.length;
    },
    async dismiss(eventId) {
      const rows = deliveries.filter(({ event, state }) => event.id === eventId && state === "exhausted");
      for (const row of rows) row.state = "dropped";
      return rows.length;
    },
    async deliveriesOf(paymentId) {
      return deliveries
        .filter(({ event }) => event.paymentId === paymentId)
        .map(({ id, event, endpointId, state, attempts, dueAt, log }) => ({
          id,
          eventId: event.id,
          endpointId,
          state,
          attempts,
          dueAt: new Date(dueAt),
          log: [...log],
        }));
    },
    async giveUpWaiting({ waitedMs, openings, limit }) {
      const waiting = deliveries
        .filter((row) => row.state === "pending" && isFree(row) && row.dueAt <= now() - waitedMs)
        .filter(({ event, url }) => {
          const receiver = receiverOf(event.merchant, url);
          return receiver !== undefined && receiver.openings >= openings && receiver.openUntil > 0;
        })
        .slice(0, limit);
      for (const row of waiting) {
        row.state = "exhausted";
        row.dueAt = now();
      }
      return waiting.length;
    },
    async unblockReceiver(merchant, origin) {
      return receivers.delete(rowKey(merchant, origin));
    },
    async addEndpoint(endpoint, secret) {
      const own = [...endpoints.values()].filter(({ merchant }) => merchant === endpoint.merchant);
      if (own.length >= maxEndpoints) return false;
      endpoints.set(endpoint.id, { ...endpoint, secrets: [{ secret, endsAt: Number.POSITIVE_INFINITY }] });
      return true;
    },
    async listEndpoints(merchant) {
      return [...endpoints.values()]
        .filter((endpoint) => endpoint.merchant === merchant)
        .map(({ secrets: _secrets, ...endpoint }) => endpoint);
    },
    async rotateEndpointSecret(merchant, id, { secret, overlapMs }) {
      const endpoint = ownEndpoint(merchant, id);
      if (!endpoint) return false;
      const secrets = rotated(endpoint.secrets, secret, overlapMs);
      if (secrets) endpoints.set(id, { ...endpoint, secrets });
      return secrets !== undefined;
    },
    async setEndpointState(merchant, id, state) {
      const endpoint = ownEndpoint(merchant, id);
      if (!endpoint) return false;
      endpoints.set(id, { ...endpoint, state });
      if (state === "disabled") end(id, "dropped");
      return true;
    },
    async removeEndpoint(merchant, id) {
      if (!ownEndpoint(merchant, id)) return false;
      endpoints.delete(id);
      end(id, "dropped");
      return true;
    },
    async cleanUp({ expiredForMs, exhaustedForMs, keysForMs, limit }) {
      const ended = [...payments.values()]
        .filter(({ status, paidMinor, erasedAt }) => status === "expired" && paidMinor === 0n && !erasedAt)
        .filter(({ id, updatedAt }) => updatedAt.getTime() <= now() - expiredForMs && !waits(id))
        .filter(
          ({ id }) =>
            !deliveries.some(
              ({ event, state, dueAt }) =>
                event.paymentId === id && state === "exhausted" && dueAt > now() - exhaustedForMs,
            ),
        )
        .slice(0, limit);
      for (const payment of ended) leaveTombstone(payment);
      const oldKeys = [...keys].filter(([, { createdAt }]) => createdAt <= now() - keysForMs).slice(0, limit);
      for (const [id] of oldKeys) keys.delete(id);
      for (const [key, { day }] of providerErrors) {
        if (day.getTime() + 86_400_000 <= now() - providerErrorsForMs) providerErrors.delete(key);
      }
      for (const [merchant, held] of merchantSecrets) merchantSecrets.set(merchant, heldNow(held));
      for (const [id, row] of endpoints) endpoints.set(id, { ...row, secrets: heldNow(row.secrets) });
      return { payments: ended.length, keys: oldKeys.length };
    },
    async erasePayment(id) {
      const payment = payments.get(id);
      if (!payment) return "not_found";
      if (waits(id)) return "waiting";
      leaveTombstone(payment);
      return "erased";
    },
    async merchantSecret(merchant, proposal) {
      const held = merchantSecrets.get(merchant) ?? [{ secret: proposal, endsAt: Number.POSITIVE_INFINITY }];
      merchantSecrets.set(merchant, held);
      return held[0]?.secret ?? proposal;
    },
    async rotateMerchantSecret(merchant, { secret, overlapMs }) {
      const secrets = rotated(merchantSecrets.get(merchant), secret, overlapMs);
      if (secrets) merchantSecrets.set(merchant, secrets);
      return secrets !== undefined;
    },
    async addToken(token) {
      tokens.set(token.id, token);
    },
    async findToken(hash) {
      const found = [...tokens.values()].find((token) => token.hash === hash);
      if (!found) return undefined;
      const { hash: _hash, ...record } = found;
      return record;
    },
    async listTokens() {
      return [...tokens.values()].map(({ hash: _hash, ...record }) => record);
    },
    async removeToken(id) {
      return tokens.delete(id);
    },
    async ping() {},
  };
}
