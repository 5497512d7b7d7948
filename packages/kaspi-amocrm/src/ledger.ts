import type { EventInbox } from "./amocrm/events.ts";

/**
 * Where an order stands.
 *
 * `seen` -> `creating` -> `lead` -> `done`; `parked` waits for its next try after several failures, `skipped` is left
 * alone for good. `creating` is stored before the first write to the CRM, so that after a crash we know to look.
 */
export type LedgerPhase = "seen" | "creating" | "lead" | "done" | "parked" | "skipped";

export interface OrderKey {
  readonly shop: string;
  readonly code: string;
}

/** A catalog element on a lead, as we linked it. */
export interface LedgerLine {
  readonly elementId: string;
  /** Decimal text, e.g. `"3.8"`. */
  readonly quantity: string;
}

/** One order's story; holds no personal data. */
export interface LedgerRow extends OrderKey {
  /** Kaspi's creation date; the moment of first sight when it could not be read. */
  readonly orderedAt: Date;
  readonly phase: LedgerPhase;
  /** Last seen in Kaspi. */
  readonly state: string;
  readonly status: string;
  /** Of the order's content when the CRM was last brought up to date. */
  readonly fingerprint: string | undefined;
  /** Since when the status has been a final one. */
  readonly finalSince: Date | undefined;
  readonly leadId: string | undefined;
  readonly contactId: string | undefined;
  /** The stage that we set last. */
  readonly stageId: string | undefined;
  /** The stage that the lead was last seen in: when it is not `stageId`, a person moved the lead. */
  readonly seenStageId: string | undefined;
  /** The stage of a write that has not ended: seen there, the lead was moved by us. */
  readonly intendedStageId: string | undefined;
  /** What we wrote last. */
  readonly priceMinor: number | undefined;
  /** `undefined`: not written yet. */
  readonly lines: readonly LedgerLine[] | undefined;
  readonly noteId: string | undefined;
  readonly noteFingerprint: string | undefined;
  /** When the last write of an unfinished attempt began; `undefined` when none is open. */
  readonly intentAt: Date | undefined;
  readonly attempts: number;
  /** An unfinished order is not tried before this. */
  readonly dueAt: Date;
  readonly lastError: string | undefined;
}

/** What changes in a row. A field that is present with `undefined` is cleared. */
export type LedgerChange = OrderKey & {
  readonly [Name in Exclude<keyof LedgerRow, keyof OrderKey>]?: LedgerRow[Name] | undefined;
};

export interface ObservedOrder {
  readonly code: string;
  readonly orderedAt: Date;
  readonly state: string;
  readonly status: string;
  readonly isFinal: boolean;
  /** Not inserted: only a row that is there already moves on. @defaultValue false */
  readonly mustBeKnown?: boolean;
}

/** Phases in which work is outstanding. */
export const unfinishedPhases: readonly LedgerPhase[] = ["seen", "creating", "lead", "parked"];

/** A row without its key, as it is when the order is first seen. */
export const emptyRow: Omit<LedgerRow, keyof OrderKey | "orderedAt" | "state" | "status" | "dueAt"> = {
  phase: "seen",
  fingerprint: undefined,
  finalSince: undefined,
  leadId: undefined,
  contactId: undefined,
  stageId: undefined,
  seenStageId: undefined,
  intendedStageId: undefined,
  priceMinor: undefined,
  lines: undefined,
  noteId: undefined,
  noteFingerprint: undefined,
  intentAt: undefined,
  attempts: 0,
  lastError: undefined,
};

/** One row per (shop, order code). */
export interface OrderLedger {
  /** The clock of a storage that several machines share; absent where the caller's counts. */
  now?(): Promise<Date>;
  /**
   * Inserts the orders that are not there, as `seen`; for the others only state, status and `finalSince` move on.
   * Resolves to the rows of all given codes, once they are stored; without those that must be known and are not.
   */
  observe(shop: string, orders: readonly ObservedOrder[], at: Date): Promise<readonly LedgerRow[]>;
  /**
   * Takes rows for the holder of a fencing token. Rows that a newer holder took are left out; a later `save` with an
   * older token changes nothing.
   */
  claim(keys: readonly OrderKey[], fence: number): Promise<readonly LedgerRow[]>;
  /** Stores changes; resolves to `false`, and stores none of them, when one of the rows was taken by a newer holder. */
  save(changes: readonly LedgerChange[], fence: number): Promise<boolean>;
  get(key: OrderKey): Promise<LedgerRow | undefined>;
  /** Rows in one of the {@link unfinishedPhases} that are due; the oldest first. */
  due(shop: string, options: { readonly at: Date; readonly limit: number }): Promise<readonly LedgerRow[]>;
  /**
   * Rows whose order may still change, `done` or `seen`: not final, or final only since `finalAfter`. Ordered by
   * (orderedAt, code), beginning behind `after`.
   */
  open(
    shop: string,
    options: {
      readonly finalAfter: Date;
      readonly orderedBefore: Date;
      readonly after?: { readonly orderedAt: Date; readonly code: string } | undefined;
      readonly limit: number;
    },
  ): Promise<readonly LedgerRow[]>;
  /** Sets `seenStageId` of the rows that have these leads. */
  noteStages(stageByLead: ReadonlyMap<string, string>): Promise<void>;
  byLead(leadIds: readonly string[]): Promise<readonly LedgerRow[]>;
  /** How many rows are in each phase. */
  counts(): Promise<Readonly<Partial<Record<LedgerPhase, number>>>>;
  /** Parked rows, for people. */
  parked(limit: number): Promise<readonly LedgerRow[]>;
}

/** Which contact has which phone. Phones are kept as keyed hashes only. */
export interface ContactIndex {
  /** The key of the hashes: made at first use, the same for all processes. */
  secret(): Promise<string>;
  find(hashes: readonly string[]): Promise<ReadonlyMap<string, string>>;
  /** Replaces all phones of the given contacts. Of several contacts with one phone the smallest id is found. */
  replace(contacts: readonly { readonly contactId: string; readonly hashes: readonly string[] }[]): Promise<void>;
  /** Deletes every phone of the contacts that have one of these; resolves to their ids, the smallest first. */
  erase(hashes: readonly string[]): Promise<readonly string[]>;
}

/** Which catalog element has which SKU. */
export interface ElementIndex {
  find(catalogId: string, skus: readonly string[]): Promise<ReadonlyMap<string, string>>;
  add(catalogId: string, elements: readonly { readonly sku: string; readonly elementId: string }[]): Promise<void>;
  forget(catalogId: string, elementIds: readonly string[]): Promise<void>;
}

/** What the sync keeps beside core's ports. */
export interface KaspiAmocrmStorage {
  readonly orders: OrderLedger;
  readonly contacts: ContactIndex;
  readonly elements: ElementIndex;
  /** What webhooks told of. */
  readonly events: EventInbox;
}
