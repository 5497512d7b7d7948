import { createFakeClock } from "@orderbridge/core/testing";
import { describe, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { bitrixStorageCases } from "../src/testing/index.ts";

describe("memory", () => {
  for (const conformance of bitrixStorageCases) {
    test(conformance.name, async () => {
      const clock = createFakeClock();
      await conformance.run({ storage: createBitrixMemoryStorage({ clock }), clock });
    });
  }
});

for (const { name, skipped, open } of testDatabases()) {
  describe.skipIf(skipped)(name, () => {
    for (const conformance of bitrixStorageCases) {
      test(conformance.name, async () => {
        const { db, dialect, close } = await open();
        try {
          const clock = createFakeClock();
          const storage = createBitrixStorage({ db, dialect, clock });
          await storage.migrate();
          await conformance.run({ storage, clock });
        } finally {
          await close();
        }
      });
    }
  });
}
