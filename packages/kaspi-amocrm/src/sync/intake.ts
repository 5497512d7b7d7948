import { type Clock, type Logger, SdkError } from "@orderbridge/core";
import type { Kaspi } from "../kaspi/client.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import { type LedgerRow, type OrderLedger, unfinishedPhases } from "../ledger.ts";
import type { RunReport } from "./options.ts";
import { writerBatch } from "./order-work.ts";
import { isFinal } from "./summary.ts";
import type { OrderWriter } from "./writer.ts";

/** Where the orders of a listing go: into the ledger, and those that need work, in batches, to the writer. */
export interface Intake {
  /** Resolves once the orders are in the ledger: from then on they are safe. */
  take(orders: readonly KaspiOrder[]): Promise<void>;
  /** Hands on what waits for its batch to fill. */
  flush(): Promise<void>;
  /** Whether it was given this order. */
  has(code: string): boolean;
}

export interface Intakes {
  open(kaspi: Kaspi, report: RunReport, needsWork: (row: LedgerRow, order: KaspiOrder) => boolean): Intake;
  /** Only counts what an intake of all due orders would do. */
  foresee(report: RunReport): Omit<Intake, "has">;
  /** Whether work is outstanding and its time has come. */
  isDue(row: LedgerRow): boolean;
}

export function createIntakes({
  orders,
  writer,
  clock,
  logger,
}: {
  readonly orders: OrderLedger;
  readonly writer: OrderWriter;
  readonly clock: Clock;
  readonly logger: Logger;
}): Intakes {
  const isDue = (row: LedgerRow): boolean => unfinishedPhases.includes(row.phase) && row.dueAt <= clock.now();

  function open(kaspi: Kaspi, report: RunReport, needsWork: (row: LedgerRow, order: KaspiOrder) => boolean): Intake {
    let waiting = new Map<string, KaspiOrder>();
    const seen = new Set<string>();

    async function flush(): Promise<void> {
      const batch = [...waiting.values()];
      waiting = new Map();
      const complete: KaspiOrder[] = [];
      for (const order of batch) {
        if (order.entries) complete.push(order);
        else {
          const entries = await entriesOf(kaspi, order, report);
          if (entries) complete.push({ ...order, entries });
        }
      }
      if (complete.length > 0) await writer.apply(complete, report);
    }

    return {
      async take(given) {
        const now = clock.now();
        const rows = await orders.observe(
          kaspi.shop,
          given.map((order) => ({
            code: order.code,
            orderedAt: order.createdAt ?? now,
            state: order.state,
            status: order.status,
            isFinal: isFinal(order),
          })),
          now,
        );
        const rowOf = new Map(rows.map((row) => [row.code, row]));
        for (const order of given) {
          if (!seen.has(order.code)) report.seen++;
          seen.add(order.code);
          const row = rowOf.get(order.code);
          if (row && needsWork(row, order)) waiting.set(order.code, order);
          if (waiting.size >= writerBatch) await flush();
        }
      },
      flush,
      has: (code: string) => seen.has(code),
    };
  }

  function foresee(report: RunReport): Omit<Intake, "has"> {
    const seen = new Set<string>();
    return {
      async take(given) {
        for (const order of given) {
          if (seen.has(order.code)) continue;
          seen.add(order.code);
          report.seen++;
          const row = await orders.get(order);
          if (!row || isDue(row)) writer.foresee(order, row, report);
        }
      },
      flush: async () => undefined,
    };
  }

  async function entriesOf(kaspi: Kaspi, order: KaspiOrder, report: RunReport) {
    try {
      return await kaspi.entries(order.id);
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome === "not-executed") throw error;
      logger.warn("kaspi-amocrm: the lines of an order could not be read; it comes again", {
        order: order.code,
        error,
      });
      report.failed++;
      return undefined;
    }
  }

  return { open, foresee, isDue };
}
