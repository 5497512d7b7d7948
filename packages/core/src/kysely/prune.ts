import type { OutboxState } from "../ports.ts";
import type { StorageDatabase } from "./storage.ts";

export interface PruneOptions {
  /** What ended longer ago is deleted. @defaultValue 30 days */
  readonly olderThanMs?: number;
  /** Rows per statement, so that nobody waits long for a lock. @defaultValue 500 */
  readonly batchSize?: number;
  /** Stops between two batches. */
  readonly signal?: AbortSignal;
}

export interface PruneCounts {
  /** Messages that were delivered or buried. */
  readonly outbox: number;
  /** Idempotency keys, finished or given up. */
  readonly idempotency: number;
}

/** Deletes what ended long ago, in small batches. */
export async function prune(
  { after, run }: StorageDatabase,
  { olderThanMs = 30 * 86_400_000, batchSize = 500, signal }: PruneOptions = {},
): Promise<PruneCounts> {
  const repeat = async (deleteBatch: () => Promise<number>): Promise<number> => {
    let deleted = 0;
    for (let inBatch = batchSize; inBatch === batchSize && !signal?.aborted; deleted += inBatch) {
      inBatch = await deleteBatch();
    }
    return deleted;
  };
  const ended: readonly OutboxState[] = ["delivered", "dead"];

  const outbox = await repeat(async () => {
    const rows = await run((db) =>
      db
        .selectFrom("orderbridge_outbox")
        .select("position")
        .where("state", "in", ended)
        .where("due_at", "<", after(-olderThanMs))
        .limit(batchSize)
        .execute(),
    );
    if (rows.length === 0) return 0;
    const positions = rows.map(({ position }) => position);
    await run((db) =>
      db
        .deleteFrom("orderbridge_outbox")
        .where("position", "in", positions)
        .where("state", "in", ended) // not what was made due again meanwhile
        .execute(),
    );
    return rows.length;
  });

  const idempotency = await repeat(async () => {
    const rows = await run((db) =>
      db
        .selectFrom("orderbridge_idempotency")
        .select(["scope", "key", "token"])
        .where("ends_at", "<", after(-olderThanMs))
        .limit(batchSize)
        .execute(),
    );
    if (rows.length === 0) return 0;
    await run((db) =>
      db
        .deleteFrom("orderbridge_idempotency")
        .where((eb) => eb.or(rows.map(({ scope, key, token }) => eb.and({ scope, key, token }))))
        .execute(),
    );
    return rows.length;
  });
  return { outbox, idempotency };
}
