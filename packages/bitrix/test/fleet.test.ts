// Two processes on one address, each with a connection of its own to the shared storage: request budget, block, and rests
// of a method hold for both. Times are those of a clock that all of them share and that runs faster than the machine's.
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { systemClock } from "@orderbridge/core";
import { createKyselyStorage } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { TestDatabase } from "../../core/test/databases.ts";
import { sharedTestDatabases } from "../../core/test/programs.ts";
import { openRedis, redisService, redisUrl } from "../../core/test/redis-server.ts";
import { createFakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";
import type { FleetMessage, FleetOptions, FleetRound } from "./fleet.worker.ts";
import { createFleetClock } from "./fleet-clock.ts";

interface Process {
  /** How each call ended: `done`, or the name of its error. */
  run(options: FleetOptions, work: FleetRound): Promise<readonly string[]>;
  kill(): void;
}

async function startProcess(): Promise<Process> {
  const child = fork(join(import.meta.dirname, "fleet.worker.ts"), {
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  await once(child, "message");
  let rounds = 0;
  return {
    run(options, work) {
      const round = ++rounds;
      return new Promise((resolve) => {
        child.on("message", function take(answer: { readonly round: number; readonly ends: readonly string[] }) {
          if (answer.round !== round) return;
          child.off("message", take);
          resolve(answer.ends);
        });
        child.send({ round, options, work } satisfies FleetMessage);
      });
    },
    kill: () => void child.kill("SIGKILL"),
  };
}

let one: Process;
let two: Process;
beforeAll(async () => {
  [one, two] = await Promise.all([startProcess(), startProcess()]);
  return () => {
    one.kill();
    two.kill();
  };
}, 30_000);

/** A portal on a port. */
async function openPortal(speed: number, options: FakeBitrixOptions) {
  const clock = { startedAt: Date.now(), speed };
  const fake = createFakeBitrix({ ...options, clock: createFleetClock(clock) });
  const server = await listen(fake.handle);
  return { fake, clock, webhookUrl: fake.webhookUrl(server.url), account: new URL(server.url).host, server };
}

const profile = (calls: number): FleetRound => ({ method: "profile", parameters: {}, calls });
const calls = 24;
/** A plan in small; some of its burst is left free, as in the plans of the client. */
const bucket = { perSecond: 25, capacity: 20 };
const plan = { intervalMs: 40, capacity: 16 };

/** Two processes at once, with a budget that has rested; what came to the portal then. */
async function expectWithinPlan(storage: Pick<FleetOptions, "databaseUrl" | "redis">): Promise<void> {
  const { fake, clock, webhookUrl, server } = await openPortal(1, { bucket, costs: {}, operatingLimitSeconds: "off" });
  try {
    const options = { ...storage, webhookUrl, plan, operatingLimitSeconds: 450, clock };
    const both = (work: FleetRound) => Promise.all([one.run(options, work), two.run(options, work)]);
    await both(profile(1));
    // By the clocks of the databases, which nobody can move.
    await systemClock.sleep(plan.capacity * plan.intervalMs);
    const before = fake.journal.entries.length;
    expect((await both(profile(calls))).flat()).toEqual(Array(2 * calls).fill("done"));
    expect(fake.refusals.rate).toBe(0);
    const times = fake.journal.entries.slice(before).map(({ at }) => at.getTime());
    expect(times).toHaveLength(2 * calls);
    // The burst once, then one each interval.
    const spentMs = (times.at(-1) as number) - (times[0] as number);
    expect(spentMs).toBeGreaterThan((2 * calls - bucket.capacity) * plan.intervalMs);
    expect(times.filter((at) => at - (times[0] as number) < 2 * plan.intervalMs).length).toBeLessThanOrEqual(
      bucket.capacity,
    );
  } finally {
    await server.close();
  }
}

test("without a shared storage two processes together exceed the plan: the check can fail", async () => {
  // Nothing leaks, so that it does not matter how long they take.
  const { fake, clock, webhookUrl, server } = await openPortal(1, { bucket: { ...bucket, perSecond: 0.001 } });
  try {
    const options = { databaseUrl: "memory", webhookUrl, plan, operatingLimitSeconds: 450, clock };
    const ends = await Promise.all([one.run(options, profile(12)), two.run(options, profile(12))]);
    expect(ends.flat().filter((end) => end === "ApiError")).toHaveLength(2 * 12 - bucket.capacity);
    expect(fake.refusals.rate).toBe(2 * 12 - bucket.capacity);
  } finally {
    await server.close();
  }
});

for (const { name, skipped, open } of sharedTestDatabases()) {
  describe.skipIf(skipped)(name, () => {
    let database: TestDatabase;
    beforeAll(async () => {
      database = await open();
      await createKyselyStorage(database).migrate();
      return () => database.close();
    });

    test("two processes on one address: no 503, and together no more than the plan", async () => {
      await expectWithinPlan({ databaseUrl: database.url });
    });

    test("a block that one process was told of stops the other before its first call, until a person acts", async () => {
      const { fake, clock, webhookUrl, account, server } = await openPortal(1, { bucket });
      try {
        const options = { webhookUrl, databaseUrl: database.url, plan, operatingLimitSeconds: 450, clock };
        fake.faults.add({ fault: { kind: "block" } });
        expect(await one.run(options, profile(1))).toEqual(["BlockedError"]);
        fake.faults.clear();
        expect(await two.run(options, profile(5))).toEqual(Array(5).fill("BlockedError"));
        expect(fake.journal.entries).toHaveLength(1);
        await createKyselyStorage(database).rateLimits.unblock(`bitrix:${account}`);
        expect([await one.run(options, profile(1)), await two.run(options, profile(1))]).toEqual([["done"], ["done"]]);
      } finally {
        await server.close();
      }
    });

    test.concurrent.each([
      ["the portal refused one process", 100, 5, 1],
      ["one process came near the limit", 5, 100, 0],
    ])("%s: the other lets the method rest as well, and other methods go on", async (_case, ours, theirs, refusals) => {
      const speed = 300;
      const { fake, clock, webhookUrl, account, server } = await openPortal(speed, {
        bucket: { perSecond: 100, capacity: 1_000 },
        costs: { "crm.item.update": 3 },
        operatingLimitSeconds: theirs,
      });
      try {
        const { id } = fake.addDeal({});
        const update: FleetRound = {
          method: "crm.item.update",
          parameters: { entityTypeId: 2, id, fields: { comments: "x" } },
          calls: 1,
        };
        // In one minute, so that the rest ends for both at once.
        const both: FleetRound = { ...update, calls: 2, isBatch: true };
        const options = {
          webhookUrl,
          databaseUrl: database.url,
          plan: { intervalMs: 1, capacity: 1_000 },
          operatingLimitSeconds: ours,
          clock,
        };
        expect(await one.run(options, both)).toEqual(["done", "done"]);
        const second = one.run(options, update);
        // Where a rest is kept for all: the time at which it ends.
        const { watermarks } = createKyselyStorage(database);
        const restsUntil = await vi.waitFor(async () => {
          const stored = await watermarks.get(`bitrix-rest:${account}:1:crm.item.update`);
          expect(stored).toBeDefined();
          return Number(stored);
        });
        const third = two.run(options, update);
        expect(await two.run(options, profile(1))).toEqual(["done"]);
        const profileAt = fake.journal.entries.at(-1);
        expect([profileAt?.path, (profileAt?.at.getTime() ?? 0) < restsUntil]).toEqual(["/profile", true]);
        expect([await second, await third]).toEqual([["done"], ["done"]]);
        const updates = fake.journal.entries.filter(({ path }) => path === "/crm.item.update");
        // Nobody calls before the rest is over. When it ends each may be refused once more: both may come at one moment.
        expect(updates.slice(0, refusals).map(({ status }) => status)).toEqual(Array(refusals).fill(429));
        expect(updates.slice(refusals).every(({ at }) => at.getTime() >= restsUntil)).toBe(true);
        expect(updates.slice(-2).map(({ status }) => status)).toEqual([200, 200]);
        expect(fake.refusals.operating).toBeLessThanOrEqual(refusals + 2);
      } finally {
        await server.close();
      }
    });
  });
}

describe.skipIf(redisService.skipped)(redisService.name, () => {
  test("two processes on one address: no 503, and together no more than the plan", async () => {
    const { prefix, close } = openRedis();
    const [sqlite] = sharedTestDatabases();
    const database = (await sqlite?.open()) as TestDatabase;
    try {
      await createKyselyStorage(database).migrate();
      await expectWithinPlan({ databaseUrl: database.url, redis: { url: redisUrl, prefix } });
    } finally {
      await database.close();
      await close();
    }
  });
});
