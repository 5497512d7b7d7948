// One back-fill in a process of its own: node p6-worker.ts <Kaspi and amoCRM> <database> <orders> <from> <to>
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createKaspiAmocrmSync } from "@orderbridge/kaspi-amocrm";
import { createAmocrm } from "@orderbridge/kaspi-amocrm/amocrm";
import { createKaspi } from "@orderbridge/kaspi-amocrm/kaspi";
import { createKaspiAmocrmStorage } from "@orderbridge/kaspi-amocrm/kysely";

const [origin = "", databaseUrl = "", from = "", to = "", budgetMs = ""] = process.argv.slice(2);
const database = await openDatabase(databaseUrl);
const core = createKyselyStorage(database);
const own = createKaspiAmocrmStorage(database);
await core.migrate();
await own.migrate();
// The budget of calls is P3's subject; here nobody waits for it.
const { rateLimits } = createMemoryStorage();
const sync = createKaspiAmocrmSync({
  kaspi: createKaspi({ token: "kaspi-token", origin, ratePerSecond: 10_000, rateLimits }),
  amocrm: createAmocrm({ host: "bench.amocrm.ru", token: "amo-token", origin, ratePerSecond: 10_000, rateLimits }),
  storage: { ...core, ...own },
  pipelineId: "1",
  statusId: "2",
  catalogId: "3",
  orderCodeFieldId: "4",
});
const startedAt = performance.now();
let seen = 0;
let isOutOfTime = false;
const stopping = new AbortController();
const timer = setTimeout(() => {
  isOutOfTime = true;
  stopping.abort();
}, Number(budgetMs));
const report = await sync
  .backfill({
    from: new Date(Number(from)),
    to: new Date(Number(to)),
    signal: stopping.signal,
    onProgress: (progress) => {
      seen = progress.seen;
    },
  })
  .catch((error: unknown) => {
    if (!isOutOfTime) throw error;
    return undefined;
  });
clearTimeout(timer);
process.send?.({
  seen: report?.seen ?? seen,
  created: report?.created,
  seconds: (performance.now() - startedAt) / 1000,
  peakMb: process.resourceUsage().maxRSS / 1024,
});
await database.close();
process.disconnect?.();
