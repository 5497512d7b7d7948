import { randomBytes } from "node:crypto";
import type { Clock } from "@orderbridge/core";
import {
  type AnyKysely,
  type DatabaseDialect,
  insertAbsent,
  insertIfAbsent,
  migrate,
  nowMs,
  transaction,
} from "@orderbridge/core/kysely";
import { type Kysely, sql, type UpdateObject } from "kysely";
import {
  type KaspiAmocrmStorage,
  type LedgerChange,
  type LedgerLine,
  type LedgerPhase,
  type LedgerRow,
  unfinishedPhases,
} from "../ledger.ts";
import { createEventInbox } from "./events.ts";
import { kaspiAmocrmMigrations } from "./migrations.ts";

/** Instants are milliseconds; PostgreSQL gives `bigint` back as text. */
type Integer = number | string;

interface OrderColumns {
  shop: string;
  code: string;
  ordered_at: Integer;
  phase: string;
  state: string;
  status: string;
  fingerprint: string | null;
  final_since: Integer | null;
  lead_id: string | null;
  contact_id: string | null;
  stage_id: string | null;
  seen_stage_id: string | null;
  intended_stage_id: string | null;
  price_minor: Integer | null;
  lines: string | null;
  note_id: string | null;
  note_fingerprint: string | null;
  intent_at: Integer | null;
  attempts: Integer;
  due_at: Integer;
  last_error: string | null;
  fence: Integer;
}

interface Tables {
  kaspi_amocrm_order: OrderColumns;
  kaspi_amocrm_phone: { phone_hash: string; contact_id: string };
  kaspi_amocrm_element: { catalog_id: string; sku: string; element_id: string };
  kaspi_amocrm_setting: { name: string; value: string };
}

export interface KaspiAmocrmStorageOptions {
  /** A database, or a transaction of the caller: everything is then written inside it. */
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** Replaces the clock of a PostgreSQL or MariaDB server, by which its rows fall due: for tests. */
  readonly clock?: Clock;
}

/**
 * The sync's storage in SQLite, PostgreSQL or MariaDB, in tables that begin with `kaspi_amocrm_`. Call `migrate` once at
 * start; several processes may.
 */
export function createKaspiAmocrmStorage({
  db: anyDb,
  dialect,
  clock,
}: KaspiAmocrmStorageOptions): KaspiAmocrmStorage & { migrate(): Promise<void> } {
  const db = anyDb as Kysely<Tables>;
  const inTransaction = <T>(work: (trx: Kysely<Tables>) => Promise<T>): Promise<T> => transaction(db, dialect, work);

  async function now(): Promise<Date> {
    const time = nowMs(dialect, clock);
    const { rows } = await sql<{ now: Integer }>`select ${time} as ${sql.ref("now")}`.execute(db);
    return new Date(Number(rows[0]?.now));
  }

  return {
    migrate: () => migrate({ db: anyDb, dialect, prefix: "kaspi_amocrm", migrations: kaspiAmocrmMigrations(dialect) }),
    orders: { ...createOrders(db, dialect, inTransaction), ...(dialect !== "sqlite" && { now }) },
    events: createEventInbox(anyDb, dialect),
    contacts: {
      async secret() {
        const read = () =>
          db.selectFrom("kaspi_amocrm_setting").select("value").where("name", "=", "phone-key").executeTakeFirst();
        const known = await read();
        if (known) return known.value;
        const value = randomBytes(32).toString("base64");
        // Somebody else may have been first: the stored key counts.
        await insertIfAbsent(anyDb, dialect, "kaspi_amocrm_setting", { name: "phone-key", value });
        return (await read())?.value ?? value;
      },
      async find(hashes) {
        const found = new Map<string, string>();
        for (const part of parts(hashes)) {
          const rows = await db.selectFrom("kaspi_amocrm_phone").selectAll().where("phone_hash", "in", part).execute();
          for (const { phone_hash, contact_id } of rows) {
            const other = found.get(phone_hash);
            if (other === undefined || Number(contact_id) < Number(other)) found.set(phone_hash, contact_id);
          }
        }
        return found;
      },
      async replace(contacts) {
        for (const part of parts(contacts)) {
          const ids = part.map(({ contactId }) => contactId);
          const rows = part.flatMap(({ contactId, hashes }) =>
            [...new Set(hashes)].map((hash) => ({ phone_hash: hash, contact_id: contactId })),
          );
          await inTransaction(async (trx) => {
            await trx.deleteFrom("kaspi_amocrm_phone").where("contact_id", "in", ids).execute();
            for (const some of parts(rows)) {
              await insertAbsent(trx, dialect, { table: "kaspi_amocrm_phone", key: "contact_id", rows: some });
            }
          });
        }
      },
      erase: (hashes) =>
        inTransaction(async (trx) => {
          const erased = new Set<string>();
          for (const part of parts(hashes)) {
            const rows = await trx
              .selectFrom("kaspi_amocrm_phone")
              .select("contact_id")
              .where("phone_hash", "in", part)
              .execute();
            for (const { contact_id } of rows) erased.add(contact_id);
          }
          for (const part of parts([...erased])) {
            await trx.deleteFrom("kaspi_amocrm_phone").where("contact_id", "in", part).execute();
          }
          return [...erased].sort((left, right) => Number(left) - Number(right));
        }),
    },
    elements: {
      async find(catalogId, skus) {
        const found = new Map<string, string>();
        for (const part of parts(skus)) {
          const rows = await db
            .selectFrom("kaspi_amocrm_element")
            .select(["sku", "element_id"])
            .where("catalog_id", "=", catalogId)
            .where("sku", "in", part)
            .execute();
          for (const { sku, element_id } of rows) found.set(sku, element_id);
        }
        return found;
      },
      async add(catalogId, elements) {
        await inTransaction(async (trx) => {
          for (const { sku, elementId } of elements) {
            if (sku.length > maxKeyLength) continue; // found by search each time
            const row = { catalog_id: catalogId, sku, element_id: elementId };
            if (await insertIfAbsent(trx, dialect, "kaspi_amocrm_element", row)) continue;
            await trx
              .updateTable("kaspi_amocrm_element")
              .set({ element_id: elementId })
              .where("catalog_id", "=", catalogId)
              .where("sku", "=", sku)
              .execute();
          }
        });
      },
      async forget(catalogId, elementIds) {
        for (const part of parts(elementIds)) {
          await db
            .deleteFrom("kaspi_amocrm_element")
            .where("catalog_id", "=", catalogId)
            .where("element_id", "in", part)
            .execute();
        }
      },
    },
  };
}

const maxKeyLength = 191;
/** SQLite takes at most 32 766 parameters, the others more; lists are cut long before. */
const parts = <Item>(items: readonly Item[], size = 500): Item[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size));

function createOrders(
  db: Kysely<Tables>,
  dialect: DatabaseDialect,
  inTransaction: <T>(work: (trx: Kysely<Tables>) => Promise<T>) => Promise<T>,
): KaspiAmocrmStorage["orders"] {
  const table = "kaspi_amocrm_order";

  async function rowsOf(handle: Kysely<Tables>, shop: string, codes: readonly string[]): Promise<OrderColumns[]> {
    if (codes.length === 0) return [];
    return handle.selectFrom(table).selectAll().where("shop", "=", shop).where("code", "in", codes).execute();
  }

  /** Rows and codes grouped by shop, for `in` lists. */
  const byShop = <Key extends { readonly shop: string; readonly code: string }>(keys: readonly Key[]) => {
    const groups = new Map<string, Key[]>();
    for (const key of keys) groups.set(key.shop, [...(groups.get(key.shop) ?? []), key]);
    return groups;
  };

  return {
    observe: (shop, orders, at) =>
      inTransaction(async (trx) => {
        const codes = orders.map(({ code }) => code);
        const known = new Map((await rowsOf(trx, shop, codes)).map((row) => [row.code, row]));
        const fresh = [...new Map(orders.map((order) => [order.code, order])).values()]
          .filter(({ code, mustBeKnown = false }) => !known.has(code) && !mustBeKnown)
          .map((order) => ({
            shop,
            code: order.code,
            ordered_at: order.orderedAt.getTime(),
            phase: "seen",
            state: order.state,
            status: order.status,
            final_since: order.isFinal ? at.getTime() : null,
            attempts: 0,
            due_at: at.getTime(),
            fence: 0,
          }));
        for (const rows of parts(fresh)) await insertAbsent(trx, dialect, { table, key: "code", rows });
        for (const order of orders) {
          const row = known.get(order.code);
          if (!row) continue;
          const isSame =
            row.state === order.state && row.status === order.status && (row.final_since !== null) === order.isFinal;
          if (isSame) continue;
          await trx
            .updateTable(table)
            .set({
              state: order.state,
              status: order.status,
              final_since: order.isFinal ? (row.final_since ?? at.getTime()) : null,
            })
            .where("shop", "=", shop)
            .where("code", "=", order.code)
            .execute();
        }
        return (await rowsOf(trx, shop, codes)).map(toRow);
      }),

    claim: (keys, fence) =>
      inTransaction(async (trx) => {
        const rows: OrderColumns[] = [];
        for (const [shop, group] of byShop(keys)) {
          const codes = group.map(({ code }) => code);
          await trx
            .updateTable(table)
            .set({ fence })
            .where("shop", "=", shop)
            .where("code", "in", codes)
            .where("fence", "<=", fence)
            .execute();
          rows.push(...(await rowsOf(trx, shop, codes)).filter((row) => Number(row.fence) === fence));
        }
        return rows.map(toRow);
      }),

    save: (changes, fence) =>
      inTransaction(async (trx) => {
        // The update by fence takes the rows' locks, so nobody gets between the check and the writes.
        for (const [shop, group] of byShop(changes)) {
          const { numUpdatedRows } = await trx
            .updateTable(table)
            .set({ fence })
            .where("shop", "=", shop)
            .where("code", "in", [...new Set(group.map(({ code }) => code))])
            .where("fence", "<=", fence)
            .executeTakeFirst();
          if (Number(numUpdatedRows) !== new Set(group.map(({ code }) => code)).size) return false;
        }
        for (const [shop, group] of byShop(changes)) {
          for (const alike of sameColumns(group)) {
            await trx
              .updateTable(table)
              .set(valuesOf(alike, dialect))
              .where("shop", "=", shop)
              .where(
                "code",
                "in",
                alike.map(({ code }) => code),
              )
              .execute();
          }
        }
        return true;
      }),

    async get({ shop, code }) {
      const [row] = await rowsOf(db, shop, [code]);
      return row && toRow(row);
    },

    async due(shop, { at, limit }) {
      const rows = await db
        .selectFrom(table)
        .selectAll()
        .where("shop", "=", shop)
        .where("phase", "in", [...unfinishedPhases])
        .where("due_at", "<=", at.getTime())
        .orderBy("ordered_at")
        .orderBy("code")
        .limit(limit)
        .execute();
      return rows.map(toRow);
    },

    async open(shop, { finalAfter, orderedBefore, after, limit }) {
      let query = db
        .selectFrom(table)
        .selectAll()
        .where("shop", "=", shop)
        .where("phase", "in", ["done", "seen"])
        .where((eb) => eb.or([eb("final_since", "is", null), eb("final_since", ">", finalAfter.getTime())]))
        .where("ordered_at", "<", orderedBefore.getTime());
      if (after) {
        const at = after.orderedAt.getTime();
        query = query.where((eb) =>
          eb.or([eb("ordered_at", ">", at), eb.and([eb("ordered_at", "=", at), eb("code", ">", after.code)])]),
        );
      }
      const rows = await query.orderBy("ordered_at").orderBy("code").limit(limit).execute();
      return rows.map(toRow);
    },

    async noteStages(stageByLead) {
      for (const part of parts([...stageByLead.keys()])) {
        const rows = await db
          .selectFrom(table)
          .select(["shop", "code", "lead_id", "seen_stage_id"])
          .where("lead_id", "in", part)
          .execute();
        for (const { shop, code, lead_id, seen_stage_id } of rows) {
          const stageId = stageByLead.get(lead_id as string) ?? null;
          if (stageId === seen_stage_id) continue;
          await db
            .updateTable(table)
            .set({ seen_stage_id: stageId })
            .where("shop", "=", shop)
            .where("code", "=", code)
            .execute();
        }
      }
    },

    async byLead(leadIds) {
      const rows: OrderColumns[] = [];
      for (const part of parts(leadIds)) {
        rows.push(...(await db.selectFrom(table).selectAll().where("lead_id", "in", part).execute()));
      }
      return rows.map(toRow);
    },

    async counts() {
      const rows = await db
        .selectFrom(table)
        .select(["phase", sql<Integer>`count(*)`.as("count")])
        .groupBy("phase")
        .execute();
      return Object.fromEntries(rows.map(({ phase, count }) => [phase, Number(count)]));
    },

    async parked(limit) {
      const rows = await db
        .selectFrom(table)
        .selectAll()
        .where("phase", "=", "parked")
        .orderBy("ordered_at")
        .orderBy("code")
        .limit(limit)
        .execute();
      return rows.map(toRow);
    },
  };
}

interface RowChange {
  readonly code: string;
  readonly columns: Partial<OrderColumns>;
}

/** Changes that set the same columns, at most a hundred together: one statement each instead of one for each row. */
function sameColumns(changes: readonly LedgerChange[]): readonly RowChange[][] {
  const byCode = new Map<string, Partial<OrderColumns>>();
  for (const change of changes) byCode.set(change.code, { ...byCode.get(change.code), ...toColumns(change) });
  const groups = new Map<string, RowChange[]>();
  for (const [code, columns] of byCode) {
    const names = Object.keys(columns).sort().join();
    if (names !== "") groups.set(names, [...(groups.get(names) ?? []), { code, columns }]);
  }
  return [...groups.values()].flatMap((group) => parts(group, 100));
}

/** A value that all rows share is set as it is, any other by the row's code. */
function valuesOf(changes: readonly RowChange[], dialect: DatabaseDialect): UpdateObject<Tables, "kaspi_amocrm_order"> {
  const [first] = changes as [RowChange, ...RowChange[]];
  const names = Object.keys(first.columns) as (keyof OrderColumns)[];
  return Object.fromEntries(
    names.map((name) => {
      const value = first.columns[name];
      if (changes.every(({ columns }) => columns[name] === value)) return [name, value];
      const cases = changes.map(({ code, columns }) => sql`when ${code} then ${columns[name]}`);
      const chosen = sql`case ${sql.ref("code")} ${sql.join(cases, sql` `)} end`;
      // PostgreSQL takes parameters of unknown type for text.
      const isInteger = dialect === "postgres" && integerColumns.has(name);
      return [name, isInteger ? sql`cast(${chosen} as bigint)` : chosen];
    }),
  );
}

const integerColumns: ReadonlySet<keyof OrderColumns> = new Set([
  "ordered_at",
  "final_since",
  "price_minor",
  "intent_at",
  "attempts",
  "due_at",
]);

const instant = (value: Integer | null): Date | undefined => (value === null ? undefined : new Date(Number(value)));

function toRow(row: OrderColumns): LedgerRow {
  return {
    shop: row.shop,
    code: row.code,
    orderedAt: new Date(Number(row.ordered_at)),
    phase: row.phase as LedgerPhase,
    state: row.state,
    status: row.status,
    fingerprint: row.fingerprint ?? undefined,
    finalSince: instant(row.final_since),
    leadId: row.lead_id ?? undefined,
    contactId: row.contact_id ?? undefined,
    stageId: row.stage_id ?? undefined,
    seenStageId: row.seen_stage_id ?? undefined,
    intendedStageId: row.intended_stage_id ?? undefined,
    priceMinor: row.price_minor === null ? undefined : Number(row.price_minor),
    lines: row.lines === null ? undefined : (JSON.parse(row.lines) as LedgerLine[]),
    noteId: row.note_id ?? undefined,
    noteFingerprint: row.note_fingerprint ?? undefined,
    intentAt: instant(row.intent_at),
    attempts: Number(row.attempts),
    dueAt: new Date(Number(row.due_at)),
    lastError: row.last_error ?? undefined,
  };
}

/** Only the fields that are present; `undefined` becomes null. */
function toColumns(change: LedgerChange): Partial<OrderColumns> {
  const columns: Partial<OrderColumns> = {};
  const at = (value: Date | undefined) => value?.getTime() ?? null;
  if (change.orderedAt) columns.ordered_at = change.orderedAt.getTime();
  if (change.phase) columns.phase = change.phase;
  if (change.state !== undefined) columns.state = change.state;
  if (change.status !== undefined) columns.status = change.status;
  if (change.attempts !== undefined) columns.attempts = change.attempts;
  if (change.dueAt) columns.due_at = change.dueAt.getTime();
  if ("fingerprint" in change) columns.fingerprint = change.fingerprint ?? null;
  if ("finalSince" in change) columns.final_since = at(change.finalSince);
  if ("leadId" in change) columns.lead_id = change.leadId ?? null;
  if ("contactId" in change) columns.contact_id = change.contactId ?? null;
  if ("stageId" in change) columns.stage_id = change.stageId ?? null;
  if ("seenStageId" in change) columns.seen_stage_id = change.seenStageId ?? null;
  if ("intendedStageId" in change) columns.intended_stage_id = change.intendedStageId ?? null;
  if ("priceMinor" in change) columns.price_minor = change.priceMinor ?? null;
  if ("lines" in change) columns.lines = change.lines ? JSON.stringify(change.lines) : null;
  if ("noteId" in change) columns.note_id = change.noteId ?? null;
  if ("noteFingerprint" in change) columns.note_fingerprint = change.noteFingerprint ?? null;
  if ("intentAt" in change) columns.intent_at = at(change.intentAt);
  if ("lastError" in change) columns.last_error = change.lastError ?? null;
  return columns;
}
