import type { Clock, FetchHandler, Logger } from "@orderbridge/core";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { WebhookEndpoints } from "../endpoints.ts";
import type { Payments } from "../gateway.ts";
import type { MerchantSecrets } from "../merchant-secrets.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider, ProviderContext } from "../provider.ts";
import type { ProviderHealth } from "../provider-health.ts";
import { Refusal } from "../refusal.ts";
import { createInitRequest, type RequestDefaults } from "../schemas.ts";
import type { GatewayStorage } from "../storage.ts";
import type { TokenRegistry } from "../tokens.ts";
import { createAdminPages } from "./admin.ts";
import type { AdminOptions } from "./admin-session.ts";
import { createApi } from "./api.ts";
import { createDocsPage } from "./docs-page.ts";
import { createOpenApi } from "./openapi.ts";
import { createPayPage } from "./pay-page.ts";
import { problem, refusalAnswer } from "./problem.ts";

export interface SurfaceOptions {
  readonly payments: Payments;
  readonly endpoints: WebhookEndpoints;
  readonly secrets: MerchantSecrets;
  readonly tokens: Pick<TokenRegistry, "authenticate">;
  readonly providers: ReadonlyMap<string, PaymentProvider>;
  readonly contextOf: (provider: PaymentProvider) => ProviderContext;
  readonly findPayment: (id: string) => Promise<Payment | undefined>;
  readonly publicUrl: string;
  readonly defaults: Omit<RequestDefaults, "providers">;
  readonly logger: Logger;
  readonly storage: Pick<
    GatewayStorage,
    "listPayments" | "historyOf" | "health" | "activity" | "change" | "keepRefundAnswer"
  >;
  readonly clock: Clock;
  readonly admin: AdminOptions | undefined;
  readonly providerHealth: () => Promise<readonly ProviderHealth[]>;
}

const maxBodyBytes = 65_536;

/** Everything that the gateway answers over HTTP, as one handler. */
export function createHttpSurface(options: SurfaceOptions): FetchHandler {
  const { providers, contextOf, logger } = options;
  const app = new Hono();
  app.use(
    bodyLimit({
      maxSize: maxBodyBytes,
      onError: () => problem(413, "too_large", `a body may have at most ${maxBodyBytes} bytes`),
    }),
  );
  const initRequest = createInitRequest({ ...options.defaults, providers: [...providers.keys()] });
  app.route("/api", createApi({ ...options, initRequest }));
  app.route("/pay", createPayPage(options));

  const openApi = createOpenApi({ publicUrl: options.publicUrl, initRequest });
  const document = JSON.stringify(openApi);
  app.get("/openapi.json", () => new Response(document, { headers: { "content-type": "application/json" } }));

  app.route("/", createDocsPage({ publicUrl: options.publicUrl, openApi }));
  if (options.admin) app.route("/admin", createAdminPages({ ...options, admin: options.admin }));

  app.all("/providers/:name/:path{.*}?", async (context) => {
    const provider = providers.get(context.req.param("name"));
    if (!provider?.callback) return problem(404, "not_found", "there is no such provider");
    return provider.callback({
      request: context.req.raw,
      path: context.req.param("path") ?? "",
      body: new Uint8Array(await context.req.arrayBuffer()),
      context: contextOf(provider),
    });
  });

  app.notFound(() => problem(404, "not_found", "there is nothing at this address"));
  app.onError((error) => {
    if (error instanceof Refusal) return refusalAnswer(error);
    logger.error("request failed", { error });
    return problem(500, "internal", "the request failed; it may be repeated with the same Idempotency-Key");
  });
  return async (request) => app.fetch(request);
}
