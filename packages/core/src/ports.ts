/**
 * What the packages ask of the world around them. Each sentence of a comment is a case in the conformance suites
 * (`@orderbridge/core/testing`); an adapter that passes them may be used in place of ours.
 *
 * Keys, names, ids and topics have 1 to 191 characters and are told apart byte for byte; every text comes back byte for
 * byte. A text that cannot be stored so is refused with a `RangeError` that names the field.
 *
 * On PostgreSQL and MariaDB leases, due times and slots are judged by the database's clock inside the statement; the
 * in-memory and SQLite adapters use the injected {@link Clock}.
 */

/** The only source of time in our sources, apart from a server database's own clock. */
export interface Clock {
  now(): Date;
  /** Milliseconds that never jump: for judging how long something has lasted. The origin means nothing. */
  monotonicMs(): number;
  /** Resolves after `ms`; rejects with the signal's reason when it is aborted first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Any logger with four methods; `console` fits. */
export interface Logger {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

export type TelemetryAttributes = Readonly<Record<string, string | number>>;

/** Something that takes time and may fail. */
export interface TelemetryOperation {
  /** One attempt of a call to a vendor, one run of a job, one delivery of an outbox message. */
  readonly kind: "request" | "job" | "delivery";
  /** `amocrm leads.create`, `import`, `webhook`: few different ones. */
  readonly name: string;
  /**
   * request: `vendor`, `call`. job: `job`. delivery: `topic`. Noted at the end: `outcome` (of a request as the
   * errors say, of a delivery `done`, `retry` or `bury`), `status` (HTTP).
   */
  readonly attributes: TelemetryAttributes;
}

/** Where durations and counts go. Names and attributes never hold an address, an id of an order, or a secret. */
export interface Telemetry {
  /** Runs `work` and gives or throws what it does. `note` adds attributes that are known only at the end. */
  operation<T>(
    operation: TelemetryOperation,
    work: (note: (attributes: TelemetryAttributes) => void) => Promise<T>,
  ): Promise<T>;
  /** A caller has waited so long for its slot, in milliseconds. */
  waited(waitMs: number, attributes: TelemetryAttributes): void;
  /** A call will be sent again. */
  retried(attributes: TelemetryAttributes): void;
}

/** Position in a feed that is read in order. */
export interface WatermarkStore {
  /** Current position; `undefined` before the first move. */
  get(key: string): Promise<string | undefined>;
  /** Moves `from` → `to`. Resolves to `false`, changing nothing, when the position is not `from`. */
  advance(key: string, from: string | undefined, to: string): Promise<boolean>;
}

export interface Lease {
  readonly name: string;
  readonly holder: string;
  /** Grows by one with each new holder of this name; a write that carries an older one must be refused. */
  readonly fencingToken: number;
  /** Life from the moment of acquiring or renewing, in milliseconds. */
  readonly ttlMs: number;
}

/**
 * One holder at a time, for a limited time. A clock that was set back makes nobody wait longer than a lease's whole life
 * from the next time that somebody asks.
 */
export interface LeaseStore {
  /** Resolves to `undefined` while somebody holds the name, the same holder included. */
  acquire(name: string, options: { readonly holder: string; readonly ttlMs: number }): Promise<Lease | undefined>;
  /** Resolves to `undefined` when the lease expired or changed hands: stop working then. */
  renew(lease: Lease, ttlMs: number): Promise<Lease | undefined>;
  /** Frees the name at once; does nothing when the lease expired or changed hands. */
  release(lease: Lease): Promise<void>;
}

export type IdempotencyResult =
  /** Yours to execute; `claim` proves it to `complete` and `abandon`. */
  | { readonly state: "started"; readonly claim: IdempotencyClaim }
  /** Somebody else is executing it now. */
  | { readonly state: "running" }
  /** Executed before; `result` is what `complete` stored. */
  | { readonly state: "done"; readonly result: string }
  /** The key was used with another fingerprint: refuse the request. */
  | { readonly state: "mismatch" };

export interface IdempotencyClaim {
  readonly scope: string;
  readonly key: string;
  readonly token: string;
}

/** One execution per (scope, key); later callers get the stored result. */
export interface IdempotencyStore {
  /**
   * Claims the key for `ttlMs`; after that another caller may claim it again.
   * A finished key answers `done`; another fingerprint answers `mismatch`, finished or not.
   */
  begin(request: {
    readonly scope: string;
    readonly key: string;
    readonly fingerprint: string;
    readonly ttlMs: number;
  }): Promise<IdempotencyResult>;
  /** Stores the result. Resolves to `false`, changing nothing, when the claim was lost to another caller. */
  complete(claim: IdempotencyClaim, result: string): Promise<boolean>;
  /** Gives the key back: nothing was executed. Does nothing when the claim was lost. */
  abandon(claim: IdempotencyClaim): Promise<void>;
}

export interface TokenPair {
  readonly accessToken: string;
  /** Absent for long-lived tokens that cannot be refreshed. */
  readonly refreshToken?: string;
  /** When the access token ends; absent when the vendor did not say. */
  readonly expiresAt?: Date;
  /** Host (no scheme) that the pair belongs to, for vendors with a host per account. */
  readonly host?: string;
}

export interface StoredToken extends TokenPair {
  /** 1 for the first pair; one more with each save. */
  readonly version: number;
  /** `needs_reauth`: the refresh token was refused, a person must consent again. */
  readonly state: "active" | "needs_reauth";
}

/** OAuth pairs, one per key. Refresh tokens are single-use, so every write compares the version first. */
export interface TokenStore {
  /** `undefined` before the first save. */
  get(key: string): Promise<StoredToken | undefined>;
  /**
   * Replaces the pair when the stored version is `expectedVersion` (`undefined`: no pair yet), and makes it active.
   * Resolves to `undefined`, changing nothing, when it is not.
   */
  save(key: string, pair: TokenPair, expectedVersion: number | undefined): Promise<StoredToken | undefined>;
  /** Marks the pair of exactly this version `needs_reauth`. Resolves to `false`, changing nothing, for another version. */
  markNeedsReauth(key: string, version: number): Promise<boolean>;
}

export interface OutboxMessage {
  /** Unique in the outbox; a second message with the same id is skipped. */
  readonly id: string;
  /** What kind of message, e.g. `webhook`. A claim asks for one topic. */
  readonly topic: string;
  /** Messages of one topic and key are handed out one at a time, in the order of enqueueing. */
  readonly key: string;
  /** Whom it goes to, e.g. the receiver's host: a claim may limit how many are on the way there. @defaultValue the key */
  readonly destination?: string;
  /** Text that is stored and handed out unchanged, byte for byte. */
  readonly payload: string;
  /** Wait before the first attempt, in milliseconds. @defaultValue 0 */
  readonly delayMs?: number;
}

export interface ClaimedMessage {
  readonly id: string;
  readonly topic: string;
  readonly key: string;
  readonly payload: string;
  /** 1 for the first attempt, and again for the first one after `redeliver`. */
  readonly attempt: number;
  /** Proves the claim to `complete`, `retry` and `bury`. */
  readonly claim: string;
  readonly createdAt: Date;
}

export type OutboxState = "pending" | "delivered" | "dead";

export interface OutboxEntry {
  readonly id: string;
  readonly topic: string;
  readonly key: string;
  readonly payload: string;
  readonly state: OutboxState;
  /** Attempts that were started since it was enqueued or made due again. */
  readonly attempts: number;
  readonly createdAt: Date;
  /** Of an ended message: when it ended. */
  readonly dueAt: Date;
  readonly lastError?: string;
}

/** Messages that leave after the transaction that wrote them: at least once, in order per topic and key. */
export interface OutboxStore {
  /** Duplicates by id are skipped. Resolves to the number of messages that were new. */
  enqueue(messages: readonly OutboxMessage[]): Promise<number>;
  /**
   * Claims due messages for `ttlMs`, the oldest first, at most one per key and none whose key has an older pending
   * message. An expired claim is handed out again.
   *
   * With `maxPerDestination` messages are passed over while so many of their topic and destination are claimed; callers
   * that claim in the same moment may exceed it together.
   */
  claim(options: {
    readonly topic: string;
    readonly limit: number;
    readonly ttlMs: number;
    /** @defaultValue no limit */
    readonly maxPerDestination?: number;
  }): Promise<readonly ClaimedMessage[]>;
  /** Ends delivery with success. Resolves to `false`, changing nothing, when the claim was lost. */
  complete(message: ClaimedMessage): Promise<boolean>;
  /** `complete` for several at once: in the order given, whether each claim still held. An empty list is fine. */
  completeAll(messages: readonly ClaimedMessage[]): Promise<readonly boolean[]>;
  /** Hands the message out again after `delayMs`. Resolves to `false`, changing nothing, when the claim was lost. */
  retry(message: ClaimedMessage, options: { readonly delayMs: number; readonly error: string }): Promise<boolean>;
  /** Ends delivery without success; later messages of the key go on. Resolves to `false` when the claim was lost. */
  bury(message: ClaimedMessage, error: string): Promise<boolean>;
  /**
   * Makes a delivered or dead message due at once, same id and payload, its attempts counted anew; while another message
   * of its key is claimed, when that claim expires. Resolves to `false` for an unknown id.
   */
  redeliver(id: string): Promise<boolean>;
  get(id: string): Promise<OutboxEntry | undefined>;
  /**
   * When a message of a topic can be claimed next: not before the older ones of its key, and a claimed one not before
   * its claim expires. `undefined` when none is pending.
   */
  nextDueAt(topic: string): Promise<Date | undefined>;
}

/**
 * How fast an account may be called: a leaky bucket. `capacity` 1 is plain spacing, which keeps any sliding window
 * within the limit; Bitrix24 allows a burst. A slot says when a call may leave, not when it arrives: where the vendor
 * counts strictly, leave room for a process that lags (7 a second: 155 ms rather than 143).
 */
export interface RateBudget {
  /** One slot drains each `intervalMs`. */
  readonly intervalMs: number;
  /** Slots that fit into the bucket: a whole number. @defaultValue 1 */
  readonly capacity?: number;
}

export type SlotReservation =
  | {
      readonly state: "reserved";
      readonly waitMs: number;
      /** For stores that can lose their history: changes when they did, and then the slot counts no more. */
      readonly generation?: string;
    }
  | { readonly state: "blocked"; readonly block: VendorBlock };

export interface VendorBlock {
  readonly since: Date;
  /** The vendor's code for it, e.g. `OVERLOAD_LIMIT` or `403`. */
  readonly code: string;
}

export interface RateLimitStatus {
  readonly pauseMs: number;
  readonly block?: VendorBlock;
  readonly isVoid?: true;
}

/**
 * One budget per vendor account, shared by every process that uses the same store. When the clock was set back, slots and
 * pauses lie as far ahead as they did when the store last heard of the account.
 */
export interface RateLimitStore {
  /**
   * Reserves the next free slot and tells how long to wait for it. An account that was never seen starts with a full
   * bucket: what the store cannot see counts as used. After a pause the bucket is full again. A blocked account
   * reserves nothing.
   */
  reserve(account: string, budget: RateBudget): Promise<SlotReservation>;
  /** No slot of the account lies earlier than `pauseMs` from now. A shorter pause than the standing one changes nothing. */
  penalize(account: string, pauseMs: number): Promise<void>;
  /**
   * Remaining pause in milliseconds, 0 when there is none; `block` while the account is blocked. With a `slot`,
   * `isVoid` says that the store has lost its history since: reserve another one.
   */
  status(account: string, slot?: { readonly generation?: string }): Promise<RateLimitStatus>;
  /** Stores that the vendor shut the account out. The first block stays until `unblock`. */
  block(account: string, code: string): Promise<void>;
  /**
   * Only a person's command may call this: ends a block and a pause; the account starts with a full bucket. Resolves to
   * `false` when there was neither.
   */
  unblock(account: string): Promise<boolean>;
}

/** All ports of one storage. Functions ask for the part they need: `Pick<Storage, "watermarks" | "leases">`. */
export interface Storage {
  readonly watermarks: WatermarkStore;
  readonly leases: LeaseStore;
  readonly idempotency: IdempotencyStore;
  readonly tokens: TokenStore;
  readonly outbox: OutboxStore;
  readonly rateLimits: RateLimitStore;
}
