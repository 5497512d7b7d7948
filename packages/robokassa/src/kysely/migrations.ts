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
  };
}
