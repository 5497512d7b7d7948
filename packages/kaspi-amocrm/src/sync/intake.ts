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
  /**
   * Reads an order by its code. Resolves to `undefined` when Kaspi does not know it, and to "failed" when it does not give
   * it: that is noted, and the next one may be asked for.
   */
  read(code: string): Promise<KaspiOrder | "failed" | undefined>;
  /** Notes that an order could not be brought on. */
  fail(code: string, reason: string): void;
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
    const fail = (code: string, reason: string) => void failures.push({ shop: kaspi.shop, code, reason });
    const readOrder = readerOf(fail, "the order");
    const readLines = readerOf(fail, "lines");

    async function flush(): Promise<void> {
      const batch = [...waiting.values()];
      waiting = new Map();
      const complete: KaspiOrder[] = [];
      let ended: SdkError | undefined;
      for (const order of batch) {
        if (order.entries) complete.push(order);
        else if (!ended) {
          try {
            const entries = await readLines(order.code, () => kaspi.entries(order.id));
            if (entries !== "failed") complete.push({ ...order, entries });
          } catch (error) {
            if (!SdkError.isInstance(error)) throw error;
            ended = error;
          }
        }
      }
      if (complete.length > 0) await writer.apply(complete, report);
      const failed = failures;
      failures = [];
      await writer.fail(failed, report);
      if (ended) throw ended;
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
      read: (code) => readOrder(code, () => kaspi.orders.byCode(code)),
      fail,
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

/** Failures in a row that are taken for Kaspi's, and not for the orders'. */
const failuresInRow = 3;

/**
 * Readings that each concern one order. One that fails is noted for its order, so that it pauses and holds nobody up; the
 * last of three in a row is thrown too, so that an outage does not try, and park, all of them.
 */
function readerOf(fail: (code: string, reason: string) => void, what: string) {
  let inRow = 0;
  return async <T>(code: string, read: () => Promise<T>): Promise<T | "failed"> => {
    try {
      const found = await read();
      inRow = 0;
      return found;
    } catch (error) {
      if (!SdkError.isInstance(error) || !isOfOrder(error)) throw error;
      fail(code, `${what} could not be read: ${error.message}`);
      inRow = error.outcome === "refused" ? 0 : inRow + 1;
      if (inRow >= failuresInRow) throw error;
      return "failed";
    }
  };
}

/** Not when nothing was sent, or the token is refused: that is no order's fault. */
const isOfOrder = (error: SdkError): boolean =>
  error.outcome !== "not-executed" && !(error instanceof ApiError && (error.status === 401 || error.status === 403));
