// Kaspi orders become amoCRM leads: imported every minute, reconciled every ten, or whenever cron calls.
import { ConfigError, defineHandler, type FetchHandler, type Job } from "@orderbridge/core";
import { toFastifyPlugin } from "@orderbridge/core/fastify";
import { createCipher, createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { verifySharedSecret } from "@orderbridge/core/signature";
import { configure, connectFleet, createJsonLogger, dailyPrune, start } from "@orderbridge/example-support";
import { connectKaspiAmocrm, readKaspiAmocrmEnvironment } from "@orderbridge/kaspi-amocrm";
import { createAmocrmWebhookHandler } from "@orderbridge/kaspi-amocrm/amocrm";
import { createKaspiAmocrmStorage } from "@orderbridge/kaspi-amocrm/kysely";
import Fastify from "fastify";
import { shape } from "./settings.ts";

const settings = configure(shape);

await start(async () => {
  const environment = readKaspiAmocrmEnvironment(process.env); // the command line reads the same variables
  const logger = createJsonLogger(settings.LOG_LEVEL);
  const keys = process.env.ENCRYPTION_KEYS?.trim();
  const database = await openDatabase(settings.DATABASE_URL);
  const core = createKyselyStorage({ ...database, ...(keys && { cipher: createCipher({ keys }) }) });
  const own = createKaspiAmocrmStorage(database);
  await core.migrate();
  await own.migrate();
  const fleet = await connectFleet({ name: "kaspi-amocrm", redisUrl: settings.REDIS_URL, storage: core, logger });
  const storage = { ...core, ...own, rateLimits: fleet.rateLimits };
  const { sync, connection } = await connectKaspiAmocrm({ environment, storage, logger });
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
    // Beside the job below: some hosts stop this process between two calls. What fails waits for the next look.
    await sync.handleEvents().catch((error) => logger.error("events of amoCRM could not be looked at", { error }));
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
    handlers["/oauth/disabled"] = connection.disableHook;
  }
  if (settings.AMO_WEBHOOK_SECRET) {
    const secret = settings.AMO_WEBHOOK_SECRET;
    handlers["/amocrm/webhook/:secret"] = createAmocrmWebhookHandler({ secret, events: storage.events, logger });
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
  const job = (task: "importNew" | "reconcile" | "handleEvents", everyMs: number): Job => ({
    name: `kaspi-amocrm ${task}`,
    everyMs,
    async run({ signal }) {
      const report = await sync[task]({ signal }); // its own lease keeps cron and the command line apart
      if (report) logger.info(`${task} ended`, { ...report });
    },
  });
  const jobs = [dailyPrune("kaspi-amocrm", (signal) => core.prune({ signal }))];
  if (settings.AMO_WEBHOOK_SECRET) jobs.push(job("handleEvents", 10_000));
  if (settings.SCHEDULE === "on") jobs.push(job("importNew", 60_000), job("reconcile", 600_000));
  const running = fleet.createJobEngine({ jobs }).run(stopping.signal);
  return {
    server: fastify.server,
    port: settings.PORT,
    host: settings.HOST,
    async onStop() {
      stopping.abort();
      await running; // what was begun ends, so that nothing has to be looked up at the next start
      await fastify.close();
      fleet.close();
      await database.close();
    },
  };
});
