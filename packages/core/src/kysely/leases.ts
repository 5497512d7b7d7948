import { sql } from "kysely";
import type { LeaseStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";

const table = "orderbridge_lease";
const ttl = (ttlMs: number): number => Math.ceil(ttlMs);

export function createLeases({ now, after, run, transaction, insertIfAbsent }: StorageDatabase): LeaseStore {
  return {
    async acquire(name, { holder, ttlMs }) {
      checkKey("lease name", name);
      checkText("lease holder", holder);
      // One transaction, so that the token that is read belongs to this holder even if the lease ends meanwhile.
      const fencingToken = await transaction(async (db) => {
        const { numUpdatedRows } = await db
          .updateTable(table)
          .set({ holder, fencing_token: sql<number>`fencing_token + 1`, ends_at: after(ttlMs), ttl_ms: ttl(ttlMs) })
          .where("name", "=", name)
          .where("ends_at", "<=", now())
          .executeTakeFirst();
        if (numUpdatedRows === 1n) {
          const row = await db
            .selectFrom(table)
            .select("fencing_token")
            .where("name", "=", name)
            .executeTakeFirstOrThrow();
          return Number(row.fencing_token);
        }
        const first = { name, holder, fencing_token: 1, ends_at: after(ttlMs), ttl_ms: ttl(ttlMs) };
        if (await insertIfAbsent(db, table, first)) return first.fencing_token;
        // The clock was set back: the holder may live, but no longer than its whole life.
        await db
          .updateTable(table)
          .set({ ends_at: sql<number>`${now()} + ttl_ms` })
          .where("name", "=", name)
          .where("ends_at", ">", sql<number>`${now()} + ttl_ms`)
          .execute();
        return undefined;
      });
      return fencingToken === undefined ? undefined : { name, holder, fencingToken, ttlMs };
    },
    async renew(lease, ttlMs) {
      const { numUpdatedRows } = await run((db) =>
        db
          .updateTable(table)
          .set({ ends_at: after(ttlMs), ttl_ms: ttl(ttlMs) })
          .where("name", "=", lease.name)
          .where("fencing_token", "=", lease.fencingToken)
          .where("ends_at", ">", now())
          .executeTakeFirst(),
      );
      return numUpdatedRows === 1n ? { ...lease, ttlMs } : undefined;
    },
    async release(lease) {
      await run((db) =>
        db
          .updateTable(table)
          .set({ ends_at: 0 })
          .where("name", "=", lease.name)
          .where("fencing_token", "=", lease.fencingToken)
          .where("ends_at", ">", now())
          .execute(),
      );
    },
  };
}
