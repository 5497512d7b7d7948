import type { WatermarkStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";

const table = "orderbridge_watermark";

export function createWatermarks({ run, insertIfAbsent }: StorageDatabase): WatermarkStore {
  return {
    async get(key) {
      checkKey("watermark key", key);
      const row = await run((db) => db.selectFrom(table).select("position").where("key", "=", key).executeTakeFirst());
      return row?.position;
    },
    async advance(key, from, to) {
      checkKey("watermark key", key);
      checkText("watermark position", to);
      if (from === undefined) return run((db) => insertIfAbsent(db, table, { key, position: to }));
      const { numUpdatedRows } = await run((db) =>
        db
          .updateTable(table)
          .set({ position: to })
          .where("key", "=", key)
          .where("position", "=", from)
          .executeTakeFirst(),
      );
      return numUpdatedRows === 1n;
    },
  };
}
