import { columnTypes, type DatabaseDialect, type Migration } from "@orderbridge/core/kysely";

/** The tables of this package; one statement per migration, because MariaDB commits each by itself. */
export function robokassaMigrations(dialect: DatabaseDialect): Record<string, Migration> {
  const types = columnTypes(dialect);
  return {
    "001_orders": {
      async up(db) {
        await db.schema
          .createTable("robokassa_orders")
          .ifNotExists()
          .addColumn("id", types.key, (column) => column.primaryKey())
          .addColumn("inv_id", types.key, (column) => column.notNull().unique())
          .addColumn("test", "integer", (column) => column.notNull())
          .addColumn("total", types.key, (column) => column.notNull())
          .addColumn("currency", types.key)
          .addColumn("description", types.text, (column) => column.notNull())
          .addColumn("status", types.key, (column) => column.notNull())
          .addColumn("paid_at", types.integer64)
          .addColumn("paid_source", types.key)
          .addColumn("op_key", types.key)
          .addColumn("refunded_minor", types.integer64, (column) => column.notNull())
          .addColumn("notified_at", types.integer64)
          .addColumn("check_at", types.integer64)
          .addColumn("checks", "integer", (column) => column.notNull())
          .addColumn("captured", types.key)
          .addColumn("link", types.text)
          .addColumn("created_at", types.integer64, (column) => column.notNull())
          .execute();
      },
    },
    "002_sequences": {
      async up(db) {
        await db.schema
          .createTable("robokassa_sequences")
          .ifNotExists()
          .addColumn("id", types.key, (column) => column.primaryKey())
          .addColumn("last_value", types.key, (column) => column.notNull())
          .execute();
      },
    },
    "003_callbacks": {
      async up(db) {
        await db.schema
          .createTable("robokassa_callbacks")
          .ifNotExists()
          .addColumn("id", types.integer64, (column) => column.primaryKey())
          .addColumn("refused_number", types.integer64)
          .addColumn("source", types.key, (column) => column.notNull())
          .addColumn("at", types.integer64, (column) => column.notNull())
          .addColumn("inv_id", types.key)
          .addColumn("out_sum", types.key)
          .addColumn("signature", types.key)
          .addColumn("shp_names", types.text, (column) => column.notNull())
          .addColumn("verdict", types.key, (column) => column.notNull())
          .addColumn("fit", types.text)
          .addColumn("status", "integer", (column) => column.notNull())
          .execute();
      },
    },
    "004_callbacks_refused": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_callbacks_refused")
          .ifNotExists()
          .on("robokassa_callbacks")
          .column("refused_number")
          .execute();
      },
    },
    "005_callbacks_inv_id": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_callbacks_inv_id")
          .ifNotExists()
          .on("robokassa_callbacks")
          .column("inv_id")
          .execute();
      },
    },
    "006_orders_check_at": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_orders_check_at")
          .ifNotExists()
          .on("robokassa_orders")
          .column("check_at")
          .execute();
      },
    },
    "007_refunds": {
      async up(db) {
        await db.schema
          .createTable("robokassa_refunds")
          .ifNotExists()
          .addColumn("id", types.key, (column) => column.primaryKey())
          .addColumn("inv_id", types.key, (column) => column.notNull())
          .addColumn("amount_minor", types.integer64, (column) => column.notNull())
          .addColumn("state", types.key, (column) => column.notNull())
          .addColumn("request_id", types.key)
          .addColumn("created_at", types.integer64, (column) => column.notNull())
          .execute();
      },
    },
    "008_refunds_inv_id": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_refunds_inv_id")
          .ifNotExists()
          .on("robokassa_refunds")
          .column("inv_id")
          .execute();
      },
    },
    "009_refunds_state": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_refunds_state")
          .ifNotExists()
          .on("robokassa_refunds")
          .column("state")
          .execute();
      },
    },
    "010_callbacks_at": {
      async up(db) {
        await db.schema
          .createIndex("robokassa_callbacks_at")
          .ifNotExists()
          .on("robokassa_callbacks")
          .column("at")
          .execute();
      },
    },
  };
}
