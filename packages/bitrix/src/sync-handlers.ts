import { dealTopic } from "./event-handler.ts";
import { orderTopic } from "./orders.ts";
import type { StatusSync } from "./status-sync.ts";
import type { BitrixStorage } from "./storage.ts";

/**
 * A worker's handlers for a sync of orders (left) and deals (right). What is heard of a deal becomes work of its order, so
 * that each pair is in the hands of one worker at a time.
 */
export function createSyncHandlers({
  sync,
  storage,
}: {
  readonly sync: Pick<StatusSync, "sync" | "leftOf">;
  readonly storage: Pick<BitrixStorage, "work">;
}): Readonly<Record<string, (key: string, signal?: AbortSignal) => Promise<void>>> {
  return {
    async [orderTopic](orderId, signal) {
      await sync.sync(orderId, signal ? { signal } : {});
    },
    async [dealTopic](dealId) {
      const orderId = await sync.leftOf(dealId);
      if (orderId !== undefined) await storage.work.mark(orderTopic, orderId);
    },
  };
}
