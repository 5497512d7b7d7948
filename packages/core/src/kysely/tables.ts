import { type Kysely, type RawBuilder, sql } from "kysely";
import { type AnyKysely, columnTypes, type DatabaseDialect } from "./dialects.ts";
import type { Migration } from "./migrate.ts";

/** `bigint` comes back as text from PostgreSQL: read it with `Number()`. */
type Integer64 = number;

/** Tables of the six ports. Instants are milliseconds since 1970. */
export interface Tables {
  orderbridge_watermark: {
    key: string;
    position: string;
  };
  orderbridge_lease: {
    name: string;
    holder: string;
    fencing_token: Integer64;
    /** 0 once released. */
    ends_at: Integer64;
    /** Of the last acquiring or renewing: no lease ends later than this from now. Null before the column existed. */
    ttl_ms: Integer64 | null;
  };
  orderbridge_idempotency: {
    scope: string;
    key: string;
    fingerprint: string;
    token: string;
    ends_at: Integer64;
    /** Null until executed. */
    result: string | null;
  };
  orderbridge_token: {
    key: string;
    access_token: string;
    refresh_token: string | null;
    expires_at: Integer64 | null;
    host: string | null;
    version: Integer64;
    state: string;
  };
  orderbridge_outbox: {
    /** Order of enqueueing; given by the database. */
    position: Integer64;
    id: string;
    topic: string;
    key: string;
    destination: string;
    payload: string;
    state: string;
    attempts: Integer64;
    created_at: Integer64;
    due_at: Integer64;
    claim: string | null;
    /** 0 while nobody has claimed it. */
    claim_ends_at: Integer64;
    last_error: string | null;
  };
  orderbridge_rate_limit: {
    account: string;
    /** When the bucket would be empty if no further slot were taken; null before the first reservation. */
    drained_at: Integer64 | null;
    paused_until: Integer64;
    /** When the two above were written: later than now after the clock was set back. Null before the column existed. */
    written_at: Integer64 | null;
    blocked_since: Integer64 | null;
    block_code: string | null;
  };
}

export type StorageKysely = Kysely<Tables>;

/** The steps that build the tables. A step that was released is never changed: add another one. */
export function storageMigrations(dialect: DatabaseDialect): Readonly<Record<string, Migration>> {
  const { key, text, integer64 } = columnTypes(dialect);
  const create = (table: keyof Tables) => (db: AnyKysely) => db.schema.createTable(table).ifNotExists();
  /** SQLite knows no `if not exists` here, and needs none: there a migration is one transaction. */
  const addColumn = (table: keyof Tables, column: string, type: RawBuilder<unknown>): Migration => ({
    async up(db) {
      const ifAbsent = sql.raw(dialect === "sqlite" ? "" : "if not exists ");
      await sql`alter table ${sql.table(table)} add column ${ifAbsent}${sql.ref(column)} ${type}`.execute(db);
    },
  });
  const createIndex = (name: string, columns: readonly string[], unique = false): Migration => ({
    async up(db) {
      const index = db.schema
        .createIndex(name)
        .ifNotExists()
        .on("orderbridge_outbox")
        .columns([...columns]);
      await (unique ? index.unique() : index).execute();
    },
  });
  return {
    "001_watermark": {
      up: (db) =>
        create("orderbridge_watermark")(db)
          .addColumn("key", key, (column) => column.primaryKey())
          .addColumn("position", text, (column) => column.notNull())
          .execute(),
    },
    "002_lease": {
      up: (db) =>
        create("orderbridge_lease")(db)
          .addColumn("name", key, (column) => column.primaryKey())
          .addColumn("holder", text, (column) => column.notNull())
          .addColumn("fencing_token", integer64, (column) => column.notNull())
          .addColumn("ends_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "003_idempotency": {
      up: (db) =>
        create("orderbridge_idempotency")(db)
          .addColumn("scope", key, (column) => column.notNull())
          .addColumn("key", key, (column) => column.notNull())
          .addColumn("fingerprint", text, (column) => column.notNull())
          .addColumn("token", key, (column) => column.notNull())
          .addColumn("ends_at", integer64, (column) => column.notNull())
          .addColumn("result", text)
          .addPrimaryKeyConstraint("orderbridge_idempotency_key", ["scope", "key"])
          .execute(),
    },
    "004_token": {
      up: (db) =>
        create("orderbridge_token")(db)
          .addColumn("key", key, (column) => column.primaryKey())
          .addColumn("access_token", text, (column) => column.notNull())
          .addColumn("refresh_token", text)
          .addColumn("expires_at", integer64)
          .addColumn("host", text)
          .addColumn("version", integer64, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .execute(),
    },
    "005_outbox": {
      up: (db) =>
        create("orderbridge_outbox")(db)
          .addColumn("position", positionType(dialect), (column) => column.primaryKey())
          .addColumn("id", key, (column) => column.notNull())
          .addColumn("topic", key, (column) => column.notNull())
          .addColumn("key", key, (column) => column.notNull())
          .addColumn("destination", key, (column) => column.notNull())
          .addColumn("payload", text, (column) => column.notNull())
          .addColumn("state", sql`varchar(16)`, (column) => column.notNull())
          .addColumn("attempts", integer64, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .addColumn("due_at", integer64, (column) => column.notNull())
          .addColumn("claim", key)
          .addColumn("claim_ends_at", integer64, (column) => column.notNull())
          .addColumn("last_error", text)
          .execute(),
    },
    "006_outbox_id": createIndex("orderbridge_outbox_id", ["id"], true),
    "007_outbox_due": createIndex("orderbridge_outbox_due", ["state", "topic", "due_at"]),
    "008_outbox_order": createIndex("orderbridge_outbox_order", ["state", "topic", "key", "position"]),
    "009_outbox_claim": createIndex("orderbridge_outbox_claim", ["claim"]),
    "010_rate_limit": {
      up: (db) =>
        create("orderbridge_rate_limit")(db)
          .addColumn("account", key, (column) => column.primaryKey())
          .addColumn("drained_at", integer64)
          .addColumn("paused_until", integer64, (column) => column.notNull())
          .addColumn("blocked_since", integer64)
          .addColumn("block_code", text)
          .execute(),
    },
    "011_lease_ttl": addColumn("orderbridge_lease", "ttl_ms", integer64),
    "012_rate_limit_written": addColumn("orderbridge_rate_limit", "written_at", integer64),
  };
}

/** A number that the database gives to each new row, growing. */
function positionType(dialect: DatabaseDialect) {
  if (dialect === "postgres") return sql`bigint generated always as identity`;
  return dialect === "mariadb" ? sql`bigint auto_increment` : sql`integer`;
}
