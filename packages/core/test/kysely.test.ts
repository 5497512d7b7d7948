import { existsSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "kysely";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ConfigError } from "../src/index.ts";
import {
  columnTypes,
  insertAbsent,
  insertIfAbsent,
  migrate,
  nowMs,
  openDatabase,
  transaction,
} from "../src/kysely/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;

    async function withTable(): Promise<TestDatabase> {
      database = await open();
      await migrateTable(database);
      return database;
    }

    async function migrateTable({ db, dialect }: TestDatabase): Promise<void> {
      const types = columnTypes(dialect);
      await migrate({
        db,
        dialect,
        prefix: "shop",
        migrations: {
          "001_item": {
            up: async (connection) => {
              await connection.schema
                .createTable("shop_item")
                .ifNotExists()
                .addColumn("id", types.key, (column) => column.primaryKey())
                .addColumn("amount", types.integer64, (column) => column.notNull())
                .addColumn("body", types.text)
                .execute();
            },
          },
        },
      });
    }

    afterEach(() => database?.close());

    test("answers a ping", async () => {
      database = await open();
      await database.ping();
    });

    test("migrates once when ten callers come at the same time", async () => {
      database = await open();
      await Promise.all(Array.from({ length: 10 }, () => migrateTable(database)));
      const rows = await database.db.selectFrom("shop_migration").select("name").execute();
      expect(rows.map((row) => row.name)).toEqual(["001_item"]);
    });

    test("inserts a key once, also among twenty contenders", async () => {
      const { db, dialect } = await withTable();
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, amount) => insertIfAbsent(db, dialect, "shop_item", { id: "race", amount })),
      );
      expect(results.filter(Boolean)).toHaveLength(1);
    });

    test("inserts the absent ones of many rows and leaves the others as they are", async () => {
      const { db, dialect } = await withTable();
      const rows = ["a", "b", "c"].map((id, amount) => ({ id, amount }));
      await insertIfAbsent(db, dialect, "shop_item", { id: "b", amount: 7 });
      await insertAbsent(db, dialect, { table: "shop_item", key: "id", rows });
      await insertAbsent(db, dialect, { table: "shop_item", key: "id", rows: [] });
      const found = await db.selectFrom("shop_item").select(["id", "amount"]).orderBy("id").execute();
      expect(found.map(({ id, amount }) => [id, Number(amount)])).toEqual([
        ["a", 0],
        ["b", 7],
        ["c", 2],
      ]);
    });

    test("tells keys apart by case, by a trailing space and by е and ё", async () => {
      const { db, dialect } = await withTable();
      const keys = ["order-a", "order-A", "order-a ", "заказ-е", "заказ-ё"];
      for (const id of keys) expect(await insertIfAbsent(db, dialect, "shop_item", { id, amount: 0 })).toBe(true);
      const found = await db.selectFrom("shop_item").select("id").where("id", "=", "order-a").execute();
      expect(found.map(({ id }) => id)).toEqual(["order-a"]);
    });

    test("keeps a body of 400 kB and an amount of 15 digits", async () => {
      const { db, dialect } = await withTable();
      const body = "Ә€😀\\'\n".repeat(40_000);
      await insertIfAbsent(db, dialect, "shop_item", { id: "big", amount: 123_456_789_012_345, body });
      const row = await db.selectFrom("shop_item").selectAll().executeTakeFirst();
      expect(row?.body).toBe(body);
      expect(Number(row?.amount)).toBe(123_456_789_012_345);
    });

    test("loses none of forty simultaneous increments", async () => {
      const { db, dialect } = await withTable();
      await insertIfAbsent(db, dialect, "shop_item", { id: "counter", amount: 0 });
      await Promise.all(
        Array.from({ length: 40 }, () =>
          transaction(db, dialect, (trx) =>
            trx.updateTable("shop_item").set({ amount: sql`amount + 1` }).where("id", "=", "counter").execute(),
          ),
        ),
      );
      const row = await db.selectFrom("shop_item").select("amount").executeTakeFirst();
      expect(Number(row?.amount)).toBe(40);
    });

    test("undoes the work of a transaction that throws, and joins the caller's transaction", async () => {
      const { db, dialect } = await withTable();
      const failing = transaction(db, dialect, async (trx) => {
        await transaction(trx, dialect, (inner) => insertIfAbsent(inner, dialect, "shop_item", { id: "a", amount: 1 }));
        throw new Error("no");
      });
      await expect(failing).rejects.toThrow("no");
      expect(await db.selectFrom("shop_item").select("id").execute()).toEqual([]);
    });

    test("runs both of two transactions that lock the same rows in opposite order", async () => {
      const { db, dialect } = await withTable();
      for (const id of ["a", "b"]) await insertIfAbsent(db, dialect, "shop_item", { id, amount: 0 });
      const bothStarted = Promise.withResolvers<void>();
      let started = 0;
      const touch = (first: string, second: string) =>
        transaction(db, dialect, async (trx) => {
          await trx.updateTable("shop_item").set({ amount: sql`amount + 1` }).where("id", "=", first).execute();
          // SQLite runs them one after the other, so there the second has not started.
          if (++started >= 2 || dialect === "sqlite") bothStarted.resolve();
          await bothStarted.promise;
          await trx.updateTable("shop_item").set({ amount: sql`amount + 1` }).where("id", "=", second).execute();
        });
      await Promise.all([touch("a", "b"), touch("b", "a")]);
      const rows = await db.selectFrom("shop_item").select("amount").execute();
      expect(rows.map(({ amount }) => Number(amount))).toEqual([2, 2]);
    });

    test("reads the time inside a statement", async () => {
      database = await open();
      const { rows } = await sql<{ now: unknown }>`select ${nowMs(database.dialect)} as now`.execute(database.db);
      const differenceMs = Math.abs(Number(rows[0]?.now) - Date.now());
      expect(differenceMs).toBeLessThan(60_000);
    });
  });
}

describe("SQLite", () => {
  test("refuses the outer handle inside a transaction instead of waiting for itself", async () => {
    const { db, dialect, close } = await openDatabase("sqlite::memory:");
    const mistaken = transaction(db, dialect, () => sql`select 1`.execute(db));
    await expect(mistaken).rejects.toThrow("use the handle that the transaction gives");
    await sql`select 1`.execute(db);
    await close();
  });

  test("waits for another connection that holds the file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "orderbridge-"));
    const path = `sqlite:${join(folder, "x.db")}`;
    const [first, second] = [await openDatabase(path), await openDatabase(path)];
    await sql`create table item (n integer)`.execute(first.db);
    const taken = Promise.withResolvers<void>();
    const holding = transaction(first.db, "sqlite", async (trx) => {
      await sql`insert into item values (1)`.execute(trx);
      taken.resolve();
      await new Promise((resolve) => setTimeout(resolve, 50));
    });
    await taken.promise;
    await sql`insert into item values (2)`.execute(second.db);
    await holding;
    const { rows } = await sql<{ n: number }>`select n from item order by rowid`.execute(second.db);
    expect(rows.map(({ n }) => n)).toEqual([1, 2]);
    await first.close();
    await second.close();
    rmSync(folder, { recursive: true });
  });
});

test.each(["", "orders.db", "sqlite:", "mongodb://localhost/x"])("refuses the address %j", async (url) => {
  await expect(openDatabase(url)).rejects.toThrow(ConfigError);
});

describe("a SQLite file that is missing", () => {
  let folder: string;
  beforeEach(() => {
    folder = realpathSync(mkdtempSync(join(tmpdir(), "orderbridge-")));
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true });
  });

  test("is refused in a missing folder, which is named and not created", async () => {
    const missing = join(folder, "тапсырыс");
    await expect(openDatabase(`sqlite:${join(missing, "x.db")}`)).rejects.toThrow(`the folder ${missing} of`);
    expect(existsSync(missing)).toBe(false);
  });

  test("is created with its folder inside the working folder", async () => {
    vi.spyOn(process, "cwd").mockReturnValue(folder);
    const path = join(folder, "..data", "x.db");
    const { ping, close } = await openDatabase(`sqlite:${path}`);
    await ping();
    await close();
    expect(existsSync(path)).toBe(true);
  });

  test("is refused with mustExist, and not created", async () => {
    const path = join(folder, "x.db");
    await expect(openDatabase(`sqlite:${path}`, { mustExist: true })).rejects.toThrow(`no database file ${path}`);
    expect(existsSync(path)).toBe(false);
    const { ping, close } = await openDatabase(`sqlite:${path}`);
    await ping();
    await close();
    const again = await openDatabase(`sqlite:${path}`, { mustExist: true });
    await again.ping();
    await again.close();
  });
});
