import { createHash, createHmac, sign } from "node:crypto";
import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";
import { createFakeCertificate, type FakeCertificate } from "./certificate.ts";
import { donePage, errorPage, escapeHtml, paymentPage } from "./page.ts";

/** A shop as its cabinet shows it. */
export interface FakeShop {
  readonly login: string;
  readonly password1: string;
  readonly password2: string;
  /** Given after a request to Robokassa; without it every refund is refused. */
  readonly password3?: string;
  readonly testPassword1?: string;
  readonly testPassword2?: string;
  /** @defaultValue "md5" */
  readonly algorithm?: "md5" | "ripemd160" | "sha1" | "sha256" | "sha384" | "sha512";
  /** Empty: nobody is called. */
  readonly resultUrl?: string;
  /** `email` calls nobody, as in the real cabinet. @defaultValue "POST" */
  readonly resultMethod?: "POST" | "GET" | "email";
  readonly successUrl?: string;
  readonly failUrl?: string;
  /** An inactive shop takes test payments only. @defaultValue true */
  readonly active?: boolean;
  /** By agreement with Robokassa. @defaultValue false */
  readonly holdAllowed?: boolean;
  readonly recurringAllowed?: boolean;
  readonly splitAllowed?: boolean;
}

/** Where sources disagree about the service; our code must pass under each. */
export interface FakeReadings {
  /** @defaultValue "name" */
  readonly shpOrder?: "name" | "pair";
  /** @defaultValue "raw" */
  readonly url2Signing?: "raw" | "encoded";
  /** How a receipt must stand in its field after the one decode of the transport. @defaultValue "encoded" */
  readonly receiptSigning?: "encoded" | "raw";
  /** Whether the invoice service makes test links, signed by test password 1. @defaultValue "refused" */
  readonly invoiceTest?: "refused" | "test-pair";
  /** How the ResultUrl2 message stands in the body. @defaultValue "bare" */
  readonly result2Body?: "bare" | "quoted" | "base64";
  /** Namespace of the XML: as the documents or as the official tests have it. @defaultValue "documents" */
  readonly xmlNamespace?: "documents" | "tests";
  /** The `OutSum` that OpStateExt names after a capture of a part. @defaultValue "captured" */
  readonly stateOutSum?: "captured" | "held";
  /** The only body that the refund service takes. @defaultValue "json" */
  readonly refundBody?: "json" | "bare";
}

export interface FakeRobokassaOptions extends FakeShop {
  readonly readings?: FakeReadings;
  /** Calls the shop. @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
  /** A shop in the same process, in place of `fetch`. */
  readonly deliver?: FetchHandler;
  readonly clock?: Clock;
  /** Pauses before the second to fifth attempt of ResultURL, in milliseconds; the real ones are not published. */
  readonly retryDelaysMs?: readonly number[];
  /** Signs ResultUrl2. @defaultValue made at the first need, valid for a year */
  readonly certificate?: FakeCertificate;
}

export interface FakeDelivery {
  readonly kind: "result" | "result2";
  readonly invId: string;
  /** 1 to 5. */
  readonly attempt: number;
  readonly at: Date;
  /** The form or message that was sent. */
  readonly body: string;
  /** `undefined` when nobody answered. */
  readonly status: number | undefined;
  readonly answer: string;
  /** ResultURL: the answer was exactly `OK<InvId>`; ResultUrl2: any 2xx. */
  readonly accepted: boolean;
}

/** State numbers as OpStateExt gives them. */
export type FakeOperationState = 5 | 10 | 20 | 50 | 60 | 80 | 100;

export interface FakeOperation {
  readonly invId: string;
  readonly opKey: string;
  /** As the shop sent it. */
  readonly outSum: string;
  readonly test: boolean;
  readonly state: FakeOperationState;
  readonly at: Date;
}

export interface FakeRefund {
  readonly requestId: string;
  readonly invId: string;
  readonly amount: string;
  readonly label: "processing" | "finished" | "canceled";
}

export interface PayResult {
  /** Set when the payment page showed an error. */
  readonly errorCode: number | undefined;
  readonly invId: string | undefined;
  /** First attempt of ResultURL; `undefined` when nobody is to be called. */
  readonly delivery: FakeDelivery | undefined;
  /** First attempt of ResultUrl2, where the payment asked for it; never in tests. */
  readonly delivery2: FakeDelivery | undefined;
  /** Where the buyer's browser is sent. */
  readonly redirectUrl: string | undefined;
}

export interface FakeRobokassa {
  /** All hosts of the vendor on one origin. */
  readonly handle: FetchHandler;
  /** Opens a payment link as a buyer does and pays; the first delivery has ended when this resolves. */
  pay(
    payment:
      | { readonly url: string }
      | {
          readonly invId: string;
          readonly outSum: string;
          readonly test?: boolean;
          readonly shp?: Readonly<Record<string, string>>;
        },
  ): Promise<PayResult>;
  /** Opens a payment link and confirms payment details; the money has not come: state 5. Nobody is called. */
  confirm(payment: { readonly url: string }): Promise<PayResult>;
  /** Moves the newest operation of a number to another state without telling anybody. */
  setState(invId: string, state: FakeOperationState): void;
  /** Ends a refund that is under way. */
  endRefund(requestId: string, state: "finished" | "canceled"): void;
  /** Second receipts that were attached, as their JSON, by number. */
  readonly receipts: ReadonlyMap<string, string>;
  /** Refunds that were asked for, the oldest first. */
  readonly refunds: readonly FakeRefund[];
  /** Text messages that were sent, the oldest first. */
  readonly messages: readonly { readonly phone: string; readonly message: string }[];
  /** Payments divided between shops that were started, as their JSON. */
  readonly splits: readonly string[];
  /** Sends ResultURL of a paid operation once more, as the cabinet's button does. */
  redeliver(invId: string): Promise<FakeDelivery | undefined>;
  /** Certificate for ResultUrl2 as PEM; also served where the documents name it. */
  readonly certificate: string;
  /** Newest last. */
  readonly operations: readonly FakeOperation[];
  readonly deliveries: readonly FakeDelivery[];
  /** Letters to the shop's administrator: five attempts failed, or e-mail is chosen as the method. */
  readonly letters: readonly { readonly invId: string; readonly reason: "not_accepted" | "email_method" }[];
  readonly faults: Faults;
  readonly journal: Journal;
  /** Changes the cabinet's settings from now on. */
  configure(change: Partial<FakeShop>): void;
  /** Resolves when every attempt that is due has ended. */
  idle(): Promise<void>;
  /** Ends waiting attempts. */
  close(): void;
}

interface Session {
  readonly id: string;
  readonly invId: string;
  readonly outSum: string;
  readonly description: string;
  readonly test: boolean;
  readonly hold: boolean;
  readonly recurring: boolean;
  readonly email: string;
  readonly shp: readonly (readonly [string, string])[];
  readonly successUrl: string | undefined;
  readonly failUrl: string | undefined;
  readonly resultUrl2: string | undefined;
  finished: boolean;
}

/** A link of the invoice service. */
interface Invoice {
  readonly id: string;
  readonly encodedId: string;
  readonly invId: string;
  readonly url: string;
  /** The payload that made it. */
  readonly payload: InvoicePayload;
  readonly outSum: string;
  readonly at: Date;
  readonly test: boolean;
  active: boolean;
  paid: boolean;
}

interface InvoicePayload {
  readonly MerchantLogin?: string;
  readonly InvoiceType?: string;
  readonly Description?: string;
  readonly UserFields?: Readonly<Record<string, string>>;
  readonly InvoiceItems?: readonly { readonly Quantity: number; readonly Cost: number }[];
  readonly SuccessUrl2Data?: { readonly Url: string };
  readonly FailUrl2Data?: { readonly Url: string };
  readonly ExpirationDate?: string;
  readonly AdditionalParameters?: Readonly<Record<string, string>>;
  readonly Id?: string;
  readonly EncodedId?: string;
  readonly CurrentPage?: number;
  readonly PageSize?: number;
  readonly InvoiceStatuses?: readonly string[];
  readonly InvoiceTypes?: readonly string[];
  readonly DateFrom?: string;
  readonly DateTo?: string;
  readonly Keywords?: string;
  readonly IsAscending?: boolean;
  readonly SumFrom?: number;
  readonly SumTo?: number;
}

interface Operation {
  invId: string;
  opKey: string;
  outSum: string;
  test: boolean;
  state: FakeOperationState;
  at: Date;
  readonly session: Session;
}

const decimals = (text: string, places: number): string => {
  const [whole = "0", fraction = ""] = text.split(".");
  return `${whole}.${fraction.padEnd(places, "0").slice(0, places)}`;
};

const errorTexts: Readonly<Record<number, string>> = {
  23: "Test parameters are not set",
  25: "The shop is not active",
  26: "Shop not found",
  29: "Wrong SignatureValue",
  30: "Wrong bill parameter",
  31: "Wrong sum",
  33: "The time of the link is up",
  34: "Recurring payments are not allowed",
  40: "This bill was paid already",
  41: "The payment could not be started",
  51: "The time of the link is up",
  52: "This link was paid already",
  53: "Link not found",
  64: "Holds are not allowed",
};

/**
 * Robokassa as a shop sees it: payment page, ResultURL with five attempts, SuccessURL and FailURL.
 *
 * Written from the documents, not from our client. Serve it with `listen(fake.handle)` from `@orderbridge/core/testing`,
 * or pass `fetchFrom(fake.handle)` as a client's `fetch`.
 */
export function createFakeRobokassa(options: FakeRobokassaOptions): FakeRobokassa {
  const { readings = {}, clock = systemClock, retryDelaysMs = [60_000, 300_000, 900_000, 3_600_000] } = options;
  let shop: FakeShop = options;
  const send: typeof fetch =
    options.fetch ??
    (options.deliver
      ? async (input, init) => (options.deliver as FetchHandler)(new Request(input, init))
      : (...request) => globalThis.fetch(...request));
  const sessions = new Map<string, Session>();
  const operations: Operation[] = [];
  const deliveries: FakeDelivery[] = [];
  const letters: { invId: string; reason: "not_accepted" | "email_method" }[] = [];
  const refunds: { -readonly [Name in keyof FakeRefund]: FakeRefund[Name] }[] = [];
  const receipts = new Map<string, string>();
  const messages: { phone: string; message: string }[] = [];
  const splits: string[] = [];
  const invoices = new Map<string, Invoice>();
  const journal = createJournal();
  const faults = createFaults(clock);
  const closing = new AbortController();
  const running = new Set<Promise<unknown>>();
  let key = options.certificate;
  let assignedInvId = 500_000_000;
  let serial = 0;

  const hash = (text: string): string =>
    createHash(shop.algorithm ?? "md5")
      .update(text, "utf8")
      .digest("hex");

  function shpTexts(shp: readonly (readonly [string, string])[]): string[] {
    const before = (a: string, b: string): number => (a < b ? -1 : Number(a > b));
    if (readings.shpOrder === "pair") return shp.map(([name, value]) => `${name}=${value}`).sort(before);
    return [...shp]
      .sort((a, b) => before(a[0].toLowerCase(), b[0].toLowerCase()))
      .map(([name, value]) => `${name}=${value}`);
  }

  /** A receipt in the other form makes the service hash another text than the shop did. */
  const isReceipt = (value: string): boolean => value.startsWith(readings.receiptSigning === "raw" ? "{" : "%7B");

  /** Reads a payment start as it arrived, after the one decode of the transport. */
  function open(form: URLSearchParams): { error: number } | { session: Session } {
    const fields = new Map<string, string>();
    const shp: [string, string][] = [];
    for (const [name, value] of form) {
      if (/^shp_/i.test(name)) shp.push([name, value]);
      else if (!fields.has(name.toLowerCase())) fields.set(name.toLowerCase(), value);
    }
    const field = (...names: string[]): string =>
      names.map((name) => fields.get(name)).find((value) => value !== undefined) ?? "";
    const outSum = field("outsum");
    const invId = field("invid", "invoiceid");
    const test = field("istest") === "1";
    const hold = field("stepbystep") === "true";

    if (field("merchantlogin", "mrchlogin") !== shop.login) return { error: 26 };
    if (test && !(shop.testPassword1 && shop.testPassword2)) return { error: 23 };
    if (!test && shop.active === false) return { error: 25 };
    if (!/^\d+(\.\d+)?$/.test(outSum) || Number(outSum) <= 0) return { error: 31 };
    if (!/^\d{0,19}$/.test(invId) || BigInt(invId || "0") > 9_223_372_036_854_775_807n) return { error: 30 };
    if ([...field("description", "desc")].length > 100) return { error: 30 };
    if (shp.reduce((sum, pair) => sum + pair[0].length + pair[1].length, 0) > 2048) return { error: 30 };

    const slots = [shop.login, outSum, invId];
    for (const name of ["outsumcurrency", "userip", "receipt"]) if (fields.has(name)) slots.push(field(name));
    if (hold) slots.push("true");
    for (const name of ["resulturl2", "successurl2", "failurl2"]) {
      if (!fields.has(name)) continue;
      slots.push(readings.url2Signing === "encoded" ? encodeURIComponent(field(name)) : field(name));
      if (name !== "resulturl2") slots.push(field(`${name}method`));
    }
    if (fields.has("token")) slots.push(field("token"));
    slots.push((test ? shop.testPassword1 : shop.password1) ?? "");
    if (hash([...slots, ...shpTexts(shp)].join(":")) !== field("signaturevalue").toLowerCase()) return { error: 29 };

    if (fields.has("receipt") && !isReceipt(field("receipt"))) return { error: 29 };
    const expires = field("expirationdate");
    if (expires && Date.parse(expires) <= clock.now().getTime()) return { error: 33 };
    if (hold && !shop.holdAllowed) return { error: 64 };
    if (field("recurring") === "true" && !shop.recurringAllowed) return { error: 34 };
    // Numbers used in test mode do not count.
    if (!test && operations.some((other) => other.invId === invId && !other.test && [50, 100].includes(other.state))) {
      return { error: 40 };
    }
    const session: Session = {
      id: `${hash(`session ${++serial}`).slice(0, 8)}-${String(serial).padStart(12, "0")}`,
      invId: invId === "" || invId === "0" ? String(++assignedInvId) : invId,
      outSum,
      description: field("description", "desc"),
      test,
      hold,
      recurring: field("recurring") === "true",
      email: field("email"),
      shp,
      successUrl: fields.get("successurl2") ?? shop.successUrl,
      failUrl: fields.get("failurl2") ?? shop.failUrl,
      resultUrl2: fields.get("resulturl2"),
      finished: false,
    };
    sessions.set(session.id, session);
    return { session };
  }

  /** Fields of ResultURL as they come: each value under two names, six decimals live and two in tests. */
  function resultForm({ session, outSum: paidSum }: Operation): URLSearchParams {
    const { invId, test } = session;
    const outSum = decimals(paidSum, test ? 2 : 6);
    const password = (test ? shop.testPassword2 : shop.password2) ?? "";
    const signature = hash([outSum, invId, password, ...shpTexts(session.shp)].join(":")).toUpperCase();
    const form = new URLSearchParams([
      ["out_summ", outSum],
      ["OutSum", outSum],
      ["inv_id", invId],
      ["InvId", invId],
      ["crc", signature],
      ["SignatureValue", signature],
      ["PaymentMethod", "BankCard"],
      ["IncSum", outSum],
      ["IncCurrLabel", "BankCardPSR"],
    ]);
    if (test) form.append("IsTest", "1");
    form.append("EMail", test ? "" : session.email);
    // 3.9 % in millionths, without floats.
    const [whole = "0", fraction = ""] = decimals(paidSum, 6).split(".");
    const fee = ((BigInt(whole) * 1_000_000n + BigInt(fraction)) * 39n) / 1000n;
    form.append("Fee", test ? "0.0" : `${fee / 1_000_000n}.${String(fee % 1_000_000n).padStart(6, "0")}`);
    for (const [name, value] of session.shp) form.append(name, value);
    return form;
  }

  /** RS256 over `header.payload`. */
  function result2Message({ session, opKey, outSum, state }: Operation): string {
    const segment = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${segment({ typ: "JWT", alg: "RS256" })}.${segment({
      header: {
        type: "PaymentStateNotification",
        version: "1.0.0",
        timestamp: String(Math.floor(clock.now().getTime() / 1000)),
      },
      data: {
        shop: shop.login,
        opKey,
        invId: session.invId,
        paymentMethod: "BankCard",
        incSum: decimals(outSum, 2),
        state: state === 20 ? "HOLD" : "OK",
      },
    })}`;
    const message = `${text}.${sign("sha256", Buffer.from(text), certificate().privateKey).toString("base64url")}`;
    if (readings.result2Body === "quoted") return JSON.stringify(message);
    return readings.result2Body === "base64" ? Buffer.from(message).toString("base64") : message;
  }

  function certificate(): FakeCertificate {
    const now = clock.now().getTime();
    key ??= createFakeCertificate({ validFrom: new Date(now - 86_400_000), validTo: new Date(now + 365 * 86_400_000) });
    return key;
  }

  function toSend(
    operation: Operation,
    kind: FakeDelivery["kind"],
  ): readonly [string, RequestInit, string] | undefined {
    if (kind === "result2") {
      const url = operation.session.resultUrl2;
      if (!url || operation.test) return undefined;
      const body = result2Message(operation);
      return [url, { method: "POST", body, headers: { "content-type": "application/json" } }, body];
    }
    const { resultUrl, resultMethod = "POST" } = shop;
    if (!resultUrl) return undefined;
    if (resultMethod === "email") {
      letters.push({ invId: operation.invId, reason: "email_method" });
      return undefined;
    }
    const body = resultForm(operation).toString();
    return resultMethod === "GET"
      ? [`${resultUrl}${resultUrl.includes("?") ? "&" : "?"}${body}`, {}, body]
      : [resultUrl, { method: "POST", body, headers: { "content-type": "application/x-www-form-urlencoded" } }, body];
  }

  function attempt(
    operation: Operation,
    number: number,
    kind: FakeDelivery["kind"],
  ): Promise<FakeDelivery | undefined> {
    const delivery = callShop(operation, number, kind).finally(() => running.delete(delivery));
    running.add(delivery);
    return delivery;
  }

  async function callShop(
    operation: Operation,
    number: number,
    kind: FakeDelivery["kind"],
  ): Promise<FakeDelivery | undefined> {
    const request = toSend(operation, kind);
    if (!request) return undefined;
    const [url, init, body] = request;
    const { invId } = operation;
    let status: number | undefined;
    let answer = "";
    try {
      const response = await send(url, { ...init, redirect: "manual" });
      status = response.status;
      answer = await response.text();
    } catch {
      // nobody answered
    }
    const accepted =
      kind === "result"
        ? status === 200 && answer === `OK${invId}`
        : status !== undefined && status >= 200 && status < 300;
    const delivery = { kind, invId, attempt: number, at: clock.now(), body, status, answer, accepted };
    deliveries.push(delivery);
    if (!accepted) {
      const delay = retryDelaysMs[number - 1];
      if (number < 5 && delay !== undefined) {
        clock.sleep(delay, closing.signal).then(
          () => attempt(operation, number + 1, kind),
          () => undefined, // closed
        );
      } else if (kind === "result") letters.push({ invId, reason: "not_accepted" });
    }
    return delivery;
  }

  function successUrl({ session, outSum, invId }: Operation): string | undefined {
    if (!session.successUrl) return undefined;
    const sum = decimals(outSum, 2);
    const password = (session.test ? shop.testPassword1 : shop.password1) ?? "";
    const url = new URL(session.successUrl);
    url.searchParams.set("OutSum", sum);
    url.searchParams.set("InvId", invId);
    url.searchParams.set("SignatureValue", hash([sum, invId, password, ...shpTexts(session.shp)].join(":")));
    if (session.test) url.searchParams.set("IsTest", "1");
    url.searchParams.set("Culture", "ru");
    for (const [name, value] of session.shp) url.searchParams.append(name, value);
    return url.href;
  }

  function failUrl(session: Session): string | undefined {
    if (!session.failUrl) return undefined;
    const url = new URL(session.failUrl);
    url.searchParams.set("OutSum", session.outSum);
    url.searchParams.set("InvId", session.invId);
    url.searchParams.set("Culture", "ru");
    for (const [name, value] of session.shp) url.searchParams.append(name, value);
    return url.href;
  }

  function operate(session: Session, state: FakeOperationState): Operation {
    session.finished = true;
    const operation: Operation = {
      invId: session.invId,
      opKey: `${hash(`operation ${++serial}`).slice(0, 32).toUpperCase()}-fake${serial}`,
      outSum: session.outSum,
      test: session.test,
      state,
      at: clock.now(),
      session,
    };
    operations.push(operation);
    return operation;
  }

  async function payOpened(session: Session): Promise<PayResult> {
    const invoice = invoices.get(session.invId);
    if (invoice) invoice.paid = true;
    const operation = operate(session, session.hold ? 20 : 100);
    const delivery = session.hold ? undefined : await attempt(operation, 1, "result");
    const delivery2 = await attempt(operation, 1, "result2");
    return { errorCode: undefined, invId: session.invId, delivery, delivery2, redirectUrl: successUrl(operation) };
  }

  const failed = (errorCode: number): PayResult => ({
    errorCode,
    invId: undefined,
    delivery: undefined,
    delivery2: undefined,
    redirectUrl: undefined,
  });

  /** A buyer opens the link of an invoice. */
  function openInvoice(encodedId: string): { error: number } | { session: Session } {
    const invoice = [...invoices.values()].find((other) => other.encodedId === encodedId);
    if (!invoice) return { error: 53 };
    if (statusOf(invoice) === "expired") return { error: 51 };
    const { payload, invId, outSum, test } = invoice;
    const { Description, InvoiceType, UserFields, AdditionalParameters: more = {} } = payload;
    if (invoice.paid && InvoiceType === "OneTime") return { error: 52 };
    const session: Session = {
      id: `invoice-${++serial}`,
      invId,
      outSum,
      description: Description ?? "",
      test,
      hold: more.StepByStep === "true",
      recurring: more.Recurring === "true",
      email: more.Email ?? "",
      shp: Object.entries(UserFields ?? {}),
      successUrl: payload.SuccessUrl2Data?.Url ?? shop.successUrl,
      failUrl: payload.FailUrl2Data?.Url ?? shop.failUrl,
      resultUrl2: more.ResultURL2,
      finished: false,
    };
    sessions.set(session.id, session);
    return { session };
  }

  function statusOf({ active, paid, payload }: Invoice): "paid" | "expired" | "notpaid" {
    const { ExpirationDate: end } = payload;
    if (!active || (end !== undefined && Date.parse(end) <= clock.now().getTime())) return "expired";
    return paid ? "paid" : "notpaid";
  }

  const pay: FakeRobokassa["pay"] = async (payment) => {
    const encodedId = "url" in payment && /\/merchant\/Invoice\/([\w-]+)$/.exec(payment.url)?.[1];
    if (encodedId) {
      const opened = openInvoice(encodedId);
      return "error" in opened ? failed(opened.error) : payOpened(opened.session);
    }
    if ("url" in payment) {
      const opened = open(new URL(payment.url).searchParams);
      return "error" in opened ? failed(opened.error) : payOpened(opened.session);
    }
    const { invId, outSum, test = false, shp = {} } = payment;
    const session: Session = {
      id: `direct-${++serial}`,
      invId,
      outSum,
      description: "",
      test,
      hold: false,
      recurring: false,
      email: "",
      shp: Object.entries(shp),
      successUrl: shop.successUrl,
      failUrl: shop.failUrl,
      resultUrl2: undefined,
      finished: false,
    };
    return payOpened(session);
  };

  const confirm: FakeRobokassa["confirm"] = async ({ url }) => {
    const opened = open(new URL(url).searchParams);
    if ("error" in opened) return failed(opened.error);
    const { invId } = operate(opened.session, 5);
    return { errorCode: undefined, invId, delivery: undefined, delivery2: undefined, redirectUrl: undefined };
  };

  const setState: FakeRobokassa["setState"] = (invId, state) => {
    const operation = operations.findLast((other) => other.invId === invId);
    if (!operation) throw new RangeError(`the fake knows no operation ${invId}`);
    operation.state = state;
    operation.at = clock.now();
  };

  /** OpStateExt. Its books hold no test payments, but a test under the same number confuses them. */
  function stateXml(form: URLSearchParams): Response {
    const invId = form.get("InvoiceID") ?? "";
    const own = operations.filter((operation) => operation.invId === invId);
    const live = own.findLast((operation) => !operation.test);
    let result = 0;
    if (form.get("MerchantLogin") !== shop.login || shop.active === false) result = 2;
    else if (hash(`${shop.login}:${invId}:${shop.password2}`) !== form.get("Signature")?.toLowerCase()) result = 1;
    else if (!live) result = 3;
    else if (own.some((operation) => operation.test)) result = 4;
    const stated = readings.stateOutSum === "held" ? live?.session.outSum : live?.outSum;
    const outSum = decimals(stated ?? "", 6);
    const date = (at: Date): string => at.toISOString().replace("Z", "0000+00:00"); // seven fraction digits
    const body =
      result !== 0 || !live
        ? ""
        : `<State><Code>${live.state}</Code><RequestDate>${date(clock.now())}</RequestDate><StateDate>${date(live.at)}</StateDate></State>
<Info><IncCurrLabel>BankCardPSR</IncCurrLabel><IncSum>${outSum}</IncSum><IncAccount></IncAccount>
<PaymentMethod><Code>BankCard</Code><Description>BankCard</Description></PaymentMethod>
<OutCurrLabel>BANKR</OutCurrLabel><OutSum>${outSum}</OutSum><OpKey>${live.opKey}</OpKey><BankCardRRN></BankCardRRN></Info>
<UserField>${live.session.shp.map(([name, value]) => `<Field><Name>${escapeHtml(name)}</Name><Value>${escapeHtml(value)}</Value></Field>`).join("")}</UserField>`;
    return xml("OperationStateResponse", `<Result><Code>${result}</Code></Result>${body}`);
  }

  /** Capture and release of a hold; both answer a JSON text. */
  async function moveHold(form: URLSearchParams, capture: boolean): Promise<Response> {
    const [invId, outSum, receipt] = ["InvoiceID", "OutSum", "Receipt"].map((name) => form.get(name));
    const slots = [shop.login, capture ? outSum : "", invId, ...(receipt ? [receipt] : []), shop.password1];
    const operation = operations.findLast((other) => other.invId === invId && other.state === 20);
    const isOurs =
      form.get("MerchantLogin") === shop.login &&
      (!receipt || isReceipt(receipt)) &&
      hash(slots.join(":")) === form.get("SignatureValue")?.toLowerCase();
    const isWithin = Number(outSum) > 0 && operation !== undefined && Number(outSum) <= Number(operation.outSum);
    if (!isOurs || !operation || !isWithin) return Response.json("success: false");
    operation.at = clock.now();
    operation.state = capture ? 100 : 60;
    if (capture) {
      operation.outSum = outSum ?? "";
      void attempt(operation, 1, "result");
      void attempt(operation, 1, "result2");
    }
    return Response.json("success: true");
  }

  function createRefund(body: string, isJson: boolean): Response {
    const refuse = (message: string, status = 200): Response =>
      Response.json({ success: false, message, requestId: null }, { status });
    if (isJson !== ((readings.refundBody ?? "json") === "json")) return new Response(null, { status: 415 });
    const token = isJson ? String(JSON.parse(body)) : body;
    const [header = "", payload = "", signature = ""] = token.split(".");
    const { alg } = JSON.parse(Buffer.from(header, "base64url").toString()) as { alg: string };
    const digest = { HS256: "sha256", HS384: "sha384", HS512: "sha512" }[alg];
    const isSigned =
      shop.password3 !== undefined &&
      digest !== undefined &&
      createHmac(digest, shop.password3).update(`${header}.${payload}`).digest("base64url") === signature;
    if (!isSigned) return refuse("Signature key is not exists", 401);
    const json = Buffer.from(payload, "base64url").toString();
    const { OpKey } = JSON.parse(json) as { OpKey: string };
    const operation = operations.find((other) => other.opKey === OpKey && other.state === 100);
    if (!operation) return refuse("OperationNotFound");
    // The digits as they stand: no float between the shop and its money.
    const amount = decimals(/"RefundSum":([\d.]+)/.exec(json)?.[1] ?? operation.outSum, 2);
    const kopecks = (text: string): bigint => BigInt(decimals(text, 2).replace(".", ""));
    const gone = refunds
      .filter(({ invId, label }) => invId === operation.invId && label !== "canceled")
      .reduce((sum, refund) => sum + kopecks(refund.amount), 0n);
    if (gone + kopecks(amount) > kopecks(operation.outSum)) return refuse("NotEnoughOperationFunds");
    const requestId = `${hash(`refund ${++serial}`).slice(0, 8)}-0000-4000-8000-${String(serial).padStart(12, "0")}`;
    refunds.push({ requestId, invId: operation.invId, amount, label: "processing" });
    return Response.json({ success: true, message: null, requestId });
  }

  /** Child of a recurring payment: accepted at once, told by ResultURL. */
  function charge(form: URLSearchParams): Response {
    const value = (name: string): string => form.get(name) ?? "";
    const shp = [...form].filter(([name]) => /^shp_/i.test(name));
    const [invId, outSum] = [value("InvoiceID"), value("OutSum")];
    const slots = [shop.login, outSum, invId, ...(form.has("Receipt") ? [value("Receipt")] : []), shop.password1];
    const refuse = (code: number): Response => new Response(`ERROR: ${code}`);
    if (hash([...slots, ...shpTexts(shp)].join(":")) !== value("SignatureValue").toLowerCase()) return refuse(29);
    if (form.has("Receipt") && !isReceipt(value("Receipt"))) return refuse(29);
    if (!shop.recurringAllowed) return refuse(34);
    const isForbidden = ["Recurring", "IncCurrLabel", "ExpirationDate", "IsTest"].some((name) => form.has(name));
    const parent = operations.find(({ invId: id, state }) => id === value("PreviousInvoiceID") && state === 100);
    if (isForbidden || !parent?.session.recurring) return refuse(35);
    if (operations.some((other) => other.invId === invId)) return refuse(40);
    const operation = operate({ ...parent.session, invId, outSum, shp, finished: false }, 100);
    void attempt(operation, 1, "result");
    return new Response(`OK${invId}`);
  }

  /** Invoice service: a JWT in quotes, signed with the algorithm that its header names. */
  async function invoiceService(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const method = pathname.split("/").at(-1);
    const refuse = (message: string): Response => Response.json({ isSuccess: false, message });
    if (!request.headers.get("content-type")?.startsWith("application/json"))
      return new Response(null, { status: 415 });
    const token: unknown = JSON.parse(await request.text());
    if (typeof token !== "string") return new Response(null, { status: 400 });
    const [header = "", content = "", signature = ""] = token.split(".");
    const { alg, typ } = JSON.parse(Buffer.from(header, "base64url").toString()) as { alg?: string; typ: string };
    const digest = {
      MD5: "md5",
      RIPEMD160: "ripemd160",
      SHA1: "sha1",
      HS1: "sha1",
      SHA256: "sha256",
      HS256: "sha256",
      SHA384: "sha384",
      HS384: "sha384",
      SHA512: "sha512",
      HS512: "sha512",
    }[alg ?? (shop.algorithm ?? "md5").toUpperCase()];
    if (digest === undefined || typ !== "JWT") return refuse("Неизвестный алгоритм");
    const isSignedBy = (password: string | undefined): boolean =>
      password !== undefined &&
      createHmac(digest, `${shop.login}:${password}`).update(`${header}.${content}`).digest("base64url") === signature;
    const json = Buffer.from(content, "base64url").toString();
    const payload = JSON.parse(json) as InvoicePayload;
    const mayTest = readings.invoiceTest === "test-pair";
    const isCreate = method === "CreateInvoice";
    const test = isCreate ? payload.AdditionalParameters?.IsTest === "1" : mayTest && isSignedBy(shop.testPassword1);
    if (!isSignedBy(test && mayTest ? shop.testPassword1 : shop.password1)) return refuse("Подпись неверна");
    if (payload.MerchantLogin !== shop.login) return refuse("Магазин не найден");
    if (method === "GetInvoiceInformationList") return listInvoices(payload);
    // The digits as they stand: 64-bit numbers do not fit JSON.parse.
    const invId = /"InvId":(\d+)/.exec(json)?.[1] ?? "0";
    if (!isCreate) {
      const named = [...invoices.values()].find(
        (other) => other.invId === invId || other.id === payload.Id || other.encodedId === payload.EncodedId,
      );
      if (named) named.active = false;
      return named ? Response.json({ isSuccess: true, message: "" }) : refuse("Счёт не найден");
    }
    const { InvoiceItems: items, InvoiceType: type, AdditionalParameters: more = {} } = payload;
    const outSum = /"OutSum":([\d.]+)/.exec(json)?.[1] ?? "0";
    if (type !== "OneTime" && type !== "Reusable") return refuse("Неизвестный тип счёта");
    if (Object.values(more).some((value) => typeof value !== "string")) return refuse("Неверные параметры");
    const kinds = [more.StepByStep, more.Recurring, more.Token].filter((value) => value !== undefined).length;
    if (kinds > 1 || (more.StepByStep && type !== "OneTime") || (more.Split && test))
      return refuse("Неверные параметры");
    if (more.StepByStep && !shop.holdAllowed) return refuse("Холдирование недоступно");
    if (more.Recurring && !shop.recurringAllowed) return refuse("Рекуррентные платежи недоступны");
    const kopecks = (items ?? []).reduce((sum, { Quantity, Cost }) => sum + Math.round(Quantity * Cost * 100), 0);
    if (items && BigInt(kopecks) !== BigInt(decimals(outSum, 2).replace(".", "")))
      return refuse("Сумма позиций неверна");
    const number = invId === "0" ? String(++assignedInvId) : invId;
    if (invoices.has(number)) return refuse("Заказ с таким Id уже существует");
    const id = `${hash(`invoice ${++serial}`).slice(0, 8)}-0000-4000-8000-${String(serial).padStart(12, "0")}`;
    const encodedId = Buffer.from(`link ${serial}`).toString("base64url");
    // A fake on a port keeps its buyers; under the vendor's name it answers as the vendor.
    const served = request.headers.get("host");
    const host = served ? `http://${served}` : "https://auth.robokassa.ru";
    const url = `${host}/merchant/Invoice/${encodedId}`;
    invoices.set(number, {
      id,
      encodedId,
      invId: number,
      url,
      payload,
      outSum,
      at: clock.now(),
      test,
      active: true,
      paid: false,
    });
    // The number as a JSON number, with all its digits.
    const answer = JSON.stringify({ isSuccess: true, url, id, encodedId, message: "", invId: 0 });
    return new Response(answer.replace('"invId":0', `"invId":${number}`), {
      headers: { "content-type": "application/json; charset=utf-8" },
    });
  }

  function listInvoices(filter: InvoicePayload): Response {
    const { CurrentPage = 0, PageSize = 0, InvoiceStatuses, InvoiceTypes, DateFrom, DateTo } = filter;
    if (CurrentPage < 1 || PageSize < 1 || !InvoiceStatuses || !InvoiceTypes || !DateFrom || !DateTo) {
      return Response.json({ isSuccess: false, message: "Неверные параметры" });
    }
    const found = [...invoices.values()].filter((invoice) => {
      const { payload, at, outSum } = invoice;
      return (
        InvoiceStatuses.includes(statusOf(invoice)) &&
        InvoiceTypes.includes((payload.InvoiceType ?? "").toLowerCase()) &&
        at.getTime() >= Date.parse(DateFrom) &&
        at.getTime() <= Date.parse(DateTo) &&
        (payload.Description ?? "").includes(filter.Keywords ?? "") &&
        Number(outSum) >= (filter.SumFrom ?? 0) &&
        Number(outSum) <= (filter.SumTo ?? Number.POSITIVE_INFINITY)
      );
    });
    if (filter.IsAscending === false) found.reverse();
    const page = found.slice((CurrentPage - 1) * PageSize, CurrentPage * PageSize).map((invoice) => {
      const { payload, id, at, url, invId, outSum } = invoice;
      const text = JSON.stringify({
        id,
        invId: 0,
        invoiceType: payload.InvoiceType?.toLowerCase(),
        created: at.toISOString(),
        modified: at.toISOString(),
        outSum: 0,
        description: payload.Description,
        invoiceStatus: statusOf(invoice),
        invoicePaymentUrl: url,
        aliases: null,
        invoiceItems: payload.InvoiceItems ?? [],
        userFields: payload.UserFields ?? {},
        payments: [],
      });
      return text.replace('"invId":0', `"invId":${invId}`).replace('"outSum":0', `"outSum":${outSum}`);
    });
    return new Response(
      `{"invoiceInformationList":[${page.join(",")}],"total":${found.length},"isSuccess":true,"message":null}`,
      { headers: { "content-type": "application/json; charset=utf-8" } },
    );
  }

  const xml = (root: string, content: string): Response =>
    new Response(
      `<?xml version="1.0" encoding="utf-8"?>
<${root} xmlns="${readings.xmlNamespace === "tests" ? "http://merchant.roboxchange.com/WebService/" : "http://auth.robokassa.ru/Merchant/WebService/"}">${content}</${root}>`,
      { headers: { "content-type": "text/xml; charset=utf-8" } },
    );

  /** GetCurrencies and CalcOutSumm, both unsigned. */
  function catalog(form: URLSearchParams, method: string): Response {
    const isKnown = form.get("MerchantLogin") === shop.login && shop.active !== false;
    const code = `<Result><Code>${isKnown ? 0 : 2}</Code></Result>`;
    if (method === "CalcOutSumm") {
      // 3.9 % stay with the service.
      const [whole = "0", fraction = ""] = decimals(form.get("IncSum") ?? "0", 2).split(".");
      const kopecks = ((BigInt(whole) * 100n + BigInt(fraction)) * 961n) / 1000n;
      const sum = `${kopecks / 100n}.${String(kopecks % 100n).padStart(2, "0")}`;
      return xml("CalcSummsResponseData", `${code}${isKnown ? `<OutSum>${sum}</OutSum>` : ""}`);
    }
    const isEnglish = form.get("Language") !== "ru";
    const cards = isEnglish ? "Bank card" : "Банковская карта";
    const groups = `<Groups><Group Code="BankCard" Description="${cards}"><Items>
<Currency Label="BankCardPSR" Alias="BankCard" Name="${cards} &amp; Apple Pay" MinValue="1" MaxValue="600000"><Rate IncSum="0"/></Currency>
</Items></Group><Group Code="SBP" Description="${isEnglish ? "Fast payments" : "СБП"}"><Items>
<Currency Label="SBPPSR" Name="SBP"/></Items></Group><Group Code="EWallet" Description=""><Items/></Group></Groups>`;
    return xml("CurrenciesList", `${code}${isKnown ? groups : ""}`);
  }

  /** A payment divided between shops: the hash is over the raw JSON and the password, without a colon between. */
  function startSplit(form: URLSearchParams): Response {
    const json = form.get("Invoice") ?? form.get("invoice") ?? "";
    if (hash(json + shop.password1) !== (form.get("Signature") ?? form.get("signature") ?? "").toLowerCase()) {
      return errorPage(29, errorTexts[29] as string);
    }
    const { merchant, isTest, splitMerchants } = JSON.parse(json) as {
      merchant?: { id?: string };
      isTest?: boolean;
      splitMerchants?: readonly { amount: number }[];
    };
    if (merchant?.id !== shop.login) return errorPage(26, errorTexts[26] as string);
    if (!shop.splitAllowed || isTest || !splitMerchants?.length) return errorPage(41, errorTexts[41] as string);
    splits.push(json);
    return donePage("Started");
  }

  function sendMessage(form: URLSearchParams): Response {
    const [login = "", phone = "", message = "", signature = ""] = ["login", "phone", "message", "signature"].map(
      (name) => form.get(name) ?? "",
    );
    // Numbers of the fake's own: the documents name none.
    const refuse = (errorCode: number, errorMessage: string): Response =>
      Response.json({ result: false, errorCode, errorMessage, count: 0 });
    if (login !== shop.login) return refuse(2, "Shop not found");
    if (hash([login, phone, message, shop.password1].join(":")) !== signature.toLowerCase()) {
      return refuse(1, "Wrong signature");
    }
    if (message.length > 128) return refuse(3, "The message is too long");
    messages.push({ phone, message });
    return Response.json({ result: true, errorCode: 0, errorMessage: "", count: 1 });
  }

  /** Second receipts: base64 of JSON, a dot, base64 of the digest's text; both without padding. */
  function receipt(body: string, attach: boolean): Response {
    const [content = "", signature = ""] = body.split(".");
    const expected = Buffer.from(hash(content + shop.password1))
      .toString("base64")
      .replace(/=+$/, "");
    const answer = (ResultCode: number, more: object = {}): Response => Response.json({ ResultCode, ...more });
    if (signature !== expected) return answer(1000);
    const json = Buffer.from(content, "base64").toString();
    const { id } = JSON.parse(json) as { id: number };
    if (!attach)
      return receipts.has(String(id))
        ? answer(2, {
            FnNumber: "9960440300000001",
            FiscalDocumentNumber: 7,
            FiscalDocumentAttribute: 3456789012,
            FiscalDate: "2026-11-01T10:00:00+03:00",
            FiscalType: 1,
          })
        : answer(3);
    receipts.set(String(id), json);
    return answer(0, { OpKey: "RECEIPT" });
  }

  function refundState(id: string | null): Response {
    const refund = refunds.find(({ requestId }) => requestId === id);
    if (!refund) return Response.json({ message: "Refund request not found" });
    const { requestId, amount, label } = refund;
    return Response.json({ requestId, amount: Number(amount), label });
  }

  const endRefund: FakeRobokassa["endRefund"] = (id, state) => {
    const refund = refunds.find(({ requestId }) => requestId === id);
    if (!refund) throw new RangeError(`the fake knows no refund ${id}`);
    refund.label = state;
  };

  const redeliver: FakeRobokassa["redeliver"] = async (invId) => {
    const operation = operations.findLast((other) => other.invId === invId && other.state === 100);
    return operation && attempt(operation, 5, "result");
  };

  const see = ({ invId, opKey, outSum, test, state, at }: Operation): FakeOperation => ({
    invId,
    opKey,
    outSum,
    test,
    state,
    at,
  });

  const redirect = (location: string): Response => new Response(null, { status: 302, headers: { location } });

  async function route(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const path = url.pathname;
    const readForm = async (): Promise<URLSearchParams> =>
      request.method === "POST" ? new URLSearchParams(await request.text()) : url.searchParams;

    if (path === "/Merchant/Index.aspx" || path === "/Merchant/Payment/CoFPayment") {
      const opened = open(await readForm());
      if ("error" in opened) return errorPage(opened.error, errorTexts[opened.error] ?? "Internal error");
      const { session } = opened;
      return paymentPage({ ...session, shop: shop.login, action: `/Merchant/Index/${session.id}` });
    }
    const encodedId = /^\/merchant\/Invoice\/([\w-]+)$/.exec(path)?.[1];
    if (encodedId) {
      const opened = openInvoice(encodedId);
      if ("error" in opened) return errorPage(opened.error, errorTexts[opened.error] as string);
      return paymentPage({ ...opened.session, shop: shop.login, action: `/Merchant/Index/${opened.session.id}` });
    }
    const session = sessions.get(/^\/Merchant\/Index\/([\w-]+)$/.exec(path)?.[1] ?? "");
    if (session && request.method === "POST") {
      if (session.finished) return errorPage(40, errorTexts[40] as string);
      if ((await readForm()).get("action") === "pay") {
        const { redirectUrl } = await payOpened(session);
        return redirectUrl ? redirect(redirectUrl) : donePage("Paid");
      }
      const location = failUrl(session);
      return location ? redirect(location) : donePage("Refused");
    }
    // The other side's verbs, for a demo page that runs in another process.
    if (path === "/fake/pay" && request.method === "POST") {
      return Response.json(await pay((await request.json()) as Parameters<typeof pay>[0]));
    }
    if (path === "/fake/redeliver" && request.method === "POST") {
      const { invId } = (await request.json()) as { invId: string };
      return Response.json((await redeliver(invId)) ?? null);
    }
    if (path === "/Merchant/WebService/Service.asmx/OpStateExt") return stateXml(await readForm());
    if (path === "/Merchant/Payment/Confirm") return moveHold(await readForm(), true);
    if (path === "/Merchant/Payment/Cancel") return moveHold(await readForm(), false);
    if (path === "/RefundService/Refund/Create" && request.method === "POST") {
      const isJson = request.headers.get("content-type")?.startsWith("application/json") ?? false;
      return createRefund(await request.text(), isJson);
    }
    if (path === "/Merchant/Recurring") return charge(await readForm());
    const method = /^\/Merchant\/WebService\/Service\.asmx\/(GetCurrencies|CalcOutSumm)$/.exec(path)?.[1];
    if (method) return catalog(await readForm(), method);
    if (path === "/Merchant/Payment/CreateV2") return startSplit(await readForm());
    if (path === "/SMS/") return sendMessage(url.searchParams);
    if (/^\/InvoiceServiceWebApi\/api\/(CreateInvoice|DeactivateInvoice|GetInvoiceInformationList)$/.test(path)) {
      return invoiceService(request);
    }
    if (path === "/RoboFiscal/Receipt/Attach") return receipt(await request.text(), true);
    if (path === "/RoboFiscal/Receipt/Status") return receipt(await request.text(), false);
    if (path === "/RefundService/Refund/GetState") return refundState(url.searchParams.get("id"));
    if (path === "/media/files/jwtsign.cer") return new Response(certificate().certificate);
    if (path === "/fake/state") return Response.json({ operations: operations.map(see), deliveries, letters });
    return new Response("not found", { status: 404 });
  }

  const handle = faults.wrap(route);
  return {
    handle: async (request) => {
      const { pathname, search } = new URL(request.url);
      let status = 0; // the connection ended without an answer
      try {
        const response = await handle(request);
        ({ status } = response);
        return response;
      } finally {
        journal.record({ method: request.method, path: pathname + search, at: clock.now(), status });
      }
    },
    pay,
    confirm,
    setState,
    endRefund,
    receipts,
    refunds,
    messages,
    splits,
    redeliver,
    get certificate() {
      return certificate().certificate;
    },
    get operations() {
      return operations.map(see);
    },
    deliveries,
    letters,
    faults,
    journal,
    configure(change) {
      shop = { ...shop, ...change };
    },
    async idle() {
      // A sleeper that was just woken starts its attempt within this turn of the event loop.
      await new Promise((resolve) => setImmediate(resolve));
      while (running.size > 0) await Promise.all(running);
    },
    close() {
      closing.abort();
    },
  };
}
