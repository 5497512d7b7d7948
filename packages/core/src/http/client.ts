import { createFetch } from "ofetch";
import pRetry, { AbortError } from "p-retry";
import * as v from "valibot";
import { systemClock } from "../clock.ts";
import {
  ApiError,
  BlockedError,
  ConfigError,
  type Outcome,
  RequestError,
  ResponseShapeError,
  SdkError,
} from "../errors.ts";
import type { Clock, Logger, Telemetry } from "../ports.ts";
import { readLimited } from "./handler.ts";
import { redactingLogger, silentLogger } from "./logger.ts";
import type { RateLimiter } from "./rate-limiter.ts";
import { redactText } from "./redact.ts";
import { silentTelemetry } from "./telemetry.ts";

/** An answer as it came, before any schema. */
export interface HttpAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** What a vendor's own table says about an answer. */
export interface Refusal {
  readonly vendorCode: string;
  /** The vendor's words, for {@link ApiError}'s `description`; redacted there. */
  readonly description?: string;
  readonly outcome: Outcome;
  /** Repeat the call after a pause, whatever its kind; only together with `not-executed`. */
  readonly retry?: boolean;
  /** Pause of the whole budget, at most `maxPauseMs`. @defaultValue the `Retry-After` header */
  readonly retryAfterMs?: number;
  /** The vendor shut the account out: store it and stop. */
  readonly block?: boolean;
}

export interface HttpClientOptions {
  /** For messages: `kaspi`, `amocrm`, `bitrix`, … */
  readonly vendor: string;
  /** Origin and base path, e.g. `https://kaspi.kz/shop/api/v2`. */
  readonly baseUrl: string;
  /**
   * Headers of every request; a function is asked anew for each attempt, before it takes its slot. What it throws means
   * that the attempt was not sent; only a `RequestError` is tried again.
   */
  readonly headers?: Readonly<Record<string, string>> | (() => Promise<Readonly<Record<string, string>>>);
  /** Left out: calls are not paced. */
  readonly limiter?: RateLimiter;
  /** @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** Hears of every attempt, retry and wait for a slot. Left out: nothing is measured. */
  readonly telemetry?: Telemetry;
  /** One deadline over connect, head and body of an attempt, in milliseconds. @defaultValue 30_000 */
  readonly timeoutMs?: number;
  /** Further attempts after the first. @defaultValue 3 */
  readonly retries?: number;
  /** First pause between attempts; doubles, with jitter. @defaultValue 500 */
  readonly minDelayMs?: number;
  /** @defaultValue 30_000 */
  readonly maxDelayMs?: number;
  /**
   * Longest pause that the vendor can order, in milliseconds: it holds for the whole fleet and over restarts, and a proxy
   * or a wrong clock may ask for a year. @defaultValue 3_600_000
   */
  readonly maxPauseMs?: number;
  /** Largest answer that is read, in bytes. @defaultValue 10_485_760 */
  readonly maxResponseBytes?: number;
  /**
   * The vendor's table of refusals. Asked for every answer, also a 2xx; `undefined` leaves the judgement to the HTTP
   * status: 2xx executed, 429 not executed and repeated, 4xx refused, 5xx unknown.
   */
  readonly readRefusal?: (answer: HttpAnswer) => Refusal | undefined;
}

export interface HttpCall<Schema extends v.GenericSchema | undefined = undefined> {
  /** For messages and the journal: the vendor's name of the method. Never holds an id or a secret. */
  readonly name: string;
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Joined to `baseUrl`; parts must be percent-encoded by the caller. */
  readonly path: string;
  /** Sent as written; the order is kept. */
  readonly query?: URLSearchParams | string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as `application/x-www-form-urlencoded`. */
  readonly form?: URLSearchParams;
  /** Sent as it is; set `content-type` in `headers`. */
  readonly text?: string;
  /** Shape of a JSON answer. Left out: the answer comes back unread. */
  readonly schema?: Schema;
  /**
   * `"read"`: the call changes nothing. `true`: it may run twice. Both are repeated also after an unknown outcome, and
   * after an answer that is not JSON where `schema` asks for it; once an attempt of a call that is no read may have run,
   * a later one that fails makes nothing sure, and the outcome is `unknown`.
   *
   * @defaultValue "read" for GET, else false
   */
  readonly safe?: boolean | "read";
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface HttpClient {
  /** Sends with retries and gives the answer as it came; anything but a 2xx that `readRefusal` accepts throws. */
  send(call: HttpCall): Promise<HttpAnswer>;
  /**
   * Sends with retries and gives the JSON answer, checked by `schema`; `undefined` for 204 and 205. Any other empty body is
   * an answer that broke off: {@link ResponseShapeError}.
   */
  request<Schema extends v.GenericSchema>(
    call: HttpCall<Schema> & { readonly schema: Schema },
  ): Promise<v.InferOutput<Schema> | undefined>;
}

/**
 * The one way out to vendors: retry → limiter → ofetch → schema. Every attempt takes its own slot.
 *
 * Redirects are never followed. A call is repeated by itself only when it was not executed, or when it is `safe`;
 * every other unknown outcome goes to the caller, who must look first.
 *
 * @throws {RequestError} no answer; {@link ApiError} a no; {@link ResponseShapeError} an answer that is not understood;
 *   {@link BlockedError} the account is shut out.
 */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const {
    vendor,
    limiter,
    clock = systemClock,
    telemetry = silentTelemetry,
    timeoutMs = 30_000,
    retries = 3,
    minDelayMs = 500,
    maxDelayMs = 30_000,
    maxPauseMs = 3_600_000,
    maxResponseBytes = 10_485_760,
  } = options;
  if (!URL.canParse(options.baseUrl)) throw new ConfigError(`${vendor}: baseUrl must be an absolute address`);
  if (!(maxPauseMs > 0)) throw new ConfigError(`${vendor}: maxPauseMs must be positive`);
  const logger = redactingLogger(options.logger ?? silentLogger);
  const base = options.baseUrl.replace(/\/+$/, "");
  const ofetch = createFetch({
    fetch: options.fetch ?? ((...request: Parameters<typeof fetch>) => globalThis.fetch(...request)),
    Headers,
    AbortController,
  });

  async function takeSlot(signal: AbortSignal | undefined): Promise<void> {
    if (!limiter) return;
    const askedAt = clock.monotonicMs();
    await limiter.slot(signal, (waitMs) => {
      logger.warn(
        `${vendor}: calls wait for ${Math.ceil(waitMs / 1_000)} s, because the vendor ordered a pause or many wait`,
      );
    });
    telemetry.waited(clock.monotonicMs() - askedAt, { vendor });
  }

  /** Before the slot: what takes long here, the refresh of a token for one, must not make the call leave late. */
  async function askHeaders(name: string): Promise<Headers> {
    try {
      return new Headers(typeof options.headers === "function" ? await options.headers() : (options.headers ?? {}));
    } catch (error) {
      if (!SdkError.isInstance(error)) throw new AbortError(error instanceof Error ? error : new Error(String(error)));
      // The outcome of a refresh says nothing about this call, which was not sent.
      const failure =
        error.outcome === "not-executed"
          ? error
          : new RequestError(`${vendor}: ${name} was not sent, because its headers failed: ${error.message}`, {
              vendor,
              code: error instanceof RequestError ? error.code : "network",
              outcome: "not-executed",
            });
      throw error instanceof RequestError ? failure : new AbortError(failure);
    }
  }

  async function attempt(
    call: HttpCall<v.GenericSchema | undefined>,
    headers: Headers,
    onSend: () => void,
  ): Promise<HttpAnswer> {
    const { name, method = "GET", signal } = call;
    for (const [field, value] of Object.entries(call.headers ?? {})) headers.set(field, value);
    let body: string | URLSearchParams | undefined = call.text ?? call.form;
    if (call.json !== undefined) {
      body = JSON.stringify(call.json);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
    }
    const query = call.query?.toString() ?? "";

    const deadline = new AbortController();
    const timer = new AbortController();
    clock.sleep(call.timeoutMs ?? timeoutMs, timer.signal).then(
      () => deadline.abort(),
      () => undefined, // the attempt ended first
    );
    const startedAt = clock.monotonicMs();
    onSend();
    try {
      const answer = await ofetch.raw(`${base}${call.path}${query && `?${query}`}`, {
        method,
        headers,
        ...(body === undefined ? {} : { body }),
        redirect: "manual",
        retry: false,
        ignoreResponseError: true,
        responseType: "stream",
        signal: signal ? AbortSignal.any([signal, deadline.signal]) : deadline.signal,
      });
      const stream = answer._data as ReadableStream<Uint8Array> | null | undefined;
      const bytes = stream ? await readLimited(stream, maxResponseBytes) : new Uint8Array(0);
      if (bytes === undefined) {
        throw new RequestError(`${vendor}: ${name} answered more than ${maxResponseBytes} bytes`, {
          vendor,
          code: "too-large",
          outcome: answer.status < 300 ? "executed" : "unknown",
        });
      }
      logger.debug(`${vendor}: ${name} answered ${answer.status}`, {
        status: answer.status,
        durationMs: Math.round(clock.monotonicMs() - startedAt),
      });
      return { status: answer.status, headers: answer.headers, text: new TextDecoder().decode(bytes) };
    } catch (error) {
      if (SdkError.isInstance(error)) throw error;
      throw toRequestError(error, {
        vendor,
        name,
        timedOut: deadline.signal.aborted,
        aborted: signal?.aborted === true,
      });
    } finally {
      timer.abort();
    }
  }

  async function judge(answer: HttpAnswer, name: string): Promise<void> {
    const refusal = options.readRefusal?.(answer) ?? judgeByStatus(answer);
    if (!refusal) return;
    if (refusal.block) {
      await limiter?.block(refusal.vendorCode).catch((error: unknown) => {
        logger.error(`${vendor}: the block could not be stored, so other calls are not stopped`, { error });
      });
      throw new BlockedError(
        `${vendor}: ${name} was refused with ${refusal.vendorCode}: the vendor blocks this account`,
        {
          vendor,
          since: clock.now(),
          vendorCode: refusal.vendorCode,
        },
      );
    }
    const asked = refusal.retryAfterMs ?? readRetryAfter(answer.headers.get("retry-after"), clock.now());
    if (asked !== undefined && asked > maxPauseMs) {
      logger.warn(`${vendor}: ${name} asks for a pause of ${asked} ms; it gets ${maxPauseMs} ms`);
    }
    throw new RefusedAttempt(
      new ApiError(
        `${vendor}: ${name} answered ${answer.status}${refusal.vendorCode && refusal.vendorCode !== String(answer.status) ? ` ${refusal.vendorCode}` : ""}`,
        {
          vendor,
          status: answer.status,
          vendorCode: refusal.vendorCode,
          description: refusal.description ? redactText(refusal.description) : undefined,
          retryAfterMs: asked === undefined ? undefined : Math.min(asked, maxPauseMs),
          outcome: refusal.outcome,
        },
      ),
      refusal.retry === true,
    );
  }

  function observed<T>(
    { name }: { readonly name: string },
    work: () => Promise<{ readonly status: number; readonly read: T }>,
  ): Promise<T> {
    const attributes = { vendor, call: name };
    return telemetry.operation({ kind: "request", name: `${vendor} ${name}`, attributes }, async (note) => {
      try {
        const { status, read } = await work();
        note({ outcome: "executed", status });
        return read;
      } catch (error) {
        const failure = error instanceof RefusedAttempt ? error.error : error;
        if (SdkError.isInstance(failure)) note({ outcome: failure.outcome });
        if (failure instanceof ApiError || failure instanceof ResponseShapeError) note({ status: failure.status });
        throw error;
      }
    });
  }

  async function exchange<T>(call: HttpCall<v.GenericSchema | undefined>, read: (answer: HttpAnswer) => T): Promise<T> {
    const { safe = call.method === undefined || call.method === "GET" ? "read" : false } = call;
    let isOpen = false; // an earlier attempt may have run, or did
    let mayHaveRun = false; // for a stop in the middle of an attempt, or after one whose outcome is open
    try {
      return await pRetry(
        async () => {
          const mayHaveRunBefore = mayHaveRun;
          const headers = await askHeaders(call.name);
          try {
            await takeSlot(call.signal);
            return await observed(call, async () => {
              const answer = await attempt(call, headers, () => {
                mayHaveRun = true;
              });
              await judge(answer, call.name);
              return { status: answer.status, read: read(answer) };
            });
          } catch (error) {
            const failure = error instanceof RefusedAttempt ? error.error : error;
            if (SdkError.isInstance(failure) && failure.outcome === "not-executed") mayHaveRun = mayHaveRunBefore;
            if (SdkError.isInstance(failure) && (failure.outcome === "unknown" || failure.outcome === "executed")) {
              isOpen = true;
            }
            const repeatable =
              SdkError.isInstance(failure) && !(failure instanceof BlockedError) && !(failure instanceof ConfigError);
            const aborted =
              failure instanceof RequestError && (failure.code === "aborted" || failure.code === "too-large");
            const retryThis =
              repeatable &&
              !aborted &&
              ((error instanceof RefusedAttempt && error.retry) ||
                (failure.outcome === "not-executed" && !(failure instanceof ApiError)) ||
                (safe !== false && (failure.outcome === "unknown" || isUnreadable(failure))));
            if (!retryThis) throw new AbortError(failure as Error);
            throw failure;
          }
        },
        {
          retries,
          minTimeout: minDelayMs,
          maxTimeout: maxDelayMs,
          factor: 2,
          randomize: true,
          ...(call.signal ? { signal: call.signal } : {}),
          async onFailedAttempt({ error, attemptNumber, retriesLeft }) {
            const pauseMs = error instanceof ApiError ? error.retryAfterMs : undefined;
            const limited = error instanceof ApiError && error.outcome === "not-executed";
            if (limited && limiter) await limiter.penalize(pauseMs ?? minDelayMs * 2 ** (attemptNumber - 1));
            else if (pauseMs !== undefined && retriesLeft > 0)
              await clock.sleep(Math.min(pauseMs, 120_000), call.signal);
            if (retriesLeft > 0) telemetry.retried({ vendor, call: call.name });
            logger.warn(`${vendor}: ${call.name} failed, ${retriesLeft} more attempts`, {
              attempt: attemptNumber,
              error,
            });
          },
        },
      );
    } catch (error) {
      if (call.signal?.aborted && !SdkError.isInstance(error)) {
        throw new RequestError(`${vendor}: ${call.name} was aborted`, {
          vendor,
          code: "aborted",
          outcome: mayHaveRun ? "unknown" : "not-executed",
        });
      }
      throw isOpen && safe !== "read" && SdkError.isInstance(error) ? leftOpen(error) : error;
    }
  }

  return {
    send: (call) => exchange(call, (answer) => answer),
    request: (call) => exchange(call, (answer) => parseJson(answer, call.schema, { vendor, name: call.name })),
  };
}

/**
 * The last attempt did nothing, but one before it may have: the call's outcome is the earlier one's. A copy, since other
 * calls may be told the same error: those that waited for one token.
 */
function leftOpen(error: SdkError): Error {
  if (error.outcome !== "not-executed" && error.outcome !== "refused") return error;
  const open = new Error(`${error.message}; an earlier attempt may have run`);
  const { message, stack, outcome, ...own } = Object.getOwnPropertyDescriptors(error);
  Object.defineProperties(Object.setPrototypeOf(open, Object.getPrototypeOf(error)), own);
  return Object.defineProperty(open, "outcome", { value: "unknown" satisfies Outcome, enumerable: true });
}

/** A page of a proxy or half an answer, as opposed to JSON of another shape: the next try may bring the real one. */
function isUnreadable(failure: SdkError): boolean {
  return failure instanceof ResponseShapeError && failure.paths.length === 0;
}

/** An attempt that the vendor refused, with the vendor's word on whether to repeat it. Never leaves this file. */
class RefusedAttempt extends Error {
  override readonly name = "ApiError"; // as telemetry calls it
  readonly error: ApiError;
  readonly retry: boolean;
  constructor(error: ApiError, retry: boolean) {
    super(error.message);
    this.error = error;
    this.retry = retry;
  }
}

function judgeByStatus({ status }: HttpAnswer): Refusal | undefined {
  if (status >= 200 && status < 300) return undefined;
  if (status === 429) return { vendorCode: "429", outcome: "not-executed", retry: true };
  if (status >= 500) return { vendorCode: String(status), outcome: "unknown" };
  return { vendorCode: String(status), outcome: "refused" };
}

/** `undefined` for 204 and 205, which have no body. */
export function parseJson<Schema extends v.GenericSchema>(
  answer: HttpAnswer,
  schema: Schema,
  { vendor, name }: { readonly vendor: string; readonly name: string },
): v.InferOutput<Schema> | undefined {
  const outcome = answer.status < 300 ? "executed" : "unknown";
  if (answer.status === 204 || answer.status === 205) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(answer.text);
  } catch {
    const type = answer.headers.get("content-type")?.split(";", 1)[0] ?? "no content type";
    const kind =
      answer.text === ""
        ? "an empty body"
        : /^\s*</.test(answer.text)
          ? "an HTML page"
          : `text that is not JSON (${type})`;
    throw new ResponseShapeError(`${vendor}: ${name} answered ${answer.status} with ${kind}`, {
      vendor,
      status: answer.status,
      paths: [],
      outcome,
    });
  }
  const parsed = v.safeParse(schema, json);
  if (parsed.success) return parsed.output;
  const paths = [...new Set(parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)"))];
  throw new ResponseShapeError(`${vendor}: ${name} answered an unexpected shape at ${paths.slice(0, 5).join(", ")}`, {
    vendor,
    status: answer.status,
    paths,
    outcome,
  });
}

/** `Retry-After` in milliseconds: seconds or any of the HTTP date forms; `undefined` when missing or malformed. */
export function readRetryAfter(value: string | null, now: Date): number | undefined {
  if (value === null) return undefined;
  const text = value.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  // IMF-fixdate, RFC 850 and asctime all begin with a weekday; anything else is not an HTTP date.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  const at = Date.parse(/GMT$/.test(text) ? text : `${text} GMT`);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now.getTime());
}

/** Node's codes for "the connection was never made": nothing was sent. */
const notSentCodes = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
  "CERT_HAS_EXPIRED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "ERR_TLS_CERT_ALTNAME_INVALID",
]);

function toRequestError(
  error: unknown,
  { vendor, name, timedOut, aborted }: { vendor: string; name: string; timedOut: boolean; aborted: boolean },
): RequestError {
  // The original message holds the whole address, so it is neither passed on nor kept as a cause.
  const codes: string[] = [];
  for (let cause = error as { code?: unknown; cause?: unknown } | undefined, depth = 0; cause && depth < 5; depth++) {
    if (typeof cause.code === "string") codes.push(cause.code);
    cause = cause.cause as typeof cause;
  }
  if (timedOut)
    return new RequestError(`${vendor}: ${name} did not answer in time`, {
      vendor,
      code: "timeout",
      outcome: "unknown",
    });
  if (aborted)
    return new RequestError(`${vendor}: ${name} was aborted`, { vendor, code: "aborted", outcome: "unknown" });
  const code = codes.find((candidate) => /^[A-Z0-9_]+$/.test(candidate));
  return new RequestError(`${vendor}: ${name} got no answer${code ? ` (${code})` : ""}`, {
    vendor,
    code: "network",
    outcome: codes.some((candidate) => notSentCodes.has(candidate)) ? "not-executed" : "unknown",
  });
}
