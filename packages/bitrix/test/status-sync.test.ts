import { silentLogger } from "@orderbridge/core";
import { fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, createDealSide, createEventHandler, dealTopic } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createBackendAndPortal as setUp, stages } from "./backend-and-portal.ts";

test("a deal moves to WON and its order follows, without a write to the deal", async () => {
  const { portal, orders, settle, pair } = setUp();
  const { dealId, orderId } = await pair();
  portal.moveDeal(dealId, "WON");
  await settle();
  expect((await orders.get(orderId))?.status).toBe("delivered");
  expect(await orders.history(orderId)).toMatchObject([{ from: "new", to: "delivered", changedBy: "bitrix24" }]);
  expect(portal.writes).toEqual([]);
});

test("an order moves and its deal follows by one write, whose echo moves nothing", async () => {
  const { portal, orders, sync, settle, pair } = setUp();
  const { dealId, orderId } = await pair();
  await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
  await settle();
  expect(portal.deal(dealId)?.stageId).toBe("PREPARATION");
  expect(portal.writes).toHaveLength(1);
  expect(await orders.history(orderId)).toHaveLength(1);
  expect(await sync.links({ limit: 10 })).toMatchObject([{ echoes: 1, nearMisses: 0 }]);
});

describe("payment", () => {
  test("moves the deal to the paid stage at once, by one write, and leaves the order's status alone", async () => {
    const { portal, settle, orders, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    expect(portal.writes).toHaveLength(1);
    expect(await statusOf(orderId)).toBe("new");
  });

  test.each(["EXECUTING", "WON", "LOSE"])("does not move a deal back from %s", async (stageId) => {
    const { portal, settle, orders, pair } = setUp();
    const { dealId, orderId } = await pair(stageId);
    const before = portal.writes.length;
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe(stageId);
    expect(portal.writes).toHaveLength(before);
  });

  test("goes with a status of the same change in one write", async () => {
    const { portal, settle, orders, pair } = setUp();
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { status: "accepted", paid: true }, { changedBy: "manager" });
    await settle();
    expect(portal.writes).toHaveLength(1);
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
  });

  test("is not repeated when the reply was lost, nor taken for a manager's move", async () => {
    const { portal, settle, orders, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair();
    portal.faults.add({
      fault: { kind: "dropReplyAfterExecuting" },
      match: ({ url }) => url.endsWith("crm.item.update"),
    });
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    expect(portal.writes).toHaveLength(1);
    expect(await statusOf(orderId)).toBe("new");
  });
});

describe("both sides move before the sync looks", () => {
  test.each([
    ["left", "accepted", "EXECUTING", "accepted", "PREPARATION"],
    ["right", "accepted", "EXECUTING", "in_production", "EXECUTING"],
    ["left", "accepted", "LOSE", "cancelled", "LOSE"],
    ["right", "cancelled", "EXECUTING", "cancelled", "LOSE"],
    ["left", "accepted", "WON", "delivered", "WON"],
    ["right", "delivered", "EXECUTING", "delivered", "WON"],
  ] as const)("%s rule: order to %s, deal to %s", async (conflict, status, stageId, finalStatus, finalStage) => {
    const { portal, settle, orders, pair, statusOf } = setUp({ conflict });
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { status }, { changedBy: "manager" });
    portal.moveDeal(dealId, stageId);
    await settle();
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual([finalStatus, finalStage]);
  });

  test("latest takes the side that moved later", async () => {
    const { clock, portal, settle, orders, pair, statusOf } = setUp({ conflict: "latest" });
    const { dealId, orderId } = await pair();
    portal.moveDeal(dealId, "EXECUTING");
    clock.advance(1000);
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["accepted", "PREPARATION"]);
  });
});

describe("trouble", () => {
  test("a stage without a mapping leaves the order alone and is named; a payment still goes through", async () => {
    const { portal, sync, settle, orders, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair("PREPARATION");
    portal.addCategory(0, "Общая", [
      { id: "NEW", name: "Новая", sort: 10, semantics: "process" },
      { id: "UC_NYL06U", name: "Ждём поставку", sort: 15, semantics: "process" },
      { id: "PREPARATION", name: "Подготовка", sort: 20, semantics: "process" },
      { id: "PREPAYMENT_INVOICE", name: "Предоплата", sort: 30, semantics: "process" },
      { id: "EXECUTING", name: "В работе", sort: 40, semantics: "process" },
      { id: "FINAL_INVOICE", name: "Доставка", sort: 50, semantics: "process" },
      { id: "WON", name: "Успех", sort: 60, semantics: "success" },
      { id: "LOSE", name: "Отказ", sort: 70, semantics: "failure" },
    ]);
    portal.moveDeal(dealId, "UC_NYL06U");
    await settle();
    expect(await statusOf(orderId)).toBe("accepted");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: "unmapped UC_NYL06U" }]);
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
  });

  test("a mapping with stages that the funnel does not have is refused by name", async () => {
    const { portal } = setUp();
    const bitrix = createBitrix({
      webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
      fetch: fetchFrom(portal.handle),
      plan: { intervalMs: 0.001 },
    });
    await expect(createDealSide({ bitrix, stages: { new: "C9:NEW" } }).check()).rejects.toThrow(/no C9:NEW/);
    expect((await createDealSide({ bitrix, stages }).check()).unmappedStages).toEqual([
      "PREPAYMENT_INVOICE",
      "APOLOGY",
    ]);
  });

  test("a deal is found by its link field, once, and the link field is written with the first move", async () => {
    const { portal, orders, settle } = setUp();
    const order = await orders.create({ total: "5.00" });
    await settle();
    const deal = portal.addDeal({ UF_CRM_ORDER_ID: order.id });
    portal.moveDeal(deal.id, "WON");
    await settle();
    expect(await orders.get(order.id)).toMatchObject({ status: "delivered", dealId: String(deal.id) });

    const second = await orders.create({ total: "5.00", dealId: String(portal.addDeal({}).id) });
    await settle();
    await orders.change(second.id, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect(portal.deal(Number(second.dealId))?.fields.UF_CRM_ORDER_ID).toBe(second.id);
  });

  test("a deleted deal leaves its order as it is", async () => {
    const { portal, orders, sync, settle, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair();
    portal.deleteDeal(dealId);
    await settle();
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect(await statusOf(orderId)).toBe("accepted");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ state: "lost" }]);
  });

  test("a robot that moves the deal on after our write is followed, and it settles", async () => {
    const { portal, orders, settle, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => (stageId === "PREPARATION" ? "EXECUTING" : undefined));
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["in_production", "EXECUTING"]);
    expect(portal.writes).toHaveLength(1);
  });

  test("a robot that puts the deal back at once has refused it the third time: the pair stands apart, named, and is not written again", async () => {
    const { portal, orders, sync, settle, pair, statusOf } = setUp();
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => (stageId === "PREPARATION" ? "NEW" : undefined));
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    for (let round = 0; round < 10; round++) await settle();
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["accepted", "NEW"]);
    expect(portal.writes).toHaveLength(3);
    expect(await sync.links({ limit: 1 })).toMatchObject([
      { state: "active", note: "bitrix24 accepted PREPARATION and put it back to NEW" },
    ]);

    portal.moveDeal(dealId, "EXECUTING");
    await settle();
    expect(await statusOf(orderId)).toBe("in_production");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
  });

  test("a storm of doubled events on both sides settles with one write per change", async () => {
    const { portal, orders, settle, pair, statusOf } = setUp();
    const pairs = [];
    for (let index = 0; index < 20; index++) pairs.push(await pair());
    portal.setEventCopies((_event, index) => (index % 5 === 0 ? 3 : 1));
    const statuses = ["accepted", "in_production", "in_delivery", "delivered"];
    const codes = ["PREPARATION", "EXECUTING", "FINAL_INVOICE", "WON"];
    for (let round = 0; round < 4; round++) {
      for (const [index, { dealId, orderId }] of pairs.entries()) {
        if ((index + round) % 2) portal.moveDeal(dealId, codes[round] as string);
        else await orders.change(orderId, { status: statuses[round] as string }, { changedBy: "manager" });
      }
      await settle();
    }
    for (const { dealId, orderId } of pairs) {
      expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["delivered", "WON"]);
    }
    expect(portal.writes).toHaveLength(40);
  });
});

describe("events", () => {
  const form = (fields: Record<string, string>) =>
    new Request("http://backend/bitrix/events", { method: "POST", body: new URLSearchParams(fields) });
  const good = {
    event: "ONCRMDEALUPDATE",
    "data[FIELDS][ID]": "7405",
    "auth[application_token]": "fake-application-token",
    "auth[member_id]": "a223c6b3710f85df22e9377d6c4f7553",
  };

  test.each([
    ["a deal event", good, 200, "due"],
    ["a wrong token", { ...good, "auth[application_token]": "wrong" }, 403, undefined],
    ["another portal", { ...good, "auth[member_id]": "other" }, 403, undefined],
    ["an event that nobody asked for", { ...good, event: "ONCRMLEADUPDATE" }, 200, undefined],
    ["an event without an entity", { ...good, "data[FIELDS][ID]": "x" }, 400, undefined],
  ])("%s", async (_case, fields, status, state) => {
    const storage = createBitrixMemoryStorage();
    const handle = createEventHandler({
      storage,
      applicationTokens: ["fake-application-token"],
      memberId: "a223c6b3710f85df22e9377d6c4f7553",
      logger: silentLogger,
    });
    expect((await handle(form(fields))).status).toBe(status);
    expect((await storage.work.get(dealTopic, "7405"))?.state).toBe(state);
  });

  test("JSON is refused: the portal sends forms", async () => {
    const handle = createEventHandler({
      storage: createBitrixMemoryStorage(),
      applicationTokens: ["token"],
      logger: silentLogger,
    });
    const request = new Request("http://b/", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect((await handle(request)).status).toBe(415);
  });
});
