// A backend beside a 1C-Bitrix site and a Bitrix24 portal: statuses, products and deals agree.
import { createServer } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { getRequestListener } from "@hono/node-server";
import {
  createBackendApi,
  createBitrix,
  createDealSide,
  createDealSweep,
  createEventHandler,
  createOrderSide,
  createOrderStatusHandler,
  createOrders,
  createProductSync,
  createStatusSync,
  createSyncHandlers,
  createWorker,
  productTopic,
} from "@orderbridge/bitrix";
import { createBitrixStorage } from "@orderbridge/bitrix/kysely";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { configure, connectFleet, createJsonLogger, dailyPrune, start } from "@orderbridge/example-support";
import { Hono } from "hono";
import { shape } from "./settings.ts";

const config = configure(shape);
const logger = createJsonLogger(config.LOG_LEVEL);
if (config.ENCRYPTION_KEYS) logger.warn("ENCRYPTION_KEYS is set, but this server stores no secrets");

await start(async () => {
  const database = await openDatabase(config.DATABASE_URL);
  const core = createKyselyStorage(database);
  const storage = createBitrixStorage(database);
  await core.migrate();
  await storage.migrate();

  const fleet = await connectFleet({ name: "bitrix-sync", redisUrl: config.REDIS_URL, storage: core, logger });
  const chores = fleet.createJobEngine({
    jobs: [dailyPrune("bitrix-sync", (signal) => Promise.all([core.prune({ signal }), storage.prune({ signal })]))],
  });

  const secrets = [config.WEBHOOK_SECRET];
  const orders = createOrders({ storage });
  const budgets = { ...core, rateLimits: fleet.rateLimits };
  const bitrix = createBitrix({ webhookUrl: config.BITRIX_WEBHOOK_URL, storage: budgets, logger });
  const deals = createDealSide({
    bitrix,
    stages: config.BITRIX_STAGE_MAP,
    categoryId: config.BITRIX_CATEGORY_ID,
    linkField: config.BITRIX_LINK_FIELD,
    ...(config.BITRIX_PAID_STAGE_ID ? { paidStageId: config.BITRIX_PAID_STAGE_ID } : {}),
  });
  const sync = createStatusSync({
    name: "order-deal",
    storage,
    left: createOrderSide({ storage, changedBy: "bitrix24" }),
    right: deals,
    conflict: "right",
    logger,
  });
  const products = createProductSync({
    storage,
    siteUrl: config.BITRIX_SITE_URL,
    siteToken: config.BITRIX_SITE_TOKEN,
    productPath: config.BITRIX_SITE_PRODUCT_PATH,
    secrets,
    logger,
  });
  const handlers = { ...createSyncHandlers({ sync, storage }), [productTopic]: products.push };
  const worker = createWorker({ storage, logger, handlers });
  const sweep = createDealSweep({
    bitrix,
    storage,
    core,
    sync: "order-deal",
    linkField: config.BITRIX_LINK_FIELD,
    logger,
  });

  const orderStatus = createOrderStatusHandler({ storage, secrets, logger });
  const events = createEventHandler({ storage, applicationTokens: [config.BITRIX_APPLICATION_TOKEN], logger });
  const app = new Hono();
  app.post("/api/v1/webhooks/order-status-sync", (c) => orderStatus(c.req.raw));
  app.post("/api/v1/webhooks/product-sync", (c) => products.handle(c.req.raw));
  app.post("/bitrix/events", (c) => events(c.req.raw));
  app.get("/healthz", (c) =>
    storage.ping().then(
      () => c.text("ok"),
      () => c.text("storage does not answer", 503),
    ),
  );

  const api = createBackendApi({ orders, products, apiTokens: [config.API_TOKEN], logger });
  app.all("/api/v1/*", (c) => api(c.req.raw));

  const stopping = new AbortController();
  const working = Promise.all([worker, sweep, chores].map((each) => each.run(stopping.signal)));
  deals.check().then(
    ({ unmappedStages }) => unmappedStages.length > 0 && logger.warn("stages without a status", { unmappedStages }),
    (error) => logger.error("the stage map could not be checked", { error }),
  );
  return {
    server: createServer(getRequestListener(app.fetch)),
    port: config.PORT,
    host: config.HOST,
    async onStop() {
      stopping.abort();
      // A portal that does not answer must not hold the stop: what is not finished is due again after the next start.
      await Promise.race([working, wait(5_000)]);
      fleet.close();
      await database.close();
    },
  };
});
