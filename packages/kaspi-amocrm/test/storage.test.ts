import { createKyselyStorage, migrate } from "@orderbridge/core/kysely";
import type { FakeClock } from "@orderbridge/core/testing";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createKaspiAmocrmStorage } from "../src/kysely/index.ts";
import { kaspiAmocrmMigrations } from "../src/kysely/migrations.ts";
import { createKaspiAmocrmMemoryStorage } from "../src/memory/index.ts";
import { kaspiAmocrmStorageCases } from "../src/testing/index.ts";
import { outcomeOf } from "./outcome.ts";
import { createOrders, createSetting } from "./setting.ts";

const tables = ["order", "phone", "element", "setting", "event"];

describe("memory", () => {
  test.each(kaspiAmocrmStorageCases)("$name", ({ run }) => run(createKaspiAmocrmMemoryStorage()));
});

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    beforeAll(async () => {
      database = await open();
      await createKaspiAmocrmStorage(database).migrate();
      await createKaspiAmocrmStorage(database).migrate();
      await createKyselyStorage(database).migrate();
    });
    beforeEach(async () => {
      for (const table of tables) await sql`delete from ${sql.table(`kaspi_amocrm_${table}`)}`.execute(database.db);
    });
    afterAll(() => database?.close());

    test.each(kaspiAmocrmStorageCases)("$name", ({ run }) => run(createKaspiAmocrmStorage(database)));

    test("rows of the tables before the writer's lease had its name are claimed from token 1 on", async () => {
      const former = await open();
      try {
        const migrations = Object.entries(kaspiAmocrmMigrations(former.dialect)).filter(([step]) => step < "010");
        await migrate({ ...former, prefix: "kaspi_amocrm", migrations: Object.fromEntries(migrations) });
        await sql`insert into kaspi_amocrm_order
          (shop, code, ordered_at, phase, state, status, fingerprint, price, attempts, due_at, fence)
          values ('default', '1', 0, 'done', 'NEW', 'APPROVED_BY_BANK', 'ab12', 15980, 0, 0, 5000)`.execute(former.db);
        const { migrate: update, orders } = createKaspiAmocrmStorage(former);
        await update();
        const [row] = await orders.claim([{ shop: "default", code: "1" }], 1);
        expect(row).toMatchObject({ phase: "done", intendedStageId: undefined, priceMinor: 1_598_000 });
      } finally {
        await former.close();
      }
    });

    const core = (clock: FakeClock) => createKyselyStorage({ ...database, clock });
    const stores = (clock: FakeClock) => createKaspiAmocrmStorage({ ...database, clock });

    test("two workers, a lost answer and a change end as they do in memory", async () => {
      const play = async (setting: ReturnType<typeof createSetting>) => {
        const { kaspi, amocrm, clock, createWorker } = setting;
        for (const order of createOrders(60)) kaspi.addOrder(order);
        amocrm.faults.add({
          fault: { kind: "dropReplyAfterExecuting" },
          match: ({ method, url }) => method === "POST" && url.endsWith("/leads"),
        });
        await Promise.all([createWorker().importNew(), createWorker().importNew()]);
        kaspi.changeOrder("700000007", { state: "ARCHIVE", status: "COMPLETED" });
        clock.advance(130_000);
        await Promise.all([createWorker().importNew(), createWorker().reconcile()]);
        clock.advance(130_000);
        await createWorker().reconcile();
        return outcomeOf(amocrm);
      };
      const expected = await play(createSetting());
      expect(expected.leads).toHaveLength(60);
      expect(await play(createSetting({ stores, core }))).toEqual(expected);
    });

    test("the first reconcile after the prices of the ledger became exact leaves a manager's price", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({ stores, core, amocrm: { hasMinorUnits: true } });
      amocrm.addLead({ name: "другая" }); // by which the account shows that it keeps fractions
      const codes = ["700000001", "700000002", "700000003"];
      for (const [index, code] of codes.entries()) {
        kaspi.addOrder({ code, entries: [{ sku: "LAMP", basePrice: index === 1 ? 7990.25 : 7990, quantity: 2 }] });
      }
      await sync.importNew();
      // Two rows of the former version, which had rounded 15980.50 to 15981; the third is of today's.
      await sql`update kaspi_amocrm_order set fingerprint = ${"0".repeat(64)},
        price_minor = case code when '700000001' then 15980 else 15981 end
        where code <> '700000003'`.execute(database.db);
      const migrations = kaspiAmocrmMigrations(database.dialect);
      for (let time = 0; time < 2; time++) await migrations["013-orders-price-of-before"]?.up(database.db);
      for (const lead of amocrm.leads) lead.price = 14_000;
      for (let run = 0; run < 2; run++) {
        clock.advance(600_000);
        await sync.reconcile();
        kaspi.changeOrder("700000002", { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" });
      }
      expect(codes.map((code) => amocrm.leadOf(code)?.price)).toEqual([14_000, 14_000, 14_000]);
      kaspi.changeOrder("700000002", { entries: [{ sku: "LAMP", basePrice: 7990.25 }] });
      clock.advance(600_000);
      await sync.reconcile();
      expect(codes.map((code) => amocrm.leadOf(code)?.price)).toEqual([14_000, 7990.25, 14_000]);
    });

    test("machines whose clocks differ by 40 seconds wait equally long for what has no answer", async () => {
      if (database.dialect === "sqlite") return; // one machine
      const { kaspi, amocrm, clock, createWorker } = createSetting({ stores, core });
      kaspi.addOrder({ code: "700000001", entries: [{ sku: "LAMP", basePrice: 7990 }] });
      let late: (() => Promise<Response>) | undefined;
      const first = createWorker({
        guardFetch: (send) => async (input, init) => {
          if (late || init?.method !== "POST" || !String(input).endsWith("/leads")) return send(input, init);
          const { signal: _signal, ...request } = init;
          late = () => send(input, request);
          clock.advance(30_000);
          throw new TypeError("fetch failed");
        },
      });
      await first.importNew();
      const ahead = { ...clock, now: () => new Date(clock.now().getTime() + 40_000) };
      expect(await createWorker({ workerClock: ahead }).importNew()).toMatchObject({ created: 0 });
      clock.advance(2_000);
      await late?.(); // the vendor gets to the first request only now
      for (let run = 0; run < 2; run++) {
        clock.advance(90_000);
        await createWorker({ workerClock: ahead }).importNew();
      }
      expect(amocrm.leads).toHaveLength(1);
    });

    test("rows fall due by the server's clock", async () => {
      const { orders } = createKaspiAmocrmStorage(database);
      if (database.dialect === "sqlite") return expect(orders.now).toBeUndefined();
      const read = async () => {
        const text =
          database.dialect === "postgres" ? sql`extract(epoch from clock_timestamp())` : sql`unix_timestamp(now(3))`;
        const { rows } = await sql<{ at: string }>`select ${text} as ${sql.ref("at")}`.execute(database.db);
        return Number(rows[0]?.at) * 1000;
      };
      const before = await read();
      const now = (await orders.now?.())?.getTime();
      expect(now).toBeGreaterThanOrEqual(Math.floor(before));
      expect(now).toBeLessThanOrEqual(Math.ceil(await read()));
    });
  });
}
