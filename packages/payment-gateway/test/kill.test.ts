import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeReceiver } from "../src/testing/index.ts";

/** Kill points of a clean run. A change of the statements changes it: look that none got lost, then write it here. */
const expectedPoints = 142;

/** Every seventh point in the daily run, all with `PROOF=1`. */
const step = process.env.PROOF === "1" ? 1 : 7;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-kill-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

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

/** Kills a process at a point, lets another one go on, and tells what the receiver saw. */
async function runWithKill(point: number) {
  const url = `sqlite:${join(folder, `${point}.db`)}`;
  const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
  const listening = await listen(receiver.handle);
  const child = await runChild([url, `${listening.url}/hook`, String(point)]);

  // The next process comes later than every claim that the killed one held.
  const clock = createFakeClock(new Date(Date.now() + 120_000));
  const database = await openDatabase(url);
  const storage = createPaymentGatewayStorage({ ...database, clock });
  const gateway = createPaymentGateway({
    storage,
    providers: [createSandboxProvider()],
    publicUrl: "https://pay.example",
    webhooks: { allowAddresses: ["127.0.0.1"] },
    logger: silentLogger,
    clock,
  });
  await gateway.work();
  const payments = await Promise.all(
    (await database.db.selectFrom("gateway_payment").select("id").execute()).map(({ id }) => storage.getPayment(id)),
  );
  const events = await database.db.selectFrom("gateway_event").select(["id", "body"]).orderBy("sequence").execute();
  const deliveries = await Promise.all(payments.map((payment) => storage.deliveriesOf(payment?.id ?? "")));
  await gateway.close();
  await database.close();
  await listening.close();
  return { child, payments, events, deliveries: deliveries.flat(), requests: receiver.requests };
}

test("kill -9 at every SQL statement from create to recorded delivery: no committed event is lost, none is invented, a repeat has the same id and bytes", {
  timeout: 120_000,
}, async () => {
  const clean = await runWithKill(0);
  expect([clean.child, clean.events.length, clean.requests.length]).toEqual([
    { killed: false, output: String(expectedPoints) },
    3,
    3,
  ]);
  const report = { points: 0, lost: 0, repeated: 0 };
  const points = Array.from({ length: expectedPoints }, (_, index) => index + 1).filter((point) => point % step === 0);
  const count = points.length;
  const worker = async (): Promise<void> => {
    for (let point = points.shift(); point !== undefined; point = points.shift()) {
      const { child, payments, events, deliveries, requests } = await runWithKill(point);
      report.points++;
      expect(child.killed, `point ${point}`).toBe(true);
      expect(payments.length).toBeLessThanOrEqual(1);
      // As many events as the payment says, each delivered, and nothing delivered that is not stored.
      expect(events).toHaveLength(payments[0]?.sequence ?? 0);
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
      const [payment] = payments;
      if (payment) expect(payment.refundedMinor + payment.refundingMinor).toBeLessThanOrEqual(payment.paidMinor);
    }
  };
  await Promise.all([worker(), worker()]);
  expect(report).toEqual({ points: count, lost: 0, repeated: expect.any(Number) });
  expect(report.repeated).toBeGreaterThan(0); // else no try was ever interrupted
  recordProof("gateway-kill-9-sqlite", report);
});
