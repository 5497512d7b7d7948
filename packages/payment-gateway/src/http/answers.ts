import * as v from "valibot";
import type { CreatedPayment } from "../creating.ts";
import { parseExactJson } from "../exact-json.ts";
import { currencies, formatAmount } from "../money.ts";
import { type Payment, type PaymentEventName, type PaymentStatus, paymentMoves, sums } from "../payment.ts";
import type { Refund, RefundStatus, WebhookEndpoint } from "../storage.ts";

/**
 * What the API answers and what webhooks carry. The OpenAPI document is generated from these schemas, and the functions
 * beside them give what their types say; the tests hold every real answer against the document.
 */

type AsJson = Readonly<Record<string, unknown>>;

const money = (description?: string) =>
  v.pipe(
    v.string(),
    v.regex(/^[0-9]+\.[0-9]{2}$/),
    v.metadata({ examples: ["500.00"], ...(description === undefined ? {} : { description }) }),
  );
const instant = (description?: string) =>
  v.pipe(v.string(), v.isoTimestamp(), v.metadata(description === undefined ? {} : { description }));
const text = (description: string) => v.pipe(v.string(), v.description(description));
const status = v.picklist(Object.keys(paymentMoves) as PaymentStatus[]);
const id = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,64}$/));
const metadata = v.pipe(
  v.custom<AsJson>((value) => typeof value === "object" && value !== null && !Array.isArray(value)),
  v.metadata({ type: "object", description: "What the merchant attached, unchanged." }),
);

const sumsOf = {
  amount: money(),
  paid_amount: money("All money that arrived; refunds do not lower it."),
  refunded_amount: money(),
  remaining_amount: money(),
  overpaid_amount: money(),
};

export const createdAnswer = v.object({
  transaction_id: id,
  status: v.picklist(["pending"] satisfies PaymentStatus[]),
  amount: money(),
  currency: v.picklist(currencies),
  payment_url: v.pipe(v.string(), v.metadata({ format: "uri", description: "Send the payer there." })),
  expires_at: instant(),
  metadata,
  webhook_secret: v.optional(
    text(
      "Only with a `webhook_url`: the signing secret in the form that Standard Webhooks libraries take. Your own secret, where the request named none, is shown as it is now.",
    ),
  ),
  account: v.optional(text("What the payer types, for providers that work so.")),
});

export const paymentAnswer = v.object({
  transaction_id: id,
  status,
  ...sumsOf,
  refunding_amount: money("Refunds whose outcome is not known yet."),
  currency: v.picklist(currencies),
  description: v.string(),
  provider: v.string(),
  late: v.pipe(v.boolean(), v.description("Money arrived after the payment had ended.")),
  test: v.pipe(v.boolean(), v.description("No real money.")),
  metadata,
  created_at: instant(),
  expires_at: instant(),
  account: v.optional(v.string()),
});

export const refundAnswer = v.object({
  id,
  amount: money(),
  status: v.pipe(
    v.picklist(["pending", "succeeded", "failed"] satisfies RefundStatus[]),
    v.description(
      "`pending` settles by itself: a webhook `refunded` tells when it succeeded. That it failed is told by `refunds` of the payment only.",
    ),
  ),
  created_at: instant(),
  updated_at: instant("When its status became what it is."),
});

/** One payment by its id; lists leave its refunds out. */
export const shownAnswer = v.object({
  ...paymentAnswer.entries,
  refunds: v.pipe(v.array(refundAnswer), v.description("The oldest first; those that failed too.")),
});

export const refundedAnswer = v.object({ ...paymentAnswer.entries, refund: refundAnswer });

export const paymentsAnswer = v.object({
  payments: v.array(paymentAnswer),
  next: v.pipe(v.nullable(v.string()), v.description("Goes into `after`; null on the last page.")),
});

export const endpointAnswer = v.object({
  id,
  url: v.pipe(v.string(), v.metadata({ format: "uri" })),
  state: v.pipe(
    v.picklist(["enabled", "disabled", "gone"] satisfies WebhookEndpoint["state"][]),
    v.description("`gone`: it answered 410 and is not called any more."),
  ),
  created_at: instant(),
});

const shownSecret = v.pipe(
  v.string(),
  v.regex(/^whsec_[A-Za-z0-9+/]+={0,2}$/),
  v.description("In the form that Standard Webhooks libraries take; shown here and never again."),
);

export const addedEndpointAnswer = v.object({ ...endpointAnswer.entries, secret: shownSecret });

export const endpointsAnswer = v.object({ endpoints: v.array(endpointAnswer) });

const overlap = v.pipe(v.number(), v.integer(), v.minValue(0), v.description("Seconds."));

export const rotatedEndpointAnswer = v.object({ id, secret: shownSecret, overlap });

export const rotatedOwnAnswer = v.object({
  secret: v.pipe(
    shownSecret,
    v.description("In the form that Standard Webhooks libraries take; payments that it signs for show it too."),
  ),
  overlap,
});

export const idAnswer = v.object({ id });

const webhook = <const Event extends PaymentEventName>(event: Event) => {
  const { amount, paid_amount, refunded_amount, remaining_amount, overpaid_amount } = sumsOf;
  return {
    event: v.literal(event),
    id: v.pipe(id, v.description("The event's id, as in the header `webhook-id`. Take each one once.")),
    sequence: v.pipe(
      v.number(),
      v.integer(),
      v.minValue(1),
      v.description("Number of the event within its payment; keep the highest of each `transaction_id`."),
    ),
    transaction_id: id,
    amount,
    paid_amount,
    refunded_amount,
    remaining_amount,
    overpaid_amount,
    currency: v.picklist(currencies),
    status,
    late: v.boolean(),
    test: v.boolean(),
    metadata,
    created_at: instant(),
    timestamp: instant("When the event happened; the same on every try."),
  };
};

/** Bodies of webhooks, by event. */
export const webhookBodies = {
  paid: v.object(webhook("paid")),
  partially_paid: v.object(webhook("partially_paid")),
  cancelled: v.object(webhook("cancelled")),
  refunded: v.object({ ...webhook("refunded"), refund_amount: money("The sum of this refund.") }),
  expired: v.object(webhook("expired")),
} as const satisfies Readonly<Record<PaymentEventName, unknown>>;

export const webhookBody = v.variant("event", [
  webhookBodies.paid,
  webhookBodies.partially_paid,
  webhookBodies.cancelled,
  webhookBodies.refunded,
  webhookBodies.expired,
]);

export const eventsAnswer = v.object({
  events: v.pipe(v.array(webhookBody), v.description("Bodies of webhooks, the oldest first.")),
  next: text("Goes into `after`, also when there was nothing new."),
});

/** RFC 9457. */
export const problemAnswer = v.object({
  type: v.pipe(v.string(), v.metadata({ format: "uri-reference" })),
  title: v.string(),
  status: v.pipe(v.number(), v.integer()),
  detail: text("For people: what is wrong, and the field."),
  success: v.literal(false),
  code: text("For programs."),
  errors: v.optional(v.array(v.object({ pointer: text("A JSON Pointer, such as `#/amount`."), detail: v.string() }))),
});

/**
 * What init answers depends only on what never changes, so a repeated request gets the same answer; one exception: a
 * merchant's own secret that was rotated meanwhile is shown as it is now, because the former one ends.
 */
export function toCreated({ payment, paymentUrl, webhookSecret }: CreatedPayment): v.InferInput<typeof createdAnswer> {
  return {
    transaction_id: payment.id,
    status: "pending",
    amount: formatAmount(payment.amountMinor),
    currency: payment.currency,
    payment_url: paymentUrl,
    expires_at: payment.expiresAt.toISOString(),
    metadata: parseExactJson(payment.metadata) as AsJson,
    ...(webhookSecret === undefined ? {} : { webhook_secret: webhookSecret }),
    ...(payment.account === undefined ? {} : { account: payment.account }),
  };
}

export function toPaymentAnswer(payment: Payment): v.InferInput<typeof paymentAnswer> {
  const { remainingMinor, overpaidMinor } = sums(payment);
  return {
    transaction_id: payment.id,
    status: payment.status,
    amount: formatAmount(payment.amountMinor),
    paid_amount: formatAmount(payment.paidMinor),
    refunded_amount: formatAmount(payment.refundedMinor),
    remaining_amount: formatAmount(remainingMinor),
    overpaid_amount: formatAmount(overpaidMinor),
    refunding_amount: formatAmount(payment.refundingMinor),
    currency: payment.currency,
    description: payment.description,
    provider: payment.provider,
    late: payment.late,
    test: payment.test,
    metadata: parseExactJson(payment.metadata) as AsJson,
    created_at: payment.createdAt.toISOString(),
    expires_at: payment.expiresAt.toISOString(),
    ...(payment.account === undefined ? {} : { account: payment.account }),
  };
}

const toRefundAnswer = ({
  id,
  amountMinor,
  status,
  createdAt,
  updatedAt,
}: Refund): v.InferInput<typeof refundAnswer> => ({
  id,
  amount: formatAmount(amountMinor),
  status,
  created_at: createdAt.toISOString(),
  updated_at: updatedAt.toISOString(),
});

export const toShownAnswer = (payment: Payment, refunds: readonly Refund[]): v.InferInput<typeof shownAnswer> => ({
  ...toPaymentAnswer(payment),
  refunds: refunds.map(toRefundAnswer),
});

export const toRefundedAnswer = (payment: Payment, refund: Refund): v.InferInput<typeof refundedAnswer> => ({
  ...toPaymentAnswer(payment),
  refund: toRefundAnswer(refund),
});

export const toEndpointAnswer = (endpoint: WebhookEndpoint): v.InferInput<typeof endpointAnswer> => ({
  id: endpoint.id,
  url: endpoint.url,
  state: endpoint.state,
  created_at: endpoint.createdAt.toISOString(),
});
