import { sql } from "kysely";
import { type ActivityDay, activityDays, type GatewayStorage } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, type Row } from "./rows.ts";

const dayMs = 86_400_000;

/** Counts by day, each from an index on the instant. */
export function createActivity({
  db,
  dialect,
}: Pick<StorageContext, "db" | "dialect">): Pick<GatewayStorage, "activity"> {
  const dayOf = (column: string) =>
    dialect === "mariadb"
      ? sql<number>`${sql.ref(column)} div ${sql.lit(dayMs)}`
      : sql<number>`${sql.ref(column)} / ${sql.lit(dayMs)}`;
  const countIf = (condition: ReturnType<typeof sql<boolean>>) =>
    sql<number>`sum(case when ${condition} then 1 else 0 end)`;

  return {
    async activity(from, until) {
      const between = (table: string, column: string) =>
        db
          .selectFrom(table)
          .select(dayOf(column).as("day"))
          .where(column, ">=", from.getTime())
          .where(column, "<", until.getTime())
          .groupBy(dayOf(column));
      const [payments, tries] = await Promise.all([
        between("gateway_payment", "created_at")
          .select([sql<number>`count(*)`.as("created"), countIf(sql`paid_minor > 0`).as("paid")])
          .execute(),
        between("gateway_delivery_attempt", "started_at")
          .select([
            countIf(sql`status between 200 and 299`).as("delivered"),
            countIf(sql`status is null or status not between 200 and 299`).as("failed"),
          ])
          .execute(),
      ]);
      const of = (rows: readonly Row[], day: number, name: string): number =>
        integer(rows.find((row) => integer(row.day) === day)?.[name] ?? 0);
      return activityDays(from, until).map(
        (day): ActivityDay => ({
          day: new Date(day * dayMs),
          created: of(payments, day, "created"),
          paid: of(payments, day, "paid"),
          delivered: of(tries, day, "delivered"),
          failed: of(tries, day, "failed"),
        }),
      );
    },
  };
}
