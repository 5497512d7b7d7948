import { createFakeClock } from "@orderbridge/core/testing";
import { CompiledQuery, createQueryId, type KyselyPlugin, type RootOperationNode } from "kysely";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { reusedDatabases } from "../../core/test/reused-databases.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { gatewayStorageCases } from "../src/testing/index.ts";

describe("storage in memory", () => {
  test.each(gatewayStorageCases)("$name", async ({ run }) => {
    const clock = createFakeClock();
    await run({ storage: createPaymentGatewayMemoryStorage({ clock }), clock });
  });
});

describe.each(reusedDatabases())("storage on $name", ({ skipped, open }) => {
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

test("a look at the due payments of one provider reads those of no other", async () => {
  const [sqlite] = testDatabases();
  const database = await (sqlite as NonNullable<typeof sqlite>).open();
  const statements: RootOperationNode[] = [];
  const recording: KyselyPlugin = {
    transformQuery({ node }) {
      statements.push(node);
      return node;
    },
    transformResult: async ({ result }) => result,
  };
  try {
    const { db } = database;
    const storage = createPaymentGatewayStorage({ ...database, db: db.withPlugin(recording) });
    await storage.migrate();
    const plansOf = async (work: () => Promise<unknown>): Promise<readonly string[]> => {
      statements.splice(0);
      await work();
      const plans: string[] = [];
      for (const node of statements.splice(0)) {
        const { sql, parameters } = db.getExecutor().compileQuery(node, createQueryId());
        const plan = CompiledQuery.raw(`explain query plan ${sql}`, [...parameters]);
        for (const { detail } of (await db.executeQuery<{ detail: string }>(plan)).rows) plans.push(detail);
      }
      return plans.filter((detail) => detail.includes("gateway_payment"));
    };
    expect(await plansOf(() => storage.claimChecks({ provider: "sandbox", limit: 8, ttlMs: 1_000 }))).toEqual([
      "SEARCH gateway_payment USING INDEX gateway_payment_provider_check (provider=? AND check_at<?)",
    ]);
    expect((await plansOf(() => storage.health())).at(-1)).toBe(
      "SEARCH p USING COVERING INDEX gateway_payment_provider_check (provider=? AND check_at<?)",
    );
  } finally {
    await database.close();
  }
});
