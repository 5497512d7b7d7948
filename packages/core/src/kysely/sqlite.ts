import { AsyncLocalStorage } from "node:async_hooks";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import {
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type DialectAdapter,
  type Driver,
  type QueryResult,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import { systemClock } from "../clock.ts";

/** How long a statement waits for another process before the error reaches the caller. */
const busyDeadlineMs = 30_000;
const statementCacheSize = 256;

/** The transactions that the current asynchronous call runs in, innermost first; known by the adapter of their handle. */
interface OpenTransaction {
  readonly adapter: DialectAdapter;
  readonly outer: OpenTransaction | undefined;
  open: boolean;
}
const openTransactions = new AsyncLocalStorage<OpenTransaction>();

/** Runs `work` marked as inside a transaction, so that a wrong handle fails at once instead of waiting for itself. */
export async function insideTransaction<T>(adapter: DialectAdapter, work: () => Promise<T>): Promise<T> {
  const transaction: OpenTransaction = { adapter, outer: openTransactions.getStore(), open: true };
  try {
    return await openTransactions.run(transaction, work);
  } finally {
    transaction.open = false;
  }
}

/** Keeps Kysely's own queue away: ours, in the driver, can tell a caller that would wait for itself. */
class QueuedSqliteAdapter extends SqliteAdapter {
  override get supportsMultipleConnections(): boolean {
    return true;
  }
}

/**
 * `node:sqlite` behind Kysely. One connection per handle, taken in turn; transactions are `begin immediate`. The
 * driver is synchronous, so SQLite itself hardly waits for other processes: we repeat after an asynchronous pause.
 */
export function createSqliteDialect(path: string): Dialect {
  const adapter = new QueuedSqliteAdapter();
  const isInOwnTransaction = (): boolean => {
    for (let store = openTransactions.getStore(); store; store = store.outer) {
      if (store.open && store.adapter === adapter) return true;
    }
    return false;
  };
  return {
    createAdapter: () => adapter,
    createDriver: () => createSqliteDriver(path, isInOwnTransaction),
    createIntrospector: (db) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  };
}

function createSqliteDriver(path: string, isInOwnTransaction: () => boolean): Driver {
  let database: DatabaseSync | undefined;
  let connection: DatabaseConnection | undefined;
  let queue: Promise<void> = Promise.resolve();
  let releaseTurn: () => void = () => undefined;

  const execute = (text: string): Promise<void> => whenFree(() => opened(database).exec(text));

  return {
    async init() {
      const { DatabaseSync } = await import("node:sqlite");
      if (path !== ":memory:") mkdirSync(dirname(path), { recursive: true });
      const file = new DatabaseSync(path, { timeout: 5 });
      database = file;
      connection = createConnection(file);
      await whenFree(() => file.exec("pragma journal_mode = wal"));
      file.exec("pragma synchronous = full");
      file.exec("pragma foreign_keys = on");
    },
    async acquireConnection() {
      if (isInOwnTransaction()) {
        throw new Error("inside a transaction on SQLite use the handle that the transaction gives, not the outer one");
      }
      const turn = queue;
      const { promise, resolve } = Promise.withResolvers<void>();
      queue = promise;
      await turn;
      releaseTurn = resolve;
      if (!connection) {
        resolve();
        throw new Error("the SQLite database is closed");
      }
      return connection;
    },
    beginTransaction: () => execute("begin immediate"),
    commitTransaction: () => execute("commit"),
    async rollbackTransaction() {
      // Some errors, a full disk for one, have already ended the transaction.
      if (opened(database).isTransaction) await execute("rollback");
    },
    async releaseConnection() {
      releaseTurn();
    },
    async destroy() {
      await queue;
      database?.close();
      database = undefined;
      connection = undefined;
    },
  };
}

function opened(database: DatabaseSync | undefined): DatabaseSync {
  if (!database) throw new Error("the SQLite database is closed");
  return database;
}

function createConnection(database: DatabaseSync): DatabaseConnection {
  const statements = new Map<string, { readonly statement: StatementSync; readonly isReader: boolean }>();
  const prepare = (text: string) => {
    const known = statements.get(text);
    if (known) return known;
    if (statements.size >= statementCacheSize) statements.clear();
    const statement = database.prepare(text);
    const prepared = { statement, isReader: statement.columns().length > 0 };
    statements.set(text, prepared);
    return prepared;
  };
  return {
    executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
      return whenFree(() => {
        const { statement, isReader } = prepare(sql);
        const values = parameters as readonly SQLInputValue[];
        if (isReader) return { rows: statement.all(...values) as R[] };
        const { changes, lastInsertRowid } = statement.run(...values);
        return { rows: [], numAffectedRows: BigInt(changes), insertId: BigInt(lastInsertRowid) };
      });
    },
    async *streamQuery<R>({ sql, parameters }: CompiledQuery): AsyncIterableIterator<QueryResult<R>> {
      for (const row of database.prepare(sql).iterate(...(parameters as readonly SQLInputValue[]))) {
        yield { rows: [row as R] };
      }
    },
  };
}

/** Whether another connection held the lock: nothing was executed. */
export function isSqliteBusy(error: unknown): boolean {
  const code = (error as { errcode?: unknown } | null)?.errcode;
  return typeof code === "number" && ((code & 0xff) === 5 || (code & 0xff) === 6); // SQLITE_BUSY, SQLITE_LOCKED
}

async function whenFree<T>(work: () => T): Promise<T> {
  const startedAt = systemClock.monotonicMs();
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 40)) {
    try {
      return work();
    } catch (error) {
      if (!isSqliteBusy(error) || systemClock.monotonicMs() - startedAt > busyDeadlineMs) throw error;
      await systemClock.sleep(pauseMs * (0.5 + Math.random()));
    }
  }
}
