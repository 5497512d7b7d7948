// A payment gateway of your own: payments API, pay page, signed webhooks. Configured by environment variables only.
import { ConfigError } from "@orderbridge/core";
import { toFastifyPlugin } from "@orderbridge/core/fastify";
import { createCipher, openDatabase } from "@orderbridge/core/kysely";
import { createAddressList, createClientAddress } from "@orderbridge/core/node";
import {
  commonVariables,
  configure,
  createJsonLogger,
  robokassaOptions,
  robokassaProblems,
  robokassaVariables,
  start,
  variables,
} from "@orderbridge/example-support";
import { createPaymentGateway, type PaymentProvider } from "@orderbridge/payment-gateway";
import { createPaymentGatewayStorage } from "@orderbridge/payment-gateway/kysely";
import { createKaspiBillerProvider } from "@orderbridge/payment-gateway/providers/kaspi-biller";
import { createRobokassaProvider } from "@orderbridge/payment-gateway/providers/robokassa";
import { createSandboxProvider } from "@orderbridge/payment-gateway/providers/sandbox";
import { createRobokassa } from "@orderbridge/robokassa";
import Fastify from "fastify";

const known = ["sandbox", "kaspi-biller", "robokassa"] as const;

const settings = configure(
  {
    ...commonVariables({ port: 3004, database: "sqlite:./payment-gateway.db" }),
    API_TOKENS: variables.pairs("merchant=token pairs with commas; make a token with: openssl rand -hex 24"),
    PUBLIC_URL: variables.url("the address under which payers reach this server, e.g. https://pay.example"),
    PROVIDERS: variables.list(`names with commas out of: ${known.join(", ")}`),
    WEBHOOK_ALLOW_ADDRESSES: variables.withDefault(variables.list("addresses or CIDRs with commas"), []),
    KASPI_BILLER_ADDRESSES: variables.optional(variables.list("the bank's addresses or CIDRs with commas")),
    KASPI_BILLER_FORMAT: variables.withDefault(variables.oneOf("json", "xml"), "json"),
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
      if (!known.includes(name as (typeof known)[number])) {
        problems.push(`PROVIDERS names an unknown provider "${name}"; use ${known.join(", ")}`);
      }
    }
    if (values.WEBHOOK_RETRY_DELAYS?.some((delay) => !/^\d{1,6}(\.\d{1,3})?$/.test(delay))) {
      problems.push("WEBHOOK_RETRY_DELAYS must be seconds with commas, e.g. 5,60,300");
    }
    for (const name of ["WEBHOOK_ALLOW_ADDRESSES", "KASPI_BILLER_ADDRESSES", "TRUSTED_PROXIES"] as const) {
      try {
        createAddressList(values[name] ?? []);
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        problems.push(`${name}: ${error.message}`);
      }
    }
    return problems;
  },
);

/** The variables of a shop at Robokassa are needed only where PROVIDERS names it. */
const robokassa = settings.PROVIDERS.includes("robokassa")
  ? configure(robokassaVariables, robokassaProblems)
  : undefined;

const clientAddress = createClientAddress({ trustedProxies: settings.TRUSTED_PROXIES });

const providers: Readonly<Record<(typeof known)[number], () => PaymentProvider>> = {
  sandbox: createSandboxProvider,
  "kaspi-biller": () =>
    createKaspiBillerProvider({
      ...(settings.KASPI_BILLER_ADDRESSES ? { addresses: settings.KASPI_BILLER_ADDRESSES } : {}),
      format: settings.KASPI_BILLER_FORMAT,
      clientAddress,
    }),
  robokassa() {
    const shop = robokassa as NonNullable<typeof robokassa>;
    return createRobokassaProvider({
      robokassa: createRobokassa(robokassaOptions(shop)),
      currency: shop.ROBOKASSA_COUNTRY === "kz" ? "KZT" : "RUB",
    });
  },
};

await start(async () => {
  const logger = createJsonLogger(settings.LOG_LEVEL);
  if (settings.REDIS_URL !== undefined) logger.warn("REDIS_URL is set, but this version does not use it yet");

  const database = await openDatabase(settings.DATABASE_URL);
  const keys = [...(settings.ENCRYPTION_KEYS ?? [])].map(([id, key]) => `${id}:${key}`).join(",");
  const storage = createPaymentGatewayStorage({
    ...database,
    ...(keys === "" ? {} : { cipher: createCipher({ keys }) }),
  });
  await storage.migrate();

  const gateway = createPaymentGateway({
    storage,
    providers: settings.PROVIDERS.map((name) => providers[name as (typeof known)[number]]()),
    publicUrl: settings.PUBLIC_URL,
    tokens: [...settings.API_TOKENS].map(([merchant, token]) => ({ merchant, token })),
    admin: { password: settings.ADMIN_PASSWORD, sessionSecret: settings.SESSION_SECRET, clientAddress },
    webhooks: { allowAddresses: settings.WEBHOOK_ALLOW_ADDRESSES },
    ...(settings.WEBHOOK_RETRY_DELAYS
      ? { retryDelaysMs: settings.WEBHOOK_RETRY_DELAYS.map((delay) => Math.round(Number(delay) * 1000)) }
      : {}),
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
      await fastify.close();
      await database.close();
    },
  };
});
