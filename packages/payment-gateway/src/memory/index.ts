import { type Clock, systemClock } from "@orderbridge/core";
import { checkChange, type Payment } from "../payment.ts";
import {
  type ApiTokenRecord,
  type Booking,
  type ClaimedDelivery,
  createRoom,
  type DeliveryAttempt,
  type DeliveryState,
  type GatewayStorage,
  type IdempotencyKey,
  type PaymentEvent,
  type Refund,
  type UsedKey,
} from "../storage.ts";

interface DeliveryRow {
  readonly id: string;
  readonly event: PaymentEvent;
  readonly url: string;
  state: DeliveryState;
  attempts: number;
  scheduleAttempts: number;
  dueAt: number;
  claim: string | undefined;
  claimEndsAt: number;
  readonly log: DeliveryAttempt[];
}

/** Tries after which a delivery no longer holds back the ones behind it. */
const overtakenAfter = 3;

/** Storage in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createPaymentGatewayMemoryStorage({
  clock = systemClock,
}: {
  readonly clock?: Clock;
} = {}): GatewayStorage {
  const payments = new Map<string, Payment>();
  const bookings = new Map<string, Booking>();
  const events: PaymentEvent[] = [];
  const deliveries: DeliveryRow[] = []; // in the order of events
  const refunds = new Map<string, Refund>();
  const keys = new Map<string, IdempotencyKey & { workEndsAt: number }>();
  const counters = new Map<string, number>();
  const secrets = new Map<string, string>();
  const tokens = new Map<string, ApiTokenRecord & { readonly hash: string }>();
  const now = (): number => clock.now().getTime();
  const rowKey = (...parts: readonly string[]): string => JSON.stringify(parts);

  function useKey(key: IdempotencyKey): UsedKey | undefined {
    const id = rowKey(key.merchant, key.key);
    const row = keys.get(id);
    if (!row) {
      keys.set(id, { ...key, workEndsAt: key.workMs === 0 ? 0 : now() + key.workMs });
      return undefined;
    }
    if (row.fingerprint !== key.fingerprint) return { state: "mismatch" };
    if (row.workEndsAt === 0) return { state: "done", resourceId: row.resourceId };
    if (row.workEndsAt > now()) return { state: "running" };
    row.workEndsAt = now() + key.workMs;
    return { state: "taken_over", resourceId: row.resourceId };
  }

  function addEvent(event: PaymentEvent, url: string | undefined): void {
    events.push(event);
    for (const row of deliveries) {
      if (row.event.paymentId === event.paymentId && row.state === "pending") row.dueAt = Math.min(row.dueAt, now());
    }
    if (url === undefined) return;
    deliveries.push({
      id: event.id,
      event,
      url,
      state: "pending",
      attempts: 0,
      scheduleAttempts: 0,
      dueAt: now(),
      claim: undefined,
      claimEndsAt: 0,
      log: [],
    });
  }

  function refuseTakenAccount({ id, provider, account }: Payment): void {
    if (account === undefined) return;
    for (const other of payments.values()) {
      if (other.id !== id && other.provider === provider && other.account === account) {
        throw new Error("another payment of this provider has the account");
      }
    }
  }

  const isHeldBack = (row: DeliveryRow): boolean =>
    deliveries.some(
      (other) =>
        other.event.paymentId === row.event.paymentId &&
        other.event.sequence < row.event.sequence &&
        other.state === "pending" &&
        other.scheduleAttempts < overtakenAfter,
    );

  const isFree = (row: DeliveryRow): boolean => row.claim === undefined || row.claimEndsAt <= now();

  return {
    async createPayment(payment, key) {
      refuseTakenAccount(payment);
      const used = key && useKey(key);
      if (used) return { state: "key_used", key: used };
      payments.set(payment.id, payment);
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
        if (booking && bookingKey !== undefined) bookings.set(bookingKey, booking);
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
    async listPayments({ merchant, status, search, after }, limit) {
      const isBehind = ({ id, createdAt }: Payment): boolean =>
        after === undefined ||
        createdAt < after.createdAt ||
        (createdAt.getTime() === after.createdAt.getTime() && id < after.id);
      return [...payments.values()]
        .filter((payment) => merchant === undefined || payment.merchant === merchant)
        .filter((payment) => status === undefined || payment.status === status)
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
        events: events.filter(isOwn),
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
      };
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
    async dueForExpiry(limit) {
      return [...payments.values()]
        .filter(({ status }) => status === "pending" || status === "processing")
        .filter(({ expiresAt }) => expiresAt.getTime() <= now())
        .sort((left, right) => left.expiresAt.getTime() - right.expiresAt.getTime())
        .slice(0, limit)
        .map(({ id }) => id);
    },
    async getRefund(id) {
      return refunds.get(id);
    },
    async openRefunds(olderThanMs, limit) {
      return [...refunds.values()]
        .filter(({ status, createdAt }) => status === "pending" && createdAt.getTime() <= now() - olderThanMs)
        .slice(0, limit);
    },
    async eventsAfter(merchant, position, limit) {
      return events
        .map((event, index) => ({ event, position: index + 1 }))
        .filter((entry) => entry.position > position && entry.event.merchant === merchant)
        .slice(0, limit)
        .map(({ event, position: at }) => ({ position: at, body: event.body }));
    },
    async getEvent(id) {
      return events.find((event) => event.id === id);
    },
    async claimDeliveries({ limit, ttlMs, receivers }) {
      const hasRoom = createRoom(receivers);
      const claimed: ClaimedDelivery[] = [];
      const candidates = deliveries.filter((row) => row.state === "pending" && row.dueAt <= now() && isFree(row));
      const taken = new Set<string>();
      for (const row of candidates) {
        if (claimed.length >= limit) break;
        const { event } = row;
        const isBusy = deliveries.some((other) => other.event.paymentId === event.paymentId && !isFree(other));
        if (taken.has(event.paymentId) || isBusy || isHeldBack(row) || !hasRoom(row.url)) continue;
        taken.add(event.paymentId);
        row.attempts++;
        row.scheduleAttempts++;
        row.claim = crypto.randomUUID();
        row.claimEndsAt = now() + ttlMs;
        const secret = payments.get(event.paymentId)?.webhookSecret ?? secrets.get(event.merchant);
        claimed.push({
          id: row.id,
          eventId: event.id,
          eventName: event.name,
          paymentId: event.paymentId,
          merchant: event.merchant,
          url: row.url,
          body: event.body,
          attempt: row.attempts,
          scheduleAttempt: row.scheduleAttempts,
          secrets: secret === undefined ? [] : [secret],
          claim: row.claim,
        });
      }
      return claimed;
    },
    async finishDelivery(delivery, attempt, verdict) {
      const row = deliveries.find(({ id }) => id === delivery.id);
      if (row?.claim !== delivery.claim) return false;
      row.state = verdict.state;
      row.claim = undefined;
      row.log.push(attempt);
      if (verdict.state === "pending") row.dueAt = now() + verdict.delayMs;
      return true;
    },
    async redeliver(eventId) {
      const rows = deliveries.filter(({ event }) => event.id === eventId);
      for (const row of rows) {
        row.state = "pending";
        row.scheduleAttempts = 0;
        row.dueAt = now();
      }
      return rows.length;
    },
    async deliveriesOf(paymentId) {
      return deliveries
        .filter(({ event }) => event.paymentId === paymentId)
        .map(({ id, event, state, attempts, dueAt, log }) => ({
          id,
          eventId: event.id,
          state,
          attempts,
          dueAt: new Date(dueAt),
          log: [...log],
        }));
    },
    async merchantSecret(merchant, proposal) {
      const secret = secrets.get(merchant) ?? proposal;
      secrets.set(merchant, secret);
      return secret;
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
    async removeToken(id) {
      return tokens.delete(id);
    },
    async ping() {},
  };
}
