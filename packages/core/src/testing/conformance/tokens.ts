import { deepEqual, equal, rejects } from "node:assert/strict";
import type { TokenPair } from "../../ports.ts";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { bigText, longestKey, refusedKeys, similarKeys } from "./texts.ts";

const pair: TokenPair = {
  accessToken: "access-1",
  refreshToken: "refresh-1",
  expiresAt: new Date("2026-11-02T00:00:00.123Z"),
  host: "example.amocrm.ru",
};

export const tokenCases: readonly ConformanceCase<Pick<StorageContext, "storage">>[] = [
  {
    name: "tokens: have no pair before the first save",
    async run({ storage: { tokens } }) {
      equal(await tokens.get("amocrm"), undefined);
    },
  },
  {
    name: "tokens: come back as saved, with version 1 and active",
    async run({ storage: { tokens } }) {
      const stored = { ...pair, version: 1, state: "active" };
      deepEqual({ ...(await tokens.save("amocrm", pair, undefined)) }, stored);
      deepEqual({ ...(await tokens.get("amocrm")) }, stored);
    },
  },
  {
    name: "tokens: may lack everything but the access token, also after a fuller pair",
    async run({ storage: { tokens } }) {
      await tokens.save("amocrm", pair, undefined);
      await tokens.save("amocrm", { accessToken: "long-lived" }, 1);
      deepEqual({ ...(await tokens.get("amocrm")) }, { accessToken: "long-lived", version: 2, state: "active" });
    },
  },
  {
    name: "tokens: are replaced at the expected version only",
    async run({ storage: { tokens } }) {
      const next = { ...pair, accessToken: "access-2" };
      equal(await tokens.save("amocrm", next, 1), undefined);
      equal(await tokens.get("amocrm"), undefined);
      await tokens.save("amocrm", pair, undefined);
      equal(await tokens.save("amocrm", next, undefined), undefined);
      equal(await tokens.save("amocrm", next, 2), undefined);
      equal((await tokens.get("amocrm"))?.accessToken, "access-1");
      equal((await tokens.save("amocrm", next, 1))?.version, 2);
      equal((await tokens.get("amocrm"))?.accessToken, "access-2");
    },
  },
  {
    name: "tokens: are marked for a new consent at exactly this version, and a save makes them active",
    async run({ storage: { tokens } }) {
      equal(await tokens.markNeedsReauth("amocrm", 1), false);
      await tokens.save("amocrm", pair, undefined);
      equal(await tokens.markNeedsReauth("amocrm", 2), false);
      equal((await tokens.get("amocrm"))?.state, "active");
      equal(await tokens.markNeedsReauth("amocrm", 1), true);
      deepEqual({ ...(await tokens.get("amocrm")) }, { ...pair, version: 1, state: "needs_reauth" });
      equal((await tokens.save("amocrm", pair, 1))?.state, "active");
      equal((await tokens.get("amocrm"))?.state, "active");
    },
  },
  {
    name: "tokens: are saved by one of twenty contenders, first and later",
    async run({ storage: { tokens } }) {
      for (const expected of [undefined, 1, 2]) {
        const results = await Promise.all(
          Array.from({ length: 20 }, (_, index) => tokens.save("race", { accessToken: `t${index}` }, expected)),
        );
        const winner = results.findIndex((stored) => stored !== undefined);
        equal(results.filter((stored) => stored !== undefined).length, 1);
        equal((await tokens.get("race"))?.accessToken, `t${winner}`);
        equal((await tokens.get("race"))?.version, (expected ?? 0) + 1);
      }
    },
  },
  {
    name: "tokens: of similar keys are told apart",
    async run({ storage: { tokens } }) {
      for (const key of similarKeys) equal((await tokens.save(key, { accessToken: key }, undefined))?.version, 1);
      for (const key of similarKeys) equal((await tokens.get(key))?.accessToken, key);
    },
  },
  {
    name: "tokens: may be long, and what cannot be stored is refused",
    async run({ storage: { tokens } }) {
      await tokens.save(longestKey, { accessToken: bigText, refreshToken: bigText }, undefined);
      deepEqual(
        { ...(await tokens.get(longestKey)) },
        { accessToken: bigText, refreshToken: bigText, version: 1, state: "active" },
      );
      for (const key of refusedKeys) {
        await rejects(tokens.save(key, pair, undefined), { name: "RangeError", message: /^token key / });
      }
      await rejects(tokens.save("x", { accessToken: "\0" }, undefined), {
        name: "RangeError",
        message: /^access token/,
      });
    },
  },
];
