import { silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createBitrix, createDealSweep } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

function setUp(movesChangeTime: boolean) {
  const clock = createFakeClock();
  const portal = createFakeBitrix({ clock, movesChangeTime, bucket: { perSecond: 1000, capacity: 100_000 } });
  portal.addCategory(9, "Опт", [{ id: "C9:NEW", name: "Жаңа", sort: 10, semantics: "process" }]);
  const storage = createBitrixMemoryStorage({ clock });
  const core = createMemoryStorage({ clock });
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(portal.handle),
    plan: { intervalMs: 0.001 },
  });
  const sweep = createDealSweep({ bitrix, storage, core, sync: "order-deal", clock, logger: silentLogger });
  const due = async () => {
    const claimed = await storage.work.claim({ topics: ["deal"], limit: 1_000, ttlMs: 60_000 });
    for (const work of claimed) await storage.work.finish(work);
    return claimed.map(({ key }) => key);
  };
  return { clock, portal, sweep, due };
}

test.each([true, false])(
  "finds a move to another funnel by the stage history, whether it changes the deal's time: %s",
  async (movesChangeTime) => {
    const { clock, portal, sweep, due } = setUp(movesChangeTime);
    const deal = portal.addDeal({ title: "Тапсырыс", UF_CRM_ORDER_ID: "order-1" });
    portal.addDeal({ title: "of nobody" });
    await sweep.sweep();
    expect(await due()).toEqual([String(deal.id)]);
    clock.advance(86_400_000);
    portal.addDeal({ title: "of nobody, a day later" }); // so that no older change is within the overlap
    await sweep.sweep();
    await due();
    portal.moveToCategory(deal.id, 9, "C9:NEW");
    await sweep.sweep();
    expect(await due()).toEqual([String(deal.id)]);
  },
);

test("finds funnel moves of more than a page, each once", async () => {
  const { clock, portal, sweep, due } = setUp(false);
  const ids = Array.from({ length: 130 }, () => portal.addDeal({ UF_CRM_ORDER_ID: "x" }).id);
  await sweep.sweep();
  await due();
  clock.advance(86_400_000);
  portal.addDeal({ title: "of nobody, a day later" });
  await sweep.sweep();
  await due();
  for (const id of ids) portal.moveToCategory(id, 9, "C9:NEW");
  await sweep.sweep();
  expect((await due()).map(Number).sort((left, right) => left - right)).toEqual(ids);
});
