// Kaspi orders become amoCRM leads: imported every minute, reconciled every ten, or whenever cron calls.
import { ConfigError, defineHandler, type FetchHandler } from "@orderbridge/core";
import { toFastifyPlugin } from "@orderbridge/core/fastify";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { verifySharedSecret } from "@orderbridge/core/signature";
import { configure, createJsonLogger, start } from "@orderbridge/example-support";
import { createKaspiAmocrmSync } from "@orderbridge/kaspi-amocrm";
import { createAmocrm, createAmocrmConnection, createAmocrmWebhookHandler } from "@orderbridge/kaspi-amocrm/amocrm";
import { createKaspi } from "@orderbridge/kaspi-amocrm/kaspi";
import { createKaspiAmocrmStorage } from "@orderbridge/kaspi-amocrm/kysely";
import Fastify from "fastify";
import { settingProblems, shape, toShops } from "./settings.ts";

const settings = configure(shape, (values) => settingProblems(values));

await start(async () => {
  const logger = createJsonLogger(settings.LOG_LEVEL);
  for (const name of ["REDIS_URL", "ENCRYPTION_KEYS"] as const) {
    if (settings[name] !== undefined) logger.warn(`${name} is set, but this version does not use it yet`);
  }
  const database = await openDatabase(settings.DATABASE_URL);
  const core = createKyselyStorage(database);
  const own = createKaspiAmocrmStorage(database);
  await core.migrate();
  await own.migrate();
  const storage = { ...core, ...own };
  const { rateLimits } = storage;

  const { AMO_ACCOUNT_HOST: host, AMO_API_URL: origin, AMO_ACCESS_TOKEN: accessToken } = settings;
  const { AMO_CLIENT_ID: clientId, AMO_CLIENT_SECRET: clientSecret, AMO_REDIRECT_URI: redirectUri } = settings;
  const connection =
    clientId && clientSecret && redirectUri
      ? createAmocrmConnection({
          host,
          clientId,
          clientSecret,
          redirectUri,
          storage,
          logger,
          ...(origin && { origin }),
        })
      : undefined;
  if (connection && accessToken) {
    const { AMO_REFRESH_TOKEN: refreshToken } = settings;
    await connection.importPair({ accessToken, ...(refreshToken && { refreshToken }) }); // unless there is one already
  }
  const amocrm = createAmocrm({
    host,
    token: connection?.tokens ?? (accessToken as string),
    country: settings.DEFAULT_COUNTRY,
    ratePerSecond: settings.AMO_RATE_PER_SECOND,
    integration: clientId ?? "token",
    rateLimits,
    logger,
    ...(origin && { origin }),
  });
  const sync = createKaspiAmocrmSync({
    kaspi: toShops(settings).map(([shop, token]) =>
      createKaspi({ shop, token, origin: settings.KASPI_API_URL, rateLimits, logger }),
    ),
    amocrm,
    storage,
    pipelineId: settings.AMO_PIPELINE_ID,
    statusId: settings.AMO_STATUS_ID,
    logger,
    ...(settings.AMO_RESPONSIBLE_USER_ID && { responsibleUserId: settings.AMO_RESPONSIBLE_USER_ID }),
    ...(settings.AMO_CATALOG_ID && { catalogId: settings.AMO_CATALOG_ID }),
    ...(settings.AMO_LEAD_ORDER_CODE_FIELD_ID && { orderCodeFieldId: settings.AMO_LEAD_ORDER_CODE_FIELD_ID }),
    ...(settings.AMO_STATUS_MAP && { statusMap: settings.AMO_STATUS_MAP }),
    ...(settings.IMPORT_FROM && { importFrom: settings.IMPORT_FROM }),
  });
  try {
    const problems = await sync.check();
    if (problems.length > 0) throw new ConfigError(`amoCRM does not fit the variables: ${problems.join("; ")}`);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    logger.warn("the account could not be checked; open /oauth/start when it is not connected yet", { error });
  }

  /** Lets only callers with CRON_SECRET in, by header or `token=` as in the seed. */
  const guarded = (handle: (query: URLSearchParams) => Promise<Response>): FetchHandler =>
    defineHandler(
      (request) => {
        const query = new URL(request.url).searchParams;
        const secret = request.headers.get("x-cron-secret") ?? query.get("token");
        return verifySharedSecret(secret, [settings.CRON_SECRET]).ok
          ? handle(query)
          : Response.json({ detail: "Invalid secret" }, { status: 401 });
      },
      { methods: ["GET"], logger },
    );
  const cron = guarded(async (query) => {
    const task = query.get("task");
    if (task !== "new" && task !== "reconcile") {
      return Response.json({ detail: "task must be new or reconcile" }, { status: 422 });
    }
    const report = await (task === "new" ? sync.importNew() : sync.reconcile());
    if (!report) return Response.json({ detail: `${task} is running in another process` }, { status: 409 });
    return Response.json({ task, ok: report.failed === 0, ...report });
  });
  const handlers: Record<string, FetchHandler> = {
    "/cron": cron,
    "/status": guarded(async () => Response.json(await sync.status())),
  };
  if (connection) {
    handlers["/oauth/start"] = guarded(async () => Response.redirect(connection.consentUrl(), 302));
    handlers["/oauth/callback"] = connection.callback;
  }
  if (settings.AMO_WEBHOOK_SECRET) {
    const onEvents = () => sync.lookAtStages(); // what the events say is read again from the API
    handlers["/amocrm/webhook/:secret"] = createAmocrmWebhookHandler({
      secret: settings.AMO_WEBHOOK_SECRET,
      onEvents,
      logger,
    });
  }

  const fastify = Fastify();
  fastify.get("/healthz", async (_request, reply) => {
    const answers = await database.ping().then(
      () => true,
      () => false,
    );
    return answers ? { status: "ok" } : reply.code(503).send({ status: "storage does not answer" });
  });
  await fastify.register(toFastifyPlugin(handlers, { logger }));
  await fastify.ready();

  const stopping = new AbortController();
  const running = settings.SCHEDULE === "on" ? sync.run(stopping.signal) : Promise.resolve();
  return {
    server: fastify.server,
    port: settings.PORT,
    host: settings.HOST,
    async onStop() {
      stopping.abort();
      await running; // what was begun ends, so that nothing has to be looked up at the next start
      await fastify.close();
      await database.close();
    },
  };
});
