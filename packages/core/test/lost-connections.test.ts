import { sql } from "kysely";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type AnyKysely,
  createKyselyStorage,
  type KyselyStorage,
  openDatabase,
  transaction,
} from "../src/kysely/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

const message = { id: "1", topic: "webhook", key: "a", payload: "x" };

for (const { name, skipped, open } of testDatabases().filter((one) => one.name !== "SQLite")) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    let storage: KyselyStorage;
    beforeEach(async () => {
      database = await open();
      storage = createKyselyStorage(database);
      await storage.migrate();
    });
    afterEach(() => database?.close());

    /** The server's number of the connection behind a handle. */
    async function connectionId(handle: AnyKysely): Promise<number> {
      const query =
        database.dialect === "postgres" ? sql`select pg_backend_pid() as id` : sql`select connection_id() as id`;
      const { rows } = await query.execute(handle);
      return Number((rows[0] as { id: unknown }).id);
    }

    /** Ends a connection from the server's side, as a restart or a firewall does. */
    async function drop(id: number): Promise<void> {
      const other = await openDatabase(database.url);
      const command = database.dialect === "postgres" ? `select pg_terminate_backend(${id})` : `kill connection ${id}`;
      await sql.raw(command).execute(other.db);
      await other.close();
    }

    test("an idle connection that the server dropped is replaced, and ends no process", async () => {
      await drop(await connectionId(database.db));
      // Who comes before the end was noticed gets an error; the one after a while does not.
      let isAnswered = false;
      for (let attempt = 0; attempt < 20 && !isAnswered; attempt++) {
        isAnswered = await storage.outbox.enqueue([message]).then(
          () => true,
          () => false,
        );
      }
      expect((await storage.outbox.get("1"))?.state).toBe("pending");
    });

    test("a transaction whose connection is dropped fails and leaves nothing, and the next one works", async () => {
      const { db, dialect } = database;
      const dropped = transaction(db, dialect, async (trx) => {
        await createKyselyStorage({ db: trx, dialect }).outbox.enqueue([message]);
        await drop(await connectionId(trx));
        await sql`select 1`.execute(trx);
      });
      await expect(dropped).rejects.toThrow();
      expect(await storage.outbox.get("1")).toBeUndefined();
      expect(await storage.outbox.enqueue([message])).toBe(1);
      expect(await storage.outbox.claim({ topic: "webhook", limit: 1, ttlMs: 1000 })).toHaveLength(1);
    });
  });
}
