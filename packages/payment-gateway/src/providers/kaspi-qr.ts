import { type Clock, ConfigError, type Logger, SdkError, systemClock } from "@orderbridge/core";
import { formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PayerAction, PaymentProvider, ProviderContext, ProviderState } from "../provider.ts";
import { type Attempt, createAttempts, endOf, type Finding, mayBegin, openAttempt } from "./attempts.ts";
import { createKaspiQrApi, type Data, objectOf, optionalText, shapeError, textOf } from "./kaspi-qr-api.ts";
import { createKaspiQrRefunds } from "./kaspi-qr-refunds.ts";

export { kaspiQrCodes } from "./kaspi-qr-api.ts";
export { createTlsFetch, type TlsFetchOptions } from "./tls-fetch.ts";

export interface KaspiQrOptions {
  /** `r1` light, `r2` standard, `r3` enhanced, as in the contract. */
  readonly scheme: "r1" | "r2" | "r3";
  /** Host that Kaspi Pay names by mail; the test hosts are `https://mtokentest.kaspi.kz:8543` (r1), `:8544`, `:8545`. */
  readonly origin: string;
  /** r1: header `Api-Key`. */
  readonly apiKey?: string;
  /** r2 and r3: sends with the client certificate, e.g. `createTlsFetch({ pfx, passphrase })`. For r1 the global one does. */
  readonly fetch?: typeof fetch;
  /** r3: BIN of the organisation, in every body. */
  readonly organizationBin?: string;
  /** Name of this till: Latin letters, digits, dash, underscore. */
  readonly deviceId: string;
  readonly tradePointId: string;
  /** Whether the payer also may have an invoice sent to his phone; r3 only. @defaultValue false */
  readonly remoteInvoices?: boolean;
  /** `link`: a page that opens the application. `qr`: the token of a QR. The pay page draws either as a QR and shows it as a button. @defaultValue "link" */
  readonly show?: "link" | "qr";
  /**
   * No real money: payments say so to the shop. @defaultValue true for a host `mtokentest.…` and for an `apiKey` that
   * begins with `test_`, as Kaspi names its tests; else false
   */
  readonly test?: boolean;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** One deadline over a call, in milliseconds. @defaultValue 15_000 */
  readonly timeoutMs?: number;
  /** First pause before a read is repeated, in milliseconds. @defaultValue 500 */
  readonly minDelayMs?: number;
}

/** A button that is pressed again and again asks no more often. */
const demandMs = 10_000;
const hourMs = 3_600_000;
/** A QR lives for minutes. Whatever an answer says, it does not keep its payment open for longer than this. */
const dayMs = 24 * hourMs;

/**
 * Kaspi QR, payment link and remote invoice ("Public QR API" v01). Nothing is created before the payer presses a button,
 * because a QR lives for minutes. It is polled by the interval of its own answer until its status is final, or until it
 * was seen waiting for longer than it lives: between two questions of different processes no more than twice the interval
 * counts, so cron calls that are rare keep a dead QR longer, and a clock that is set, or differs from another machine's, ends
 * none that lives. A remote
 * invoice is asked about when the payer presses "check", and once, when the payment ends. A status that this version does
 * not know stays open and asks for a person. Refunds: r3 by themselves, r2 once the buyer has scanned a refund QR, r1 not.
 *
 * @see "Public QR API" integration document v3.9, Kaspi Pay
 */
export function createKaspiQrProvider(options: KaspiQrOptions): PaymentProvider {
  const { scheme, deviceId, tradePointId, show = "link", clock = systemClock, remoteInvoices = false } = options;
  if (!/^[\w-]+$/.test(deviceId)) throw new ConfigError("deviceId may hold Latin letters, digits, dash and underscore");
  if (tradePointId === "") throw new ConfigError("tradePointId is needed: ask for it at GET /partner/tradepoints");
  if (scheme === "r1" && !options.apiKey) throw new ConfigError("apiKey is needed with scheme r1");
  if (scheme !== "r1" && !options.fetch) {
    throw new ConfigError(`fetch is needed with scheme ${scheme}: one that sends the client certificate`);
  }
  if (scheme === "r3" && !/^\d{12}$/.test(options.organizationBin ?? "")) {
    throw new ConfigError("organizationBin is needed with scheme r3: 12 digits");
  }
  if (remoteInvoices && scheme !== "r3") throw new ConfigError("remoteInvoices need scheme r3");
  const api = createKaspiQrApi(options);
  const { test = /^https:\/\/mtokentest\./i.test(options.origin) || (options.apiKey?.startsWith("test_") ?? false) } =
    options;
  const nowMs = (): number => clock.now().getTime();

  async function beginInvoice(payment: Payment, attempt: Attempt, phone: string): Promise<Finding> {
    const data = await api.post("/remote/create", {
      Amount: amountOf(attempt),
      PhoneNumber: phone,
      Comment: payment.description === "" ? payment.id : payment.description,
    });
    return {
      state: "open",
      askAgainMs: demandMs,
      onDemand: true,
      facts: { kind: "invoice", id: textOf(data, "QrPaymentId", "/remote/create") },
    };
  }

  async function beginQr(payment: Payment, attempt: Attempt): Promise<Finding> {
    const path = show === "link" ? "/qr/create-link" : "/qr/create";
    const data = await api.post(path, { Amount: amountOf(attempt), ExternalId: payment.id });
    const behavior = objectOf(data, show === "link" ? "PaymentBehaviorOptions" : "QrPaymentBehaviorOptions");
    const seconds = (name: string): number => {
      const value = Number(textOf(behavior, name, path));
      if (!(value > 0)) throw shapeError(path, name);
      return Math.min(value, dayMs / 1000);
    };
    const waitName = show === "link" ? "LinkActivationWaitTimeout" : "QrCodeScanWaitTimeout";
    const confirmationMs = seconds("PaymentConfirmationTimeout") * 1000;
    const intervalMs = Math.max(1, seconds("StatusPollingInterval")) * 1000;
    const expiresAt = Math.min(readInstant(optionalText(data, "ExpireDate")) ?? 0, nowMs() + dayMs);
    const scannedBy = Math.max(nowMs() + seconds(waitName) * 1000, expiresAt);
    const token = show === "qr" ? encodeURIComponent(textOf(data, "QrToken", path)) : undefined;
    const url = token === undefined ? textOf(data, "PaymentLink", path) : `https://pay.kaspi.kz/pay/${token}`;
    if (!URL.canParse(url) || !/^https:$/.test(new URL(url).protocol)) throw shapeError(path, "PaymentLink");
    return {
      state: "open",
      askAgainMs: intervalMs,
      facts: {
        kind: show,
        id: textOf(data, show === "link" ? "PaymentId" : "QrPaymentId", path),
        url,
        // As a picture the token stands under another host than as a link.
        scan: token === undefined ? url : `https://qr.kaspi.kz/${token}`,
        intervalMs: String(intervalMs),
        lifeMs: String(scannedBy + confirmationMs - nowMs()),
        confirmationMs: String(confirmationMs),
      },
    };
  }

  async function look(payment: Payment, attempt: Attempt): Promise<Finding> {
    if (attempt.facts.id === undefined) return { state: "unknown", askAgainMs: dayMs }; // nothing to ask about: a person decides
    if (attempt.facts.kind === "invoice" && nowMs() >= endOf(payment, attempt)) {
      // The payment ends: an invoice would live on for a day.
      const finding = await cancelInvoice(attempt);
      return finding.state === "cancelled" ? { state: "failed", reason: finding.reason } : finding;
    }
    const askAgainMs = intervalOf(attempt);
    let data: Data;
    try {
      data = await statusOf(attempt);
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome !== "refused") throw error;
      return {
        state: "unknown",
        askAgainMs: Math.max(askAgainMs, 60_000),
        attention: `${error.message}: ask the bank`,
      };
    }
    return judge(attempt, data, nowMs());
  }

  /** What is not settled then is asked rarely: timed polling of invoices is forbidden. */
  async function cancelInvoice(attempt: Attempt): Promise<Finding> {
    try {
      const data = await api.post("/remote/cancel", { QrPaymentId: attempt.facts.id ?? "" });
      if (optionalText(data, "Status") === "RemotePaymentCanceled") {
        return { state: "cancelled", reason: "RemotePaymentCanceled" };
      }
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error; // its status says what became of it
    }
    const finding = judge(attempt, await statusOf(attempt), nowMs());
    return "askAgainMs" in finding ? { ...finding, askAgainMs: hourMs } : finding;
  }

  const statusOf = (attempt: Attempt): Promise<Data> => api.get("/payment/status", attempt.facts.id ?? "");

  const attempts = createAttempts({
    clock,
    plan: (form) => (form.get("action") === "invoice" ? { kind: "invoice" } : {}),
    begin({ payment, attempt, form }) {
      const phone = form.get("action") === "invoice" ? readPhone(form.get("phone") ?? "") : undefined;
      return phone === undefined ? beginQr(payment, attempt) : beginInvoice(payment, attempt, phone);
    },
    lost: (attempt) => (attempt.facts.kind === "invoice" ? lostInvoice : lostQr),
    look: ({ payment, attempt }) => look(payment, attempt),
    // A QR and a link die by themselves; only invoices can be cancelled.
    cancel: (attempt) =>
      attempt.facts.kind === "invoice" && attempt.facts.id !== undefined ? () => cancelInvoice(attempt) : undefined,
    intervalMs: intervalOf,
  });

  const provider: PaymentProvider = {
    name: "kaspi-qr",
    currencies: { KZT: { stepMinor: 1n } },
    test,
    state: attempts.state,
    attempts: attempts.attempts,
    giveUpAttempt: attempts.giveUpAttempt,
    recordMoney: attempts.recordMoney,

    payerStep(payment) {
      const attempt = openAttempt(payment);
      if (attempt?.state === "open" && attempt.facts.url !== undefined) {
        const { url, scan = url } = attempt.facts;
        return { kind: "link", url, scan };
      }
      if (attempt?.onDemand && attempt.state === "open") {
        return { kind: "notice", notice: "invoice", actions: [{ action: "check", withAmount: false }] };
      }
      if (attempt) return { kind: "notice", notice: "unknown", actions: [] };
      if (!mayBegin(payment, nowMs())) return { kind: "actions", actions: [] };
      const pay: readonly PayerAction[] = [{ action: "pay", withAmount: false }];
      return {
        kind: "actions",
        actions: remoteInvoices ? [...pay, { action: "invoice", withAmount: false, withPhone: true }] : pay,
      };
    },

    async cancel(payment, context) {
      const attempt = openAttempt(payment);
      if (!attempt) return { state: "ended" };
      const state = await attempts.cancel(payment, context);
      // A QR that lives on does not hold up the end of the payment: it is asked until it is dead, and late money is told.
      return attempt.facts.kind !== "invoice" && state.state === "processing" ? { state: "waiting" } : state;
    },

    async callback({ request, path, body, context }) {
      if (request.method !== "POST") return new Response(null, { status: 405, headers: { allow: "POST" } });
      const payment = await context.find(path);
      if (!payment) return new Response(null, { status: 404 });
      const form = new URLSearchParams(new TextDecoder().decode(body));
      const action = form.get("action");
      let problem = "";
      if (action === "check") await report(payment, context, await attempts.ask(payment, context));
      else if (action === "pay" || (action === "invoice" && remoteInvoices)) {
        if (action === "invoice" && readPhone(form.get("phone") ?? "") === undefined) problem = "phone";
        else if ((await attempts.begin(payment, context, form)) === "failed") problem = "attempt";
      } else return new Response(null, { status: 400 });
      const location = `${context.payUrl(payment.id)}${problem && `?problem=${problem}`}`;
      return new Response(null, { status: 303, headers: { location } });
    },
  };
  if (scheme === "r1") return provider;
  return { ...provider, ...createKaspiQrRefunds({ api, scheme, clock }) };
}

/** The outcome of a button, for the engine. */
async function report(payment: Payment, context: ProviderContext, state: ProviderState): Promise<void> {
  if (state.state === "paid") await context.book(payment.id, state.money);
  if (state.state === "cancelled") await context.cancelled(payment.id);
}

const intervalOf = ({ facts, onDemand }: Attempt): number => Number(facts.intervalMs ?? (onDemand ? demandMs : 5_000));
const amountOf = ({ amountMinor }: Attempt): string => formatAmount(BigInt(amountMinor));

const lostQr: Finding = {
  state: "failed",
  reason: "no answer: the QR that may exist was shown to nobody",
};
const lostInvoice: Finding = {
  state: "unknown",
  askAgainMs: hourMs,
  attention: "kaspi-qr: whether the invoice reached the payer is not known: look into the cabinet",
};

/** What a status means. `QrTokenCreated` and `Wait` are over only when this very question was asked after its whole life. */
function judge(attempt: Attempt, data: Data, nowMs: number): Finding {
  const status = optionalText(data, "Status") ?? "";
  const askAgainMs = intervalOf(attempt);
  // An earlier version stored the last moment in its place.
  const lastMoment = Number(attempt.facts.lastMoment ?? Number.POSITIVE_INFINITY);
  const lifeMs = Number(attempt.facts.lifeMs ?? lastMoment - attempt.startedAt);
  const livedMs = attempt.livedMs ?? 0;
  switch (status) {
    case "QrTokenCreated":
      if (livedMs > lifeMs) return { state: "failed", reason: "not scanned in time" };
      return { state: "open", askAgainMs };
    case "Wait": {
      if (livedMs > lifeMs + Number(attempt.facts.confirmationMs ?? 0)) {
        return { state: "failed", reason: "not confirmed in time" };
      }
      return { state: "open", askAgainMs };
    }
    case "RemotePaymentCreated":
      return { state: "open", askAgainMs: nowMs > attempt.startedAt + 24 * hourMs ? hourMs : demandMs, onDemand: true };
    case "Processed":
    case "RemotePaymentPaid": {
      const said = optionalText(data, "Amount");
      const amount = parseAmount((said ?? amountOf(attempt)).replace(/(\.\d\d)0+$/, "$1"));
      const isUnreadable = said === undefined && data.Amount != null; // older answers have none
      if (isUnreadable || !amount.ok || amount.amountMinor === 0n) {
        return { state: "unknown", askAgainMs: 60_000, attention: "kaspi-qr: paid, but the amount cannot be read" };
      }
      const transaction = optionalText(data, "TransactionId");
      return {
        state: "paid",
        transactionId: attempt.facts.id ?? attempt.id,
        amountMinor: amount.amountMinor,
        ...(transaction === undefined ? {} : { facts: { transaction } }),
      };
    }
    case "Error":
      return { state: "failed", reason: "cancelled by the buyer, or failed" };
    case "RemotePaymentCanceled":
    case "RemotePaymentRejected":
      return { state: "cancelled", reason: status };
    case "RemotePaymentExpired":
      return { state: "failed", reason: status };
    default:
      return {
        state: "unknown",
        askAgainMs: attempt.onDemand ? hourMs : Math.max(askAgainMs, livedMs > lifeMs ? 60_000 : 0),
        attention: `kaspi-qr: the status ${JSON.stringify(status.slice(0, 60))} is not known to this version`,
      };
  }
}

/** `8XXXXXXXXXX`, as the remote calls take it; `undefined` for what is no number of Kazakhstan. */
function readPhone(text: string): string | undefined {
  const digits = text.replace(/[\s()+-]/g, "");
  const national = /^(?:7|8)?(7\d{9})$/.exec(digits)?.[1];
  return national === undefined ? undefined : `8${national}`;
}

/** ISO 8601 with a short offset such as `+06`, without one, or with a day of one digit. Without an offset: UTC+5. */
function readInstant(text: string | undefined): number | undefined {
  const match = /^(\d{4})-(\d{1,2})-(\d{1,2})T(\d{2}):(\d{2})(?::(\d{2}))?(?:\.\d+)?(Z|[+-]\d{2}(?::?\d{2})?)?$/.exec(
    text ?? "",
  );
  if (!match) return undefined;
  const [, year, month = "", day = "", hour, minute, second = "00", offset = "+05"] = match;
  const zone = offset === "Z" ? "Z" : `${offset.slice(0, 3)}:${offset.slice(3).replace(":", "") || "00"}`;
  const at = Date.parse(`${year}-${month.padStart(2, "0")}-${day.padStart(2, "0")}T${hour}:${minute}:${second}${zone}`);
  return Number.isNaN(at) ? undefined : at;
}
