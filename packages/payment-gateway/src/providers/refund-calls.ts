import type { Payment } from "../payment.ts";
import type { RememberedState } from "../provider.ts";

/** After so long a refund that was sent and not answered calls a person; longer than an answer usually takes. */
export const lostRefundMs = 120_000;

/** A refund as a provider's session holds it. */
export interface CallingRefund {
  /** Why a person is called for this refund, who may then say how it ended. A payment shows one call at a time. */
  readonly call?: string;
}

/** Whether a person must be called for this, and was not yet, or his call was replaced and forgotten. */
export const mustCall = (payment: Payment, refund: CallingRefund | undefined, call: string): boolean =>
  refund?.call !== call || payment.needsAttention === undefined;

/** What a payment says to people once the call of one of its refunds is `call`. */
export function attentionAfter(
  { needsAttention }: Payment,
  refunds: Readonly<Record<string, CallingRefund>>,
  key: string,
  call: string | undefined,
): Pick<RememberedState, "attention"> {
  if (call !== undefined) return { attention: call };
  const before = refunds[key]?.call;
  if (before === undefined || before !== needsAttention) return {};
  const others = Object.entries(refunds).filter(([other]) => other !== key);
  return { attention: others.find(([, refund]) => refund.call !== undefined)?.[1].call ?? null };
}
