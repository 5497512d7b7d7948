import { silentLogger, systemClock } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test, vi } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import {
  type BitrixStorage,
  createBitrix,
  createDealSide,
  createDealSweep,
  createEventHandler,
  createOrderSide,
  createOrders,
  createStatusSync,
  createSyncHandlers,
  createWorker,
} from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

/** In full: 1 000 pairs and 60 s of edits. */
const isProof = process.env.PROOF === "1";
const pairCount = isProof ? 1_000 : 40;
const ticks = isProof ? 60 : 30;
const editsPerTick = isProof ? 100 : 12;

const stages: Readonly<Record<string, string>> = {
  new: "NEW",
  accepted: "PREPARATION",
  in_production: "EXECUTING",
  in_delivery: "FINAL_INVOICE",
  delivered: "WON",
  cancelled: "LOSE",
};
const statuses = Object.keys(stages);

/** The same numbers in every run (Park and Miller, 1988). */
function createNumbers(seed: number) {
  let state = seed;
  const next = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
  return {
    chance: (share: number) => next() < share,
    pick: <Item>(items: readonly Item[]) => items[Math.floor(next() * items.length)] as Item,
  };
}

/** A storage that stops answering when its process is killed. */
function killable(storage: BitrixStorage) {
  let dead = false;
  const guard = <Store extends object>(store: Store): Store =>
    Object.fromEntries(
      Object.entries(store).map(([name, value]) => [
        name,
        typeof value === "function"
          ? async (...values: unknown[]) => {
              if (dead) throw new Error("killed");
              return value(...values);
            }
          : guard(value as object),
      ]),
    ) as Store;
  return {
    storage: guard(storage),
    kill() {
      dead = true;
    },
  };
}

test("after a storm on both sides every pair agrees and the writes stop", {
  timeout: isProof ? 400_000 : 60_000,
}, async () => {
  const numbers = createNumbers(20261123);
  const clock = createFakeClock();
  const storage = createBitrixMemoryStorage({ clock });
  const core = createMemoryStorage({ clock });
  const waiting: Request[] = [];
  const portal = createFakeBitrix({
    clock,
    bucket: { perSecond: 1000, capacity: 1_000_000 },
    operatingLimitSeconds: 10_000_000,
    async deliver(request) {
      waiting.push(request);
      return new Response(null, { status: 200 });
    },
  });
  const events = createEventHandler({ storage, applicationTokens: ["fake-application-token"], logger: silentLogger });
  const orders = createOrders({ storage, clock });

  /** One process: its own client, sync, worker and sweep on the shared database. */
  function startProcess() {
    const process = killable(storage);
    const bitrix = createBitrix({
      webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
      fetch: fetchFrom(portal.handle),
      plan: { intervalMs: 0.001 },
      operatingLimitSeconds: 10_000_000,
      retries: 0,
    });
    const sync = createStatusSync({
      name: "order-deal",
      storage: process.storage,
      left: createOrderSide({ storage: process.storage, changedBy: "bitrix24", clock }),
      right: createDealSide({ bitrix, stages, paidStageId: "PREPAYMENT_INVOICE" }),
      conflict: "latest",
      clock,
      logger: silentLogger,
    });
    const worker = createWorker({
      storage: process.storage,
      clock,
      retryMs: 0,
      claimMs: 1000,
      logger: silentLogger,
      handlers: createSyncHandlers({ sync, storage: process.storage }),
    });
    const sweep = createDealSweep({
      bitrix,
      storage: process.storage,
      core,
      sync: "order-deal",
      clock,
      logger: silentLogger,
    });
    return { ...process, worker, sweep };
  }

  /** Events come in any order. */
  async function deliverEvents(): Promise<void> {
    await portal.settled();
    while (waiting.length > 0) {
      const request = numbers.pick(waiting);
      waiting.splice(waiting.indexOf(request), 1);
      await events(request);
    }
  }

  let processes = [startProcess(), startProcess()];
  const pairs: { readonly orderId: string; readonly dealId: number }[] = [];
  for (let index = 0; index < pairCount; index++) {
    const deal = portal.addDeal({ title: `Заказ ${index}` });
    pairs.push({ dealId: deal.id, orderId: (await orders.create({ total: "10.00", dealId: String(deal.id) })).id });
  }
  await processes[0]?.worker.drain();
  expect(portal.writes).toEqual([]);

  portal.setEventCopies(() => (numbers.chance(0.01) ? 0 : numbers.chance(0.05) ? 2 : 1));
  let changes = 0;
  portal.setRobot(({ stageId }) => {
    if (!numbers.chance(0.1)) return undefined;
    const target = numbers.pick(Object.values(stages));
    if (target !== stageId) changes++;
    return target;
  });

  for (let tick = 0; tick < ticks; tick++) {
    clock.advance(1000);
    for (let edit = 0; edit < editsPerTick; edit++) {
      const { orderId, dealId } = numbers.pick(pairs);
      const status = numbers.pick(statuses);
      if (numbers.chance(0.5)) await orders.change(orderId, { status }, { changedBy: "manager" });
      else portal.moveDeal(dealId, stages[status] as string);
      changes++;
    }
    if (numbers.chance(0.2)) portal.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await deliverEvents();
    const working = processes.map(({ worker }) => worker.drain().catch(() => 0));
    if (tick === Math.floor(ticks / 3) || tick === Math.floor((ticks * 2) / 3)) {
      for (let turn = 0; turn < 30; turn++) await new Promise((resolve) => setImmediate(resolve));
      for (const process of processes) process.kill();
      await Promise.all(working);
      processes = [startProcess(), startProcess()];
    }
    await Promise.all(working);
  }

  portal.setRobot(undefined);
  portal.setEventCopies(() => 1);
  let settledAfter = 0;
  let writesBefore = -1;
  for (let round = 1; round <= 30; round++) {
    clock.advance(1000);
    await processes[0]?.sweep.sweep();
    await deliverEvents();
    await Promise.all(processes.map(({ worker }) => worker.drain()));
    if (portal.writes.length !== writesBefore) settledAfter = round;
    writesBefore = portal.writes.length;
  }

  const diverging = [];
  for (const { orderId, dealId } of pairs) {
    const status = (await orders.get(orderId))?.status ?? "";
    if (stages[status] !== portal.deal(dealId)?.stageId) diverging.push([status, portal.deal(dealId)?.stageId]);
  }
  expect(diverging).toEqual([]);
  expect(portal.writes.length / changes).toBeLessThanOrEqual(1.1);
  // 30 ticks: none of the last ten writes.
  expect(settledAfter).toBeLessThanOrEqual(20);
  recordProof("bitrix-storm", {
    pairs: pairCount,
    secondsOfEdits: ticks,
    changes,
    writes: portal.writes.length,
    writesPerChange: Number((portal.writes.length / changes).toFixed(3)),
    diverging: diverging.length,
    secondsToConverge: settledAfter,
  });
});

test("a payment is reflected in its deal by the running worker", { timeout: 120_000 }, async () => {
  const payments = isProof ? 40 : 3;
  const portal = createFakeBitrix({ costs: {}, operatingLimitSeconds: 10_000_000 });
  const storage = createBitrixMemoryStorage();
  let restedMs = 3_600_000;
  const core = createMemoryStorage({ clock: { ...systemClock, now: () => new Date(Date.now() - restedMs) } });
  // An account whose budget has rested, as between two payments of a day.
  await core.rateLimits.reserve("bitrix:fake.bitrix24.kz", { intervalMs: 500, capacity: 45 });
  restedMs = 0;
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(portal.handle),
    storage: core,
    operatingLimitSeconds: 10_000_000,
  });
  const orders = createOrders({ storage });
  const sync = createStatusSync({
    name: "order-deal",
    storage,
    left: createOrderSide({ storage, changedBy: "bitrix24" }),
    right: createDealSide({ bitrix, stages, paidStageId: "PREPAYMENT_INVOICE" }),
    conflict: "right",
    logger: silentLogger,
  });
  const worker = createWorker({ storage, logger: silentLogger, handlers: createSyncHandlers({ sync, storage }) });
  const stop = new AbortController();
  const running = worker.run(stop.signal);
  const delays: number[] = [];
  try {
    for (let index = 0; index < payments; index++) {
      const deal = portal.addDeal({});
      const { id } = await orders.create({ total: "10.00", dealId: String(deal.id) });
      await vi.waitFor(
        async () => expect((await storage.links.getByLeft("order-deal", id))?.agreed).toBeDefined(),
        20_000,
      );
      const startedAt = performance.now();
      await orders.change(id, { paid: true }, { changedBy: "robokassa" });
      await vi.waitFor(() => expect(portal.deal(deal.id)?.stageId).toBe("PREPAYMENT_INVOICE"), {
        timeout: 20_000,
        interval: 5,
      });
      delays.push(performance.now() - startedAt);
      if (isProof) await systemClock.sleep(1_500); // the pace of the budget: three calls for each
    }
  } finally {
    stop.abort();
    await running;
  }
  expect(delays).toHaveLength(payments);
  expect(portal.refusals.rate).toBe(0);
  const sorted = delays.sort((left, right) => left - right);
  recordProof("bitrix-payment", {
    payments,
    medianMs: Math.round(sorted[payments >> 1] ?? 0),
    p99Ms: Math.round(sorted[Math.ceil(payments * 0.99) - 1] ?? 0),
  });
});
