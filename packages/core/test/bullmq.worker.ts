// A process that takes the job `import` and never ends it: bullmq.worker.ts <Redis> <key prefix> <database>
import { Redis } from "ioredis";
import { createBullmqJobEngine } from "../src/bullmq/index.ts";
import { createKyselyStorage, openDatabase } from "../src/kysely/index.ts";

const [redisUrl = "", prefix = "", databaseUrl = ""] = process.argv.slice(2);
const { leases } = createKyselyStorage(await openDatabase(databaseUrl));
const run = async () => {
  process.send?.("running");
  await new Promise(() => setInterval(() => undefined, 1000));
};
await createBullmqJobEngine({
  jobs: [{ name: "import", everyMs: 200, run }],
  leases,
  redis: new Redis(redisUrl, { maxRetriesPerRequest: null }),
  prefix,
  leaseTtlMs: 500,
}).run(new AbortController().signal);
