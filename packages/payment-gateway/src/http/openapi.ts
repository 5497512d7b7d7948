import { type ConversionConfig, toJsonSchema, toJsonSchemaDefs } from "@valibot/to-json-schema";
import type * as v from "valibot";
import type { PaymentEventName } from "../payment.ts";
import {
  type createInitRequest,
  endpointRequest,
  eventsQuery,
  idempotencyKey,
  listQuery,
  refundRequest,
  rotateRequest,
} from "../schemas.ts";
import { type ApiScope, apiScopes } from "../tokens.ts";
import {
  addedEndpointAnswer,
  createdAnswer,
  endpointAnswer,
  endpointsAnswer,
  eventsAnswer,
  idAnswer,
  paymentAnswer,
  paymentsAnswer,
  problemAnswer,
  refundAnswer,
  refundedAnswer,
  rotatedEndpointAnswer,
  rotatedOwnAnswer,
  shownAnswer,
  webhookBodies,
  webhookBody,
} from "./answers.ts";

/** A part of the document. */
export type Schema = Readonly<Record<string, unknown>>;

interface Route {
  readonly operationId: string;
  readonly summary: string;
  /** What the token must be allowed; one with `admin` always is. */
  readonly scope: ApiScope;
  /** Component of the body, and whether there must be one. */
  readonly request?: { readonly name: string; readonly required: boolean };
  readonly query?: typeof listQuery | typeof eventsQuery;
  readonly repeatable?: true;
  /** Component of `data`, and what it is. */
  readonly answer: readonly [name: string, description: string];
  readonly refusals: readonly number[];
}

const events: Readonly<Record<PaymentEventName, string>> = {
  paid: "Paid in full, or more money arrived on a payment that was.",
  partially_paid: "Some money arrived, less than asked for.",
  cancelled: "Cancelled by the API or by the provider.",
  refunded: "Money went back: all of it, or a part (then `status` stays `paid`).",
  expired: "Nobody paid in time.",
};

const webhookName = (event: string): string => `Webhook_${event}`;

const components = (initRequest: ReturnType<typeof createInitRequest>) => ({
  InitRequest: initRequest,
  RefundRequest: refundRequest,
  EndpointRequest: endpointRequest,
  RotateRequest: rotateRequest,
  Created: createdAnswer,
  Payment: paymentAnswer,
  PaymentWithRefunds: shownAnswer,
  Payments: paymentsAnswer,
  Refund: refundAnswer,
  RefundedPayment: refundedAnswer,
  Events: eventsAnswer,
  Endpoint: endpointAnswer,
  Endpoints: endpointsAnswer,
  AddedEndpoint: addedEndpointAnswer,
  RotatedEndpoint: rotatedEndpointAnswer,
  RotatedOwn: rotatedOwnAnswer,
  Id: idAnswer,
  ...Object.fromEntries(Object.entries(webhookBodies).map(([event, body]) => [webhookName(event), body])),
  Webhook: webhookBody,
  Problem: problemAnswer,
});

const paths: Readonly<Record<string, Readonly<Partial<Record<"get" | "post" | "delete", Route>>>>> = {
  "/api/payment/init": {
    post: {
      operationId: "createPayment",
      scope: "create",
      summary: "Create a payment",
      request: { name: "InitRequest", required: true },
      repeatable: true,
      answer: ["Created", "The payment."],
      refusals: [400, 401, 403, 409, 413, 422, 502],
    },
  },
  "/api/payments": {
    get: {
      operationId: "listPayments",
      scope: "read",
      summary: "List payments, the newest first",
      query: listQuery,
      answer: ["Payments", "A page of payments."],
      refusals: [400, 401, 403],
    },
  },
  "/api/payment/{id}": {
    get: {
      operationId: "getPayment",
      scope: "read",
      summary: "Read a payment and its refunds",
      answer: ["PaymentWithRefunds", "The payment."],
      refusals: [401, 403, 404],
    },
  },
  "/api/payment/{id}/cancel": {
    post: {
      operationId: "cancelPayment",
      scope: "create",
      summary: "End a payment that has no money",
      answer: ["Payment", "The payment."],
      refusals: [401, 403, 404, 409],
    },
  },
  "/api/payment/{id}/refund": {
    post: {
      operationId: "refundPayment",
      scope: "refund",
      summary: "Give money back",
      request: { name: "RefundRequest", required: false },
      repeatable: true,
      answer: ["RefundedPayment", "The payment and its refund."],
      refusals: [400, 401, 403, 404, 409, 413, 422],
    },
  },
  "/api/events": {
    get: {
      operationId: "listEvents",
      scope: "read",
      summary: "Everything that happened since a cursor, without gaps",
      query: eventsQuery,
      answer: ["Events", "A page of events."],
      refusals: [400, 401, 403],
    },
  },
  "/api/events/{id}/resend": {
    post: {
      operationId: "resendEvent",
      scope: "create",
      summary: "Send the webhook of an event again",
      answer: ["Id", "It is on its way."],
      refusals: [401, 403, 404, 409],
    },
  },
  "/api/webhook-endpoints": {
    get: {
      operationId: "listWebhookEndpoints",
      scope: "admin",
      summary: "List the addresses that hear of all your payments",
      answer: ["Endpoints", "Endpoints, the oldest first."],
      refusals: [401, 403],
    },
    post: {
      operationId: "addWebhookEndpoint",
      scope: "admin",
      summary: "Add an address that hears of all your payments from now on",
      request: { name: "EndpointRequest", required: true },
      answer: ["AddedEndpoint", "The endpoint."],
      refusals: [400, 401, 403, 409, 413],
    },
  },
  "/api/webhook-endpoints/{id}": {
    delete: {
      operationId: "removeWebhookEndpoint",
      scope: "admin",
      summary: "Remove an endpoint; what waits for it is dropped",
      answer: ["Id", "It is gone."],
      refusals: [401, 403, 404],
    },
  },
  "/api/webhook-endpoints/{id}/rotate": {
    post: {
      operationId: "rotateWebhookSecret",
      scope: "admin",
      summary: "Sign with a new secret; the former ones sign beside it during the overlap",
      request: { name: "RotateRequest", required: false },
      answer: ["RotatedEndpoint", "The new secret, and the overlap."],
      refusals: [400, 401, 403, 404, 409, 413],
    },
  },
  "/api/webhook-secret/rotate": {
    post: {
      operationId: "rotateOwnSecret",
      scope: "admin",
      summary:
        "Sign with a new secret of your own where a payment named none; the former ones sign beside it during the overlap",
      request: { name: "RotateRequest", required: false },
      answer: ["RotatedOwn", "The new secret, and the overlap."],
      refusals: [400, 401, 403, 409, 413],
    },
  },
  "/api/webhook-endpoints/{id}/enable": {
    post: {
      operationId: "enableWebhookEndpoint",
      scope: "admin",
      summary: "Switch an endpoint on again; it hears of events from now on",
      answer: ["Id", "Done."],
      refusals: [401, 403, 404],
    },
  },
  "/api/webhook-endpoints/{id}/disable": {
    post: {
      operationId: "disableWebhookEndpoint",
      scope: "admin",
      summary: "Switch an endpoint off; what waits for it is dropped",
      answer: ["Id", "Done."],
      refusals: [401, 403, 404],
    },
  },
};

const refusalTexts: Readonly<Record<number, string>> = {
  400: "A field is wrong; `errors` names it.",
  401: "No valid token.",
  403: "The token lacks the scope.",
  404: "There is no such thing, or it belongs to another merchant.",
  409: "The payment's state does not allow it, or a request with the same key is at work (`code: in_flight`).",
  413: "The body is too large.",
  422: "The Idempotency-Key was used for another request.",
  502: "The provider did not start the payment; repeat with the same key.",
};

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

const reference = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });

/**
 * Checks and transformations that valibot cannot express stand beside a `v.metadata` that says it. Whatever else it does
 * not know stops the start instead of being left out.
 */
const conversion: ConversionConfig = {
  typeMode: "output",
  target: "draft-2020-12",
  overrideRef: ({ referenceId }) => `#/components/schemas/${referenceId}`,
  overrideSchema: ({ valibotSchema, jsonSchema }) => (valibotSchema.type === "custom" ? jsonSchema : undefined),
  overrideAction: ({ valibotAction, jsonSchema }) =>
    ["check", "transform", "raw_transform"].includes(valibotAction.type) ? jsonSchema : undefined,
};

function toSchema(schema: v.GenericSchema): Schema {
  const { $schema: _dialect, ...converted } = toJsonSchema(schema, conversion);
  return converted;
}

/** In a document a parameter's description stands beside its schema. */
function toParameter(place: string, name: string, schema: v.GenericSchema, required = false): Schema {
  const { description, ...converted } = toSchema(schema);
  return { name, in: place, required, ...(description === undefined ? {} : { description }), schema: converted };
}

const json = (schema: Schema): Schema => ({ "application/json": { schema } });

function toOperation(path: string, route: Route): Schema {
  const { operationId, summary, scope, request, query, repeatable, answer, refusals } = route;
  const parameters = [
    ...(path.includes("{id}") ? [{ name: "id", in: "path", required: true, schema: { type: "string" } }] : []),
    ...Object.entries(query?.entries ?? {}).map(([name, schema]) => toParameter("query", name, schema)),
    ...(repeatable ? [toParameter("header", "Idempotency-Key", idempotencyKey)] : []),
  ];
  const [name, description] = answer;
  const body = {
    type: "object",
    properties: { success: { const: true }, data: reference(name) },
    required: ["success", "data"],
  };
  return {
    operationId,
    summary,
    security: [{ token: [scope] }],
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(request ? { requestBody: { required: request.required, content: json(reference(request.name)) } } : {}),
    responses: {
      200: { description, content: json(body) },
      ...Object.fromEntries(refusals.map((status) => [status, { $ref: `#/components/responses/${status}` }])),
      default: { $ref: "#/components/responses/default" },
    },
  };
}

const toProblem = (description: string): Schema => ({
  description,
  content: { "application/problem+json": { schema: reference("Problem") } },
});

/** OpenAPI 3.1 of the merchants' API and its webhooks, from the schemas that the routes themselves use. */
export function createOpenApi({
  publicUrl,
  initRequest,
}: {
  readonly publicUrl: string;
  readonly initRequest: ReturnType<typeof createInitRequest>;
}): Schema {
  return {
    openapi: "3.1.0",
    info: {
      title: "Payments",
      version: "1",
      description: "Create payments, read them, and hear of them by signed webhook.",
    },
    servers: [{ url: publicUrl }],
    paths: Object.fromEntries(
      Object.entries(paths).map(([path, operations]) => [
        path,
        Object.fromEntries(Object.entries(operations).map(([method, route]) => [method, toOperation(path, route)])),
      ]),
    ),
    webhooks: Object.fromEntries(
      Object.entries(events).map(([event, summary]) => [
        event,
        {
          post: {
            operationId: `on_${event}`,
            summary,
            security: [],
            parameters: webhookHeaders,
            requestBody: { required: true, content: json(reference(webhookName(event))) },
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
      securitySchemes: {
        token: {
          type: "apiKey",
          in: "header",
          name: "X-API-Token",
          description: `Each route names the scope that it needs: ${apiScopes.join(", ")}. A token with \`admin\` may do everything.`,
        },
      },
      schemas: {
        ...toJsonSchemaDefs(components(initRequest), conversion),
        Webhook: {
          oneOf: Object.keys(events).map((event) => reference(webhookName(event))),
          discriminator: {
            propertyName: "event",
            mapping: Object.fromEntries(
              Object.keys(events).map((event) => [event, `#/components/schemas/${webhookName(event)}`]),
            ),
          },
        },
      },
      responses: {
        ...Object.fromEntries(Object.entries(refusalTexts).map(([code, text]) => [code, toProblem(text)])),
        default: toProblem("Anything else; 5xx may be repeated with the same Idempotency-Key."),
      },
    },
  };
}
