import { deepEqual, equal, rejects } from "node:assert/strict";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { bigText, longestKey, refusedKeys, similarKeys } from "./texts.ts";

type Case = ConformanceCase<Pick<StorageContext, "storage">>;

export const watermarkCases: readonly Case[] = [
  {
    name: "watermarks: have no position before the first move",
    async run({ storage: { watermarks } }) {
      equal(await watermarks.get("kaspi"), undefined);
    },
  },
  {
    name: "watermarks: move from the position that the caller saw",
    async run({ storage: { watermarks } }) {
      equal(await watermarks.advance("kaspi", undefined, "2026-11-01"), true);
      equal(await watermarks.advance("kaspi", "2026-11-01", "2026-11-02"), true);
      equal(await watermarks.get("kaspi"), "2026-11-02");
    },
  },
  {
    name: "watermarks: stay when the position is another one",
    async run({ storage: { watermarks } }) {
      equal(await watermarks.advance("kaspi", "2026-11-01", "2026-11-02"), false);
      equal(await watermarks.get("kaspi"), undefined);
      await watermarks.advance("kaspi", undefined, "2026-11-01");
      equal(await watermarks.advance("kaspi", undefined, "2026-11-02"), false);
      equal(await watermarks.advance("kaspi", "2026-10-31", "2026-11-02"), false);
      equal(await watermarks.get("kaspi"), "2026-11-01");
    },
  },
  {
    name: "watermarks: may be moved to where they are",
    async run({ storage: { watermarks } }) {
      await watermarks.advance("kaspi", undefined, "7");
      equal(await watermarks.advance("kaspi", "7", "7"), true);
    },
  },
  {
    name: "watermarks: make the first move for one of twenty contenders",
    async run({ storage: { watermarks } }) {
      const moves = await Promise.all(
        Array.from({ length: 20 }, (_, index) => watermarks.advance("race", undefined, `${index}`)),
      );
      equal(moves.filter(Boolean).length, 1);
      equal(await watermarks.get("race"), `${moves.indexOf(true)}`);
    },
  },
  {
    name: "watermarks: make a later move for one of twenty contenders",
    async run({ storage: { watermarks } }) {
      await watermarks.advance("race", undefined, "start");
      const moves = await Promise.all(
        Array.from({ length: 20 }, (_, index) => watermarks.advance("race", "start", `${index}`)),
      );
      equal(moves.filter(Boolean).length, 1);
      equal(await watermarks.get("race"), `${moves.indexOf(true)}`);
    },
  },
  {
    name: "watermarks: tell similar keys and positions apart",
    async run({ storage: { watermarks } }) {
      for (const key of similarKeys) equal(await watermarks.advance(key, undefined, `at ${key}`), true);
      for (const key of similarKeys) equal(await watermarks.get(key), `at ${key}`);
      equal(await watermarks.advance("order-a", "at order-A", "x"), false);
      equal(await watermarks.advance("order-a", "at order-a ", "x"), false);
    },
  },
  {
    name: "watermarks: take the longest key and a long position, and refuse what cannot be stored",
    async run({ storage: { watermarks } }) {
      equal(await watermarks.advance(longestKey, undefined, bigText), true);
      equal(await watermarks.get(longestKey), bigText);
      for (const key of refusedKeys) {
        await rejects(watermarks.advance(key, undefined, "x"), { name: "RangeError", message: /^watermark key / });
      }
      await rejects(watermarks.advance("kaspi", undefined, "a\0b"), { name: "RangeError", message: /^watermark pos/ });
      deepEqual(await watermarks.get("kaspi"), undefined);
    },
  },
];
