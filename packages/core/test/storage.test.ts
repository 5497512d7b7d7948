import type { KyselyPlugin } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createKyselyStorage, type KyselyStorage, transaction } from "../src/kysely/index.ts";
import { createFakeClock, type FakeClock } from "../src/testing/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

const day = 86_400_000;
const tables = ["watermark", "lease", "idempotency", "token", "outbox", "rate_limit"];
const message = (id: string) => ({ id, topic: "webhook", key: id, payload: id });

class Crash extends Error {}

/** Ends the work before or after the statement of a number, as a killed process does. Counts when `at` is absent. */
function crashPoint(at?: { readonly statement: number; readonly when: "before" | "after" }) {
  let statements = 0;
  const plugin: KyselyPlugin = {
    transformQuery({ node }) {
      statements++;
      if (at?.when === "before" && at.statement === statements) throw new Crash();
      return node;
    },
    async transformResult({ result }) {
      if (at?.when === "after" && at.statement === statements) throw new Crash();
      return result;
    },
  };
  return { plugin, count: () => statements };
}

/** One tick of a job: every port takes part, and a second run after a crash must end in the same state. */
async function tick({ leases, watermarks, idempotency, tokens, outbox, rateLimits }: KyselyStorage): Promise<void> {
  const lease = await leases.acquire("import", { holder: "a", ttlMs: 1000 });
  if (!lease) throw new Error("the lease was not free");
  await rateLimits.reserve("vendor", { intervalMs: 100 });
  const begun = await idempotency.begin({ scope: "order", key: "7", fingerprint: "f", ttlMs: 1000 });
  if (begun.state === "started") {
    await outbox.enqueue([message("order-7 created"), message("order-7 paid")]);
    await idempotency.complete(begun.claim, "deal 1");
  }
  const stored = await tokens.get("vendor");
  if (stored?.version !== 2) await tokens.save("vendor", { accessToken: "next" }, stored?.version);
  const claimed = await outbox.claim({ topic: "webhook", limit: 10, ttlMs: 1000 });
  for (const one of claimed) await outbox.complete(one);
  await watermarks.advance("feed", await watermarks.get("feed"), "order 7");
  await leases.release(lease);
}

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    let clock: FakeClock;
    let storage: KyselyStorage;
    beforeAll(async () => {
      database = await open();
      await createKyselyStorage(database).migrate();
    });
    beforeEach(async () => {
      for (const table of tables) await database.db.deleteFrom(`orderbridge_${table}`).execute();
      clock = createFakeClock();
      storage = createKyselyStorage({ ...database, clock });
    });
    afterAll(() => database?.close());

    test("a message is gone when the caller's transaction is undone, and there when it is not", async () => {
      const { db, dialect } = database;
      const enqueue = (id: string, fails: boolean) =>
        transaction(db, dialect, async (trx) => {
          await createKyselyStorage({ db: trx, dialect }).outbox.enqueue([message(id)]);
          if (fails) throw new Error("undo");
        });
      await expect(enqueue("undone", true)).rejects.toThrow("undo");
      await enqueue("kept", false);
      expect(await storage.outbox.get("undone")).toBeUndefined();
      expect((await storage.outbox.get("kept"))?.state).toBe("pending");
    });

    test("inside the caller's transaction one claim that was lost does not make the others look lost", async () => {
      const { db, dialect } = database;
      await storage.outbox.enqueue(["1", "2", "3"].map(message));
      const claimed = await storage.outbox.claim({ topic: "webhook", limit: 3, ttlMs: 1000 });
      await storage.outbox.complete(claimed[2] as NonNullable<(typeof claimed)[2]>);
      const kept = await transaction(db, dialect, (trx) =>
        createKyselyStorage({ db: trx, dialect, clock }).outbox.completeAll(claimed),
      );
      expect(kept).toEqual([true, true, false]);
      expect((await storage.outbox.get("1"))?.state).toBe("delivered");
    });

    test("a message is not handed out when an older one of its key was made due while it was claimed", async () => {
      const ofKey = (id: string) => ({ ...message(id), key: "order-7" });
      const claim = (outbox = storage.outbox) => outbox.claim({ topic: "webhook", limit: 10, ttlMs: 1000 });
      await storage.outbox.enqueue(["old", "new", "newest"].map(ofKey));
      const [old] = await claim();
      await storage.outbox.bury(old as NonNullable<typeof old>, "gone");
      let isFirst = true;
      const redelivering: KyselyPlugin = {
        transformQuery: ({ node }) => node,
        async transformResult({ result }) {
          const isFound = isFirst;
          isFirst = false;
          if (isFound) await storage.outbox.redeliver("old");
          return result;
        },
      };
      const racing = createKyselyStorage({ ...database, db: database.db.withPlugin(redelivering), clock });
      const claimed = [...(await claim(racing.outbox)), ...(await claim())];
      expect(claimed.map(({ id, attempt }) => [id, attempt])).toEqual([["old", 1]]);
      for (const one of claimed) await storage.outbox.complete(one);
      const [next] = await claim();
      expect([next?.id, next?.attempt]).toEqual(["new", 1]);
    });

    test("without a clock, leases and slots go by the database's time", async () => {
      const { leases, rateLimits, outbox } = createKyselyStorage(database);
      await leases.acquire("job", { holder: "a", ttlMs: 60_000 });
      expect(await leases.acquire("job", { holder: "b", ttlMs: 60_000 })).toBeUndefined();
      expect(await rateLimits.reserve("vendor", { intervalMs: 60_000 })).toEqual({ state: "reserved", waitMs: 60_000 });
      await outbox.enqueue([message("1")]);
      const entry = await outbox.get("1");
      expect(Math.abs((entry?.createdAt.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
      expect(await outbox.claim({ topic: "webhook", limit: 1, ttlMs: 1000 })).toHaveLength(1);
    });

    test("a crash before or after any statement leaves a state from which the next run ends well", async () => {
      const clean = crashPoint();
      await tick(createKyselyStorage({ ...database, db: database.db.withPlugin(clean.plugin), clock }));
      expect(clean.count()).toBeGreaterThan(15);
      for (let statement = 1; statement <= clean.count(); statement++) {
        for (const when of ["before", "after"] as const) {
          for (const table of tables) await database.db.deleteFrom(`orderbridge_${table}`).execute();
          await storage.tokens.save("vendor", { accessToken: "first" }, undefined);
          const { plugin } = crashPoint({ statement, when });
          const crashing = createKyselyStorage({ ...database, db: database.db.withPlugin(plugin), clock });
          await expect(tick(crashing), `${when} statement ${statement}`).rejects.toThrow(Crash);
          clock.advance(1000); // leases and claims of the killed one expire
          await tick(storage);
          const point = `${when} statement ${statement}`;
          expect(await storage.watermarks.get("feed"), point).toBe("order 7");
          expect((await storage.tokens.get("vendor"))?.version, point).toBe(2);
          expect(await storage.outbox.nextDueAt("webhook"), point).toBeUndefined();
          expect((await storage.outbox.get("order-7 paid"))?.state, point).toBe("delivered");
          const rows = await database.db.selectFrom("orderbridge_outbox").select("id").execute();
          expect(rows, point).toHaveLength(2);
          const again = await storage.idempotency.begin({ scope: "order", key: "7", fingerprint: "f", ttlMs: 1 });
          expect(again, point).toEqual({ state: "done", result: "deal 1" });
          expect(await storage.leases.acquire("import", { holder: "b", ttlMs: 1 }), point).toBeDefined();
        }
      }
    });

    test("prune keeps what was delivered late for as long as the rest", async () => {
      await storage.outbox.enqueue([message("late")]);
      clock.advance(31 * day);
      const [late] = await storage.outbox.claim({ topic: "webhook", limit: 1, ttlMs: 1000 });
      await storage.outbox.complete(late as NonNullable<typeof late>);
      clock.advance(30 * day);
      expect((await storage.prune()).outbox).toBe(0);
      expect(await storage.outbox.enqueue([message("late")])).toBe(0); // the id is still known
      clock.advance(1);
      expect((await storage.prune()).outbox).toBe(1);
    });

    test("prune deletes what ended long ago, in batches, and nothing else", async () => {
      const ids = Array.from({ length: 12 }, (_, index) => `old-${index}`);
      await storage.outbox.enqueue(ids.map(message));
      const claimed = await storage.outbox.claim({ topic: "webhook", limit: 12, ttlMs: 1000 });
      for (const one of claimed.slice(0, 10)) await storage.outbox.complete(one);
      await storage.outbox.bury(claimed[10] as (typeof claimed)[0], "gone"); // and old-11 stays pending
      const request = { scope: "order", key: "7", fingerprint: "f", ttlMs: 1000 };
      const begun = await storage.idempotency.begin(request);
      if (begun.state === "started") await storage.idempotency.complete(begun.claim, "x");
      await storage.watermarks.advance("feed", undefined, "1");
      clock.advance(30 * day);
      expect(await storage.prune()).toEqual({ outbox: 0, idempotency: 0 });
      clock.advance(2000);
      await storage.outbox.enqueue([message("new")]);
      await storage.outbox.redeliver("old-3");
      expect(await storage.prune({ batchSize: 4 })).toEqual({ outbox: 10, idempotency: 1 });
      const rows = await database.db.selectFrom("orderbridge_outbox").select("id").orderBy("position").execute();
      expect(rows.map(({ id }) => id)).toEqual(["old-3", "old-11", "new"]);
      expect((await storage.idempotency.begin(request)).state).toBe("started");
      expect(await storage.watermarks.get("feed")).toBe("1");
    });
  });
}
