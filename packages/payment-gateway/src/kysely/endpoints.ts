import { type AnyKysely, insertIfAbsent } from "@orderbridge/core/kysely";
import { sql } from "kysely";
import { type GatewayStorage, maxEndpoints, maxSecrets } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { endpointSecretPlace, integer, text, toEndpoint } from "./rows.ts";

/** Merchants' endpoints and the secrets that sign for them. */
export function createEndpoints(context: StorageContext): Pick<
  GatewayStorage,
  "addEndpoint" | "listEndpoints" | "rotateEndpointSecret" | "setEndpointState" | "removeEndpoint"
> & {
  /** Secrets in force now, the newest first, by endpoint. */
  secretsInForce(endpointIds: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>>;
} {
  const { db, dialect, now, later, seal, inTransaction } = context;

  /** The row, locked, so that two rotations come one after the other. */
  const lockOwn = (trx: AnyKysely, merchant: string, id: string) =>
    trx
      .selectFrom("gateway_endpoint")
      .select("id")
      .where("id", "=", id)
      .where("merchant", "=", merchant)
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .executeTakeFirst();

  const drop = async (trx: AnyKysely, id: string): Promise<void> => {
    await trx
      .updateTable("gateway_delivery")
      .set({ state: "dropped", due_at: now() })
      .where("endpoint_id", "=", id)
      .where("state", "in", ["pending", "exhausted"])
      .execute();
  };

  const secretRow = (endpointId: string, number: number, secret: string) => ({
    endpoint_id: endpointId,
    number,
    secret: seal.close(secret, endpointSecretPlace(endpointId, number)),
    ends_at: 0, // stays
  });

  return {
    addEndpoint: (endpoint, secret) =>
      inTransaction(async (trx) => {
        const { id, merchant, url, state, createdAt } = endpoint;
        // The counter's row is the lock: endpoints are added one after the other, so that each sees those before it.
        const lock = "endpoints";
        await insertIfAbsent(trx, dialect, "gateway_counter", { name: lock, value: 0 });
        await trx.updateTable("gateway_counter").set({ value: sql`value` }).where("name", "=", lock).execute();
        const others = await trx.selectFrom("gateway_endpoint").select("id").where("merchant", "=", merchant).execute();
        if (others.length >= maxEndpoints) return false;
        await trx
          .insertInto("gateway_endpoint")
          .values({ id, merchant, url, state, created_at: createdAt.getTime() })
          .execute();
        await trx
          .insertInto("gateway_endpoint_secret")
          .values(secretRow(id, 1, secret))
          .execute();
        return true;
      }),

    async listEndpoints(merchant) {
      const rows = await db
        .selectFrom("gateway_endpoint")
        .selectAll()
        .where("merchant", "=", merchant)
        .orderBy("created_at")
        .orderBy("id")
        .execute();
      return rows.map(toEndpoint);
    },

    rotateEndpointSecret: (merchant, id, { secret, overlapMs }) =>
      inTransaction(async (trx) => {
        if (!(await lockOwn(trx, merchant, id))) return false;
        const secrets = trx.selectFrom("gateway_endpoint_secret").where("endpoint_id", "=", id);
        const rows = await secrets.select(["number", "ends_at"]).orderBy("number").execute();
        const inForce = await secrets
          .select("number")
          .where(({ eb, or }) => or([eb("ends_at", "=", 0), eb("ends_at", ">", now())]))
          .execute();
        if (overlapMs > 0 && inForce.length >= maxSecrets) return false;
        const numbers = rows.map((row) => integer(row.number));
        const keep = overlapMs > 0 ? inForce.map((row) => integer(row.number)) : [];
        const ended = numbers.filter((number) => !keep.includes(number));
        if (ended.length > 0) {
          await trx
            .deleteFrom("gateway_endpoint_secret")
            .where("endpoint_id", "=", id)
            .where("number", "in", ended)
            .execute();
        }
        await trx
          .updateTable("gateway_endpoint_secret")
          .set({ ends_at: later(overlapMs) })
          .where("endpoint_id", "=", id)
          .where(({ eb, or }) => or([eb("ends_at", "=", 0), eb("ends_at", ">", later(overlapMs))]))
          .execute();
        const next = Math.max(0, ...numbers) + 1;
        await trx
          .insertInto("gateway_endpoint_secret")
          .values(secretRow(id, next, secret))
          .execute();
        return true;
      }),

    setEndpointState: (merchant, id, state) =>
      inTransaction(async (trx) => {
        if (!(await lockOwn(trx, merchant, id))) return false;
        await trx.updateTable("gateway_endpoint").set({ state }).where("id", "=", id).execute();
        if (state === "disabled") await drop(trx, id);
        return true;
      }),

    removeEndpoint: (merchant, id) =>
      inTransaction(async (trx) => {
        if (!(await lockOwn(trx, merchant, id))) return false;
        await trx.deleteFrom("gateway_endpoint").where("id", "=", id).execute();
        await trx.deleteFrom("gateway_endpoint_secret").where("endpoint_id", "=", id).execute();
        await drop(trx, id);
        return true;
      }),

    async secretsInForce(endpointIds) {
      const found = new Map<string, string[]>();
      if (endpointIds.length === 0) return found;
      const rows = await db
        .selectFrom("gateway_endpoint_secret")
        .select(["endpoint_id", "number", "secret"])
        .where("endpoint_id", "in", [...endpointIds])
        .where(({ eb, or }) => or([eb("ends_at", "=", 0), eb("ends_at", ">", now())]))
        .orderBy("number", "desc")
        .execute();
      for (const row of rows) {
        const id = text(row.endpoint_id);
        try {
          const secret = seal.open(text(row.secret), endpointSecretPlace(id, integer(row.number)));
          found.set(id, [...(found.get(id) ?? []), secret]);
        } catch {
          // The keys in force are others: only this secret is missing.
        }
      }
      return found;
    },
  };
}
