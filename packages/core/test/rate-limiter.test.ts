import { afterEach, describe, expect, test } from "vitest";
import { BlockedError, ConfigError, createRateLimiter, type RateBudget, type RateLimitStore } from "../src/index.ts";
import { createKyselyStorage, type Database, openDatabase } from "../src/kysely/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock, type FakeClock } from "../src/testing/index.ts";
import { untilSleeping } from "./settle.ts";

let database: Database | undefined;
afterEach(async () => {
  await database?.close();
  database = undefined;
});

const stores: readonly (readonly [string, (clock: FakeClock) => Promise<RateLimitStore>])[] = [
  ["memory", async (clock) => createMemoryStorage({ clock }).rateLimits],
  [
    "SQLite",
    async (clock) => {
      database = await openDatabase("sqlite::memory:");
      const storage = createKyselyStorage({ ...database, clock });
      await storage.migrate();
      return storage.rateLimits;
    },
  ],
];

describe.each(stores)("over %s", (_name, openStore) => {
  async function setUp(budget: RateBudget = { intervalMs: 1000 / 7 }) {
    const clock = createFakeClock();
    const store = await openStore(clock);
    const limiter = () => createRateLimiter({ vendor: "amocrm", account: "amocrm:shop", budget, store, clock });
    return { clock, store, limiter };
  }

  test("forty parallel calls of two processes never make eight in any second", async () => {
    const { clock, limiter } = await setUp();
    const processes = [limiter(), limiter()];
    const sentAt: number[] = [];
    const calls = Array.from({ length: 40 }, async (_, index) => {
      await processes[index % 2]?.slot();
      sentAt.push(clock.monotonicMs());
    });
    // Both processes have a caller asleep, until one of them has no more: then time jumps to the next slot.
    for (let sent = 0; sent < 40; sent = sentAt.length) {
      await untilSleeping(clock, sent < 39 ? 2 : 1);
      const asleep = clock.sleepers;
      while (clock.sleepers === asleep) clock.advance(1);
      while (sentAt.length === sent) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await Promise.all(calls);
    for (const [index, at] of sentAt.entries()) {
      const inSecond = sentAt.slice(index).filter((other) => other < at + 1000);
      expect(inSecond.length).toBeLessThanOrEqual(7);
    }
    expect(sentAt.at(-1)).toBeLessThanOrEqual(6600);
  });

  test("a pause reaches who already waits", async () => {
    const { clock, limiter, store } = await setUp();
    const slot = limiter().slot();
    let isOpen = false;
    void slot.then(() => {
      isOpen = true;
    });
    await untilSleeping(clock, 1);
    await store.penalize("amocrm:shop", 5000);
    clock.advance(143); // its slot comes, inside the pause
    await untilSleeping(clock, 1);
    clock.advance(5000 - 144);
    expect(clock.sleepers).toBe(1);
    expect(isOpen).toBe(false);
    clock.advance(1);
    await slot;
  });

  test("processes that slept into a pause leave one by one at its end", async () => {
    const { clock, limiter, store } = await setUp({ intervalMs: 100 });
    const sentAt: number[] = [];
    const slots = [limiter(), limiter(), limiter()].map(async ({ slot }) => {
      await slot();
      sentAt.push(clock.monotonicMs());
    });
    await untilSleeping(clock, 3);
    await store.penalize("amocrm:shop", 5000);
    while (sentAt.length < 3) {
      while (clock.sleepers + sentAt.length < 3) await new Promise((resolve) => setTimeout(resolve, 1));
      clock.advance(100);
    }
    await Promise.all(slots);
    expect(sentAt).toEqual([5000, 5100, 5200]);
  });

  test("a caller that wakes up late takes another slot rather than come close to the next one", async () => {
    const { clock, limiter } = await setUp();
    const late = limiter().slot();
    await untilSleeping(clock, 1);
    const punctual = limiter().slot();
    await untilSleeping(clock, 2);
    clock.advance(143 + 100); // the process was busy for 100 ms
    await untilSleeping(clock, 2); // one asleep for the slot at 286, the other for a new one
    clock.advance(43);
    await punctual;
    await untilSleeping(clock, 1);
    clock.advance(143);
    await late;
  });

  test.each([
    ["keeps its slot within its interval", 500, 0],
    ["takes another one after that", 501, 499],
  ])("where a burst is allowed, a caller that wakes up late %s", async (_case, lateMs, nextWaitMs) => {
    const budget = { intervalMs: 500, capacity: 3 };
    const { clock, limiter, store } = await setUp(budget);
    const first = limiter().slot();
    await untilSleeping(clock, 1);
    clock.advance(500 + lateMs); // the process was busy
    await first;
    expect(await store.reserve("amocrm:shop", budget)).toMatchObject({ waitMs: nextWaitMs });
  });

  test("a block stops who already waits and who comes later, in every process", async () => {
    const { clock, limiter, store } = await setUp();
    const [first, second] = [limiter(), limiter()];
    const waiting = [first.slot(), first.slot(), second.slot()].map((slot) => slot.catch((error: unknown) => error));
    await untilSleeping(clock, 2);
    await first.block("403");
    clock.advance(143); // the slot of the first, which wakes in time
    await waiting[0];
    clock.advance(143);
    for (const error of await Promise.all(waiting)) expect(error).toBeInstanceOf(BlockedError);
    await expect(second.slot()).rejects.toThrow("amocrm: calls are stopped since 2026-11-01T00:00:00.000Z (403)");
    await store.unblock("amocrm:shop");
    const next = second.slot();
    await untilSleeping(clock, 1); // the bucket is full
    clock.advance(143);
    await next;
  });

  test("who waits for a pause of an hour says so, and goes on within half a minute after a person ended it", async () => {
    const { clock, limiter, store } = await setUp({ intervalMs: 100 });
    await store.penalize("amocrm:shop", 3_600_000);
    const waits: number[] = [];
    let isOpen = false;
    const slot = limiter().slot(undefined, (waitMs) => void waits.push(waitMs));
    void slot.then(() => {
      isOpen = true;
    });
    for (let minute = 0; minute < 10; minute += 0.5) {
      await untilSleeping(clock, 1);
      clock.advance(30_000);
    }
    await untilSleeping(clock, 1);
    expect([waits, isOpen]).toEqual([[3_600_000], false]);
    await store.unblock("amocrm:shop");
    clock.advance(30_000);
    await untilSleeping(clock, 1);
    clock.advance(100);
    await slot;
  });

  test("a slot far off is taken at its time when nobody ends the pause", async () => {
    const { clock, limiter, store } = await setUp({ intervalMs: 100 });
    await store.penalize("amocrm:shop", 100_000);
    await store.reserve("amocrm:shop", { intervalMs: 100 });
    const slot = limiter().slot();
    for (const ms of [30_000, 30_000, 10_100]) {
      await untilSleeping(clock, 1);
      clock.advance(ms);
    }
    await untilSleeping(clock, 1);
    clock.advance(29_999);
    expect(clock.sleepers).toBe(1);
    clock.advance(1);
    await slot;
    expect(clock.monotonicMs()).toBe(100_100);
  });

  test("callers that give up do not wait for their turn, and let the next one through", async () => {
    const { clock, limiter } = await setUp();
    const { slot } = limiter();
    const stop = new AbortController();
    const given = slot(stop.signal);
    const next = slot();
    await untilSleeping(clock, 1);
    const queued = slot(stop.signal);
    stop.abort(new Error("SIGTERM"));
    await expect(given).rejects.toThrow("SIGTERM");
    await expect(queued).rejects.toThrow("SIGTERM");
    await untilSleeping(clock, 1);
    clock.advance(1000);
    await next;
  });
});

test("gives no slot when the store does not answer, and tells neither address nor password of it", async () => {
  const down = Object.assign(new Error("connect ECONNREFUSED 10.0.0.7:5432 postgres://shop:secret@db"), {
    code: "ECONNREFUSED",
  });
  const store: RateLimitStore = {
    ...createMemoryStorage().rateLimits,
    reserve: () => Promise.reject(down),
    penalize: () => Promise.reject(down),
  };
  const clock = createFakeClock();
  const limiter = createRateLimiter({ vendor: "amocrm", account: "a", budget: { intervalMs: 1 }, store, clock });
  const refused = {
    name: "RateLimitStoreError",
    vendor: "amocrm",
    outcome: "not-executed",
    message: "amocrm: the store of the rate budget does not answer (ECONNREFUSED)",
  };
  await expect(limiter.slot()).rejects.toMatchObject(refused);
  await expect(limiter.penalize(1000)).rejects.toMatchObject(refused);
});

test("refuses a budget that is none", () => {
  const store = createMemoryStorage().rateLimits;
  const limiter = (budget: { intervalMs: number; capacity?: number }) => () =>
    createRateLimiter({ vendor: "amocrm", account: "a", budget, store, clock: createFakeClock() });
  expect(limiter({ intervalMs: 0 })).toThrow(ConfigError);
  expect(limiter({ intervalMs: Number.NaN })).toThrow(ConfigError);
  for (const capacity of [0, 0.5, 2.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(limiter({ intervalMs: 100, capacity })).toThrow("budget.capacity must be a whole number from 1");
  }
});

describe("on SQLite, where the time is in the statement,", () => {
  /** A store, and one inside a transaction that is open until `end`: what the first one asks for waits. */
  async function setUp() {
    const clock = createFakeClock();
    database = await openDatabase("sqlite::memory:");
    const { db, dialect } = database;
    const storage = createKyselyStorage({ db, dialect, clock });
    await storage.migrate();
    const begun = Promise.withResolvers<RateLimitStore>();
    const ending = Promise.withResolvers<void>();
    const transaction = db.transaction().execute(async (trx) => {
      begun.resolve(createKyselyStorage({ db: trx, dialect, clock }).rateLimits);
      await ending.promise;
    });
    const inside = await begun.promise;
    const end = () => {
      ending.resolve();
      return transaction;
    };
    return { clock, store: storage.rateLimits, inside, end };
  }

  test("a shorter pause that waited for its turn leaves a longer one as it is", async () => {
    const { clock, store, inside, end } = await setUp();
    const shorter = store.penalize("amocrm:shop", 500);
    clock.advance(1500);
    await inside.penalize("amocrm:shop", 10_000);
    await end();
    await shorter;
    expect(await store.status("amocrm:shop")).toEqual({ pauseMs: 10_000 });
  });

  test("a pause that waited for its turn moves no slot back", async () => {
    const { clock, store, inside, end } = await setUp();
    const none = store.penalize("amocrm:shop", 0);
    clock.advance(800);
    for (const waitMs of [156, 312, 468, 624]) {
      expect(await inside.reserve("amocrm:shop", { intervalMs: 156 })).toEqual({ state: "reserved", waitMs });
    }
    await end();
    await none;
    expect(await store.reserve("amocrm:shop", { intervalMs: 156 })).toEqual({ state: "reserved", waitMs: 780 });
  });

  test("a statement that is a little late moves no slot back", async () => {
    const { clock, store, end } = await setUp();
    await end();
    await store.reserve("amocrm:shop", { intervalMs: 156 });
    clock.jump(-20);
    expect(await store.reserve("amocrm:shop", { intervalMs: 156 })).toEqual({ state: "reserved", waitMs: 332 });
  });
});
