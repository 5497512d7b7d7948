import { type Clock, ConfigError } from "@orderbridge/core";
import {
  type AnyKysely,
  type Cipher,
  type DatabaseDialect,
  insertIfAbsent,
  migrate,
  nowMs,
  prepared,
  transaction,
} from "@orderbridge/core/kysely";
import { sql } from "kysely";
import { checkChange, type Payment } from "../payment.ts";
import {
  type ChangeResult,
  type DeliveryHints,
  type GatewayStorage,
  type IdempotencyKey,
  lateCheckMs,
  originOf,
  type PaymentEvent,
  type Refund,
  refundPatienceMs,
  type UsedKey,
} from "../storage.ts";
import { createActivity } from "./activity.ts";
import { checkOfOpen, createChecks } from "./checks.ts";
import { createCleanUp } from "./clean-up.ts";
import type { StorageContext } from "./context.ts";
import { createDeliveries } from "./deliveries.ts";
import { createEndpoints } from "./endpoints.ts";
import { hintChannel } from "./hints.ts";
import { createMerchantSecrets } from "./merchant-secrets.ts";
import { createMigrations } from "./migrations.ts";
import { createProviderErrors } from "./provider-errors.ts";
import { type Reencrypted, reencryptSecrets } from "./reencryption.ts";
import {
  fromPayment,
  integer,
  paymentSecretPlace,
  type Row,
  type Seal,
  text,
  toBooking,
  toEvent,
  toPayment,
  toRefund,
  toToken,
} from "./rows.ts";

export interface PaymentGatewayStorageOptions {
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** Judges due times and claims. @defaultValue the database's own clock; on SQLite the machine's */
  readonly clock?: Clock;
  /** Encrypts webhook secrets: `createCipher({ keys })` of `@orderbridge/core/kysely`. Left out: they are plain. */
  readonly cipher?: Cipher;
  /**
   * Tells other processes at once that there is something to send: `createPostgresHints(url)`. Without them, and when one
   * gets lost, they see it at their next look.
   */
  readonly hints?: DeliveryHints;
}

const hasJustEnded = (before: Payment, { status }: Payment): boolean =>
  before.status !== status && !["pending", "processing", "partially_paid"].includes(status);
const waitsForPayer = ({ status }: Payment): boolean => status === "pending" || status === "processing";

/** A question that a provider wished for stays: its QR may outlive the payment. */
const forgetExpiry = { check_at: sql`case when check_at = expires_at then null else check_at end` };

/** A change that must not be stored after all: ends the transaction and becomes its result. */
class Dropped extends Error {
  override readonly name = "Dropped";
  readonly result: ChangeResult;
  constructor(result: ChangeResult) {
    super("dropped");
    this.result = result;
  }
}

/** Storage on SQLite, PostgreSQL or MariaDB, in tables `gateway_…`. Call `migrate()` once at start. */
export function createPaymentGatewayStorage(options: PaymentGatewayStorageOptions): GatewayStorage & {
  migrate(): Promise<void>;
  /**
   * Stores every webhook secret under the first key of the cipher. Afterwards the others may go if every process had this
   * key in front before: what one with another key in front stores stays under that key. The tokens of a
   * `createKyselyStorage` in the same database have a `reencrypt()` of their own.
   *
   * @throws {ConfigError} without a cipher.
   */
  reencrypt(): Promise<Reencrypted>;
} {
  const { db, dialect, clock, cipher, hints } = options;
  if (hints && dialect !== "postgres") throw new ConfigError("hints: only PostgreSQL gives them");
  const seal = createSeal(cipher);
  const now = () => nowMs(dialect, clock);
  const later = (ms: number) => sql<number>`${now()} + ${sql.lit(Math.round(ms))}`;
  const inTransaction = <T>(work: (trx: AnyKysely) => Promise<T>): Promise<T> => transaction(db, dialect, work);
  const context: StorageContext = { db, dialect, seal, now, later, prepared: clock ? sql`` : prepared, inTransaction };
  const { secretsInForce, ...endpoints } = createEndpoints(context);

  function nextCheck(before: Payment, payment: Payment, delayMs: number | undefined) {
    if (delayMs === undefined) return hasJustEnded(before, payment) ? forgetExpiry : {};
    return {
      check_at: waitsForPayer(payment) ? checkOfOpen(context, delayMs) : later(delayMs),
      check_claim: null,
    };
  }

  const fromKey = (key: IdempotencyKey): Row => ({
    merchant: key.merchant,
    idempotency_key: key.key,
    fingerprint: key.fingerprint,
    resource_id: key.resourceId,
    work_ends_at: key.workMs === 0 ? 0 : later(key.workMs),
    created_at: now(),
  });

  async function useKey(trx: AnyKysely, key: IdempotencyKey): Promise<UsedKey | undefined> {
    if (await insertIfAbsent(trx, dialect, "gateway_idempotency", fromKey(key))) return undefined;
    const row = await trx
      .selectFrom("gateway_idempotency")
      .select(["fingerprint", "resource_id", "work_ends_at"])
      .select(sql<unknown>`case when work_ends_at > ${now()} then 1 else 0 end`.as("is_running"))
      .where("merchant", "=", key.merchant)
      .where("idempotency_key", "=", key.key)
      .executeTakeFirstOrThrow();
    if (row.fingerprint !== key.fingerprint) return { state: "mismatch" };
    if (integer(row.work_ends_at) === 0) return { state: "done", resourceId: text(row.resource_id) };
    // Told before the update: on MariaDB the refused insert holds a shared lock, and many that want the row would deadlock.
    if (integer(row.is_running) === 1) return { state: "running" };
    const { numUpdatedRows } = await trx
      .updateTable("gateway_idempotency")
      .set({ work_ends_at: later(key.workMs) })
      .where("merchant", "=", key.merchant)
      .where("idempotency_key", "=", key.key)
      .where("work_ends_at", "=", row.work_ends_at)
      .where("work_ends_at", "<=", now())
      .executeTakeFirst();
    return numUpdatedRows === 1n ? { state: "taken_over", resourceId: text(row.resource_id) } : { state: "running" };
  }

  /**
   * Both rows in one statement, in half the time of a transaction. Resolves to `false` when the key is there, and nothing
   * was written.
   */
  async function insertWithKey(payment: Row, key: IdempotencyKey): Promise<boolean> {
    const { numInsertedOrUpdatedRows } = await db
      .with("fresh", (query) =>
        query
          .insertInto("gateway_idempotency")
          .values(fromKey(key))
          .onConflict((conflict) => conflict.doNothing())
          .returning("resource_id"),
      )
      .insertInto("gateway_payment")
      .columns(Object.keys(payment))
      .expression(({ selectFrom, val }) =>
        selectFrom("fresh").select(Object.entries(payment).map(([name, value]) => val(value).as(name))),
      )
      .executeTakeFirst();
    return numInsertedOrUpdatedRows === 1n;
  }

  async function storeEvent(trx: AnyKysely, event: PaymentEvent, url: string | undefined): Promise<void> {
    await trx
      .insertInto("gateway_event")
      .values({
        id: event.id,
        payment_id: event.paymentId,
        merchant: event.merchant,
        sequence: event.sequence,
        name: event.name,
        body: event.body,
        position: null,
        created_at: event.createdAt.getTime(),
      })
      .execute();
    await trx
      .updateTable("gateway_delivery")
      .set({ due_at: now() })
      .where("payment_id", "=", event.paymentId)
      .where("state", "=", "pending")
      .where("due_at", ">", now())
      .execute();
    const endpoints = await trx
      .selectFrom("gateway_endpoint")
      .select(["id", "url"])
      .where("merchant", "=", event.merchant)
      .where("state", "=", "enabled")
      .execute();
    const targets = [
      ...(url === undefined ? [] : [{ id: event.id, endpointId: "", url }]),
      ...endpoints.map((row) => ({ id: `${event.id}.${text(row.id)}`, endpointId: text(row.id), url: text(row.url) })),
    ];
    if (targets.length === 0) return;
    await trx
      .insertInto("gateway_delivery")
      .values(
        targets.map((target) => ({
          id: target.id,
          event_id: event.id,
          payment_id: event.paymentId,
          endpoint_id: target.endpointId,
          merchant: event.merchant,
          origin: originOf(target.url),
          sequence: event.sequence,
          url: target.url,
          state: "pending",
          lane: 0,
          attempts: 0,
          schedule_attempts: 0,
          due_at: now(),
          claim: null,
          claim_ends_at: 0,
        })),
      )
      .execute();
    if (hints) await sql`select pg_notify(${hintChannel}, '')`.execute(trx);
  }

  /** Resolves to `false` when the refund was settled before. */
  async function storeRefund(trx: AnyKysely, refund: Refund): Promise<boolean> {
    const inserted = await insertIfAbsent(trx, dialect, "gateway_refund", {
      id: refund.id,
      payment_id: refund.paymentId,
      amount_minor: Number(refund.amountMinor),
      status: refund.status,
      created_at: refund.createdAt.getTime(),
      updated_at: refund.updatedAt.getTime(),
      check_at: refund.status === "pending" ? later(refundPatienceMs) : null,
    });
    if (inserted) return true;
    const { numUpdatedRows } = await trx
      .updateTable("gateway_refund")
      .set({ status: refund.status, updated_at: refund.updatedAt.getTime(), check_at: null })
      .where("id", "=", refund.id)
      .where("status", "=", "pending")
      .executeTakeFirst();
    return numUpdatedRows === 1n;
  }

  /**
   * Gives positions to committed events of a merchant, as many as a page holds. The counter's row is locked first, so
   * positions become visible in order. Those of others wait for their own readers: a merchant who never reads must not hold
   * up one who does.
   */
  async function placeEvents(merchant: string, limit: number): Promise<void> {
    const unplaced = db.selectFrom("gateway_event").where("merchant", "=", merchant).where("position", "is", null);
    if (!(await unplaced.select("id").limit(1).executeTakeFirst())) return;
    await inTransaction(async (trx) => {
      await trx.updateTable("gateway_counter").set({ value: sql`value` }).where("name", "=", "event").execute();
      const counter = await trx
        .selectFrom("gateway_counter")
        .select("value")
        .where("name", "=", "event")
        .executeTakeFirstOrThrow();
      const events = await trx
        .selectFrom("gateway_event")
        .select("id")
        .where("merchant", "=", merchant)
        .where("position", "is", null)
        .orderBy("created_at")
        .orderBy("payment_id")
        .orderBy("sequence")
        .limit(limit)
        .execute();
      let position = integer(counter.value);
      for (const { id } of events) {
        await trx.updateTable("gateway_event").set({ position: ++position }).where("id", "=", id).execute();
      }
      await trx.updateTable("gateway_counter").set({ value: position }).where("name", "=", "event").execute();
    });
  }

  return {
    ...createActivity(context),
    ...createChecks(context),
    ...createDeliveries(context, secretsInForce),
    ...createCleanUp(context),
    ...createMerchantSecrets(context),
    ...createProviderErrors(context),
    ...endpoints,
    ...(hints ? { hints } : {}),

    async migrate() {
      await migrate({ db, dialect, prefix: "gateway", migrations: createMigrations(dialect) });
      await insertIfAbsent(db, dialect, "gateway_counter", { name: "event", value: 0 });
    },

    async reencrypt() {
      if (!cipher) throw new ConfigError("cipher: encryption keys are needed to encrypt anew");
      return reencryptSecrets(context, cipher);
    },

    async createPayment(payment, key) {
      const { id, webhookSecret: secret } = payment;
      const webhook_secret = secret === undefined ? null : seal.close(secret, paymentSecretPlace(id));
      const row = { ...fromPayment(payment), webhook_secret, check_at: payment.expiresAt.getTime() };
      if (!key) {
        await db.insertInto("gateway_payment").values(row).execute();
        return { state: "created" };
      }
      if (dialect === "postgres" && (await insertWithKey(row, key))) return { state: "created" };
      return inTransaction(async (trx) => {
        const used = await useKey(trx, key);
        if (used) return { state: "key_used", key: used };
        await trx.insertInto("gateway_payment").values(row).execute();
        return { state: "created" };
      });
    },

    async getPayment(id) {
      const row = await db.selectFrom("gateway_payment").selectAll().where("id", "=", id).executeTakeFirst();
      return row && toPayment(row);
    },

    async findByAccount(provider, account) {
      const row = await db
        .selectFrom("gateway_payment")
        .selectAll()
        .where("account", "=", account)
        .where("provider", "=", provider)
        .executeTakeFirst();
      return row && toPayment(row);
    },

    async change(paymentId, decide, key) {
      try {
        return await inTransaction<ChangeResult>(async (trx) => {
          const row = await trx
            .selectFrom("gateway_payment")
            .selectAll()
            .where("id", "=", paymentId)
            .$if(dialect !== "sqlite", (query) => query.forUpdate())
            .executeTakeFirst();
          if (!row) return { state: "not_found" };
          const before = toPayment(row);
          const used = key && (await useKey(trx, key));
          if (used) return { state: "key_used", payment: before, key: used };
          const change = decide(before);
          if (!change) throw new Dropped({ state: "unchanged", payment: before });
          const { booking, event, refund } = change;
          if (booking) {
            const isNew = await insertIfAbsent(trx, dialect, "gateway_booking", {
              provider: booking.provider,
              transaction_id: booking.transactionId,
              payment_id: booking.paymentId,
              amount_minor: Number(booking.amountMinor),
              paid_at: booking.paidAt.getTime(),
            });
            if (!isNew) throw new Dropped({ state: "duplicate", payment: before });
          }
          if (refund && !(await storeRefund(trx, refund))) throw new Dropped({ state: "duplicate", payment: before });
          checkChange(before, change.payment);
          const payment = { ...change.payment, version: before.version + 1 };
          const { id: _id, ...columns } = fromPayment(payment);
          const { numUpdatedRows } = await trx
            .updateTable("gateway_payment")
            .set({ ...columns, ...nextCheck(before, payment, change.checkInMs) })
            .where("id", "=", paymentId)
            .where("status", "=", before.status)
            .where("version", "=", before.version)
            .executeTakeFirst();
          if (numUpdatedRows !== 1n) throw new Error("a payment changed under the lock that should hold it");
          if (event) await storeEvent(trx, event, payment.webhookUrl);
          return { state: "changed", payment };
        });
      } catch (error) {
        if (error instanceof Dropped) return error.result;
        throw error;
      }
    },

    async getBooking(provider, transactionId) {
      const row = await db
        .selectFrom("gateway_booking")
        .selectAll()
        .where("provider", "=", provider)
        .where("transaction_id", "=", transactionId)
        .executeTakeFirst();
      return row && toBooking(row);
    },

    async listPayments({ merchant, status, search, needsAttention, givenUp, after }, limit) {
      const holds = (column: string, part: string) =>
        dialect === "postgres"
          ? sql<boolean>`strpos(${sql.ref(column)}, ${part}) > 0`
          : sql<boolean>`instr(${sql.ref(column)}, ${part}) > 0`;
      let query = db
        .selectFrom("gateway_payment")
        .selectAll()
        .where(({ eb, or }) => or([eb("erased_at", "is", null), eb("paid_minor", ">", 0)]));
      if (merchant !== undefined) query = query.where("merchant", "=", merchant);
      if (status !== undefined) query = query.where("status", "=", status);
      if (needsAttention) query = query.where("needs_attention", "is not", null);
      if (givenUp) {
        const givenUpOf = db.selectFrom("gateway_delivery").select("payment_id").where("state", "=", "exhausted");
        query = query.where("id", "in", givenUpOf);
      }
      if (search !== undefined) {
        query = query.where(({ eb, or }) =>
          or([
            eb("id", "=", search),
            eb("account", "=", search),
            holds("description", search),
            holds("metadata", search),
          ]),
        );
      }
      if (after) {
        const atMs = after.createdAt.getTime();
        query = query.where(({ eb, or, and }) =>
          or([eb("created_at", "<", atMs), and([eb("created_at", "=", atMs), eb("id", "<", after.id)])]),
        );
      }
      const rows = await query.orderBy("created_at", "desc").orderBy("id", "desc").limit(limit).execute();
      return rows.map((row: Row) => toPayment(row));
    },

    async historyOf(paymentId) {
      const of = (table: string) => db.selectFrom(table).selectAll().where("payment_id", "=", paymentId);
      const [events, bookings, refunds] = await Promise.all([
        of("gateway_event").orderBy("sequence").execute(),
        of("gateway_booking").orderBy("paid_at").execute(),
        of("gateway_refund").orderBy("created_at").execute(),
      ]);
      return { events: events.map(toEvent), bookings: bookings.map(toBooking), refunds: refunds.map(toRefund) };
    },

    async health() {
      const pending = db.selectFrom("gateway_delivery").where("state", "=", "pending");
      const count = sql<number>`count(*)`;
      const [all, due, exhausted, refunds, receivers, paused, gone, late] = await Promise.all([
        pending.select(count.as("count")).executeTakeFirstOrThrow(),
        pending
          .select([count.as("count"), sql<number>`${now()} - min(due_at)`.as("lag")])
          .where("due_at", "<=", now())
          .executeTakeFirstOrThrow(),
        db
          .selectFrom("gateway_delivery")
          .select(count.as("count"))
          .where("state", "=", "exhausted")
          .executeTakeFirstOrThrow(),
        db
          .selectFrom("gateway_refund")
          .select(count.as("count"))
          .where("status", "=", "pending")
          .executeTakeFirstOrThrow(),
        pending
          .select(["url", count.as("count")])
          .where("schedule_attempts", ">", 0)
          .groupBy("url")
          .orderBy(count, "desc")
          .limit(20)
          .execute(),
        db
          .selectFrom("gateway_receiver")
          .selectAll()
          .where("open_until", ">", now())
          .orderBy("failures", "desc")
          .limit(20)
          .execute(),
        db
          .selectFrom("gateway_endpoint")
          .select(count.as("count"))
          .where("state", "=", "gone")
          .executeTakeFirstOrThrow(),
        // From one provider to the next by the index, which holds the due times of each.
        db
          .withRecursive("known(provider)", (on) =>
            on
              .selectFrom("gateway_payment")
              .select(sql`min(provider)`.as("provider"))
              .unionAll(
                on
                  .selectFrom("known")
                  .select(
                    sql`(select min(p.provider) from gateway_payment p where p.provider > known.provider)`.as(
                      "provider",
                    ),
                  )
                  .where("known.provider", "is not", null),
              ),
          )
          .selectFrom("known")
          .innerJoin("gateway_payment as p", "p.provider", "known.provider")
          .select(["p.provider", count.as("count"), sql<number>`${now()} - min(p.check_at)`.as("lag")])
          .where("p.check_at", "<", later(-lateCheckMs))
          .groupBy("p.provider")
          .orderBy("p.provider")
          .execute(),
      ]);
      return {
        pending: integer(all.count),
        due: integer(due.count),
        lagMs: integer(due.lag ?? 0),
        exhausted: integer(exhausted.count),
        openRefunds: integer(refunds.count),
        failingReceivers: receivers.map((row) => ({ url: text(row.url), deliveries: integer(row.count) })),
        pausedReceivers: paused.map((row) => ({
          merchant: text(row.merchant),
          origin: text(row.origin),
          failures: integer(row.failures),
          until: new Date(integer(row.open_until)),
        })),
        goneEndpoints: integer(gone.count),
        lateChecks: late.map((row) => ({
          provider: text(row.provider),
          payments: integer(row.count),
          lagMs: integer(row.lag),
        })),
      };
    },

    async nextNumber(name) {
      await insertIfAbsent(db, dialect, "gateway_counter", { name, value: 0 });
      return inTransaction(async (trx) => {
        const counter = trx.updateTable("gateway_counter").set({ value: sql`value + 1` });
        await counter.where("name", "=", name).execute();
        const row = await trx
          .selectFrom("gateway_counter")
          .select("value")
          .where("name", "=", name)
          .executeTakeFirstOrThrow();
        return integer(row.value);
      });
    },

    async finishKey(merchant, key) {
      await db
        .updateTable("gateway_idempotency")
        .set({ work_ends_at: 0 })
        .where("merchant", "=", merchant)
        .where("idempotency_key", "=", key)
        .execute();
    },

    async releaseKey(merchant, key) {
      await db
        .updateTable("gateway_idempotency")
        .set({ work_ends_at: now() })
        .where("merchant", "=", merchant)
        .where("idempotency_key", "=", key)
        .where("work_ends_at", ">", now())
        .execute();
    },

    async getRefund(id) {
      const row = await db.selectFrom("gateway_refund").selectAll().where("id", "=", id).executeTakeFirst();
      return row && toRefund(row);
    },

    // A transaction, because it is repeated when MariaDB gives up one of many that ask at once.
    keepRefundAnswer: (id, answer) =>
      inTransaction(async (trx) => {
        const { numUpdatedRows } = await trx
          .updateTable("gateway_refund")
          .set({ answer })
          .where("id", "=", id)
          .where("answer", "is", null)
          .executeTakeFirst();
        if (numUpdatedRows === 1n) return answer;
        const row = await trx.selectFrom("gateway_refund").select("answer").where("id", "=", id).executeTakeFirst();
        return typeof row?.answer === "string" ? row.answer : answer;
      }),

    async eventsAfter(merchant, position, limit) {
      await placeEvents(merchant, limit);
      const rows = await db
        .selectFrom("gateway_event")
        .select(["position", "body"])
        .where("merchant", "=", merchant)
        .where("position", ">", position)
        .orderBy("position")
        .limit(limit)
        .execute();
      return rows.map((row) => ({ position: integer(row.position), body: text(row.body) }));
    },

    async getEvent(id) {
      const row = await db.selectFrom("gateway_event").selectAll().where("id", "=", id).executeTakeFirst();
      return row && toEvent(row);
    },

    async addToken({ id, hash, merchant, scopes, createdAt }) {
      await db
        .insertInto("gateway_token")
        .values({ id, hash, merchant, scopes: JSON.stringify(scopes), created_at: createdAt.getTime() })
        .execute();
    },

    async findToken(hash) {
      const row = await db.selectFrom("gateway_token").selectAll().where("hash", "=", hash).executeTakeFirst();
      if (!row) return undefined;
      return toToken(row);
    },

    async listTokens() {
      return (await db.selectFrom("gateway_token").selectAll().orderBy("created_at").execute()).map(toToken);
    },

    async removeToken(id) {
      const { numDeletedRows } = await db.deleteFrom("gateway_token").where("id", "=", id).executeTakeFirst();
      return numDeletedRows === 1n;
    },

    async ping() {
      await sql`select 1`.execute(db);
    },
  };
}

function createSeal(cipher: Cipher | undefined): Seal {
  if (cipher) {
    return {
      close: (secret, place) => cipher.encrypt(secret, place),
      open: (stored, place) => cipher.decrypt(stored, place),
    };
  }
  return {
    close: (secret) => secret,
    open(stored, place) {
      if (stored.startsWith("enc1.")) throw new Error(`${place} is encrypted; give the encryption keys`);
      return stored;
    },
  };
}

export { createPostgresHints } from "./hints.ts";
export type { Reencrypted } from "./reencryption.ts";
