import { expect, test } from "vitest";
import { ConfigError, createJobEngine, type Job } from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock } from "../src/testing/index.ts";
import { settle } from "./settle.ts";

function setUp() {
  const clock = createFakeClock();
  const { leases } = createMemoryStorage({ clock });
  const stop = new AbortController();
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 1000) {
      clock.advance(Math.min(1000, left));
      await settle();
    }
  };
  const engine = (jobs: readonly Job[]) => createJobEngine({ jobs, leases, clock });
  return { clock, leases, stop, pass, engine };
}

test("runs a job at once and then at its interval", async () => {
  const { engine, stop, pass, clock } = setUp();
  const starts: number[] = [];
  const importing = { name: "import", everyMs: 60_000, run: async () => void starts.push(clock.monotonicMs()) };
  const running = engine([importing]).run(stop.signal);
  await settle();
  await pass(180_000);
  stop.abort();
  await running;
  expect(starts).toEqual([0, 60_000, 120_000, 180_000]);
});

test("keeps one pace over four processes", async () => {
  const { engine, stop, pass, clock } = setUp();
  const starts: number[] = [];
  const importing = { name: "import", everyMs: 60_000, run: async () => void starts.push(clock.monotonicMs()) };
  const running: Promise<void>[] = [];
  for (let process = 0; process < 4; process++) {
    running.push(engine([importing]).run(stop.signal));
    await settle();
    await pass(7000);
  }
  await pass(272_000); // five minutes in all
  stop.abort();
  await Promise.all(running);
  expect(starts).toEqual([0, 60_000, 120_000, 180_000, 240_000, 300_000]);
});

test("a job whose lease was taken, but whose store did not say so, begins when that lease ends and not an interval later", async () => {
  const { clock, leases, pass, stop } = setUp();
  const starts: number[] = [];
  let isLost = true;
  const engine = createJobEngine({
    jobs: [{ name: "prune", everyMs: 86_400_000, run: async () => void starts.push(clock.monotonicMs()) }],
    leaseTtlMs: 30_000,
    pollMs: 1000,
    leases: {
      ...leases,
      async acquire(name, options) {
        const lease = await leases.acquire(name, options);
        if (name !== "job prune" || !isLost) return lease;
        isLost = false;
        throw new Error("the connection was lost during the commit");
      },
    },
    clock,
  });
  const running = engine.run(stop.signal);
  await settle();
  await pass(60_000);
  stop.abort();
  await running;
  expect(starts).toEqual([30_000]);
});

test("a job that could not begin, because the store failed, begins when a lease would have ended", async () => {
  const { clock, leases, pass, stop } = setUp();
  const starts: number[] = [];
  const errors: unknown[] = [];
  let failures = 2;
  const engine = createJobEngine({
    jobs: [{ name: "prune", everyMs: 86_400_000, run: async () => void starts.push(clock.monotonicMs()) }],
    leases: {
      ...leases,
      acquire: (name, options) =>
        name === "job prune" && failures-- > 0 ? Promise.reject(new Error("deadlock")) : leases.acquire(name, options),
    },
    leaseTtlMs: 3000,
    clock,
    logger: { debug() {}, info() {}, warn() {}, error: (message) => void errors.push(message) },
  });
  const running = engine.run(stop.signal);
  await settle();
  await pass(10_000);
  stop.abort();
  await running;
  expect(starts).toEqual([6000]);
  expect(errors).toEqual(["job failed", "job failed"]);
});

test("a job that throws has used its turn", async () => {
  const { engine, stop, pass } = setUp();
  let starts = 0;
  const broken: Job = {
    name: "broken",
    everyMs: 60_000,
    async run() {
      starts++;
      throw new Error("no");
    },
  };
  const running = engine([broken]).run(stop.signal);
  await settle();
  await pass(59_000);
  expect(starts).toBe(1);
  await pass(1000);
  expect(starts).toBe(2);
  stop.abort();
  await running;
});

test("never runs a job twice at the same time, however long it takes", async () => {
  const { engine, stop, pass, clock } = setUp();
  let [now, most] = [0, 0];
  const slow: Job = {
    name: "slow",
    everyMs: 10_000,
    async run({ signal }) {
      most = Math.max(most, ++now);
      await clock.sleep(35_000, signal).catch(() => undefined);
      now--;
    },
  };
  const engines = [engine([slow]), engine([slow])];
  const running = engines.map(({ run }) => run(stop.signal));
  await settle();
  await pass(120_000);
  expect(most).toBe(1);
  expect(await engines[1]?.runNow("slow")).toBe("busy");
  stop.abort();
  await Promise.all(running);
});

test("runs a job on demand between its times", async () => {
  const { engine, stop } = setUp();
  let runs = 0;
  const { run, runNow } = engine([{ name: "import", everyMs: 60_000, run: async () => void runs++ }]);
  const running = run(stop.signal);
  await settle();
  expect(await runNow("import")).toBe("done");
  expect(runs).toBe(2);
  stop.abort();
  await running;
});

test("tells callers with a schedule of their own when to look again", async () => {
  const { engine, clock } = setUp();
  let runs = 0;
  const job: Job = {
    name: "import",
    everyMs: 60_000,
    async run() {
      clock.advance(10_000); // takes ten seconds
      if (++runs === 2) throw new Error("no answer");
    },
  };
  const [one, other] = [engine([job]), engine([job])];
  expect(await one.runDue("import")).toBe(50_000);
  expect(await other.runDue("import")).toBe(1000);
  clock.advance(50_000);
  expect(await other.runDue("import")).toBe(50_000);
  expect(other.status()[0]?.lastError).toBe("no answer");
  expect(runs).toBe(2);
  await expect(one.runDue("export")).rejects.toThrow('there is no job "export"');
});

test("looks again when the interval is surely over, also when the lease store was slow before", async () => {
  const { clock, leases } = setUp();
  let [runs, delayMs] = [0, 300];
  const slow = {
    ...leases,
    async acquire(...request: Parameters<typeof leases.acquire>) {
      clock.advance(delayMs);
      return leases.acquire(...request);
    },
  };
  const job = { name: "import", everyMs: 60_000, run: async () => void runs++ };
  const { runDue } = createJobEngine({ jobs: [job], leases: slow, clock });
  const lookAgainInMs = await runDue("import");
  delayMs = 0;
  clock.advance(lookAgainInMs);
  await runDue("import");
  expect(runs).toBe(2);
});

test("shows the last run and its error without secrets, and goes on", async () => {
  const { engine, stop, pass, clock } = setUp();
  let runs = 0;
  const job: Job = {
    name: "import",
    everyMs: 60_000,
    async run() {
      if (++runs === 1) throw new Error("no answer from https://shop:secret@example.kz/rest/1/abcdef/");
      await clock.sleep(10_000);
    },
  };
  const { run, status } = engine([job]);
  const startedAt = clock.now();
  expect(status()).toEqual([{ name: "import", isRunning: false }]);
  const running = run(stop.signal);
  await settle();
  expect(status()).toEqual([
    {
      name: "import",
      isRunning: false,
      lastStartedAt: startedAt,
      lastEndedAt: startedAt,
      lastError: "no answer from https://[redacted]@example.kz/rest/1/[redacted]/",
    },
  ]);
  await pass(60_000);
  expect(status()[0]?.isRunning).toBe(true);
  await pass(10_000);
  expect(status()[0]).toMatchObject({ isRunning: false, lastEndedAt: clock.now() });
  expect(status()[0]).not.toHaveProperty("lastError");
  stop.abort();
  await running;
});

test("shows how far a run has come, without secrets, until the next one starts", async () => {
  const { engine, stop, pass, clock } = setUp();
  const job: Job = {
    name: "import",
    everyMs: 60_000,
    async run({ progress }) {
      await clock.sleep(1_000);
      progress("700 of 1000 orders of +7 701 000 00 01");
      await clock.sleep(1_000);
    },
  };
  const { run, status } = engine([job]);
  const running = run(stop.signal);
  await pass(500);
  expect(status()[0]).not.toHaveProperty("progress");
  await pass(1_000);
  expect(status()[0]).toMatchObject({ isRunning: true, progress: "700 of 1000 orders of [phone]" });
  await pass(1_000);
  expect(status()[0]).toMatchObject({ isRunning: false, progress: "700 of 1000 orders of [phone]" });
  await pass(58_000);
  expect(status()[0]).not.toHaveProperty("progress");
  stop.abort();
  await pass(2_000);
  await running;
});

test("waits for the running job before it has stopped", async () => {
  const { engine, stop } = setUp();
  const ended = Promise.withResolvers<void>();
  let stopped = false;
  const running = engine([{ name: "import", everyMs: 60_000, run: () => ended.promise }])
    .run(stop.signal)
    .then(() => {
      stopped = true;
    });
  await settle();
  stop.abort();
  await settle();
  expect(stopped).toBe(false);
  ended.resolve();
  await running;
});

test("goes on when the lease store does not answer for a while", async () => {
  const { stop, pass, clock, leases } = setUp();
  let [runs, isDown] = [0, true];
  const shaky = {
    ...leases,
    acquire: (...request: Parameters<typeof leases.acquire>) =>
      isDown ? Promise.reject(new Error("connection lost")) : leases.acquire(...request),
  };
  const job = { name: "import", everyMs: 60_000, run: async () => void runs++ };
  const running = createJobEngine({ jobs: [job], leases: shaky, clock }).run(stop.signal);
  await pass(60_000);
  expect(runs).toBe(0);
  isDown = false;
  await pass(60_000);
  expect(runs).toBe(1);
  stop.abort();
  await running;
});

test("refuses jobs that cannot work", () => {
  const { engine } = setUp();
  const job = { name: "import", everyMs: 60_000, run: async () => undefined };
  expect(() => engine([job, job])).toThrow(ConfigError);
  expect(() => engine([{ ...job, everyMs: 0 }])).toThrow("everyMs");
});

test("names the jobs that there are when asked for another one", async () => {
  const { engine } = setUp();
  const job = { name: "import", everyMs: 60_000, run: async () => undefined };
  await expect(engine([job]).runNow("export")).rejects.toThrow('there is no job "export"; there are import');
});
