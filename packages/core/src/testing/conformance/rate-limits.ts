import { deepEqual, equal, rejects } from "node:assert/strict";
import type { RateBudget, RateLimitStore } from "../../ports.ts";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { longestKey, refusedKeys, similarKeys } from "./texts.ts";

const year = 365 * 86_400_000;
const spacing: RateBudget = { intervalMs: 100 };
const burst: RateBudget = { intervalMs: 100, capacity: 3 };

export const rateLimitCases: readonly ConformanceCase<StorageContext>[] = [
  {
    name: "rate limits: start with a full bucket and follow at the pace",
    async run({ storage: { rateLimits } }) {
      deepEqual(await waits(rateLimits, "spacing", spacing, 3), [100, 200, 300]);
      deepEqual(await waits(rateLimits, "burst", burst, 3), [100, 200, 300]);
    },
  },
  {
    name: "rate limits: allow the capacity at once after a rest, and no more",
    async run({ storage: { rateLimits }, clock }) {
      await waits(rateLimits, "amocrm", burst, 1);
      clock.advance(10_000);
      deepEqual(await waits(rateLimits, "amocrm", burst, 5), [0, 0, 0, 100, 200]);
    },
  },
  {
    name: "rate limits: keep plain spacing between calls that come slower than asked",
    async run({ storage: { rateLimits }, clock }) {
      await waits(rateLimits, "amocrm", spacing, 1);
      clock.advance(1000);
      deepEqual(await waits(rateLimits, "amocrm", spacing, 1), [0]);
      clock.advance(60);
      deepEqual(await waits(rateLimits, "amocrm", spacing, 2), [40, 140]);
    },
  },
  {
    name: "rate limits: round a part of a millisecond to the slower side",
    async run({ storage: { rateLimits } }) {
      deepEqual(await waits(rateLimits, "amocrm", { intervalMs: 1000 / 7 }, 3), [143, 286, 429]);
    },
  },
  {
    name: "rate limits: give no slot during a pause, and a full bucket at its end",
    async run({ storage: { rateLimits }, clock }) {
      await waits(rateLimits, "amocrm", burst, 1);
      clock.advance(10_000);
      await rateLimits.penalize("amocrm", 2000);
      deepEqual(await waits(rateLimits, "amocrm", burst, 2), [2000, 2100]);
      await rateLimits.penalize("bitrix", 2000);
      clock.advance(2050);
      deepEqual(await waits(rateLimits, "amocrm", burst, 1), [150]);
    },
  },
  {
    name: "rate limits: have a full bucket also when nobody asked during the pause",
    async run({ storage: { rateLimits }, clock }) {
      await waits(rateLimits, "amocrm", burst, 1);
      clock.advance(10_000);
      await rateLimits.penalize("amocrm", 2000);
      clock.advance(2050);
      deepEqual(await waits(rateLimits, "amocrm", burst, 3), [0, 50, 150]);
    },
  },
  {
    name: "rate limits: keep the longer of two pauses",
    async run({ storage: { rateLimits }, clock }) {
      await rateLimits.penalize("amocrm", 2000);
      await rateLimits.penalize("amocrm", 500);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 2000 });
      clock.advance(1500);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 500 });
      await rateLimits.penalize("amocrm", 1000);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 1000 });
      clock.advance(1000);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 0 });
    },
  },
  {
    name: "rate limits: start with a full bucket after a pause of an account that was never seen",
    async run({ storage: { rateLimits } }) {
      await rateLimits.penalize("amocrm", 50);
      deepEqual(await waits(rateLimits, "amocrm", spacing, 2), [100, 200]);
    },
  },
  {
    name: "rate limits: reserve nothing while an account is blocked, and only unblock clears it",
    async run({ storage: { rateLimits }, clock }) {
      const since = clock.now();
      equal(await rateLimits.unblock("amocrm"), false);
      await waits(rateLimits, "amocrm", spacing, 1);
      await rateLimits.block("amocrm", "403");
      clock.advance(1_000_000);
      await rateLimits.block("amocrm", "OVERLOAD_LIMIT");
      const block = { since, code: "403" };
      deepEqual(await rateLimits.reserve("amocrm", spacing), { state: "blocked", block });
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 0, block });
      await rateLimits.penalize("amocrm", 10);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 10, block });
      equal(await rateLimits.unblock("amocrm"), true);
      equal(await rateLimits.unblock("amocrm"), false);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 0 });
      deepEqual(await waits(rateLimits, "amocrm", spacing, 2), [100, 200]);
    },
  },
  {
    name: "rate limits: end a pause when a person unblocks, with a full bucket after it",
    async run({ storage: { rateLimits }, clock }) {
      await waits(rateLimits, "amocrm", spacing, 1);
      clock.advance(1000);
      await rateLimits.penalize("amocrm", 3_600_000);
      deepEqual(await waits(rateLimits, "amocrm", spacing, 1), [3_600_000]);
      equal(await rateLimits.unblock("amocrm"), true);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 0 });
      equal(await rateLimits.unblock("amocrm"), false);
      deepEqual(await waits(rateLimits, "amocrm", spacing, 2), [100, 200]);
    },
  },
  {
    name: "rate limits: keep slots and pauses as far ahead as they were when the clock was set back by a year",
    async run({ storage: { rateLimits }, clock }) {
      deepEqual(await waits(rateLimits, "amocrm", burst, 2), [100, 200]);
      clock.jump(-year);
      deepEqual(await waits(rateLimits, "amocrm", burst, 1), [300]);
      await rateLimits.penalize("amocrm", 2000);
      clock.jump(-year);
      deepEqual(await rateLimits.status("amocrm"), { pauseMs: 2000 });
      await rateLimits.penalize("amocrm", 1000);
      deepEqual(await waits(rateLimits, "amocrm", burst, 2), [2000, 2100]);
      clock.jump(-year);
      await rateLimits.penalize("amocrm", 500);
      deepEqual(await waits(rateLimits, "amocrm", burst, 1), [2200]);
      clock.advance(10_000);
      deepEqual(await waits(rateLimits, "amocrm", burst, 4), [0, 0, 0, 100]);
    },
  },
  {
    name: "rate limits: store the block of an account that was never seen",
    async run({ storage: { rateLimits }, clock }) {
      await rateLimits.block("bitrix", "");
      deepEqual(await rateLimits.reserve("bitrix", spacing), {
        state: "blocked",
        block: { since: clock.now(), code: "" },
      });
      equal(await rateLimits.unblock("bitrix"), true);
      deepEqual(await waits(rateLimits, "bitrix", spacing, 1), [100]);
    },
  },
  {
    name: "rate limits: give twenty contenders twenty different slots, of a new account and of a known one",
    async run({ storage: { rateLimits }, clock }) {
      for (const first of [100, 0]) {
        const reserved = await Promise.all(Array.from({ length: 20 }, () => wait(rateLimits, "race", spacing)));
        deepEqual(
          reserved.sort((left, right) => left - right),
          Array.from({ length: 20 }, (_, index) => first + index * 100),
        );
        clock.advance(100_000);
      }
    },
  },
  {
    name: "rate limits: keep the longest pause and the first block of twenty contenders",
    async run({ storage: { rateLimits } }) {
      const accounts = Array.from({ length: 20 }, (_, index) => index);
      await Promise.all(accounts.map((index) => rateLimits.penalize("race", 1000 + index)));
      equal((await rateLimits.status("race")).pauseMs, 1019);
      await Promise.all(accounts.map((index) => rateLimits.block("race", `code ${index}`)));
      const block = (await rateLimits.status("race")).block?.code;
      await rateLimits.block("race", "later");
      equal((await rateLimits.status("race")).block?.code, block);
    },
  },
  {
    name: "rate limits: tell similar accounts apart and refuse names that cannot be stored",
    async run({ storage: { rateLimits } }) {
      for (const account of [...similarKeys, longestKey]) {
        deepEqual(await waits(rateLimits, account, spacing, 2), [100, 200]);
      }
      for (const account of refusedKeys) {
        const refused = { name: "RangeError", message: /^rate limit account / };
        await rejects(rateLimits.reserve(account, spacing), refused);
        await rejects(rateLimits.block(account, "403"), refused);
      }
    },
  },
];

async function wait(rateLimits: RateLimitStore, account: string, budget: RateBudget): Promise<number> {
  const reservation = await rateLimits.reserve(account, budget);
  if (reservation.state === "blocked") throw new Error("expected a slot, the account is blocked");
  return reservation.waitMs;
}

async function waits(
  rateLimits: RateLimitStore,
  account: string,
  budget: RateBudget,
  count: number,
): Promise<number[]> {
  const result: number[] = [];
  for (let index = 0; index < count; index++) result.push(await wait(rateLimits, account, budget));
  return result;
}
