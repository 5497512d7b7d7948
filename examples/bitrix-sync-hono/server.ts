// A backend beside a 1C-Bitrix site and a Bitrix24 portal: statuses, products and deals agree.
import { createServer } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { getRequestListener } from "@hono/node-server";
import {
  bitrixOrderStatuses,
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
import { commonVariables, configure, createJsonLogger, start, variables } from "@orderbridge/example-support";
import { Hono } from "hono";
import * as v from "valibot";

const { secret, text, url, id, json, withDefault, optional } = variables;

/** A stage stands for one status: two statuses at one stage would leave the way back open. */
const stageMap = (value: string | undefined) => {
  const map = json(
    v.record(v.picklist(bitrixOrderStatuses.statuses), v.pipe(v.string(), v.nonEmpty("is empty"))),
    '{"new": "NEW", "delivered": "WON"}',
  )(value);
  const stages = Object.values(map);
  const twice = stages.find((stage, index) => stages.indexOf(stage) !== index);
  if (twice === undefined) return map;
  throw new variables.VariableProblem(`gives stage ${twice} to two statuses; keep one of them`);
};

/** The portal's address, tried out at once: a wrong one must be named by its variable. */
const webhookUrl = (value: string | undefined): string => {
  const given = text("https://example.bitrix24.kz/rest/1/secret/, as Bitrix24 shows it")(value);
  try {
    createBitrix({ webhookUrl: given });
    return given;
  } catch (error) {
    throw new variables.VariableProblem((error as Error).message.replace("webhookUrl ", ""));
  }
};

const config = configure({
  ...commonVariables({ port: 3002, database: "sqlite:./bitrix-sync.db" }),
  WEBHOOK_SECRET: secret("the secret that the site sends in X-Webhook-Secret"),
  API_TOKEN: secret("the bearer token of this backend's API"),
  BITRIX_SITE_URL: url("the address of the site, e.g. https://shop.example"),
  BITRIX_SITE_TOKEN: secret("the bearer token of the site's product endpoint"),
  BITRIX_SITE_PRODUCT_PATH: withDefault(text("a path"), "/api/v2/products/update-from-railway"),
  BITRIX_WEBHOOK_URL: webhookUrl,
  BITRIX_APPLICATION_TOKEN: secret("the application token that Bitrix24 shows beside the outgoing webhook"),
  BITRIX_STAGE_MAP: stageMap,
  BITRIX_CATEGORY_ID: withDefault(id("the id of the funnel"), "0"),
  BITRIX_PAID_STAGE_ID: optional(text("the stage of paid deals")),
  BITRIX_LINK_FIELD: withDefault(text("the deal's field that holds our order id"), "UF_CRM_ORDER_ID"),
});
const logger = createJsonLogger(config.LOG_LEVEL);
if (config.REDIS_URL) logger.warn("REDIS_URL is set, but this version does not use it yet");
if (config.ENCRYPTION_KEYS) logger.warn("ENCRYPTION_KEYS is set, but this server stores no secrets");

await start(async () => {
  const database = await openDatabase(config.DATABASE_URL);
  const core = createKyselyStorage(database);
  const storage = createBitrixStorage(database);
  await core.migrate();
  await storage.migrate();

  const secrets = [config.WEBHOOK_SECRET];
  const orders = createOrders({ storage });
  const bitrix = createBitrix({ webhookUrl: config.BITRIX_WEBHOOK_URL, storage: core, logger });
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
  const working = Promise.all([worker.run(stopping.signal), sweep.run(stopping.signal)]);
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
      await database.close();
    },
  };
});
