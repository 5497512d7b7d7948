import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { createFakeClock, type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import {
  type BitrixStorage,
  createBitrix,
  createDealSide,
  createEventHandler,
  createOrderSide,
  createOrders,
  createStatusSync,
  createSyncHandlers,
  createWorker,
  type DealSideOptions,
} from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

export const stages = {
  new: "NEW",
  accepted: "PREPARATION",
  in_production: "EXECUTING",
  in_delivery: "FINAL_INVOICE",
  delivered: "WON",
  cancelled: "LOSE",
};

export interface Setup {
  readonly conflict?: "left" | "right" | "latest";
  readonly clock?: FakeClock;
  /** @defaultValue memory */
  readonly storage?: BitrixStorage;
  readonly stages?: DealSideOptions["stages"];
  /** Between the client and the portal. */
  readonly wrap?: (handle: FetchHandler) => FetchHandler;
}

/** A backend and a portal that are wired like the reference server. */
export function createBackendAndPortal(options: Setup = {}) {
  const { conflict = "right", clock = createFakeClock(), wrap = (handle) => handle } = options;
  const storage = options.storage ?? createBitrixMemoryStorage({ clock });
  const portal = createFakeBitrix({
    clock,
    bucket: { perSecond: 1000, capacity: 10_000 },
    operatingLimitSeconds: 1_000_000,
    deliver: (request) => events(request),
  });
  const events = createEventHandler({ storage, applicationTokens: ["fake-application-token"], logger: silentLogger });
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(wrap(portal.handle)),
    plan: { intervalMs: 0.001 },
    operatingLimitSeconds: 1_000_000,
    retries: 0,
  });
  const orders = createOrders({ storage, clock });
  const deals = createDealSide({ bitrix, stages: options.stages ?? stages, paidStageId: "PREPAYMENT_INVOICE" });
  const sync = createStatusSync({
    name: "order-deal",
    storage,
    left: createOrderSide({ storage, changedBy: "bitrix24", clock }),
    right: deals,
    conflict,
    clock,
    logger: silentLogger,
  });
  const worker = createWorker({
    storage,
    clock,
    retryMs: 0,
    logger: silentLogger,
    handlers: createSyncHandlers({ sync, storage }),
  });
  /** Until neither events nor work are left. */
  async function settle(): Promise<void> {
    do await portal.settled();
    while ((await worker.drain()) > 0);
  }
  async function pair(stageId = "NEW") {
    const deal = portal.addDeal({ title: "Заказ", stageId });
    const order = await orders.create({ total: "1000.00", dealId: String(deal.id) });
    await settle();
    return { dealId: deal.id, orderId: order.id };
  }
  const statusOf = async (id: string) => (await orders.get(id))?.status;
  return { clock, storage, portal, bitrix, orders, deals, sync, worker, settle, pair, statusOf };
}
