import { createHash } from "node:crypto";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import * as v from "valibot";
import type { CreatedPayment } from "../creating.ts";
import { defaultOverlapMs } from "../endpoints.ts";
import type { RequestKey } from "../engine.ts";
import { parseExactJson } from "../exact-json.ts";
import { formatAmount } from "../money.ts";
import { type Payment, type PaymentStatus, paymentMoves, sums } from "../payment.ts";
import { Refusal } from "../refusal.ts";
import { endpointRequest, initRequest, refundRequest, rotateRequest } from "../schemas.ts";
import type { Refund, WebhookEndpoint } from "../storage.ts";
import type { ApiScope } from "../tokens.ts";
import { readCursor, toCursor } from "./cursor.ts";
import { problem } from "./problem.ts";
import type { SurfaceOptions } from "./surface.ts";

interface Variables {
  readonly merchant: string;
}
type ApiContext = Context<{ Variables: Variables }>;

const statuses = Object.keys(paymentMoves) as readonly PaymentStatus[];

/** Payments in one answer. */
const maxListed = 100;

/** `/api`: for merchants, with `X-API-Token`. */
export function createApi({
  payments,
  endpoints,
  tokens,
}: Pick<SurfaceOptions, "payments" | "endpoints" | "tokens">): Hono<{
  Variables: Variables;
}> {
  const app = new Hono<{ Variables: Variables }>();

  const requires =
    (scope: ApiScope): MiddlewareHandler<{ Variables: Variables }> =>
    async (context, next) => {
      const token = context.req.header("x-api-token") ?? "";
      const caller = token === "" ? undefined : await tokens.authenticate(token);
      if (!caller) throw new Refusal("unauthorized", "send your API token in the header X-API-Token");
      if (!caller.scopes.includes(scope) && !caller.scopes.includes("admin")) {
        throw new Refusal("forbidden", `this token lacks the scope "${scope}"`);
      }
      context.set("merchant", caller.merchant);
      await next();
    };

  app.post("/payment/init", requires("create"), async (context) => {
    const { input, key } = await readRequest(context, initRequest);
    const created = await payments.create({
      merchant: context.get("merchant"),
      amountMinor: input.amount,
      currency: input.currency,
      description: input.description,
      webhookUrl: input.webhook_url,
      webhookSecret: input.webhook_secret,
      metadata: input.metadata,
      returnUrl: input.return_url,
      lifeMs: input.expires_in === undefined ? undefined : input.expires_in * 1000,
      provider: input.provider,
      idempotency: key,
    });
    return success(initAnswer(created));
  });

  app.get("/payment/:id", requires("read"), async (context) => {
    const payment = await payments.get(context.get("merchant"), context.req.param("id"));
    if (!payment) throw new Refusal("not_found", "there is no such payment");
    return success(paymentAnswer(payment));
  });

  app.get("/payments", requires("read"), async (context) => {
    const { status, search, after = "", limit = "50" } = context.req.query();
    const known = statuses.find((one) => one === status);
    if (status !== undefined && known === undefined) {
      throw new Refusal("invalid", `must be one of ${statuses.join(", ")}`, "status");
    }
    const behind = readCursor(after);
    if (after !== "" && behind === undefined) throw new Refusal("invalid", 'must be empty or a former "next"', "after");
    if (!/^[1-9]\d{0,2}$/.test(limit) || Number(limit) > maxListed) {
      throw new Refusal("invalid", `must be a whole number from 1 to ${maxListed}`, "limit");
    }
    const found = await payments.list(
      context.get("merchant"),
      {
        ...(known === undefined ? {} : { status: known }),
        ...(search === undefined || search === "" ? {} : { search }),
        ...(behind === undefined ? {} : { after: behind }),
      },
      Number(limit) + 1,
    );
    const shown = found.slice(0, Number(limit));
    const last = shown.at(-1);
    return success({
      payments: shown.map(paymentAnswer),
      next: last !== undefined && found.length > shown.length ? toCursor(last) : null,
    });
  });

  app.post("/payment/:id/cancel", requires("create"), async (context) => {
    return success(paymentAnswer(await payments.cancel(context.get("merchant"), context.req.param("id"))));
  });

  app.post("/payment/:id/refund", requires("refund"), async (context) => {
    const { input, key } = await readRequest(context, refundRequest);
    const { payment, refund } = await payments.refund({
      merchant: context.get("merchant"),
      id: context.req.param("id"),
      amountMinor: input.amount,
      idempotency: key,
    });
    return success({ ...paymentAnswer(payment), refund: refundAnswer(refund) });
  });

  app.get("/events", requires("read"), async (context) => {
    const { bodies, next } = await payments.events(context.get("merchant"), context.req.query("after") ?? "");
    // The stored bytes, so that a reader sees exactly what a webhook carried.
    return json(`{"success":true,"data":{"events":[${bodies.join(",")}],"next":${JSON.stringify(next)}}}`);
  });

  app.post("/events/:id/resend", requires("create"), async (context) => {
    await payments.resend(context.get("merchant"), context.req.param("id"));
    return success({ id: context.req.param("id") });
  });

  app.post("/webhook-endpoints", requires("admin"), async (context) => {
    const { input } = await readRequest(context, endpointRequest);
    const { endpoint, secret } = await endpoints.add({ merchant: context.get("merchant"), ...input });
    return success({ ...endpointAnswer(endpoint), secret });
  });

  app.get("/webhook-endpoints", requires("admin"), async (context) => {
    const found = await endpoints.list(context.get("merchant"));
    return success({ endpoints: found.map(endpointAnswer) });
  });

  app.post("/webhook-endpoints/:id/rotate", requires("admin"), async (context) => {
    const { input } = await readRequest(context, rotateRequest);
    const id = context.req.param("id");
    const overlapMs = input.overlap === undefined ? defaultOverlapMs : input.overlap * 1000;
    const { secret } = await endpoints.rotate({
      merchant: context.get("merchant"),
      id,
      secret: input.secret,
      overlapMs,
    });
    return success({ id, secret, overlap: overlapMs / 1000 });
  });

  for (const action of ["enable", "disable"] as const) {
    app.post(`/webhook-endpoints/:id/${action}`, requires("admin"), async (context) => {
      const id = context.req.param("id");
      await endpoints[action](context.get("merchant"), id);
      return success({ id });
    });
  }

  app.delete("/webhook-endpoints/:id", requires("admin"), async (context) => {
    const id = context.req.param("id");
    await endpoints.remove(context.get("merchant"), id);
    return success({ id });
  });

  const allowed: readonly (readonly [string, string])[] = [
    ["/payment/init", "POST"],
    ["/payments", "GET"],
    ["/payment/:id", "GET"],
    ["/payment/:id/cancel", "POST"],
    ["/payment/:id/refund", "POST"],
    ["/events", "GET"],
    ["/events/:id/resend", "POST"],
    ["/webhook-endpoints", "GET, POST"],
    ["/webhook-endpoints/:id", "DELETE"],
    ["/webhook-endpoints/:id/rotate", "POST"],
    ["/webhook-endpoints/:id/enable", "POST"],
    ["/webhook-endpoints/:id/disable", "POST"],
  ];
  for (const [path, allow] of allowed) {
    app.all(path, () => problem(405, "method_not_allowed", `use ${allow}`, { headers: { allow } }));
  }
  return app;
}

/** Reads and checks a JSON body, and the key of a request that may be repeated. An empty body is `{}`. */
async function readRequest<Schema extends v.GenericSchema>(
  context: ApiContext,
  schema: Schema,
): Promise<{ readonly input: v.InferOutput<Schema>; readonly key: RequestKey | undefined }> {
  const body = new Uint8Array(await context.req.arrayBuffer());
  let parsed: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(body);
    parsed = text.trim() === "" ? {} : parseExactJson(text);
  } catch {
    throw new Refusal("invalid", "the body must be JSON in UTF-8");
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new Refusal("invalid", "the body must be a JSON object");
  }
  const result = v.safeParse(schema, parsed);
  if (!result.success) {
    const [issue] = result.issues;
    const path = v.getDotPath(issue) ?? "body";
    const message =
      issue.type === "strict_object"
        ? issue.expected === "never"
          ? "is not a field of this request"
          : "is missing"
        : issue.message;
    throw new Refusal("invalid", message, path);
  }
  return { input: result.output, key: readKey(context, body) };
}

function readKey(context: ApiContext, body: Uint8Array): RequestKey | undefined {
  const header = context.req.header("idempotency-key");
  if (header === undefined) return undefined;
  // A Structured Field String is quoted; almost everybody sends it bare. Both are the same key.
  const key = header.replace(/^"(.*)"$/, "$1");
  if (!/^[\x21-\x7e]{1,128}$/.test(key)) {
    throw new Refusal("invalid", "must have 1 to 128 visible ASCII characters", "Idempotency-Key");
  }
  const { method, path } = context.req;
  const fingerprint = createHash("sha256").update(`${method} ${path}\n`).update(body).digest("hex");
  return { key, fingerprint };
}

const json = (body: string): Response =>
  new Response(body, { headers: { "content-type": "application/json", "cache-control": "no-store" } });

const success = (data: unknown): Response => json(JSON.stringify({ success: true, data }));

/** What init answers depends only on what never changes, so a repeated request gets the same answer. */
function initAnswer({ payment, paymentUrl, webhookSecret }: CreatedPayment): object {
  return {
    transaction_id: payment.id,
    status: "pending",
    amount: formatAmount(payment.amountMinor),
    currency: payment.currency,
    payment_url: paymentUrl,
    expires_at: payment.expiresAt.toISOString(),
    metadata: parseExactJson(payment.metadata),
    ...(webhookSecret === undefined ? {} : { webhook_secret: webhookSecret }),
    ...(payment.account === undefined ? {} : { account: payment.account }),
  };
}

function paymentAnswer(payment: Payment): object {
  const { remainingMinor, overpaidMinor } = sums(payment);
  return {
    transaction_id: payment.id,
    status: payment.status,
    amount: formatAmount(payment.amountMinor),
    paid_amount: formatAmount(payment.paidMinor),
    refunded_amount: formatAmount(payment.refundedMinor),
    remaining_amount: formatAmount(remainingMinor),
    overpaid_amount: formatAmount(overpaidMinor),
    currency: payment.currency,
    description: payment.description,
    provider: payment.provider,
    late: payment.late,
    test: payment.test,
    metadata: parseExactJson(payment.metadata),
    created_at: payment.createdAt.toISOString(),
    expires_at: payment.expiresAt.toISOString(),
    ...(payment.account === undefined ? {} : { account: payment.account }),
  };
}

const endpointAnswer = ({ id, url, state, createdAt }: WebhookEndpoint): object => ({
  id,
  url,
  state,
  created_at: createdAt.toISOString(),
});

const refundAnswer = ({ id, amountMinor, status }: Refund): object => ({
  id,
  amount: formatAmount(amountMinor),
  status,
});
