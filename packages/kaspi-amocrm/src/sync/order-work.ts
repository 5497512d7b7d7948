import { type Clock, type HeldLease, LeaseLostError } from "@orderbridge/core";
import type { AmocrmLeads } from "../amocrm/leads.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import type { LedgerChange, LedgerRow, OrderLedger } from "../ledger.ts";
import type { RunReport } from "./options.ts";
import type { OrderLine } from "./summary.ts";

/** Orders per turn: what one request may hold by the vendor's advice. */
export const writerBatch = 50;

/** An order in work: what Kaspi says, what the ledger knows, and what is to be. */
export interface Work {
  readonly order: KaspiOrder;
  row: LedgerRow;
  readonly lines: readonly OrderLine[];
  readonly note: string;
  /** `undefined`: Kaspi did not tell the total, so the lead's is left alone. */
  readonly priceMinor: number | undefined;
  /** When an earlier attempt began writing that did not end: look before each kind of write. */
  readonly interruptedAt: Date | undefined;
  isNew: boolean;
  failure?: string;
  /** Its lead was deleted: nothing is wrong with the order. */
  isGone?: boolean;
  /** Something may still be on its way. */
  isOpen?: boolean;
}

/** Those that may be written on: nothing failed, and nothing is still on its way. */
export const alive = (works: readonly Work[]): readonly Work[] =>
  works.filter((work) => work.failure === undefined && !work.isOpen);

/** Marks those that failed because their lead was deleted. */
export async function markGone(works: readonly Work[], leads: Pick<AmocrmLeads, "get">): Promise<void> {
  for (const work of works) {
    if (work.row.leadId !== undefined) work.isGone ??= (await leads.get(work.row.leadId)) === undefined;
  }
}

/** One batch of orders under one lease. */
export interface Turn {
  readonly report: RunReport;
  readonly held: HeldLease;
  /** Changes rows in the ledger and in `works`. @throws {LeaseLostError} when a newer holder took one of them. */
  save(works: readonly Work[], changeOf: (work: Work) => Omit<LedgerChange, "shop" | "code">): Promise<void>;
  /** Says in the ledger that a write begins: after a crash we know to look. */
  begin(works: readonly Work[], changeOf?: (work: Work) => Pick<LedgerChange, "intendedStageId">): Promise<void>;
  /** Called before each request that changes something. @throws {LeaseLostError} when another may be writing already. */
  readonly beforeWrite: () => void;
}

export function createTurn({
  ledger,
  held,
  leaseName,
  clock,
  report,
}: {
  readonly ledger: OrderLedger;
  readonly held: HeldLease;
  readonly leaseName: string;
  readonly clock: Clock;
  readonly report: RunReport;
}): Turn {
  const turn: Turn = {
    report,
    held,
    async save(works, changeOf) {
      if (works.length === 0) return;
      const changes = works.map((work) => ({ work, change: changeOf(work) }));
      const isOurs = await ledger.save(
        changes.map(({ work, change }) => ({ ...change, shop: work.row.shop, code: work.row.code })),
        held.fencingToken,
      );
      if (!isOurs) throw new LeaseLostError(leaseName);
      for (const { work, change } of changes) work.row = { ...work.row, ...change } as LedgerRow;
    },
    async begin(works, changeOf = () => ({})) {
      const at = clock.now();
      await turn.save(works, (work) => ({ intentAt: at, ...changeOf(work) }));
      held.assertHeld();
    },
    beforeWrite: () => held.assertHeld(),
  };
  return turn;
}
