// One process of the fleet: node p3-worker.ts <url> <database> <calls> [<Redis> <prefix>], or `burn` to keep a core busy.
import { once } from "node:events";
import {
  budgetPerSecond,
  createHttpClient,
  createRateLimiter,
  type RateLimitStore,
  systemClock,
} from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createRedisRateLimits } from "@orderbridge/core/redis";
import { Redis } from "ioredis";
import * as v from "valibot";

const [url, database, calls, redisUrl, prefix = ""] = process.argv.slice(2);
if (url === "burn") {
  for (;;) Math.sqrt(Math.random());
}
if (!url || !database || !calls) throw new Error("usage: p3-worker.ts <url> <database> <calls>");

const { db, dialect } = await openDatabase(database);
const storage = createKyselyStorage({ db, dialect });
await storage.migrate();
let store: RateLimitStore = storage.rateLimits;
if (redisUrl) {
  const redis = new Redis(redisUrl, { enableOfflineQueue: false, maxRetriesPerRequest: 1 });
  await once(redis, "ready");
  store = createRedisRateLimits({ redis, durable: storage.rateLimits, prefix });
}
const limiter = createRateLimiter({
  vendor: "bench",
  account: "bench",
  budget: budgetPerSecond(7),
  store,
  clock: systemClock,
});
const client = createHttpClient({ vendor: "bench", baseUrl: url, limiter, minDelayMs: 50, retries: 8 });

process.once("message", async () => {
  await Promise.all(
    Array.from({ length: Number(calls) }, () =>
      client.request({ name: "bench", path: "/", schema: v.object({ ok: v.boolean() }) }),
    ),
  );
  process.send?.("done");
});
process.send?.("ready");
