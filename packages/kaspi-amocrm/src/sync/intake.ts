import { ApiError, type Clock, SdkError } from "@orderbridge/core";
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
  /** Notes an order that Kaspi does not know (any more). */
  miss(code: string): void;
  /** Hands on what waits for its batch to fill. */
  flush(): Promise<void>;
  /** Whether it was given this order. */
  has(code: string): boolean;
}

export interface Intakes {
  open(
    kaspi: Kaspi,
    report: RunReport,
    options: {
      readonly needsWork: (row: LedgerRow, order: KaspiOrder) => boolean;
      /** Orders that are taken only when they are in the ledger: another program's. @defaultValue none */
      readonly isForeign?: (order: KaspiOrder) => boolean;
    },
  ): Intake;
  /** Only counts what an intake of all due orders would do. */
  foresee(report: RunReport): Pick<Intake, "take" | "flush">;
  /** Whether work is outstanding and its time has come. */
  isDue(row: LedgerRow): boolean;
}

export function createIntakes({
  orders,
  writer,
  clock,
}: {
  readonly orders: OrderLedger;
  readonly writer: OrderWriter;
  readonly clock: Clock;
}): Intakes {
  const isDue = (row: LedgerRow): boolean => unfinishedPhases.includes(row.phase) && row.dueAt <= clock.now();

  function open(
    kaspi: Kaspi,
    report: RunReport,
    { needsWork, isForeign = () => false }: Parameters<Intakes["open"]>[2],
  ): Intake {
    let waiting = new Map<string, KaspiOrder>();
    let failures: { readonly shop: string; readonly code: string; readonly reason: string }[] = [];
    const seen = new Set<string>();

    async function flush(): Promise<void> {
      const batch = [...waiting.values()];
      waiting = new Map();
      const complete: KaspiOrder[] = [];
      for (const order of batch) {
        if (order.entries) complete.push(order);
        else {
          try {
            complete.push({ ...order, entries: await kaspi.entries(order.id) });
          } catch (error) {
            if (!SdkError.isInstance(error) || !isOfOrder(error)) throw error;
            failures.push({ shop: kaspi.shop, code: order.code, reason: `lines could not be read: ${error.message}` });
          }
        }
      }
      if (complete.length > 0) await writer.apply(complete, report);
      const failed = failures;
      failures = [];
      await writer.fail(failed, report);
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
            mustBeKnown: isForeign(order),
          })),
          now,
        );
        const rowOf = new Map(rows.map((row) => [row.code, row]));
        for (const order of given) {
          const row = rowOf.get(order.code);
          if (!seen.has(order.code)) {
            report.seen++;
            if (!row) report.foreign++;
          }
          seen.add(order.code);
          if (row && needsWork(row, order)) waiting.set(order.code, order);
          if (waiting.size >= writerBatch) await flush();
        }
      },
      miss(code) {
        failures.push({ shop: kaspi.shop, code, reason: "Kaspi does not know this order" });
      },
      flush,
      has: (code: string) => seen.has(code),
    };
  }

  function foresee(report: RunReport): Pick<Intake, "take" | "flush"> {
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

  return { open, foresee, isDue };
}

/** Not when nothing was sent, or the token is refused: that is no order's fault. */
const isOfOrder = (error: SdkError): boolean =>
  error.outcome !== "not-executed" && !(error instanceof ApiError && (error.status === 401 || error.status === 403));
