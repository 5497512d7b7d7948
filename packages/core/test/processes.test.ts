import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createKyselyStorage, type KyselyStorage, migrate, openDatabase } from "../src/kysely/index.ts";
import { storageMigrations } from "../src/kysely/tables.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

const program = join(import.meta.dirname, "process.worker.ts");

/** A process of its own. Its lines arrive one by one; `undefined` at its end. */
function start(command: string, url: string, ...options: readonly string[]) {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", program, command, url, ...options]);
  const lines: string[] = [];
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  const said = (line: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => lines.includes(line) && resolve();
      child.stdout.on("data", look);
      void ended.then(() =>
        lines.includes(line) ? resolve() : reject(new Error(`it ended with: ${lines.join("; ")}`)),
      );
      look();
    });
  let rest = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  child.stderr.on("data", (chunk: Buffer) => lines.push(`error: ${chunk}`));
  return { lines, ended, said, kill: () => kill(child, ended) };
}

async function kill(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
  child.kill("SIGKILL");
  await ended;
}

const folder = mkdtempSync(join(tmpdir(), "orderbridge-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** As the shared ones, but SQLite in a file, so that processes can share it. */
const databases = testDatabases().map((entry) =>
  entry.name === "SQLite"
    ? {
        ...entry,
        async open(): Promise<TestDatabase> {
          const url = `sqlite:${join(folder, `${process.hrtime.bigint()}.db`)}`;
          return { ...(await openDatabase(url)), url };
        },
      }
    : entry,
);

for (const { name, skipped, open } of databases) {
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

    test("three processes bring old tables up to date at once, and keep what is in them", {
      timeout: 60_000,
    }, async () => {
      const old = await open();
      const { db, dialect } = old;
      const steps = Object.entries(storageMigrations(dialect)).slice(0, 4);
      await migrate({ db, dialect, prefix: "orderbridge", migrations: Object.fromEntries(steps) });
      const { tokens, outbox } = createKyselyStorage(old);
      await tokens.save("amocrm", { accessToken: "kept" }, undefined);
      const processes = Array.from({ length: 3 }, () => start("migrate", old.url));
      for (const { ended, lines } of processes) expect([await ended, lines]).toEqual([0, ["migrated"]]);
      expect((await tokens.get("amocrm"))?.accessToken).toBe("kept");
      expect(await outbox.nextDueAt("import")).toBeUndefined();
      await old.close();
    });

    test("two processes lose none of their moves of one watermark", { timeout: 60_000 }, async () => {
      await storage.migrate();
      const processes = [start("advance", database.url, "200"), start("advance", database.url, "200")];
      for (const { ended, lines } of processes) expect([await ended, lines]).toEqual([0, ["advanced"]]);
      expect(await storage.watermarks.get("counter")).toBe("400");
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
