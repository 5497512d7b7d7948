import { type AnyKysely, insertIfAbsent } from "@orderbridge/core/kysely";
import { sql } from "kysely";
import { randomId } from "../ids.ts";
import {
  type BreakerRule,
  type ClaimedDelivery,
  createRoom,
  type DeliveryState,
  type FinishedDelivery,
  type GatewayStorage,
  isReceiversFault,
  originOf,
  overtakenAfter,
  pauseOf,
} from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, merchantSecretPlace, paymentSecretPlace, type Row, text, toAttempt } from "./rows.ts";

/** Looks for free deliveries when another worker took those that were seen. */
const maxLooks = 3;

type Secrets = (endpointIds: readonly string[]) => Promise<ReadonlyMap<string, readonly string[]>>;

/** Deliveries: who sends which one next, how it went, and which receivers are left alone. */
export function createDeliveries(
  { db, dialect, now, later, seal, inTransaction }: StorageContext,
  secretsInForce: Secrets,
): Pick<GatewayStorage, "claimDeliveries" | "finishDeliveries" | "redeliver" | "deliveriesOf" | "unblockReceiver"> {
  /** None when the row cannot be opened: the keys in force are others. Then only this webhook waits, not all. */
  function secretsOf(row: Row, endpoints: ReadonlyMap<string, readonly string[]>): readonly string[] {
    if (row.endpoint_id !== "") return endpoints.get(text(row.endpoint_id)) ?? [];
    try {
      if (typeof row.own_secret === "string") {
        return [seal.open(row.own_secret, paymentSecretPlace(text(row.payment_id)))];
      }
      if (typeof row.merchant_secret !== "string") return [];
      return [seal.open(row.merchant_secret, merchantSecretPlace(text(row.merchant)))];
    } catch {
      return [];
    }
  }

  /** Due ones that nobody holds, more than are needed, because some may belong to one receiver. */
  async function findDue({ limit, lane, receivers }: Parameters<GatewayStorage["claimDeliveries"]>[0]) {
    let due = db
      .selectFrom("gateway_delivery as d")
      .leftJoin("gateway_receiver as r", (join) =>
        join.onRef("r.merchant", "=", "d.merchant").onRef("r.origin", "=", "d.origin"),
      )
      .select(["d.id", "d.payment_id", "d.endpoint_id", "d.url", "d.merchant", "d.origin", "r.open_until"])
      .where("d.state", "=", "pending")
      .where("d.lane", "=", lane === "late" ? 1 : 0)
      .where("d.due_at", "<=", now())
      .where(({ eb, or }) => or([eb("r.open_until", "is", null), eb("r.open_until", "<=", now())]))
      .where(
        sql<boolean>`not exists (
          select 1 from gateway_delivery other
          where other.payment_id = d.payment_id and other.endpoint_id = d.endpoint_id and (
            (other.claim is not null and other.claim_ends_at > ${now()})
            or (other.sequence < d.sequence and other.state = 'pending' and other.schedule_attempts < ${overtakenAfter})
          )
        )`,
      );
    const full = [...(receivers?.running ?? [])].filter(([, running]) => running >= (receivers?.limit ?? 0));
    if (full.length > 0) {
      due = due.where(
        "d.origin",
        "not in",
        full.map(([origin]) => origin),
      );
    }
    // By the index alone, so that a database without statistics stops after the first ones instead of sorting all.
    return due
      .orderBy("d.due_at")
      .limit(limit * 4)
      .execute();
  }

  /** The breaker was open and its time is over: one caller gets the one try that tells whether it may close. */
  async function takeProbe(row: Row, ttlMs: number): Promise<boolean> {
    const { numUpdatedRows } = await db
      .updateTable("gateway_receiver")
      .set({ open_until: later(ttlMs), probe: text(row.id) })
      .where("merchant", "=", row.merchant)
      .where("origin", "=", row.origin)
      .where("open_until", "=", row.open_until)
      .executeTakeFirst();
    return numUpdatedRows === 1n;
  }

  async function look(
    options: Parameters<GatewayStorage["claimDeliveries"]>[0],
  ): Promise<{ readonly sawAny: boolean; readonly claimed: readonly ClaimedDelivery[] }> {
    const { limit, ttlMs, receivers } = options;
    const candidates: readonly Row[] = await findDue(options);
    // One of each payment; whoever reads at the same time chooses the same one, and only one update finds it free.
    const chosen = new Map<string, string>();
    const probed = new Set<string>();
    const hasRoom = createRoom(receivers);
    for (const row of candidates) {
      const target = `${text(row.payment_id)}/${text(row.endpoint_id)}`;
      if (chosen.size >= limit || chosen.has(target)) continue;
      const receiver = JSON.stringify([row.merchant, row.origin]);
      if (probed.has(receiver) || !hasRoom(text(row.url))) continue;
      if (row.open_until !== null && integer(row.open_until) > 0) {
        probed.add(receiver);
        if (!(await takeProbe(row, ttlMs))) continue;
      }
      chosen.set(target, text(row.id));
    }
    if (chosen.size === 0) return { sawAny: false, claimed: [] };
    const claim = randomId();
    const { numUpdatedRows } = await db
      .updateTable("gateway_delivery")
      .set({
        claim,
        claim_ends_at: later(ttlMs),
        attempts: sql`attempts + 1`,
        schedule_attempts: sql`schedule_attempts + 1`,
      })
      .where("id", "in", [...chosen.values()])
      .where("state", "=", "pending")
      .where("due_at", "<=", now())
      .where(({ eb, or }) => or([eb("claim", "is", null), eb("claim_ends_at", "<=", now())]))
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return { sawAny: true, claimed: [] };
    return { sawAny: true, claimed: await readClaimed(claim) };
  }

  async function readClaimed(claim: string): Promise<readonly ClaimedDelivery[]> {
    const rows: readonly Row[] = await db
      .selectFrom("gateway_delivery as d")
      .innerJoin("gateway_event as e", "e.id", "d.event_id")
      .innerJoin("gateway_payment as p", "p.id", "d.payment_id")
      .leftJoin("gateway_merchant as m", "m.id", "p.merchant")
      .select([
        "d.id",
        "d.event_id",
        "d.payment_id",
        "d.endpoint_id",
        "d.url",
        "d.attempts",
        "d.schedule_attempts",
        "e.name",
        "e.body",
        "p.merchant",
        "p.webhook_secret as own_secret",
        "m.webhook_secret as merchant_secret",
      ])
      .where("d.claim", "=", claim)
      .execute();
    const endpointIds = new Set(rows.map((row) => text(row.endpoint_id)).filter((id) => id !== ""));
    const secrets = await secretsInForce([...endpointIds]);
    return rows.map(
      (row): ClaimedDelivery => ({
        id: text(row.id),
        eventId: text(row.event_id),
        eventName: row.name as ClaimedDelivery["eventName"],
        paymentId: text(row.payment_id),
        merchant: text(row.merchant),
        url: text(row.url),
        endpointId: text(row.endpoint_id),
        body: text(row.body),
        attempt: integer(row.attempts),
        scheduleAttempt: integer(row.schedule_attempts),
        secrets: secretsOf(row, secrets),
        claim,
      }),
    );
  }

  /** Those whose claim still holds, locked. */
  async function lockHeld(
    trx: AnyKysely,
    finished: readonly FinishedDelivery[],
  ): Promise<ReadonlySet<FinishedDelivery>> {
    const rows = await trx
      .selectFrom("gateway_delivery")
      .select(["id", "claim"])
      .where(
        "id",
        "in",
        finished.map(({ delivery }) => delivery.id),
      )
      .orderBy("id")
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .execute();
    const claims = new Map(rows.map(({ id, claim }) => [text(id), claim]));
    return new Set(finished.filter(({ delivery }) => claims.get(delivery.id) === delivery.claim));
  }

  async function storeVerdict(trx: AnyKysely, { delivery, verdict }: FinishedDelivery): Promise<void> {
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
    await trx.updateTable("gateway_endpoint").set({ state: "gone" }).where("id", "=", delivery.endpointId).execute();
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
    const lastSuccess = tries.findLastIndex(({ verdict }) => verdict.state === "delivered");
    const failed = tries.slice(lastSuccess + 1);
    const row = () =>
      trx.selectFrom("gateway_receiver").where("merchant", "=", key.merchant).where("origin", "=", key.origin);
    if (lastSuccess >= 0) {
      await trx
        .deleteFrom("gateway_receiver")
        .where("merchant", "=", key.merchant)
        .where("origin", "=", key.origin)
        .execute();
    }
    if (failed.length === 0) return;
    await insertIfAbsent(trx, dialect, "gateway_receiver", { ...key, failures: 0, openings: 0, open_until: 0 });
    const known = await row()
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

  return {
    async claimDeliveries(options) {
      for (let count = 0; count < maxLooks; count++) {
        const { sawAny, claimed } = await look(options);
        if (claimed.length > 0 || !sawAny) return claimed;
      }
      return [];
    },

    async finishDeliveries(finished, breaker) {
      if (finished.length === 0) return [];
      return inTransaction(async (trx) => {
        const held = await lockHeld(trx, finished);
        const kept = finished.filter((one) => held.has(one));
        if (kept.length > 0) {
          const delivered = kept.filter(({ verdict }) => verdict.state === "delivered");
          if (delivered.length > 0) {
            await trx
              .updateTable("gateway_delivery")
              .set({ state: "delivered", claim: null })
              .where(
                "id",
                "in",
                delivered.map(({ delivery }) => delivery.id),
              )
              .execute();
          }
          for (const one of kept) if (one.verdict.state !== "delivered") await storeVerdict(trx, one);
          await trx
            .insertInto("gateway_delivery_attempt")
            .values(
              kept.map(({ delivery, attempt }) => ({
                delivery_id: delivery.id,
                attempt: attempt.attempt,
                started_at: attempt.startedAt.getTime(),
                duration_ms: attempt.durationMs,
                outcome: attempt.outcome,
                status: attempt.status ?? null,
                // PostgreSQL stores no NUL characters.
                answer: attempt.answer?.replaceAll("\0", "\uFFFD") ?? null,
              })),
            )
            .execute();
          const byReceiver = Map.groupBy(
            kept.filter((one) => one.verdict.state === "delivered" || isReceiversFault(one)),
            ({ delivery }) => JSON.stringify([delivery.merchant, originOf(delivery.url)]),
          );
          // In one order everywhere, so that two workers do not wait for each other.
          for (const key of [...byReceiver.keys()].sort()) {
            const [merchant, origin] = JSON.parse(key) as [string, string];
            await storeHealth(trx, { merchant, origin }, byReceiver.get(key) ?? [], breaker);
          }
        }
        return finished.map((one) => held.has(one));
      });
    },

    redeliver: (eventId) =>
      inTransaction(async (trx) => {
        const again = await trx
          .selectFrom("gateway_delivery as d")
          .leftJoin("gateway_endpoint as e", "e.id", "d.endpoint_id")
          .select(["d.id", "d.merchant", "d.origin"])
          .where("d.event_id", "=", eventId)
          .where(({ eb, or }) => or([eb("d.endpoint_id", "=", ""), eb("e.state", "=", "enabled")]))
          .execute();
        for (const { id, merchant, origin } of again) {
          await trx
            .updateTable("gateway_delivery")
            .set({ state: "pending", due_at: now(), schedule_attempts: 0, lane: 0 })
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
