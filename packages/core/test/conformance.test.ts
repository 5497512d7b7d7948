import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, test } from "vitest";
import { createKyselyStorage } from "../src/kysely/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock, storageCases } from "../src/testing/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

const tables = ["watermark", "lease", "idempotency", "token", "outbox", "rate_limit"];

describe("memory", () => {
  for (const { name, run } of storageCases) {
    test(name, async () => {
      const clock = createFakeClock();
      await run({ storage: createMemoryStorage({ clock }), clock });
    });
  }
});

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    beforeAll(async () => {
      database = await open();
      await createKyselyStorage(database).migrate();
    });
    beforeEach(async () => {
      for (const table of tables) await sql`delete from ${sql.table(`orderbridge_${table}`)}`.execute(database.db);
    });
    afterAll(() => database?.close());

    for (const { name: title, run } of storageCases) {
      test(title, async () => {
        const clock = createFakeClock();
        await run({ storage: createKyselyStorage({ ...database, clock }), clock });
      });
    }
  });
}
