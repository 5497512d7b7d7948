// One process of a fleet: rate-limit.worker.ts <url to call> <Redis> <key prefix> <database> <calls>
import { once } from "node:events";
import { Redis } from "ioredis";
import { budgetPerSecond, createHttpClient, createRateLimiter, systemClock } from "../src/index.ts";
import { createKyselyStorage, openDatabase } from "../src/kysely/index.ts";
import { createRedisRateLimits } from "../src/redis/index.ts";

const [baseUrl = "", redisUrl = "", prefix = "", databaseUrl = "", calls = ""] = process.argv.slice(2);
const { db, dialect } = await openDatabase(databaseUrl);
const storage = createKyselyStorage({ db, dialect });
await storage.migrate();
const redis = new Redis(redisUrl, { enableOfflineQueue: false, maxRetriesPerRequest: 1, retryStrategy: () => 50 });
redis.on("error", () => undefined); // a test takes the server away
await once(redis, "ready");
const store = createRedisRateLimits({ redis, durable: storage.rateLimits, prefix, timeoutMs: 200 });
const limiter = createRateLimiter({
  vendor: "fleet",
  account: "shop",
  budget: budgetPerSecond(7, 300), // room for a machine that is busy with other tests
  store,
  clock: systemClock,
});
const client = createHttpClient({ vendor: "fleet", baseUrl, limiter, retries: 50, minDelayMs: 20, maxDelayMs: 50 });

await fetch(`${baseUrl}/warm`);
process.once("message", async () => {
  await Promise.all(Array.from({ length: Number(calls) }, () => client.send({ name: "call", path: "/" })));
  process.exit(0);
});
process.send?.("ready");
