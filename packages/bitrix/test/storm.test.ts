import { silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
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

const pairCount = 40;
const ticks = 30;
const editsPerTick = 12;

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

test("after a storm on both sides every pair agrees and the writes stop", { timeout: 60_000 }, async () => {
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

  portal.setEventCopies(() => (numbers.chance(0.1) ? 0 : numbers.chance(0.05) ? 2 : 1));
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
    if (tick === 10 || tick === 20) {
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
  expect(settledAfter).toBeLessThan(20);
});
