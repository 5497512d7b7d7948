import { sql } from "kysely";
import type { RateLimitStore, VendorBlock } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";
import type { StorageKysely } from "./tables.ts";

const table = "orderbridge_rate_limit";
/** How much older the time of a statement may be than that of one which was written before it, in milliseconds. */
const lateStatementMs = 1000;

export function createRateLimits({
  dialect,
  now,
  after,
  run,
  transaction,
  insertIfAbsent,
}: StorageDatabase): RateLimitStore {
  const greatest = sql.raw(dialect === "sqlite" ? "max" : "greatest");

  /** How far the clock was set back since the row was written: its instants come along. A late statement is no such thing. */
  const setBack = () =>
    sql`case when written_at - ${now()} > ${sql.lit(lateStatementMs)} then written_at - ${now()} else 0 end`;
  const pausedUntil = () => sql<number>`paused_until - (${setBack()})`;
  const drainedAt = () => sql<number>`drained_at - (${setBack()})`;

  const read = (db: StorageKysely, account: string) =>
    db
      .selectFrom(table)
      .select([
        "drained_at",
        pausedUntil().as("paused_until"),
        "blocked_since",
        "block_code",
        sql<number>`${now()}`.as("now"),
      ])
      .where("account", "=", account)
      .executeTakeFirst();

  /**
   * Updates the account's row, or inserts it; updates again when another caller inserts it in between. In a transaction,
   * since on SQLite a statement holds the time at which it was made: that must not be before the wait for the lock.
   */
  const updateOrInsert = (
    update: (db: StorageKysely) => Promise<boolean>,
    values: () => { readonly account: string } & Record<string, unknown>,
  ): Promise<void> =>
    transaction(async (db) => {
      if (await update(db)) return;
      if (await insertIfAbsent(db, table, { paused_until: 0, ...values() })) return;
      await update(db);
    });

  return {
    async reserve(account, { intervalMs, capacity = 1 }) {
      checkKey("rate limit account", account);
      const interval = Math.ceil(intervalMs); // whole milliseconds, rounded to the slower side
      const bucket = interval * capacity;
      return transaction(async (db) => {
        for (;;) {
          const { numUpdatedRows } = await db
            .updateTable(table)
            .set({
              // After a pause the bucket counts as full: the first slot is its end, the next ones follow at the pace.
              drained_at: sql`${greatest}(coalesce(${drainedAt()}, ${after(bucket)}), ${now()}, ${pausedUntil()} + ${bucket - interval}) + ${interval}`,
              // In this order: MariaDB reads in each expression what the ones before it have set.
              paused_until: pausedUntil(),
              written_at: now(),
            })
            .where("account", "=", account)
            .where("blocked_since", "is", null)
            .executeTakeFirst();
          const row = await read(db, account);
          if (row && numUpdatedRows === 1n) {
            return { state: "reserved", waitMs: Math.max(0, Number(row.drained_at) - bucket - Number(row.now)) };
          }
          const block = row && readBlock(row);
          if (block) return { state: "blocked", block };
          const first = { account, paused_until: 0, drained_at: after(bucket + interval), written_at: now() };
          if (await insertIfAbsent(db, table, first)) return { state: "reserved", waitMs: interval };
        }
      });
    },
    async penalize(account, pauseMs) {
      checkKey("rate limit account", account);
      await updateOrInsert(
        async (db) => {
          const { numUpdatedRows } = await db
            .updateTable(table)
            .set({
              drained_at: drainedAt(),
              paused_until: sql`${greatest}(${pausedUntil()}, ${after(pauseMs)})`,
              written_at: now(),
            })
            .where("account", "=", account)
            .executeTakeFirst();
          return numUpdatedRows === 1n;
        },
        () => ({ account, paused_until: after(pauseMs), written_at: now() }),
      );
    },
    async status(account) {
      checkKey("rate limit account", account);
      const row = await run((db) => read(db, account));
      const pauseMs = row ? Math.max(0, Number(row.paused_until) - Number(row.now)) : 0;
      const block = row && readBlock(row);
      return block ? { pauseMs, block } : { pauseMs };
    },
    async block(account, code) {
      checkKey("rate limit account", account);
      checkText("block code", code);
      const values = () => ({ blocked_since: now(), block_code: code });
      await updateOrInsert(
        async (db) => {
          const { numUpdatedRows } = await db
            .updateTable(table)
            .set(values())
            .where("account", "=", account)
            .where("blocked_since", "is", null)
            .executeTakeFirst();
          return numUpdatedRows === 1n;
        },
        () => ({ account, ...values() }),
      );
    },
    async unblock(account) {
      checkKey("rate limit account", account);
      const { numUpdatedRows } = await run((db) =>
        db
          .updateTable(table)
          .set({ blocked_since: null, block_code: null, drained_at: null, paused_until: 0 })
          .where("account", "=", account)
          .where((eb) => eb.or([eb("blocked_since", "is not", null), eb(pausedUntil(), ">", now())]))
          .executeTakeFirst(),
      );
      return numUpdatedRows === 1n;
    },
  };
}

function readBlock(row: {
  readonly blocked_since: number | null;
  readonly block_code: string | null;
}): VendorBlock | undefined {
  if (row.blocked_since === null) return undefined;
  return { since: new Date(Number(row.blocked_since)), code: row.block_code ?? "" };
}
