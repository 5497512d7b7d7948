// The world around the gateway is away for a while: its database, or Redis.
import { setTimeout as pause } from "node:timers/promises";
import { silentLogger } from "@orderbridge/core";
import { createBullmqJobEngine } from "@orderbridge/core/bullmq";
import { openDatabase } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { listen } from "@orderbridge/core/testing";
import { Redis } from "ioredis";
import { describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { redisProgram, startRedisServer } from "../../core/test/redis-server.ts";
import { createPaymentGateway, type Payment } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createFakeReceiver } from "../src/testing/index.ts";
import { createBank, createBankProvider } from "./bank.ts";
import { privateServers } from "./private-servers.ts";
import { startWorker, workerToken } from "./processes.ts";

test.skipIf(redisProgram.skipped)(
  "Redis emptied: chores that BullMQ spreads go on within 5 s, because the leases and due times are in the database",
  { timeout: 60_000 },
  async () => {
    const server = await startRedisServer();
    const redis = new Redis(server.url, { maxRetriesPerRequest: null });
    const storage = createPaymentGatewayMemoryStorage();
    const { leases } = createMemoryStorage();
    const gateway = createPaymentGateway({
      storage,
      providers: [createBankProvider("http://127.0.0.1:9")].map(({ state: _state, ...provider }) => provider),
      publicUrl: "https://pay.example",
      expiryHoldMs: 0,
      logger: silentLogger,
      jobs: (jobs) => createBullmqJobEngine({ jobs, leases, redis, refreshMs: 1_000, prefix: "{gateway}" }),
    });
    const stopping = new AbortController();
    const running = gateway.run(stopping.signal);
    try {
      const expires = async (id: string): Promise<void> => {
        await storage.createPayment(overduePayment(id));
        await expect.poll(async () => (await storage.getPayment(id))?.status, { timeout: 5_000 }).toBe("expired");
      };
      await expires("before");
      await redis.flushall();
      await expires("after");
      const { events } = await storage.historyOf("after");
      expect(events.map(({ name }) => name)).toEqual(["expired"]);
    } finally {
      stopping.abort();
      await running;
      await gateway.close();
      redis.disconnect();
      await server.remove();
    }
  },
);

const overduePayment = (id: string): Payment => ({
  id,
  merchant: "shop",
  provider: "bank",
  status: "pending",
  currency: "KZT",
  amountMinor: 10_000n,
  paidMinor: 0n,
  refundedMinor: 0n,
  refundingMinor: 0n,
  description: "",
  metadata: "{}",
  late: false,
  test: false,
  sequence: 0,
  createdAt: new Date(0),
  updatedAt: new Date(0),
  expiresAt: new Date(1),
  version: 1,
});

/** How long the database is away. */
const awayMs = process.env.PROOF === "1" ? 30_000 : 1_500;

describe.each(privateServers)("$name away", ({ name, skipped, create }) => {
  test.skipIf(skipped)(
    `for ${awayMs / 1000} s: no request is told a lie, nothing that was acknowledged is lost, and new webhooks arrive within 5 s of its return`,
    { timeout: awayMs + 60_000 },
    async () => {
      const server = await create();
      const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
      const bank = createBank();
      const [receiving, banking] = await Promise.all([listen(receiver.handle), listen(bank.handle)]);
      const database = await openDatabase(server.url);
      await createPaymentGatewayStorage(database).migrate();
      const worker = await startWorker({ databaseUrl: server.url, bankUrl: banking.url });
      try {
        const post = (path: string, body: object, key?: string) =>
          fetch(`${worker.url}${path}`, {
            method: "POST",
            headers: { "x-api-token": workerToken, ...(key === undefined ? {} : { "idempotency-key": key }) },
            body: JSON.stringify(body),
            signal: AbortSignal.timeout(15_000),
          });
        const pay = async (order: string): Promise<boolean> => {
          const created = await post(
            "/api/payment/init",
            { amount: 100, webhook_url: `${receiving.url}/hook`, webhook_secret: "test_secret_key" },
            order,
          );
          if (created.status !== 200) {
            expect(created.status).toBeGreaterThanOrEqual(500);
            expect(await created.json()).toMatchObject({ success: false });
            return false;
          }
          const { data } = (await created.json()) as { readonly data: { readonly transaction_id: string } };
          const booked = await post("/providers/bank/", {
            id: data.transaction_id,
            transactionId: order,
            amountMinor: "10000",
          });
          return booked.status === 200;
        };
        expect(await pay("before")).toBe(true);
        await expect.poll(() => receiver.accepted.length, { timeout: 10_000 }).toBe(1);
        await server.kill();
        const backAt = performance.now() + awayMs;
        let refused = 0;
        while (performance.now() < backAt) {
          expect(await pay(`during-${refused++}`)).toBe(false);
          await pause(200);
        }
        expect(refused).toBeGreaterThan(2);
        await server.start();
        const returnedAt = performance.now();
        await expect.poll(() => pay("after"), { timeout: 5_000 }).toBe(true);
        await expect.poll(() => receiver.accepted.length, { timeout: 5_000 }).toBe(2);
        const recoveryMs = Math.round(performance.now() - returnedAt);
        expect(recoveryMs).toBeLessThan(5_000);
        expect(worker.child.exitCode).toBeNull();
        recordProof(`gateway-outage-${name.toLowerCase()}`, { awayMs, refused, lost: 0, recoveryMs });
      } finally {
        await worker.signal("SIGKILL");
        await database.close().catch(() => silentLogger);
        await Promise.all([receiving.close(), banking.close()]);
        await server.remove();
      }
    },
  );
});
