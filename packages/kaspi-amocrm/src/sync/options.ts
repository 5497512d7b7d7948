import type { Clock, Logger, Storage } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { Kaspi } from "../kaspi/client.ts";
import type { KaspiAmocrmStorage } from "../ledger.ts";
import type { KaspiAmocrmAlert } from "./alerts.ts";

/** Where an order's status puts its lead. */
export interface StageTarget {
  readonly statusId: string;
  /** Only with the lost stage, 143. */
  readonly lossReasonId?: string;
}

export interface KaspiAmocrmSyncOptions {
  /** One client per shop. */
  readonly kaspi: Kaspi | readonly Kaspi[];
  readonly amocrm: Amocrm;
  readonly storage: Pick<Storage, "watermarks" | "leases"> & KaspiAmocrmStorage;
  readonly pipelineId: string;
  /** Stage of new leads whose status is not mapped. */
  readonly statusId: string;
  readonly responsibleUserId?: string;
  /** List of goods. Left out: goods are in the note only. */
  readonly catalogId?: string;
  /** Text field of leads for the order code. Left out: the code is in the lead's name and in a tag. */
  readonly orderCodeFieldId?: string;
  /** Keys `STATUS` or `STATE/STATUS`, the second wins. A status that is not named leaves the stage alone. */
  readonly statusMap?: Readonly<Record<string, string | StageTarget>>;
  /**
   * Where the very first run begins; it is kept. Orders that the bank had approved before come only by `backfill`: another
   * program may have made their leads. Instead of another program: when its last complete run began, since it cannot have
   * seen what was approved later. @defaultValue 24 hours ago
   */
  readonly importFrom?: Date;
  /** `index` reads all contacts once; `query` searches per unknown phone. @defaultValue "index" */
  readonly contactLookup?: "index" | "query";
  /** Orders that wait for the buyer's signature become leads at once. @defaultValue false */
  readonly importUnsigned?: boolean;
  /** Orders first seen cancelled or returned become leads. @defaultValue false */
  readonly importCancelled?: boolean;
  /**
   * After a write without an answer, how long until what cannot be found counts as not written, in milliseconds. Longer
   * than the client's timeout. @defaultValue 60_000
   */
  readonly settleMs?: number;
  /** Failures until an order is parked. @defaultValue 5 */
  readonly attemptsBeforeParking?: number;
  /** Pause between two imports of `run`, in milliseconds. @defaultValue 60_000 */
  readonly importEveryMs?: number;
  /** Pause between two reconciles of `run`, in milliseconds. @defaultValue 600_000 */
  readonly reconcileEveryMs?: number;
  /**
   * Told what a person should know of, each trouble once while it lasts; the log has it too. What it throws or rejects
   * with is logged, and holds nothing up.
   */
  readonly onAlert?: (alert: KaspiAmocrmAlert) => void | Promise<void>;
  /** From when on a shop without an import that ended is told as silent, in milliseconds. @defaultValue 3_600_000 */
  readonly silenceAfterMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** What a run did, in orders. */
export interface RunReport {
  /** Read from Kaspi, each once. */
  seen: number;
  created: number;
  updated: number;
  /** Left for later: waiting for a signature, for settling or for a pause after a failure. */
  deferred: number;
  failed: number;
  parked: number;
  skipped: number;
  /** Status without a stage: the lead stays where it is. */
  unmapped: number;
  /** Approved before the first run and not in the ledger: another program's, or for `backfill`. */
  foreign: number;
}

export const emptyReport = (): RunReport => ({
  seen: 0,
  created: 0,
  updated: 0,
  deferred: 0,
  failed: 0,
  parked: 0,
  skipped: 0,
  unmapped: 0,
  foreign: 0,
});
