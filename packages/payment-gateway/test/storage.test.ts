import { createFakeClock } from "@orderbridge/core/testing";
import { describe, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { gatewayStorageCases } from "../src/testing/index.ts";

describe("storage in memory", () => {
  test.each(gatewayStorageCases)("$name", async ({ run }) => {
    const clock = createFakeClock();
    await run({ storage: createPaymentGatewayMemoryStorage({ clock }), clock });
  });
});

describe.each(testDatabases())("storage on $name", ({ skipped, open }) => {
  test.skipIf(skipped).each(gatewayStorageCases)("$name", async ({ run }) => {
    const database = await open();
    try {
      const clock = createFakeClock();
      const storage = createPaymentGatewayStorage({ ...database, clock });
      await storage.migrate();
      await run({ storage, clock });
    } finally {
      await database.close();
    }
  });
});
