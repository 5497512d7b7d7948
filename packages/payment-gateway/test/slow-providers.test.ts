// Providers that are slow, or never answer, on real time: what they may hold up and what not.
import { createJobEngine, silentLogger, systemClock } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { afterEach, expect, test } from "vitest";
import {
  createPaymentGateway,
  type Payment,
  type PaymentGatewayOptions,
  type PaymentProvider,
  type ProviderState,
} from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";

const stops: (() => Promise<void>)[] = [];
afterEach(() => Promise.all(stops.splice(0).map((stop) => stop())));

const createProvider = (name: string, state: (payment: Payment) => Promise<ProviderState>): PaymentProvider => ({
  name,
  currencies: { KZT: { stepMinor: 1n } },
  payerStep: () => ({ kind: "actions", actions: [] }),
  state,
});

function start(providers: readonly PaymentProvider[], options: Partial<PaymentGatewayOptions> = {}) {
  const storage = createPaymentGatewayMemoryStorage();
  const gateway = createPaymentGateway({
    storage,
    providers,
    publicUrl: "https://pay.example",
    pollIntervalMs: 10,
    expiryHoldMs: 0,
    logger: silentLogger,
    ...options,
  });
  const create = async (provider: string, lifeMs = 3_600_000): Promise<string> => {
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100n, provider, lifeMs });
    await storage.scheduleCheck(payment.id, { delayMs: 0 });
    return payment.id;
  };
  const stopping = new AbortController();
  const run = () => {
    const running = gateway.run(stopping.signal);
    const stop = async () => {
      stopping.abort();
      await running;
    };
    stops.push(stop);
    return stop;
  };
  return { storage, gateway, create, run };
}

const never = new Promise<never>(() => undefined);

test("a question that is never answered ends at its deadline, is counted, and holds up no other payment and no stop", async () => {
  const asked: string[] = [];
  const silent = createProvider("silent", ({ id }) => {
    asked.push(id);
    return id === hanging ? never : Promise.resolve({ state: "waiting" });
  });
  const { storage, gateway, create, run } = start([silent], { providerTimeoutMs: 300 });
  const hanging = await create("silent");
  const stop = run();
  await expect.poll(() => asked).toEqual([hanging]);
  const other = await create("silent");
  await expect.poll(() => asked, { timeout: 250, interval: 5 }).toEqual([hanging, other]);
  await stop();
  expect((await gateway.payments.get("shop", hanging))?.status).toBe("pending");
  expect(await storage.providerErrors(new Date(0))).toMatchObject([
    { provider: "silent", failures: 1, last: { call: "state", message: "no answer in 0.3 s" } },
  ]);
});

test("start, cancel and refund that never answer are refused or left open at the deadline", async () => {
  const silent = createProvider("silent", () => never);
  const hanging: PaymentProvider = { ...silent, start: () => never, cancel: () => never, refund: () => never };
  const { storage, gateway } = start([hanging, { ...hanging, name: "started", start: async () => ({}) }], {
    providerTimeoutMs: 20,
  });
  const create = (provider: string) => gateway.payments.create({ merchant: "shop", amountMinor: 100n, provider });
  await expect(create("silent")).rejects.toMatchObject({ code: "provider_failed" });
  const { id } = (await create("started")).payment;
  await expect(gateway.payments.cancel("shop", id)).rejects.toMatchObject({ code: "conflict" });
  await storage.change(id, (payment) => ({ payment: { ...payment, status: "paid", paidMinor: 100n } }));
  expect((await gateway.payments.refund({ merchant: "shop", id })).refund.status).toBe("pending");
  const errors = await storage.providerErrors(new Date(0));
  expect(errors.map(({ provider, failures, last }) => [provider, failures, last.call])).toEqual([
    ["silent", 1, "start"],
    ["started", 2, "refund"],
  ]);
});

test("stopping asks no further question, and what was taken and not asked is due at once", async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  let asked = 0;
  const slow = createProvider("slow", async () => {
    asked++;
    await released;
    return { state: "waiting" };
  });
  const { storage, create, run } = start([slow]);
  for (let index = 0; index < 64; index++) await create("slow");
  const stop = run();
  await expect.poll(() => asked).toBe(8);
  const stopped = stop();
  release();
  await stopped;
  expect(asked).toBe(8);
  expect(await storage.claimChecks({ provider: "slow", limit: 100, ttlMs: 1_000 })).toHaveLength(56);
});

test("stopping ends although questions come due faster than they are answered", async () => {
  const { create, run } = start([
    createProvider("eager", async () => {
      await systemClock.sleep(2);
      return { state: "waiting", askAgainMs: 0 };
    }),
  ]);
  for (let index = 0; index < 40; index++) await create("eager");
  const stop = run();
  await systemClock.sleep(50);
  await stop(); // else the test runs out of time
});

test.each(["by itself", "with leases"])("a provider that hangs does not stop the others: %s", async (mode) => {
  const { leases } = createMemoryStorage();
  let [asked, hanging] = [0, 0];
  const quick = createProvider("quick", async () => {
    asked++;
    return { state: "waiting", askAgainMs: 0 };
  });
  const silent = createProvider("hanging", () => {
    hanging++;
    return never;
  });
  const { create, run } = start([silent, quick], {
    providerTimeoutMs: 500,
    ...(mode === "with leases" ? { jobs: (jobs) => createJobEngine({ jobs, leases, pollMs: 10 }) } : {}),
  });
  for (let index = 0; index < 40; index++) await create("hanging");
  run();
  await expect.poll(() => hanging).toBe(8);
  await create("quick");
  await expect.poll(() => asked, { timeout: 400, interval: 5 }).toBeGreaterThan(2);
});
