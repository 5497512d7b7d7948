import { sql } from "kysely";
import { afterAll } from "vitest";
import { type TestDatabase, type TestDatabases, testDatabases } from "./databases.ts";

/**
 * {@link testDatabases} for files with many tests that only write rows: a server's database goes on to the next test,
 * emptied, because making its tables takes longer than most tests. `migrate()` is called by each test all the same.
 */
export function reusedDatabases(): readonly TestDatabases[] {
  return testDatabases().map((databases) => (databases.name === "SQLite" ? databases : reused(databases)));
}

function reused({ open, ...rest }: TestDatabases): TestDatabases {
  const opened: TestDatabase[] = [];
  const free: TestDatabase[] = [];
  afterAll(async () => {
    for (const database of opened) await database.close();
  });
  async function take(): Promise<TestDatabase> {
    const known = free.pop();
    if (known) return known;
    const database = await open();
    opened.push(database);
    return database;
  }
  return {
    ...rest,
    async open() {
      const database = await take();
      return {
        ...database,
        async close() {
          await empty(database);
          free.push(database);
        },
      };
    },
  };
}

/** What was migrated stays migrated. */
async function empty({ db, dialect }: TestDatabase): Promise<void> {
  const here = sql.raw(dialect === "postgres" ? "current_schema()" : "database()");
  const { rows } = await sql<{ name: string }>`
    select table_name as name from information_schema.tables where table_schema = ${here}`.execute(db);
  for (const { name } of rows) if (!name.endsWith("_migration")) await sql`delete from ${sql.table(name)}`.execute(db);
}
