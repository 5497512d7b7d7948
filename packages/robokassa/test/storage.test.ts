import { openDatabase } from "@orderbridge/core/kysely";
import { describe, test } from "vitest";
import { createRobokassaStorage } from "../src/kysely/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { robokassaStorageCases } from "../src/testing/index.ts";

describe("memory", () => {
  test.each(robokassaStorageCases)("$name", async ({ run }) => {
    await run({ storage: createRobokassaMemoryStorage() });
  });
});

describe("sqlite", () => {
  test.each(robokassaStorageCases)("$name", async ({ run }) => {
    const { db, dialect, close } = await openDatabase("sqlite::memory:");
    try {
      const storage = createRobokassaStorage({ db, dialect });
      await storage.migrate();
      await run({ storage });
    } finally {
      await close();
    }
  });
});
