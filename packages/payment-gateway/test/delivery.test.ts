import { silentLogger } from "@orderbridge/core";
import { createFakeClock } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createDeliverer, type DeliveryOptions } from "../src/delivery.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import type { SendResult } from "../src/sender.ts";
import type { ClaimedDelivery, NewPayment } from "../src/storage.ts";

const delivery: ClaimedDelivery = {
  id: "d1",
  eventId: "evt_1",
  eventName: "paid",
  paymentId: "p1",
  merchant: "shop",
  url: "https://shop.example/hook",
  endpointId: "",
  body: "{}",
  attempt: 1,
  scheduleAttempt: 1,
  secrets: ["test_secret_key"],
  claim: "c1",
};

const answered = (status: number): SendResult => ({ kind: "answer", status, retryAfter: null, answer: "" });

const rest = {
  logger: silentLogger,
  retryDelaysMs: [1000],
  concurrency: 8,
  concurrencyPerReceiver: 8,
  breaker: { failures: 10, pauseMs: 1, maxPauseMs: 1 },
  claimMs: 45_000,
  seedHeaders: true,
  random: () => 0.5,
} satisfies Partial<DeliveryOptions>;

test.each([
  { stoodStillMs: 30_000, posts: 1 },
  { stoodStillMs: 30_001, posts: 0 },
  { stoodStillMs: 46_000, posts: 0 },
])("a worker that stood still for $stoodStillMs ms after its claim sends $posts", async ({ stoodStillMs, posts }) => {
  const clock = createFakeClock(new Date("2026-11-01T00:00:00Z"));
  const sent: string[] = [];
  const stored: string[] = [];
  const released: string[] = [];
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      async claimDeliveries({ lane }) {
        if (lane === "late") return [];
        clock.advance(stoodStillMs);
        return [delivery];
      },
      async finishDeliveries(finished) {
        stored.push(...finished.map((one) => one.delivery.eventId));
        return finished.map(() => true);
      },
      async releaseDeliveries(claimed) {
        released.push(...claimed.map(({ eventId }) => eventId));
      },
    },
    sender: {
      async post(url) {
        sent.push(url);
        return answered(200);
      },
    },
    clock,
  });
  await Promise.all(await deliverer.start());
  expect([sent.length, stored.length, released.length]).toEqual([posts, posts, 1 - posts]);
});

test("tries that were not sent because claims were slow use up no schedule, and the next claim lasts longer", async () => {
  const clock = createFakeClock(new Date("2026-11-01T00:00:00Z"));
  const storage = createPaymentGatewayMemoryStorage({ clock });
  await createEvent(storage, clock.now());
  const ttls: number[] = [];
  let slowMs = 31_000;
  let posts = 0;
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      ...storage,
      async claimDeliveries(options) {
        const claimed = await storage.claimDeliveries(options);
        if (claimed.length > 0) {
          ttls.push(options.ttlMs);
          clock.advance(slowMs);
        }
        return claimed;
      },
    },
    sender: {
      async post() {
        posts++;
        return answered(503);
      },
    },
    clock,
    retryDelaysMs: [5_000],
  });
  const start = async () => void (await Promise.all(await deliverer.start()));
  await start(); // too slow: given back
  slowMs = 70_000;
  await start(); // slower than the longer claim
  expect(await storage.deliveriesOf("p1")).toMatchObject([{ state: "pending", attempts: 0 }]);
  await start(); // as slow, but expected
  expect(posts).toBe(1);
  expect(await storage.deliveriesOf("p1")).toMatchObject([{ state: "pending", attempts: 1, log: [{ attempt: 1 }] }]);
  slowMs = 0;
  clock.advance(5_000);
  await start();
  expect(await storage.deliveriesOf("p1")).toMatchObject([{ state: "exhausted", attempts: 2 }]);
  expect([posts, ttls]).toEqual([2, [45_000, 76_000, 115_000, 115_000]]);
  await createEvent(storage, clock.now(), "p2");
  await start(); // claims are quick again
  expect(ttls.at(-1)).toBe(45_000);
});

test("claims that cannot be given back end by themselves", async () => {
  const clock = createFakeClock(new Date("2026-11-01T00:00:00Z"));
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      async claimDeliveries({ lane }) {
        if (lane === "late") return [];
        clock.advance(31_000);
        return [delivery];
      },
      finishDeliveries: () => Promise.reject(new Error("nothing was sent")),
      releaseDeliveries: () => Promise.reject(new Error("connection lost")),
    },
    sender: { post: () => Promise.reject(new Error("nothing is sent")) },
    clock,
  });
  expect(await deliverer.start()).toEqual([]);
});

test("tries that have begun are handed over although the other lane cannot be claimed", async () => {
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const waiting: ClaimedDelivery[] = [delivery];
  const stored: string[] = [];
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      async claimDeliveries({ lane }) {
        if (lane === "late") throw new Error("connection lost");
        return waiting.splice(0);
      },
      async finishDeliveries(finished) {
        stored.push(...finished.map((one) => one.delivery.eventId));
        return finished.map(() => true);
      },
      async releaseDeliveries() {},
    },
    sender: {
      async post() {
        await released;
        return answered(200);
      },
    },
    clock: createFakeClock(),
  });
  const started = await deliverer.start();
  expect(started).toHaveLength(1);
  await expect(deliverer.start()).rejects.toThrow("connection lost"); // nothing had begun: it is told
  release();
  await Promise.all(started);
  expect(stored).toEqual(["evt_1"]);
});

test("a secret that cannot sign makes its try fail and takes no place for good", async () => {
  const free: number[] = [];
  const running: (number | undefined)[] = [];
  const outcomes: string[] = [];
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      async claimDeliveries({ lane, limit, receivers }) {
        if (lane === "late") return [];
        free.push(limit);
        running.push(receivers?.running.get("https://shop.example"));
        return [{ ...delivery, secrets: ["whsec_A="] }];
      },
      async finishDeliveries(finished) {
        outcomes.push(...finished.map(({ attempt }) => attempt.outcome));
        return finished.map(() => true);
      },
      async releaseDeliveries() {},
    },
    sender: { post: () => Promise.reject(new Error("nothing goes out unsigned")) },
    clock: createFakeClock(),
  });
  for (let count = 0; count < 3; count++) await Promise.all(await deliverer.start());
  expect([free, running]).toEqual([
    [8, 8, 8],
    [undefined, undefined, undefined],
  ]);
  expect(outcomes).toEqual(["no_secret", "no_secret", "no_secret"]);
});

/** One webhook of a payment that waits. */
async function createEvent(
  storage: ReturnType<typeof createPaymentGatewayMemoryStorage>,
  at: Date,
  id = "p1",
): Promise<void> {
  const payment: NewPayment = {
    id,
    merchant: "shop",
    provider: "sandbox",
    status: "pending",
    currency: "KZT",
    amountMinor: 100n,
    paidMinor: 0n,
    refundedMinor: 0n,
    refundingMinor: 0n,
    description: "",
    metadata: "{}",
    webhookUrl: "https://shop.example/hook",
    webhookSecret: "test_secret_key",
    late: false,
    test: true,
    sequence: 0,
    createdAt: at,
    updatedAt: at,
    expiresAt: new Date(at.getTime() + 3_600_000),
    version: 1,
  };
  await storage.createPayment(payment);
  await storage.change(id, (current) => ({
    payment: { ...current, status: "cancelled", sequence: 1 },
    event: {
      id: `evt_${id}`,
      paymentId: id,
      merchant: "shop",
      sequence: 1,
      name: "cancelled",
      body: "{}",
      createdAt: at,
    },
  }));
}

test("a late lane in which nothing was due is looked at once a second, and at once when something was", async () => {
  const clock = createFakeClock();
  const looks: number[] = [];
  let waiting: ClaimedDelivery[] = [];
  const deliverer = createDeliverer({
    ...rest,
    storage: {
      async claimDeliveries({ lane }) {
        if (lane !== "late") return [];
        looks.push(clock.monotonicMs());
        return waiting.splice(0);
      },
      finishDeliveries: async (finished) => finished.map(() => true),
      async releaseDeliveries() {},
    },
    sender: { post: async () => answered(200) },
    clock,
  });
  const startedMs = clock.monotonicMs();
  for (let ms = 0; ms < 2_000; ms += 100) {
    await Promise.all(await deliverer.start());
    clock.advance(100);
  }
  expect(looks.map((at) => at - startedMs)).toEqual([0, 1_000]);
  waiting = [delivery];
  for (let count = 0; count < 3; count++) await Promise.all(await deliverer.start());
  expect(looks.map((at) => at - startedMs)).toEqual([0, 1_000, 2_000, 2_000]);
});
