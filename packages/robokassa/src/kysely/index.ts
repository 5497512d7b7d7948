import { type Clock, systemClock } from "@orderbridge/core";
import { type AnyKysely, type DatabaseDialect, insertIfAbsent, migrate, transaction } from "@orderbridge/core/kysely";
import { type Kysely, sql, type UpdateResult } from "kysely";
import { fromMinor, toMinor } from "../amount.ts";
import type { SignatureFit } from "../explain.ts";
import {
  type BookingResult,
  type CallbackEntry,
  type CallbackLogOptions,
  checkRanges,
  countedRefunds,
  firstCheckDelayMs,
  type InvIdRanges,
  isSameOrder,
  isUnproven,
  nextInvId,
  type Order,
  type OrderStatus,
  payable,
  type Refund,
  type RobokassaStorage,
} from "../storage.ts";
import { robokassaMigrations } from "./migrations.ts";

/** Our tables. Instants are milliseconds; PostgreSQL gives `bigint` back as text. */
interface Tables {
  robokassa_orders: {
    id: string;
    inv_id: string;
    test: number;
    total: string;
    currency: string | null;
    description: string;
    status: string;
    paid_at: number | string | null;
    paid_source: string | null;
    op_key: string | null;
    refunded_minor: number | string;
    notified_at: number | string | null;
    check_at: number | string | null;
    checks: number;
    captured: string | null;
    link: string | null;
    created_at: number | string;
  };
  robokassa_refunds: {
    id: string;
    inv_id: string;
    amount_minor: number | string;
    state: string;
    request_id: string | null;
    created_at: number | string;
  };
  robokassa_sequences: { id: string; last_value: string };
  robokassa_callbacks: {
    id: number | string;
    refused_number: number | string | null;
    source: string;
    at: number | string;
    inv_id: string | null;
    out_sum: string | null;
    signature: string | null;
    shp_names: string;
    verdict: string;
    fit: string | null;
    status: number;
  };
}

export interface RobokassaStorageOptions extends InvIdRanges, CallbackLogOptions {
  /** A database, or a transaction of the caller: everything is then written inside it. */
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** @defaultValue system time */
  readonly clock?: Clock;
}

/**
 * Orders and callbacks in SQLite, PostgreSQL or MariaDB, in tables that begin with `robokassa_`. Call `migrate` once at
 * start; several processes may.
 */
export function createRobokassaStorage({
  db: anyDb,
  dialect,
  clock = systemClock,
  maxRefusedCallbacks = 500,
  ...options
}: RobokassaStorageOptions): RobokassaStorage<AnyKysely> & { migrate(): Promise<void> } {
  const ranges = checkRanges(options);
  const db: Kysely<Tables> = anyDb;

  const inTransaction = <Value>(work: (trx: Kysely<Tables>) => Promise<Value>): Promise<Value> =>
    transaction(db, dialect, work);

  /** The last value of a sequence, locked until the transaction ends; `undefined` before the first. */
  async function lockSequence(trx: Kysely<Tables>, id: string): Promise<bigint | undefined> {
    await insertIfAbsent(trx, dialect, "robokassa_sequences", { id, last_value: "" });
    await trx
      .updateTable("robokassa_sequences")
      .set({ last_value: sql.ref("last_value") })
      .where("id", "=", id)
      .execute();
    const row = await trx.selectFrom("robokassa_sequences").selectAll().where("id", "=", id).executeTakeFirstOrThrow();
    return row.last_value === "" ? undefined : BigInt(row.last_value);
  }

  async function setSequence(trx: Kysely<Tables>, id: string, value: bigint): Promise<void> {
    await trx
      .updateTable("robokassa_sequences")
      .set({ last_value: String(value) })
      .where("id", "=", id)
      .execute();
  }

  async function find(from: Kysely<Tables>, column: "id" | "inv_id", value: string): Promise<Order | undefined> {
    const row = await from.selectFrom("robokassa_orders").selectAll().where(column, "=", value).executeTakeFirst();
    return row && toOrder(row);
  }

  async function afterUpdate(
    trx: Kysely<Tables>,
    invId: string,
    { numUpdatedRows }: UpdateResult,
  ): Promise<BookingResult> {
    const order = await find(trx, "inv_id", invId);
    if (!order) return { state: "unknown" };
    return { state: numUpdatedRows > 0n ? "booked" : "repeated", order };
  }

  async function findRefund(from: Kysely<Tables>, id: string): Promise<Refund | undefined> {
    const row = await from.selectFrom("robokassa_refunds").selectAll().where("id", "=", id).executeTakeFirst();
    return row && toRefund(row);
  }

  /** Refunds of one order are counted one after another. */
  async function lockOrder(trx: Kysely<Tables>, invId: string): Promise<void> {
    await trx
      .updateTable("robokassa_orders")
      .set({ refunded_minor: sql.ref("refunded_minor") })
      .where("inv_id", "=", invId)
      .execute();
  }

  /** Brings the order's sum of refunds up to date, and its status when all of it went back. */
  async function countRefunds(trx: Kysely<Tables>, order: Order): Promise<void> {
    const { invId } = order;
    const rows = await trx.selectFrom("robokassa_refunds").selectAll().where("inv_id", "=", invId).execute();
    const sum = (states: readonly string[]): number =>
      rows.filter(({ state }) => states.includes(state)).reduce((minor, row) => minor + Number(row.amount_minor), 0);
    await trx
      .updateTable("robokassa_orders")
      .set({ refunded_minor: sum(countedRefunds) })
      .where("inv_id", "=", invId)
      .execute();
    if (BigInt(sum(["finished"])) !== toMinor(payable(order))) return;
    await trx
      .updateTable("robokassa_orders")
      .set({ status: "refunded" })
      .where("inv_id", "=", invId)
      .where("status", "=", "paid")
      .execute();
  }

  return {
    migrate: () => migrate({ db, dialect, prefix: "robokassa", migrations: robokassaMigrations(dialect) }),
    async ping() {
      await sql`select 1`.execute(db);
    },
    orders: {
      create: (order) =>
        inTransaction(async (trx) => {
          const stored = await find(trx, "id", order.id);
          if (stored) return isSameOrder(stored, order) ? stored : undefined;
          const sequence = order.test ? "test_inv_id" : "live_inv_id";
          const number = nextInvId(ranges, order.test, await lockSequence(trx, sequence));
          const inserted = await insertIfAbsent(trx, dialect, "robokassa_orders", {
            id: order.id,
            inv_id: String(number),
            test: order.test ? 1 : 0,
            total: order.total,
            currency: order.currency ?? null,
            description: order.description,
            status: "new",
            paid_at: null,
            paid_source: null,
            op_key: null,
            refunded_minor: 0,
            notified_at: null,
            check_at: order.test ? null : clock.now().getTime() + firstCheckDelayMs,
            checks: 0,
            captured: null,
            link: null,
            created_at: clock.now().getTime(),
          });
          if (inserted) await setSequence(trx, sequence, number);
          const created = await find(trx, "id", order.id);
          if (!created) throw new Error(`robokassa: InvId ${number} belongs to another order; raise the first InvId`);
          return isSameOrder(created, order) ? created : undefined;
        }),
      async keepLink(id, link) {
        const { numUpdatedRows } = await db
          .updateTable("robokassa_orders")
          .set({ link })
          .where("id", "=", id)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      },
      get: (id) => find(db, "id", id),
      getByInvId: (invId) => find(db, "inv_id", invId),
      bookPayment: ({ invId, source, paidAt, opKey, payable: compared }, work) =>
        inTransaction(async (trx) => {
          const updated = await trx
            .updateTable("robokassa_orders")
            .set({
              status: "paid",
              paid_at: paidAt.getTime(),
              paid_source: source,
              check_at: null, // nothing is left to ask about
              ...(opKey === undefined ? {} : { op_key: opKey }),
            })
            .where("inv_id", "=", invId)
            .where("status", "in", ["new", "held"])
            .$if(compared !== undefined, (query) =>
              query.where(({ fn }) => fn.coalesce("captured", "total"), "=", compared as string),
            )
            .executeTakeFirst();
          const order = await find(trx, "inv_id", invId);
          if (!order) return { state: "unknown" };
          if (updated.numUpdatedRows > 0n) {
            await work?.(order, trx);
            return { state: "booked", order };
          }
          if (order.status === "new" || order.status === "held") return { state: "changed", order };
          if (order.opKey === undefined && opKey !== undefined) {
            await trx.updateTable("robokassa_orders").set({ op_key: opKey }).where("inv_id", "=", invId).execute();
          }
          return { state: "repeated", order: { ...order, opKey: order.opKey ?? opKey } };
        }),
      bookHold: ({ invId, opKey, sentAt }) =>
        inTransaction(async (trx) => {
          const updated = await trx
            .updateTable("robokassa_orders")
            .set({ status: "held", op_key: opKey ?? null, notified_at: sentAt.getTime() })
            .where("inv_id", "=", invId)
            .where("status", "=", "new")
            .where(({ eb, or }) => or([eb("notified_at", "is", null), eb("notified_at", "<", sentAt.getTime())]))
            .executeTakeFirst();
          return afterUpdate(trx, invId, updated);
        }),
      keepCapture: (invId, amount, was) =>
        inTransaction(async (trx) => {
          await lockOrder(trx, invId);
          const order = await find(trx, "inv_id", invId);
          if (order?.status !== "held" || order.captured !== was || toMinor(amount) > toMinor(order.total))
            return false;
          await trx.updateTable("robokassa_orders").set({ captured: amount }).where("inv_id", "=", invId).execute();
          return true;
        }),
      bookRelease: (invId, told) =>
        inTransaction(async (trx) => {
          const updated = await trx
            .updateTable("robokassa_orders")
            .set({ status: "new", captured: null })
            .where("inv_id", "=", invId)
            .where("status", "=", "held")
            .$if(told !== undefined, (query) => {
              const { opKey, at } = told as NonNullable<typeof told>;
              return query.where(({ eb, or, and }) => {
                const isNoOlder = or([eb("notified_at", "is", null), eb("notified_at", "<=", at.getTime())]);
                if (opKey === undefined) return isNoOlder;
                return or([eb("op_key", "=", opKey), and([eb("op_key", "is", null), isNoOlder])]);
              });
            })
            .executeTakeFirst();
          return afterUpdate(trx, invId, updated);
        }),
      async dueChecks(now, limit) {
        const rows = await db
          .selectFrom("robokassa_orders")
          .selectAll()
          .where("check_at", "<=", now.getTime())
          .where("status", "in", ["new", "held"])
          .orderBy("checks")
          .orderBy("check_at")
          .orderBy("id")
          .limit(limit)
          .execute();
        return rows.map((row) => ({ order: toOrder(row), checks: row.checks }));
      },
      async scheduleCheck(invId, { checks, nextAt }) {
        const { numUpdatedRows } = await db
          .updateTable("robokassa_orders")
          .set({ checks: checks + 1, check_at: nextAt?.getTime() ?? null })
          .where("inv_id", "=", invId)
          .where("checks", "=", checks)
          .where("check_at", "is not", null)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      },
      async checkSoon(invId) {
        const { numUpdatedRows } = await db
          .updateTable("robokassa_orders")
          .set({ checks: 0, check_at: clock.now().getTime() })
          .where("inv_id", "=", invId)
          .where("test", "=", 0)
          .where("status", "in", ["new", "held"])
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      },
      async erase(id) {
        const { numUpdatedRows } = await db
          .updateTable("robokassa_orders")
          .set({ description: "", link: null })
          .where("id", "=", id)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      },
      async prune(before) {
        const { numUpdatedRows } = await db
          .updateTable("robokassa_orders")
          .set({ description: "", link: null })
          .where("created_at", "<", before.getTime())
          .where("status", "!=", "held")
          .where(({ eb, or }) => or([eb("description", "!=", ""), eb("link", "is not", null)]))
          .executeTakeFirst();
        return Number(numUpdatedRows);
      },
    },
    refunds: {
      begin: ({ id, invId, amount }) =>
        inTransaction(async (trx) => {
          await lockOrder(trx, invId);
          const known = await findRefund(trx, id);
          const isRetry = known?.state === "refused" && known.invId === invId;
          if (known && !isRetry) return { state: "known", refund: known };
          const order = await find(trx, "inv_id", invId);
          if (!order) return { state: "unknown" };
          if (order.status !== "paid") return { state: "not_paid" };
          if (toMinor(amount) > toMinor(payable(order)) - toMinor(order.refunded)) return { state: "exceeds" };
          const row = {
            id,
            inv_id: invId,
            amount_minor: Number(toMinor(amount)),
            state: "asking",
            request_id: null,
            created_at: clock.now().getTime(),
          };
          // The lock on the order keeps others from the refused row.
          if (isRetry) await trx.updateTable("robokassa_refunds").set(row).where("id", "=", id).execute();
          const begun = isRetry || (await insertIfAbsent(trx, dialect, "robokassa_refunds", row));
          if (begun) await countRefunds(trx, order);
          const refund = (await findRefund(trx, id)) as Refund;
          return { state: begun ? "begun" : "known", refund };
        }),
      settle: (id, { state, requestId }) =>
        inTransaction(async (trx) => {
          const known = await findRefund(trx, id);
          if (!known) return undefined;
          await lockOrder(trx, known.invId);
          await trx
            .updateTable("robokassa_refunds")
            .set({ state, ...(requestId === undefined ? {} : { request_id: requestId }) })
            .where("id", "=", id)
            .execute();
          const order = await find(trx, "inv_id", known.invId);
          if (order) await countRefunds(trx, order);
          return findRefund(trx, id);
        }),
      get: (id) => findRefund(db, id),
      async open(limit, state, after) {
        const rows = await db
          .selectFrom("robokassa_refunds")
          .selectAll()
          .where("state", "in", state ? [state] : ["asking", "processing"])
          .$if(after !== undefined, (query) => {
            const { id, createdAt } = after as NonNullable<typeof after>;
            const at = createdAt.getTime();
            return query.where(({ eb, or, and }) =>
              or([eb("created_at", ">", at), and([eb("created_at", "=", at), eb("id", ">", id)])]),
            );
          })
          .orderBy("created_at")
          .orderBy("id")
          .limit(limit)
          .execute();
        return rows.map(toRefund);
      },
    },
    callbacks: {
      record: (entry) =>
        inTransaction(async (trx) => {
          const number = ((await lockSequence(trx, "callbacks")) ?? 0n) + 1n;
          await setSequence(trx, "callbacks", number);
          let refusedNumber: bigint | undefined;
          if (isUnproven(entry)) {
            refusedNumber = ((await lockSequence(trx, "refused_callbacks")) ?? 0n) + 1n;
            await setSequence(trx, "refused_callbacks", refusedNumber);
            await trx
              .deleteFrom("robokassa_callbacks")
              .where("refused_number", "<=", Number(refusedNumber) - maxRefusedCallbacks)
              .execute();
          }
          await trx
            .insertInto("robokassa_callbacks")
            .values({
              id: Number(number),
              refused_number: refusedNumber === undefined ? null : Number(refusedNumber),
              source: entry.source,
              at: entry.at.getTime(),
              inv_id: entry.invId ?? null,
              out_sum: entry.outSum ?? null,
              signature: entry.signature ?? null,
              shp_names: entry.shpNames.join(","),
              verdict: entry.verdict,
              fit: entry.fit === undefined ? null : JSON.stringify(entry.fit),
              status: entry.status,
            })
            .execute();
        }),
      async list({ invId, limit }) {
        let query = db.selectFrom("robokassa_callbacks").selectAll().orderBy("id", "desc").limit(limit);
        if (invId !== undefined) query = query.where("inv_id", "=", invId);
        return (await query.execute()).map(
          (row): CallbackEntry => ({
            source: row.source as CallbackEntry["source"],
            at: new Date(Number(row.at)),
            invId: row.inv_id ?? undefined,
            outSum: row.out_sum ?? undefined,
            signature: row.signature ?? undefined,
            shpNames: row.shp_names === "" ? [] : row.shp_names.split(","),
            verdict: row.verdict,
            fit: row.fit === null ? undefined : (JSON.parse(row.fit) as SignatureFit),
            status: row.status,
          }),
        );
      },
      async prune(before) {
        const { numDeletedRows } = await db
          .deleteFrom("robokassa_callbacks")
          .where("at", "<", before.getTime())
          .executeTakeFirst();
        return Number(numDeletedRows);
      },
    },
  };
}

function toOrder(row: Tables["robokassa_orders"]): Order {
  return {
    id: row.id,
    invId: row.inv_id,
    test: row.test === 1,
    total: row.total,
    currency: row.currency ?? undefined,
    description: row.description,
    status: row.status as OrderStatus,
    paidAt: row.paid_at === null ? undefined : new Date(Number(row.paid_at)),
    opKey: row.op_key ?? undefined,
    captured: row.captured ?? undefined,
    refunded: fromMinor(BigInt(row.refunded_minor)),
    link: row.link ?? undefined,
    createdAt: new Date(Number(row.created_at)),
  };
}

function toRefund(row: Tables["robokassa_refunds"]): Refund {
  return {
    id: row.id,
    invId: row.inv_id,
    amount: fromMinor(BigInt(row.amount_minor)),
    state: row.state as Refund["state"],
    requestId: row.request_id ?? undefined,
    createdAt: new Date(Number(row.created_at)),
  };
}
