/** An order of this backend. */
export interface Order {
  readonly id: string;
  /** The order's id on the Bitrix site; without it the site's status webhook cannot find the order. */
  readonly bitrixOrderId: string | undefined;
  /** The deal in Bitrix24 that follows this order. */
  readonly dealId: string | undefined;
  /** Decimal text with two decimals. */
  readonly total: string;
  readonly status: string;
  readonly statusChangedAt: Date;
  /** Set by a payment only; the status does not move it. */
  readonly paidAt: Date | undefined;
  /** Who told of the payment. */
  readonly paidBy: string | undefined;
  /** Version of the site's order that was last taken over; `undefined` before the first, or when the site sends none. */
  readonly siteVersion: number | undefined;
  /** The site's time of the change that was last taken over. */
  readonly siteChangedAt: Date | undefined;
  /** 1 at creation, one more with each change. */
  readonly version: number;
  readonly createdAt: Date;
}

/** One change of an order. `field` is `status`, or `paid` with the values `paid` and `unpaid`. */
export interface OrderChange {
  readonly field: "status" | "paid";
  readonly from: string;
  readonly to: string;
  readonly changedBy: string;
  readonly changedAt: Date;
}

export interface OrderStore {
  /** Resolves to `false`, changing nothing, when the id, the Bitrix order id or the deal id is taken. */
  insert(order: Order): Promise<boolean>;
  get(id: string): Promise<Order | undefined>;
  getByBitrixOrderId(bitrixOrderId: string): Promise<Order | undefined>;
  /** The newest first. */
  list(options: { readonly limit: number }): Promise<readonly Order[]>;
  /**
   * Stores the order and adds to its history when the stored version is `order.version - 1`. Resolves to `false`,
   * changing nothing, when it is not. Rejects, changing nothing, when another order has its Bitrix order id or deal id.
   */
  replace(order: Order, changes: readonly OrderChange[]): Promise<boolean>;
  /** In the order in which the changes were stored. */
  history(id: string): Promise<readonly OrderChange[]>;
}

/** A product as this backend and the site share it. */
export interface Product extends ProductValues {
  readonly id: string;
  /** Version on the site that these values are based on; `undefined` before the site told one. */
  readonly siteVersion: number | undefined;
  /** Changed here and not yet taken over by the site. */
  readonly pending: boolean;
  /** What was last sent to the site while its answer is not known. */
  readonly sent: ProductValues | undefined;
  /** 1 for the first write, one more with each. */
  readonly version: number;
  readonly updatedAt: Date;
}

export interface ProductValues {
  readonly name: string | undefined;
  /** In tiyn or kopecks. */
  readonly priceMinor: bigint | undefined;
  readonly currency: string;
  readonly enabled: boolean | undefined;
}

/** Both sides changed a product at once, and the site's values won. */
export interface ProductConflict {
  readonly productId: string;
  readonly at: Date;
  /** What this backend wanted. */
  readonly ours: ProductValues;
  readonly theirs: ProductValues;
  readonly siteVersion: number | undefined;
}

export interface ProductStore {
  get(id: string): Promise<Product | undefined>;
  /**
   * Stores the product when the stored version is `product.version - 1` (1: there is none), with the conflict that it
   * settles. Resolves to `false`, changing nothing, when it is not.
   */
  put(product: Product, conflict?: ProductConflict): Promise<boolean>;
  /** In the order in which they were stored. */
  conflicts(productId: string): Promise<readonly ProductConflict[]>;
}

/** What a side of a pair last agreed to. */
export interface AgreedState {
  readonly code: string;
  /** Of one side only: the other one was told of the payment and put it back. */
  readonly paid: boolean;
}

/** Two entities that follow each other, and what both sides last agreed on. */
export interface SyncLink {
  /** Name of the sync. */
  readonly sync: string;
  readonly leftId: string;
  readonly rightId: string;
  /** `undefined` before the first agreement. */
  readonly agreed: { readonly left: AgreedState; readonly right: AgreedState } | undefined;
  /** A write of ours whose echo is still to come: at most one, used once. */
  readonly expectedEcho: { readonly side: "left" | "right"; readonly code: string; readonly until: Date } | undefined;
  /** Echoes that came as expected. */
  readonly echoes: number;
  /** Echoes that came with another value: a robot or a person was quicker. */
  readonly nearMisses: number;
  /** `lost`: one side is gone; nothing is written any more. */
  readonly state: "active" | "lost";
  /** Why the sides differ since the last look, e.g. `unmapped C9:NEW`. */
  readonly note: string | undefined;
  /**
   * The side that the other one could not follow, with the status that it stood for, if it had one; `both` when neither was
   * followed at first sight. Tried again once the note is gone.
   */
  readonly unfollowed: { readonly side: "left" | "right" | "both"; readonly status: string | undefined } | undefined;
  readonly version: number;
}

export interface LinkStore {
  getByLeft(sync: string, leftId: string): Promise<SyncLink | undefined>;
  getByRight(sync: string, rightId: string): Promise<SyncLink | undefined>;
  /**
   * Stores the link when the stored version is `link.version - 1` (1: there is none). Resolves to `false`, changing
   * nothing, when it is not, or when the other end belongs to another link.
   */
  put(link: SyncLink): Promise<boolean>;
  /** By left id, after the given one. */
  list(sync: string, options: { readonly after?: string; readonly limit: number }): Promise<readonly SyncLink[]>;
}

/** One entity that has to be looked at, claimed by one worker. */
export interface ClaimedWork {
  readonly topic: string;
  readonly key: string;
  /** Grows with each mark: a mark during the work makes the item due again. */
  readonly generation: number;
  /** 1 for the first attempt since the last success. */
  readonly attempt: number;
  /** How many attempts since the last success failed by the entity's own fault, not by that of a system that was away. */
  readonly failures: number;
  /** Proves the claim to `finish`, `retry` and `park`. */
  readonly claim: string;
}

export interface WorkEntry {
  readonly topic: string;
  readonly key: string;
  readonly state: "due" | "done" | "parked";
  readonly attempts: number;
  readonly lastError: string | undefined;
}

/**
 * The list of what has to be looked at: one row per entity, however often it was marked. Work outlives a crash; an entity
 * is in the hands of one worker at a time.
 */
export interface WorkStore {
  /**
   * Makes the item due after `delayMs`, a parked one too; an earlier due time stays. A negative delay puts it before what
   * waits.
   */
  mark(topic: string, key: string, options?: { readonly delayMs?: number }): Promise<void>;
  /** Claims due items of these topics for `ttlMs`, the longest due first. An expired claim is handed out again. */
  claim(options: {
    readonly topics: readonly string[];
    readonly limit: number;
    readonly ttlMs: number;
  }): Promise<readonly ClaimedWork[]>;
  /** Ends the work; an item that was marked meanwhile stays due. Resolves to `false` when the claim was lost. */
  finish(work: ClaimedWork): Promise<boolean>;
  /**
   * Hands the item out again after `delayMs`. `isOutage`: it does not count as a failure of the entity. Resolves to `false`
   * when the claim was lost.
   */
  retry(
    work: ClaimedWork,
    options: { readonly delayMs: number; readonly error: string; readonly isOutage?: boolean },
  ): Promise<boolean>;
  /** Sets the item aside until the next mark. Resolves to `false` when the claim was lost. */
  park(work: ClaimedWork, error: string): Promise<boolean>;
  get(topic: string, key: string): Promise<WorkEntry | undefined>;
  /** Items that were set aside, by topic and key. */
  parked(options: { readonly limit: number }): Promise<readonly WorkEntry[]>;
}

export interface BitrixStores {
  readonly orders: OrderStore;
  readonly products: ProductStore;
  readonly links: LinkStore;
  readonly work: WorkStore;
}

export interface BitrixPruneOptions {
  /** Work that is done and was due longer ago is deleted; its next mark begins anew. @defaultValue 30 days */
  readonly olderThanMs?: number;
  /** Older changes of orders and older conflicts of products are deleted. @defaultValue 365 days */
  readonly historyOlderThanMs?: number;
  /** Stops between two batches. */
  readonly signal?: AbortSignal;
}

/** Rows that were deleted. */
export interface BitrixPruneCounts {
  readonly work: number;
  readonly changes: number;
  readonly conflicts: number;
}

export interface BitrixStorage extends BitrixStores {
  /** All or nothing. `work` may run again after a conflict, so it must change nothing else; it uses only `stores`. */
  transaction<Value>(work: (stores: BitrixStores) => Promise<Value>): Promise<Value>;
  /** Deletes what ended long ago. Orders, products, pairs, and work that is due or set aside stay, however old. */
  prune(options?: BitrixPruneOptions): Promise<BitrixPruneCounts>;
  /** Rejects when the storage does not answer. */
  ping(): Promise<void>;
}
