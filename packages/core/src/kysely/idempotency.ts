import type { IdempotencyClaim, IdempotencyStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";

const table = "orderbridge_idempotency";

export function createIdempotency({ now, after, run, insertIfAbsent }: StorageDatabase): IdempotencyStore {
  return {
    async begin({ scope, key, fingerprint, ttlMs }) {
      checkKey("idempotency scope", scope);
      checkKey("idempotency key", key);
      checkText("idempotency fingerprint", fingerprint);
      const claim: IdempotencyClaim = { scope, key, token: crypto.randomUUID() };
      for (;;) {
        const values = { ...claim, fingerprint, ends_at: after(ttlMs) };
        if (await run((db) => insertIfAbsent(db, table, values))) return { state: "started", claim };
        const row = await run((db) =>
          db
            .selectFrom(table)
            .select(["fingerprint", "result"])
            .where("scope", "=", scope)
            .where("key", "=", key)
            .executeTakeFirst(),
        );
        if (!row) continue; // given back in between
        if (row.fingerprint !== fingerprint) return { state: "mismatch" };
        if (row.result !== null) return { state: "done", result: row.result };
        const { numUpdatedRows } = await run((db) =>
          db
            .updateTable(table)
            .set({ token: claim.token, ends_at: after(ttlMs) })
            .where("scope", "=", scope)
            .where("key", "=", key)
            .where("fingerprint", "=", fingerprint)
            .where("result", "is", null)
            .where("ends_at", "<=", now())
            .executeTakeFirst(),
        );
        return numUpdatedRows === 1n ? { state: "started", claim } : { state: "running" };
      }
    },
    async complete(claim, result) {
      checkText("idempotency result", result);
      const { numUpdatedRows } = await run((db) =>
        db
          .updateTable(table)
          .set({ result })
          .where("scope", "=", claim.scope)
          .where("key", "=", claim.key)
          .where("token", "=", claim.token)
          .where("result", "is", null)
          .executeTakeFirst(),
      );
      return numUpdatedRows === 1n;
    },
    async abandon(claim) {
      await run((db) =>
        db
          .deleteFrom(table)
          .where("scope", "=", claim.scope)
          .where("key", "=", claim.key)
          .where("token", "=", claim.token)
          .where("result", "is", null)
          .execute(),
      );
    },
  };
}
