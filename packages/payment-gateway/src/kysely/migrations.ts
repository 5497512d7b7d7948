import { columnTypes, type DatabaseDialect, type Migration } from "@orderbridge/core/kysely";
import { type RawBuilder, sql } from "kysely";

/** Tables of the gateway; all names begin with `gateway_`. One statement per step, because MariaDB commits each. */
export function createMigrations(dialect: DatabaseDialect): Readonly<Record<string, Migration>> {
  const { key, text, integer64 } = columnTypes(dialect);
  /** SQLite knows no `if not exists` here, and needs none: there a migration is one transaction. */
  const addColumn = (table: string, column: string, type: RawBuilder<unknown>): Migration => ({
    async up(db) {
      const ifAbsent = sql.raw(dialect === "sqlite" ? "" : "if not exists ");
      await sql`alter table ${sql.table(table)} add column ${ifAbsent}${sql.ref(column)} ${type}`.execute(db);
    },
  });
  const update = (statement: RawBuilder<unknown>): Migration => ({
    async up(db) {
      await statement.execute(db);
    },
  });
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
    "023_payment_check": addColumn("gateway_payment", "check_at", integer64),
    "024_payment_check_claim": addColumn("gateway_payment", "check_claim", key),
    "025_payment_check_start": update(
      sql`update gateway_payment set check_at = expires_at where check_at is null and status in ('pending', 'processing')`,
    ),
    "026_payment_check_due": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_check")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["check_at"])
          .execute(),
    },
    "027_payment_erased": addColumn("gateway_payment", "erased_at", integer64),
    "028_refund_check": addColumn("gateway_refund", "check_at", integer64),
    "029_refund_check_claim": addColumn("gateway_refund", "check_claim", key),
    "030_refund_check_start": update(
      sql`update gateway_refund set check_at = created_at where check_at is null and status = 'pending'`,
    ),
    "031_refund_check_due": {
      up: (db) =>
        db.schema
          .createIndex("gateway_refund_check")
          .ifNotExists()
          .on("gateway_refund")
          .columns(["check_at"])
          .execute(),
    },
    "032_delivery_merchant": addColumn("gateway_delivery", "merchant", sql`varchar(191) not null default ''`),
    "033_delivery_merchant_start": update(
      sql`update gateway_delivery set merchant = (select p.merchant from gateway_payment p where p.id = payment_id)
        where merchant = ''`,
    ),
    // Empty for deliveries of older versions until their next try: no breaker stops these.
    "034_delivery_origin": addColumn("gateway_delivery", "origin", sql`varchar(191) not null default ''`),
    "035_delivery_endpoint": addColumn("gateway_delivery", "endpoint_id", sql`varchar(191) not null default ''`),
    "036_delivery_lane": addColumn("gateway_delivery", "lane", sql`integer not null default 0`),
    "037_delivery_lane_start": update(sql`update gateway_delivery set lane = 1 where schedule_attempts >= 3`),
    "038_delivery_lane_due": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_lane")
          .ifNotExists()
          .on("gateway_delivery")
          .columns(["state", "lane", "due_at"])
          .execute(),
    },
    "039_delivery_due_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_delivery_due").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_delivery") : drop).execute();
      },
    },
    "040_endpoint": {
      up: (db) =>
        db.schema
          .createTable("gateway_endpoint")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("url", text, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "041_endpoint_merchant": {
      up: (db) =>
        db.schema
          .createIndex("gateway_endpoint_merchant")
          .ifNotExists()
          .on("gateway_endpoint")
          .columns(["merchant"])
          .execute(),
    },
    "042_endpoint_secret": {
      up: (db) =>
        db.schema
          .createTable("gateway_endpoint_secret")
          .ifNotExists()
          .addColumn("endpoint_id", key, (column) => column.notNull())
          .addColumn("number", "integer", (column) => column.notNull())
          .addColumn("secret", text, (column) => column.notNull())
          .addColumn("ends_at", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("gateway_endpoint_secret_key", ["endpoint_id", "number"])
          .execute(),
    },
    "044_receiver": {
      up: (db) =>
        db.schema
          .createTable("gateway_receiver")
          .ifNotExists()
          .addColumn("merchant", key, (column) => column.notNull())
          .addColumn("origin", key, (column) => column.notNull())
          .addColumn("failures", "integer", (column) => column.notNull())
          .addColumn("openings", "integer", (column) => column.notNull())
          .addColumn("probe", key)
          .addColumn("open_until", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("gateway_receiver_key", ["merchant", "origin"])
          .execute(),
    },
    "045_payment_ended": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_ended")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["status", "erased_at", "updated_at"])
          .execute(),
    },
    "046_payment_expiry_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_payment_expiry").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_payment") : drop).execute();
      },
    },
    "047_idempotency_created": {
      up: (db) =>
        db.schema
          .createIndex("gateway_idempotency_created")
          .ifNotExists()
          .on("gateway_idempotency")
          .columns(["created_at"])
          .execute(),
    },
    "048_delivery_attempt_started": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_attempt_started")
          .ifNotExists()
          .on("gateway_delivery_attempt")
          .columns(["started_at"])
          .execute(),
    },
    // Claimed rows are read by their ids: without this index a claim changes no index on PostgreSQL.
    "049_delivery_claim_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_delivery_claim").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_delivery") : drop).execute();
      },
    },
    "050_merchant_former_secrets": addColumn("gateway_merchant", "former_secrets", text),
    "051_merchant_former_ends": addColumn("gateway_merchant", "former_ends_at", integer64),
    "052_provider_error": {
      up: (db) =>
        db.schema
          .createTable("gateway_provider_error")
          .ifNotExists()
          .addColumn("provider", key, (column) => column.notNull())
          .addColumn("day", integer64, (column) => column.notNull())
          .addColumn("failures", integer64, (column) => column.notNull())
          .addColumn("last_at", integer64, (column) => column.notNull())
          .addColumn("last_call", key, (column) => column.notNull())
          .addColumn("last_message", text, (column) => column.notNull())
          .addPrimaryKeyConstraint("gateway_provider_error_key", ["provider", "day"])
          .execute(),
    },
    "053_refund_answer": addColumn("gateway_refund", "answer", text),
    // A claim changes no index, so PostgreSQL writes it beside the row while there is room on the page.
    "054_delivery_room": {
      async up(db) {
        if (dialect === "postgres") await sql`alter table gateway_delivery set (fillfactor = 60)`.execute(db);
      },
    },
    // Positions are given to the events of one merchant at a time, which the index on merchant and position finds.
    "055_event_unplaced_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_event_unplaced").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_event") : drop).execute();
      },
    },
    // Each provider is looked after by itself: what is due for another one, which may be away, is not walked over.
    "056_payment_provider_check": {
      up: (db) =>
        db.schema
          .createIndex("gateway_payment_provider_check")
          .ifNotExists()
          .on("gateway_payment")
          .columns(["provider", "check_at"])
          .execute(),
    },
    "057_payment_check_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_payment_check").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_payment") : drop).execute();
      },
    },
    // The entries of one receiver stand together, so that a look passes over a paused or busy one at one step.
    "058_delivery_receiver": {
      up: (db) =>
        db.schema
          .createIndex("gateway_delivery_receiver")
          .ifNotExists()
          .on("gateway_delivery")
          .columns(["state", "lane", "origin", "merchant", "due_at"])
          .execute(),
    },
    "059_delivery_lane_dropped": {
      async up(db) {
        const drop = db.schema.dropIndex("gateway_delivery_lane").ifExists();
        await (dialect === "mariadb" ? drop.on("gateway_delivery") : drop).execute();
      },
    },
  };
}
