import { createFakeClock } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { type BitrixStorage, createOrders, orderTopic } from "../src/index.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { bitrixStorageCases } from "../src/testing/index.ts";

async function checkUniqueEnds(storage: BitrixStorage): Promise<void> {
  const orders = createOrders({ storage });
  const first = await orders.create({ total: "1", bitrixOrderId: "7", dealId: "9" });
  const second = await orders.create({ total: "1" });
  const taken = [{ dealId: "9" }, { bitrixOrderId: "7" }];
  for (const end of taken) {
    await expect(storage.orders.replace({ ...second, ...end, version: 2 }, [])).rejects.toThrow();
    expect(await orders.get(second.id)).toEqual(second);
  }
  expect(await storage.orders.replace({ ...first, version: 2 }, [])).toBe(true);
  expect(await storage.orders.replace({ ...second, dealId: "10", version: 2 }, [])).toBe(true);
}

async function checkPaymentFirst(storage: BitrixStorage): Promise<void> {
  const orders = createOrders({ storage });
  const { id } = await orders.create({ total: "1" });
  for (const { key } of await storage.work.claim({ topics: [orderTopic], limit: 1, ttlMs: 0 })) expect(key).toBe(id);
  for (let deal = 1; deal <= 30; deal++) await storage.work.mark("deal", String(deal), { delayMs: -60_000 });
  await orders.change(id, { paid: true }, { changedBy: "robokassa" });
  const [first] = await storage.work.claim({ topics: ["deal", orderTopic], limit: 8, ttlMs: 60_000 });
  expect(first).toMatchObject({ topic: orderTopic, key: id });
}

describe("memory", () => {
  test("hands out an order that was paid before a backlog", () => checkPaymentFirst(createBitrixMemoryStorage()));
  test("gives no order the deal or the Bitrix order of another one", () =>
    checkUniqueEnds(createBitrixMemoryStorage()));
  for (const conformance of bitrixStorageCases) {
    test(conformance.name, async () => {
      const clock = createFakeClock();
      await conformance.run({ storage: createBitrixMemoryStorage({ clock }), clock });
    });
  }
});

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    test("gives no order the deal or the Bitrix order of another one", async () => {
      const { db, dialect, close } = await open();
      try {
        const storage = createBitrixStorage({ db, dialect });
        await storage.migrate();
        await checkUniqueEnds(storage);
      } finally {
        await close();
      }
    });

    test("hands out an order that was paid before a backlog", async () => {
      const { db, dialect, close } = await open();
      try {
        const storage = createBitrixStorage({ db, dialect });
        await storage.migrate();
        await checkPaymentFirst(storage);
      } finally {
        await close();
      }
    });

    for (const conformance of bitrixStorageCases) {
      test(conformance.name, async () => {
        const { db, dialect, close } = await open();
        try {
          const clock = createFakeClock();
          const storage = createBitrixStorage({ db, dialect, clock });
          await storage.migrate();
          await conformance.run({ storage, clock });
        } finally {
          await close();
        }
      });
    }
  });
}
