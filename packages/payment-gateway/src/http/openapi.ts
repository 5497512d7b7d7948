import { currencies } from "../money.ts";
import { metadataLimits } from "../schemas.ts";

/** A part of the document. */
export type Schema = Readonly<Record<string, unknown>>;

const reference = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });
const object = (properties: Readonly<Record<string, Schema>>, required: readonly string[], strict = false): Schema => ({
  type: "object",
  properties,
  required,
  ...(strict ? { additionalProperties: false } : {}),
});
const json = (schema: Schema): Schema => ({ "application/json": { schema } });
const answer = (description: string, data: Schema): Schema => ({
  description,
  content: json(object({ success: { const: true }, data }, ["success", "data"])),
});
const refusals = (...statuses: readonly number[]): Readonly<Record<string, Schema>> =>
  Object.fromEntries(statuses.map((status) => [status, { $ref: `#/components/responses/${status}` }]));

const text = (description: string): Schema => ({ type: "string", description });
const money: Schema = { type: "string", pattern: "^[0-9]+\\.[0-9]{2}$", examples: ["500.00"] };
const instant: Schema = { type: "string", format: "date-time" };
const amountIn: Schema = {
  description: "Major units with at most two decimals, as a JSON number or as text.",
  oneOf: [
    { type: "number", minimum: 0.01 },
    { type: "string", pattern: "^(0|[1-9][0-9]*)(\\.[0-9]{1,2})?$" },
  ],
  examples: [500, "500.50"],
};
const metadata: Schema = {
  type: "object",
  description: `Comes back unchanged in every webhook. At most ${metadataLimits.maxKeys} keys, ${metadataLimits.maxDepth} levels, ${metadataLimits.maxBytes} bytes.`,
};
const status: Schema = {
  enum: ["pending", "processing", "partially_paid", "paid", "cancelled", "expired", "refunded"],
};

const sums = {
  amount: money,
  paid_amount: { ...money, description: "All money that arrived; refunds do not lower it." },
  refunded_amount: money,
  remaining_amount: money,
  overpaid_amount: money,
};

const initRequest = {
  amount: amountIn,
  currency: { enum: currencies, default: "KZT" },
  description: { type: "string", maxLength: 500 },
  webhook_url: { type: "string", format: "uri", description: "HTTPS. Events of this payment are posted here." },
  webhook_secret: {
    type: "string",
    minLength: 8,
    maxLength: 256,
    description: "Signs the webhooks. `whsec_…` is base64, any other text stands for its UTF-8 bytes.",
  },
  metadata,
  return_url: { type: "string", format: "uri", description: "A link on the pay page." },
  expires_in: { type: "integer", minimum: 60, maximum: 2_592_000, default: 3_600, description: "Seconds." },
  provider: text("A way to pay; left out: the first one of this gateway."),
};

const created = {
  transaction_id: { type: "string", pattern: "^[A-Za-z0-9_-]+$" },
  status,
  amount: money,
  currency: { enum: currencies },
  payment_url: { type: "string", format: "uri" },
  expires_at: instant,
  metadata,
  webhook_secret: text("The signing secret in the form that Standard Webhooks libraries take."),
  account: text("What the payer types, for providers that work so."),
};

const payment = {
  transaction_id: { type: "string" },
  status,
  ...sums,
  currency: { enum: currencies },
  description: { type: "string" },
  provider: { type: "string" },
  late: { type: "boolean", description: "Money arrived after the payment had ended." },
  test: { type: "boolean", description: "No real money." },
  metadata,
  created_at: instant,
  expires_at: instant,
  account: { type: "string" },
};

const endpointSecret: Schema = {
  type: "string",
  minLength: 8,
  maxLength: 256,
  description: "`whsec_…` is base64, any other text stands for its UTF-8 bytes. Left out: a random one.",
};

const endpoint = {
  id: { type: "string" },
  url: { type: "string", format: "uri" },
  state: { enum: ["enabled", "disabled", "gone"], description: "`gone`: it answered 410 and is not called any more." },
  created_at: instant,
};
const shownSecret = text("In the form that Standard Webhooks libraries take; shown here and never again.");

const webhookBody = (event: string): Schema => {
  const properties = {
    event: { const: event },
    id: { type: "string", description: "The event's id, as in the header `webhook-id`. Take each one once." },
    sequence: { type: "integer", minimum: 1, description: "Number of the event within its payment." },
    transaction_id: { type: "string" },
    ...sums,
    ...(event === "refunded" ? { refund_amount: { ...money, description: "The sum of this refund." } } : {}),
    currency: { enum: currencies },
    status,
    late: { type: "boolean" },
    test: { type: "boolean" },
    metadata,
    created_at: instant,
    timestamp: { ...instant, description: "When the event happened; the same on every try." },
  };
  return object(properties, Object.keys(properties));
};

const events = {
  paid: "Paid in full, or more money arrived on a payment that was.",
  partially_paid: "Some money arrived, less than asked for.",
  cancelled: "Cancelled by the API or by the provider.",
  refunded: "Money went back: all of it, or a part (then `status` stays `paid`).",
  expired: "Nobody paid in time.",
} as const;

const schemaName = (event: string): string => `Webhook_${event}`;

const header = (name: string, description: string, required = true): Schema => ({
  name,
  in: "header",
  required,
  description,
  schema: { type: "string" },
});

const webhookHeaders: readonly Schema[] = [
  header("webhook-id", "The event's id; the same on every try."),
  header("webhook-timestamp", "Unix seconds of this try. Refuse what is more than 300 seconds away."),
  header(
    "webhook-signature",
    "`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`; several, with spaces, while a secret is replaced.",
  ),
  header("X-Webhook-Event", "The event's name.", false),
  header("X-Webhook-Timestamp", "As `webhook-timestamp`; not signed by the header below.", false),
  header(
    "X-Webhook-Signature",
    "Hex HMAC-SHA256 of the body, key = the secret's text. Says nothing about the age.",
    false,
  ),
];

const idParameter: Schema = { name: "id", in: "path", required: true, schema: { type: "string" } };
const keyParameter: Schema = {
  ...header("Idempotency-Key", "Makes the request safe to repeat: same body, same answer.", false),
  schema: { type: "string", minLength: 1, maxLength: 128 },
};

const problem: Schema = object(
  {
    type: { type: "string", format: "uri-reference" },
    title: { type: "string" },
    status: { type: "integer" },
    detail: { type: "string" },
    success: { const: false },
    code: { type: "string" },
    errors: {
      type: "array",
      items: object({ pointer: { type: "string" }, detail: { type: "string" } }, ["pointer", "detail"]),
    },
  },
  ["type", "title", "status", "detail", "success", "code"],
);

const refusalTexts: Readonly<Record<number, string>> = {
  400: "A field is wrong; `errors` names it.",
  401: "No valid token.",
  403: "The token lacks the scope.",
  404: "There is no such thing, or it belongs to another merchant.",
  409: "The payment's state does not allow it, or a request with the same key is at work (`code: in_flight`).",
  422: "The Idempotency-Key was used for another request.",
  502: "The provider did not start the payment; repeat with the same key.",
};

/** OpenAPI 3.1 of the merchants' API and its webhooks. */
export function createOpenApi({ publicUrl }: { readonly publicUrl: string }): Schema {
  return {
    openapi: "3.1.0",
    info: {
      title: "Payments",
      version: "1",
      description: "Create payments, read them, and hear of them by signed webhook.",
    },
    servers: [{ url: publicUrl }],
    security: [{ token: [] }],
    paths: {
      "/api/payment/init": {
        post: {
          operationId: "createPayment",
          summary: "Create a payment",
          parameters: [keyParameter],
          requestBody: { required: true, content: json(reference("InitRequest")) },
          responses: { 200: answer("The payment.", reference("Created")), ...refusals(400, 401, 403, 409, 422, 502) },
        },
      },
      "/api/payments": {
        get: {
          operationId: "listPayments",
          summary: "List payments, the newest first",
          parameters: [
            { name: "status", in: "query", schema: status },
            {
              name: "search",
              in: "query",
              description: "The whole id or account, or a part of the description or metadata.",
              schema: { type: "string" },
            },
            { name: "after", in: "query", description: "Empty, or a former `next`.", schema: { type: "string" } },
            { name: "limit", in: "query", schema: { type: "integer", minimum: 1, maximum: 100, default: 50 } },
          ],
          responses: {
            200: answer(
              "Payments; `next` is null on the last page.",
              object({ payments: { type: "array", items: reference("Payment") }, next: { type: ["string", "null"] } }, [
                "payments",
                "next",
              ]),
            ),
            ...refusals(400, 401, 403),
          },
        },
      },
      "/api/payment/{id}": {
        get: {
          operationId: "getPayment",
          summary: "Read a payment",
          parameters: [idParameter],
          responses: { 200: answer("The payment.", reference("Payment")), ...refusals(401, 403, 404) },
        },
      },
      "/api/payment/{id}/cancel": {
        post: {
          operationId: "cancelPayment",
          summary: "End a payment that has no money",
          parameters: [idParameter],
          responses: { 200: answer("The payment.", reference("Payment")), ...refusals(401, 403, 404, 409) },
        },
      },
      "/api/payment/{id}/refund": {
        post: {
          operationId: "refundPayment",
          summary: "Give money back",
          parameters: [idParameter, keyParameter],
          requestBody: { content: json(reference("RefundRequest")) },
          responses: {
            200: answer("The payment and its refund.", {
              allOf: [reference("Payment"), object({ refund: reference("Refund") }, ["refund"])],
            }),
            ...refusals(400, 401, 403, 404, 409, 422),
          },
        },
      },
      "/api/events": {
        get: {
          operationId: "listEvents",
          summary: "Everything that happened since a cursor, without gaps",
          parameters: [
            { name: "after", in: "query", description: "Empty, or a former `next`.", schema: { type: "string" } },
          ],
          responses: {
            200: answer(
              "Webhook bodies, the oldest first.",
              object({ events: { type: "array", items: reference("Webhook") }, next: { type: "string" } }, [
                "events",
                "next",
              ]),
            ),
            ...refusals(400, 401, 403),
          },
        },
      },
      "/api/events/{id}/resend": {
        post: {
          operationId: "resendEvent",
          summary: "Send the webhook of an event again",
          parameters: [idParameter],
          responses: {
            200: answer("It is on its way.", object({ id: { type: "string" } }, ["id"])),
            ...refusals(401, 403, 404, 409),
          },
        },
      },
      "/api/webhook-endpoints": {
        get: {
          operationId: "listWebhookEndpoints",
          summary: "List the addresses that hear of all your payments",
          responses: {
            200: answer(
              "Endpoints, the oldest first.",
              object({ endpoints: { type: "array", items: reference("Endpoint") } }, ["endpoints"]),
            ),
            ...refusals(401, 403),
          },
        },
        post: {
          operationId: "addWebhookEndpoint",
          summary: "Add an address that hears of all your payments from now on",
          requestBody: { required: true, content: json(reference("EndpointRequest")) },
          responses: {
            200: answer("The endpoint.", {
              allOf: [reference("Endpoint"), object({ secret: shownSecret }, ["secret"])],
            }),
            ...refusals(400, 401, 403, 409),
          },
        },
      },
      "/api/webhook-endpoints/{id}": {
        delete: {
          operationId: "removeWebhookEndpoint",
          summary: "Remove an endpoint; what waits for it is given up",
          parameters: [idParameter],
          responses: {
            200: answer("It is gone.", object({ id: { type: "string" } }, ["id"])),
            ...refusals(401, 403, 404),
          },
        },
      },
      "/api/webhook-endpoints/{id}/rotate": {
        post: {
          operationId: "rotateWebhookSecret",
          summary: "Sign with a new secret; the former ones sign beside it during the overlap",
          parameters: [idParameter],
          requestBody: { content: json(reference("RotateRequest")) },
          responses: {
            200: answer(
              "The new secret, and the overlap in seconds.",
              object({ id: { type: "string" }, secret: shownSecret, overlap: { type: "integer" } }, [
                "id",
                "secret",
                "overlap",
              ]),
            ),
            ...refusals(400, 401, 403, 404, 409),
          },
        },
      },
      ...Object.fromEntries(
        (["enable", "disable"] as const).map((action) => [
          `/api/webhook-endpoints/{id}/${action}`,
          {
            post: {
              operationId: `${action}WebhookEndpoint`,
              summary:
                action === "enable"
                  ? "Switch an endpoint on again; it hears of events from now on"
                  : "Switch an endpoint off; what waits for it is given up",
              parameters: [idParameter],
              responses: {
                200: answer("Done.", object({ id: { type: "string" } }, ["id"])),
                ...refusals(401, 403, 404),
              },
            },
          },
        ]),
      ),
    },
    webhooks: Object.fromEntries(
      Object.entries(events).map(([event, summary]) => [
        event,
        {
          post: {
            operationId: `on_${event}`,
            summary,
            security: [],
            parameters: webhookHeaders,
            requestBody: { required: true, content: json(reference(schemaName(event))) },
            responses: {
              "2XX": { description: "Taken." },
              410: {
                description: "Never call again: an endpoint is switched off, the address of a payment is given up.",
              },
              default: { description: "Repeated by the schedule." },
            },
          },
        },
      ]),
    ),
    components: {
      securitySchemes: { token: { type: "apiKey", in: "header", name: "X-API-Token" } },
      schemas: {
        InitRequest: object(initRequest, ["amount"], true),
        RefundRequest: object({ amount: { ...amountIn, description: "Left out: all that is left." } }, [], true),
        Endpoint: object(endpoint, Object.keys(endpoint)),
        EndpointRequest: object(
          { url: { type: "string", format: "uri", description: "HTTPS." }, secret: endpointSecret },
          ["url"],
          true,
        ),
        RotateRequest: object(
          {
            secret: endpointSecret,
            overlap: {
              type: "integer",
              minimum: 0,
              maximum: 2_592_000,
              default: 86_400,
              description: "Seconds during which the former secrets sign too; 0 ends them at once.",
            },
          },
          [],
          true,
        ),
        Created: object(
          created,
          Object.keys(created).filter((name) => name !== "webhook_secret" && name !== "account"),
        ),
        Payment: object(
          payment,
          Object.keys(payment).filter((name) => name !== "account"),
        ),
        Refund: object(
          { id: { type: "string" }, amount: money, status: { enum: ["pending", "succeeded", "failed"] } },
          ["id", "amount", "status"],
        ),
        ...Object.fromEntries(Object.keys(events).map((event) => [schemaName(event), webhookBody(event)])),
        Webhook: {
          oneOf: Object.keys(events).map((event) => reference(schemaName(event))),
          discriminator: {
            propertyName: "event",
            mapping: Object.fromEntries(
              Object.keys(events).map((event) => [event, `#/components/schemas/${schemaName(event)}`]),
            ),
          },
        },
        Problem: problem,
      },
      responses: Object.fromEntries(
        Object.entries(refusalTexts).map(([code, description]) => [
          code,
          { description, content: { "application/problem+json": { schema: reference("Problem") } } },
        ]),
      ),
    },
  };
}
