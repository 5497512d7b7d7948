import type { StoredToken, TokenStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { Cipher } from "./cipher.ts";
import type { StorageDatabase } from "./storage.ts";

const table = "orderbridge_token";

const place = (key: string, column: "access_token" | "refresh_token") => `${table}/${key}/${column}`;

export function createTokens({ run, insertIfAbsent }: StorageDatabase, cipher: Cipher): TokenStore {
  return {
    async get(key) {
      checkKey("token key", key);
      const row = await run((db) => db.selectFrom(table).selectAll().where("key", "=", key).executeTakeFirst());
      if (!row) return undefined;
      return {
        accessToken: cipher.decrypt(row.access_token, place(key, "access_token")),
        ...(row.refresh_token === null
          ? {}
          : { refreshToken: cipher.decrypt(row.refresh_token, place(key, "refresh_token")) }),
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
        access_token: cipher.encrypt(pair.accessToken, place(key, "access_token")),
        refresh_token:
          pair.refreshToken === undefined ? null : cipher.encrypt(pair.refreshToken, place(key, "refresh_token")),
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

/**
 * Stores every token under the first key. Resolves to the number of pairs that were changed.
 * @throws before anything is changed, when a token does not open
 */
export async function reencryptTokens({ run }: StorageDatabase, cipher: Cipher): Promise<number> {
  const rows = await run((db) =>
    db.selectFrom(table).select(["key", "access_token", "refresh_token", "version"]).execute(),
  );
  const opened = rows.map((row) => ({
    ...row,
    accessToken: cipher.decrypt(row.access_token, place(row.key, "access_token")),
    refreshToken:
      row.refresh_token === null ? null : cipher.decrypt(row.refresh_token, place(row.key, "refresh_token")),
  }));
  let changed = 0;
  for (const { key, version, access_token, refresh_token, accessToken, refreshToken } of opened) {
    if (cipher.isCurrent(access_token) && (refresh_token === null || cipher.isCurrent(refresh_token))) continue;
    const values = {
      access_token: cipher.encrypt(accessToken, place(key, "access_token")),
      refresh_token: refreshToken === null ? null : cipher.encrypt(refreshToken, place(key, "refresh_token")),
    };
    // A pair that was saved meanwhile has another version and is encrypted with the first key already.
    const { numUpdatedRows } = await run((db) =>
      db.updateTable(table).set(values).where("key", "=", key).where("version", "=", version).executeTakeFirst(),
    );
    if (numUpdatedRows === 1n) changed++;
  }
  return changed;
}
