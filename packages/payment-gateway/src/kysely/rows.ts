import type { Currency } from "../money.ts";
import type { Payment, PaymentEventName, PaymentStatus } from "../payment.ts";
import type {
  ApiTokenRecord,
  Booking,
  DeliveryAttempt,
  PaymentEvent,
  Refund,
  RefundStatus,
  WebhookEndpoint,
} from "../storage.ts";

/** A row as the driver gives it. `pg` gives `bigint` as text, the others as numbers; all values lie below 2^53. */
export type Row = Readonly<Record<string, unknown>>;

export const text = (value: unknown): string => String(value);
export const integer = (value: unknown): number => Number(value);
const minor = (value: unknown): bigint => BigInt(value as string | number);
const instant = (value: unknown): Date => new Date(Number(value));

/** `{name: value}` unless the column is null. */
function optional<Name extends string>(name: Name, value: unknown): { readonly [N in Name]?: string } {
  return (value === null || value === undefined ? {} : { [name]: String(value) }) as { readonly [N in Name]?: string };
}

/** How secrets are written into rows and read back. `place` binds a value to its row. */
export interface Seal {
  close(secret: string, place: string): string;
  open(stored: string, place: string): string;
}

export const paymentSecretPlace = (id: string): string => `gateway_payment/${id}/webhook_secret`;
export const endpointSecretPlace = (id: string, number: number): string => `gateway_endpoint/${id}/secret/${number}`;
export const merchantSecretPlace = (id: string): string => `gateway_merchant/${id}/webhook_secret`;

/** Without the secret, which money and lists do not need: one that cannot be opened must not stop them. */
export function toPayment(row: Row): Payment {
  return {
    id: text(row.id),
    merchant: text(row.merchant),
    provider: text(row.provider),
    status: row.status as PaymentStatus,
    currency: row.currency as Currency,
    amountMinor: minor(row.amount_minor),
    paidMinor: minor(row.paid_minor),
    refundedMinor: minor(row.refunded_minor),
    refundingMinor: minor(row.refunding_minor),
    description: text(row.description),
    metadata: text(row.metadata),
    ...optional("webhookUrl", row.webhook_url),
    ...optional("returnUrl", row.return_url),
    ...optional("account", row.account),
    ...optional("session", row.session),
    late: integer(row.late) === 1,
    test: integer(row.test) === 1,
    ...optional("needsAttention", row.needs_attention),
    ...(row.erased_at === null || row.erased_at === undefined ? {} : { erasedAt: instant(row.erased_at) }),
    sequence: integer(row.sequence),
    createdAt: instant(row.created_at),
    updatedAt: instant(row.updated_at),
    expiresAt: instant(row.expires_at),
    version: integer(row.version),
  };
}

export function fromPayment(payment: Payment): Row {
  return {
    id: payment.id,
    merchant: payment.merchant,
    provider: payment.provider,
    status: payment.status,
    currency: payment.currency,
    amount_minor: Number(payment.amountMinor),
    paid_minor: Number(payment.paidMinor),
    refunded_minor: Number(payment.refundedMinor),
    refunding_minor: Number(payment.refundingMinor),
    description: payment.description,
    metadata: payment.metadata,
    webhook_url: payment.webhookUrl ?? null,
    return_url: payment.returnUrl ?? null,
    account: payment.account ?? null,
    session: payment.session ?? null,
    late: payment.late ? 1 : 0,
    test: payment.test ? 1 : 0,
    needs_attention: payment.needsAttention ?? null,
    erased_at: payment.erasedAt?.getTime() ?? null,
    sequence: payment.sequence,
    created_at: payment.createdAt.getTime(),
    updated_at: payment.updatedAt.getTime(),
    expires_at: payment.expiresAt.getTime(),
    version: payment.version,
  };
}

export function toEvent(row: Row): PaymentEvent {
  return {
    id: text(row.id),
    paymentId: text(row.payment_id),
    merchant: text(row.merchant),
    sequence: integer(row.sequence),
    name: row.name as PaymentEventName,
    body: text(row.body),
    createdAt: instant(row.created_at),
  };
}

export function toBooking(row: Row): Booking {
  return {
    provider: text(row.provider),
    transactionId: text(row.transaction_id),
    paymentId: text(row.payment_id),
    amountMinor: minor(row.amount_minor),
    paidAt: instant(row.paid_at),
  };
}

export function toRefund(row: Row): Refund {
  return {
    id: text(row.id),
    paymentId: text(row.payment_id),
    amountMinor: minor(row.amount_minor),
    status: row.status as RefundStatus,
    createdAt: instant(row.created_at),
    updatedAt: instant(row.updated_at),
  };
}

export function toAttempt(row: Row): DeliveryAttempt {
  return {
    attempt: integer(row.attempt),
    startedAt: instant(row.started_at),
    durationMs: integer(row.duration_ms),
    outcome: text(row.outcome),
    ...(row.status === null ? {} : { status: integer(row.status) }),
    ...optional("answer", row.answer),
  };
}

export function toEndpoint(row: Row): WebhookEndpoint {
  return {
    id: text(row.id),
    merchant: text(row.merchant),
    url: text(row.url),
    state: row.state as WebhookEndpoint["state"],
    createdAt: instant(row.created_at),
  };
}

export function toToken(row: Row): ApiTokenRecord {
  return {
    id: text(row.id),
    merchant: text(row.merchant),
    scopes: JSON.parse(text(row.scopes)) as readonly string[],
    createdAt: instant(row.created_at),
  };
}
