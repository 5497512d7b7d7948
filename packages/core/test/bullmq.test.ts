import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type BullmqJobEngineOptions, createBullmqJobEngine } from "../src/bullmq/index.ts";
import {
  ConfigError,
  createJobEngine,
  type HeldLease,
  type LeaseStore,
  type Logger,
  silentLogger,
} from "../src/index.ts";
import { createKyselyStorage, openDatabase } from "../src/kysely/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { openRedis, redisProgram, redisService, redisUrl, startRedisServer } from "./redis-server.ts";

const everyMs = 200;

/** Waits for a state, asking often. The runner's time limit ends what never comes. */
async function until(isReached: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isReached())) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe.skipIf(redisService.skipped)(`BullMQ on ${redisService.name}`, () => {
  let server: ReturnType<typeof openRedis>;
  let leases: LeaseStore;
  let stop: AbortController;
  const running: Promise<void>[] = [];
  const connections: Redis[] = [];

  /** One process of the fleet. */
  function engine(
    jobs: Readonly<Record<string, (held: HeldLease) => Promise<void>>>,
    options: Partial<BullmqJobEngineOptions> = {},
  ) {
    const redis = options.redis ?? new Redis(redisUrl, { maxRetriesPerRequest: null });
    if (!options.redis) connections.push(redis as Redis);
    return createBullmqJobEngine({
      jobs: Object.entries(jobs).map(([name, run]) => ({ name, everyMs, run })),
      leases,
      redis,
      prefix: server.prefix,
      pollMs: 20,
      refreshMs: 100,
      ...options,
    });
  }

  function start(...args: Parameters<typeof engine>): Promise<void> {
    const ended = engine(...args).run(stop.signal);
    running.push(ended);
    return ended;
  }

  beforeEach(() => {
    server = openRedis();
    leases = createMemoryStorage().leases;
    stop = new AbortController();
  });
  afterEach(async () => {
    stop.abort();
    await Promise.all(running.splice(0));
    for (const connection of connections.splice(0)) connection.disconnect();
    await server.close();
  });

  test("keeps the pace of every job over three processes, and gives each of them work", async () => {
    const starts: Record<string, number[]> = { "import shop-a": [], "import shop-b": [], "import:shop-c": [] };
    const workers = new Set<number>();
    for (let process = 0; process < 3; process++) {
      const jobs = Object.fromEntries(
        Object.entries(starts).map(([name, times]) => [
          name,
          async () => {
            times.push(performance.now());
            workers.add(process);
            await new Promise((resolve) => setTimeout(resolve, 50)); // work, so that one process cannot take all
          },
        ]),
      );
      start(jobs, { concurrency: 1 });
    }
    await until(() => Object.values(starts).every((times) => times.length >= 6));
    for (const times of Object.values(starts)) {
      for (const [index, at] of times.slice(1).entries()) {
        expect(at - (times[index] as number)).toBeGreaterThan(everyMs - 20);
      }
    }
    expect(workers.size).toBeGreaterThan(1);
  });

  test("never runs a job twice at the same time, however long it takes", async () => {
    let [now, most, runs] = [0, 0, 0];
    const slow = async () => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, everyMs * 2));
      now--;
      runs++;
    };
    for (let process = 0; process < 3; process++) start({ slow });
    await until(() => runs >= 3);
    expect(most).toBe(1);
  });

  test("keeps one pace with a process that has no Redis", async () => {
    const starts: number[] = [];
    const run = async () => void starts.push(performance.now());
    start({ import: run });
    const plain = createJobEngine({ jobs: [{ name: "import", everyMs, run }], leases, pollMs: 20 });
    running.push(plain.run(stop.signal));
    await until(() => starts.length >= 6);
    for (const [index, at] of starts.slice(1).entries()) {
      expect(at - (starts[index] as number)).toBeGreaterThan(everyMs - 20);
    }
  });

  test("holds one entry per job, named after its lease, without data", async () => {
    let runs = 0;
    start({ import: async () => void runs++, "sync:shop": async () => undefined });
    await until(() => runs >= 2);
    const queue = new Queue("jobs", { connection: server.redis, prefix: server.prefix });
    const entries = await queue.getJobs();
    expect(
      entries.map(({ id, name, data }) => ({ id, name, data })).sort((a, b) => (a.name < b.name ? -1 : 1)),
    ).toEqual([
      { id: "job import", name: "import", data: {} },
      { id: "job sync%3Ashop", name: "sync:shop", data: {} },
    ]);
  });

  test("goes on at the same pace after Redis was emptied, also in the middle of a run", async () => {
    const starts: number[] = [];
    const run = async () => {
      starts.push(performance.now());
      if (starts.length % 2 === 0) await server.empty();
    };
    for (let process = 0; process < 2; process++) start({ import: run });
    await until(() => starts.length >= 3);
    await server.empty(); // between two runs
    await until(() => starts.length >= 8);
    for (const [index, at] of starts.slice(1).entries()) {
      expect(at - (starts[index] as number)).toBeGreaterThan(everyMs - 20);
    }
  });

  test("shows the last run, and runs on demand", async () => {
    let runs = 0;
    const one = engine({
      import: async () => {
        if (++runs === 1) throw new Error("no answer, token=abc123");
      },
    });
    running.push(one.run(stop.signal));
    await until(() => one.status()[0]?.lastEndedAt !== undefined);
    expect(one.status()[0]?.lastError).toBe("no answer, token=[redacted]");
    expect(await one.runNow("import")).toBe("done");
    expect(one.status()[0]).not.toHaveProperty("lastError");
  });

  test("lets the running job end, takes no other one, and leaves the entries for the rest of the fleet", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    let [isRunning, isStopped, otherRuns] = [false, false, 0];
    const ended = start({
      import: async ({ signal }) => {
        isRunning = true;
        await promise;
        expect(signal.aborted).toBe(true);
      },
      other: async () => void otherRuns++,
    }).then(() => {
      isStopped = true;
    });
    await until(() => isRunning && otherRuns > 0);
    stop.abort();
    const runsBefore = otherRuns;
    await new Promise((done) => setTimeout(done, everyMs * 2));
    expect([isStopped, otherRuns]).toEqual([false, runsBefore]);
    resolve();
    await ended;
    const queue = new Queue("jobs", { connection: server.redis, prefix: server.prefix });
    expect((await queue.getJobs()).map(({ name }) => name).sort()).toEqual(["import", "other"]);
    expect(await queue.getActiveCount()).toBe(0);
  });

  test("takes over an interval that became shorter", async () => {
    const daily = new AbortController();
    let runs = 0;
    const run = async () => void runs++;
    const before = engine({}, { jobs: [{ name: "import", everyMs: 86_400_000, run }] }).run(daily.signal);
    await until(() => runs === 1);
    daily.abort();
    await before;
    leases = createMemoryStorage().leases; // a day later
    start({ import: run });
    await until(() => runs >= 3);
  });

  test("drops entries of jobs that no longer exist", async () => {
    const queue = new Queue("jobs", { connection: server.redis, prefix: server.prefix });
    await queue.add("abolished", {}, { jobId: "job abolished", removeOnComplete: true });
    start({ import: async () => undefined });
    await until(async () => (await queue.getJobs()).map(({ name }) => name).join() === "import");
  });

  test("hands out again what a killed process was running", async () => {
    const folder = mkdtempSync(join(tmpdir(), "orderbridge-bullmq-"));
    const url = `sqlite:${join(folder, "jobs.db")}`;
    const database = await openDatabase(url);
    try {
      const storage = createKyselyStorage(database);
      await storage.migrate();
      leases = storage.leases;
      const child = fork(join(import.meta.dirname, "bullmq.worker.ts"), [redisUrl, server.prefix, url], {
        execArgv: [],
      });
      await once(child, "message"); // the job runs there
      let runs = 0;
      start({ import: async () => void runs++ }, { leaseTtlMs: 500 });
      await new Promise((resolve) => setTimeout(resolve, everyMs * 2));
      expect(runs).toBe(0);
      child.kill("SIGKILL");
      await until(() => runs >= 2);
      stop.abort();
      await Promise.all(running.splice(0));
    } finally {
      await database.close();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test.skipIf(redisProgram.skipped)(
    "looks for due jobs itself while Redis is down, and shares them again afterwards",
    async () => {
      const own = await startRedisServer();
      const redis = new Redis(own.url, { maxRetriesPerRequest: null, retryStrategy: () => 20 });
      redis.on("error", () => undefined);
      const said: string[] = [];
      const logger: Logger = {
        ...silentLogger,
        info: (message) => said.push(message),
        warn: (message) => said.push(message),
      };
      try {
        const starts: number[] = [];
        const ended = start({ import: async () => void starts.push(performance.now()) }, { redis, logger });
        await until(() => starts.length >= 2);
        await own.kill();
        const runsBefore = starts.length;
        await until(() => starts.length >= runsBefore + 4);
        await own.start();
        await until(() => said.length === 2);
        expect(said).toEqual([
          "Redis does not answer, this process looks for due jobs itself",
          "Redis answers again, jobs are spread over the fleet",
        ]);
        const runsDown = starts.length;
        await until(() => starts.length >= runsDown + 3);
        own.freeze(); // it takes connections and answers nothing
        const runsAwake = starts.length;
        await until(() => starts.length >= runsAwake + 3);
        for (const [index, at] of starts.slice(1).entries()) {
          expect(at - (starts[index] as number)).toBeGreaterThan(everyMs - 20);
        }
        await own.kill();
        await until(() => redis.status === "reconnecting");
        stop.abort();
        await ended; // also without Redis
      } finally {
        redis.disconnect();
        await own.remove();
      }
    },
  );

  test("refuses options that cannot work", () => {
    expect(() => engine({ import: async () => undefined }, { concurrency: 0 })).toThrow(ConfigError);
    expect(() => engine({ import: async () => undefined }, { refreshMs: 0 })).toThrow("refreshMs");
    expect(() => engine({}, { jobs: [{ name: "a", everyMs: 0, run: async () => undefined }] })).toThrow("everyMs");
  });
});
