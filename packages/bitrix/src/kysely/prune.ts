import { type DatabaseDialect, transaction } from "@orderbridge/core/kysely";
import { type Kysely, type RawBuilder, sql } from "kysely";
import type { BitrixPruneCounts, BitrixPruneOptions } from "../storage.ts";
import type { Tables } from "./index.ts";

/** Rows per statement, so that nobody waits long for a lock. */
const batchSize = 200;

/** Deletes what ended long ago, in small batches. */
export async function prune(
  db: Kysely<Tables>,
  dialect: DatabaseDialect,
  now: RawBuilder<number>,
  { olderThanMs = 30 * 86_400_000, historyOlderThanMs = 365 * 86_400_000, signal }: BitrixPruneOptions = {},
): Promise<BitrixPruneCounts> {
  const before = (ageMs: number) => sql<number>`${now} - ${sql.lit(ageMs)}`;
  const repeat = async (deleteBatch: (trx: Kysely<Tables>) => Promise<number>): Promise<number> => {
    let deleted = 0;
    for (let inBatch = batchSize; inBatch === batchSize && !signal?.aborted; deleted += inBatch) {
      inBatch = await transaction(db, dialect, deleteBatch);
    }
    return deleted;
  };

  const work = await repeat(async (trx) => {
    const ended = trx.selectFrom("bitrix_work").select(["topic", "work_key"]).where("state", "=", "done");
    const rows = await ended.where("due_at", "<", before(olderThanMs)).limit(batchSize).execute();
    if (rows.length > 0) {
      await trx
        .deleteFrom("bitrix_work")
        .where((eb) => eb.or(rows.map((row) => eb.and(row))))
        .where("state", "=", "done") // not what was marked meanwhile
        .execute();
    }
    return rows.length;
  });

  const changes = await repeat(async (trx) => {
    const rows = await trx
      .selectFrom("bitrix_order_changes")
      .select(["order_id", "version", "field"])
      .where("changed_at", "<", before(historyOlderThanMs))
      .limit(batchSize)
      .execute();
    if (rows.length > 0) {
      await trx
        .deleteFrom("bitrix_order_changes")
        .where((eb) => eb.or(rows.map((row) => eb.and(row))))
        .execute();
    }
    return rows.length;
  });

  const conflicts = await repeat(async (trx) => {
    const rows = await trx
      .selectFrom("bitrix_product_conflicts")
      .select(["product_id", "product_version"])
      .where("at", "<", before(historyOlderThanMs))
      .limit(batchSize)
      .execute();
    if (rows.length > 0) {
      await trx
        .deleteFrom("bitrix_product_conflicts")
        .where((eb) => eb.or(rows.map((row) => eb.and(row))))
        .execute();
    }
    return rows.length;
  });
  return { work, changes, conflicts };
}
