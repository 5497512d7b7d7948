import { createHash } from "node:crypto";
import { type RawBuilder, sql } from "kysely";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type AnyKysely, prepared } from "../src/kysely/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(`marked statements on ${name}`, () => {
    let database: TestDatabase;
    beforeEach(async () => {
      database = await open();
    });
    afterEach(() => database?.close());

    const add = (left: number, right: number): RawBuilder<{ sum: unknown }> =>
      sql`${prepared}select cast(${left} as decimal) + cast(${right} as decimal) as sum`;
    const sumOf = async (handle: AnyKysely, left: number, right: number): Promise<number> =>
      Number((await add(left, right).execute(handle)).rows[0]?.sum);

    test("they work as without the mark", async () => {
      expect([await sumOf(database.db, 1, 2), await sumOf(database.db, 3, 4)]).toEqual([3, 7]);
      await expect(sql`${prepared}select a from nowhere`.execute(database.db)).rejects.toThrow(/nowhere/);
      expect(await sumOf(database.db, 5, 6)).toBe(11);
    });

    if (name !== "PostgreSQL") return;

    const preparedOn = async (handle: AnyKysely): Promise<readonly string[]> => {
      const { rows } = await sql<{ statement: string }>`select statement from pg_prepared_statements`.execute(handle);
      return rows.map(({ statement }) => statement);
    };

    test("a connection keeps them, and no others", () =>
      database.db.connection().execute(async (connection) => {
        await sumOf(connection, 1, 2);
        await sumOf(connection, 3, 4);
        await sql`select ${1}::integer`.execute(connection);
        expect(await preparedOn(connection)).toEqual([add(1, 2).compile(connection).sql]);
      }));

    test("a pooler that gave the connection to others costs nothing but the preparation", () =>
      database.db.connection().execute(async (connection) => {
        await sumOf(connection, 1, 2);
        await sql`deallocate all`.execute(connection); // as if another connection answered now
        expect(await sumOf(connection, 3, 4)).toBe(7);
        expect(await sumOf(connection, 5, 6)).toBe(11);
        expect(await preparedOn(connection)).toEqual([]);
      }));

    test("a connection on which somebody else has prepared it costs nothing either", () =>
      database.db.connection().execute(async (connection) => {
        const text = add(1, 2).compile(connection).sql;
        const known = createHash("sha256").update(text).digest("base64url");
        await sql`prepare ${sql.id(known)} as select 1`.execute(connection);
        expect(await sumOf(connection, 3, 4)).toBe(7);
        expect(await sumOf(connection, 5, 6)).toBe(11);
      }));
  });
}
