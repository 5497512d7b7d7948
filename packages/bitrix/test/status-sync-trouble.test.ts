import { ApiError, NeedsReauthError, RequestError, silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import {
  createDealSide,
  createDealSweep,
  createOrderSide,
  createSaleOrderSide,
  createStatusSync,
  createSyncHandlers,
  createWorker,
  dealTopic,
  orderTopic,
} from "../src/index.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createBackendAndPortal as setUp, stages } from "./backend-and-portal.ts";

const statusFor = (stage: string): string => Object.entries(stages).find(([, id]) => id === stage)?.[0] ?? "no status";

/** The default funnel with a stage that nobody mapped, and another end without a sale. */
function addUnmappedStages(portal: ReturnType<typeof setUp>["portal"]): void {
  portal.addCategory(0, "Общая", [
    { id: "NEW", name: "Новая", sort: 10, semantics: "process" },
    { id: "UC_WAIT", name: "Ждём поставку", sort: 15, semantics: "process" },
    { id: "PREPARATION", name: "Подготовка", sort: 20, semantics: "process" },
    { id: "PREPAYMENT_INVOICE", name: "Предоплата", sort: 30, semantics: "process" },
    { id: "EXECUTING", name: "В работе", sort: 40, semantics: "process" },
    { id: "FINAL_INVOICE", name: "Доставка", sort: 50, semantics: "process" },
    { id: "WON", name: "Успех", sort: 60, semantics: "success" },
    { id: "LOSE", name: "Отказ", sort: 70, semantics: "failure" },
    { id: "APOLOGY", name: "Анализ отказа", sort: 80, semantics: "failure" },
  ]);
}

describe("a status without a stage", () => {
  test("that comes with a payment does not hold the payment back", async () => {
    const { portal, orders, sync, settle, pair } = setUp({ stages: { new: "NEW", delivered: "WON" } });
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { status: "paid", paid: true }, { changedBy: "bitrix" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    expect(portal.writes).toHaveLength(1);
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: "bitrix24 has no code for paid" }]);
  });

  test("a deal that a payment moved is named once the payment is withdrawn, and moves with its order's next status", async () => {
    const { portal, orders, sync, settle, pair } = setUp();
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { paid: true }, { changedBy: "bitrix" });
    await settle();
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
    await orders.change(orderId, { paid: false }, { changedBy: "bitrix" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    const [named] = await sync.links({ limit: 1 });
    expect(named?.note).toMatch(/ stands at new, bitrix24 at PREPAYMENT_INVOICE$/);
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe(stages.accepted);
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
  });

  test("is still named after another event for the pair, until the pair moves on", async () => {
    const { portal, orders, storage, sync, settle, pair, statusOf } = setUp({
      stages: { new: "NEW", delivered: "WON" },
    });
    const { dealId, orderId } = await pair();
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    for (const topic of [orderTopic, dealTopic]) {
      await storage.work.mark(topic, topic === orderTopic ? orderId : String(dealId));
      await settle();
      expect(await sync.links({ limit: 1 })).toMatchObject([{ note: "bitrix24 has no code for accepted" }]);
    }
    portal.moveDeal(dealId, "WON");
    await settle();
    expect(await statusOf(orderId)).toBe("delivered");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
  });
});

describe("a stage without a mapping", () => {
  test("is still named after another event for the deal", async () => {
    const { portal, storage, sync, settle, pair } = setUp();
    const { dealId, orderId } = await pair("PREPARATION");
    addUnmappedStages(portal);
    portal.moveDeal(dealId, "UC_WAIT");
    await settle();
    await storage.work.mark(dealTopic, String(dealId));
    await settle();
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: "unmapped UC_WAIT" }]);
    expect(await sync.sync(orderId)).toEqual({ state: "settled", unmapped: ["unmapped UC_WAIT"] });
  });

  test.each([
    ["right", "UC_WAIT", "UC_WAIT"],
    ["left", "UC_WAIT", "PREPARATION"],
    ["left", "APOLOGY", "APOLOGY"],
  ] as const)(
    "that both a manager and the order left at once: rule %s, deal to %s",
    async (conflict, stageId, final) => {
      const { portal, orders, settle, pair, statusOf } = setUp({ conflict });
      const { dealId, orderId } = await pair();
      addUnmappedStages(portal);
      await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
      portal.moveDeal(dealId, stageId);
      await settle();
      expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["accepted", final]);
    },
  );
});

/** What `bitrix sync repair` does with a pair. */
async function repair({ sync, storage, settle }: ReturnType<typeof setUp>, orderId: string): Promise<void> {
  const [link] = await sync.links({ limit: 1 });
  if (link?.unfollowed) await storage.links.put({ ...link, note: undefined, version: link.version + 1 });
  await storage.work.mark(orderTopic, orderId);
  await settle();
}

describe("a payment that the system puts back", () => {
  const refused = "bitrix24 accepted PREPAYMENT_INVOICE and put it back to NEW";

  test("is named after further events too, and told again by sync repair", async () => {
    const scene = setUp();
    const { portal, orders, sync, storage, settle, pair, statusOf } = scene;
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => (stageId === "PREPAYMENT_INVOICE" ? "NEW" : undefined));
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    await storage.work.mark(orderTopic, orderId);
    await settle();
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: refused }]);
    expect(portal.writes).toHaveLength(3);
    await repair(scene, orderId);
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: refused }]);
    expect(portal.writes).toHaveLength(6);
    portal.setRobot(undefined);
    await repair(scene, orderId);
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["new", "PREPAYMENT_INVOICE"]);
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined, unfollowed: undefined }]);
  });

  test("stays named when the order's next status moves the deal, as long as it would still move it", async () => {
    const scene = setUp();
    const { portal, orders, sync, settle, pair } = scene;
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => (stageId === "PREPAYMENT_INVOICE" ? "NEW" : undefined));
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    portal.setRobot(undefined);
    await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
    await settle();
    expect(portal.deal(dealId)?.stageId).toBe("PREPARATION");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: "bitrix24 has not taken over the payment" }]);
    await repair(scene, orderId);
    expect(portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
  });

  test.each(["it is withdrawn", "a person moves the deal on"])("is named no more once %s", async (end) => {
    const { portal, orders, sync, settle, pair } = setUp();
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => (stageId === "PREPAYMENT_INVOICE" ? "NEW" : undefined));
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await settle();
    if (end === "it is withdrawn") await orders.change(orderId, { paid: false }, { changedBy: "robokassa" });
    else portal.moveDeal(dealId, "EXECUTING");
    await settle();
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined, unfollowed: undefined }]);
  });
});

describe("sync repair follows the side that was not followed, whatever the rule", () => {
  const rules = ["left", "right", "latest"] as const;

  test.each(rules)("a status that the deal was put back from: rule %s", async (conflict) => {
    const scene = setUp({ conflict });
    const { clock, portal, orders, settle, pair, statusOf } = scene;
    const { dealId, orderId } = await pair();
    portal.setRobot(({ stageId }) => {
      clock.advance(1_000);
      return stageId === "EXECUTING" ? "NEW" : undefined;
    });
    await orders.change(orderId, { status: "in_production" }, { changedBy: "manager" });
    await settle();
    portal.setRobot(undefined);
    await repair(scene, orderId);
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["in_production", "EXECUTING"]);
  });

  test.each(rules)("a stage that had no status: rule %s", async (conflict) => {
    const clock = createFakeClock();
    const before = setUp({ clock, conflict });
    const { dealId, orderId } = await before.pair("PREPARATION");
    addUnmappedStages(before.portal);
    before.portal.moveDeal(dealId, "UC_WAIT");
    await before.settle();
    const deals = createDealSide({ bitrix: before.bitrix, stages: { ...stages, paid: "UC_WAIT" } });
    const left = createOrderSide({ storage: before.storage, changedBy: "bitrix24", clock });
    const sync = createStatusSync({
      name: "order-deal",
      storage: before.storage,
      left,
      right: deals,
      conflict,
      clock,
      logger: silentLogger,
    });
    expect(await sync.sync(orderId)).toEqual({ state: "settled", unmapped: ["unmapped UC_WAIT"] });
    const [link] = await sync.links({ limit: 1 });
    if (link) await before.storage.links.put({ ...link, note: undefined, version: link.version + 1 });
    expect(await sync.sync(orderId)).toEqual({ state: "written", sides: ["left"] });
    expect(await before.statusOf(orderId)).toBe("paid");
    expect(await sync.links({ limit: 1 })).toMatchObject([{ note: undefined }]);
  });

  test.each(rules)("a status that had no stage: rule %s", async (conflict) => {
    const { in_production: _, ...fewer } = stages;
    const scene = setUp({ conflict, stages: fewer });
    const { bitrix, clock, orders, portal, settle, storage, pair, statusOf } = scene;
    const { dealId, orderId } = await pair("PREPARATION");
    await orders.change(orderId, { status: "in_production" }, { changedBy: "manager" });
    await settle();
    const sync = createStatusSync({
      name: "order-deal",
      storage,
      left: createOrderSide({ storage, changedBy: "bitrix24", clock }),
      right: createDealSide({ bitrix, stages }),
      conflict,
      clock,
      logger: silentLogger,
    });
    expect(await sync.sync(orderId)).toMatchObject({ state: "settled" });
    const [link] = await sync.links({ limit: 1 });
    if (link) await storage.links.put({ ...link, note: undefined, version: link.version + 1 });
    await sync.sync(orderId);
    expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["in_production", "EXECUTING"]);
  });
});

test("a stage that stands for paid outranks no rule while the order says that it is not paid", async () => {
  const { portal, orders, settle, pair, statusOf } = setUp({
    conflict: "left",
    stages: { ...stages, paid: "PREPAYMENT_INVOICE" },
  });
  const { dealId, orderId } = await pair();
  await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
  portal.moveDeal(dealId, "PREPAYMENT_INVOICE");
  await settle();
  expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["accepted", "PREPARATION"]);
});

test("a write that was put back is no success for the caller of sync", async () => {
  const { portal, orders, sync, pair } = setUp();
  const { orderId } = await pair();
  portal.setRobot(({ stageId }) => (stageId === "EXECUTING" ? "NEW" : undefined));
  await orders.change(orderId, { status: "in_production" }, { changedBy: "manager" });
  expect(await sync.sync(orderId)).toEqual({
    state: "settled",
    unmapped: ["bitrix24 accepted EXECUTING and put it back to NEW"],
  });
});

describe("a deal moved and its order paid at once, rule right", () => {
  test.each(["puts the payment back once", "fails at the payment", "dies at the payment"])(
    "the order's new status is not taken for a move of the order when the portal %s, and the manager's next move stays",
    async (trouble) => {
      let moveOn: (() => void) | undefined;
      const { portal, orders, settle, pair, statusOf } = setUp({
        wrap: (handle) => async (request) => {
          const body = await request.clone().text();
          if (!moveOn || !request.url.endsWith("crm.item.update") || !body.includes("PREPAYMENT_INVOICE")) {
            return handle(request);
          }
          const move = moveOn;
          moveOn = undefined;
          if (trouble === "fails at the payment") {
            move();
            return new Response("", { status: 502 });
          }
          const answer = await handle(request);
          move();
          if (trouble === "dies at the payment") throw new TypeError("killed");
          return answer;
        },
      });
      const { dealId, orderId } = await pair();
      moveOn = () => portal.moveDeal(dealId, "EXECUTING");
      let isFirst = true;
      portal.setRobot(({ stageId }) => {
        if (trouble !== "puts the payment back once" || stageId !== "PREPAYMENT_INVOICE" || !isFirst) return undefined;
        isFirst = false;
        return "PREPARATION";
      });
      portal.moveDeal(dealId, "PREPARATION");
      await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
      await settle();
      expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["in_production", "EXECUTING"]);
    },
  );
});

test("a new deal takes the place of one that was deleted, and the order follows it", async () => {
  const { portal, orders, sync, settle, pair, statusOf } = setUp();
  const { dealId, orderId } = await pair();
  portal.deleteDeal(dealId);
  await settle();
  const deal = portal.addDeal({ UF_CRM_ORDER_ID: orderId });
  portal.moveDeal(deal.id, "WON");
  await settle();
  expect(await statusOf(orderId)).toBe("delivered");
  expect((await orders.get(orderId))?.dealId).toBe(String(deal.id));
  expect(await sync.links({ limit: 10 })).toMatchObject([{ rightId: String(deal.id), state: "active" }]);

  const second = portal.addDeal({ UF_CRM_ORDER_ID: orderId });
  portal.moveDeal(second.id, "LOSE");
  await settle();
  expect(await statusOf(orderId)).toBe("delivered");
});

test("a link field of whole numbers links too", async () => {
  const { portal, bitrix, storage, clock } = setUp();
  const { id } = portal.addDeal({ UF_CRM_ORDER_ID: 17 as unknown as string });
  const empty = portal.addDeal({ UF_CRM_ORDER_ID: 0 as unknown as string });
  expect(await createDealSide({ bitrix, stages }).peerOf(String(id))).toBe("17");
  expect(await createDealSide({ bitrix, stages }).peerOf(String(empty.id))).toBeUndefined();
  const core = createMemoryStorage({ clock });
  const sweep = createDealSweep({ bitrix, storage, core, sync: "order-deal", clock, logger: silentLogger });
  expect(await sweep.sweep()).toBe(1);
});

test("a portal that ignores the filter by the link field does not give every order the first deal", async () => {
  const deals = {
    async *list() {
      yield { id: "1", fields: { UF_CRM_ORDER_ID: "16" } } as never;
    },
  };
  const side = createSaleOrderSide({ bitrix: { orders: {} as never, deals }, statuses: { new: "N" } });
  expect(await side.peerOf("17")).toBeUndefined();
  expect(await side.peerOf("16")).toBe("1");
});

test.each([
  ["ahead of", 20 * 60_000],
  ["behind", -20 * 60_000],
])("the sweep misses nothing when this machine's clock is %s the portal's", async (_case, skewMs) => {
  const { portal, bitrix, storage, clock } = setUp();
  const ours = { ...clock, now: () => new Date(clock.now().getTime() + skewMs) };
  const core = createMemoryStorage({ clock });
  const sweep = createDealSweep({ bitrix, storage, core, sync: "order-deal", clock: ours, logger: silentLogger });
  const due = async () => {
    const claimed = await storage.work.claim({ topics: [dealTopic], limit: 100, ttlMs: 60_000 });
    for (const work of claimed) await storage.work.finish(work);
    return claimed.map(({ key }) => Number(key));
  };
  portal.setEventCopies(() => 0); // every event is lost
  const { id } = portal.addDeal({ UF_CRM_ORDER_ID: "order-1" });
  const other = portal.addDeal({ UF_CRM_ORDER_ID: "order-2" });
  await sweep.sweep();
  await due();
  for (let round = 0; round < 4; round++) {
    clock.advance(300_000);
    portal.moveDeal(round % 2 ? id : other.id, round > 1 ? "NEW" : "WON");
    clock.advance(1_000);
    await sweep.sweep();
    expect(await due()).toContain(round % 2 ? id : other.id);
  }
});

test("a worker that was held up writes nothing once another one may have the pair", async () => {
  const clock = createFakeClock();
  const { portal, bitrix, storage, orders, settle, pair, statusOf } = setUp({ clock });
  const { dealId, orderId } = await pair();
  /** The first writer waits for its slot; everybody else is served at once. */
  let release: (() => void) | undefined;
  const { promise: isWaiting, resolve: waits } = Promise.withResolvers<void>();
  const update: typeof bitrix.deals.update = async (id, fields, options) => {
    if (!release) {
      const gate = Promise.withResolvers<void>();
      release = gate.resolve;
      options?.signal?.addEventListener("abort", () => gate.reject(options.signal?.reason));
      waits();
      await gate.promise;
    }
    return bitrix.deals.update(id, fields, options);
  };
  const right = createDealSide({
    bitrix: { deals: { get: bitrix.deals.get, stages: bitrix.deals.stages, update } },
    stages,
    paidStageId: "PREPAYMENT_INVOICE",
  });
  const left = createOrderSide({ storage, changedBy: "bitrix24", clock });
  const sync = createStatusSync({
    name: "order-deal",
    storage,
    left,
    right,
    conflict: "left",
    clock,
    logger: silentLogger,
  });
  const handlers = createSyncHandlers({ sync, storage });
  const worker = () => createWorker({ storage, clock, retryMs: 0, claimMs: 300_000, logger: silentLogger, handlers });

  await orders.change(orderId, { status: "accepted" }, { changedBy: "manager" });
  const slow = worker().drain();
  await isWaiting;
  await orders.change(orderId, { status: "delivered" }, { changedBy: "manager" });
  clock.advance(200_001);
  await slow; // gives up, and as nothing is claimed then, looks again itself
  clock.advance(100_000);
  await worker().drain();
  expect(portal.deal(dealId)?.stageId).toBe("WON");
  release?.();
  await settle();
  expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["delivered", "WON"]);
  expect(portal.writes).toHaveLength(1);
});

for (const { name, skipped, open } of testDatabases()) {
  test.skipIf(skipped)(`two workers on ${name} never look at one pair at once, and both sides agree`, async () => {
    const { db, dialect, close } = await open();
    try {
      const clock = createFakeClock();
      const storage = createBitrixStorage({ db, dialect, clock });
      await storage.migrate();
      const { portal, orders, sync, pair, statusOf } = setUp({ clock, storage });
      const active = new Set<string>();
      const overlaps: string[] = [];
      const alone = Object.fromEntries(
        Object.entries(createSyncHandlers({ sync, storage })).map(([topic, handle]) => [
          topic,
          async (key: string, signal: AbortSignal) => {
            if (active.has(`${topic} ${key}`)) overlaps.push(key);
            active.add(`${topic} ${key}`);
            await handle(key, signal).finally(() => active.delete(`${topic} ${key}`));
          },
        ]),
      );
      const workers = [1, 2].map(() =>
        createWorker({ storage, clock, retryMs: 0, logger: silentLogger, handlers: alone }),
      );
      const pairs = [];
      for (let index = 0; index < 6; index++) pairs.push(await pair());
      const codes = ["PREPARATION", "EXECUTING", "FINAL_INVOICE", "WON"];
      const settle = () => Promise.all(workers.map((worker) => worker.drain()));
      for (const [round, stage] of codes.entries()) {
        const edits = pairs.map(async ({ dealId, orderId }, index) => {
          if ((index + round) % 2) portal.moveDeal(dealId, stage);
          else await orders.change(orderId, { status: statusFor(stage) }, { changedBy: "manager" });
        });
        await Promise.all([settle(), ...edits]);
        do await portal.settled();
        while ((await settle()).some((count) => count > 0));
      }
      expect(overlaps).toEqual([]);
      for (const { orderId, dealId } of pairs) {
        expect([await statusOf(orderId), portal.deal(dealId)?.stageId]).toEqual(["delivered", "WON"]);
      }
      expect(portal.writes).toHaveLength(12);
    } finally {
      await close();
    }
  });
}

describe("setting aside", () => {
  const vendor = { vendor: "bitrix" };

  test("counts only the entity's own failures: those during an outage use up none of its attempts, and its pauses grow", async () => {
    const clock = createFakeClock();
    const storage = createBitrixMemoryStorage({ clock });
    const startedAt = clock.now().getTime();
    const calls: number[] = [];
    const handlers = {
      async order() {
        calls.push((clock.now().getTime() - startedAt) / 1_000);
        if (calls.length <= 15) throw new RequestError("x", { ...vendor, code: "network", outcome: "unknown" });
        if (calls.length <= 17) throw new Error("a link was changed by another worker");
      },
    };
    const worker = createWorker({ storage, clock, logger: silentLogger, handlers, maxAttempts: 3 });
    await storage.work.mark("order", "1");
    for (let second = 0; second < 5_000; second++) {
      await worker.drain();
      clock.advance(1_000);
    }
    expect(await storage.work.get("order", "1")).toMatchObject({ state: "done" });
    const pauses = calls.slice(1).map((at, index) => at - (calls[index] ?? 0));
    expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600, 600, 1, 2]);
  });

  test.each([
    ["no answer", new RequestError("x", { ...vendor, code: "network", outcome: "unknown" }), "due"],
    [
      "a page of the web server",
      new ApiError("x", { ...vendor, status: 502, vendorCode: "NOT_JSON", outcome: "unknown" }),
      "due",
    ],
    [
      "a method that has to rest",
      new ApiError("x", { ...vendor, status: 429, vendorCode: "OPERATION_TIME_LIMIT", outcome: "not-executed" }),
      "due",
    ],
    [
      "a webhook that has ended",
      new ApiError("x", { ...vendor, status: 403, vendorCode: "INVALID_CREDENTIALS", outcome: "refused" }),
      "due",
    ],
    [
      "an entity that may not be seen",
      new ApiError("x", { ...vendor, status: 403, vendorCode: "ACCESS_DENIED", outcome: "refused" }),
      "parked",
    ],
    ["an application to connect again", new NeedsReauthError("bitrix"), "due"],
    [
      "a no to this entity",
      new ApiError("x", { ...vendor, status: 400, vendorCode: "", outcome: "refused" }),
      "parked",
    ],
    [
      "a server error for this entity",
      new ApiError("x", { ...vendor, status: 500, vendorCode: "INTERNAL_SERVER_ERROR", outcome: "unknown" }),
      "parked",
    ],
  ])("%s, again and again", async (_case, error, state) => {
    const clock = createFakeClock();
    const storage = createBitrixMemoryStorage({ clock });
    const handlers = {
      async order() {
        throw error;
      },
    };
    const worker = createWorker({ storage, clock, logger: silentLogger, handlers, maxAttempts: 3 });
    await storage.work.mark("order", "1");
    for (let attempt = 0; attempt < 6; attempt++) {
      await worker.drain();
      clock.advance(600_000);
    }
    expect(await storage.work.get("order", "1")).toMatchObject({ state });
  });
});
