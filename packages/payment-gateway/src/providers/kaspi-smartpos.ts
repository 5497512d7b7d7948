import {
  type Clock,
  ConfigError,
  createHttpClient,
  createTokenKeeper,
  type HttpAnswer,
  type HttpClient,
  type LeaseStore,
  type Logger,
  type Refusal,
  RequestError,
  ResponseShapeError,
  redactingLogger,
  SdkError,
  type StoredToken,
  systemClock,
  type TokenPair,
  type TokenStore,
} from "@orderbridge/core";
import { numberSource, parseExactJson } from "../exact-json.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider } from "../provider.ts";
import {
  type Attempt,
  concludeRefund,
  createAttempts,
  type Finding,
  mayBegin,
  openAttempt,
  type RefundEntry,
  readSession,
  refundableAttempt,
  rememberRefund,
  settleRefund,
} from "./attempts.ts";
import { lostRefundMs, mustCall } from "./refund-calls.ts";

export { createTlsFetch, type TlsFetchOptions } from "./tls-fetch.ts";

export interface KaspiSmartposOptions {
  /**
   * `https://<terminal>:8080`. The terminal's certificate is for `*.kaspipos.kz`: address it by such a name (hosts file),
   * or give `createTlsFetch({ insecure: true })`, knowingly.
   */
  readonly origin: string;
  /** What this till is called on the terminal. */
  readonly name: string;
  /** Keeps the pair of tokens, for every process that uses the terminal: `createKyselyStorage` of `@orderbridge/core/kysely`. */
  readonly storage: { readonly tokens: TokenStore; readonly leases: LeaseStore };
  /** The terminal prints no receipt of its own. @defaultValue false */
  readonly ownCheque?: boolean;
  /**
   * Also call `/v2/cancel`, which one description of the protocol knows and another denies. Whatever it answers, only
   * the status counts. @defaultValue true
   */
  readonly remoteCancel?: boolean;
  /** A terminal that the bank lent for tests: no real money, and payments say so to the shop. @defaultValue false */
  readonly test?: boolean;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** One deadline over a call, in milliseconds. @defaultValue 15_000 */
  readonly timeoutMs?: number;
}

/** The terminal is asked once a second, and to actualize not more often than every ten. */
const intervalMs = 1_000;
const actualizeMs = 10_000;
const dayMs = 24 * 3_600_000;
const refundMethods: readonly string[] = ["qr", "card", "alaqan"];

/** `statusCode` that says that nothing was done. Any other one may mean anything. */
const refusals: ReadonlyMap<string, string> = new Map([
  ["101", "process not found"],
  ["105", "this name is registered already: remove it on the terminal first"],
  ["107", "the terminal is busy with another operation"],
  ["999", "bad parameter"],
  ["401", "token refused"],
  ["403", "token refused"],
]);

/**
 * Asks the terminal for tokens, unless a pair that works is stored. It shows a question that a person confirms; the pair
 * is renewed by itself later. Safe to call at each start of a server.
 *
 * @throws {ApiError} with `vendorCode` 105 when the name is registered already: remove it on the terminal first.
 */
export async function registerKaspiSmartpos(
  options: KaspiSmartposOptions & {
    /** How long a person may take, in milliseconds. @defaultValue 120_000 */
    readonly waitMs?: number;
  },
): Promise<"registered" | "known"> {
  const { storage, name, waitMs = 120_000, clock = systemClock } = options;
  const key = tokenKey(options);
  const stored = await storage.tokens.get(key);
  if (stored?.state === "active") return "known";
  const answer = await createClient(options).send({
    name: "register",
    path: "/v2/register",
    query: new URLSearchParams({ name }),
    safe: false,
    timeoutMs: waitMs,
  });
  await storage.tokens.save(key, readTokens(read(answer, "register"), clock), stored?.version);
  return "registered";
}

/**
 * A Smart POS terminal in the same network. The pay page starts it; the payer pays at the terminal. It is asked each
 * second. `unknown` is not a failure: money may have been taken, so nothing else is begun, `actualize` is asked every ten
 * seconds, and a person is called. One operation runs at a time; whole tenge only.
 *
 * @see "Smart POS. Integration documentation", as public till clients restate it
 */
export function createKaspiSmartposProvider(options: KaspiSmartposOptions): PaymentProvider {
  const { clock = systemClock, ownCheque = false, remoteCancel = true, test = false, name } = options;
  if (!/^[\w -]{1,64}$/.test(name)) throw new ConfigError("name: 1 to 64 Latin letters, digits, spaces, - and _");
  const call = createTerminal(options);
  const nowMs = (): number => clock.now().getTime();

  async function look(attempt: Attempt): Promise<Finding> {
    const processId = attempt.facts.process ?? "";
    if (attempt.facts.terminal !== "unknown") {
      try {
        return judge(attempt, await call("status", { processId }));
      } catch (error) {
        if (!SdkError.isInstance(error) || error.outcome !== "refused") throw error;
        // A terminal that forgot the process may have taken the money before.
        return {
          state: "unknown",
          askAgainMs: actualizeMs,
          attention: `kaspi-smartpos: ${error.message}: look at the terminal`,
        };
      }
    }
    try {
      return judge(attempt, await call("actualize", { processId }));
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      return { state: "unknown", askAgainMs: actualizeMs };
    }
  }

  const attempts = createAttempts({
    clock,
    async begin({ attempt }) {
      const amount = String(BigInt(attempt.amountMinor) / 100n);
      const data = await call("payment", { amount, owncheque: String(ownCheque) });
      const process = textOf(data, "processId");
      if (process === undefined) throw shapeError("payment", "processId");
      return { state: "open", askAgainMs: intervalMs, facts: { process } };
    },
    lost: () => ({
      state: "unknown",
      askAgainMs: dayMs,
      attention: "kaspi-smartpos: whether the terminal began is not known: look at the terminal",
    }),
    look: ({ attempt }) =>
      attempt.facts.process === undefined
        ? Promise.resolve({ state: "unknown", askAgainMs: dayMs }) // nothing to ask about: a person decides
        : look(attempt),
    cancel: (attempt) =>
      attempt.facts.process !== undefined && remoteCancel && attempt.state === "open"
        ? async () => {
            try {
              await call("cancel", { processId: attempt.facts.process ?? "" });
            } catch (error) {
              if (!SdkError.isInstance(error)) throw error; // best effort: the status tells
            }
            return look(attempt);
          }
        : undefined,
    intervalMs: (attempt) => (attempt.state === "unknown" ? actualizeMs : intervalMs),
  });

  return {
    name: "kaspi-smartpos",
    currencies: { KZT: { stepMinor: 100n } },
    test,
    state: attempts.state,
    attempts: attempts.attempts,
    giveUpAttempt: attempts.giveUpAttempt,
    recordMoney: attempts.recordMoney,
    settleRefund,

    payerStep(payment: Payment) {
      const attempt = openAttempt(payment);
      if (!attempt) {
        return { kind: "actions", actions: mayBegin(payment, nowMs()) ? [{ action: "pay", withAmount: false }] : [] };
      }
      return { kind: "notice", notice: attempt.state === "unknown" ? "unknown" : "terminal", actions: [] };
    },

    async cancel(payment, context) {
      if (!openAttempt(payment)) return { state: "ended" };
      const state = await attempts.cancel(payment, context);
      // A terminal that still waits for the payer may take his money in a moment.
      return state.state === "processing" ? { state: "unknown" } : state;
    },

    async refund(request) {
      const { amountMinor, key, context } = request;
      const payment = (await context.find(request.payment.id)) ?? request.payment;
      const session = readSession(payment);
      const entry = session.refunds[key];
      if (entry?.state === "succeeded" || entry?.state === "failed") return entry.state;
      const write = (next: RefundEntry, call?: string) => rememberRefund(payment, context, key, next, call);
      if (entry?.state === "asking") {
        // The terminal has no look-up by anything of ours, so it is never asked twice for one refund.
        const isLost = nowMs() - entry.at >= lostRefundMs;
        if (isLost && mustCall(payment, entry, lostRefund)) await write(entry, lostRefund);
        return "pending";
      }
      if (entry?.state === "open") return followRefund(payment, entry, write);
      const attempt = refundableAttempt(session, key, amountMinor);
      const method = attempt?.facts.method ?? "";
      const base = { attemptId: attempt?.id ?? "", amountMinor: String(amountMinor), at: nowMs(), facts: {} };
      if (!attempt || amountMinor % 100n !== 0n || !refundMethods.includes(method)) {
        return (await write({ ...base, state: "failed" })) ? "failed" : "pending";
      }
      const asking = await write({ ...base, state: "asking" });
      if (!asking) return "pending";
      let next: RefundEntry;
      try {
        const data = await call("refund", {
          method,
          amount: String(amountMinor / 100n),
          transactionId: attempt.facts.refundId ?? attempt.transactionId ?? "",
        });
        const process = textOf(data, "processId");
        if (process === undefined) return "pending"; // it is at work and nobody can follow it: the next call says so
        next = { ...base, state: "open", facts: { process } };
      } catch (error) {
        if (!SdkError.isInstance(error)) throw error;
        const isBusy = "vendorCode" in error && error.vendorCode === "107";
        if (isBusy || error.outcome === "not-executed") next = { ...base, state: "preparing" };
        else if (error.outcome === "refused") next = { ...base, state: "failed" };
        else return "pending";
      }
      const state = await concludeRefund(asking, context, key, next);
      return state === "succeeded" || state === "failed" ? state : "pending";
    },

    async callback({ request, path, body, context }) {
      if (request.method !== "POST") return new Response(null, { status: 405, headers: { allow: "POST" } });
      const payment = await context.find(path);
      if (!payment) return new Response(null, { status: 404 });
      const form = new URLSearchParams(new TextDecoder().decode(body));
      if (form.get("action") !== "pay") return new Response(null, { status: 400 });
      const begun = await attempts.begin(payment, context, form);
      const location = `${context.payUrl(payment.id)}${begun === "failed" ? "?problem=attempt" : ""}`;
      return new Response(null, { status: 303, headers: { location } });
    },
  };

  async function followRefund(
    payment: Payment,
    entry: RefundEntry,
    write: (next: RefundEntry, call?: string) => Promise<Payment | undefined>,
  ): Promise<"succeeded" | "failed" | "pending"> {
    const isUnknown = entry.facts.unknown === "yes";
    if (isUnknown && nowMs() - entry.at < actualizeMs) return "pending";
    let data: Data;
    try {
      data = await call(isUnknown ? "actualize" : "status", { processId: entry.facts.process ?? "" });
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome !== "refused") throw error;
      // A terminal that forgot the process may have given the money back before.
      if (mustCall(payment, entry, unknownRefund)) await write(entry, unknownRefund);
      return "pending";
    }
    const status = textOf(data, "status");
    if (status === undefined) throw shapeError("status", "status");
    if (status === "success" || status === "fail") {
      const state = status === "success" ? "succeeded" : "failed";
      return (await write({ ...entry, state })) ? state : "pending";
    }
    if (status === "wait") return "pending";
    await write({ ...entry, at: nowMs(), facts: { ...entry.facts, unknown: "yes" } }, unknownRefund);
    return "pending";
  }
}

const lostRefund = "kaspi-smartpos: whether a refund began is not known: look at the terminal";
const unknownRefund = "kaspi-smartpos: the terminal does not know what became of a refund: look at the terminal";

function judge(attempt: Attempt, data: Data): Finding {
  const status = textOf(data, "status");
  if (status === undefined) throw shapeError("status", "status"); // no answer at all: asked again
  const subStatus = textOf(data, "subStatus") ?? "";
  switch (status) {
    case "wait":
      return attempt.facts.terminal === "unknown"
        ? { state: "unknown", askAgainMs: actualizeMs }
        : { state: "open", askAgainMs: intervalMs };
    case "fail":
      return { state: "failed", reason: subStatus === "" ? "fail" : subStatus };
    case "success":
      return paid(attempt, data);
    default:
      return {
        state: "unknown",
        askAgainMs: actualizeMs,
        facts: { terminal: "unknown" },
        attention: `kaspi-smartpos: the terminal answers ${JSON.stringify(status.slice(0, 60))}: money may have been taken`,
      };
  }
}

function paid(attempt: Attempt, data: Data): Finding {
  const cheque = objectOf(data, "chequeInfo");
  // Either may be missing, or 0.
  const amountMinor = readTenge(textOf(cheque, "amount")) || readTenge(textOf(data, "amount"));
  if (!amountMinor) {
    return {
      state: "unknown",
      askAgainMs: actualizeMs,
      attention: "kaspi-smartpos: paid, but the amount cannot be read",
    };
  }
  const method = (textOf(cheque, "method") ?? "").toLowerCase();
  const process = attempt.facts.process ?? attempt.id;
  const transaction = textOf(data, "transactionId") ?? process;
  // A refund names the order number of a QR, the RRN of a card.
  const [orderNumber, rrn] = [textOf(cheque, "orderNumber"), textOf(cheque, "rrn")];
  const refundId = (method === "card" ? (rrn ?? orderNumber) : (orderNumber ?? rrn)) ?? transaction;
  return {
    state: "paid",
    // Order numbers and RRNs are two series.
    transactionId: `${method === "" ? "pos" : method}-${transaction}`,
    amountMinor,
    facts: { method, refundId },
  };
}

/**
 * Tenge as the receipt prints them, or as a JSON number, in minor units: `505 ₸`, `1 234 567 ₸` with any kind of space,
 * `505,00`, `505.0`.
 * `undefined` for anything else.
 */
export function readTenge(text: string | undefined): bigint | undefined {
  const match = /^(\d{1,12})(?:[.,](\d{1,2}))?(?:₸|T|тг\.?|KZT)?$/i.exec((text ?? "").replace(/\s/g, ""));
  return match ? BigInt(match[1] ?? "0") * 100n + BigInt((match[2] ?? "").padEnd(2, "0")) : undefined;
}

type Data = Readonly<Record<string, unknown>>;

/** Text, or the digits of a number as they were sent; `undefined` for what is empty. */
function textOf(data: Data, field: string): string | undefined {
  const value = data[field];
  const text = typeof value === "string" ? value : numberSource(value);
  return text === "" ? undefined : text;
}

function objectOf(data: Data, field: string): Data {
  const value = data[field];
  return typeof value === "object" && value !== null ? (value as Data) : {};
}

const shapeError = (name: string, field: string): ResponseShapeError =>
  new ResponseShapeError(`kaspi-smartpos: ${name} answered without ${field}`, {
    vendor: "kaspi-smartpos",
    status: 200,
    paths: [field],
    outcome: "executed",
  });

function readCode(text: string): string | undefined {
  try {
    return textOf(objectOf({ answer: parseExactJson(text) }, "answer"), "statusCode");
  } catch {
    return undefined;
  }
}

function readRefusal({ status, text }: HttpAnswer): Refusal | undefined {
  const code = readCode(text) ?? (status === 401 || status === 403 ? String(status) : undefined);
  if (code === undefined || code === "0") return undefined; // the HTTP status decides
  return { vendorCode: code, outcome: refusals.has(code) ? "refused" : "unknown" };
}

function read(answer: HttpAnswer, name: string): Data {
  let body: unknown;
  try {
    body = parseExactJson(answer.text);
  } catch {
    throw shapeError(name, "statusCode");
  }
  const whole = objectOf({ body }, "body");
  if (textOf(whole, "statusCode") !== "0") throw shapeError(name, "statusCode");
  return objectOf(whole, "data");
}

/** A pair that does not say when it ends lives for a day. */
function readTokens(data: Data, clock: Clock): TokenPair {
  const accessToken = textOf(data, "accessToken");
  const refreshToken = textOf(data, "refreshToken");
  if (accessToken === undefined || refreshToken === undefined) throw shapeError("register", "accessToken");
  const said = Date.parse(textOf(data, "expirationDate") ?? "");
  const latest = clock.now().getTime() + dayMs;
  return {
    accessToken,
    refreshToken,
    expiresAt: new Date(said > clock.now().getTime() ? Math.min(said, latest) : latest),
  };
}

const tokenKey = ({ origin, name }: KaspiSmartposOptions): string => `kaspi-smartpos:${new URL(origin).host}:${name}`;

function createClient(options: KaspiSmartposOptions): HttpClient {
  if (!URL.canParse(options.origin))
    throw new ConfigError("origin must be an address such as https://till.kaspipos.kz:8080");
  return createHttpClient({
    vendor: "kaspi-smartpos",
    baseUrl: options.origin,
    timeoutMs: options.timeoutMs ?? 15_000,
    retries: 0, // everything is a GET there, also what takes money
    readRefusal,
    ...(options.fetch ? { fetch: options.fetch } : {}),
    ...(options.clock ? { clock: options.clock } : {}),
    ...(options.logger ? { logger: options.logger } : {}),
  });
}

/** Calls with a token; one that the terminal refuses is renewed once. Nothing else is sent twice. */
function createTerminal(options: KaspiSmartposOptions) {
  const client = createClient(options);
  const { clock = systemClock, name } = options;
  const logger = redactingLogger(options.logger ?? console);
  const keeper = createTokenKeeper({
    vendor: "kaspi-smartpos",
    key: tokenKey(options),
    storage: options.storage,
    refreshAheadMs: 3_600_000,
    clock,
    isRefused: (error) => SdkError.isInstance(error) && error.outcome === "refused",
    refresh: async ({ refreshToken }) =>
      readTokens(
        read(
          await client.send({
            name: "revoke",
            path: "/v2/revoke",
            query: new URLSearchParams({ name, refreshToken }),
            safe: false,
          }),
          "revoke",
        ),
        clock,
      ),
    ...(options.logger ? { logger: options.logger } : {}),
  });

  /** Whatever happens on the way to a token, the operation that needs it was not sent. */
  async function ready(token: Promise<StoredToken>): Promise<StoredToken> {
    try {
      return await token;
    } catch (error) {
      if (!SdkError.isInstance(error)) logger.error("kaspi-smartpos: the token could not be read or stored", { error });
      const message = SdkError.isInstance(error)
        ? error.message
        : "kaspi-smartpos: the token could not be read or stored; the log says why";
      throw new RequestError(message, { vendor: "kaspi-smartpos", code: "network", outcome: "not-executed" });
    }
  }

  return async (operation: string, parameters: Readonly<Record<string, string>>): Promise<Data> => {
    const send = async (accessToken: string): Promise<Data> =>
      read(
        await client.send({
          name: operation,
          path: `/v2/${operation}`,
          query: new URLSearchParams(parameters),
          headers: { accesstoken: accessToken },
          safe: false,
        }),
        operation,
      );
    const token = await ready(keeper.current());
    try {
      return await send(token.accessToken);
    } catch (error) {
      const code = SdkError.isInstance(error) && "vendorCode" in error ? error.vendorCode : undefined;
      if (code !== "401" && code !== "403") throw error;
      return send((await ready(keeper.replace(token))).accessToken);
    }
  };
}
