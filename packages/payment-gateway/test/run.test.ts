import { silentLogger, systemClock } from "@orderbridge/core";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createPaymentGateway, type PaymentGateway, type PaymentGatewayOptions } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import type { GatewayStorage } from "../src/storage.ts";
import { createFakeReceiver, type FakeReceiver } from "../src/testing/index.ts";

let receiver: FakeReceiver;
let listening: Listening;
const stops: (() => Promise<void>)[] = [];
beforeEach(async () => {
  receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
  listening = await listen((request) => receiver.handle(request));
});
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
  await listening.close();
});

/** A gateway that runs on real time and would look for due work once an hour only. */
function start(storage: GatewayStorage, options: Partial<PaymentGatewayOptions> = {}) {
  const gateway: PaymentGateway = createPaymentGateway({
    storage,
    providers: [createSandboxProvider()],
    publicUrl: "https://pay.example",
    webhooks: { allowAddresses: ["127.0.0.1"] },
    pollIntervalMs: 3_600_000,
    logger: silentLogger,
    ...options,
  });
  const stopping = new AbortController();
  const running = gateway.run(stopping.signal);
  const stop = async () => {
    stopping.abort();
    await running;
    await gateway.close();
  };
  stops.push(stop);
  return { gateway, stop };
}

async function pay(gateway: PaymentGateway, url = listening.url): Promise<string> {
  const { payment } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 100n,
    webhookUrl: `${url}/hook`,
    webhookSecret: "test_secret_key",
  });
  await gateway.handle(
    new Request(`https://pay.example/providers/sandbox/${payment.id}`, {
      method: "POST",
      body: new URLSearchParams({ action: "pay" }),
    }),
  );
  return payment.id;
}

test("an event leaves at once, and a short pause between tries is kept, without waiting for the next look", async () => {
  const { gateway } = start(createPaymentGatewayMemoryStorage(), { retryDelaysMs: [20, 20] });
  receiver.failNext(2);
  await pay(gateway);
  await expect.poll(() => receiver.accepted.length, { timeout: 5_000 }).toBe(1);
  expect(receiver.requests.map(({ status }) => status)).toEqual([500, 500, 204]);
});

test("stopping lets the try in flight end and be recorded, and starts none", async () => {
  const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>();
  const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>();
  const accepting = receiver.handle;
  receiver = {
    ...receiver,
    async handle(request) {
      arrive();
      await mayAnswer;
      return accepting(request);
    },
  };
  const storage = createPaymentGatewayMemoryStorage();
  const { gateway, stop } = start(storage);
  const id = await pay(gateway);
  await arrived;
  const stopped = stop();
  const later = await pay(gateway);
  answer();
  await stopped;
  expect((await storage.deliveriesOf(id))[0]).toMatchObject({ state: "delivered", attempts: 1 });
  expect((await storage.deliveriesOf(later))[0]).toMatchObject({ state: "pending", attempts: 0 });
});

test("a storage that is away for a while stops nothing for good", async () => {
  const storage = createPaymentGatewayMemoryStorage();
  let failures = 3;
  const flaky: GatewayStorage = {
    ...storage,
    claimDeliveries: (options) =>
      failures-- > 0 ? Promise.reject(new Error("connection lost")) : storage.claimDeliveries(options),
  };
  const { gateway } = start(flaky, { pollIntervalMs: 10, clock: systemClock });
  await pay(gateway);
  await expect.poll(() => receiver.requests.length, { timeout: 5_000 }).toBe(1);
});

test("an outcome that cannot be stored for a while is stored later, and the webhook is not repeated", async () => {
  const storage = createPaymentGatewayMemoryStorage();
  let failures = 3;
  const flaky: GatewayStorage = {
    ...storage,
    finishDeliveries: (...args) =>
      failures-- > 0 ? Promise.reject(new Error("connection lost")) : storage.finishDeliveries(...args),
  };
  const { gateway } = start(flaky, { pollIntervalMs: 10 });
  const id = await pay(gateway);
  await expect.poll(async () => (await storage.deliveriesOf(id))[0]?.state, { timeout: 10_000 }).toBe("delivered");
  expect(receiver.requests).toHaveLength(1);
  expect((await storage.deliveriesOf(id))[0]?.log).toHaveLength(1);
});

test("a database that is slow to take outcomes does not stop the tries, until as many wait as there are places", async () => {
  const storage = createPaymentGatewayMemoryStorage();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const slow: GatewayStorage = {
    ...storage,
    finishDeliveries: (...args) => released.then(() => storage.finishDeliveries(...args)),
  };
  const { gateway } = start(slow, { pollIntervalMs: 10, concurrency: 4 });
  for (let index = 0; index < 20; index++) await pay(gateway);
  await expect.poll(() => receiver.requests.length).toBe(8);
  await systemClock.sleep(100);
  expect(receiver.requests).toHaveLength(8);
  release();
  await expect.poll(() => receiver.requests.length).toBe(20);
});

test("one dead receiver does not hold up the others", async () => {
  const dead = await listen(() => new Promise(() => undefined));
  try {
    const { gateway } = start(createPaymentGatewayMemoryStorage(), {
      webhooks: { allowAddresses: ["127.0.0.1"], timeoutMs: 300 },
      concurrency: 4,
    });
    await gateway.payments
      .create({ merchant: "shop", amountMinor: 1n, webhookUrl: dead.url })
      .then(({ payment }) => gateway.payments.cancel("shop", payment.id));
    await pay(gateway);
    await expect.poll(() => receiver.requests.length, { timeout: 5_000 }).toBe(1);
  } finally {
    await Promise.all(stops.splice(0).map((stop) => stop()));
    await dead.close();
  }
});

test("a receiver that does not answer gets eight tries at a time; the others get theirs meanwhile", async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  let waiting = 0;
  const silent = await listen(async () => {
    waiting++;
    await released;
    return new Response(null, { status: 204 });
  });
  try {
    const { gateway } = start(createPaymentGatewayMemoryStorage(), { concurrency: 10 });
    for (let index = 0; index < 40; index++) await pay(gateway, silent.url);
    await pay(gateway);
    await expect.poll(() => receiver.accepted.length).toBe(1);
    await expect.poll(() => waiting).toBe(8);
    release();
    await expect.poll(() => waiting, { timeout: 10_000 }).toBe(40);
  } finally {
    release();
    await silent.close();
  }
});
