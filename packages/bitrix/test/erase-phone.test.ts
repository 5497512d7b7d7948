import { createFakeClock } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { erasePhone } from "../src/kysely/erase-phone.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    test("a phone goes out of every stored text, however it is spaced; other texts stay", async () => {
      const { db, dialect, close } = await open();
      try {
        const clock = createFakeClock();
        const storage = createBitrixStorage({ db, dialect, clock });
        await storage.migrate();
        const errors = ["8 (701) 123-45-67 занят", "+77011234567", "77019999999", "жауап 422"];
        for (const [index, error] of errors.entries()) {
          await storage.work.mark("product", `${index}`);
          const [work] = await storage.work.claim({ topics: ["product"], limit: 1, ttlMs: 60_000 });
          if (work) await storage.work.park(work, error);
        }
        const order = {
          id: "order-1",
          bitrixOrderId: undefined,
          dealId: undefined,
          total: "1000.00",
          status: "new",
          statusChangedAt: clock.now(),
          paidAt: undefined,
          paidBy: undefined,
          siteVersion: undefined,
          siteChangedAt: undefined,
          version: 1,
          createdAt: clock.now(),
        };
        await storage.orders.insert(order);
        await storage.orders.replace({ ...order, status: "paid", version: 2 }, [
          { field: "status", from: "new", to: "paid", changedBy: "Айгүл, 7 701 123 45 67", changedAt: clock.now() },
        ]);
        expect((await erasePhone(db, "7011234567")).map(({ column, texts }) => [column, texts])).toEqual([
          ["bitrix_work.last_error", 2],
          ["bitrix_links.note", 0],
          ["bitrix_order_changes.changed_by", 1],
          ["bitrix_orders.paid_by", 0],
        ]);
        const parked = await storage.work.parked({ limit: 10 });
        expect(parked.map(({ lastError }) => lastError)).toEqual(["(erased)", "(erased)", "77019999999", "жауап 422"]);
        expect((await storage.orders.history("order-1")).map(({ changedBy }) => changedBy)).toEqual(["(erased)"]);
      } finally {
        await close();
      }
    });
  });
}
