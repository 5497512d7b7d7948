// A gateway process for the tests that kill, stop or race processes: serves HTTP, sends webhooks, and prints its address.
import type { Logger } from "@orderbridge/core";
import { createJobEngine } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage, createPostgresHints } from "../src/kysely/index.ts";
import { createBankProvider } from "./bank.ts";

export interface WorkerSettings {
  readonly databaseUrl: string;
  readonly bankUrl: string;
  /** Asks the bank about each payment so often. */
  readonly askAfterMs?: number;
  /** Shares the chores by leases of this life. */
  readonly leaseTtlMs?: number;
  readonly pollIntervalMs?: number;
  readonly expiryHoldMs?: number;
  readonly checkClaimMs?: number;
  readonly providerTimeoutMs?: number;
  readonly hints?: boolean;
  /** Brings the tables up to date and ends. */
  readonly migrateOnly?: boolean;
}

const settings = JSON.parse(process.argv[2] ?? "{}") as WorkerSettings;
const { databaseUrl, bankUrl, askAfterMs, leaseTtlMs, pollIntervalMs = 100, expiryHoldMs = 120_000 } = settings;

/** What is not told on the side of a person must not end the process: only what is printed here is seen. */
const logger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: (message) => process.stderr.write(`${message}\n`),
};
const database = await openDatabase(databaseUrl);
const storage = createPaymentGatewayStorage({
  ...database,
  ...(settings.hints ? { hints: createPostgresHints(databaseUrl) } : {}),
});
if (settings.migrateOnly) {
  await storage.migrate();
  await database.close();
  process.stdout.write("migrated\n", () => process.exit(0));
  await new Promise(() => undefined);
}
const gateway = createPaymentGateway({
  storage,
  providers: [createBankProvider(bankUrl, askAfterMs === undefined ? {} : { askAfterMs })],
  publicUrl: "https://pay.example",
  tokens: [{ merchant: "shop", token: "shop-token-0123456789abcdef" }],
  webhooks: { allowAddresses: ["127.0.0.1"], timeoutMs: 2_000 },
  retryDelaysMs: [200, 200, 400, 400, 800, 800, 1_600, 1_600, 3_200, 3_200],
  pollIntervalMs,
  expiryHoldMs,
  ...(settings.checkClaimMs === undefined ? {} : { checkClaimMs: settings.checkClaimMs }),
  ...(settings.providerTimeoutMs === undefined ? {} : { providerTimeoutMs: settings.providerTimeoutMs }),
  logger,
  ...(leaseTtlMs === undefined
    ? {}
    : {
        jobs: (jobs) =>
          createJobEngine({ jobs, leases: createKyselyStorage(database).leases, leaseTtlMs, pollMs: 50, logger }),
      }),
});
const listening = await listen(gateway.handle);
const stopping = new AbortController();
const running = gateway.run(stopping.signal);
process.once("SIGTERM", async () => {
  await listening.close();
  stopping.abort();
  await running;
  await gateway.close();
  await database.close();
});
process.stdout.write(`${listening.url}\n`);
