import type { DatabaseDialect } from "@orderbridge/core/kysely";
import { expect, test } from "vitest";
import { recordedSql } from "../../core/test/recorded-sql.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";

test.each<DatabaseDialect>(["sqlite", "postgres", "mariadb"])(
  "sql/%s.sql is what the migrations run",
  async (dialect) => {
    const sql = await recordedSql(dialect, (db) => createPaymentGatewayStorage({ db, dialect }).migrate());
    // After a new migration: vitest run packages/payment-gateway/test/sql.test.ts --update
    await expect(sql).toMatchFileSnapshot(`../sql/${dialect}.sql`);
  },
);
