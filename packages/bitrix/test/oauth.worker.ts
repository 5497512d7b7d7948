/** One process of an application: makes calls in parallel and prints how many succeeded. Run by `oauth.test.ts`. */
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createBitrix, createBitrixConnection } from "../src/index.ts";

const [portalUrl = "", memberId = "", databaseUrl = "", calls = "0"] = process.argv.slice(2);
const database = await openDatabase(databaseUrl);
const storage = createKyselyStorage(database);
const oauth = createBitrixConnection({
  portalUrl,
  memberId,
  clientId: "local.fake",
  clientSecret: "fake-client-secret",
  authorizationServer: portalUrl,
  storage,
});
const bitrix = createBitrix({ oauth, plan: { intervalMs: 0.001, capacity: 1000 } });
const results = await Promise.allSettled(Array.from({ length: Number(calls) }, () => bitrix.call("profile")));
process.stdout.write(String(results.filter(({ status }) => status === "fulfilled").length));
await database.close();
