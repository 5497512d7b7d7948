import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ConfigError, createHttpClient, createRateLimiter, type RateLimitStore, systemClock } from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { openRedis as connectToRedis, createRedisRateLimits } from "../src/redis/index.ts";
import { createFakeClock, type FakeClock, listen, rateLimitCases } from "../src/testing/index.ts";
import { openRedis, redisProgram, redisService, redisUrl, startRedisServer } from "./redis-server.ts";
import { untilSleeping } from "./settle.ts";

const spacing = { intervalMs: 100 };

/** Wait of the next slot. */
async function wait(store: RateLimitStore, account = "shop", budget = spacing): Promise<number> {
  const slot = await store.reserve(account, budget);
  if (slot.state === "blocked") throw new Error("expected a slot, the account is blocked");
  return slot.waitMs;
}

describe.skipIf(redisService.skipped)(redisService.name, () => {
  let server: ReturnType<typeof openRedis>;
  let clock: FakeClock;
  let store: RateLimitStore;
  let durable: RateLimitStore;

  beforeEach(() => {
    server = openRedis();
    clock = createFakeClock();
    durable = createMemoryStorage({ clock }).rateLimits;
    store = createRedisRateLimits({ ...server, durable, clock });
  });
  afterEach(() => server.close());

  for (const { name, run } of rateLimitCases) {
    test(name, () => run({ storage: { ...createMemoryStorage({ clock }), rateLimits: store }, clock }));
  }

  test("goes by the time of the server", async () => {
    const unclocked = createRedisRateLimits({ ...server, durable });
    const budget = { intervalMs: 3_600_000 };
    expect(await wait(unclocked, "shop", budget)).toBe(3_600_000);
    const second = await wait(unclocked, "shop", budget);
    expect(second).toBeLessThanOrEqual(7_200_000);
    expect(second).toBeGreaterThan(7_190_000);
    const [seconds] = await server.redis.time();
    expect(Number(await server.redis.hget(`${server.prefix}shop`, "drained_at"))).toBeGreaterThan(
      Number(seconds) * 1000 + 10_790_000,
    );
  });

  test("starts an account with a full bucket when Redis was emptied", async () => {
    await wait(store);
    clock.advance(10_000);
    await server.empty();
    expect([await wait(store), await wait(store)]).toEqual([100, 200]);
  });

  test("keeps pause and block when Redis was emptied", async () => {
    await wait(store);
    await store.penalize("shop", 60_000);
    await server.empty();
    expect(await store.status("shop")).toEqual({ pauseMs: 60_000 });
    expect([await wait(store), await wait(store)]).toEqual([60_000, 60_100]);
    await store.block("shop", "403");
    await server.empty();
    expect(await store.reserve("shop", spacing)).toMatchObject({ state: "blocked", block: { code: "403" } });
  });

  test("makes void what it handed out before it was emptied, also where nobody has asked since", async () => {
    const slot = await store.reserve("shop", spacing);
    if (slot.state !== "reserved") throw new Error("blocked");
    expect(await store.status("shop", slot)).toEqual({ pauseMs: 0 });
    await server.empty();
    expect(await store.status("shop", slot)).toEqual({ pauseMs: 0, isVoid: true });
    await wait(store);
    expect(await store.status("shop", slot)).toEqual({ pauseMs: 0, isVoid: true });
  });

  test("processes that slept while Redis was emptied take new slots", async () => {
    const limiter = () => createRateLimiter({ vendor: "amocrm", account: "shop", budget: spacing, store, clock });
    const sentAt: number[] = [];
    const slots = [limiter(), limiter(), limiter()].map(async ({ slot }) => {
      await slot();
      sentAt.push(clock.monotonicMs());
    });
    await untilSleeping(clock, 3);
    await server.empty();
    slots.push(
      limiter()
        .slot()
        .then(() => void sentAt.push(clock.monotonicMs())),
    );
    while (sentAt.length < 4) {
      while (clock.sleepers + sentAt.length < 4) await new Promise((resolve) => setTimeout(resolve, 1));
      clock.advance(10);
    }
    await Promise.all(slots);
    expect(sentAt).toHaveLength(4);
    for (const [index, at] of sentAt.slice(1).entries())
      expect(at - (sentAt[index] as number)).toBeGreaterThanOrEqual(100);
  });

  test("forgets an account a day after its last slot", async () => {
    await store.reserve("shop", { intervalMs: 1000, capacity: 5 });
    const key = `${server.prefix}shop`;
    expect(await server.redis.pttl(key)).toBeGreaterThan(86_400_000);
    expect(await server.redis.pttl(key)).toBeLessThanOrEqual(86_406_000);
    await store.penalize("shop", 3_600_000);
    expect(await server.redis.pttl(key)).toBeGreaterThan(86_400_000 + 3_500_000);
  });

  test("four processes keep to seven calls in any second while Redis is emptied again and again", async () => {
    const arrivals = await runFleet(redisUrl, server.prefix, async (count) => {
      if (count % 6 === 0) await server.empty();
    });
    expect(arrivals).toHaveLength(24);
    expect(mostInOneSecond(arrivals)).toBeLessThanOrEqual(7);
  });
});

/** Four processes make six calls each. Gives the times of their arrival; `onCall` hears the number of each. */
async function runFleet(url: string, prefix: string, onCall: (count: number) => Promise<void>): Promise<number[]> {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-fleet-"));
  const arrivals: number[] = [];
  const vendor = await listen(async (request) => {
    if (request.url.endsWith("/warm")) return new Response("connected");
    arrivals.push(performance.now());
    await onCall(arrivals.length);
    return new Response("ok");
  });
  const worker = join(import.meta.dirname, "rate-limit.worker.ts");
  const database = `sqlite:${join(folder, "fleet.db")}`;
  const fleet = Array.from({ length: 4 }, () =>
    fork(worker, [vendor.url, url, prefix, database, "6"], { execArgv: [] }),
  );
  try {
    await Promise.all(fleet.map((child) => once(child, "message")));
    const ends = fleet.map((child) => once(child, "exit"));
    for (const child of fleet) child.send("start");
    for (const [code] of await Promise.all(ends)) expect(code).toBe(0);
    return arrivals;
  } finally {
    for (const child of fleet) child.kill("SIGKILL");
    await vendor.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

const mostInOneSecond = (arrivals: readonly number[]): number =>
  Math.max(...arrivals.map((from) => arrivals.filter((at) => at >= from && at < from + 1000).length));

test("unblock ends the pause in Redis also when SQL has none any more", async () => {
  const durable = createMemoryStorage().rateLimits;
  const deleted: unknown[] = [];
  let isUp = false;
  const redis = {
    async eval(...call: unknown[]): Promise<unknown> {
      const [script, , key] = call;
      if (!String(script).includes('"DEL"')) return 1;
      if (!isUp) throw new Error("Redis does not answer");
      deleted.push(key);
      return 1;
    },
  };
  const store = createRedisRateLimits({ redis, durable });
  await store.penalize("shop", 3_600_000);
  await expect(store.unblock("shop")).rejects.toThrow("Redis does not answer");
  isUp = true;
  expect(await store.unblock("shop")).toBe(false);
  await store.penalize("other", 3_600_000);
  await durable.unblock("other"); // as the command line does
  expect(await store.unblock("other")).toBe(false);
  expect(deleted).toEqual(["orderbridge:rate:shop", "orderbridge:rate:other"]);
});

test("refuses a time limit that is none", () => {
  const durable = createMemoryStorage().rateLimits;
  const redis = { eval: () => Promise.reject(new Error("not asked")) };
  for (const timeoutMs of [0, Number.NaN]) {
    expect(() => createRedisRateLimits({ redis, durable, timeoutMs })).toThrow(ConfigError);
  }
});

describe.skipIf(redisProgram.skipped)(`a ${redisProgram.name} of one's own`, () => {
  let server: Awaited<ReturnType<typeof startRedisServer>>;
  let redis: Redis;
  let store: RateLimitStore;

  beforeAll(async () => {
    server = await startRedisServer();
    redis = new Redis(server.url, { enableOfflineQueue: false, maxRetriesPerRequest: 1, retryStrategy: () => 20 });
    redis.on("error", () => undefined);
    store = createRedisRateLimits({ redis, durable: createMemoryStorage().rateLimits, timeoutMs: 500 });
    await once(redis, "ready");
  });
  afterAll(async () => {
    redis.disconnect();
    await server.remove();
  });

  const hour = { intervalMs: 3_600_000 };

  test("starts with a full bucket after FLUSHALL", async () => {
    await redis.flushall();
    const slot = await store.reserve("flushed", { intervalMs: 1 });
    await redis.flushall();
    expect(await store.status("flushed", slot as { generation?: string })).toEqual({ pauseMs: 0, isVoid: true });
    expect(await wait(store, "flushed", hour)).toBe(3_600_000);
  });

  test("does not believe an old snapshot that the server came back with", async () => {
    const slot = await store.reserve("snapshot", { intervalMs: 1 });
    await redis.save();
    await wait(store, "snapshot", hour); // after the snapshot, so the server will not know of it
    await server.kill();
    await server.start();
    await expect.poll(() => redis.status).toBe("ready");
    expect(await redis.exists("orderbridge:rate:snapshot")).toBe(1);
    expect(await store.status("snapshot", slot as { generation?: string })).toEqual({ pauseMs: 0, isVoid: true });
    expect(await wait(store, "snapshot", hour)).toBe(3_600_000);
    await redis.flushall();
  });

  test("four processes keep to seven calls in any second while Redis is killed twice, and all calls are made", async () => {
    const arrivals = await runFleet(server.url, "killed:", async (count) => {
      if (count !== 6 && count !== 12) return;
      await server.kill();
      await server.start();
    });
    expect(arrivals).toHaveLength(24);
    expect(mostInOneSecond(arrivals)).toBeLessThanOrEqual(7);
    if (redis.status !== "ready") await once(redis, "ready");
  });

  test.each([
    ["down", () => server.kill(), () => server.start()],
    ["frozen", async () => server.freeze(), async () => server.resume()],
  ])("no call leaves while Redis is %s, and the error says that none was made", async (_state, stop, start) => {
    let calls = 0;
    const client = createHttpClient({
      vendor: "amocrm",
      baseUrl: "https://shop.example",
      limiter: createRateLimiter({
        vendor: "amocrm",
        account: "down",
        budget: { intervalMs: 1 },
        store,
        clock: systemClock,
      }),
      fetch: async () => {
        calls++;
        return new Response("{}");
      },
      retries: 1,
      minDelayMs: 1,
    });
    await stop();
    await expect(client.send({ name: "leads.create", path: "/leads", method: "POST" })).rejects.toMatchObject({
      name: "RateLimitStoreError",
      outcome: "not-executed",
      message: expect.stringMatching(/^amocrm: the store of the rate budget does not answer(?!.*\d{4})/),
    });
    expect(calls).toBe(0);
    await start();
    if (redis.status !== "ready") await once(redis, "ready");
    await client.send({ name: "leads.create", path: "/leads", method: "POST" });
    expect(calls).toBe(1);
  });
});

describe("openRedis", () => {
  test.each(["", "localhost:6379", "http://127.0.0.1:6379"])("refuses the address %j", async (url) => {
    await expect(connectToRedis(url, { purpose: "slots" })).rejects.toThrow(ConfigError);
  });

  test("starts without a server, and tells of an outage once", async () => {
    const told: string[] = [];
    const note = (message: string) => told.push(message);
    const redis = await connectToRedis("redis://127.0.0.1:1", { purpose: "slots", logger: { info: note, warn: note } });
    await once(redis, "error"); // of a later attempt
    redis.disconnect();
    expect(told).toEqual(["Redis does not answer"]);
  });

  describe.skipIf(redisProgram.skipped)(redisProgram.name, () => {
    test("keeps no slot waiting for a server that is gone, but does keep jobs; and tells when it is back", async () => {
      const server = await startRedisServer();
      const told: string[] = [];
      const note = (message: string) => told.push(message);
      const [slots, jobs] = await Promise.all([
        connectToRedis(server.url, { purpose: "slots", logger: { info: note, warn: note } }),
        connectToRedis(server.url, { purpose: "jobs" }),
      ]);
      try {
        expect([await slots.ping(), await jobs.ping()]).toEqual(["PONG", "PONG"]);
        await server.kill();
        await expect(slots.ping()).rejects.toThrow();
        const later = jobs.ping();
        await server.start();
        expect(await later).toBe("PONG");
        if (slots.status !== "ready") await once(slots, "ready");
        expect(told).toEqual(["Redis does not answer", "Redis answers again"]);
      } finally {
        slots.disconnect();
        jobs.disconnect();
        await server.remove();
      }
    });
  });
});
