import {
  createWebhookSigner,
  createWebhookVerifier,
  type SignatureFailure,
  signHmac,
  type WebhookHeaders,
} from "@orderbridge/core/signature";
import type { WebhookBody } from "../event-body.ts";

export * from "@orderbridge/core/signature";
export type { WebhookBody } from "../event-body.ts";
export type { PaymentEventName, PaymentStatus } from "../payment.ts";

export type VerifiedWebhook =
  | { readonly ok: true; readonly webhook: WebhookBody }
  | {
      readonly ok: false;
      /** `not_json`: the signature fits, the body is none of ours. `wrong_id`: header and body name different events. */
      readonly reason: SignatureFailure | "not_json" | "wrong_id";
    };

/**
 * Checks a webhook of the gateway and reads it. Give the body as it arrived, before any JSON parser. Never throws for
 * what a sender can do.
 *
 * Take each `id` once: a webhook whose answer got lost is sent again with the same id and the same bytes.
 *
 * @throws {TypeError} for no secret, or one that is not base64 after `whsec_`; for a body that something has parsed.
 */
export function verifyWebhook(request: {
  readonly headers: WebhookHeaders;
  readonly body: string | Uint8Array;
  /** The secret of the payment or of the merchant; several while one is being replaced. */
  readonly secrets: readonly string[];
  /** Largest difference to the sender's clock, in milliseconds. @defaultValue 300_000 */
  readonly toleranceMs?: number;
  /**
   * Accept `X-Webhook-Signature` alone, as receivers of the first generation do. It says nothing about the age of a
   * message. @defaultValue false
   */
  readonly bodySignature?: boolean;
  /** @defaultValue Date.now */
  readonly now?: () => number;
}): VerifiedWebhook {
  const { headers, body, bodySignature = false, ...options } = request;
  if (typeof body !== "string" && !(body instanceof Uint8Array)) {
    throw new TypeError("body: give the bytes as they arrived; a body parser has read them, so verify before it");
  }
  const result = createWebhookVerifier({ ...options, bodySignature })({ headers, body });
  if (!result.ok) return result;
  const webhook = readBody(body);
  if (!webhook) return { ok: false, reason: "not_json" };
  if (result.scheme === "standard" && webhook.id !== result.id) return { ok: false, reason: "wrong_id" };
  return { ok: true, webhook };
}

function readBody(body: string | Uint8Array): WebhookBody | undefined {
  try {
    const text = typeof body === "string" ? body : new TextDecoder("utf-8", { fatal: true }).decode(body);
    const value: unknown = JSON.parse(text);
    const isOurs =
      typeof value === "object" && value !== null && "event" in value && "id" in value && "transaction_id" in value;
    return isOurs ? (value as WebhookBody) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A signed webhook as the gateway would send it, for testing a receiver.
 *
 * @example
 * const { headers, body } = signTestWebhook({ secret: "whsec_…", webhook: { event: "paid", metadata: { order_id: "7" } } });
 */
export function signTestWebhook({
  secret,
  webhook = {},
  now = Date.now,
}: {
  readonly secret: string;
  /** Fields that differ from a payment of 500.00 KZT that has just been paid. */
  readonly webhook?: Partial<WebhookBody>;
  readonly now?: () => number;
}): { readonly headers: Readonly<Record<string, string>>; readonly body: string } {
  const at = new Date(now());
  const complete: WebhookBody = {
    event: "paid",
    id: "evt_test",
    sequence: 1,
    transaction_id: "test",
    amount: "500.00",
    paid_amount: "500.00",
    refunded_amount: "0.00",
    remaining_amount: "0.00",
    overpaid_amount: "0.00",
    currency: "KZT",
    status: "paid",
    late: false,
    test: true,
    metadata: {},
    created_at: at.toISOString(),
    timestamp: at.toISOString(),
    ...webhook,
  };
  const body = JSON.stringify(complete);
  const standard = createWebhookSigner({ secrets: [secret] })({ id: complete.id, timestamp: at, body });
  return {
    headers: {
      "content-type": "application/json",
      ...standard,
      "x-webhook-event": complete.event,
      "x-webhook-timestamp": standard["webhook-timestamp"],
      "x-webhook-signature": signHmac({ secret, body }),
    },
    body,
  };
}
