import type { Clock } from "@orderbridge/core";
import type { Kaspi } from "../kaspi/client.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import { maxWindowMs } from "../kaspi/windows.ts";
import type { LedgerRow, OrderLedger } from "../ledger.ts";
import type { Intake } from "./intake.ts";

const windowMs = maxWindowMs + 1;
/** A completed order may be returned within 14 days of its receipt; two more for the paper work. */
const returnsEndAfterMs = 16 * 86_400_000;
/** From how many old open orders on a span is listed as a whole instead of asking for each. */
const listFrom = 12;

export interface Sweeps {
  /** Every order of a span. */
  sweep(run: SweepRun, from: Date, to: Date): Promise<void>;
  /** Orders created before a span that may still change, span by span. */
  sweepOld(run: SweepRun, before: Date): Promise<void>;
  /** Unfinished orders that the intake has not met: read again by code. */
  resume(run: Omit<SweepRun, "assertHeld">): Promise<void>;
}

interface SweepRun {
  readonly kaspi: Kaspi;
  readonly intake: Intake;
  /** Of the job's lease. */
  readonly assertHeld: () => void;
  readonly signal: AbortSignal | undefined;
}

/** Readings of Kaspi beside the feed. */
export function createSweeps({ orders, clock }: { readonly orders: OrderLedger; readonly clock: Clock }): Sweeps {
  async function resume({ kaspi, intake, signal }: Omit<SweepRun, "assertHeld">): Promise<void> {
    for (const row of await orders.due(kaspi.shop, { at: clock.now(), limit: 500 })) {
      signal?.throwIfAborted();
      if (intake.has(row.code)) continue;
      const order = await intake.read(row.code);
      if (order === undefined) intake.fail(row.code, "Kaspi does not know this order");
      else if (order !== "failed") await intake.take([order]);
    }
  }

  async function sweep({ kaspi, intake, assertHeld, signal }: SweepRun, from: Date, to: Date): Promise<void> {
    let page: KaspiOrder[] = [];
    for await (const order of kaspi.orders.list({ createdFrom: from, createdTo: to, ...(signal && { signal }) })) {
      page.push(order);
      if (page.length === 100) {
        assertHeld();
        await intake.take(page);
        page = [];
      }
    }
    await intake.take(page);
  }

  async function sweepOld(run: SweepRun, before: Date): Promise<void> {
    const { kaspi, intake, assertHeld } = run;
    const finalAfter = new Date(clock.now().getTime() - returnsEndAfterMs);
    let after: { orderedAt: Date; code: string } | undefined;
    let group: LedgerRow[] = [];
    const look = async () => {
      const [first] = group;
      const last = group.at(-1);
      if (!first || !last) return;
      if (group.length >= listFrom) await sweep(run, first.orderedAt, last.orderedAt);
      for (const row of group) {
        if (intake.has(row.code)) continue; // a date that could not be read is not where the list has it
        assertHeld();
        const order = await intake.read(row.code);
        if (order !== undefined && order !== "failed") await intake.take([order]);
      }
      group = [];
    };
    for (;;) {
      const rows = await orders.open(kaspi.shop, { finalAfter, orderedBefore: before, after, limit: 500 });
      for (const row of rows) {
        const [first] = group;
        if (first && row.orderedAt.getTime() - first.orderedAt.getTime() >= windowMs) await look();
        group.push(row);
      }
      const last = rows.at(-1);
      if (!last) break;
      after = { orderedAt: last.orderedAt, code: last.code };
    }
    await look();
  }

  return { sweep, sweepOld, resume };
}
