import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";
import { formatAmount, parseAmount } from "../money.ts";

/** Facts that the document leaves open; the first of each is the default. */
export interface FakeKaspiQrReadings {
  /** Newer answers of the status call also hold `TransactionId`, `Amount` and more. */
  readonly status?: "short" | "long";
  /** Ids as JSON numbers (beyond 2^53) or as text. */
  readonly ids?: "number" | "text";
  /** HTTP status of answers that say no. */
  readonly refusals?: "200" | "400";
  readonly dates?: "offset" | "lenient";
  /** What a QR says after its timeouts: the document draws `QrTokenCreated`, `Wait`, `Processed`, `Error`. */
  readonly afterTimeout?: "stays" | "error";
  /** The document prints `Error` behind `Processed`. */
  readonly afterProcessed?: "stays" | "error";
  /** How a paid invoice is called. */
  readonly paidInvoice?: "Processed" | "RemotePaymentPaid";
}

export interface FakeKaspiQrPayment {
  readonly id: string;
  readonly kind: "qr" | "link" | "invoice";
  readonly status: string;
  /** Minor units. */
  readonly amountMinor: bigint;
  readonly returnedMinor: bigint;
  readonly externalId: string | undefined;
  /** What opens it: the link or the token. */
  readonly opens: string;
  readonly phone: string | undefined;
}

export interface FakeKaspiQr {
  readonly handle: FetchHandler;
  readonly journal: Journal;
  readonly faults: Faults;
  readonly payments: readonly FakeKaspiQrPayment[];
  /** What a client must not do and did: asked a QR earlier than its interval, asked an invoice twice within a minute, … */
  readonly violations: readonly string[];
  /** The payer opens the link or scans the QR. */
  scan(id: string): void;
  /** Scans and confirms. @throws {Error} for an invoice that was cancelled. */
  pay(id: string): void;
  /** The payer of an invoice says no. */
  reject(id: string): void;
  /** `Error`: cancelled by the buyer, or failed. */
  fail(id: string): void;
  setStatus(id: string, status: string): void;
  /** r2: buyers scan every refund QR that waits for one. */
  scanReturns(): void;
  /** r2: every refund QR that nobody scanned is over. */
  expireReturns(): void;
  /** Somebody refunds by hand in the application. */
  refundByHand(id: string, amountMinor: bigint): void;
  /** The next call whose path ends so is answered with this `StatusCode` and does nothing. */
  refuseNext(path: string, code: number): void;
  /** The vendor forgets the device: it must be registered again. */
  forgetDevice(): void;
}

interface Entry {
  id: string;
  kind: FakeKaspiQrPayment["kind"];
  status: string;
  amountMinor: bigint;
  returnedMinor: bigint;
  externalId: string | undefined;
  opens: string;
  phone: string | undefined;
  tradePointId: string;
  /** Money was taken, whatever the status says now. */
  isPaid: boolean;
  createdAt: number;
  scannedAt: number;
  askedAt: number;
}

class No extends Error {
  override readonly name = "No";
  readonly code: number;
  constructor(code: number) {
    super(String(code));
    this.code = code;
  }
}

const dayMs = 24 * 3_600_000;

/**
 * Kaspi's side of the "Public QR API" v01, written from its document v3.9: devices, QR, link, invoice, status, refunds of
 * r2 and r3, the calls that drive a test payment. Amounts are doubles with up to two places.
 */
export function createFakeKaspiQr({
  scheme,
  apiKey,
  organizationBin = "123456789012",
  tradePoints = [{ id: "1001", name: "Магазин «Ақ»" }],
  hasCertificate = () => true,
  clock = systemClock,
  readings = {},
  // The first number that a double cannot hold.
  firstId = 9_007_199_254_740_993n,
  seconds = {},
}: {
  readonly scheme: "r1" | "r2" | "r3";
  /** r1. */
  readonly apiKey?: string;
  /** r3. */
  readonly organizationBin?: string;
  readonly tradePoints?: readonly { readonly id: string; readonly name: string }[];
  /** Stands for mutual TLS, which a handler cannot see. */
  readonly hasCertificate?: (request: Request) => boolean;
  readonly clock?: Clock;
  readonly readings?: FakeKaspiQrReadings;
  /** Ids grow from here. @defaultValue 9_007_199_254_740_993n */
  readonly firstId?: bigint;
  /** What the answers say. @defaultValue those of the document's samples: 5, 180, 65 */
  readonly seconds?: { readonly polling?: number; readonly scanWait?: number; readonly confirmation?: number };
}): FakeKaspiQr {
  const intervalMs = (seconds.polling ?? 5) * 1000;
  const scanWaitMs = (seconds.scanWait ?? 180) * 1000;
  const confirmationMs = (seconds.confirmation ?? 65) * 1000;
  const refusals: { readonly code: number; readonly path: string }[] = [];
  const devices = new Map<string, { readonly deviceId: string; readonly tradePointId: string }>();
  const payments = new Map<string, Entry>();
  const returns = new Map<string, { status: string; token: string }>();
  const journal = createJournal();
  const faults = createFaults(clock);
  const violations: string[] = [];
  const requestIds = new Set<string>();
  let serial = firstId;
  const nowMs = (): number => clock.now().getTime();
  const next = (): string => {
    serial += 2n;
    return String(serial);
  };

  /** A number as digits, or text, as the reading says; see {@link toJson}. */
  const idOf = (id: string): string => (readings.ids === "text" ? id : `#${id}#`);
  const money = (amountMinor: bigint): string => `#${formatAmount(amountMinor).replace(/\.?0+$/, "")}#`;
  const toJson = (body: unknown): string => JSON.stringify(body).replace(/"#(-?[\d.]+)#"/g, "$1");

  function dateOf(ms: number): string {
    const local = new Date(ms + 6 * 3_600_000).toISOString().slice(0, 19); // +06, as in the document's samples
    return readings.dates === "lenient" ? local.replace(/-0(\d)T/, "-$1T") : `${local}+06`;
  }

  /** What time alone does to a payment. */
  function age(entry: Entry): void {
    const now = nowMs();
    if (entry.kind === "invoice") {
      if (entry.status === "RemotePaymentCreated" && now > entry.createdAt + dayMs)
        entry.status = "RemotePaymentExpired";
      return;
    }
    const isOver =
      (entry.status === "QrTokenCreated" && now > entry.createdAt + scanWaitMs) ||
      (entry.status === "Wait" && now > entry.scannedAt + confirmationMs);
    if (isOver && (readings.afterTimeout === "error" || entry.status === "Wait")) entry.status = "Error";
  }

  const find = (id: string): Entry => {
    const entry = payments.get(id);
    if (!entry) throw new No(-1601);
    age(entry);
    return entry;
  };

  function create(kind: Entry["kind"], body: Record<string, unknown>, tradePointId: string): Entry {
    const amount = parseAmount(String(body.Amount));
    if (typeof body.Amount !== "number" || !amount.ok || amount.amountMinor === 0n) throw new No(990_000_028);
    const id = next();
    const entry: Entry = {
      id,
      kind,
      status: kind === "invoice" ? "RemotePaymentCreated" : "QrTokenCreated",
      amountMinor: amount.amountMinor,
      returnedMinor: 0n,
      externalId: typeof body.ExternalId === "string" ? body.ExternalId : undefined,
      opens: kind === "link" ? `https://pay.kaspi.kz/pay/${next()}` : `token${next()}`,
      phone: typeof body.PhoneNumber === "string" ? body.PhoneNumber : undefined,
      tradePointId,
      isPaid: false,
      createdAt: nowMs(),
      scannedAt: 0,
      askedAt: Number.NEGATIVE_INFINITY,
    };
    payments.set(id, entry);
    return entry;
  }

  const deviceOf = (token: unknown) => {
    const device = devices.get(String(token));
    if (!device) throw new No(-1501);
    return device;
  };

  function refund(entry: Entry, body: Record<string, unknown>, tradePointId: string): string {
    if (entry.tradePointId !== tradePointId) throw new No(-99_000_003);
    if (!entry.isPaid) throw new No(-99_000_011);
    const amount = parseAmount(String(body.Amount));
    if (typeof body.Amount !== "number" || !amount.ok || amount.amountMinor === 0n) throw new No(990_000_028);
    if (amount.amountMinor > entry.amountMinor - entry.returnedMinor) throw new No(-99_000_005);
    entry.returnedMinor += amount.amountMinor;
    return next();
  }

  function status(entry: Entry): unknown {
    const pause = nowMs() - entry.askedAt;
    if (entry.kind !== "invoice" && pause < intervalMs) violations.push(`QR asked again after ${pause} ms`);
    if (entry.kind === "invoice" && pause < 10_000) violations.push(`invoice asked again after ${pause} ms`);
    entry.askedAt = nowMs();
    const shown = entry.status;
    if (shown === "Processed" && readings.afterProcessed === "error") entry.status = "Error"; // from the next answer on
    if (readings.status !== "long") return { Status: shown };
    return {
      Status: shown,
      TransactionId: idOf(`7${entry.id}`),
      LoanOfferName: "",
      LoanTerm: 0,
      IsOffer: false,
      ProductType: "Gold",
      Amount: money(entry.amountMinor),
      StoreName: "Магазин «Ақ»",
      Address: "Абай даңғылы, 1",
      City: "Алматы",
    };
  }

  function answer(method: string, path: string, query: URLSearchParams, body: Record<string, unknown>): unknown {
    const [, id = ""] = /\/([^/]+)$/.exec(path) ?? [];
    const call = `${method} ${path}`;
    if (call === "GET /health/ping") return null;
    if (method === "GET" && path.startsWith("/partner/tradepoints")) {
      if (tradePoints.length === 0) throw new No(-14_000_002);
      return tradePoints.map((point) => ({ TradePointId: `#${point.id}#`, TradePointName: point.name }));
    }
    if (method === "GET" && path.startsWith("/payment/status/")) return status(find(id));
    if (method === "GET" && path.startsWith("/return/status/") && scheme === "r2") {
      const refunding = returns.get(id);
      if (!refunding) throw new No(-99_000_001);
      return { Status: refunding.status };
    }
    if (call === "GET /payment/details" && scheme !== "r1") {
      const device = deviceOf(query.get("DeviceToken"));
      const entry = payments.get(query.get("QrPaymentId") ?? "");
      if (!entry) throw new No(-99_000_001);
      if (entry.tradePointId !== device.tradePointId) throw new No(-99_000_003);
      return {
        QrPaymentId: idOf(entry.id),
        TotalAmount: money(entry.amountMinor),
        AvailableReturnAmount: money(entry.amountMinor - entry.returnedMinor),
        TransactionDate: dateOf(entry.createdAt),
      };
    }
    if (method !== "POST") return undefined;
    if (path.startsWith("/test/payment/")) {
      const entry = find(String(body.qrPaymentId));
      if (id === "scan") Object.assign(entry, { status: "Wait", scannedAt: nowMs() });
      else if (id === "confirm") Object.assign(entry, { status: "Processed", isPaid: true });
      else entry.status = "Error";
      return null;
    }
    if (scheme === "r3" && body.OrganizationBin !== organizationBin) throw new No(-99_000_002);
    if (call === "POST /device/register") {
      if (!/^[A-Za-z0-9_-]+$/.test(String(body.DeviceId))) throw new No(-1502);
      const point = tradePoints.find((one) => one.id === String(body.TradePointId));
      if (!point) throw new No(-99_000_002);
      const known = [...devices].find(([, { deviceId }]) => deviceId === body.DeviceId);
      if (known && known[1].tradePointId !== point.id) throw new No(-1503);
      const token = known?.[0] ?? `device-${next()}`;
      devices.set(token, { deviceId: String(body.DeviceId), tradePointId: point.id });
      return { DeviceToken: token };
    }
    const { tradePointId } = deviceOf(body.DeviceToken);
    switch (call) {
      case "POST /device/delete":
        devices.delete(String(body.DeviceToken));
        return null;
      case "POST /qr/create": {
        const entry = create("qr", body, tradePointId);
        return {
          QrToken: entry.opens,
          ExpireDate: dateOf(nowMs() + scanWaitMs),
          QrPaymentId: idOf(entry.id),
          PaymentMethods: ["Gold", "Red", "Loan"],
          QrPaymentBehaviorOptions: {
            StatusPollingInterval: intervalMs / 1000,
            QrCodeScanWaitTimeout: scanWaitMs / 1000,
            PaymentConfirmationTimeout: confirmationMs / 1000,
          },
        };
      }
      case "POST /qr/create-link": {
        const entry = create("link", body, tradePointId);
        return {
          PaymentLink: entry.opens,
          ExpireDate: dateOf(nowMs() + scanWaitMs),
          PaymentId: idOf(entry.id),
          PaymentMethods: ["Gold", "Red", "Loan"],
          PaymentBehaviorOptions: {
            StatusPollingInterval: intervalMs / 1000,
            LinkActivationWaitTimeout: scanWaitMs / 1000,
            PaymentConfirmationTimeout: confirmationMs / 1000,
          },
        };
      }
      case "POST /return/create": {
        if (scheme !== "r2") return undefined;
        const returnId = next();
        returns.set(returnId, { status: "QrTokenCreated", token: `return${returnId}` });
        return { QrReturnId: idOf(returnId), QrToken: `return${returnId}` };
      }
      case "POST /payment/return": {
        if (scheme === "r1") return undefined;
        if (scheme === "r2" && returns.get(String(body.QrReturnId))?.status !== "CustomerIdentityObtained") {
          throw new No(-99_000_006);
        }
        const entry = payments.get(String(body.QrPaymentId));
        if (!entry) throw new No(-99_000_001);
        return { ReturnOperationId: idOf(refund(entry, body, tradePointId)) };
      }
      case "POST /remote/create": {
        if (scheme !== "r3") return undefined;
        if (!/^[78]7\d{9}$/.test(String(body.PhoneNumber))) throw new No(990_000_029);
        return { QrPaymentId: idOf(create("invoice", body, tradePointId).id) };
      }
      case "POST /remote/cancel": {
        if (scheme !== "r3") return undefined;
        const entry = find(String(body.QrPaymentId));
        if (entry.kind !== "invoice" || entry.status !== "RemotePaymentCreated") throw new No(-1404);
        entry.status = "RemotePaymentCanceled";
        return { Status: "RemotePaymentCanceled" };
      }
      default:
        return undefined;
    }
  }

  const handle: FetchHandler = async (request) => {
    const url = new URL(request.url);
    const prefix = `/${scheme}/v01`;
    const path = url.pathname.startsWith(`${prefix}/`) ? url.pathname.slice(prefix.length) : "";
    const write = (code: number, data: unknown, httpStatus = 200): Response => {
      journal.record({
        method: request.method,
        path: `${url.pathname}${url.search}`,
        at: clock.now(),
        status: httpStatus,
      });
      return new Response(toJson({ StatusCode: code, Message: code === 0 ? "Success" : "Error", Data: data }), {
        status: httpStatus,
        headers: { "content-type": "application/json; charset=utf-8" },
      });
    };
    try {
      const requestId = request.headers.get("x-request-id") ?? "";
      if (requestId === "" || requestIds.has(requestId)) violations.push("X-Request-ID is missing or not unique");
      requestIds.add(requestId);
      if (scheme === "r1" && request.headers.get("api-key") !== apiKey) throw new No(-10_000);
      if (scheme !== "r1" && !hasCertificate(request)) throw new No(-10_000);
      const refused = refusals.findIndex((one) => path.endsWith(one.path));
      if (refused >= 0) throw new No(refusals.splice(refused, 1)[0]?.code ?? 0);
      const text = request.method === "POST" ? await request.text() : "";
      const data = answer(request.method, path, url.searchParams, text === "" ? {} : readBody(text));
      if (data === undefined) {
        journal.record({ method: request.method, path: url.pathname, at: clock.now(), status: 404 });
        return new Response("not found", { status: 404 });
      }
      return write(0, data);
    } catch (error) {
      if (!(error instanceof No)) throw error;
      return write(error.code, null, readings.refusals === "400" ? 400 : 200);
    }
  };

  return {
    handle: faults.wrap(handle),
    journal,
    faults,
    violations,
    get payments() {
      return [...payments.values()].map((entry) => {
        age(entry);
        return { ...entry };
      });
    },
    scan(id) {
      Object.assign(find(id), { status: "Wait", scannedAt: nowMs() });
    },
    pay(id) {
      const entry = find(id);
      if (entry.status === "RemotePaymentCanceled") throw new Error(`invoice ${id} was cancelled: nobody can pay it`);
      entry.isPaid = true;
      entry.status = entry.kind === "invoice" ? (readings.paidInvoice ?? "Processed") : "Processed";
    },
    reject(id) {
      find(id).status = "RemotePaymentRejected";
    },
    fail(id) {
      find(id).status = "Error";
    },
    setStatus(id, to) {
      find(id).status = to;
    },
    scanReturns() {
      for (const refunding of returns.values()) {
        if (refunding.status === "QrTokenCreated") refunding.status = "CustomerIdentityObtained";
      }
    },
    expireReturns() {
      for (const refunding of returns.values()) {
        if (refunding.status === "QrTokenCreated") refunding.status = "Error";
      }
    },
    refundByHand(id, amountMinor) {
      find(id).returnedMinor += amountMinor;
    },
    refuseNext(path, code) {
      refusals.push({ path, code });
    },
    forgetDevice() {
      devices.clear();
    },
  };
}

/** Ids of a body may be numbers that a double cannot hold: they become text. `Amount` stays what it was. */
function readBody(text: string): Record<string, unknown> {
  const safe = text.replace(/("(?:QrPaymentId|QrReturnId|PaymentId)":)(\d+)/g, '$1"$2"');
  return JSON.parse(safe) as Record<string, unknown>;
}
