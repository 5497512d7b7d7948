import { type Clock, SdkError } from "@orderbridge/core";
import { formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider, ProviderContext } from "../provider.ts";
import {
  type Attempt,
  concludeRefund,
  type RefundEntry,
  readSession,
  refundableAttempt,
  rememberRefund,
  settleRefund,
} from "./attempts.ts";
import { type KaspiQrApi, optionalText, shapeError, textOf } from "./kaspi-qr-api.ts";
import { mustCall } from "./refund-calls.ts";

/** A refund that was sent may still be at work for so long; only then its outcome is looked up. */
const settleMs = 60_000;
/** A refund by r2 needs the buyer; after so long without him nothing was given back and nothing will be. */
const buyerMs = 24 * 3_600_000;

/** Refunds of a purchase: r3 by themselves, r2 with the buyer, who scans a QR. Kaspi has no key that makes them safe to repeat. */
export function createKaspiQrRefunds({
  api,
  scheme,
  clock,
}: {
  readonly api: KaspiQrApi;
  readonly scheme: "r2" | "r3";
  readonly clock: Pick<Clock, "now">;
}): Pick<PaymentProvider, "refund" | "refundNotice" | "settleRefund" | "refundPauseMs"> {
  const nowMs = (): number => clock.now().getTime();
  // The buyer, who may come hours later, stands before the till and waits.
  return { refund, refundNotice, settleRefund, ...(scheme === "r2" ? { refundPauseMs: 30_000 } : {}) };

  function refundNotice(payment: Payment, key: string): string | undefined {
    const { state, facts } = readSession(payment).refunds[key] ?? { state: "failed", facts: {} };
    if (state !== "preparing" || facts.token === undefined) return undefined;
    return `the buyer scans https://qr.kaspi.kz/${encodeURIComponent(facts.token)}`;
  }

  async function refund(request: Parameters<NonNullable<PaymentProvider["refund"]>>[0]) {
    // What was looked up is stale as soon as another refund of the payment was written down: read anew.
    const payment = (await request.context.find(request.payment.id)) ?? request.payment;
    const session = readSession(payment);
    const { amountMinor, key, context } = request;
    const entry = session.refunds[key];
    if (entry?.state === "succeeded" || entry?.state === "failed") return entry.state;
    const attempt =
      entry === undefined
        ? refundableAttempt(session, key, amountMinor)
        : session.attempts.find(({ id }) => id === entry.attemptId);
    const base = { attemptId: attempt?.id ?? "", amountMinor: String(amountMinor), at: nowMs(), facts: {} };
    if (!attempt) {
      await rememberRefund(payment, context, key, { ...base, state: "failed" });
      return "failed";
    }
    if (entry?.state === "asking") return lookUpRefund(payment, context, key, entry, attempt);
    // One at a time: else what is available afterwards does not tell which one went through.
    const others = Object.entries(session.refunds).filter(([other]) => other !== key);
    if (others.some(([, { state, attemptId }]) => state === "asking" && attemptId === attempt.id)) return "pending";
    if (scheme === "r3") return ask(payment, context, key, { ...base, state: "preparing" }, attempt);
    return withBuyer(payment, context, key, entry, attempt, base);
  }

  /** r2: a refund QR, then the buyer, then the refund. */
  async function withBuyer(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry | undefined,
    attempt: Attempt,
    base: Omit<RefundEntry, "state">,
  ): Promise<"failed" | "pending" | "succeeded"> {
    const since = Number(entry?.facts.since ?? nowMs());
    if (nowMs() - since >= buyerMs) {
      await rememberRefund(payment, context, key, { ...base, state: "failed" });
      return "failed";
    }
    const returnId = entry?.facts.returnId;
    if (entry && returnId !== undefined) {
      const status = await api.get("/return/status", returnId).then(
        (data) => optionalText(data, "Status"),
        (error: unknown) => {
          if (!isRefused(error)) throw error;
          return "Error"; // Kaspi does not know it any more
        },
      );
      if (status === "CustomerIdentityObtained") return ask(payment, context, key, entry, attempt);
      if (status !== "Error") return "pending";
    }
    // A QR whose answer was lost was shown to nobody.
    const data = await api.post("/return/create", {});
    const token = optionalText(data, "QrToken");
    const facts = {
      returnId: textOf(data, "QrReturnId", "/return/create"),
      since: String(since),
      ...(token === undefined ? {} : { token }),
    };
    await rememberRefund(payment, context, key, { ...base, state: "preparing", facts });
    return "pending";
  }

  /** What can still be given back, in minor units. */
  async function available(attempt: Attempt): Promise<bigint> {
    const data = await api.details(attempt.facts.id ?? "");
    const amount = parseAmount(textOf(data, "AvailableReturnAmount", "/payment/details").replace(/(\.\d\d)0+$/, "$1"));
    if (!amount.ok) throw shapeError("/payment/details", "AvailableReturnAmount");
    return amount.amountMinor;
  }

  async function ask(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry,
    attempt: Attempt,
  ): Promise<"failed" | "pending" | "succeeded"> {
    const amountMinor = BigInt(entry.amountMinor);
    const tried = Number(entry.facts.tries ?? 0);
    const before = await available(attempt).catch((error: unknown) => {
      if (!isRefused(error)) throw error;
      return undefined; // Kaspi gives nothing back of this purchase
    });
    if (before === undefined && tried > 0) return callPerson(payment, context, key, entry, notKnown);
    if (before === undefined || before < amountMinor) {
      const stored = await rememberRefund(payment, context, key, { ...entry, state: "failed" });
      return stored ? "failed" : "pending";
    }
    const tries = String(tried + 1);
    const asking: RefundEntry = {
      ...entry,
      state: "asking",
      at: nowMs(),
      facts: { ...entry.facts, tries, available: String(before) },
    };
    const asked = await rememberRefund(payment, context, key, asking);
    if (!asked) return "pending"; // somebody else is at it
    let operation: string;
    try {
      const data = await api.post("/payment/return", {
        QrPaymentId: attempt.facts.id ?? "",
        ...(entry.facts.returnId === undefined ? {} : { QrReturnId: entry.facts.returnId }),
        Amount: formatAmount(amountMinor),
      });
      operation = optionalText(data, "ReturnOperationId") ?? "";
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      // A no to the second try may mean that the first one was carried out at last: what is available tells.
      if (error.outcome === "refused" && tried > 0) return "pending";
      if (error.outcome === "refused") return finishRefund(asked, context, key, { ...asking, state: "failed" });
      if (error.outcome === "not-executed") {
        await concludeRefund(asked, context, key, { ...asking, state: "preparing" });
      }
      return "pending"; // looked up later
    }
    return finishRefund(asked, context, key, { ...asking, state: "succeeded", facts: { ...asking.facts, operation } });
  }

  /** A refund whose answer was lost: what is available now tells. */
  async function lookUpRefund(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry,
    attempt: Attempt,
  ): Promise<"failed" | "pending" | "succeeded"> {
    if (nowMs() - entry.at < settleMs) return "pending";
    const now = await available(attempt).catch((error: unknown) => {
      if (!isRefused(error)) throw error;
      return undefined;
    });
    if (now === undefined) return callPerson(payment, context, key, entry, notKnown);
    const before = BigInt(entry.facts.available ?? "0");
    if (now === before - BigInt(entry.amountMinor)) {
      return finishRefund(payment, context, key, { ...entry, state: "succeeded" });
    }
    if (now === before && Number(entry.facts.tries ?? 1) < 3) return ask(payment, context, key, entry, attempt);
    // Not asked a fourth time, or somebody refunded by hand meanwhile.
    const why =
      now === before
        ? "kaspi-qr: a refund was not carried out three times: ask the bank"
        : "kaspi-qr: what can be refunded changed otherwise than by this refund: look into the cabinet";
    return callPerson(payment, context, key, entry, why);
  }

  async function callPerson(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry,
    why: string,
  ): Promise<"pending"> {
    if (mustCall(payment, entry, why)) await rememberRefund(payment, context, key, { ...entry, at: nowMs() }, why);
    return "pending";
  }

  /** Money has moved, or will not. */
  async function finishRefund(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry,
  ): Promise<"failed" | "pending" | "succeeded"> {
    const state = await concludeRefund(payment, context, key, entry);
    return state === "succeeded" || state === "failed" ? state : "pending";
  }
}

const notKnown = "kaspi-qr: whether a refund was carried out can no longer be asked: look into the cabinet";
const isRefused = (error: unknown): boolean => SdkError.isInstance(error) && error.outcome === "refused";
