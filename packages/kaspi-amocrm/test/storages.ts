import type { Storage } from "@orderbridge/core";
import { createKyselyStorage } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import type { FakeClock } from "@orderbridge/core/testing";
import { type KyselyPlugin, sql } from "kysely";
import { testDatabases } from "../../core/test/databases.ts";
import type { KaspiAmocrmStorage } from "../src/index.ts";
import { createKaspiAmocrmStorage } from "../src/kysely/index.ts";
import { createKaspiAmocrmMemoryStorage } from "../src/memory/index.ts";

export interface OpenStorage {
  /**
   * Empties it; spread the result into the options of `createSetting`. With `storesBudget` the budget of calls is in the
   * database too.
   */
  clear(options?: { readonly storesBudget?: boolean }): Promise<{
    readonly stores: (clock: FakeClock) => KaspiAmocrmStorage;
    readonly core: (clock: FakeClock) => Storage;
  }>;
  /** The same tables through a connection whose statements pass by a plugin; only databases have it. */
  through?(plugin: KyselyPlugin, clock: FakeClock): Pick<Storage, "watermarks" | "leases"> & KaspiAmocrmStorage;
  close(): Promise<void>;
}

const tables = [
  ...["order", "phone", "element", "setting", "event"].map((name) => `kaspi_amocrm_${name}`),
  ...["watermark", "lease", "idempotency", "token", "rate_limit"].map((name) => `orderbridge_${name}`),
];

/**
 * Memory and three databases, for one suite that runs on all. The budget of calls stays in memory, unless it is what the
 * test is about, and the test's clock rules everywhere, so that nobody waits.
 */
export function testStorages(): readonly {
  readonly name: string;
  readonly skipped: boolean;
  open(): Promise<OpenStorage>;
}[] {
  const memory = {
    name: "memory",
    skipped: false,
    open: async () => ({
      clear: async () => ({
        stores: createKaspiAmocrmMemoryStorage,
        core: (clock: FakeClock) => createMemoryStorage({ clock }),
      }),
      close: async () => undefined,
    }),
  };
  const databases = testDatabases().map(({ name, skipped, open }) => ({
    name,
    skipped,
    async open(): Promise<OpenStorage> {
      const database = await open();
      await createKaspiAmocrmStorage(database).migrate();
      await createKyselyStorage(database).migrate();
      return {
        async clear({ storesBudget = false } = {}) {
          for (const table of tables) await sql`delete from ${sql.table(table)}`.execute(database.db);
          return {
            stores: (clock) => createKaspiAmocrmStorage({ ...database, clock }),
            core: (clock) => ({
              ...createKyselyStorage({ ...database, clock }),
              ...(!storesBudget && { rateLimits: createMemoryStorage({ clock }).rateLimits }),
            }),
          };
        },
        through(plugin, clock) {
          const watched = { ...database, db: database.db.withPlugin(plugin) };
          return { ...createKyselyStorage({ ...watched, clock }), ...createKaspiAmocrmStorage({ ...watched, clock }) };
        },
        close: database.close,
      };
    },
  }));
  return [memory, ...databases];
}

/** For long suites: memory and one database in the daily run, all with `PROOF=1`. */
export const dailyStorages = (database: "SQLite" | "PostgreSQL" | "MariaDB") =>
  testStorages().filter(
    ({ name }) => process.env.PROOF === "1" || name === "memory" || name.split(" ")[0] === database,
  );
