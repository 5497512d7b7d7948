import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createFakeReceiver } from "../src/testing/index.ts";
import { createBank, createBankProvider } from "./bank.ts";

/**
 * Kill points of a clean run. A change of the statements changes it: look that none got lost, then write it here. On
 * MariaDB a key that exists is an error instead of a result.
 */
const expectedPointsOn: Readonly<Record<string, number>> = { SQLite: 150, PostgreSQL: 124, MariaDB: 149 };

/** Every thirtieth point in the daily run, others on each database; all with `PROOF=1`. */
const step = process.env.PROOF === "1" ? 1 : 30;

function runChild(args: readonly string[]): Promise<{ readonly killed: boolean; readonly output: string }> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [join(import.meta.dirname, "kill.worker.ts"), ...args],
      { env: { PATH: process.env.PATH } },
      (error, stdout, stderr) => {
        if (!error) resolve({ killed: false, output: stdout });
        else if (error.signal === "SIGKILL") resolve({ killed: true, output: stdout });
        else reject(new Error(stderr));
      },
    );
  });
}

describe.each(testDatabases().map((database, index) => ({ ...database, index })))(
  "kill -9 on $name",
  ({ name, skipped, open, index: databaseIndex }) => {
    const expectedPoints = expectedPointsOn[name] ?? 0;
    let database: TestDatabase;
    let url: string;
    let folder: string | undefined;
    beforeAll(async () => {
      if (skipped) return;
      if (name === "SQLite") {
        folder = mkdtempSync(join(tmpdir(), "orderbridge-kill-"));
        url = `sqlite:${join(folder, "kill.db")}`;
        database = { ...(await openDatabase(url)), url };
      } else {
        database = await open();
        ({ url } = database);
      }
      await createPaymentGatewayStorage(database).migrate();
    });
    afterAll(async () => {
      await database?.close();
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    });

    /** Kills a process at a point, lets another one go on, and tells what bank and receiver saw. */
    async function runWithKill(point: number) {
      const merchant = `shop-${point}`;
      const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
      const bank = createBank();
      const [receiving, banking] = await Promise.all([listen(receiver.handle), listen(bank.handle)]);
      const child = await runChild([url, `${receiving.url}/hook`, banking.url, merchant, String(point)]);

      // The next process comes later than every claim that the killed one held.
      const clock = createFakeClock(new Date(Date.now() + 120_000));
      const storage = createPaymentGatewayStorage({ ...database, clock });
      const token = `token-of-${merchant}-0123456789`;
      const gateway = createPaymentGateway({
        storage,
        providers: [createBankProvider(banking.url)],
        publicUrl: "https://pay.example",
        tokens: [{ merchant, token }],
        webhooks: { allowAddresses: ["127.0.0.1"] },
        logger: silentLogger,
        clock,
      });
      // The merchant, who got no answer, asks again with the same key and body.
      const again = await gateway.handle(
        new Request("https://pay.example/api/payment/init", {
          method: "POST",
          headers: { "x-api-token": token, "idempotency-key": "-api-payment-init" },
          body: JSON.stringify({
            amount: 500,
            webhook_url: `${receiving.url}/hook`,
            webhook_secret: "test_secret_key",
          }),
        }),
      );
      await gateway.work();
      const payments = await storage.listPayments({ merchant }, 10);
      const [payment] = payments;
      const { events, bookings, refunds } = await storage.historyOf(payment?.id ?? "");
      const deliveries = await storage.deliveriesOf(payment?.id ?? "");
      await gateway.close();
      await Promise.all([receiving.close(), banking.close()]);
      return { child, again, payments, events, bookings, refunds, deliveries, requests: receiver.requests, bank };
    }

    test.skipIf(skipped)(
      "at every statement and provider call from create to recorded delivery: no committed event is lost, none is invented, a repeat has the same id and bytes, one payment has one provider session",
      { timeout: 600_000 },
      async () => {
        const clean = await runWithKill(0);
        expect([clean.child, clean.events.length, clean.requests.length]).toEqual([
          { killed: false, output: String(expectedPoints) },
          3,
          3,
        ]);
        const report = { points: 0, kills: 0, lost: 0, repeated: 0 };
        const points = Array.from({ length: expectedPoints }, (_, index) => index + 1).filter(
          (point) => point % step === (databaseIndex * 7) % step,
        );
        // One after the other: whoever goes on delivers all that is due in this database.
        for (const point of points) {
          const { child, again, payments, events, bookings, refunds, deliveries, requests, bank } =
            await runWithKill(point);
          report.points++;
          if (child.killed) report.kills++;
          expect(child.killed, `point ${point}`).toBe(true);
          expect([again.status, payments.length, bank.sessions.size], `point ${point}`).toEqual([200, 1, 1]);
          const [payment] = payments;
          if (!payment) throw new Error("no payment");
          expect(payment.session).toBe(bank.sessions.get(payment.id));
          // As many events as the payment says, each delivered, and nothing delivered that is not stored.
          expect(events).toHaveLength(payment.sequence);
          expect(deliveries.map(({ state }) => state)).toEqual(events.map(() => "delivered"));
          const bodies = new Map(events.map(({ id, body }) => [id, body]));
          const seen = new Map<string, number>();
          for (const { headers, body, verification } of requests) {
            const id = headers["webhook-id"] ?? "";
            expect(verification.ok).toBe(true);
            expect(body).toBe(bodies.get(id));
            seen.set(id, (seen.get(id) ?? 0) + 1);
          }
          report.lost += events.length - seen.size;
          report.repeated += requests.length - seen.size;
          // Only the try that was in flight may be repeated.
          expect(requests.length - seen.size).toBeLessThanOrEqual(1);
          for (const { attempts, log } of deliveries) expect(attempts - log.length).toBeLessThanOrEqual(1);
          // Money: what is booked is the sum of the transfers, what went back is what the bank gave.
          expect(payment.paidMinor).toBe(bookings.reduce((sum, { amountMinor }) => sum + amountMinor, 0n));
          const given = [...bank.refunds.values()].reduce((sum, amount) => sum + amount, 0n);
          expect([payment.refundingMinor, payment.refundedMinor]).toEqual([0n, given]);
          expect(refunds.every(({ status }) => status === "succeeded")).toBe(true);
        }
        expect(report).toEqual({ points: points.length, kills: points.length, lost: 0, repeated: expect.any(Number) });
        if (step === 1) expect(report.repeated).toBeGreaterThan(0); // else no try was ever interrupted
        recordProof(`gateway-kill-9-${name.toLowerCase()}`, report);
      },
    );
  },
);
