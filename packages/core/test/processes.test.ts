import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createKyselyStorage, type KyselyStorage, migrate, openDatabase } from "../src/kysely/index.ts";
import { storageMigrations } from "../src/kysely/tables.ts";
import type { TestDatabase } from "./databases.ts";
import { sharedTestDatabases, startProgram } from "./programs.ts";

const isProof = process.env.PROOF === "1";
const start = (command: string, ...options: readonly string[]) =>
  startProgram("process.worker.ts", command, ...options);

for (const { name, skipped, open } of sharedTestDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    let storage: KyselyStorage;
    beforeAll(async () => {
      database = await open();
      storage = createKyselyStorage(database);
    });
    afterAll(() => database?.close());

    test("ten connections migrate an empty database at once", async () => {
      const connections = await Promise.all(Array.from({ length: 10 }, () => openDatabase(database.url)));
      await Promise.all(connections.map((connection) => createKyselyStorage(connection).migrate()));
      await Promise.all(connections.map(({ close }) => close()));
      const rows = await database.db.selectFrom("orderbridge_migration").select("name").orderBy("name").execute();
      expect(rows.map((row) => row.name)).toEqual(Object.keys(storageMigrations(database.dialect)));
    });

    test("ten processes bring old tables up to date at once, and keep what is in them", {
      timeout: 60_000,
    }, async () => {
      const old = await open();
      const { db, dialect } = old;
      const steps = Object.entries(storageMigrations(dialect)).slice(0, 4);
      await migrate({ db, dialect, prefix: "orderbridge", migrations: Object.fromEntries(steps) });
      const { tokens, outbox } = createKyselyStorage(old);
      await tokens.save("amocrm", { accessToken: "kept" }, undefined);
      const processes = Array.from({ length: 10 }, () => start("migrate", old.url));
      for (const { ended, lines } of processes) expect([await ended, lines]).toEqual([0, ["migrated"]]);
      expect((await tokens.get("amocrm"))?.accessToken).toBe("kept");
      expect(await outbox.nextDueAt("import")).toBeUndefined();
      await old.close();
    });

    test("two processes lose none of their moves of one watermark", { timeout: 120_000 }, async () => {
      await storage.migrate();
      const moves = isProof || database.dialect === "sqlite" ? 1000 : 200;
      const startedAt = performance.now();
      const processes = Array.from({ length: 2 }, () => start("advance", database.url, String(moves)));
      for (const { ended, lines } of processes) expect([await ended, lines]).toEqual([0, ["advanced"]]);
      expect(await storage.watermarks.get("counter")).toBe(String(2 * moves));
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      recordProof(`core-increments-${name.toLowerCase()}`, { processes: 2, moves: 2 * moves, lost: 0, seconds });
    });

    test("a process that is killed in the middle leaves everything to the others", { timeout: 60_000 }, async () => {
      await storage.migrate();
      const ids = Array.from({ length: 40 }, (_, index) => `order-${index}`);
      await storage.outbox.enqueue(ids.map((id, index) => ({ id, topic: "import", key: `${index % 5}`, payload: id })));
      const delivered: string[] = [];
      for (let kills = 0; kills < 4; kills++) {
        const { lines, said, kill } = start("deliver", database.url);
        await said("claimed"); // dies with a claim open, before or after it stored some of its verdicts
        await kill();
        delivered.push(...lines.filter((line) => line.startsWith("order-")));
      }
      const last = start("drain", database.url);
      expect(await last.ended).toBe(0);
      delivered.push(...last.lines.filter((line) => line.startsWith("order-")));
      expect([...new Set(delivered)].sort()).toEqual([...ids].sort());
      for (const id of ids) expect((await storage.outbox.get(id))?.state).toBe("delivered");
    });

    test("a lease outlives its killed holder by its life and no longer, and the token grows", async () => {
      await storage.migrate();
      const { said, kill } = start("hold", database.url);
      await said("holding");
      await kill();
      expect(await storage.leases.acquire("job", { holder: "next", ttlMs: 1000 })).toBeUndefined();
      let lease = undefined as Awaited<ReturnType<typeof storage.leases.acquire>>;
      while (!lease) lease = await storage.leases.acquire("job", { holder: "next", ttlMs: 1000 });
      expect(lease.fencingToken).toBe(2);
    });
  });
}
