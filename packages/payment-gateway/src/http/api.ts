import { createHash } from "node:crypto";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import * as v from "valibot";
import type { RequestKey } from "../engine.ts";
import { parseExactJson } from "../exact-json.ts";
import { Refusal } from "../refusal.ts";
import {
  type createInitRequest,
  defaultListed,
  defaultOverlapMs,
  endpointRequest,
  eventsQuery,
  idempotencyKey,
  listQuery,
  refundRequest,
  rotateRequest,
} from "../schemas.ts";
import type { ApiScope } from "../tokens.ts";
import {
  type addedEndpointAnswer,
  type endpointsAnswer,
  type idAnswer,
  type paymentsAnswer,
  type rotatedEndpointAnswer,
  type rotatedOwnAnswer,
  type shownAnswer,
  toCreated,
  toEndpointAnswer,
  toPaymentAnswer,
  toRefundedAnswer,
  toShownAnswer,
} from "./answers.ts";
import { readCursor, toCursor } from "./cursor.ts";
import { problem } from "./problem.ts";
import type { SurfaceOptions } from "./surface.ts";

interface Variables {
  readonly merchant: string;
}
type ApiContext = Context<{ Variables: Variables }>;

/** `/api`: for merchants, with `X-API-Token`. */
export function createApi({
  payments,
  endpoints,
  secrets,
  storage,
  tokens,
  initRequest,
}: Pick<SurfaceOptions, "payments" | "endpoints" | "secrets" | "storage" | "tokens"> & {
  readonly initRequest: ReturnType<typeof createInitRequest>;
}): Hono<{ Variables: Variables }> {
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
    return success(toCreated(created));
  });

  app.get("/payment/:id", requires("read"), async (context) => {
    const [merchant, id] = [context.get("merchant"), context.req.param("id")];
    const payment = await payments.get(merchant, id);
    if (!payment) throw new Refusal("not_found", "there is no such payment");
    const refunds = payment.paidMinor > 0n ? await payments.refunds(merchant, id) : [];
    return success<typeof shownAnswer>(toShownAnswer(payment, refunds));
  });

  app.get("/payments", requires("read"), async (context) => {
    const { status, search = "", after = "", limit = defaultListed } = check(listQuery, context.req.query(), "query");
    const behind = readCursor(after);
    const found = await payments.list(
      context.get("merchant"),
      {
        ...(status === undefined ? {} : { status }),
        ...(search === "" ? {} : { search }),
        ...(behind === undefined ? {} : { after: behind }),
      },
      limit + 1,
    );
    const shown = found.slice(0, limit);
    const last = shown.at(-1);
    return success<typeof paymentsAnswer>({
      payments: shown.map(toPaymentAnswer),
      next: last !== undefined && found.length > shown.length ? toCursor(last) : null,
    });
  });

  app.post("/payment/:id/cancel", requires("create"), async (context) => {
    return success(toPaymentAnswer(await payments.cancel(context.get("merchant"), context.req.param("id"))));
  });

  app.post("/payment/:id/refund", requires("refund"), async (context) => {
    const { input, key } = await readRequest(context, refundRequest);
    const { payment, refund } = await payments.refund({
      merchant: context.get("merchant"),
      id: context.req.param("id"),
      amountMinor: input.amount,
      idempotency: key,
    });
    const answer = answerText(toRefundedAnswer(payment, refund));
    // While its outcome is open a repeated request is told the present state. The payment goes on changing afterwards, but
    // then who repeats the request is told what was told before.
    const isFinal = key !== undefined && refund.status !== "pending";
    return json(isFinal ? await storage.keepRefundAnswer(refund.id, answer) : answer);
  });

  app.get("/events", requires("read"), async (context) => {
    const { after = "" } = check(eventsQuery, context.req.query(), "query");
    const { bodies, next } = await payments.events(context.get("merchant"), after);
    // The stored bytes, so that a reader sees exactly what a webhook carried.
    return json(`{"success":true,"data":{"events":[${bodies.join(",")}],"next":${JSON.stringify(next)}}}`);
  });

  app.post("/events/:id/resend", requires("create"), async (context) => {
    await payments.resend(context.get("merchant"), context.req.param("id"));
    return success<typeof idAnswer>({ id: context.req.param("id") });
  });

  app.post("/webhook-endpoints", requires("admin"), async (context) => {
    const { input } = await readRequest(context, endpointRequest);
    const { endpoint, secret } = await endpoints.add({ merchant: context.get("merchant"), ...input });
    return success<typeof addedEndpointAnswer>({ ...toEndpointAnswer(endpoint), secret });
  });

  app.get("/webhook-endpoints", requires("admin"), async (context) => {
    const found = await endpoints.list(context.get("merchant"));
    return success<typeof endpointsAnswer>({ endpoints: found.map(toEndpointAnswer) });
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
    return success<typeof rotatedEndpointAnswer>({ id, secret, overlap: overlapMs / 1000 });
  });

  app.post("/webhook-secret/rotate", requires("admin"), async (context) => {
    const { input } = await readRequest(context, rotateRequest);
    const overlapMs = input.overlap === undefined ? defaultOverlapMs : input.overlap * 1000;
    const { secret } = await secrets.rotate({ merchant: context.get("merchant"), secret: input.secret, overlapMs });
    return success<typeof rotatedOwnAnswer>({ secret, overlap: overlapMs / 1000 });
  });

  for (const action of ["enable", "disable"] as const) {
    app.post(`/webhook-endpoints/:id/${action}`, requires("admin"), async (context) => {
      const id = context.req.param("id");
      await endpoints[action](context.get("merchant"), id);
      return success<typeof idAnswer>({ id });
    });
  }

  app.delete("/webhook-endpoints/:id", requires("admin"), async (context) => {
    const id = context.req.param("id");
    await endpoints.remove(context.get("merchant"), id);
    return success<typeof idAnswer>({ id });
  });

  for (const [path, routes] of Map.groupBy(app.routes, (route) => route.path)) {
    const allow = [...new Set(routes.map(({ method }) => method))].join(", ");
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
  return { input: check(schema, parsed, "body"), key: readKey(context, body) };
}

/** @throws {Refusal} naming the field that is wrong first. */
function check<Schema extends v.GenericSchema>(schema: Schema, value: unknown, what: string): v.InferOutput<Schema> {
  const result = v.safeParse(schema, value, { abortPipeEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const message =
    issue.type === "strict_object"
      ? issue.expected === "never"
        ? "is not a field of this request"
        : "is missing"
      : issue.message;
  throw new Refusal("invalid", message, v.getDotPath(issue) ?? what);
}

function readKey(context: ApiContext, body: Uint8Array): RequestKey | undefined {
  const header = context.req.header("idempotency-key");
  if (header === undefined) return undefined;
  const key = check(idempotencyKey, header, "Idempotency-Key");
  const { method, path } = context.req;
  const fingerprint = createHash("sha256").update(`${method} ${path}\n`).update(body).digest("hex");
  return { key, fingerprint };
}

const json = (body: string): Response =>
  new Response(body, { headers: { "content-type": "application/json", "cache-control": "no-store" } });

const answerText = (data: unknown): string => JSON.stringify({ success: true, data });

const success = <Schema extends v.GenericSchema>(data: v.InferInput<Schema>): Response => json(answerText(data));
