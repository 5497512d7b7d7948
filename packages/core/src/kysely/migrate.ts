import { CreateTableNode, type KyselyPlugin, sql } from "kysely";
import { type AnyKysely, columnTypes, type DatabaseDialect, nowMs } from "./dialects.ts";
import { insertIfAbsent, transaction } from "./transaction.ts";

/** One step forward; there is no way back. One DDL statement per step, with `if not exists`: MariaDB commits each. */
export interface Migration {
  up(db: AnyKysely): Promise<void>;
}

export interface MigrateOptions {
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** Of the tables, e.g. `orderbridge`; the record of what ran is kept in `<prefix>_migration`. */
  readonly prefix: string;
  /** Run in the order of their names; a name that ran is never run again. */
  readonly migrations: Readonly<Record<string, Migration>>;
}

/**
 * Brings the tables up to date. Callers that come at the same time, from any process, wait for the first one.
 *
 * Kysely's own migrator is not used: on PostgreSQL it takes a table of the same name in another schema for its own.
 */
export async function migrate({ db, dialect, prefix, migrations }: MigrateOptions): Promise<void> {
  const table = `${prefix}_migration`;
  await locked(db, dialect, table, async (connection) => {
    const types = columnTypes(dialect);
    await connection.schema
      .createTable(table)
      .ifNotExists()
      .addColumn("name", types.key, (column) => column.primaryKey())
      .addColumn("executed_at", types.integer64, (column) => column.notNull())
      .execute();
    const rows = await connection.selectFrom(table).select("name").execute();
    const executed = new Set(rows.map(({ name }) => name as string));
    for (const name of Object.keys(migrations).sort()) {
      if (executed.has(name)) continue;
      await migrations[name]?.up(connection);
      await insertIfAbsent(connection, dialect, table, { name, executed_at: nowMs(dialect) });
    }
  });
}

/** Gives tables on MariaDB the engine and the collation that compares keys byte for byte. */
const mariadbTables: KyselyPlugin = {
  transformQuery: ({ node }) =>
    CreateTableNode.is(node)
      ? CreateTableNode.cloneWithEndModifier(
          node,
          sql`engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin`.toOperationNode(),
        )
      : node,
  transformResult: async ({ result }) => result,
};

/** Runs `work` while no other caller runs one of the same table, on a connection that is its own. */
function locked(
  db: AnyKysely,
  dialect: DatabaseDialect,
  table: string,
  work: (connection: AnyKysely) => Promise<void>,
): Promise<void> {
  if (dialect === "sqlite") return transaction(db, dialect, work);
  if (dialect === "postgres") {
    return transaction(db, dialect, async (trx) => {
      await sql`select pg_advisory_xact_lock(hashtextextended(current_schema() || '.' || ${table}, 0))`.execute(trx);
      await work(trx);
    });
  }
  return db.connection().execute(async (connection) => {
    const name = sql`md5(concat(database(), '.', ${table}))`;
    const { rows } = await sql<{ got: number }>`select get_lock(${name}, 600) as got`.execute(connection);
    if (rows[0]?.got !== 1) throw new Error(`another process has been migrating ${table} for ten minutes`);
    try {
      await work(connection.withPlugin(mariadbTables));
    } finally {
      await sql`select release_lock(${name})`.execute(connection);
    }
  });
}
