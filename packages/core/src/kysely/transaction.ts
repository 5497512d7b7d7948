import { sql } from "kysely";
import { systemClock } from "../clock.ts";
import type { AnyKysely, DatabaseDialect } from "./dialects.ts";
import { insideTransaction, isSqliteBusy } from "./sqlite.ts";

const attempts = 10;

/** Serialization failure and deadlock on PostgreSQL. */
const postgresConflicts: ReadonlySet<unknown> = new Set(["40001", "40P01"]);
/** Record changed since read, lock wait timeout, deadlock on MariaDB. */
const mariadbConflicts: ReadonlySet<unknown> = new Set([1020, 1205, 1213]);
/** `ER_DUP_ENTRY` on MariaDB. */
const mariadbDuplicate = 1062;

/** Whether the database undid the work because of somebody else's, so that it may be repeated as a whole. */
function isConflict(error: unknown): boolean {
  if (typeof error !== "object" || error === null) return false;
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  return postgresConflicts.has(code) || mariadbConflicts.has(errno) || isSqliteBusy(error);
}

/** Repeats `work` after a conflict. `work` must leave nothing behind when it fails. */
export async function retryConflicts<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === attempts || !isConflict(error)) throw error;
      await systemClock.sleep(2 ** attempt * (0.5 + Math.random()));
    }
  }
}

/**
 * Runs `work` in one transaction: `begin immediate` on SQLite, the session's isolation (read committed with
 * `openDatabase`) elsewhere. Inside a transaction it joins that one.
 *
 * After a deadlock or another conflict the whole `work` runs again, so it must change nothing but the database. A
 * connection that is lost during the commit leaves open whether it was written: the error comes to the caller.
 */
export function transaction<Handle extends AnyKysely, T>(
  db: Handle,
  dialect: DatabaseDialect,
  work: (trx: Handle) => Promise<T>,
): Promise<T> {
  if (db.isTransaction) return work(db);
  return retryConflicts(() =>
    db.transaction().execute((trx) => {
      const handle = trx as unknown as Handle;
      return dialect === "sqlite" ? insideTransaction(db.getExecutor().adapter, () => work(handle)) : work(handle);
    }),
  );
}

/**
 * Inserts a row unless one with the same primary or unique key exists. Resolves to `true` when it was inserted.
 *
 * On MariaDB the duplicate's own error is read: the count of `on duplicate key update` depends on a flag of the
 * connection, and `insert ignore` would also cut values that do not fit.
 */
export async function insertIfAbsent(
  db: AnyKysely,
  dialect: DatabaseDialect,
  table: string,
  values: object,
): Promise<boolean> {
  const insert = db.insertInto(table).values(values);
  if (dialect !== "mariadb") {
    const { numInsertedOrUpdatedRows } = await insert.onConflict((conflict) => conflict.doNothing()).executeTakeFirst();
    return numInsertedOrUpdatedRows === 1n;
  }
  try {
    await insert.execute();
    return true;
  } catch (error) {
    if ((error as { errno?: unknown }).errno === mariadbDuplicate) return false;
    throw error;
  }
}

/**
 * Inserts those rows whose primary or unique key is not there yet, in one statement. Does not tell which: `key` is a column
 * of that key. At most some hundred rows, since their values are parameters.
 */
export async function insertAbsent(
  db: AnyKysely,
  dialect: DatabaseDialect,
  { table, key, rows }: { readonly table: string; readonly key: string; readonly rows: readonly object[] },
): Promise<void> {
  if (rows.length === 0) return;
  const insert = db.insertInto(table).values(rows);
  if (dialect === "mariadb") await insert.onDuplicateKeyUpdate({ [key]: sql.ref(key) }).execute();
  else await insert.onConflict((conflict) => conflict.doNothing()).execute();
}
