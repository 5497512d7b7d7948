// One process of the refresh race: connects, waits for "go" on standard input, makes five calls at once.
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createAmocrm, createAmocrmConnection } from "../src/amocrm/index.ts";
import { fakeAccount, fakeIntegration } from "../src/testing/index.ts";

const [databaseUrl = "", origin = ""] = process.argv.slice(2);
const { host } = fakeAccount;
const database = await openDatabase(databaseUrl);
const storage = createKyselyStorage(database);
const { tokens } = createAmocrmConnection({ ...fakeIntegration, host, storage, origin });
const integration = fakeIntegration.clientId;
const amocrm = createAmocrm({
  host,
  token: tokens,
  integration,
  origin,
  rateLimits: storage.rateLimits,
  ratePerSecond: 40,
});
process.stdout.write("ready\n");
await new Promise((resolve) => process.stdin.once("data", resolve));
const names = await Promise.all(Array.from({ length: 5 }, async () => (await amocrm.account()).subdomain));
process.stdout.write(`${names.join(" ")}\n`);
await database.close();
process.exit(0);
