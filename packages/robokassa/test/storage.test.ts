import { silentLogger } from "@orderbridge/core";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { reusedDatabases } from "../../core/test/reused-databases.ts";
import { createResultHandler, createRobokassa } from "../src/index.ts";
import { createRobokassaStorage } from "../src/kysely/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { robokassaStorageCases } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

describe("memory", () => {
  test.each(robokassaStorageCases)("$name", async ({ run }) => {
    await run({ storage: createRobokassaMemoryStorage({ maxRefusedCallbacks: 20 }) });
  });
});

describe.each(reusedDatabases())("$name", ({ open, skipped }) => {
  test.skipIf(skipped).each(robokassaStorageCases)("$name", async ({ run }) => {
    const database = await open();
    try {
      const storage = createRobokassaStorage({ ...database, maxRefusedCallbacks: 20 });
      await storage.migrate();
      await run({ storage });
    } finally {
      await database.close();
    }
  });
});

describe.each(testDatabases())("$name", ({ open, skipped }) => {
  test.skipIf(skipped)("a forged notification whose field names no text column takes is answered 400", async () => {
    const database = await open();
    try {
      const storage = createRobokassaStorage(database);
      await storage.migrate();
      const handle = createResultHandler({ robokassa: createRobokassa(demoShop), storage, logger: silentLogger });
      const cutInHalf = `Shp_${"a".repeat(95)}${encodeURIComponent("🖊")}`;
      const body = `OutSum=1.00&InvId=1&SignatureValue=${"0".repeat(32)}&Shp_%00=1&${cutInHalf}=1`;
      const { status } = await handle(new Request("https://shop.example/result", { method: "POST", body }));
      const [entry] = await storage.callbacks.list({ limit: 1 });
      expect([status, entry?.verdict]).toEqual([400, "bad_signature"]);
    } finally {
      await database.close();
    }
  });

  test.skipIf(skipped)("saves what onPaid wrote exactly when the payment is saved", async () => {
    const { db, dialect, close } = await open();
    try {
      const storage = createRobokassaStorage({ db, dialect });
      await storage.migrate();
      await db.schema.createTable("parcels").addColumn("id", "varchar(64)").execute();
      await storage.orders.create({ id: "order-1", test: false, total: "1000.00", description: "Қалам" });
      const book = (fails: boolean) =>
        storage.orders.bookPayment(
          { invId: "1", source: "result", paidAt: new Date("2026-11-01T10:00:00.000Z") },
          async (order, trx) => {
            await trx.insertInto("parcels").values({ id: order.id }).execute();
            if (fails) throw new Error("the warehouse is closed");
          },
        );
      const parcels = async () => (await db.selectFrom("parcels").select("id").execute()).length;
      await expect(book(true)).rejects.toThrow("the warehouse is closed");
      expect([await parcels(), (await storage.orders.get("order-1"))?.status]).toEqual([0, "new"]);
      await book(false);
      await book(false);
      expect([await parcels(), (await storage.orders.get("order-1"))?.status]).toEqual([1, "paid"]);
    } finally {
      await close();
    }
  });

  test.skipIf(skipped)("migrates again without harm, and from two callers at once", async () => {
    const database = await open();
    try {
      const storage = createRobokassaStorage(database);
      await Promise.all([storage.migrate(), storage.migrate()]);
      await storage.orders.create({ id: "order-1", test: false, total: "1000.00", description: "Қалам" });
      await storage.migrate();
      expect((await storage.orders.get("order-1"))?.invId).toBe("1");
    } finally {
      await database.close();
    }
  });
});

test("raises the first number and refuses ranges that cannot work", async () => {
  const { orders } = createRobokassaMemoryStorage({ firstLiveInvId: "9223372036854775807", firstTestInvId: "1" });
  const order = { test: false, total: "1.00", description: "A" };
  expect((await orders.create({ ...order, id: "last" }))?.invId).toBe("9223372036854775807");
  await expect(orders.create({ ...order, id: "beyond" })).rejects.toThrow("the live InvIds are used up");
  expect(() => createRobokassaMemoryStorage({ firstLiveInvId: "0" })).toThrow("firstLiveInvId");
  expect(() => createRobokassaMemoryStorage({ firstLiveInvId: "5", firstTestInvId: "5" })).toThrow("must differ");
});
