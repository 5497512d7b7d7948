import { expect, test } from "vitest";
import { createKyselyStorage, type DatabaseDialect } from "../src/kysely/index.ts";
import { recordedSql } from "./recorded-sql.ts";

test.each<DatabaseDialect>(["sqlite", "postgres", "mariadb"])(
  "sql/%s.sql is what the migrations run",
  async (dialect) => {
    const sql = await recordedSql(dialect, (db) => createKyselyStorage({ db, dialect }).migrate());
    // After a new migration: vitest run packages/core/test/sql.test.ts --update
    await expect(sql).toMatchFileSnapshot(`../sql/${dialect}.sql`);
  },
);
