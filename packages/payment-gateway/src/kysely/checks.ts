import type { DatabaseDialect } from "@orderbridge/core/kysely";
import { type RawBuilder, sql } from "kysely";
import { randomId } from "../ids.ts";
import type { GatewayStorage } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, text, toPayment, toRefund } from "./rows.ts";

/** A payment that waits for the payer is checked no later than it expires. */
export const checkOfOpen = (
  { dialect, now, later }: Pick<StorageContext, "dialect" | "now" | "later">,
  delayMs: number,
): RawBuilder<number> =>
  sql<number>`case when expires_at > ${now()} then ${least(dialect)}(${later(delayMs)}, expires_at) else ${later(delayMs)} end`;

const least = (dialect: DatabaseDialect) => sql.raw(dialect === "sqlite" ? "min" : "least");

/** Due times of payments and refunds. What is claimed gets a later due time, so a crash delays it and loses nothing. */
export function createChecks(
  context: StorageContext,
): Pick<GatewayStorage, "claimChecks" | "scheduleCheck" | "claimRefunds"> {
  const { db, dialect, now, later } = context;
  const greatest = sql.raw(dialect === "sqlite" ? "max" : "greatest");
  const quarter = sql.raw(dialect === "mariadb" ? "div 4" : "/ 4");

  /** Ids of due rows, claimed by an update that only one of those who saw them wins. */
  async function claim(
    table: "gateway_payment" | "gateway_refund",
    ids: readonly string[],
    nextAt: RawBuilder<number>,
  ): Promise<string> {
    const claimed = randomId();
    await db
      .updateTable(table)
      .set({ check_claim: claimed, check_at: nextAt })
      .where("id", "in", [...ids])
      .where("check_at", "<=", now())
      .execute();
    return claimed;
  }

  return {
    async claimChecks({ provider, limit, ttlMs }) {
      const due = await db
        .selectFrom("gateway_payment")
        .select("id")
        .where("check_at", "<=", now())
        .where("provider", "=", provider)
        .orderBy("check_at")
        .limit(limit)
        .execute();
      const ids = due.map(({ id }) => text(id));
      if (ids.length === 0) return [];
      const claimed = await claim("gateway_payment", ids, later(ttlMs));
      const rows = await db
        .selectFrom("gateway_payment")
        .selectAll()
        .select(sql<unknown>`case when expires_at <= ${now()} then 1 else 0 end`.as("is_over"))
        .where("id", "in", ids)
        .where("check_claim", "=", claimed)
        .execute();
      return rows.map((row) => {
        const payment = toPayment(row);
        const isOpen = payment.status === "pending" || payment.status === "processing";
        return { payment, isOver: isOpen && integer(row.is_over) === 1, claim: claimed };
      });
    },

    async scheduleCheck(paymentId, { delayMs, claim: claimed }) {
      const isOpen = sql`status in ('pending', 'processing')`;
      const next =
        delayMs === undefined
          ? sql`case when ${isOpen} then expires_at end`
          : sql`case when ${isOpen} then ${checkOfOpen(context, delayMs)} else ${later(delayMs)} end`;
      let update = db
        .updateTable("gateway_payment")
        .set({ check_at: next, check_claim: null })
        .where("id", "=", paymentId);
      if (claimed !== undefined) update = update.where("check_claim", "=", claimed);
      await update.execute();
    },

    async claimRefunds({ provider, limit, ttlMs, maxPauseMs = Number.MAX_SAFE_INTEGER }) {
      const due = await db
        .selectFrom("gateway_refund as r")
        .innerJoin("gateway_payment as p", "p.id", "r.payment_id")
        .select("r.id")
        .where("r.check_at", "<=", now())
        .where("r.status", "=", "pending")
        .where("p.provider", "=", provider)
        .orderBy("r.check_at")
        .limit(limit)
        .execute();
      if (due.length === 0) return [];
      const ids = due.map(({ id }) => text(id));
      const stretched = sql`${greatest}(${sql.lit(ttlMs)}, (${now()} - created_at) ${quarter})`;
      const pause = sql<number>`${now()} + ${least(dialect)}(${stretched}, ${sql.lit(maxPauseMs)})`;
      const claimed = await claim("gateway_refund", ids, pause);
      const rows = await db
        .selectFrom("gateway_refund")
        .selectAll()
        .where("id", "in", ids)
        .where("check_claim", "=", claimed)
        .execute();
      return rows.map(toRefund);
    },
  };
}
