import { type RawBuilder, sql } from "kysely";
import type { Clock, Storage } from "../ports.ts";
import { type Cipher, plainText } from "./cipher.ts";
import { type AnyKysely, type DatabaseDialect, nowMs } from "./dialects.ts";
import { createIdempotency } from "./idempotency.ts";
import { createLeases } from "./leases.ts";
import { migrate } from "./migrate.ts";
import { createOutbox } from "./outbox.ts";
import { type PruneCounts, type PruneOptions, prune } from "./prune.ts";
import { createRateLimits } from "./rate-limits.ts";
import { type StorageKysely, storageMigrations, type Tables } from "./tables.ts";
import { createTokens, reencryptTokens } from "./tokens.ts";
import { insertIfAbsent, retryConflicts, transaction } from "./transaction.ts";
import { createWatermarks } from "./watermarks.ts";

export interface KyselyStorageOptions {
  /** A handle of `openDatabase`, your own Kysely, or a transaction: then everything happens inside it. */
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** Replaces the database's own clock: for tests. On SQLite the machine's clock is the default. */
  readonly clock?: Clock;
  /** Encrypts access and refresh tokens, e.g. `createCipher({ keys: process.env.ENCRYPTION_KEYS })`. Left out: plain. */
  readonly cipher?: Cipher;
}

export interface KyselyStorage extends Storage {
  /** Creates or updates the tables `orderbridge_*`. Call it at start; simultaneous callers wait for the first. */
  migrate(): Promise<void>;
  /** Deletes messages and idempotency keys that ended long ago. Run it daily, as a job. */
  prune(options?: PruneOptions): Promise<PruneCounts>;
  /** After a new first key: encrypts all tokens with it. Resolves to the number of pairs that were changed. */
  reencrypt(): Promise<number>;
}

/** What the ports need of a database, with its differences inside. */
export interface StorageDatabase {
  readonly dialect: DatabaseDialect;
  /** The time, for use inside a statement. */
  now(): RawBuilder<number>;
  /** The time `ms` from now, rounded up to a whole millisecond. */
  after(ms: number): RawBuilder<number>;
  /** Runs one statement, again after a conflict. */
  run<T>(work: (db: StorageKysely) => Promise<T>): Promise<T>;
  transaction<T>(work: (db: StorageKysely) => Promise<T>): Promise<T>;
  /** Everything happens inside a transaction of the caller: what we throw undoes nothing. */
  readonly isJoined: boolean;
  insertIfAbsent(db: StorageKysely, table: keyof Tables, values: object): Promise<boolean>;
}

/** The six ports in SQL. The statements that claim something are the same on every database. */
export function createKyselyStorage({ db, dialect, clock, cipher = plainText }: KyselyStorageOptions): KyselyStorage {
  const handle: StorageKysely = db;
  const database: StorageDatabase = {
    dialect,
    now: () => nowMs(dialect, clock),
    after: (ms) => sql<number>`${nowMs(dialect, clock)} + ${Math.ceil(ms)}`,
    run: (work) => (handle.isTransaction ? work(handle) : retryConflicts(() => work(handle))),
    transaction: (work) => transaction(handle, dialect, work),
    isJoined: handle.isTransaction,
    insertIfAbsent: (inner, table, values) => insertIfAbsent(inner, dialect, table, values),
  };
  return {
    watermarks: createWatermarks(database),
    leases: createLeases(database),
    idempotency: createIdempotency(database),
    tokens: createTokens(database, cipher),
    outbox: createOutbox(database),
    rateLimits: createRateLimits(database),
    migrate: () => migrate({ db, dialect, prefix: "orderbridge", migrations: storageMigrations(dialect) }),
    prune: (options) => prune(database, options),
    reencrypt: () => reencryptTokens(database, cipher),
  };
}
