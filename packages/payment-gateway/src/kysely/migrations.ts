import { columnTypes, type DatabaseDialect, type Migration } from "@orderbridge/core/kysely";

/** Tables of the gateway; all names begin with `gateway_`. One statement per step, because MariaDB commits each. */
export function createMigrations(dialect: DatabaseDialect): Readonly<Record<string, Migration>> {
  const { key, text, integer64 } = columnTypes(dialect);
  return {
    "001_payment": {
      up: (db) =>
        db.schema
          .createTable("gateway_payment")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("provider", key, (column) => column.notNull())
          .addColumn("status", key, (column) => column.notNull())
          .addColumn("currency", key, (column) => column.notNull())
          .addColumn("amount_minor", integer64, (column) => column.notNull())
          .addColumn("paid_minor", integer64, (column) => column.notNull())
          .addColumn("refunded_minor", integer64, (column) => column.notNull())
          .addColumn("refunding_minor", integer64, (column) => column.notNull())
          .addColumn("description", text, (column) => column.notNull())
          .addColumn("metadata", text, (column) => column.notNull())
          .addColumn("webhook_url", text)
          .addColumn("webhook_secret", text)
          .addColumn("return_url", text)
          .addColumn("account", key)
          .addColumn("session", text)
          .addColumn("late", "integer", (column) => column.notNull())
          .addColumn("test", "integer", (column) => column.notNull())
          .addColumn("needs_attention", text)
          .addColumn("sequence", "integer", (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .addColumn("updated_at", integer64, (column) => column.notNull())
          .addColumn("expires_at", integer64, (column) => column.notNull())
          .addColumn("version", "integer", (column) => column.notNull())
          .execute(),
    },
    "002_payment_expiry": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_expiry")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["status", "expires_at"])
          .execute(),
    },
    "003_payment_account": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_account")
          .ifNotExists()
          .unique()
          .on("gateway_payment")
          .columns(["account", "provider"])
          .execute(),
    },
    "004_booking": {
      up: (db) =>
        db.schema
          .createTable("gateway_booking")
          .ifNotExists()
          .addColumn("provider", key, (column) => column.notNull())
          .addColumn("transaction_id", key, (column) => column.notNull())
          .addColumn("payment_id", key, (column) => column.notNull())
          .addColumn("amount_minor", integer64, (column) => column.notNull())
          .addColumn("paid_at", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("gateway_booking_key", ["provider", "transaction_id"])
          .execute(),
    },
    "005_event": {
      up: (db) =>
        db.schema
          .createTable("gateway_event")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("payment_id", key, (column) => column.notNull())
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("sequence", "integer", (column) => column.notNull())
          .addColumn("name", key, (column) => column.notNull())
          .addColumn("body", text, (column) => column.notNull())
          .addColumn("position", integer64)
          .addColumn("created_at", integer64, (column) => column.notNull())
          .addUniqueConstraint("gateway_event_sequence", ["payment_id", "sequence"])
          .execute(),
    },
    "006_event_position": {
      up: (db) =>
        db.schema
          .createIndex("gateway_event_position")
          .ifNotExists()
          .on("gateway_event")
          .columns(["merchant", "position"])
          .execute(),
    },
    "007_event_unplaced": {
      up: (db) =>
        db.schema
          .createIndex("gateway_event_unplaced")
          .ifNotExists()
          .on("gateway_event")
          .columns(["position", "created_at"])
          .execute(),
    },
    "008_counter": {
      up: (db) =>
        db.schema
          .createTable("gateway_counter")
          .ifNotExists()
          .addColumn("name", key, (column) => column.primaryKey())
          .addColumn("value", integer64, (column) => column.notNull())
          .execute(),
    },
    "009_delivery": {
      up: (db) =>
        db.schema
          .createTable("gateway_delivery")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("event_id", key, (column) => column.notNull())
          .addColumn("payment_id", key, (column) => column.notNull())
          .addColumn("sequence", "integer", (column) => column.notNull())
          .addColumn("url", text, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .addColumn("attempts", "integer", (column) => column.notNull())
          .addColumn("schedule_attempts", "integer", (column) => column.notNull())
          .addColumn("due_at", integer64, (column) => column.notNull())
          .addColumn("claim", key)
          .addColumn("claim_ends_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "010_delivery_due": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_due")
          .ifNotExists()
          .on("gateway_delivery")
          .columns(["state", "due_at"])
          .execute(),
    },
    "011_delivery_payment": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_payment")
          .ifNotExists()
          .on("gateway_delivery")
          .columns(["payment_id", "sequence"])
          .execute(),
    },
    "012_delivery_claim": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_claim")
          .ifNotExists()
          .on("gateway_delivery")
          .columns(["claim"])
          .execute(),
    },
    "013_delivery_attempt": {
      up: (db) =>
        db.schema
          .createTable("gateway_delivery_attempt")
          .ifNotExists()
          .addColumn("delivery_id", key, (column) => column.notNull())
          .addColumn("attempt", "integer", (column) => column.notNull())
          .addColumn("started_at", integer64, (column) => column.notNull())
          .addColumn("duration_ms", integer64, (column) => column.notNull())
          .addColumn("outcome", key, (column) => column.notNull())
          .addColumn("status", "integer")
          .addColumn("answer", text)
          .addPrimaryKeyConstraint("gateway_delivery_attempt_key", ["delivery_id", "attempt"])
          .execute(),
    },
    "014_refund": {
      up: (db) =>
        db.schema
          .createTable("gateway_refund")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("payment_id", key, (column) => column.notNull())
          .addColumn("amount_minor", integer64, (column) => column.notNull())
          .addColumn("status", key, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .addColumn("updated_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "015_refund_open": {
      up: (db) =>
        db.schema
          .createIndex("gateway_refund_open")
          .ifNotExists()
          .on("gateway_refund")
          .columns(["status", "created_at"])
          .execute(),
    },
    "016_idempotency": {
      up: (db) =>
        db.schema
          .createTable("gateway_idempotency")
          .ifNotExists()
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("idempotency_key", key, (column) => column.notNull())
          .addColumn("fingerprint", key, (column) => column.notNull())
          .addColumn("resource_id", key, (column) => column.notNull())
          .addColumn("work_ends_at", integer64, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("gateway_idempotency_key", ["merchant", "idempotency_key"])
          .execute(),
    },
    "017_merchant": {
      up: (db) =>
        db.schema
          .createTable("gateway_merchant")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("webhook_secret", text, (column) => column.notNull())
          .execute(),
    },
    "018_token": {
      up: (db) =>
        db.schema
          .createTable("gateway_token")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("hash", key, (column) => column.notNull().unique())
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("scopes", text, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "019_payment_created": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_created")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["created_at", "id"])
          .execute(),
    },
    "020_payment_merchant": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_merchant")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["merchant", "created_at", "id"])
          .execute(),
    },
    "021_booking_payment": {
      up: (db) =>
        db.schema
          .createIndex("gateway_booking_payment")
          .ifNotExists()
          .on("gateway_booking")
          .columns(["payment_id"])
          .execute(),
    },
    "022_refund_payment": {
      up: (db) =>
        db.schema
          .createIndex("gateway_refund_payment")
          .ifNotExists()
          .on("gateway_refund")
          .columns(["payment_id"])
          .execute(),
    },
  };
}
