import { systemClock } from "../clock.ts";
import type {
  ClaimedMessage,
  Clock,
  IdempotencyStore,
  Lease,
  LeaseStore,
  OutboxEntry,
  OutboxState,
  OutboxStore,
  RateLimitStore,
  Storage,
  StoredToken,
  TokenStore,
  VendorBlock,
  WatermarkStore,
} from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";

/** Storage in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createMemoryStorage({ clock = systemClock }: { readonly clock?: Clock } = {}): Storage {
  return {
    watermarks: createWatermarks(),
    leases: createLeases(clock),
    idempotency: createIdempotency(clock),
    tokens: createTokens(),
    outbox: createOutbox(clock),
    rateLimits: createRateLimits(clock),
  };
}

function createWatermarks(): WatermarkStore {
  const positions = new Map<string, string>();
  return {
    async get(key) {
      checkKey("watermark key", key);
      return positions.get(key);
    },
    async advance(key, from, to) {
      checkKey("watermark key", key);
      checkText("watermark position", to);
      if (positions.get(key) !== from) return false;
      positions.set(key, to);
      return true;
    },
  };
}

function createLeases(clock: Clock): LeaseStore {
  const rows = new Map<string, { holder: string; fencingToken: number; endsAt: number; ttlMs: number }>();
  const isCurrent = (lease: Lease): boolean => {
    const row = rows.get(lease.name);
    return row?.fencingToken === lease.fencingToken && row.endsAt > clock.now().getTime();
  };
  return {
    async acquire(name, { holder, ttlMs }) {
      checkKey("lease name", name);
      checkText("lease holder", holder);
      const now = clock.now().getTime();
      const row = rows.get(name);
      if (row && row.endsAt > now) {
        row.endsAt = Math.min(row.endsAt, now + row.ttlMs); // further off only where the clock was set back
        return undefined;
      }
      const fencingToken = (row?.fencingToken ?? 0) + 1;
      rows.set(name, { holder, fencingToken, endsAt: now + ttlMs, ttlMs });
      return { name, holder, fencingToken, ttlMs };
    },
    async renew(lease, ttlMs) {
      if (!isCurrent(lease)) return undefined;
      rows.set(lease.name, { ...lease, ttlMs, endsAt: clock.now().getTime() + ttlMs });
      return { ...lease, ttlMs };
    },
    async release(lease) {
      if (isCurrent(lease)) rows.set(lease.name, { ...lease, endsAt: 0 });
    },
  };
}

function createIdempotency(clock: Clock): IdempotencyStore {
  const rows = new Map<string, { fingerprint: string; token: string; endsAt: number; result?: string }>();
  const rowKey = ({ scope, key }: { scope: string; key: string }) => JSON.stringify([scope, key]);
  return {
    async begin(request) {
      checkKey("idempotency scope", request.scope);
      checkKey("idempotency key", request.key);
      checkText("idempotency fingerprint", request.fingerprint);
      const now = clock.now().getTime();
      const row = rows.get(rowKey(request));
      if (row) {
        if (row.fingerprint !== request.fingerprint) return { state: "mismatch" };
        if (row.result !== undefined) return { state: "done", result: row.result };
        if (row.endsAt > now) return { state: "running" };
      }
      const token = crypto.randomUUID();
      rows.set(rowKey(request), { fingerprint: request.fingerprint, token, endsAt: now + request.ttlMs });
      return { state: "started", claim: { scope: request.scope, key: request.key, token } };
    },
    async complete(claim, result) {
      checkText("idempotency result", result);
      const row = rows.get(rowKey(claim));
      if (row?.token !== claim.token || row.result !== undefined) return false;
      rows.set(rowKey(claim), { ...row, result });
      return true;
    },
    async abandon(claim) {
      const row = rows.get(rowKey(claim));
      if (row?.token === claim.token && row.result === undefined) rows.delete(rowKey(claim));
    },
  };
}

function createTokens(): TokenStore {
  const rows = new Map<string, StoredToken>();
  return {
    async get(key) {
      checkKey("token key", key);
      return rows.get(key);
    },
    async save(key, pair, expectedVersion) {
      checkKey("token key", key);
      checkText("access token", pair.accessToken);
      if (pair.refreshToken !== undefined) checkText("refresh token", pair.refreshToken);
      if (rows.get(key)?.version !== expectedVersion) return undefined;
      const stored: StoredToken = { ...pair, version: (expectedVersion ?? 0) + 1, state: "active" };
      rows.set(key, stored);
      return stored;
    },
    async markNeedsReauth(key, version) {
      const row = rows.get(key);
      if (row?.version !== version) return false;
      rows.set(key, { ...row, state: "needs_reauth" });
      return true;
    },
  };
}

function createOutbox(clock: Clock): OutboxStore {
  interface Row {
    readonly id: string;
    readonly topic: string;
    readonly key: string;
    readonly destination: string;
    readonly payload: string;
    readonly createdAt: number;
    state: OutboxState;
    attempts: number;
    dueAt: number;
    claim?: string;
    claimEndsAt: number;
    lastError?: string;
  }
  const rows = new Map<string, Row>(); // insertion order is the order of enqueueing

  const end = (message: ClaimedMessage, state: OutboxState, error?: string): boolean => {
    const row = rows.get(message.id);
    if (row?.state !== "pending" || row.claim !== message.claim) return false;
    row.state = state;
    row.dueAt = clock.now().getTime();
    row.claimEndsAt = 0;
    delete row.claim;
    if (error !== undefined) row.lastError = error;
    return true;
  };

  return {
    async enqueue(messages) {
      for (const { id, topic, key, destination = key, payload } of messages) {
        checkKey("message id", id);
        checkKey("message topic", topic);
        checkKey("message key", key);
        checkKey("message destination", destination);
        checkText("message payload", payload);
      }
      let added = 0;
      const now = clock.now().getTime();
      for (const { id, topic, key, destination = key, payload, delayMs = 0 } of messages) {
        if (rows.has(id)) continue;
        added++;
        rows.set(id, {
          id,
          topic,
          key,
          destination,
          payload,
          createdAt: now,
          state: "pending",
          attempts: 0,
          dueAt: now + delayMs,
          claimEndsAt: 0,
        });
      }
      return added;
    },
    async claim({ topic, limit, ttlMs, maxPerDestination }) {
      const now = clock.now().getTime();
      const claimed: ClaimedMessage[] = [];
      const seenKeys = new Set<string>();
      const onTheWay = (destination: string): number =>
        [...rows.values()].filter(
          (row) =>
            row.topic === topic && row.state === "pending" && row.destination === destination && row.claimEndsAt > now,
        ).length;
      for (const row of rows.values()) {
        if (claimed.length >= limit) break;
        if (row.topic !== topic || row.state !== "pending") continue;
        const isHead = !seenKeys.has(row.key);
        seenKeys.add(row.key);
        if (!isHead || row.dueAt > now || row.claimEndsAt > now) continue;
        if (maxPerDestination !== undefined && onTheWay(row.destination) >= maxPerDestination) continue;
        row.attempts++;
        row.claim = crypto.randomUUID();
        row.claimEndsAt = now + ttlMs;
        const { id, key, payload } = row;
        claimed.push({
          id,
          topic,
          key,
          payload,
          attempt: row.attempts,
          claim: row.claim,
          createdAt: new Date(row.createdAt),
        });
      }
      return claimed;
    },
    async completeAll(messages) {
      return messages.map((message) => end(message, "delivered"));
    },
    async complete(message) {
      return end(message, "delivered");
    },
    async retry(message, { delayMs, error }) {
      if (!end(message, "pending", error)) return false;
      (rows.get(message.id) as Row).dueAt = clock.now().getTime() + delayMs;
      return true;
    },
    async bury(message, error) {
      return end(message, "dead", error);
    },
    async redeliver(id) {
      checkKey("message id", id);
      const row = rows.get(id);
      if (!row) return false;
      const claimsOfKey = [...rows.values()]
        .filter((other) => other !== row && other.topic === row.topic && other.key === row.key)
        .map(({ claimEndsAt }) => claimEndsAt);
      row.state = "pending";
      row.attempts = 0;
      row.dueAt = Math.max(clock.now().getTime(), ...claimsOfKey);
      return true;
    },
    async get(id) {
      checkKey("message id", id);
      const row = rows.get(id);
      if (!row) return undefined;
      const { topic, key, payload, state, attempts, lastError } = row;
      const entry: OutboxEntry = {
        id,
        topic,
        key,
        payload,
        state,
        attempts,
        createdAt: new Date(row.createdAt),
        dueAt: new Date(row.dueAt),
        ...(lastError === undefined ? {} : { lastError }),
      };
      return entry;
    },
    async nextDueAt(topic) {
      let next: number | undefined;
      const seenKeys = new Set<string>();
      for (const row of rows.values()) {
        if (row.topic !== topic || row.state !== "pending" || seenKeys.has(row.key)) continue;
        seenKeys.add(row.key);
        next = Math.min(next ?? Number.POSITIVE_INFINITY, Math.max(row.dueAt, row.claimEndsAt));
      }
      return next === undefined ? undefined : new Date(next);
    },
  };
}

function createRateLimits(clock: Clock): RateLimitStore {
  interface Row {
    /** When the bucket would be empty if no further slot were taken; absent before the first reservation. */
    readonly drainedAt?: number;
    readonly pausedUntil: number;
    readonly writtenAt: number;
    readonly block?: VendorBlock;
  }
  const rows = new Map<string, Row>();
  /** As of now: if the clock was set back since the row was written, its instants come along. */
  const find = (account: string): Row => {
    checkKey("rate limit account", account);
    const row = rows.get(account);
    const now = clock.now().getTime();
    if (!row) return { pausedUntil: 0, writtenAt: now };
    const setBack = Math.max(0, row.writtenAt - now);
    const { drainedAt } = row;
    return {
      ...row,
      ...(drainedAt === undefined ? {} : { drainedAt: drainedAt - setBack }),
      pausedUntil: row.pausedUntil - setBack,
      writtenAt: now,
    };
  };
  return {
    async reserve(account, { intervalMs, capacity = 1 }) {
      const now = clock.now().getTime();
      const row = find(account);
      if (row.block) return { state: "blocked", block: row.block };
      const interval = Math.ceil(intervalMs); // whole milliseconds, rounded to the slower side
      const bucket = interval * capacity;
      // After a pause the bucket counts as full: the first slot is its end, the next ones follow at the pace.
      const afterPause = row.pausedUntil + bucket - interval;
      const drainedAt = Math.max(row.drainedAt ?? now + bucket, now, afterPause) + interval;
      rows.set(account, { ...row, drainedAt });
      return { state: "reserved", waitMs: Math.max(0, drainedAt - bucket - now) };
    },
    async penalize(account, pauseMs) {
      const row = find(account);
      const until = clock.now().getTime() + Math.ceil(pauseMs);
      rows.set(account, { ...row, pausedUntil: Math.max(row.pausedUntil, until) });
    },
    async status(account) {
      const { pausedUntil, block } = find(account);
      const pauseMs = Math.max(0, pausedUntil - clock.now().getTime());
      return block ? { pauseMs, block } : { pauseMs };
    },
    async block(account, code) {
      const row = find(account);
      checkText("block code", code);
      rows.set(account, { ...row, block: row.block ?? { since: clock.now(), code } });
    },
    async unblock(account) {
      const { block, pausedUntil, writtenAt } = find(account);
      if (!block && pausedUntil <= writtenAt) return false;
      rows.delete(account); // what was never seen starts with a full bucket
      return true;
    },
  };
}
