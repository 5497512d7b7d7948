import { parseExactJson } from "./exact-json.ts";
import { formatAmount } from "./money.ts";
import { type Payment, type PaymentEventName, sums } from "./payment.ts";

/** What every webhook and `GET /api/events` carries: the event and the payment's whole state after it. */
export interface WebhookBody {
  readonly event: PaymentEventName;
  /** The event's id, as in the header `webhook-id`. */
  readonly id: string;
  /** Number of the event within its payment, from 1. */
  readonly sequence: number;
  readonly transaction_id: string;
  readonly amount: string;
  readonly paid_amount: string;
  readonly refunded_amount: string;
  readonly remaining_amount: string;
  readonly overpaid_amount: string;
  /** Only in `refunded`: the sum of this refund. */
  readonly refund_amount?: string;
  readonly currency: string;
  readonly status: string;
  readonly late: boolean;
  readonly test: boolean;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** When the payment was created, ISO 8601. */
  readonly created_at: string;
  /** When the event happened, ISO 8601; the same on every try. */
  readonly timestamp: string;
}

export function eventBody(event: {
  readonly id: string;
  readonly name: PaymentEventName;
  readonly payment: Payment;
  readonly at: Date;
  readonly refundMinor?: bigint;
}): string {
  const { id, name, payment, at, refundMinor } = event;
  const { remainingMinor, overpaidMinor } = sums(payment);
  const body: WebhookBody = {
    event: name,
    id,
    sequence: payment.sequence,
    transaction_id: payment.id,
    amount: formatAmount(payment.amountMinor),
    paid_amount: formatAmount(payment.paidMinor),
    refunded_amount: formatAmount(payment.refundedMinor),
    remaining_amount: formatAmount(remainingMinor),
    overpaid_amount: formatAmount(overpaidMinor),
    ...(refundMinor === undefined ? {} : { refund_amount: formatAmount(refundMinor) }),
    currency: payment.currency,
    status: payment.status,
    late: payment.late,
    test: payment.test,
    metadata: parseExactJson(payment.metadata) as Readonly<Record<string, unknown>>,
    created_at: payment.createdAt.toISOString(),
    timestamp: at.toISOString(),
  };
  return JSON.stringify(body);
}
