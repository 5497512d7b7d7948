import { type Clock, systemClock } from "@orderbridge/core";
import { type Currency, currencies, parseAmount } from "../money.ts";
import { type Payment, sums } from "../payment.ts";
import type { PayerAction, PaymentProvider } from "../provider.ts";
import { createAttempts, openAttempt } from "./attempts.ts";

export interface SandboxOptions {
  /** How long "delay" takes, in milliseconds. @defaultValue 10_000 */
  readonly delayMs?: number;
  readonly clock?: Pick<Clock, "now" | "monotonicMs">;
}

const everyCurrency: PaymentProvider["currencies"] = Object.fromEntries(
  currencies.map((currency: Currency) => [currency, { stepMinor: 1n }]),
);

const withMoney: readonly PayerAction[] = [{ action: "pay_part", withAmount: true }];
const open: readonly PayerAction[] = [
  { action: "pay", withAmount: false },
  { action: "pay_part", withAmount: true },
  { action: "delay", withAmount: false },
  { action: "cancel", withAmount: false },
  { action: "fail", withAmount: false },
];

/**
 * A provider without a bank: on the pay page a person pays, pays a part, pays with a delay, cancels or fails. Its payments
 * are marked `test`. Never list it where goods are handed out.
 *
 * The page posts `action=pay|pay_part|delay|cancel|fail` (and `amount`, major units) to
 * `/providers/sandbox/<transaction_id>`. Delayed money comes although the payment was cancelled meanwhile, as in life.
 */
export function createSandboxProvider({ delayMs = 10_000, clock = systemClock }: SandboxOptions = {}): PaymentProvider {
  const attempts = createAttempts({
    clock,
    async begin() {
      return { state: "open", askAgainMs: delayMs };
    },
    lost: () => ({ state: "failed", reason: "it never began" }),
    // Asked before its time nobody is, so the money is here.
    look: async ({ attempt }) => ({
      state: "paid",
      transactionId: attempt.id,
      amountMinor: BigInt(attempt.amountMinor),
    }),
    intervalMs: () => delayMs,
  });

  return {
    name: "sandbox",
    state: attempts.state,
    attempts: attempts.attempts,
    // Delayed money does not hold the end of the payment up.
    async cancel(payment, context) {
      const found = await attempts.cancel(payment, context);
      return found.state === "processing" ? { ...found, state: "waiting" } : found;
    },
    currencies: everyCurrency,
    test: true,

    payerStep(payment: Payment) {
      if (openAttempt(payment)) {
        return {
          kind: "notice",
          notice: "delayed",
          actions: [
            { action: "cancel", withAmount: false },
            { action: "fail", withAmount: false },
          ],
        };
      }
      if (payment.status === "pending" || payment.status === "processing") return { kind: "actions", actions: open };
      const { remainingMinor } = sums(payment);
      // Money may come at any time in real life too: after the end of a payment, and beyond its amount.
      if (remainingMinor > 0n && payment.status === "partially_paid") {
        return { kind: "actions", actions: [{ action: "pay", withAmount: false }, ...withMoney] };
      }
      return { kind: "actions", actions: withMoney };
    },

    async refund() {
      return "succeeded";
    },

    async callback({ request, path, body, context }) {
      if (request.method !== "POST") return new Response("POST only", { status: 405, headers: { allow: "POST" } });
      const payment = await context.find(path);
      if (!payment) return new Response("no such payment", { status: 404 });
      const form = new URLSearchParams(new TextDecoder().decode(body));
      const action = form.get("action");
      const typed = (form.get("amount") ?? "").trim().replace(",", ".");
      if (action === "cancel") await context.cancelled(payment.id);
      else if (action === "fail") {
        await attempts.fail(payment, context, "the payer said so");
        await context.failed(payment.id);
      } else if (action === "delay") await attempts.begin(payment, context, form);
      else if (action === "pay" || action === "pay_part") {
        const { remainingMinor } = sums(payment);
        const amount =
          typed === "" && action === "pay" ? ({ ok: true, amountMinor: remainingMinor } as const) : parseAmount(typed);
        if (!amount.ok) return new Response("amount must be a decimal number such as 500.00", { status: 400 });
        if (amount.amountMinor > 0n) {
          await context.book(payment.id, {
            // A button that is pressed twice at the same sum is one transfer.
            transactionId: `${payment.id}-${payment.paidMinor}`,
            amountMinor: amount.amountMinor,
            currency: payment.currency,
          });
        }
      } else return new Response("action must be pay, pay_part, delay, cancel or fail", { status: 400 });
      return new Response(null, { status: 303, headers: { location: context.payUrl(payment.id) } });
    },
  };
}
