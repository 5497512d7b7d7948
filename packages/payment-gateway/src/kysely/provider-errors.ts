import { insertIfAbsent } from "@orderbridge/core/kysely";
import { sql } from "kysely";
import type { GatewayStorage, ProviderErrors } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, type Row, text } from "./rows.ts";

const dayMs = 86_400_000;
/** PostgreSQL stores no NUL characters. */
const storable = (value: string): string => value.replaceAll("\0", "\uFFFD");

/** One row for each provider and day, to which every process adds. */
export function createProviderErrors({
  db,
  dialect,
}: Pick<StorageContext, "db" | "dialect">): Pick<GatewayStorage, "recordProviderErrors" | "providerErrors"> {
  return {
    async recordProviderErrors({ provider, day, failures, last }) {
      const key = { provider, day: Math.floor(day.getTime() / dayMs) };
      const empty = { failures: 0, last_at: 0, last_call: "", last_message: "" };
      await insertIfAbsent(db, dialect, "gateway_provider_error", { ...key, ...empty });
      const atMs = last.at.getTime();
      const latest = (value: string, column: string) =>
        sql`case when last_at <= ${sql.lit(atMs)} then ${value} else ${sql.ref(column)} end`;
      await db
        .updateTable("gateway_provider_error")
        .set({
          failures: sql`failures + ${sql.lit(failures)}`,
          last_call: latest(storable(last.call), "last_call"),
          last_message: latest(storable(last.message), "last_message"),
          // The last one, because MariaDB assigns in this order and the others ask for the old value.
          last_at: sql`case when last_at <= ${sql.lit(atMs)} then ${sql.lit(atMs)} else last_at end`,
        })
        .where("provider", "=", provider)
        .where("day", "=", key.day)
        .execute();
    },

    async providerErrors(since) {
      const rows = await db
        .selectFrom("gateway_provider_error")
        .selectAll()
        .where("day", ">=", Math.floor(since.getTime() / dayMs))
        .where("failures", ">", 0)
        .orderBy("day", "desc")
        .orderBy("provider")
        .execute();
      return rows.map(
        (row: Row): ProviderErrors => ({
          provider: text(row.provider),
          day: new Date(integer(row.day) * dayMs),
          failures: integer(row.failures),
          last: {
            at: new Date(integer(row.last_at)),
            call: text(row.last_call),
            message: text(row.last_message),
          },
        }),
      );
    },
  };
}
