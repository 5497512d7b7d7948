import type { StoredToken, TokenStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";

const table = "orderbridge_token";

export function createTokens({ run, insertIfAbsent }: StorageDatabase): TokenStore {
  return {
    async get(key) {
      checkKey("token key", key);
      const row = await run((db) => db.selectFrom(table).selectAll().where("key", "=", key).executeTakeFirst());
      if (!row) return undefined;
      return {
        accessToken: row.access_token,
        ...(row.refresh_token === null ? {} : { refreshToken: row.refresh_token }),
        ...(row.expires_at === null ? {} : { expiresAt: new Date(Number(row.expires_at)) }),
        ...(row.host === null ? {} : { host: row.host }),
        version: Number(row.version),
        state: row.state as StoredToken["state"],
      };
    },
    async save(key, pair, expectedVersion) {
      checkKey("token key", key);
      checkText("access token", pair.accessToken);
      if (pair.refreshToken !== undefined) checkText("refresh token", pair.refreshToken);
      const stored: StoredToken = { ...pair, version: (expectedVersion ?? 0) + 1, state: "active" };
      const values = {
        access_token: pair.accessToken,
        refresh_token: pair.refreshToken ?? null,
        expires_at: pair.expiresAt?.getTime() ?? null,
        host: pair.host ?? null,
        version: stored.version,
        state: stored.state,
      };
      if (expectedVersion === undefined) {
        return (await run((db) => insertIfAbsent(db, table, { key, ...values }))) ? stored : undefined;
      }
      const { numUpdatedRows } = await run((db) =>
        db
          .updateTable(table)
          .set(values)
          .where("key", "=", key)
          .where("version", "=", expectedVersion)
          .executeTakeFirst(),
      );
      return numUpdatedRows === 1n ? stored : undefined;
    },
    async markNeedsReauth(key, version) {
      const state: StoredToken["state"] = "needs_reauth";
      const { numUpdatedRows } = await run((db) =>
        db.updateTable(table).set({ state }).where("key", "=", key).where("version", "=", version).executeTakeFirst(),
      );
      return numUpdatedRows === 1n;
    },
  };
}
