import { type AnyKysely, insertIfAbsent } from "@orderbridge/core/kysely";
import { type SqlBool, sql } from "kysely";
import {
  type BreakerRule,
  type DeliveryState,
  type FinishedDelivery,
  type GatewayStorage,
  isReceiversFault,
  originOf,
  overtakenAfter,
  pauseOf,
} from "../storage.ts";
import { createClaims, type Secrets } from "./claims.ts";
import { among, type StorageContext } from "./context.ts";
import { integer, type Row, text, toAttempt } from "./rows.ts";

/** One of several tries has lost its claim, and which one is not known yet. */
class Lapsed extends Error {
  override readonly name = "Lapsed";
}

/** Deliveries: who sends which one next, how it went, and which receivers are left alone. */
export function createDeliveries(
  context: StorageContext,
  secretsInForce: Secrets,
): Pick<
  GatewayStorage,
  | "claimDeliveries"
  | "finishDeliveries"
  | "releaseDeliveries"
  | "redeliver"
  | "dismiss"
  | "deliveriesOf"
  | "giveUpWaiting"
  | "unblockReceiver"
> {
  const { db, dialect, now, later, prepared, inTransaction } = context;

  const attemptRow = ({ delivery, attempt }: FinishedDelivery) => ({
    delivery_id: delivery.id,
    attempt: attempt.attempt,
    started_at: attempt.startedAt.getTime(),
    duration_ms: attempt.durationMs,
    outcome: attempt.outcome,
    status: attempt.status ?? null,
    // PostgreSQL stores no NUL characters.
    answer: attempt.answer?.replaceAll("\0", "\uFFFD") ?? null,
  });

  /** Those whose claim still holds, locked, with their states. */
  async function lockHeld(
    trx: AnyKysely,
    finished: readonly FinishedDelivery[],
  ): Promise<ReadonlyMap<FinishedDelivery, string>> {
    const rows = await trx
      .selectFrom("gateway_delivery")
      .select(["id", "claim", "state"])
      .where(
        among(
          dialect,
          "id",
          finished.map(({ delivery }) => delivery.id),
        ),
      )
      .orderBy("id")
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .execute();
    const known = new Map(rows.map((row: Row) => [text(row.id), row]));
    return new Map(
      finished.flatMap((one): [FinishedDelivery, string][] => {
        const row = known.get(one.delivery.id);
        return row?.claim === one.delivery.claim ? [[one, text(row.state)]] : [];
      }),
    );
  }

  async function storeVerdict(
    trx: AnyKysely,
    { delivery, verdict }: FinishedDelivery,
    stateBefore: string | undefined,
  ): Promise<void> {
    await trx
      .updateTable("gateway_delivery")
      .set({
        // A person may have asked for it again meanwhile, or its endpoint may be gone.
        state: sql`case when state = 'pending' then ${verdict.state} else state end`,
        claim: null,
        origin: originOf(delivery.url),
        due_at: verdict.state === "pending" ? later(verdict.delayMs) : now(),
        lane: delivery.scheduleAttempt >= overtakenAfter ? 1 : 0,
      })
      .where("id", "=", delivery.id)
      .execute();
    if (verdict.state !== "exhausted" || !verdict.gone || delivery.endpointId === "") return;
    // What a person switched off meanwhile stays as it is, and so does what was enabled anew.
    if (stateBefore !== "pending") return;
    const { numUpdatedRows } = await trx
      .updateTable("gateway_endpoint")
      .set({ state: "gone" })
      .where("id", "=", delivery.endpointId)
      .where("state", "=", "enabled")
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return;
    await trx
      .updateTable("gateway_delivery")
      .set({ state: "exhausted", due_at: now() })
      .where("endpoint_id", "=", delivery.endpointId)
      .where("state", "=", "pending")
      .execute();
  }

  /** Counts failures in a row of one receiver; a success ends the count. */
  async function storeHealth(
    trx: AnyKysely,
    key: { readonly merchant: string; readonly origin: string },
    tries: readonly FinishedDelivery[],
    breaker: BreakerRule,
  ): Promise<void> {
    const failed = tries.slice(tries.findLastIndex(({ verdict }) => verdict.state === "delivered") + 1);
    if (failed.length < tries.length) {
      await trx
        .deleteFrom("gateway_receiver")
        .where("merchant", "=", key.merchant)
        .where("origin", "=", key.origin)
        .execute();
    }
    if (failed.length === 0) return;
    await insertIfAbsent(trx, dialect, "gateway_receiver", { ...key, failures: 0, openings: 0, open_until: 0 });
    const known = await trx
      .selectFrom("gateway_receiver")
      .where("merchant", "=", key.merchant)
      .where("origin", "=", key.origin)
      .select([
        "failures",
        "openings",
        "probe",
        sql<number>`case when open_until > ${now()} then 1 else 0 end`.as("is_open"),
      ])
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .executeTakeFirstOrThrow();
    const failures = integer(known.failures) + failed.length;
    const isProbe = failed.some(({ delivery }) => delivery.id === known.probe);
    const isOpen = integer(known.is_open) === 1;
    const opens = failures >= breaker.failures && (isProbe || !isOpen);
    const openings = integer(known.openings);
    await trx
      .updateTable("gateway_receiver")
      .set({
        failures,
        ...(opens ? { openings: openings + 1, open_until: later(pauseOf(breaker, openings)), probe: null } : {}),
      })
      .where("merchant", "=", key.merchant)
      .where("origin", "=", key.origin)
      .execute();
  }

  async function storeHealths(trx: AnyKysely, kept: readonly FinishedDelivery[], breaker: BreakerRule): Promise<void> {
    const receiverOf = (merchant: string, origin: string): string => JSON.stringify([merchant, origin]);
    const byReceiver = Map.groupBy(
      kept.filter((one) => one.verdict.state === "delivered" || isReceiversFault(one)),
      ({ delivery }) => receiverOf(delivery.merchant, originOf(delivery.url)),
    );
    if (byReceiver.size === 0) return;
    const counted = await trx
      .selectFrom("gateway_receiver")
      .select(["merchant", "origin"])
      .where("origin", "in", [...new Set(kept.map(({ delivery }) => originOf(delivery.url)))])
      .execute();
    const known = new Set(counted.map(({ merchant, origin }) => receiverOf(text(merchant), text(origin))));
    // In one order everywhere, so that two workers do not wait for each other.
    for (const [key, tries] of [...byReceiver].sort(([left], [right]) => (left < right ? -1 : 1))) {
      // A success of one that never failed changes nothing.
      if (!known.has(key) && tries.every(({ verdict }) => verdict.state === "delivered")) continue;
      const [merchant, origin] = JSON.parse(key) as [string, string];
      await storeHealth(trx, { merchant, origin }, tries, breaker);
    }
  }

  /** `isPlain`: all were delivered, so one statement both finds out whether their claims hold and ends them. */
  const store = (
    finished: readonly FinishedDelivery[],
    breaker: BreakerRule,
    isPlain: boolean,
  ): Promise<readonly boolean[]> =>
    inTransaction(async (trx) => {
      const held = isPlain ? new Map(finished.map((one) => [one, "pending"])) : await lockHeld(trx, finished);
      const kept = finished.filter((one) => held.has(one));
      if (kept.length > 0) {
        await storeDelivered(
          trx,
          kept.filter(({ verdict }) => verdict.state === "delivered"),
        );
        for (const one of kept) if (one.verdict.state !== "delivered") await storeVerdict(trx, one, held.get(one));
        await trx.insertInto("gateway_delivery_attempt").values(kept.map(attemptRow)).execute();
        await storeHealths(trx, kept, breaker);
      }
      return finished.map((one) => held.has(one));
    });

  /**
   * On PostgreSQL: all were delivered, so one statement does what `store` does, unless failures of their receivers are
   * counted: then it does nothing. The ids are a subquery because a planner that sees so many reads a small table whole.
   */
  async function storePlain(finished: readonly FinishedDelivery[]): Promise<readonly boolean[]> {
    const tries = finished.map(attemptRow);
    const column = (name: keyof (typeof tries)[number]) => tries.map((row) => row[name]);
    const { rows } = await sql<{ delivery_id: string }>`${prepared}
      with held as (
        update gateway_delivery set state = 'delivered', claim = null
        where id = any(array(select unnest(${column("delivery_id")}::varchar[])))
          and claim = any(${[...new Set(finished.map(({ delivery }) => delivery.claim))]})
          and not exists (
            select from gateway_receiver
            where origin = any(${[...new Set(finished.map(({ delivery }) => originOf(delivery.url)))]})
          )
        returning id
      )
      insert into gateway_delivery_attempt (delivery_id, attempt, started_at, duration_ms, outcome, status, answer)
      select tried.* from unnest(
        ${column("delivery_id")}::varchar[], ${column("attempt")}::integer[], ${column("started_at")}::bigint[],
        ${column("duration_ms")}::bigint[], ${column("outcome")}::varchar[], ${column("status")}::integer[],
        ${column("answer")}::text[]
      ) as tried (id, attempt, started_at, duration_ms, outcome, status, answer) join held using (id)
      returning delivery_id
    `.execute(db);
    const held = new Set(rows.map((row) => row.delivery_id));
    return finished.map(({ delivery }) => held.has(delivery.id));
  }

  /** @throws {Lapsed} when a claim is over, and nothing must be kept of the transaction. */
  async function storeDelivered(trx: AnyKysely, delivered: readonly FinishedDelivery[]): Promise<void> {
    if (delivered.length === 0) return;
    const { numUpdatedRows } = await trx
      .updateTable("gateway_delivery")
      .set({ state: "delivered", claim: null })
      .where(
        among(
          dialect,
          "id",
          delivered.map(({ delivery }) => delivery.id),
        ),
      )
      .where(among(dialect, "claim", [...new Set(delivered.map(({ delivery }) => delivery.claim))]))
      .executeTakeFirst();
    if (numUpdatedRows !== BigInt(delivered.length)) throw new Lapsed();
  }

  return {
    ...createClaims(context, secretsInForce),

    async finishDeliveries(finished, breaker) {
      if (finished.length === 0) return [];
      const isPlain =
        finished.every(({ verdict }) => verdict.state === "delivered") &&
        new Set(finished.map(({ delivery }) => delivery.id)).size === finished.length;
      if (isPlain && dialect === "postgres") {
        const stored = await storePlain(finished);
        if (stored.includes(true)) return stored;
        // Failures are counted, or every claim is over: the other way tells which.
      }
      try {
        return await store(finished, breaker, isPlain);
      } catch (error) {
        if (!(error instanceof Lapsed)) throw error;
        return store(finished, breaker, false);
      }
    },

    async releaseDeliveries(claimed) {
      if (claimed.length === 0) return;
      await db
        .updateTable("gateway_delivery")
        .set({ claim: null, attempts: sql`attempts - 1`, schedule_attempts: sql`schedule_attempts - 1` })
        .where(
          among(
            dialect,
            "id",
            claimed.map(({ id }) => id),
          ),
        )
        .where(among(dialect, "claim", [...new Set(claimed.map(({ claim }) => claim))]))
        .execute();
    },

    redeliver: (eventId, { only } = {}) =>
      inTransaction(async (trx) => {
        const again = await trx
          .selectFrom("gateway_delivery as d")
          .leftJoin("gateway_endpoint as e", "e.id", "d.endpoint_id")
          .select(["d.id", "d.merchant", "d.origin"])
          .where("d.event_id", "=", eventId)
          .where(({ eb, or }) => or([eb("d.endpoint_id", "=", ""), eb("e.state", "=", "enabled")]))
          .$if(only !== undefined, (query) => query.where("d.state", "=", only))
          .execute();
        for (const { id, merchant, origin } of again) {
          await trx
            .updateTable("gateway_delivery")
            // Without its claim a try under way no longer counts: its end must not end what was just asked for.
            .set({ state: "pending", claim: null, due_at: now(), schedule_attempts: 0, lane: 0 })
            .where("id", "=", id)
            .execute();
          await trx
            .updateTable("gateway_receiver")
            .set({ open_until: 0 })
            .where("merchant", "=", merchant)
            .where("origin", "=", origin)
            .execute();
        }
        return again.length;
      }),

    async dismiss(eventId) {
      const { numUpdatedRows } = await db
        .updateTable("gateway_delivery")
        .set({ state: "dropped" })
        .where("event_id", "=", eventId)
        .where("state", "=", "exhausted")
        .executeTakeFirst();
      return Number(numUpdatedRows);
    },

    async deliveriesOf(paymentId) {
      const deliveries = await db
        .selectFrom("gateway_delivery")
        .select(["id", "event_id", "endpoint_id", "state", "attempts", "due_at"])
        .where("payment_id", "=", paymentId)
        .orderBy("sequence")
        .orderBy("endpoint_id")
        .execute();
      const attempts = await db
        .selectFrom("gateway_delivery_attempt as a")
        .innerJoin("gateway_delivery as d", "d.id", "a.delivery_id")
        .selectAll("a")
        .where("d.payment_id", "=", paymentId)
        .orderBy("a.attempt")
        .execute();
      return deliveries.map((row: Row) => ({
        id: text(row.id),
        eventId: text(row.event_id),
        endpointId: text(row.endpoint_id),
        state: row.state as DeliveryState,
        attempts: integer(row.attempts),
        dueAt: new Date(integer(row.due_at)),
        log: attempts.filter(({ delivery_id }) => delivery_id === row.id).map(toAttempt),
      }));
    },

    async giveUpWaiting({ waitedMs, openings, limit }) {
      const waiting = await db
        .selectFrom("gateway_delivery as d")
        .innerJoin("gateway_receiver as r", (join) =>
          join.onRef("r.merchant", "=", "d.merchant").onRef("r.origin", "=", "d.origin"),
        )
        .select("d.id")
        .where("d.state", "=", "pending")
        .where("d.lane", "in", [0, 1])
        .where("d.due_at", "<=", later(-waitedMs))
        .where("r.openings", ">=", openings)
        .where("r.open_until", ">", 0)
        .limit(limit)
        .execute();
      if (waiting.length === 0) return 0;
      const { numUpdatedRows } = await db
        .updateTable("gateway_delivery")
        .set({ state: "exhausted", due_at: now() })
        .where(
          among(
            dialect,
            "id",
            waiting.map(({ id }) => text(id)),
          ),
        )
        .where(sql`coalesce(state, '')`, "=", "pending")
        .where(sql`coalesce(due_at, 0)`, "<=", later(-waitedMs))
        .where(({ eb, or }) => or([eb("claim", "is", null), eb("claim_ends_at", "<=", now())]))
        // A try may have got through since.
        .where(
          sql<SqlBool>`exists (
            select 1 from gateway_receiver r
            where r.merchant = gateway_delivery.merchant and r.origin = gateway_delivery.origin
              and r.openings >= ${openings} and r.open_until > 0
          )`,
        )
        .executeTakeFirst();
      return Number(numUpdatedRows);
    },

    async unblockReceiver(merchant, origin) {
      const { numDeletedRows } = await db
        .deleteFrom("gateway_receiver")
        .where("merchant", "=", merchant)
        .where("origin", "=", origin)
        .executeTakeFirst();
      return numDeletedRows === 1n;
    },
  };
}
