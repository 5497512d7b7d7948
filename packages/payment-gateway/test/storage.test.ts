import type { Database } from "@orderbridge/core/kysely";
import { createFakeClock } from "@orderbridge/core/testing";
import { CompiledQuery, createQueryId, type KyselyPlugin, type RootOperationNode, sql } from "kysely";
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

describe.each(testDatabases())("a look for webhooks on $name", ({ skipped, open }) => {
  test.skipIf(skipped)("passes over what waits for receivers that are paused or have no place left", async () => {
    const database = await open();
    const statements: CompiledQuery[] = [];
    const recording: KyselyPlugin = {
      transformQuery({ node, queryId }) {
        statements.push(database.db.getExecutor().compileQuery(node, queryId));
        return node;
      },
      transformResult: async ({ result }) => result,
    };
    try {
      const { db, dialect } = database;
      const storage = createPaymentGatewayStorage({ ...database, db: db.withPlugin(recording) });
      await storage.migrate();
      const inTheFuture = Date.now() + 3_600_000;
      await db
        .insertInto("gateway_receiver")
        .values({
          merchant: "shop",
          origin: "https://paused.example",
          failures: 9,
          openings: 1,
          open_until: inTheFuture,
        })
        .execute();
      for (const host of ["busy", "paused", "well"]) {
        await db
          .insertInto("gateway_delivery")
          .values(
            Array.from({ length: host === "well" ? 3 : 1_000 }, (_, index) => ({
              id: `${host}-${index}`,
              event_id: `${host}-${index}`,
              payment_id: `${host}-${index}`,
              endpoint_id: "",
              merchant: "shop",
              origin: `https://${host}.example`,
              sequence: 1,
              url: `https://${host}.example/hook`,
              state: "pending",
              lane: 0,
              attempts: 0,
              schedule_attempts: 0,
              due_at: index,
              claim_ends_at: 0,
            })),
          )
          .execute();
      }
      if (dialect !== "sqlite") {
        await sql.raw(`analyze ${dialect === "mariadb" ? "table " : ""}gateway_delivery`).execute(db);
      }
      statements.splice(0);
      await storage.claimDeliveries({
        limit: 100,
        ttlMs: 60_000,
        lane: "prompt",
        receivers: { limit: 8, running: new Map([["https://busy.example", 8]]) },
      });
      expect(
        await db.selectFrom("gateway_delivery").select("id").where("claim", "is not", null).execute(),
      ).toHaveLength(3);
      await db.updateTable("gateway_delivery").set({ claim: null, claim_ends_at: 0 }).execute();
      const look = statements.find(({ sql: text }) => text.includes("w.due_at <="));
      const plan = await explain(database, look as CompiledQuery);
      if (dialect === "postgres") expect(Math.max(...rowsRead(plan))).toBeLessThan(10);
      else expect(plan).toContain(dialect === "sqlite" ? walkOnSqlite : "Using index for group-by");
    } finally {
      await database.close();
    }
  });

  /** In the words of each database; on PostgreSQL as a tree, with what was read in fact. */
  async function explain({ db, dialect }: Database, { sql: text, parameters }: CompiledQuery): Promise<string> {
    const how = { sqlite: "explain query plan", postgres: "explain (analyze, format json)", mariadb: "explain" };
    const { rows } = await db.executeQuery(CompiledQuery.raw(`${how[dialect]} ${text}`, [...parameters]));
    return JSON.stringify(rows);
  }

  const walkOnSqlite = "USING INDEX gateway_delivery_receiver (state=? AND lane=? AND (origin,merchant)>(?,?))";

  /** Of waiting webhooks, by each step of the plan. */
  function rowsRead(plan: string): readonly number[] {
    const read: number[] = [];
    const visit = (node: unknown): void => {
      if (typeof node !== "object" || node === null) return;
      const step = node as Record<string, unknown>;
      if (step["Relation Name"] === "gateway_delivery" && step["Node Type"] !== "ModifyTable") {
        const perLoop = Number(step["Actual Rows"]) + Number(step["Rows Removed by Filter"] ?? 0);
        read.push(perLoop * Number(step["Actual Loops"]));
      }
      for (const value of Object.values(node)) visit(value);
    };
    visit(JSON.parse(plan));
    return read;
  }
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
