import { deepEqual, equal, notEqual, rejects } from "node:assert/strict";
import type { IdempotencyClaim, IdempotencyResult } from "../../ports.ts";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { bigText, longestKey, refusedKeys, similarKeys } from "./texts.ts";

const request = { scope: "payments", key: "order-1", fingerprint: "sum=100", ttlMs: 1000 };

export const idempotencyCases: readonly ConformanceCase<StorageContext>[] = [
  {
    name: "idempotency: gives the stored result to everyone after the first",
    async run({ storage: { idempotency } }) {
      const claim = started(await idempotency.begin(request));
      equal(claim.scope, "payments");
      equal(claim.key, "order-1");
      deepEqual(await idempotency.begin(request), { state: "running" });
      equal(await idempotency.complete(claim, '{"id":"1"}'), true);
      deepEqual(await idempotency.begin(request), { state: "done", result: '{"id":"1"}' });
    },
  },
  {
    name: "idempotency: keeps a finished result after the claim's life, also an empty one",
    async run({ storage: { idempotency }, clock }) {
      await idempotency.complete(started(await idempotency.begin(request)), "");
      clock.advance(1_000_000);
      deepEqual(await idempotency.begin(request), { state: "done", result: "" });
    },
  },
  {
    name: "idempotency: refuses another fingerprint, finished or not, expired or not",
    async run({ storage: { idempotency }, clock }) {
      const other = { ...request, fingerprint: "sum=200" };
      const claim = started(await idempotency.begin(request));
      deepEqual(await idempotency.begin(other), { state: "mismatch" });
      await idempotency.complete(claim, "done");
      deepEqual(await idempotency.begin(other), { state: "mismatch" });
      started(await idempotency.begin({ ...request, key: "order-2" }));
      clock.advance(1000);
      deepEqual(await idempotency.begin({ ...other, key: "order-2" }), { state: "mismatch" });
    },
  },
  {
    name: "idempotency: hands an abandoned execution to another caller after its life, not before",
    async run({ storage: { idempotency }, clock }) {
      const lost = started(await idempotency.begin(request));
      clock.advance(999);
      deepEqual(await idempotency.begin(request), { state: "running" });
      clock.advance(1);
      const taken = started(await idempotency.begin(request));
      notEqual(taken.token, lost.token);
      equal(await idempotency.complete(lost, "late"), false);
      await idempotency.abandon(lost);
      deepEqual(await idempotency.begin(request), { state: "running" });
      equal(await idempotency.complete(taken, "in time"), true);
      deepEqual(await idempotency.begin(request), { state: "done", result: "in time" });
    },
  },
  {
    name: "idempotency: takes a result after the claim's life while nobody else claimed the key",
    async run({ storage: { idempotency }, clock }) {
      const claim = started(await idempotency.begin(request));
      clock.advance(5000);
      equal(await idempotency.complete(claim, "slow"), true);
    },
  },
  {
    name: "idempotency: stores the first result only",
    async run({ storage: { idempotency } }) {
      const claim = started(await idempotency.begin(request));
      equal(await idempotency.complete(claim, "first"), true);
      equal(await idempotency.complete(claim, "second"), false);
      await idempotency.abandon(claim);
      deepEqual(await idempotency.begin(request), { state: "done", result: "first" });
    },
  },
  {
    name: "idempotency: gives an abandoned key back at once, for any fingerprint",
    async run({ storage: { idempotency } }) {
      const claim = started(await idempotency.begin(request));
      await idempotency.abandon(claim);
      started(await idempotency.begin({ ...request, fingerprint: "sum=200" }));
      equal(await idempotency.complete(claim, "late"), false);
    },
  },
  {
    name: "idempotency: starts one of twenty contenders, for a new key and for an expired one",
    async run({ storage: { idempotency }, clock }) {
      for (let round = 0; round < 2; round++) {
        const results = await Promise.all(Array.from({ length: 20 }, () => idempotency.begin(request)));
        equal(results.filter(({ state }) => state === "started").length, 1);
        equal(results.filter(({ state }) => state === "running").length, 19);
        clock.advance(1000);
      }
    },
  },
  {
    name: "idempotency: tells similar scopes, keys and fingerprints apart",
    async run({ storage: { idempotency } }) {
      for (const text of similarKeys) {
        started(await idempotency.begin({ ...request, scope: text, key: "k" }));
        started(await idempotency.begin({ ...request, scope: "s", key: text }));
      }
      deepEqual(await idempotency.begin({ ...request, scope: "s", key: "order-a", fingerprint: "SUM=100" }), {
        state: "mismatch",
      });
    },
  },
  {
    name: "idempotency: takes the longest key and a long result, and refuses what cannot be stored",
    async run({ storage: { idempotency } }) {
      const long = { ...request, scope: longestKey, key: longestKey };
      const claim = started(await idempotency.begin(long));
      equal(await idempotency.complete(claim, bigText), true);
      deepEqual(await idempotency.begin(long), { state: "done", result: bigText });
      for (const key of refusedKeys) {
        await rejects(idempotency.begin({ ...request, key }), { name: "RangeError", message: /^idempotency key / });
        await rejects(idempotency.begin({ ...request, scope: key }), {
          name: "RangeError",
          message: /^idempotency scope /,
        });
      }
      await rejects(idempotency.complete(claim, "\0"), { name: "RangeError", message: /^idempotency result / });
    },
  },
];

function started(result: IdempotencyResult): IdempotencyClaim {
  if (result.state !== "started") throw new Error(`expected the key to be free, it is ${result.state}`);
  return result.claim;
}
