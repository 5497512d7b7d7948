// Answers amoCRM's webhooks on the database that it is given, and does nothing else: somebody kills it.
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { createAmocrmWebhookHandler } from "../src/amocrm/index.ts";
import { createKaspiAmocrmStorage } from "../src/kysely/index.ts";

const [databaseUrl = "", secret = ""] = process.argv.slice(2);
const database = await openDatabase(databaseUrl);
const storage = createKaspiAmocrmStorage(database);
await createKyselyStorage(database).migrate();
await storage.migrate();
const { url } = await listen(createAmocrmWebhookHandler({ secret, events: storage.events }));
process.stdout.write(`${url}\n`);
