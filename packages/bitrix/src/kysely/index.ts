import { type Clock, systemClock } from "@orderbridge/core";
import { type DatabaseDialect, insertIfAbsent, migrate, nowMs, transaction } from "@orderbridge/core/kysely";
import { type Kysely, sql } from "kysely";
import type {
  BitrixStorage,
  BitrixStores,
  ClaimedWork,
  LinkStore,
  Order,
  OrderChange,
  OrderStore,
  Product,
  ProductStore,
  ProductValues,
  SyncLink,
  WorkEntry,
  WorkStore,
} from "../storage.ts";
import { bitrixMigrations } from "./migrations.ts";
import { prune } from "./prune.ts";

/** PostgreSQL gives `bigint` back as text. */
type Integer = number | string;

export interface Tables {
  bitrix_orders: {
    id: string;
    bitrix_order_id: string | null;
    deal_id: string | null;
    total: string;
    status: string;
    status_changed_at: Integer;
    paid_at: Integer | null;
    paid_by: string | null;
    site_version: Integer | null;
    site_changed_at: Integer | null;
    version: Integer;
    created_at: Integer;
  };
  bitrix_order_changes: {
    order_id: string;
    version: Integer;
    field: string;
    old_value: string;
    new_value: string;
    changed_by: string;
    changed_at: Integer;
  };
  bitrix_products: {
    id: string;
    name: string | null;
    price_minor: Integer | null;
    currency: string;
    enabled: number | null;
    site_version: Integer | null;
    pending: number;
    sent: string | null;
    version: Integer;
    updated_at: Integer;
  };
  bitrix_product_conflicts: {
    product_id: string;
    product_version: Integer;
    at: Integer;
    ours: string;
    theirs: string;
    site_version: Integer | null;
  };
  bitrix_links: {
    sync: string;
    left_id: string;
    right_id: string;
    left_code: string | null;
    left_paid: number | null;
    right_code: string | null;
    right_paid: number | null;
    echo_side: string | null;
    echo_code: string | null;
    echo_until: Integer | null;
    echoes: Integer;
    near_misses: Integer;
    state: string;
    note: string | null;
    unfollowed_side: string | null;
    unfollowed_status: string | null;
    version: Integer;
  };
  bitrix_work: {
    topic: string;
    work_key: string;
    generation: Integer;
    state: string;
    attempts: Integer;
    failures: Integer;
    due_at: Integer;
    claim: string | null;
    claim_ends_at: Integer;
    last_error: string | null;
  };
}

export interface BitrixStorageOptions {
  // biome-ignore lint/suspicious/noExplicitAny: the caller's own tables are not ours to know
  readonly db: Kysely<any>;
  readonly dialect: DatabaseDialect;
  /** For tests. @defaultValue the database's clock; on SQLite the machine's */
  readonly clock?: Clock;
}

/**
 * Orders, history, products, conflicts, links and work in SQLite, PostgreSQL or MariaDB, in tables that begin with
 * `bitrix_`. Call `migrate` once at start; several processes may.
 */
export function createBitrixStorage({
  db: anyDb,
  dialect,
  clock,
}: BitrixStorageOptions): BitrixStorage & { migrate(): Promise<void> } {
  const db: Kysely<Tables> = anyDb;
  return {
    ...createStores(db, dialect, clock),
    transaction: (work) => transaction(db, dialect, (trx) => work(createStores(trx, dialect, clock))),
    migrate: () => migrate({ db, dialect, prefix: "bitrix", migrations: bitrixMigrations(dialect) }),
    prune: (options) => prune(db, dialect, nowOf(dialect, clock), options),
    async ping() {
      await sql`select 1`.execute(db);
    },
  };
}

/** The database's clock; on SQLite the machine's. */
const nowOf = (dialect: DatabaseDialect, clock: Clock | undefined) =>
  nowMs(dialect, clock ?? (dialect === "sqlite" ? systemClock : undefined));

function createStores(db: Kysely<Tables>, dialect: DatabaseDialect, clock: Clock | undefined): BitrixStores {
  return {
    orders: createOrders(db, dialect),
    products: createProducts(db, dialect),
    links: createLinks(db, dialect),
    work: createWork(db, dialect, clock),
  };
}

const instant = (value: Integer | null): Date | undefined => (value === null ? undefined : new Date(Number(value)));
const integer = (value: Integer | null): number | undefined => (value === null ? undefined : Number(value));
const flag = (value: boolean | undefined): number | null => (value === undefined ? null : Number(value));

function createOrders(db: Kysely<Tables>, dialect: DatabaseDialect): OrderStore {
  const find = async (column: "id" | "bitrix_order_id", value: string): Promise<Order | undefined> => {
    const row = await db.selectFrom("bitrix_orders").selectAll().where(column, "=", value).executeTakeFirst();
    return row && toOrder(row);
  };
  return {
    insert: (order) =>
      transaction(db, dialect, (trx) => insertIfAbsent(trx, dialect, "bitrix_orders", toOrderRow(order))),
    get: (id) => find("id", id),
    getByBitrixOrderId: (bitrixOrderId) => find("bitrix_order_id", bitrixOrderId),
    async list({ limit }) {
      const rows = await db
        .selectFrom("bitrix_orders")
        .selectAll()
        .orderBy("created_at", "desc")
        .orderBy("id", "desc")
        .limit(limit)
        .execute();
      return rows.map(toOrder);
    },
    replace: (order, changes) =>
      transaction(db, dialect, async (trx) => {
        const { numUpdatedRows } = await trx
          .updateTable("bitrix_orders")
          .set(toOrderRow(order))
          .where("id", "=", order.id)
          .where("version", "=", order.version - 1)
          .executeTakeFirst();
        if (numUpdatedRows === 0n) return false;
        for (const { field, from, to, changedBy, changedAt } of changes) {
          await trx
            .insertInto("bitrix_order_changes")
            .values({
              order_id: order.id,
              version: order.version,
              field,
              old_value: from,
              new_value: to,
              changed_by: changedBy,
              changed_at: changedAt.getTime(),
            })
            .execute();
        }
        return true;
      }),
    async history(id) {
      const rows = await db
        .selectFrom("bitrix_order_changes")
        .selectAll()
        .where("order_id", "=", id)
        .orderBy("version")
        .orderBy("field", "desc") // a status before the payment that came with it, as they are stored
        .execute();
      return rows.map(
        (row): OrderChange => ({
          field: row.field as OrderChange["field"],
          from: row.old_value,
          to: row.new_value,
          changedBy: row.changed_by,
          changedAt: new Date(Number(row.changed_at)),
        }),
      );
    },
  };
}

function toOrderRow(order: Order): Tables["bitrix_orders"] {
  return {
    id: order.id,
    bitrix_order_id: order.bitrixOrderId ?? null,
    deal_id: order.dealId ?? null,
    total: order.total,
    status: order.status,
    status_changed_at: order.statusChangedAt.getTime(),
    paid_at: order.paidAt?.getTime() ?? null,
    paid_by: order.paidBy ?? null,
    site_version: order.siteVersion ?? null,
    site_changed_at: order.siteChangedAt?.getTime() ?? null,
    version: order.version,
    created_at: order.createdAt.getTime(),
  };
}

function toOrder(row: Tables["bitrix_orders"]): Order {
  return {
    id: row.id,
    bitrixOrderId: row.bitrix_order_id ?? undefined,
    dealId: row.deal_id ?? undefined,
    total: row.total,
    status: row.status,
    statusChangedAt: new Date(Number(row.status_changed_at)),
    paidAt: instant(row.paid_at),
    paidBy: row.paid_by ?? undefined,
    siteVersion: integer(row.site_version),
    siteChangedAt: instant(row.site_changed_at),
    version: Number(row.version),
    createdAt: new Date(Number(row.created_at)),
  };
}

function createProducts(db: Kysely<Tables>, dialect: DatabaseDialect): ProductStore {
  return {
    async get(id) {
      const row = await db.selectFrom("bitrix_products").selectAll().where("id", "=", id).executeTakeFirst();
      return row && toProduct(row);
    },
    put: (product, conflict) =>
      transaction(db, dialect, async (trx) => {
        const row: Tables["bitrix_products"] = {
          id: product.id,
          name: product.name ?? null,
          price_minor: product.priceMinor === undefined ? null : String(product.priceMinor),
          currency: product.currency,
          enabled: flag(product.enabled),
          site_version: product.siteVersion ?? null,
          pending: Number(product.pending),
          sent: product.sent ? writeValues(product.sent) : null,
          version: product.version,
          updated_at: product.updatedAt.getTime(),
        };
        if (product.version === 1) {
          if (!(await insertIfAbsent(trx, dialect, "bitrix_products", row))) return false;
        } else {
          const { numUpdatedRows } = await trx
            .updateTable("bitrix_products")
            .set(row)
            .where("id", "=", product.id)
            .where("version", "=", product.version - 1)
            .executeTakeFirst();
          if (numUpdatedRows === 0n) return false;
        }
        if (conflict) {
          await trx
            .insertInto("bitrix_product_conflicts")
            .values({
              product_id: product.id,
              product_version: product.version,
              at: conflict.at.getTime(),
              ours: writeValues(conflict.ours),
              theirs: writeValues(conflict.theirs),
              site_version: conflict.siteVersion ?? null,
            })
            .execute();
        }
        return true;
      }),
    async conflicts(productId) {
      const rows = await db
        .selectFrom("bitrix_product_conflicts")
        .selectAll()
        .where("product_id", "=", productId)
        .orderBy("product_version")
        .execute();
      return rows.map((row) => ({
        productId,
        at: new Date(Number(row.at)),
        ours: readValues(row.ours),
        theirs: readValues(row.theirs),
        siteVersion: integer(row.site_version),
      }));
    },
  };
}

const writeValues = ({ priceMinor, ...values }: ProductValues): string =>
  JSON.stringify({ ...values, priceMinor: priceMinor === undefined ? undefined : String(priceMinor) });

function readValues(text: string): ProductValues {
  const { name, priceMinor, currency, enabled } = JSON.parse(text);
  return { name, priceMinor: priceMinor === undefined ? undefined : BigInt(priceMinor), currency, enabled };
}

function toProduct(row: Tables["bitrix_products"]): Product {
  return {
    id: row.id,
    name: row.name ?? undefined,
    priceMinor: row.price_minor === null ? undefined : BigInt(row.price_minor),
    currency: row.currency,
    enabled: row.enabled === null ? undefined : row.enabled === 1,
    siteVersion: integer(row.site_version),
    pending: row.pending === 1,
    sent: row.sent === null ? undefined : readValues(row.sent),
    version: Number(row.version),
    updatedAt: new Date(Number(row.updated_at)),
  };
}

function createLinks(db: Kysely<Tables>, dialect: DatabaseDialect): LinkStore {
  const find = async (sync: string, column: "left_id" | "right_id", id: string): Promise<SyncLink | undefined> => {
    const row = await db
      .selectFrom("bitrix_links")
      .selectAll()
      .where("sync", "=", sync)
      .where(column, "=", id)
      .executeTakeFirst();
    return row && toLink(row);
  };
  return {
    getByLeft: (sync, leftId) => find(sync, "left_id", leftId),
    getByRight: (sync, rightId) => find(sync, "right_id", rightId),
    put: (link) =>
      transaction(db, dialect, async (trx) => {
        const row = toLinkRow(link);
        if (link.version === 1) return insertIfAbsent(trx, dialect, "bitrix_links", row);
        const holder = await trx
          .selectFrom("bitrix_links")
          .select("left_id")
          .where("sync", "=", link.sync)
          .where("right_id", "=", link.rightId)
          .executeTakeFirst();
        if (holder && holder.left_id !== link.leftId) return false;
        const { numUpdatedRows } = await trx
          .updateTable("bitrix_links")
          .set(row)
          .where("sync", "=", link.sync)
          .where("left_id", "=", link.leftId)
          .where("version", "=", link.version - 1)
          .executeTakeFirst();
        return numUpdatedRows === 1n;
      }),
    async list(sync, { after = "", limit }) {
      const rows = await db
        .selectFrom("bitrix_links")
        .selectAll()
        .where("sync", "=", sync)
        .where("left_id", ">", after)
        .orderBy("left_id")
        .limit(limit)
        .execute();
      return rows.map(toLink);
    },
  };
}

function toLinkRow(link: SyncLink): Tables["bitrix_links"] {
  return {
    sync: link.sync,
    left_id: link.leftId,
    right_id: link.rightId,
    left_code: link.agreed?.left.code ?? null,
    left_paid: flag(link.agreed?.left.paid),
    right_code: link.agreed?.right.code ?? null,
    right_paid: flag(link.agreed?.right.paid),
    echo_side: link.expectedEcho?.side ?? null,
    echo_code: link.expectedEcho?.code ?? null,
    echo_until: link.expectedEcho?.until.getTime() ?? null,
    echoes: link.echoes,
    near_misses: link.nearMisses,
    state: link.state,
    note: link.note ?? null,
    unfollowed_side: link.unfollowed?.side ?? null,
    unfollowed_status: link.unfollowed?.status ?? null,
    version: link.version,
  };
}

function toLink(row: Tables["bitrix_links"]): SyncLink {
  return {
    sync: row.sync,
    leftId: row.left_id,
    rightId: row.right_id,
    agreed:
      row.left_code === null || row.right_code === null
        ? undefined
        : {
            left: { code: row.left_code, paid: row.left_paid === 1 },
            right: { code: row.right_code, paid: row.right_paid === 1 },
          },
    expectedEcho:
      row.echo_side === null || row.echo_code === null
        ? undefined
        : {
            side: row.echo_side as "left" | "right",
            code: row.echo_code,
            until: new Date(Number(row.echo_until)),
          },
    echoes: Number(row.echoes),
    nearMisses: Number(row.near_misses),
    state: row.state as SyncLink["state"],
    note: row.note ?? undefined,
    unfollowed:
      row.unfollowed_side === null
        ? undefined
        : {
            side: row.unfollowed_side as "left" | "right" | "both",
            status: row.unfollowed_status ?? undefined,
          },
    version: Number(row.version),
  };
}

function createWork(db: Kysely<Tables>, dialect: DatabaseDialect, clock: Clock | undefined): WorkStore {
  const now = () => nowOf(dialect, clock);

  /** Ends a claim that still holds; `same` when no mark came meanwhile, `other` when one did. */
  async function endClaim(
    work: Omit<ClaimedWork, "attempt" | "failures">,
    same: {
      readonly state: string;
      readonly attempts: number;
      readonly failures: number;
      readonly delayMs?: number;
    },
    error: string | null,
  ): Promise<boolean> {
    const end = (trx: Kysely<Tables>, marked: boolean) =>
      trx
        .updateTable("bitrix_work")
        .set({
          claim: null,
          claim_ends_at: 0,
          last_error: error,
          state: marked ? "due" : same.state,
          attempts: marked && same.state !== "due" ? 0 : same.attempts,
          failures: marked && same.state !== "due" ? 0 : same.failures,
          ...(marked || same.delayMs === undefined ? {} : { due_at: sql<number>`${now()} + ${sql.lit(same.delayMs)}` }),
        })
        .where("topic", "=", work.topic)
        .where("work_key", "=", work.key)
        .where("claim", "=", work.claim)
        .where("generation", marked ? ">" : "=", work.generation)
        .executeTakeFirst();
    return transaction(db, dialect, async (trx) => {
      if ((await end(trx, false)).numUpdatedRows === 1n) return true;
      return (await end(trx, true)).numUpdatedRows === 1n;
    });
  }

  return {
    async mark(topic, key, { delayMs = 0 } = {}) {
      const dueAt = sql<number>`${now()} + ${sql.lit(delayMs)}`;
      const again = async (trx: Kysely<Tables>) => {
        const { numUpdatedRows } = await trx
          .updateTable("bitrix_work")
          .set((column) => ({
            generation: sql<number>`generation + 1`,
            // Assignments on MariaDB see those to their left: what depends on the old state comes before it.
            due_at: sql<number>`case when state = 'due' and due_at < ${dueAt} then due_at else ${dueAt} end`,
            attempts: sql<number>`case when state = 'due' then ${column.ref("attempts")} else 0 end`,
            failures: sql<number>`case when state = 'due' then ${column.ref("failures")} else 0 end`,
            state: "due",
          }))
          .where("topic", "=", topic)
          .where("work_key", "=", key)
          .executeTakeFirst();
        return numUpdatedRows === 1n;
      };
      await transaction(db, dialect, async (trx) => {
        if (await again(trx)) return;
        const inserted = await insertIfAbsent(trx, dialect, "bitrix_work", {
          topic,
          work_key: key,
          generation: 1,
          state: "due",
          attempts: 0,
          failures: 0,
          due_at: dueAt,
          claim: null,
          claim_ends_at: 0,
          last_error: null,
        });
        if (!inserted) await again(trx);
      });
    },
    async claim({ topics, limit, ttlMs }) {
      if (topics.length === 0) return [];
      const free = await db
        .selectFrom("bitrix_work")
        .select(["topic", "work_key"])
        .where("state", "=", "due")
        .where("topic", "in", topics)
        .where("due_at", "<=", now())
        .where("claim_ends_at", "<=", now())
        .orderBy("due_at")
        .limit(limit)
        .execute();
      const claimed: ClaimedWork[] = [];
      for (const { topic, work_key: key } of free) {
        const claim = crypto.randomUUID();
        const row = await transaction(db, dialect, async (trx) => {
          const { numUpdatedRows } = await trx
            .updateTable("bitrix_work")
            .set({
              claim,
              attempts: sql<number>`attempts + 1`,
              claim_ends_at: sql<number>`${now()} + ${sql.lit(ttlMs)}`,
            })
            .where("topic", "=", topic)
            .where("work_key", "=", key)
            .where("state", "=", "due")
            .where("due_at", "<=", now())
            .where("claim_ends_at", "<=", now())
            .executeTakeFirst();
          if (numUpdatedRows === 0n) return undefined; // another worker was quicker
          return trx
            .selectFrom("bitrix_work")
            .select(["generation", "attempts", "failures"])
            .where("topic", "=", topic)
            .where("work_key", "=", key)
            .executeTakeFirst();
        });
        if (!row) continue;
        const [generation, attempt, failures] = [Number(row.generation), Number(row.attempts), Number(row.failures)];
        claimed.push({ topic, key, generation, attempt, failures, claim });
      }
      return claimed;
    },
    finish: (work) => endClaim(work, { state: "done", attempts: 0, failures: 0 }, null),
    retry({ attempt, failures, ...work }, { delayMs, error, isOutage = false }) {
      const counted = failures + (isOutage ? 0 : 1);
      return endClaim(work, { state: "due", attempts: attempt, failures: counted, delayMs }, error);
    },
    park: ({ attempt, failures, ...work }, error) =>
      endClaim(work, { state: "parked", attempts: attempt, failures }, error),
    async get(topic, key) {
      const row = await db
        .selectFrom("bitrix_work")
        .selectAll()
        .where("topic", "=", topic)
        .where("work_key", "=", key)
        .executeTakeFirst();
      return row && toEntry(row);
    },
    async parked({ limit }) {
      const rows = await db
        .selectFrom("bitrix_work")
        .selectAll()
        .where("state", "=", "parked")
        .orderBy("topic")
        .orderBy("work_key")
        .limit(limit)
        .execute();
      return rows.map(toEntry);
    },
  };
}

const toEntry = (row: Tables["bitrix_work"]): WorkEntry => ({
  topic: row.topic,
  key: row.work_key,
  state: row.state as WorkEntry["state"],
  attempts: Number(row.attempts),
  lastError: row.last_error ?? undefined,
});
