import {
  type Clock,
  ConfigError,
  createHttpClient,
  type HttpAnswer,
  type Logger,
  type Refusal,
  RequestError,
  ResponseShapeError,
  SdkError,
  systemClock,
} from "@orderbridge/core";
import { numberSource, parseExactJson } from "../exact-json.ts";
import { formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PayerAction, PaymentProvider, ProviderContext, ProviderState } from "../provider.ts";
import {
  type Attempt,
  createAttempts,
  type Finding,
  openAttempt,
  type RefundEntry,
  readSession,
  refundableAttempt,
  rememberRefund,
} from "./attempts.ts";

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
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** One deadline over a call, in milliseconds. @defaultValue 15_000 */
  readonly timeoutMs?: number;
  /** First pause before a read is repeated, in milliseconds. @defaultValue 500 */
  readonly minDelayMs?: number;
}

/**
 * `StatusCode` of the answers. `unknown`: the call may have run, so the outcome is looked up.
 *
 * @see "Public QR API" v3.9, table of codes. Codes that it lists for remote calls without a word are a no like the rest
 */
export const kaspiQrCodes: Readonly<
  Record<string, { readonly means: string; readonly outcome: "refused" | "unknown" }>
> = {
  "-999": { means: "service temporarily unavailable", outcome: "unknown" },
  "-10000": { means: "no client certificate", outcome: "refused" },
  "-1401": { means: "remote call refused", outcome: "refused" },
  "-1404": { means: "remote call refused", outcome: "refused" },
  "-1501": { means: "device not found", outcome: "refused" },
  "-1502": { means: "device not active", outcome: "refused" },
  "-1503": { means: "device already in another trade point", outcome: "refused" },
  "-1601": { means: "purchase not found", outcome: "refused" },
  "-14000002": { means: "no trade points: create one in the application", outcome: "refused" },
  "-99000001": { means: "purchase with this id not found", outcome: "refused" },
  "-99000002": { means: "trade point not found", outcome: "refused" },
  "-99000003": { means: "the purchase belongs to another trade point", outcome: "refused" },
  "-99000005": { means: "refund exceeds the purchase", outcome: "refused" },
  "-99000006": { means: "refund error: try again, then ask the bank", outcome: "unknown" },
  "-99000011": { means: "wrong status of the purchase for a refund", outcome: "refused" },
  "-99000020": { means: "partial refund impossible", outcome: "refused" },
  "990000018": { means: "trade point switched off", outcome: "refused" },
  "990000026": { means: "trade point does not accept QR", outcome: "refused" },
  "990000028": { means: "wrong amount", outcome: "refused" },
  "990000029": { means: "remote call refused", outcome: "refused" },
  "990000031": { means: "remote call refused", outcome: "refused" },
  "990000032": { means: "remote call refused", outcome: "refused" },
  "99000010": { means: "remote call refused", outcome: "refused" },
  "990000033": { means: "no payment methods available", outcome: "refused" },
};

/** A refund that was sent may still be at work for so long; only then its outcome is looked up. */
const settleMs = 60_000;
/** A refund by r2 needs the buyer; after so long without him nothing was given back and nothing will be. */
const buyerMs = 24 * 3_600_000;
/** A button that is pressed again and again asks no more often. */
const demandMs = 10_000;
const hourMs = 3_600_000;

/**
 * Kaspi QR, payment link and remote invoice ("Public QR API" v01). Nothing is created before the payer presses a button,
 * because a QR lives for minutes. It is polled by the interval of its own answer until its status is final; a remote
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
      return value;
    };
    const waitName = show === "link" ? "LinkActivationWaitTimeout" : "QrCodeScanWaitTimeout";
    const confirmationMs = seconds("PaymentConfirmationTimeout") * 1000;
    const intervalMs = seconds("StatusPollingInterval") * 1000;
    const expiresAt = readInstant(optionalText(data, "ExpireDate")) ?? 0;
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
        lastMoment: String(scannedBy + confirmationMs),
        confirmationMs: String(confirmationMs),
      },
    };
  }

  async function look(payment: Payment, attempt: Attempt): Promise<Finding> {
    if (attempt.facts.kind === "invoice" && nowMs() >= payment.expiresAt.getTime()) {
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
    cancel: (attempt) => (attempt.facts.kind === "invoice" ? () => cancelInvoice(attempt) : undefined),
    intervalMs: intervalOf,
  });

  const provider: PaymentProvider = {
    name: "kaspi-qr",
    currencies: { KZT: { stepMinor: 1n } },
    state: attempts.state,
    attempts: attempts.attempts,
    giveUpAttempt: attempts.giveUpAttempt,

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
  return { ...provider, refund, refundNotice };

  // … refunds

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
    const write = (next: RefundEntry, attention?: string | null) =>
      rememberRefund(payment, context, key, next, attention);
    const base = { attemptId: attempt?.id ?? "", amountMinor: String(amountMinor), at: nowMs(), facts: {} };
    if (!attempt) {
      await write({ ...base, state: "failed" });
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
      const status = optionalText(await api.get("/return/status", returnId), "Status");
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
    const before = await available(attempt);
    if (before < amountMinor) {
      const stored = await rememberRefund(payment, context, key, { ...entry, state: "failed" });
      return stored ? "failed" : "pending";
    }
    const tries = String(Number(entry.facts.tries ?? 0) + 1);
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
      if (error.outcome === "refused") return finishRefund(asked, context, key, { ...asking, state: "failed" });
      if (error.outcome === "not-executed") {
        await rememberRefund(asked, context, key, { ...asking, state: "preparing" });
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
    const now = await available(attempt);
    const before = BigInt(entry.facts.available ?? "0");
    if (now === before - BigInt(entry.amountMinor)) {
      return finishRefund(payment, context, key, { ...entry, state: "succeeded" });
    }
    if (now === before && Number(entry.facts.tries ?? 1) < 3) return ask(payment, context, key, entry, attempt);
    // Not asked a fourth time, or somebody refunded by hand meanwhile.
    const why =
      now === before
        ? "kaspi-qr: a refund was refused three times without a reason: ask the bank"
        : "kaspi-qr: what can be refunded changed otherwise than by this refund: look into the cabinet";
    if (payment.needsAttention !== why) await rememberRefund(payment, context, key, { ...entry, at: nowMs() }, why);
    return "pending";
  }

  /** Money has moved, or will not: that must be written down also when another refund was written meanwhile. */
  async function finishRefund(
    payment: Payment,
    context: ProviderContext,
    key: string,
    entry: RefundEntry,
  ): Promise<"failed" | "pending" | "succeeded"> {
    let current: Payment | undefined = payment;
    for (let tries = 0; current && tries < 5; tries++) {
      if (await rememberRefund(current, context, key, entry)) break;
      current = await context.find(payment.id);
    }
    return entry.state === "succeeded" ? "succeeded" : "failed";
  }
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

/** What a status means. `QrTokenCreated` and `Wait` are over only when this very question was asked after the last moment. */
function judge(attempt: Attempt, data: Data, nowMs: number): Finding {
  const status = optionalText(data, "Status") ?? "";
  const askAgainMs = intervalOf(attempt);
  const lastMoment = Number(attempt.facts.lastMoment ?? Number.POSITIVE_INFINITY);
  switch (status) {
    case "QrTokenCreated":
      if (nowMs > lastMoment) return { state: "failed", reason: "not scanned in time" };
      return { state: "open", askAgainMs };
    case "Wait": {
      if (nowMs > lastMoment + Number(attempt.facts.confirmationMs ?? 0)) {
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
      if (!amount.ok || amount.amountMinor === 0n) {
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
        askAgainMs: attempt.onDemand ? hourMs : Math.max(askAgainMs, nowMs > lastMoment ? 60_000 : 0),
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

type Data = Readonly<Record<string, unknown>>;

const shapeError = (path: string, field: string): ResponseShapeError =>
  new ResponseShapeError(`kaspi-qr: ${path} answered without a usable ${field}`, {
    vendor: "kaspi-qr",
    status: 200,
    paths: [`Data.${field}`],
    outcome: "executed",
  });

/** Text, or the digits of a number as they were sent. */
function optionalText(data: Data, field: string): string | undefined {
  const value = data[field];
  if (typeof value === "string") return value;
  return numberSource(value);
}

function textOf(data: Data, field: string, path: string): string {
  const text = optionalText(data, field);
  if (text === undefined || text === "") throw shapeError(path, field);
  return text;
}

function objectOf(data: Data, field: string): Data {
  const value = data[field];
  return typeof value === "object" && value !== null ? (value as Data) : {};
}

/** `StatusCode` decides, not the HTTP status. */
function readRefusal({ status, text }: HttpAnswer): Refusal | undefined {
  if (status === 429) return { vendorCode: "429", outcome: "not-executed" };
  const code = readCode(text);
  if (code === undefined || (code === "0" && status < 300)) return undefined; // not of this API: the HTTP status decides
  if (code === "0") return { vendorCode: String(status), outcome: "unknown" };
  return { vendorCode: code, outcome: kaspiQrCodes[code]?.outcome ?? "unknown" };
}

function readCode(text: string): string | undefined {
  try {
    return numberSource(objectOf({ answer: parseExactJson(text) }, "answer").StatusCode);
  } catch {
    return undefined;
  }
}

/** The calls; a device is registered with the first one, which may be repeated and gives the same token again. */
function createKaspiQrApi(options: KaspiQrOptions) {
  const { scheme, organizationBin, deviceId, tradePointId, apiKey, timeoutMs = 15_000 } = options;
  const client = createHttpClient({
    vendor: "kaspi-qr",
    baseUrl: `${options.origin.replace(/\/+$/, "")}/${scheme}/v01`,
    headers: async () => ({
      "x-request-id": crypto.randomUUID(),
      ...(apiKey === undefined ? {} : { "api-key": apiKey }),
    }),
    timeoutMs,
    retries: 2,
    readRefusal,
    ...(options.minDelayMs === undefined ? {} : { minDelayMs: options.minDelayMs }),
    ...(options.fetch ? { fetch: options.fetch } : {}),
    ...(options.clock ? { clock: options.clock } : {}),
    ...(options.logger ? { logger: options.logger } : {}),
  });
  const bin = scheme === "r3" ? { OrganizationBin: organizationBin ?? "" } : {};
  let device: Promise<string> | undefined;

  function read(answer: HttpAnswer, path: string): Data {
    let body: unknown;
    try {
      body = parseExactJson(answer.text);
    } catch {
      throw shapeError(path, "StatusCode");
    }
    if (numberSource(objectOf({ body }, "body").StatusCode) !== "0") throw shapeError(path, "StatusCode");
    return objectOf(body as Data, "Data");
  }

  async function send(path: string, fields: Readonly<Record<string, string>>, safe: boolean): Promise<Data> {
    const { Amount: amount, ...rest } = { ...bin, ...fields } as Readonly<Record<string, string>>;
    // The amount goes out digit for digit, as the JSON number that the document asks for.
    const text = JSON.stringify(rest);
    const json = amount === undefined ? text : `${text.slice(0, -1)}${text === "{}" ? "" : ","}"Amount":${amount}}`;
    const headers = { "content-type": "application/json" };
    // The name of a call holds no id: path parts that follow are not of it.
    return read(await client.send({ name: path, method: "POST", path, headers, text: json, safe }), path);
  }

  async function deviceToken(): Promise<string> {
    device ??= send("/device/register", { DeviceId: deviceId, TradePointId: tradePointId }, true).then((data) =>
      textOf(data, "DeviceToken", "/device/register"),
    );
    try {
      return await device;
    } catch (error) {
      device = undefined;
      if (!SdkError.isInstance(error)) throw error;
      // Whatever became of the registration, the call that needs it was not sent.
      throw new RequestError(error.message, { vendor: "kaspi-qr", code: "network", outcome: "not-executed" });
    }
  }

  /** A device that the vendor no longer knows is registered again: the call was refused, so it may be made once more. */
  async function withDevice(call: (token: string) => Promise<Data>): Promise<Data> {
    try {
      return await call(await deviceToken());
    } catch (error) {
      const code = SdkError.isInstance(error) && "vendorCode" in error ? error.vendorCode : undefined;
      if (code !== "-1501" && code !== "-1502") throw error;
      device = undefined;
      return call(await deviceToken());
    }
  }

  return {
    post: (path: string, fields: Readonly<Record<string, string>>): Promise<Data> =>
      withDevice((DeviceToken) => send(path, { ...fields, DeviceToken }, false)),
    /** Never repeated by itself: questions about a payment keep an interval. */
    get: async (path: string, id: string): Promise<Data> =>
      read(await client.send({ name: path, path: `${path}/${encodeURIComponent(id)}`, safe: false }), path),
    details: (QrPaymentId: string): Promise<Data> =>
      withDevice(async (DeviceToken) => {
        const name = "/payment/details";
        return read(
          await client.send({ name, path: name, query: new URLSearchParams({ QrPaymentId, DeviceToken }) }),
          name,
        );
      }),
  };
}
