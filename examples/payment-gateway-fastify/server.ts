// A payment gateway of your own: payments API, pay page, signed webhooks. Configured by environment variables only.
import type { Job } from "@orderbridge/core";
import { toFastifyPlugin } from "@orderbridge/core/fastify";
import { createCipher, createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createClientAddress } from "@orderbridge/core/node";
import {
  commonVariables,
  configure,
  connectFleet,
  createJsonLogger,
  start,
  variables,
} from "@orderbridge/example-support";
import { createPaymentGateway } from "@orderbridge/payment-gateway";
import { createPaymentGatewayStorage, createPostgresHints } from "@orderbridge/payment-gateway/kysely";
import Fastify from "fastify";
import { addressProblems, knownProviders } from "./providers.ts";

const names = Object.keys(knownProviders);

const settings = configure(
  {
    ...commonVariables({ port: 3004, database: "sqlite:./payment-gateway.db" }),
    API_TOKENS: variables.pairs("merchant=token pairs with commas; make a token with: openssl rand -hex 24"),
    PUBLIC_URL: variables.url("the address under which payers reach this server, e.g. https://pay.example"),
    PROVIDERS: variables.list(`names with commas out of: ${names.join(", ")}`),
    WEBHOOK_ALLOW_ADDRESSES: variables.withDefault(variables.list("addresses or CIDRs with commas"), []),
    ADMIN_PASSWORD: variables.secret("the password of /admin, at least 12 characters", 12),
    SESSION_SECRET: variables.secret("at least 32 random characters, e.g. from: openssl rand -hex 32", 32),
    WEBHOOK_RETRY_DELAYS: variables.optional(variables.list("seconds with commas, e.g. 5,60,300")),
  },
  (values) => {
    const problems: string[] = [];
    for (const [merchant, token] of values.API_TOKENS) {
      if (token.length < 16) problems.push(`API_TOKENS holds a token of "${merchant}" with less than 16 characters`);
    }
    for (const name of values.PROVIDERS) {
      if (!names.includes(name)) {
        problems.push(`PROVIDERS names an unknown provider "${name}"; use ${names.join(", ")}`);
      }
    }
    if (values.WEBHOOK_RETRY_DELAYS?.some((delay) => !/^\d{1,6}(\.\d{1,3})?$/.test(delay))) {
      problems.push("WEBHOOK_RETRY_DELAYS must be seconds with commas, e.g. 5,60,300");
    }
    for (const name of ["WEBHOOK_ALLOW_ADDRESSES", "TRUSTED_PROXIES"] as const) {
      problems.push(...addressProblems(name, values[name]));
    }
    return problems;
  },
);

const startProviders = settings.PROVIDERS.map((name) => knownProviders[name]?.()).filter(
  (known) => known !== undefined,
);
const clientAddress = createClientAddress({ trustedProxies: settings.TRUSTED_PROXIES });

await start(async () => {
  const logger = createJsonLogger(settings.LOG_LEVEL);
  const database = await openDatabase(settings.DATABASE_URL);
  const keys = [...(settings.ENCRYPTION_KEYS ?? [])].map(([id, key]) => `${id}:${key}`).join(",");
  const cipher = keys === "" ? {} : { cipher: createCipher({ keys }) };
  const core = createKyselyStorage({ ...database, ...cipher }); // leases of the chores, tokens of terminals
  const hints =
    database.dialect === "postgres" ? { hints: createPostgresHints(settings.DATABASE_URL, { logger }) } : {};
  const storage = createPaymentGatewayStorage({ ...database, ...cipher, ...hints });
  await core.migrate();
  await storage.migrate();
  const fleet = await connectFleet({ name: "payment-gateway", redisUrl: settings.REDIS_URL, storage: core, logger });

  const gateway = createPaymentGateway({
    storage,
    providers: startProviders.map((startProvider) => startProvider({ storage: core, clientAddress, logger })),
    publicUrl: settings.PUBLIC_URL,
    tokens: [...settings.API_TOKENS].map(([merchant, token]) => ({ merchant, token })),
    admin: { password: settings.ADMIN_PASSWORD, sessionSecret: settings.SESSION_SECRET, clientAddress },
    webhooks: { allowAddresses: settings.WEBHOOK_ALLOW_ADDRESSES },
    ...(settings.WEBHOOK_RETRY_DELAYS
      ? { retryDelaysMs: settings.WEBHOOK_RETRY_DELAYS.map((delay) => Math.round(Number(delay) * 1000)) }
      : {}),
    // Without Redis each server does the chores, and claims in the database keep them apart.
    ...(settings.REDIS_URL === undefined ? {} : { jobs: (jobs: readonly Job[]) => fleet.createJobEngine({ jobs }) }),
    logger,
  });

  const fastify = Fastify();
  fastify.get("/healthz", async (_request, reply) => {
    try {
      await database.ping();
      return { status: "ok" };
    } catch {
      return reply.code(503).send({ status: "storage does not answer" });
    }
  });
  const paths = ["/api/*", "/pay/*", "/providers/*", "/admin", "/admin/*", "/docs", "/docs/*", "/openapi.json"];
  await fastify.register(toFastifyPlugin(Object.fromEntries(paths.map((path) => [path, gateway.handle])), { logger }));
  await fastify.ready();

  const stopping = new AbortController();
  const working = gateway.run(stopping.signal);

  return {
    server: fastify.server,
    port: settings.PORT,
    host: settings.HOST,
    async onStop() {
      stopping.abort();
      await working; // webhooks in flight end first
      await gateway.close();
      fleet.close();
      await fastify.close();
      await database.close();
    },
  };
});
