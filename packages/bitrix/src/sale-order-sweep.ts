import type { Bitrix } from "./bitrix.ts";
import { orderTopic } from "./orders.ts";
import type { BitrixStorage } from "./storage.ts";
import { createSweep, type Sweep, type SweepOptions } from "./sweep.ts";

export interface SaleOrderSweepOptions extends SweepOptions {
  readonly bitrix: Pick<Bitrix, "list">;
  readonly storage: Pick<BitrixStorage, "work">;
  /** Name of the status sync of these orders. */
  readonly sync: string;
}

/**
 * Finds the changes of the store's orders, payments included, whose events were lost: `ONSALEORDERSAVED` is sent once.
 * Reads the orders by their time of change, with overlap. For a sync whose left side is `createSaleOrderSide`.
 *
 * @see apidocs.bitrix24.ru, "sale.order.list" (read 2026-11)
 */
export function createSaleOrderSweep(options: SaleOrderSweepOptions): Sweep {
  const { bitrix, storage, sync } = options;
  return createSweep({
    ...options,
    name: `bitrix-sale-order-sweep:${sync}`,
    async look(since, signal) {
      let found = 0;
      let newestMs: number | undefined;
      const rows = bitrix.list<Readonly<Record<string, unknown>>>(
        "sale.order.list",
        { select: ["id", "dateUpdate"], filter: { ">=dateUpdate": since.toISOString() } },
        signal ? { signal } : {},
      );
      for await (const { id, dateUpdate } of rows) {
        newestMs = Math.max(newestMs ?? 0, Date.parse(String(dateUpdate)) || 0);
        await storage.work.mark(orderTopic, String(id));
        found++;
      }
      return { found, newestMs };
    },
  });
}
