import { columnTypes, type DatabaseDialect, type Migration } from "@orderbridge/core/kysely";
import { type RawBuilder, sql } from "kysely";

/** Tables that begin with `bitrix_`. Instants and minor units are `bigint`. */
export function bitrixMigrations(dialect: DatabaseDialect): Readonly<Record<string, Migration>> {
  const { key, text, integer64 } = columnTypes(dialect);
  /** SQLite knows no `if not exists` here, and needs none: there a migration is one transaction. */
  const addColumn = (table: string, column: string, type: RawBuilder<unknown>): Migration => ({
    async up(db) {
      const ifAbsent = sql.raw(dialect === "sqlite" ? "" : "if not exists ");
      await sql`alter table ${sql.table(table)} add column ${ifAbsent}${sql.ref(column)} ${type}`.execute(db);
    },
  });
  return {
    "001_orders": {
      up: (db) =>
        db.schema
          .createTable("bitrix_orders")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("bitrix_order_id", key, (column) => column.unique())
          .addColumn("deal_id", key, (column) => column.unique())
          .addColumn("total", key, (column) => column.notNull())
          .addColumn("status", key, (column) => column.notNull())
          .addColumn("status_changed_at", integer64, (column) => column.notNull())
          .addColumn("paid_at", integer64)
          .addColumn("paid_by", key)
          .addColumn("site_version", integer64)
          .addColumn("site_changed_at", integer64)
          .addColumn("version", integer64, (column) => column.notNull())
          .addColumn("created_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "002_order_changes": {
      up: (db) =>
        db.schema
          .createTable("bitrix_order_changes")
          .ifNotExists()
          .addColumn("order_id", key, (column) => column.notNull())
          .addColumn("version", integer64, (column) => column.notNull())
          .addColumn("field", key, (column) => column.notNull())
          .addColumn("old_value", key, (column) => column.notNull())
          .addColumn("new_value", key, (column) => column.notNull())
          .addColumn("changed_by", key, (column) => column.notNull())
          .addColumn("changed_at", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("bitrix_order_changes_key", ["order_id", "version", "field"])
          .execute(),
    },
    "003_products": {
      up: (db) =>
        db.schema
          .createTable("bitrix_products")
          .ifNotExists()
          .addColumn("id", key, (column) => column.primaryKey())
          .addColumn("name", text)
          .addColumn("price_minor", integer64)
          .addColumn("currency", key, (column) => column.notNull())
          .addColumn("enabled", "integer")
          .addColumn("site_version", integer64)
          .addColumn("pending", "integer", (column) => column.notNull())
          .addColumn("sent", text)
          .addColumn("version", integer64, (column) => column.notNull())
          .addColumn("updated_at", integer64, (column) => column.notNull())
          .execute(),
    },
    "004_product_conflicts": {
      up: (db) =>
        db.schema
          .createTable("bitrix_product_conflicts")
          .ifNotExists()
          .addColumn("product_id", key, (column) => column.notNull())
          .addColumn("product_version", integer64, (column) => column.notNull())
          .addColumn("at", integer64, (column) => column.notNull())
          .addColumn("ours", text, (column) => column.notNull())
          .addColumn("theirs", text, (column) => column.notNull())
          .addColumn("site_version", integer64)
          .addPrimaryKeyConstraint("bitrix_product_conflicts_key", ["product_id", "product_version"])
          .execute(),
    },
    "005_links": {
      up: (db) =>
        db.schema
          .createTable("bitrix_links")
          .ifNotExists()
          .addColumn("sync", key, (column) => column.notNull())
          .addColumn("left_id", key, (column) => column.notNull())
          .addColumn("right_id", key, (column) => column.notNull())
          .addColumn("left_code", key)
          .addColumn("left_paid", "integer")
          .addColumn("right_code", key)
          .addColumn("right_paid", "integer")
          .addColumn("echo_side", key)
          .addColumn("echo_code", key)
          .addColumn("echo_until", integer64)
          .addColumn("echoes", integer64, (column) => column.notNull())
          .addColumn("near_misses", integer64, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .addColumn("note", text)
          .addColumn("version", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("bitrix_links_left", ["sync", "left_id"])
          .addUniqueConstraint("bitrix_links_right", ["sync", "right_id"])
          .execute(),
    },
    "006_work": {
      up: (db) =>
        db.schema
          .createTable("bitrix_work")
          .ifNotExists()
          .addColumn("topic", key, (column) => column.notNull())
          .addColumn("work_key", key, (column) => column.notNull())
          .addColumn("generation", integer64, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .addColumn("attempts", integer64, (column) => column.notNull())
          .addColumn("due_at", integer64, (column) => column.notNull())
          .addColumn("claim", key)
          .addColumn("claim_ends_at", integer64, (column) => column.notNull())
          .addColumn("last_error", text)
          .addPrimaryKeyConstraint("bitrix_work_key", ["topic", "work_key"])
          .execute(),
    },
    "007_work_due": {
      up: (db) =>
        db.schema.createIndex("bitrix_work_due").ifNotExists().on("bitrix_work").columns(["state", "due_at"]).execute(),
    },
    "008_orders_created": {
      up: (db) =>
        db.schema
          .createIndex("bitrix_orders_created")
          .ifNotExists()
          .on("bitrix_orders")
          .columns(["created_at"])
          .execute(),
    },
    "009_order_changes_at": {
      up: (db) =>
        db.schema
          .createIndex("bitrix_order_changes_at")
          .ifNotExists()
          .on("bitrix_order_changes")
          .columns(["changed_at"])
          .execute(),
    },
    "010_links_unfollowed": addColumn("bitrix_links", "unfollowed_side", key),
    "011_links_unfollowed_status": addColumn("bitrix_links", "unfollowed_status", key),
    "012_work_failures": addColumn("bitrix_work", "failures", sql`integer not null default 0`),
  };
}
