import { createKyselyStorage, migrate } from "@orderbridge/core/kysely";
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
        await sql`insert into kaspi_amocrm_order (shop, code, ordered_at, phase, state, status, price, attempts, due_at, fence)
          values ('default', '1', 0, 'done', 'NEW', 'APPROVED_BY_BANK', 15980, 0, 0, 5000)`.execute(former.db);
        const { migrate: update, orders } = createKaspiAmocrmStorage(former);
        await update();
        const [row] = await orders.claim([{ shop: "default", code: "1" }], 1);
        expect(row).toMatchObject({ phase: "done", intendedStageId: undefined });
      } finally {
        await former.close();
      }
    });

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
      const core = (clock: Parameters<typeof createKyselyStorage>[0]["clock"]) =>
        createKyselyStorage({ ...database, ...(clock && { clock }) });
      expect(await play(createSetting({ stores: createKaspiAmocrmStorage(database), core }))).toEqual(expected);
    });
  });
}
