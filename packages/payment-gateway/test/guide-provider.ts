import { createHttpClient } from "@orderbridge/core";
import { verifyHmac } from "@orderbridge/core/signature";
import { formatAmount, type PaymentProvider, parseAmount, type ReportedMoney } from "@orderbridge/payment-gateway";
import * as v from "valibot";

export interface ExampleBankOptions {
  readonly origin: string;
  readonly apiKey: string;
  /** Signs what the bank tells: hex HMAC-SHA256 of the body. */
  readonly signingKey: string;
  readonly fetch?: typeof fetch;
}

// Amounts stay the text that was sent.
const transfer = v.object({ id: v.string(), amount: v.string() });
const session = v.object({ status: v.picklist(["open", "paid", "closed"]), transfer: v.optional(transfer) });
const report = v.object({ payment: v.string(), transfer });

export function createExampleBankProvider({ origin, apiKey, signingKey, fetch }: ExampleBankOptions): PaymentProvider {
  const bank = createHttpClient({
    vendor: "example-bank",
    baseUrl: origin,
    headers: { authorization: `Bearer ${apiKey}` },
    ...(fetch ? { fetch } : {}),
  });

  const money = ({ id, amount }: v.InferOutput<typeof transfer>): ReportedMoney | undefined => {
    const read = parseAmount(amount);
    if (!read.ok || read.amountMinor === 0n) return undefined;
    return { transactionId: id, amountMinor: read.amountMinor, currency: "KZT" };
  };

  return {
    name: "example-bank",
    currencies: { KZT: { stepMinor: 1n } },

    // Called again after a crash, with the same payment: the bank knows its id, so there is one session.
    async start(payment) {
      const opened = await bank.request({
        name: "open session",
        method: "PUT",
        path: `/sessions/${payment.id}`,
        json: { amount: formatAmount(payment.amountMinor), currency: payment.currency },
        safe: true,
        schema: v.object({ url: v.string() }),
      });
      return { session: opened?.url ?? "", askAfterMs: 60_000 };
    },

    payerStep: (payment) => ({ kind: "link", url: payment.session ?? "" }),

    // Asked a minute after the start, then as we say, and before the payment expires. Once it has ended no time is named:
    // there was one more question by the time that was named before, and late money is told by the bank.
    async state(payment) {
      const found = await bank.request({ name: "read session", path: `/sessions/${payment.id}`, schema: session });
      if (found?.status === "closed") return { state: "ended" };
      const isOpen = payment.status === "pending" || payment.status === "processing";
      if (found?.status === "open") return { state: "waiting", ...(isOpen ? { askAgainMs: 60_000 } : {}) };
      const paid = found?.transfer && money(found.transfer);
      return paid ? { state: "paid", money: paid } : { state: "unknown", reason: "the bank's sum cannot be read" };
    },

    // The bank knows our key: asking again is harmless. Without that, remember before you send; see below.
    async refund({ payment, amountMinor, key }) {
      const answer = await bank.request({
        name: "refund",
        method: "PUT",
        path: `/refunds/${key}`,
        json: { session: payment.id, amount: formatAmount(amountMinor) },
        safe: true,
        schema: v.object({ status: v.picklist(["done", "refused", "working"]) }),
      });
      if (answer?.status === "done") return "succeeded";
      return answer?.status === "refused" ? "failed" : "pending";
    },

    // POST <publicUrl>/providers/example-bank
    async callback({ request, body, context }) {
      const signature = request.headers.get("x-signature");
      if (!verifyHmac({ secrets: [signingKey], body, signature }).ok) return new Response(null, { status: 401 });
      const told = v.safeParse(report, JSON.parse(new TextDecoder().decode(body)));
      const paid = told.success ? money(told.output.transfer) : undefined;
      if (!told.success || !paid) return new Response(null, { status: 422 });
      const { state } = await context.book(told.output.payment, paid);
      return new Response(null, { status: state === "not_found" ? 404 : 204 });
    },
  };
}
