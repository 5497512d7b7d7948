// A payment gateway of your own: payments API, pay page, signed webhooks. Configured by environment variables only.
import { ConfigError } from "@orderbridge/core";
import { toFastifyPlugin } from "@orderbridge/core/fastify";
import { openDatabase } from "@orderbridge/core/kysely";
import { createAddressList } from "@orderbridge/core/node";
import { commonVariables, configure, createJsonLogger, start, variables } from "@orderbridge/example-support";
import { createPaymentGateway, type PaymentProvider } from "@orderbridge/payment-gateway";
import { createPaymentGatewayStorage } from "@orderbridge/payment-gateway/kysely";
import { createSandboxProvider } from "@orderbridge/payment-gateway/providers/sandbox";
import Fastify from "fastify";

const available: Readonly<Record<string, () => PaymentProvider>> = {
  sandbox: createSandboxProvider,
};
const names = Object.keys(available).join(", ");

const settings = configure(
  {
    ...commonVariables({ port: 3004, database: "sqlite:./payment-gateway.db" }),
    API_TOKENS: variables.pairs("merchant=token pairs with commas; make a token with: openssl rand -hex 24"),
    PUBLIC_URL: variables.url("the address under which payers reach this server, e.g. https://pay.example"),
    PROVIDERS: variables.list(`names with commas out of: ${names}`),
    WEBHOOK_ALLOW_ADDRESSES: variables.withDefault(variables.list("addresses or CIDRs with commas"), []),
    WEBHOOK_RETRY_DELAYS: variables.optional(variables.list("seconds with commas, e.g. 5,60,300")),
  },
  ({ API_TOKENS, PROVIDERS, WEBHOOK_ALLOW_ADDRESSES, WEBHOOK_RETRY_DELAYS = [] }) => {
    const problems: string[] = [];
    for (const [merchant, token] of API_TOKENS) {
      if (token.length < 16) problems.push(`API_TOKENS holds a token of "${merchant}" with less than 16 characters`);
    }
    for (const name of PROVIDERS) {
      if (!Object.hasOwn(available, name)) problems.push(`PROVIDERS names an unknown provider "${name}"; use ${names}`);
    }
    if (WEBHOOK_RETRY_DELAYS.some((delay) => !/^\d{1,6}(\.\d{1,3})?$/.test(delay))) {
      problems.push("WEBHOOK_RETRY_DELAYS must be seconds with commas, e.g. 5,60,300");
    }
    try {
      createAddressList(WEBHOOK_ALLOW_ADDRESSES);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      problems.push(`WEBHOOK_ALLOW_ADDRESSES: ${error.message}`);
    }
    return problems;
  },
);

await start(async () => {
  const logger = createJsonLogger(settings.LOG_LEVEL);
  for (const name of ["REDIS_URL", "ENCRYPTION_KEYS"] as const) {
    if (settings[name] !== undefined) logger.warn(`${name} is set, but this version does not use it yet`);
  }

  const database = await openDatabase(settings.DATABASE_URL);
  const storage = createPaymentGatewayStorage(database);
  await storage.migrate();

  const gateway = createPaymentGateway({
    storage,
    providers: settings.PROVIDERS.map((name) => (available[name] as () => PaymentProvider)()),
    publicUrl: settings.PUBLIC_URL,
    tokens: [...settings.API_TOKENS].map(([merchant, token]) => ({ merchant, token })),
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
  await fastify.register(
    toFastifyPlugin({ "/api/*": gateway.handle, "/pay/*": gateway.handle, "/providers/*": gateway.handle }, { logger }),
  );
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
