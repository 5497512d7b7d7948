// A gateway that sends webhooks to whatever address it is told, and then tells how that went and what it did to its memory.
// Runs with --expose-gc.
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { sql } from "kysely";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { patientDeadlineMs, type Visit, type VisitReport } from "./zoo-visit.ts";

/** Tries at one origin at the same time. */
const perOrigin = 16;

const [databaseUrl = "", silentDeadlineMs = ""] = process.argv.slice(2);
const database = await openDatabase(databaseUrl);
await sql`pragma synchronous = off`.execute(database.db); // nothing is killed here
const storage = createPaymentGatewayStorage(database);
await storage.migrate();
const open = (timeoutMs: number) =>
  createPaymentGateway({
    storage,
    providers: [createSandboxProvider()],
    publicUrl: "https://pay.example",
    webhooks: {
      allowAddresses: ["127.0.0.1"],
      timeoutMs,
      maxPools: perOrigin, // pools of receivers that are called no more would look like a leak
      resolve: async () => [{ address: "127.0.0.1", family: 4 }],
    },
    retryDelaysMs: [],
    concurrency: 256,
    concurrencyPerReceiver: perOrigin,
    breaker: { failures: 1_000_000 },
    logger: silentLogger,
  });
const gateways = { patient: open(patientDeadlineMs), silent: open(Number(silentDeadlineMs)) };

async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    await new Promise((resolve) => setTimeout(resolve, 10)); // sockets close, finalizers run
    globalThis.gc?.();
  }
}

async function visit({ scheme, port, tries, isSilent }: Visit): Promise<VisitReport> {
  const gateway = isSilent ? gateways.silent : gateways.patient;
  const origins = isSilent ? Math.ceil(tries / perOrigin) : 1;
  const ids: string[] = [];
  for (let index = 0; index < tries; index++) {
    const { payment } = await gateway.payments.create({
      merchant: "shop",
      amountMinor: 50_000n,
      webhookUrl: `${scheme}://pen-${index % origins}.zoo.example:${port}/hook`,
      webhookSecret: "test_secret_key",
      metadata: JSON.stringify({ note: "ә".repeat(2_000) }),
    });
    await gateway.payments.cancel("shop", payment.id);
    ids.push(payment.id);
  }
  await collectGarbage();
  const residentBefore = process.memoryUsage.rss();
  let resident = residentBefore;
  const look = () => {
    resident = Math.max(resident, process.memoryUsage.rss());
  };
  const looking = setInterval(look, 2);
  await gateway.work();
  look();
  clearInterval(looking);
  const outcomes: Record<string, number> = {};
  let longestMs = 0;
  let answerLength = 0;
  for (const id of ids) {
    for (const { log } of await gateway.payments.deliveries("shop", id)) {
      for (const { outcome, durationMs, answer } of log) {
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
        longestMs = Math.max(longestMs, durationMs);
        answerLength = Math.max(answerLength, answer?.length ?? 0);
      }
    }
  }
  await collectGarbage();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return {
    outcomes,
    longestMs,
    answerLength,
    memory: { heap: heapUsed, external, buffers: arrayBuffers, rise: resident - residentBefore },
  };
}

process.on("message", (request: Visit) => void visit(request).then((report) => process.send?.(report)));
process.on("disconnect", () => process.exit());
process.send?.("ready");
