import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";

/** Facts that descriptions of the protocol leave open; the first of each is the default. */
export interface FakeKaspiSmartposReadings {
  /**
   * Where a paid sum stands. `data.amount` may be 0 or missing; `double`: there as `505.0`; `zero-cheque`: there, and the
   * receipt says 0; `unreadable`: the receipt has another spelling.
   */
  readonly amount?: "cheque" | "data" | "both" | "double" | "zero-cheque" | "unreadable";
  /** Between thousands on the receipt: nothing, a no-break space, a narrow one, a space. */
  readonly spaces?: "none" | "no-break" | "narrow" | "plain";
  /** `absent`: the contract has no remote cancel. `lies`: it answers success and cancels nothing. */
  readonly cancel?: "works" | "absent" | "lies";
  /** `statusCode` as a number or as text. */
  readonly codes?: "number" | "text";
  /** Which number a receipt of alaqan has; then `transactionId` of the answer is another one. */
  readonly alaqan?: "orderNumber" | "rrn";
  /** How a refused token is told. */
  readonly token?: "401" | "403" | "code";
}

interface Process {
  readonly id: string;
  readonly kind: "payment" | "refund";
  readonly amount: bigint;
  status: "wait" | "success" | "fail" | "unknown";
  subStatus: string;
  method: "qr" | "card" | "alaqan";
  transactionId: string;
  /** Of a refund: the payment that it gives back from. */
  refundOf?: string;
  settles?: "success" | "fail";
  askedAt: number;
  actualizedAt: number;
}

export interface FakeSmartposTransaction {
  readonly transactionId: string;
  readonly method: "qr" | "card" | "alaqan";
  /** Whole tenge. */
  readonly amount: bigint;
  readonly refunded: bigint;
}

export interface FakeKaspiSmartpos {
  readonly handle: FetchHandler;
  readonly journal: Journal;
  readonly faults: Faults;
  /** Money that went through the terminal. */
  readonly transactions: readonly FakeSmartposTransaction[];
  /** What a client must not do and did: asked earlier than allowed, actualized what is not unknown, … */
  readonly violations: readonly string[];
  /** The operation that the terminal is at. */
  readonly current: { readonly kind: "payment" | "refund"; readonly amount: bigint } | undefined;
  /** The payer pays, or the buyer confirms the refund. */
  confirm(how?: { readonly method?: "qr" | "card" | "alaqan" }): void;
  /** The payer goes away, or the bank says no. */
  fail(subStatus?: string): void;
  /** The terminal loses sight of the operation; money moves when it `settles` with success. */
  lose(settles: "success" | "fail"): void;
  /** Actualizing brings the truth from now on. */
  heal(): void;
  /** A name is removed on the terminal, so that it may be registered again. */
  forgetName(name: string): void;
  /** The terminal forgets all operations, as after a reset. */
  forgetProcesses(): void;
}

const dayMs = 24 * 3_600_000;

/** A Kaspi Smart POS terminal, written from restatements of its integration document: GET for everything, whole tenge. */
export function createFakeKaspiSmartpos({
  clock = systemClock,
  readings = {},
  onRegister = () => true,
  firstId = 100_000_000_001n,
}: {
  readonly clock?: Clock;
  readonly readings?: FakeKaspiSmartposReadings;
  /** The person at the terminal who is asked. */
  readonly onRegister?: (name: string) => boolean;
  /** Ids grow from here. @defaultValue 100_000_000_001n */
  readonly firstId?: bigint;
} = {}): FakeKaspiSmartpos {
  const names = new Map<string, { accessToken: string; refreshToken: string; endsAt: number }>();
  const processes = new Map<string, Process>();
  const transactions = new Map<string, { method: Process["method"]; amount: bigint; refunded: bigint }>();
  const journal = createJournal();
  const faults = createFaults(clock);
  const violations: string[] = [];
  let serial = firstId - 1n;
  let isHealed = false;
  const nowMs = (): number => clock.now().getTime();
  const next = (): string => String(++serial);
  const running = (): Process | undefined =>
    [...processes.values()].find(({ status }) => status === "wait" || status === "unknown");

  function take(process: Process): void {
    if (process.refundOf !== undefined) {
      const paid = transactions.get(process.refundOf);
      if (paid) paid.refunded += process.amount;
      return;
    }
    process.transactionId = next();
    transactions.set(process.transactionId, { method: process.method, amount: process.amount, refunded: 0n });
  }

  function receipt(amount: bigint): string {
    const space = { none: "", "no-break": "\u00a0", narrow: "\u202f", plain: " " }[readings.spaces ?? "none"];
    return `${String(amount).replace(/\B(?=(\d{3})+$)/g, space)}${space || " "}₸`;
  }

  function written(amount: bigint): string {
    if (readings.amount === "unreadable") return "бес жүз бес";
    return receipt(readings.amount === "zero-cheque" ? 0n : amount);
  }

  function describe(process: Process): Record<string, unknown> {
    const base = { processId: process.id, status: process.status, subStatus: process.subStatus };
    if (process.status !== "success") return base;
    const inData = readings.amount !== undefined && readings.amount !== "cheque" && readings.amount !== "unreadable";
    const inCheque = readings.amount !== "data" && readings.amount !== "double";
    const hasRrn = process.method === "card" || (process.method === "alaqan" && readings.alaqan === "rrn");
    return {
      ...base,
      transactionId:
        hasRrn && process.method !== "card" ? `T${process.id}` : (process.refundOf ?? process.transactionId),
      // A number with a decimal, see `write`.
      amount: readings.amount === "double" ? `#${process.amount}.0#` : inData ? Number(process.amount) : 0,
      addInfo: { ProductType: "Gold", LoanTerm: 0, IsOffer: false, LoanOfferName: "" },
      chequeInfo: {
        ...(inCheque ? { amount: written(process.amount) } : {}),
        method: process.method,
        ...(hasRrn
          ? { rrn: process.transactionId, cardMask: "4400********1234" }
          : { orderNumber: process.transactionId }),
        status: "Одобрено",
        date: clock.now().toISOString(),
        bin: "123456789012",
        terminalId: "POS-1",
      },
    };
  }

  function start(kind: Process["kind"], query: URLSearchParams): Record<string, unknown> | number {
    const amount = query.get("amount") ?? "";
    if (!/^[1-9]\d{0,9}$/.test(amount)) return 999;
    if (running()) return 107;
    const process: Process = {
      id: next(),
      kind,
      amount: BigInt(amount),
      status: "wait",
      subStatus: kind === "payment" ? "Initialize" : "ProcessRefund",
      method: "qr",
      transactionId: "",
      askedAt: Number.NEGATIVE_INFINITY,
      actualizedAt: Number.NEGATIVE_INFINITY,
    };
    if (kind === "refund") {
      const paid = transactions.get(query.get("transactionId") ?? "");
      if (!paid || paid.method !== query.get("method")) return 999;
      if (process.amount > paid.amount - paid.refunded) return 999;
      process.refundOf = query.get("transactionId") ?? "";
      process.method = paid.method;
    }
    processes.set(process.id, process);
    return { processId: process.id, status: "wait" };
  }

  /** A number is a `statusCode` that says no. */
  function answer(path: string, query: URLSearchParams): Record<string, unknown> | number | undefined {
    const process = processes.get(query.get("processId") ?? "");
    switch (path) {
      case "/v2/payment":
        return start("payment", query);
      case "/v2/refund":
        return start("refund", query);
      case "/v2/deviceinfo":
        return { posNum: "1", serialNum: "S-1", terminalId: "POS-1" };
      case "/v2/status": {
        if (!process) return 101;
        const pause = nowMs() - process.askedAt;
        if (pause < 1_000) violations.push(`status asked again after ${pause} ms`);
        process.askedAt = nowMs();
        if (process.status === "wait" && process.subStatus === "Initialize") process.subStatus = "WaitUser";
        return describe(process);
      }
      case "/v2/actualize": {
        if (!process) return 101;
        if (process.status !== "unknown" && process.settles === undefined) {
          violations.push("actualized what is not unknown");
        }
        const pause = nowMs() - process.actualizedAt;
        if (pause < 10_000) violations.push(`actualized again after ${pause} ms`);
        process.actualizedAt = nowMs();
        if (isHealed && process.status === "unknown" && process.settles) {
          process.status = process.settles;
          process.subStatus = process.settles === "success" ? "QrTransactionSuccess" : "QrTransactionFailure";
        }
        return describe(process);
      }
      case "/v2/cancel":
        if (readings.cancel === "absent") return undefined;
        if (readings.cancel !== "lies") {
          const now = running();
          if (now?.status === "wait") Object.assign(now, { status: "fail", subStatus: "ProcessCancelled" });
        }
        return { status: "success" };
      default:
        return undefined;
    }
  }

  function register(query: URLSearchParams): Record<string, unknown> | number {
    const name = query.get("name") ?? "";
    if (name === "") return 999;
    if (names.has(name)) return 105;
    if (!onRegister(name)) return 999;
    return newPair(name);
  }

  function newPair(name: string): Record<string, unknown> {
    const pair = { accessToken: `access-${next()}`, refreshToken: `refresh-${next()}`, endsAt: nowMs() + dayMs };
    names.set(name, pair);
    const { accessToken, refreshToken, endsAt } = pair;
    return { accessToken, refreshToken, expirationDate: new Date(endsAt).toISOString() };
  }

  const handle: FetchHandler = async (request) => {
    const url = new URL(request.url);
    const write = (code: number, data: unknown, status = 200): Response => {
      journal.record({ method: request.method, path: `${url.pathname}${url.search}`, at: clock.now(), status });
      const statusCode = readings.codes === "text" ? String(code) : code;
      const body = JSON.stringify({ statusCode, data, errorText: code === 0 ? "" : "Ошибка" });
      const headers = { "content-type": "application/json" };
      return new Response(body.replace(/"#([\d.]+)#"/g, "$1"), { status, headers });
    };
    const reply = (data: Record<string, unknown> | number | undefined): Response => {
      if (data === undefined) return new Response("Not Found", { status: 404 });
      return typeof data === "number" ? write(data, null) : write(0, data);
    };
    if (request.method !== "GET") return new Response(null, { status: 405 });
    if (url.pathname === "/v2/register") return reply(register(url.searchParams));
    if (url.pathname === "/v2/revoke") {
      const name = url.searchParams.get("name") ?? "";
      const known = names.get(name);
      return reply(known && known.refreshToken === url.searchParams.get("refreshToken") ? newPair(name) : 999);
    }
    const token = request.headers.get("accesstoken");
    const isKnown = [...names.values()].some(({ accessToken, endsAt }) => accessToken === token && endsAt > nowMs());
    if (!isKnown)
      return readings.token === "code" ? write(401, null) : write(401, null, Number(readings.token ?? "401"));
    return reply(answer(url.pathname, url.searchParams));
  };

  const operation = (): Process => {
    const process = running();
    if (!process) throw new Error("the terminal is at nothing");
    return process;
  };

  return {
    handle: faults.wrap(handle),
    journal,
    faults,
    violations,
    get transactions() {
      return [...transactions].map(([transactionId, transaction]) => ({ transactionId, ...transaction }));
    },
    get current() {
      const process = running();
      return process && { kind: process.kind, amount: process.amount };
    },
    confirm({ method = "qr" } = {}) {
      const process = operation();
      if (process.refundOf === undefined) process.method = method;
      take(process);
      process.status = "success";
      process.subStatus = process.method === "card" ? "CardTransactionSuccess" : "QrTransactionSuccess";
    },
    fail(subStatus = "QrTransactionFailure") {
      Object.assign(operation(), { status: "fail", subStatus });
    },
    lose(settles) {
      const process = operation();
      if (settles === "success") take(process);
      Object.assign(process, { status: "unknown", subStatus: "WaitForQrConfirmation", settles });
    },
    heal() {
      isHealed = true;
    },
    forgetName(name) {
      names.delete(name);
    },
    forgetProcesses() {
      processes.clear();
    },
  };
}
