import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { migrate, openDatabase } from "@orderbridge/core/kysely";
import { describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createMigrations } from "../src/kysely/migrations.ts";
import { startWorker } from "./processes.ts";

const isProof = process.env.PROOF === "1";
const hour = 3_600_000;

/** The tables as they were before endpoints, due times and tombstones, with something of each kind in them. */
async function makeOldTables({ db, dialect }: Pick<TestDatabase, "db" | "dialect">): Promise<void> {
  const all = createMigrations(dialect);
  const old = Object.fromEntries(Object.entries(all).filter(([name]) => name < "023"));
  expect(Object.keys(old)).toHaveLength(22);
  await migrate({ db, dialect, prefix: "gateway", migrations: old });
  const now = Date.now();
  const payment = (id: string, status: string, paid: number) => ({
    id,
    merchant: "shop",
    provider: "bank",
    status,
    currency: "KZT",
    amount_minor: 10_000,
    paid_minor: paid,
    refunded_minor: 0,
    refunding_minor: id === "refunding" ? 500 : 0,
    description: "Шай",
    metadata: "{}",
    webhook_url: "https://shop.example/hook",
    webhook_secret: "test_secret_key",
    return_url: null,
    account: null,
    session: null,
    late: 0,
    test: 0,
    needs_attention: null,
    sequence: 1,
    created_at: now - 2 * hour,
    updated_at: now - 2 * hour,
    expires_at: id === "alive" ? now + hour : now - hour,
    version: 1,
  });
  await db
    .insertInto("gateway_payment")
    .values([
      payment("over", "pending", 0),
      payment("alive", "pending", 0),
      payment("paid", "paid", 10_000),
      payment("refunding", "paid", 10_000),
    ])
    .execute();
  await db
    .insertInto("gateway_refund")
    .values({
      id: "re_1",
      payment_id: "refunding",
      amount_minor: 500,
      status: "pending",
      created_at: now - hour,
      updated_at: now - hour,
    })
    .execute();
  for (const [id, tries] of [
    ["paid", 0],
    ["refunding", 4],
  ] as const) {
    await db
      .insertInto("gateway_event")
      .values({
        id: `evt_${id}`,
        payment_id: id,
        merchant: "shop",
        sequence: 1,
        name: "paid",
        body: "{}",
        position: null,
        created_at: now,
      })
      .execute();
    await db
      .insertInto("gateway_delivery")
      .values({
        id: `evt_${id}`,
        event_id: `evt_${id}`,
        payment_id: id,
        sequence: 1,
        url: "https://shop.example/hook",
        state: "pending",
        attempts: tries,
        schedule_attempts: tries,
        due_at: now - 1_000,
        claim: null,
        claim_ends_at: 0,
      })
      .execute();
  }
}

describe.each(testDatabases())("an upgrade on $name", ({ name, skipped, open }) => {
  test.skipIf(skipped)(
    `of tables with payments in them, by ten ${isProof ? "processes" : "connections"} at once: what was due is due, in its lane`,
    { timeout: 60_000 },
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "orderbridge-upgrade-"));
      const database: TestDatabase =
        name === "SQLite"
          ? { ...(await openDatabase(`sqlite:${join(folder, "old.db")}`)), url: `sqlite:${join(folder, "old.db")}` }
          : await open();
      try {
        await makeOldTables(database);
        if (isProof) {
          const workers = await Promise.all(
            Array.from({ length: 10 }, () =>
              startWorker({ databaseUrl: database.url, bankUrl: "", migrateOnly: true }),
            ),
          );
          expect((await Promise.all(workers.map(({ signal }) => signal("SIGCONT")))).map(({ code }) => code)).toEqual(
            workers.map(() => 0),
          );
        } else {
          await Promise.all(
            Array.from({ length: 10 }, async () => {
              const other = await openDatabase(database.url);
              await createPaymentGatewayStorage(other).migrate();
              await other.close();
            }),
          );
        }
        const storage = createPaymentGatewayStorage(database);
        const checks = await storage.claimChecks({ provider: "bank", limit: 10, ttlMs: 1_000 });
        expect(checks.map(({ payment, isOver }) => [payment.id, isOver])).toEqual([["over", true]]);
        expect((await storage.claimRefunds({ provider: "bank", limit: 10, ttlMs: 1_000 })).map(({ id }) => id)).toEqual(
          ["re_1"],
        );
        const prompt = await storage.claimDeliveries({ limit: 10, ttlMs: 60_000, lane: "prompt" });
        const late = await storage.claimDeliveries({ limit: 10, ttlMs: 60_000, lane: "late" });
        expect([prompt, late].map((lane) => lane.map(({ eventId, merchant }) => [eventId, merchant]))).toEqual([
          [["evt_paid", "shop"]],
          [["evt_refunding", "shop"]],
        ]);
      } finally {
        await database.close();
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
});
