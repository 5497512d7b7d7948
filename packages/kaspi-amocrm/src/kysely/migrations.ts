import { columnTypes, type DatabaseDialect, type Migration } from "@orderbridge/core/kysely";
import { sql } from "kysely";

/** Tables and the statements that made them; a statement that was published is never changed. */
export function kaspiAmocrmMigrations(dialect: DatabaseDialect): Readonly<Record<string, Migration>> {
  const { key, text, integer64 } = columnTypes(dialect);
  return {
    "001-orders": {
      async up(db) {
        await db.schema
          .createTable("kaspi_amocrm_order")
          .ifNotExists()
          .addColumn("shop", key, (column) => column.notNull())
          .addColumn("code", key, (column) => column.notNull())
          .addColumn("ordered_at", integer64, (column) => column.notNull())
          .addColumn("phase", key, (column) => column.notNull())
          .addColumn("state", key, (column) => column.notNull())
          .addColumn("status", key, (column) => column.notNull())
          .addColumn("fingerprint", key)
          .addColumn("final_since", integer64)
          .addColumn("lead_id", key)
          .addColumn("contact_id", key)
          .addColumn("stage_id", key)
          .addColumn("seen_stage_id", key)
          .addColumn("price", integer64)
          .addColumn("lines", text)
          .addColumn("note_id", key)
          .addColumn("note_fingerprint", key)
          .addColumn("intent_at", integer64)
          .addColumn("attempts", integer64, (column) => column.notNull())
          .addColumn("due_at", integer64, (column) => column.notNull())
          .addColumn("last_error", text)
          .addColumn("fence", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("kaspi_amocrm_order_key", ["shop", "code"])
          .execute();
      },
    },
    "002-orders-due": {
      async up(db) {
        await db.schema
          .createIndex("kaspi_amocrm_order_due")
          .ifNotExists()
          .on("kaspi_amocrm_order")
          .columns(["shop", "phase", "due_at"])
          .execute();
      },
    },
    "003-orders-age": {
      async up(db) {
        await db.schema
          .createIndex("kaspi_amocrm_order_age")
          .ifNotExists()
          .on("kaspi_amocrm_order")
          .columns(["shop", "ordered_at", "code"])
          .execute();
      },
    },
    "004-orders-lead": {
      async up(db) {
        await db.schema
          .createIndex("kaspi_amocrm_order_lead")
          .ifNotExists()
          .on("kaspi_amocrm_order")
          .column("lead_id")
          .execute();
      },
    },
    "005-phones": {
      async up(db) {
        await db.schema
          .createTable("kaspi_amocrm_phone")
          .ifNotExists()
          .addColumn("phone_hash", key, (column) => column.notNull())
          .addColumn("contact_id", key, (column) => column.notNull())
          .addPrimaryKeyConstraint("kaspi_amocrm_phone_key", ["phone_hash", "contact_id"])
          .execute();
      },
    },
    "006-phones-contact": {
      async up(db) {
        await db.schema
          .createIndex("kaspi_amocrm_phone_contact")
          .ifNotExists()
          .on("kaspi_amocrm_phone")
          .column("contact_id")
          .execute();
      },
    },
    "007-elements": {
      async up(db) {
        await db.schema
          .createTable("kaspi_amocrm_element")
          .ifNotExists()
          .addColumn("catalog_id", key, (column) => column.notNull())
          .addColumn("sku", key, (column) => column.notNull())
          .addColumn("element_id", key, (column) => column.notNull())
          .addPrimaryKeyConstraint("kaspi_amocrm_element_key", ["catalog_id", "sku"])
          .execute();
      },
    },
    "008-settings": {
      async up(db) {
        await db.schema
          .createTable("kaspi_amocrm_setting")
          .ifNotExists()
          .addColumn("name", key, (column) => column.primaryKey())
          .addColumn("value", text, (column) => column.notNull())
          .execute();
      },
    },
    "009-events": {
      async up(db) {
        await db.schema
          .createTable("kaspi_amocrm_event")
          .ifNotExists()
          .addColumn("entity", key, (column) => column.notNull())
          .addColumn("entity_id", key, (column) => column.notNull())
          .addColumn("mark", key, (column) => column.notNull())
          .addColumn("since", integer64, (column) => column.notNull())
          .addPrimaryKeyConstraint("kaspi_amocrm_event_key", ["entity", "entity_id"])
          .execute();
      },
    },
    "010-orders-intended-stage": {
      async up(db) {
        // SQLite knows no `if not exists` here, and needs none: there a migration is one transaction.
        const ifAbsent = sql.raw(dialect === "sqlite" ? "" : "if not exists ");
        await sql`alter table kaspi_amocrm_order add column ${ifAbsent}intended_stage_id ${key}`.execute(db);
      },
    },
    // The writer's lease has another name since, and the tokens of a lease begin at 1.
    "011-orders-fence": {
      async up(db) {
        await db.updateTable("kaspi_amocrm_order").set({ fence: 0 }).execute();
      },
    },
    // Whole units until then; the next step makes minor units of them.
    "012-orders-price-minor": {
      async up(db) {
        const ifThere = sql.raw(dialect === "mariadb" ? "if exists " : "");
        await sql`alter table kaspi_amocrm_order rename column ${ifThere}price to price_minor`.execute(db);
      },
    },
    // Rows of before have a fingerprint of one part. It gets its colon with the price, so that no row is taken twice.
    "013-orders-price-of-before": {
      async up(db) {
        const marked = dialect === "sqlite" ? sql`fingerprint || ':'` : sql`concat(fingerprint, ':')`;
        await sql`update kaspi_amocrm_order set price_minor = price_minor * 100, fingerprint = ${marked}
          where fingerprint not like '%:%'`.execute(db);
      },
    },
  };
}
