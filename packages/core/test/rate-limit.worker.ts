// One process of a fleet: rate-limit.worker.ts <url to call> <Redis> <key prefix> <database> <calls>
import { Redis } from "ioredis";
import { budgetPerSecond, createHttpClient, createRateLimiter, systemClock } from "../src/index.ts";
import { createKyselyStorage, openDatabase } from "../src/kysely/index.ts";
import { createRedisRateLimits } from "../src/redis/index.ts";

const [baseUrl = "", redisUrl = "", prefix = "", databaseUrl = "", calls = ""] = process.argv.slice(2);
const { db, dialect } = await openDatabase(databaseUrl);
const storage = createKyselyStorage({ db, dialect });
await storage.migrate();
const store = createRedisRateLimits({ redis: new Redis(redisUrl), durable: storage.rateLimits, prefix });
const limiter = createRateLimiter({
  vendor: "fleet",
  account: "shop",
  budget: budgetPerSecond(7, 300), // room for a machine that is busy with other tests
  store,
  clock: systemClock,
});
const client = createHttpClient({ vendor: "fleet", baseUrl, limiter, retries: 0 });

await fetch(`${baseUrl}/warm`);
process.once("message", async () => {
  await Promise.all(Array.from({ length: Number(calls) }, () => client.send({ name: "call", path: "/" })));
  process.exit(0);
});
process.send?.("ready");
