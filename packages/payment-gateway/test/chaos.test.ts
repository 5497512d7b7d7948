import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createFakeReceiver } from "../src/testing/index.ts";
import { createBank, createBankProvider } from "./bank.ts";
import { type PrivateServer, privateServers } from "./private-servers.ts";
import { createRandom, startWorker, type WorkerProcess, workerToken } from "./processes.ts";

const isProof = process.env.PROOF === "1";
/** How long processes are killed at random, on each database. */
const chaosMs = isProof ? 60_000 : 2_000;

const sqlite = {
  name: "SQLite",
  skipped: false,
  async create(): Promise<PrivateServer> {
    const folder = mkdtempSync(join(tmpdir(), "orderbridge-chaos-"));
    return {
      url: `sqlite:${join(folder, "chaos.db")}`,
      kill: async () => undefined, // it lives in the processes that are killed
      start: async () => undefined,
      remove: async () => rmSync(folder, { recursive: true, force: true }),
    };
  },
} as const;

const [leastKills, leastPayments] = isProof ? [30, 100] : [2, 6];

describe.each([sqlite, ...privateServers])("random kills on $name", ({ name, skipped, create }) => {
  test.skipIf(skipped)(
    "of workers and of the database: no committed event is lost, none is told that was not stored, only tries of unknown outcome are repeated",
    { timeout: chaosMs + 180_000 },
    async () => {
      const random = createRandom(7);
      const server = await create();
      const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
      const bank = createBank();
      const [receiving, banking] = await Promise.all([listen(receiver.handle), listen(bank.handle)]);
      const workers: WorkerProcess[] = [];
      const report = {
        seconds: chaosMs / 1000,
        kills: 0,
        databaseKills: 0,
        payments: 0,
        events: 0,
        lost: 0,
        repeated: 0,
      };
      const unexpected: string[] = [];
      try {
        const database = await openDatabase(server.url);
        await createPaymentGatewayStorage(database).migrate();
        await database.close();

        const start = async (): Promise<void> => {
          try {
            workers.push(await startWorker({ databaseUrl: server.url, bankUrl: banking.url }));
          } catch (error) {
            unexpected.push(String(error));
          }
        };
        await Promise.all([start(), start()]);

        let isOver = false;
        /** Asks a living worker, again and again, until one answers: as a merchant and a bank do. */
        async function ask(
          path: string,
          body: object,
          headers: Readonly<Record<string, string>>,
        ): Promise<Response | undefined> {
          for (let tries = 0; tries < 1_000; tries++) {
            const worker = workers[Math.floor(random() * workers.length)];
            try {
              const response = await fetch(`${worker?.url}${path}`, {
                method: "POST",
                headers: { "content-type": "application/json", ...headers },
                body: JSON.stringify(body),
                signal: AbortSignal.timeout(10_000),
              });
              if (response.status < 500 && response.status !== 409) return response;
              await response.body?.cancel();
            } catch {
              // killed meanwhile, or being restarted
            }
            if (isOver) return undefined; // a key of a killed process is free again after a minute
            await pause(20);
          }
          return undefined;
        }
        /** Payments and transfers that somebody was told are stored. */
        const acknowledged: { readonly id: string; readonly transactionId: string }[] = [];
        async function shop(name: string): Promise<void> {
          for (let order = 0; !isOver; order++) {
            const created = await ask(
              "/api/payment/init",
              {
                amount: 100,
                webhook_url: `${receiving.url}/hook`,
                webhook_secret: "test_secret_key",
                metadata: { order: `${name}-${order}` },
              },
              { "x-api-token": workerToken, "idempotency-key": `${name}-${order}` },
            );
            if (created?.status !== 200) continue;
            const { data } = (await created.json()) as { readonly data: { readonly transaction_id: string } };
            const id = data.transaction_id;
            const transactionId = `${name}-${order}`;
            bank.transfers.set(id, { transactionId, amountMinor: 10_000n });
            const booked = await ask("/providers/bank/", { id, transactionId, amountMinor: "10000" }, {});
            if (booked?.status !== 200) continue;
            acknowledged.push({ id, transactionId });
            receiver.failNext(random() < 0.1 ? 1 : 0);
          }
        }
        async function killWorkers(): Promise<void> {
          while (!isOver) {
            await pause(200 + random() * 600);
            const victim = workers.shift();
            if (!victim) continue;
            if (victim.child.exitCode !== null) unexpected.push(`a worker ended by itself: ${victim.errors()}`);
            await victim.signal("SIGKILL");
            report.kills++;
            await start();
          }
        }
        async function killServer(): Promise<void> {
          while (!isOver && name !== "SQLite") {
            await pause(700 + random() * 1_500);
            await server.kill();
            report.databaseKills++;
            await pause(random() * 300);
            await server.start();
          }
        }
        const chaos = Promise.all([shop("a"), shop("b"), shop("c"), killWorkers(), killServer()]);
        await pause(chaosMs);
        // A busy machine takes longer to start what was killed: go on until something has happened.
        while (report.kills < leastKills || acknowledged.length < leastPayments) await pause(100);
        isOver = true;
        await chaos;
        await Promise.all(workers.splice(0).map((worker) => worker.signal("SIGKILL")));
        receiver.failNext(0);

        // The one that goes on comes later than every claim that the killed ones held.
        const clock = createFakeClock(new Date(Date.now() + 120_000));
        const later = await openDatabase(server.url);
        const storage = createPaymentGatewayStorage({ ...later, clock });
        const gateway = createPaymentGateway({
          storage,
          providers: [createBankProvider(banking.url)],
          publicUrl: "https://pay.example",
          webhooks: { allowAddresses: ["127.0.0.1"] },
          logger: silentLogger,
          clock,
        });
        await gateway.work();
        clock.advance(400_000); // the breaker, should it have opened
        await gateway.work();

        expect(unexpected).toEqual([]);
        const rows = await later.db.selectFrom("gateway_event").select(["id", "payment_id", "body"]).execute();
        const bodies = new Map(rows.map((row) => [row.id as string, row.body as string]));
        const seen = Map.groupBy(receiver.requests, ({ headers }) => headers["webhook-id"] ?? "");
        for (const [id, requests] of seen) {
          expect(bodies.get(id), "told, but not stored").toBeDefined();
          for (const { body, verification } of requests) {
            expect(body).toBe(bodies.get(id));
            expect(verification.ok).toBe(true);
          }
        }
        for (const { id, transactionId } of acknowledged) {
          const payment = await storage.getPayment(id);
          expect([payment?.status, payment?.paidMinor]).toEqual(["paid", 10_000n]);
          expect((await storage.getBooking("bank", transactionId))?.paymentId).toBe(id);
        }
        const accepted = new Set(receiver.accepted.map(({ headers }) => headers["webhook-id"]));
        report.lost = rows.filter((row) => !accepted.has(row.id)).length;
        for (const { payment_id } of rows) {
          for (const { eventId, attempts, log } of await storage.deliveriesOf(payment_id)) {
            const taken = (seen.get(eventId) ?? []).filter(({ status }) => status < 300).length;
            report.repeated += taken - 1;
            // Taken more than once only where the outcome of a try was never recorded.
            expect(taken - 1).toBeLessThanOrEqual(attempts - log.length);
          }
        }
        report.payments = acknowledged.length;
        report.events = rows.length;
        expect(report.lost).toBe(0);
        // One session for each payment that has one; a payment whose process was killed before may have none yet.
        const payments = await storage.listPayments({}, 100_000);
        for (const { id, session } of payments) if (session !== undefined) expect(session).toBe(bank.sessions.get(id));
        expect([...bank.sessions.keys()].filter((id) => !payments.some((payment) => payment.id === id))).toEqual([]);
        expect(report.payments).toBeGreaterThanOrEqual(leastPayments);
        expect(report.kills).toBeGreaterThanOrEqual(leastKills);
        recordProof(`gateway-random-kills-${name.toLowerCase()}`, report);
        if (process.env.DEBUG_CHAOS) process.stdout.write(`${JSON.stringify(report)}\n`);
        await gateway.close();
        await later.close();
      } finally {
        await Promise.all(workers.map((worker) => worker.signal("SIGKILL")));
        await Promise.all([receiving.close(), banking.close()]);
        await server.remove();
      }
    },
  );
});
