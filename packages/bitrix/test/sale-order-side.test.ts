import { ConfigError, silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import {
  createBitrix,
  createDealSide,
  createEventHandler,
  createSaleOrderSide,
  createSaleOrderSweep,
  createStatusSync,
  createSyncHandlers,
  createWorker,
  dealEvents,
  orderTopic,
} from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

const orderId = 123456;
const stages = { new: "NEW", accepted: "PREPARATION", shipped: "EXECUTING", delivered: "WON", cancelled: "LOSE" };
const statuses = { new: "N", accepted: "P", shipped: "S", delivered: "F", cancelled: "D" };

/** A portal with a store: an order, its deal, and the sync between them. */
async function setUp(order: Record<string, unknown> = {}) {
  const clock = createFakeClock();
  const storage = createBitrixMemoryStorage({ clock });
  const portal = createFakeBitrix({
    clock,
    bucket: { perSecond: 1000, capacity: 10_000 },
    deliver: (request) => events(request),
  });
  const events = createEventHandler({
    storage,
    applicationTokens: ["fake-application-token"],
    topics: { ...dealEvents, ONSALEORDERSAVED: orderTopic },
    logger: silentLogger,
  });
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(portal.handle),
    plan: { intervalMs: 0.001 },
    retries: 0,
  });
  const left = createSaleOrderSide({ bitrix, statuses });
  const sync = createStatusSync({
    name: "store-deal",
    storage,
    left,
    right: createDealSide({ bitrix, stages, paidStageId: "PREPAYMENT_INVOICE" }),
    conflict: "left",
    clock,
    logger: silentLogger,
  });
  const handlers = createSyncHandlers({ sync, storage });
  const worker = createWorker({ storage, clock, retryMs: 0, logger: silentLogger, handlers });
  async function settle(): Promise<void> {
    do await portal.settled();
    while ((await worker.drain()) > 0);
  }
  portal.addShopOrder({ id: orderId, ...order });
  const deal = portal.addDeal({ title: "Заказ", UF_CRM_ORDER_ID: String(orderId) });
  await settle();
  const stageId = () => portal.deal(deal.id)?.stageId;
  return { clock, storage, portal, bitrix, left, sync, settle, dealId: deal.id, stageId };
}

test("an order of the store moves and its deal follows by one write, which settles", async () => {
  const { portal, settle, stageId } = await setUp();
  portal.changeShopOrder(orderId, { statusId: "S" });
  await settle();
  expect(stageId()).toBe("EXECUTING");
  expect(portal.writes.map(({ method }) => method)).toEqual(["crm.item.update"]);
});

test("a deal moves and the order of the store follows by one write", async () => {
  const { portal, settle, dealId } = await setUp();
  portal.moveDeal(dealId, "WON");
  await settle();
  expect(portal.shopOrder(orderId)).toMatchObject({ statusId: "F", canceled: "N" });
  expect(portal.writes).toEqual([{ method: "sale.order.update", id: orderId, fields: { statusId: "F" } }]);
});

test("a payment moves the deal at once, and only forwards", async () => {
  const { portal, settle, dealId, stageId } = await setUp();
  portal.changeShopOrder(orderId, { payed: "Y" });
  await settle();
  expect(stageId()).toBe("PREPAYMENT_INVOICE");
  portal.moveDeal(dealId, "EXECUTING");
  await settle();
  portal.changeShopOrder(orderId, { comments: "Позвонить" });
  await settle();
  expect([stageId(), portal.shopOrder(orderId)?.statusId]).toEqual(["EXECUTING", "S"]);
});

test("a payment moves the deal although the store refuses the status that came from it, which is tried again", async () => {
  const { storage, portal, sync, settle, dealId, stageId } = await setUp();
  portal.setBeforeCommand((method) =>
    method === "sale.order.update" ? { status: 400, error: 0, description: "Заказ заблокирован" } : undefined,
  );
  portal.moveDeal(dealId, "PREPARATION");
  portal.changeShopOrder(orderId, { payed: "Y" });
  await settle();
  expect([stageId(), portal.shopOrder(orderId)?.statusId]).toEqual(["PREPAYMENT_INVOICE", "N"]);
  expect(await storage.work.parked({ limit: 1 })).toMatchObject([
    { topic: orderTopic, lastError: expect.stringContaining("Заказ заблокирован") },
  ]);
  portal.setBeforeCommand(() => undefined);
  await storage.work.mark(orderTopic, String(orderId));
  await settle();
  expect([stageId(), portal.shopOrder(orderId)?.statusId]).toEqual(["PREPAYMENT_INVOICE", "P"]);
  expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined, unfollowed: undefined }]);
});

test("the flag of cancellation moves the deal, and a lost deal sets it", async () => {
  const first = await setUp();
  first.portal.changeShopOrder(orderId, { canceled: "Y" });
  await first.settle();
  expect(first.stageId()).toBe("LOSE");
  const second = await setUp();
  second.portal.moveDeal(second.dealId, "LOSE");
  await second.settle();
  expect(second.portal.shopOrder(orderId)).toMatchObject({ statusId: "D", canceled: "Y" });
  second.portal.moveDeal(second.dealId, "PREPARATION");
  await second.settle();
  expect(second.portal.shopOrder(orderId)).toMatchObject({ statusId: "P", canceled: "N" });
});

test("a status without a mapping is left alone and named", async () => {
  const { portal, sync, settle, stageId } = await setUp();
  portal.changeShopOrder(orderId, { statusId: "XX" });
  await settle();
  expect(stageId()).toBe("NEW");
  expect((await sync.links({ limit: 10 }))[0]?.note).toContain("XX");
});

test("finds the deal of an order that is heard of first", async () => {
  const { left, dealId } = await setUp();
  expect(await left.peerOf(String(orderId))).toBe(String(dealId));
  expect(await left.peerOf("999")).toBeUndefined();
});

test("an order that moved between look and write is not overwritten", async () => {
  const { portal, left } = await setUp();
  const seen = await left.read(String(orderId));
  if (!seen) throw new Error("the order is there");
  portal.changeShopOrder(orderId, { statusId: "S" });
  expect(await left.write(String(orderId), { code: "F", paid: undefined, seen, peerId: "1" })).toBe("changed");
  expect(portal.writes).toEqual([]);
});

test("the mapping is compared with the store: missing ones are an error, the rest is named", async () => {
  const { bitrix, left } = await setUp();
  expect(await left.check()).toEqual({ unmappedStatuses: [] });
  expect(await createSaleOrderSide({ bitrix, statuses: { new: "N" } }).check()).toEqual({
    unmappedStatuses: ["P", "S", "D", "F"],
  });
  await expect(createSaleOrderSide({ bitrix, statuses: { new: "N", lost: "ZZ" } }).check()).rejects.toThrow(
    ConfigError,
  );
});

test("the sweep finds a payment and a status of the store whose events were lost", async () => {
  const { clock, storage, portal, bitrix, settle, stageId } = await setUp();
  const core = createMemoryStorage({ clock });
  const sweep = createSaleOrderSweep({ bitrix, storage, core, sync: "store-deal", clock, logger: silentLogger });
  portal.setEventCopies(() => 0);
  await sweep.sweep();
  await settle();
  clock.advance(3_600_000);
  portal.changeShopOrder(orderId, { payed: "Y" });
  await sweep.sweep();
  await settle();
  expect(stageId()).toBe("PREPAYMENT_INVOICE");
  clock.advance(3_600_000);
  portal.changeShopOrder(orderId, { statusId: "S" });
  expect(await sweep.sweep()).toBe(1);
  await settle();
  expect(stageId()).toBe("EXECUTING");
});
