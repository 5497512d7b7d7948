import { ApiError, SdkError } from "@orderbridge/core";
import type { BulkResult } from "../amocrm/transport.ts";

export interface SureResult {
  /** Key -> the vendor's id. */
  readonly ids: Map<string, string>;
  /** Key -> why it was refused. */
  readonly rejected: Map<string, string>;
  /** Keys that may still be on their way: look again after the settling time. */
  readonly unknown: Set<string>;
}

export const chunks = <Item>(items: readonly Item[], size: number): Item[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size));

/** How many items a request holds: fewer after a 504, which says that the vendor takes too long over it. */
export interface BatchSize {
  readonly now: number;
  ended(error: SdkError | undefined): void;
}

/** @param most Where it begins, and comes back to step by step while all goes well. */
export function createBatchSize(most: number): BatchSize {
  let now = most;
  return {
    get now() {
      return now;
    },
    ended(error) {
      if (error instanceof ApiError && error.status === 504) now = Math.max(1, Math.floor(now / 2));
      else if (error === undefined) now = Math.min(most, now * 2);
    },
  };
}

/**
 * Writes items in batches, each exactly once. What the vendor leaves open is looked up; only what its answer has settled
 * and what cannot be found is sent again, in halves, so that one bad item or too large a batch does not hold the others.
 */
export async function writeSurely<Item>({
  items,
  keyOf,
  batchSize,
  beforeWrite,
  send,
  find,
}: {
  readonly items: readonly Item[];
  readonly keyOf: (item: Item) => string;
  readonly batchSize: BatchSize;
  readonly beforeWrite: () => void;
  readonly send: (batch: readonly Item[]) => Promise<BulkResult>;
  /** Keys that exist at the vendor -> id. */
  readonly find: (batch: readonly Item[]) => Promise<ReadonlyMap<string, string>>;
}): Promise<SureResult> {
  const result: SureResult = { ids: new Map(), rejected: new Map(), unknown: new Set() };
  const queue = chunks(items, batchSize.now).map((batch) => ({ batch, tries: 0 }));
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { batch, tries } = next;
    beforeWrite();
    const answer = await send(batch);
    batchSize.ended(answer.error);
    for (const [key, id] of answer.written) result.ids.set(key, id);
    for (const [key, reason] of answer.rejected) result.rejected.set(key, reason);
    if (answer.uncertain.length === 0) continue;
    const open = batch.filter((item) => answer.uncertain.includes(keyOf(item)));
    const found = await find(open);
    for (const [key, id] of found) result.ids.set(key, id);
    const missing = open.filter((item) => !found.has(keyOf(item)));
    if (!answer.settled) {
      for (const item of missing) result.unknown.add(keyOf(item));
    } else if (answer.rejected.size > 0) {
      if (missing.length > 0) queue.push({ batch: missing, tries }); // the bad ones are out, so this ends
    } else if (tries >= 2 && missing.length === 1) {
      result.rejected.set(keyOf(missing[0] as Item), answer.error?.message ?? "the vendor left it out of its answer");
    } else if (missing.length > 0) {
      for (const half of chunks(missing, Math.ceil(missing.length / 2))) queue.push({ batch: half, tries: tries + 1 });
    }
  }
  return result;
}

/**
 * Sends items that carry no id back. Gives those that were refused one by one, and whether some request ended without
 * saying what became of it.
 */
export async function sendSplitting<Item>(
  items: readonly Item[],
  batchSize: BatchSize,
  beforeWrite: () => void,
  send: (batch: readonly Item[]) => Promise<void>,
): Promise<{ readonly refused: readonly Item[]; readonly isOpen: boolean }> {
  const refused: Item[] = [];
  let isOpen = false;
  const queue = chunks(items, batchSize.now);
  for (let batch = queue.shift(); batch; batch = queue.shift()) {
    beforeWrite();
    try {
      await send(batch);
      batchSize.ended(undefined);
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome === "not-executed") throw error;
      batchSize.ended(error);
      const isBadItem = error instanceof ApiError && (error.status === 400 || error.status === 422);
      if (error.outcome === "refused" && !isBadItem) throw error;
      if (error.outcome !== "refused") isOpen = true;
      else if (batch.length === 1) refused.push(...batch);
      else queue.push(...chunks(batch, Math.ceil(batch.length / 2)));
    }
  }
  return { refused, isOpen };
}
