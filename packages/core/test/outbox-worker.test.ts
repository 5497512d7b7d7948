import { expect, test } from "vitest";
import {
  type ClaimedMessage,
  createOutboxWorker,
  type Delivery,
  type OutboxWorkerOptions,
  silentLogger,
} from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock } from "../src/testing/index.ts";
import { settle } from "./settle.ts";

const done: Delivery = { state: "done" };

function setUp(options: Partial<OutboxWorkerOptions> = {}) {
  const clock = createFakeClock();
  const { outbox } = createMemoryStorage({ clock });
  const attempts: string[] = [];
  const worker = createOutboxWorker({
    outbox,
    topic: "webhook",
    clock,
    random: () => 0.5, // the middle: no jitter
    deliver: async ({ id, attempt }) => {
      attempts.push(`${id}#${attempt} at ${clock.monotonicMs()}`);
      return done;
    },
    ...options,
  });
  const enqueue = (...ids: readonly string[]) =>
    outbox.enqueue(ids.map((id) => ({ id, topic: "webhook", key: id[0] ?? "", payload: id })));
  const pass = async (ms: number, stepMs = 500) => {
    for (let left = ms; left > 0; left -= stepMs) {
      clock.advance(Math.min(stepMs, left));
      await settle();
    }
  };
  return { clock, outbox, worker, attempts, enqueue, pass, stop: new AbortController() };
}

test("delivers what is enqueued, in order per key", async () => {
  const { worker, enqueue, attempts, stop, outbox } = setUp();
  const running = worker.run(stop.signal);
  await enqueue("a1", "a2", "b1");
  worker.poke();
  await settle();
  stop.abort();
  await running;
  expect(attempts).toEqual(["a1#1 at 0", "b1#1 at 0", "a2#1 at 0"]);
  expect((await outbox.get("a2"))?.state).toBe("delivered");
});

test("a buried message that a person sends again gets the whole schedule again", async () => {
  const tries: number[] = [];
  const { worker, enqueue, outbox, clock } = setUp({
    retryDelaysMs: [10, 20],
    deliver: async ({ attempt }) => {
      tries.push(attempt);
      return { state: "retry", error: "answered 502" };
    },
  });
  const exhaust = async () => {
    for (let round = 0; round < 5; round++) {
      await worker.deliverDue();
      clock.advance(20);
    }
  };
  await enqueue("a1");
  await exhaust();
  expect(await outbox.get("a1")).toMatchObject({ state: "dead", attempts: 3 });
  await outbox.redeliver("a1");
  await exhaust();
  expect(tries).toEqual([1, 2, 3, 1, 2, 3]);
  expect((await outbox.get("a1"))?.state).toBe("dead");
});

test("tells the outbox together of deliveries that end together, and of a lost claim only for its message", async () => {
  const clock = createFakeClock();
  const { outbox } = createMemoryStorage({ clock });
  const told: string[][] = [];
  const warnings: unknown[] = [];
  const worker = createOutboxWorker({
    outbox: {
      ...outbox,
      async completeAll(messages) {
        told.push(messages.map(({ id }) => id));
        const kept = await outbox.completeAll(messages);
        return kept.map((held, index) => held && messages[index]?.id !== "b1");
      },
    },
    topic: "webhook",
    clock,
    logger: { ...silentLogger, warn: (_message, fields) => warnings.push(fields?.id) },
    deliver: async ({ id }) => {
      if (id === "d1") await clock.sleep(100);
      return done;
    },
  });
  await outbox.enqueue(["a1", "b1", "c1", "d1"].map((id) => ({ id, topic: "webhook", key: id, payload: id })));
  const delivered = worker.deliverDue();
  await settle();
  clock.advance(100);
  expect(await delivered).toBe(4);
  expect(told).toEqual([["a1", "b1", "c1"], ["d1"]]);
  expect(warnings).toEqual(["b1"]);
});

test("finds what another process enqueued within the poll interval", async () => {
  const { worker, enqueue, attempts, stop, pass } = setUp();
  const running = worker.run(stop.signal);
  await settle();
  await enqueue("a1");
  await pass(1000);
  stop.abort();
  await running;
  expect(attempts).toEqual(["a1#1 at 1000"]);
});

test("repeats by the schedule and buries after its end", async () => {
  const { clock, worker, enqueue, attempts, stop, pass, outbox } = setUp({
    retryDelaysMs: [5000, 60_000],
    deliver: async ({ attempt }) => {
      attempts.push(`${attempt} at ${clock.monotonicMs()}`);
      if (attempt === 1) throw new Error("connect failed: token=abc123");
      return { state: "retry", error: "answered 503" };
    },
  });
  await enqueue("a1");
  const running = worker.run(stop.signal);
  await settle();
  expect((await outbox.get("a1"))?.lastError).not.toContain("abc123");
  await pass(70_000);
  stop.abort();
  await running;
  expect(attempts).toEqual(["1 at 0", "2 at 5000", "3 at 65000"]);
  expect(await outbox.get("a1")).toMatchObject({ state: "dead", attempts: 3, lastError: "answered 503" });
});

test.each([
  [0, 4000],
  [0.5, 5000],
  [1, 6000],
])("spreads a pause of five seconds by a fifth: %d gives %d", async (random, dueMs) => {
  const { worker, enqueue, outbox, clock } = setUp({
    random: () => random,
    deliver: async () => ({ state: "retry", error: "503" }),
  });
  await enqueue("a1");
  expect(await worker.deliverDue()).toBe(1);
  expect((await outbox.get("a1"))?.dueAt).toEqual(new Date(clock.now().getTime() + dueMs));
});

test("waits as long as the receiver asked for", async () => {
  const { worker, enqueue, outbox, clock } = setUp({
    deliver: async () => ({ state: "retry", error: "429", delayMs: 90_000 }),
  });
  await enqueue("a1");
  await worker.deliverDue();
  expect((await outbox.get("a1"))?.dueAt).toEqual(new Date(clock.now().getTime() + 90_000));
});

test("buries at once when told so, and goes on with the key", async () => {
  const { worker, enqueue, outbox } = setUp({
    deliver: async ({ id }) => (id === "a1" ? { state: "bury", error: "answered 410" } : done),
  });
  await enqueue("a1", "a2");
  expect(await worker.deliverDue()).toBe(1);
  expect(await worker.deliverDue()).toBe(1);
  expect(await worker.deliverDue()).toBe(0);
  expect([(await outbox.get("a1"))?.state, (await outbox.get("a2"))?.state]).toEqual(["dead", "delivered"]);
});

test("delivers at most as many at the same time as allowed, and fills a free place at once", async () => {
  const waiting: (() => void)[] = [];
  let most = 0;
  const { worker, enqueue, stop, outbox } = setUp({
    concurrency: 3,
    deliver: async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.push(resolve);
      most = Math.max(most, waiting.length);
      await promise;
      return done;
    },
  });
  await enqueue("a1", "b1", "c1", "d1", "e1");
  const running = worker.run(stop.signal);
  await settle();
  expect(waiting).toHaveLength(3);
  for (let delivered = 0; delivered < 5; delivered++) {
    waiting.shift()?.();
    await settle();
  }
  expect(most).toBe(3);
  expect((await outbox.get("e1"))?.state).toBe("delivered");
  stop.abort();
  await running;
});

test("keeps places free from a destination that does not answer, and delivers to the others at once", async () => {
  const hanging: (() => void)[] = [];
  const { worker, outbox, attempts, stop } = setUp({
    concurrency: 4,
    maxPerDestination: 3,
    deliver: async ({ id }) => {
      attempts.push(id);
      if (id.startsWith("slow")) await new Promise<void>((resolve) => hanging.push(resolve));
      return done;
    },
  });
  const messages = (destination: string, count: number) =>
    Array.from({ length: count }, (_, index) => ({
      id: `${destination} ${index}`,
      key: `${destination} ${index}`,
    })).map((message) => ({ ...message, topic: "webhook", destination, payload: "" }));
  await outbox.enqueue([...messages("slow", 20), ...messages("quick", 5)]);
  const running = worker.run(stop.signal);
  await settle();
  const slow = ["slow 0", "slow 1", "slow 2"];
  expect(attempts).toEqual([...slow, "quick 0", "quick 1", "quick 2", "quick 3", "quick 4"]);
  hanging.shift()?.();
  await settle();
  expect(attempts.at(-1)).toBe("slow 3");
  stop.abort();
  for (const release of hanging) release();
  await running;
});

test("tells a delivery to stop before its claim can go to another worker", async () => {
  let signal: AbortSignal | undefined;
  const { worker, enqueue, pass } = setUp({
    claimTtlMs: 30_000,
    deliver: (_message, expiry) => {
      signal = expiry;
      return new Promise((_resolve, reject) => expiry.addEventListener("abort", () => reject(expiry.reason)));
    },
  });
  await enqueue("a1");
  const delivering = worker.deliverDue();
  await pass(19_500);
  expect(signal?.aborted).toBe(false);
  await pass(500);
  expect(signal?.aborted).toBe(true);
  await delivering;
});

test("delivers again what a killed worker had claimed", async () => {
  const { worker, enqueue, outbox, attempts, stop, pass } = setUp();
  await enqueue("a1");
  await outbox.claim({ topic: "webhook", limit: 1, ttlMs: 10_000 }); // and never heard of again
  const running = worker.run(stop.signal);
  await pass(10_000);
  stop.abort();
  await running;
  expect(attempts).toEqual(["a1#2 at 10000"]);
});

test("ends the deliveries under way before it has stopped", async () => {
  const { promise, resolve } = Promise.withResolvers<Delivery>();
  const { worker, enqueue, outbox, stop } = setUp({ deliver: () => promise });
  await enqueue("a1", "b1");
  const running = worker.run(stop.signal);
  await settle();
  stop.abort();
  resolve(done);
  await running;
  expect((await outbox.get("b1"))?.state).toBe("delivered");
});

test("delivers each message once with three workers", async () => {
  const clock = createFakeClock();
  const { outbox } = createMemoryStorage({ clock });
  const delivered: ClaimedMessage[] = [];
  const deliver = async (message: ClaimedMessage) => {
    await settle();
    delivered.push(message);
    return done;
  };
  await outbox.enqueue(
    Array.from({ length: 60 }, (_, index) => ({
      id: `${index}`,
      topic: "webhook",
      key: `${index % 7}`,
      payload: "",
    })),
  );
  const stop = new AbortController();
  const workers = Array.from({ length: 3 }, () => createOutboxWorker({ outbox, topic: "webhook", deliver, clock }));
  const running = workers.map((worker) => worker.run(stop.signal));
  while (delivered.length < 60) {
    clock.advance(20);
    await settle();
  }
  stop.abort();
  await Promise.all(running);
  expect(new Set(delivered.map(({ id }) => id)).size).toBe(60);
  for (let key = 0; key < 7; key++) {
    const order = delivered.filter((message) => message.key === `${key}`).map(({ id }) => Number(id));
    expect(order).toEqual(order.toSorted((left, right) => left - right));
  }
});

test("goes on when the outbox does not answer for a while", async () => {
  const { outbox, enqueue, attempts, stop, pass, clock } = setUp();
  let isDown = true;
  const shaky = {
    ...outbox,
    claim: (...request: Parameters<typeof outbox.claim>) =>
      isDown ? Promise.reject(new Error("connection lost")) : outbox.claim(...request),
  };
  const deliver = async ({ id }: ClaimedMessage) => {
    attempts.push(id);
    return done;
  };
  const running = createOutboxWorker({ outbox: shaky, topic: "webhook", deliver, clock }).run(stop.signal);
  await enqueue("a1");
  await pass(5000);
  expect(attempts).toEqual([]);
  isDown = false;
  await pass(1000);
  stop.abort();
  await running;
  expect(attempts).toEqual(["a1"]);
});
