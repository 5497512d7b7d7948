import type { AnyKysely } from "@orderbridge/core/kysely";
import { sql } from "kysely";
import { type GatewayStorage, providerErrorsForMs } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, type Row, text } from "./rows.ts";

const dayMs = 86_400_000;
/** Keys in one delete statement. */
const keysAtOnce = 200;

/** Deletes what is not needed any more. One payment is one transaction: after a crash it is whole, or gone. */
export function createCleanUp({
  db,
  dialect,
  now,
  later,
  inTransaction,
}: StorageContext): Pick<GatewayStorage, "cleanUp" | "erasePayment"> {
  /** Leaves what is needed to book money and to tell of it. */
  async function leaveTombstone(trx: AnyKysely, id: string): Promise<void> {
    await trx
      .deleteFrom("gateway_delivery_attempt")
      .where("delivery_id", "in", trx.selectFrom("gateway_delivery").select("id").where("payment_id", "=", id))
      .execute();
    await trx.deleteFrom("gateway_delivery").where("payment_id", "=", id).execute();
    await trx.deleteFrom("gateway_event").where("payment_id", "=", id).execute();
    await trx.updateTable("gateway_refund").set({ answer: null }).where("payment_id", "=", id).execute();
    await trx
      .updateTable("gateway_payment")
      .set({ description: "", metadata: "{}", return_url: null, erased_at: now(), version: sql`version + 1` })
      .where("id", "=", id)
      .execute();
  }

  const lockPayment = (trx: AnyKysely, id: string): Promise<Row | undefined> =>
    trx
      .selectFrom("gateway_payment")
      .select(["status", "paid_minor", "erased_at"])
      .where("id", "=", id)
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .executeTakeFirst();

  const hasDelivery = async (trx: AnyKysely, id: string): Promise<boolean> =>
    (await trx
      .selectFrom("gateway_delivery")
      .select("id")
      .where("payment_id", "=", id)
      .where("state", "=", "pending")
      .limit(1)
      .executeTakeFirst()) !== undefined;

  async function deleteKeys(olderThanMs: number, limit: number): Promise<number> {
    let deleted = 0;
    while (deleted < limit) {
      const rows = await db
        .selectFrom("gateway_idempotency")
        .select(["merchant", "idempotency_key"])
        .where("created_at", "<=", later(-olderThanMs))
        .limit(Math.min(keysAtOnce, limit - deleted))
        .execute();
      if (rows.length === 0) break;
      await db
        .deleteFrom("gateway_idempotency")
        .where(({ or, and }) => or(rows.map(({ merchant, idempotency_key }) => and({ merchant, idempotency_key }))))
        .execute();
      deleted += rows.length;
    }
    return deleted;
  }

  async function deleteEndedSecrets(): Promise<void> {
    await db.deleteFrom("gateway_endpoint_secret").where("ends_at", ">", 0).where("ends_at", "<=", now()).execute();
    await db
      .updateTable("gateway_merchant")
      .set({ former_secrets: null, former_ends_at: null })
      .where("former_ends_at", "<=", now())
      .execute();
  }

  return {
    async cleanUp({ expiredForMs, exhaustedForMs, keysForMs, limit }) {
      const ended = await db
        .selectFrom("gateway_payment as p")
        .select("p.id")
        .where("p.status", "=", "expired")
        .where("p.erased_at", "is", null)
        .where("p.paid_minor", "=", 0)
        .where("p.updated_at", "<=", later(-expiredForMs))
        .where(
          sql<boolean>`not exists (
            select 1 from gateway_delivery d where d.payment_id = p.id and (
              d.state = 'pending' or (d.state = 'exhausted' and d.due_at > ${later(-exhaustedForMs)})
            )
          )`,
        )
        .orderBy("p.updated_at")
        .limit(limit)
        .execute();
      let payments = 0;
      for (const { id } of ended) {
        const isCleaned = await inTransaction(async (trx) => {
          const row = await lockPayment(trx, text(id));
          // Money, or a person who wants a webhook again, may have come since.
          if (row?.status !== "expired" || integer(row.paid_minor) !== 0 || row.erased_at !== null) return false;
          if (await hasDelivery(trx, text(id))) return false;
          await leaveTombstone(trx, text(id));
          return true;
        });
        if (isCleaned) payments++;
      }
      await deleteEndedSecrets();
      await db
        .deleteFrom("gateway_provider_error")
        .where(sql`(day + 1) * ${sql.lit(dayMs)}`, "<=", later(-providerErrorsForMs))
        .execute();
      return { payments, keys: await deleteKeys(keysForMs, limit) };
    },

    erasePayment: (id) =>
      inTransaction(async (trx) => {
        if (!(await lockPayment(trx, id))) return "not_found";
        if (await hasDelivery(trx, id)) return "waiting";
        await leaveTombstone(trx, id);
        return "erased";
      }),
  };
}
