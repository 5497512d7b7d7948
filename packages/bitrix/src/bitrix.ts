import {
  ApiError,
  type Clock,
  ConfigError,
  createHttpClient,
  createRateLimiter,
  type HttpClient,
  type Logger,
  type RateBudget,
  ResponseShapeError,
  redactingLogger,
  type Storage,
  silentLogger,
  systemClock,
} from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import * as v from "valibot";
import { type BatchCommand, type BatchOptions, type BatchResult, createBatch } from "./batch.ts";
import { type Categories, createCategories } from "./categories.ts";
import type { BitrixConnection } from "./connection.ts";
import { type Contacts, createContacts } from "./contacts.ts";
import { createDeals, type Deals } from "./deals.ts";
import { readRefusal } from "./error-body.ts";
import { createItems, type Items } from "./items.ts";
import { createList, type ListOptions } from "./list.ts";
import { createOperatingTime } from "./operating-time.ts";
import { type Parameters, toJsonParameters } from "./parameters.ts";
import { createProducts, type Products } from "./products.ts";
import { accountOf, parseWebhookUrl, readRename } from "./rest-address.ts";
import { createShopOrders, type ShopOrders } from "./shop-orders.ts";

/** A portal is called by an incoming webhook or by an application. */
export type BitrixOptions = BitrixClientOptions &
  (
    | {
        /** Incoming webhook, `https://example.bitrix24.kz/rest/1/secret/`. It is a password: keep it out of code and logs. */
        readonly webhookUrl: string;
        readonly oauth?: never;
      }
    | {
        /** From `createBitrixConnection`. */
        readonly oauth: BitrixConnection;
        readonly webhookUrl?: never;
      }
  );

export interface BitrixClientOptions {
  /**
   * Request limit: 5 per second and a burst of 250 on the Enterprise plan, 2 per second and 50 on all others; or a budget
   * of your own for a self-hosted portal. A tenth of the burst is left free, since the clocks differ. @defaultValue "other"
   */
  readonly plan?: "enterprise" | "other" | RateBudget;
  /** Seconds that a method may run within ten minutes; of Bitrix24's 480 some are left free. @defaultValue 450 */
  readonly operatingLimitSeconds?: number;
  /**
   * Budget, block and the portal's new address, shared by all processes that use the same database.
   * @defaultValue this process's memory
   */
  readonly storage?: Pick<Storage, "rateLimits" | "watermarks">;
  /** Hosts that a rename may lead to, besides the portal's own country domain. @defaultValue [] */
  readonly allowedHosts?: readonly string[];
  /**
   * Sent with every write as `auth_connector`: the portal then keeps the change out of the offline queue that was bound
   * with the same one. For applications whose plan has `rest_auth_connector`. @defaultValue none
   */
  readonly connector?: string;
  /** @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  /** @defaultValue silent */
  readonly logger?: Logger;
  /** One deadline over an attempt; Bitrix24 itself stops at 60 s. @defaultValue 65_000 */
  readonly timeoutMs?: number;
  /** Further attempts after the first. @defaultValue 4 */
  readonly retries?: number;
  /** First pause between attempts; doubles, with jitter. @defaultValue 1_000 */
  readonly minDelayMs?: number;
}

export interface CallOptions {
  /** The call changes nothing, so it may be repeated after a lost reply. @defaultValue by the method's name */
  readonly safe?: boolean;
  readonly signal?: AbortSignal;
}

/** An answer of REST v2 without its wrapping. */
export interface Envelope {
  readonly result: unknown;
  /** Rows in all, for list methods with `start` >= 0. */
  readonly total: number | undefined;
  /** Offset of the next page; absent on the last one. */
  readonly next: number | undefined;
}

export interface Bitrix {
  /**
   * Calls one method and gives its `result`.
   *
   * A write whose reply was lost is not repeated: the error's `outcome` is `unknown`, so look first.
   *
   * @throws {ApiError} the portal says no, also with HTTP 200; `vendorCode` is `""` for many CRM methods.
   * @throws {BlockedError} the portal was shut out by Bitrix24; no call is made until a person acts.
   */
  call<Result = unknown>(method: string, parameters?: Parameters, options?: CallOptions): Promise<Result>;
  /** {@link Bitrix.call} with `total` and `next`. */
  request(method: string, parameters?: Parameters, options?: CallOptions): Promise<Envelope>;
  /**
   * Runs many commands, up to 50 in a request and as many as its time allows, and tells of each what became of it. Never
   * rejects for a failed command.
   */
  batch<const Commands extends Readonly<Record<string, BatchCommand>> | readonly BatchCommand[]>(
    commands: Commands,
    options?: BatchOptions,
  ): Promise<BatchResult<Commands>>;
  /** All rows of a list method in the order of their ids, up to 2 500 in a request; safe against rows that come and go. */
  list<Row = Readonly<Record<string, unknown>>>(
    method: string,
    parameters?: Parameters,
    options?: ListOptions,
  ): AsyncIterableIterator<Row>;
  readonly deals: Deals;
  /** Elements of any CRM type by `crm.item`: 31 smart invoices, 128 and above smart processes. */
  items(entityTypeId: number): Items;
  readonly contacts: Contacts;
  /** Funnels and dictionaries of the CRM. */
  readonly categories: Categories;
  /** Products and prices of the catalogue (`catalog.product`, `catalog.price`). */
  readonly products: Products;
  /** Orders of the online store (`sale.order`). */
  readonly orders: ShopOrders;
}

const budgets: Readonly<Record<"enterprise" | "other", RateBudget>> = {
  enterprise: { intervalMs: 200, capacity: 225 },
  other: { intervalMs: 500, capacity: 45 },
};

/** What stands beside the result never makes a call that ran a failure. */
const countSchema = v.fallback(
  v.optional(v.pipe(v.union([v.number(), v.string()]), v.transform(Number), v.safeInteger())),
  undefined,
);
const envelopeSchema = v.object({
  result: v.unknown(),
  total: countSchema,
  next: countSchema,
  time: v.optional(v.unknown()),
});

/** Code of our own for an answer that leads elsewhere. */
const redirected = "REDIRECT";

/** The access token is over; the call did not run. */
const tokenRefusals: ReadonlySet<string | undefined> = new Set(["expired_token", "invalid_token"]);

/** Bitrix24 shuts out applications that refresh for each call. */
const refreshPauseMs = 60_000;

/** 50 pages of 50 rows with long texts come in one answer. */
const maxResponseBytes = 67_108_864;

/** New addresses and tokens that one call lives through. */
const maxDetours = 3;
/** Refusals for the running time: a process that knows of no sum looks again each minute, until all ten have gone by. */
const maxPauses = 10;

/** A client for one Bitrix24 portal. @throws {ConfigError} for options that cannot work. */
export function createBitrix(options: BitrixOptions): Bitrix {
  const {
    plan = "other",
    operatingLimitSeconds = 450,
    storage = createMemoryStorage(),
    allowedHosts = [],
    clock = systemClock,
    timeoutMs = 65_000,
    retries = 4,
    minDelayMs = 1_000,
  } = options;
  if (!(operatingLimitSeconds > 0)) throw new ConfigError("operatingLimitSeconds must be positive");
  if (!(timeoutMs > 0)) throw new ConfigError("timeoutMs must be positive");
  if (!(minDelayMs >= 0)) throw new ConfigError("minDelayMs must not be negative");
  if (!Number.isInteger(retries) || retries < 0) throw new ConfigError("retries must be a whole number, 0 or more");
  if (typeof plan === "string" && !Object.hasOwn(budgets, plan)) {
    throw new ConfigError('plan must be "enterprise", "other" or { intervalMs, capacity }');
  }
  const { oauth } = options;
  const address = oauth ? oauth.address : parseWebhookUrl(options.webhookUrl);
  const logger = redactingLogger(options.logger ?? silentLogger);
  const limiter = createRateLimiter({
    vendor: "bitrix",
    account: accountOf(address),
    budget: typeof plan === "string" ? budgets[plan] : plan,
    store: storage.rateLimits,
    clock,
  });
  const operating = createOperatingTime({
    limitSeconds: operatingLimitSeconds,
    clock,
    watermarks: storage.watermarks,
    // Budgets are those of one webhook or application; the user's number is no secret.
    account: `${address.host}:${oauth ? "application" : address.path.split("/")[2]}`,
    logger,
  });
  const originKey = `bitrix-origin:${address.origin}`;
  /** A token was refused right after it had been refreshed: until then another one would be too. */
  let refreshAgainAt = Number.NEGATIVE_INFINITY;
  /** Read once: where the portal lives now. */
  let origin: Promise<string> | undefined;

  const currentOrigin = (): Promise<string> => {
    origin ??= storage.watermarks.get(originKey).then(
      (stored) => stored ?? address.origin,
      (error) => {
        origin = undefined; // the next call asks again
        throw error;
      },
    );
    return origin;
  };

  /** Moves on to the portal's new address, or says why not. */
  async function follow(target: string | undefined, method: string, status: number): Promise<void> {
    if (target === undefined) {
      throw new ApiError(
        `bitrix: ${method} was redirected to a host that is not allowed; if the portal moved there, set webhookUrl anew or name the host in allowedHosts`,
        { vendor: "bitrix", status, vendorCode: redirected, outcome: "not-executed" },
      );
    }
    await storage.watermarks.advance(originKey, await storage.watermarks.get(originKey), target);
    origin = Promise.resolve(target);
    logger.warn("bitrix: the portal has a new address; set webhookUrl to it", { host: new URL(target).host });
  }

  /** A client per call: it knows where this call was redirected to, which no error may hold. */
  function clientAt(at: string, onRedirect: (location: string | null) => void): HttpClient {
    return createHttpClient({
      vendor: "bitrix",
      baseUrl: `${at}${address.path}`,
      headers: { accept: "application/json", "user-agent": "orderbridge/0.1" },
      limiter,
      ...(options.fetch ? { fetch: options.fetch } : {}),
      clock,
      logger,
      timeoutMs,
      retries,
      minDelayMs,
      maxResponseBytes,
      readRefusal(answer) {
        if (answer.status < 300 || answer.status >= 400) return readRefusal(answer);
        onRedirect(answer.headers.get("location"));
        return { vendorCode: redirected, outcome: "not-executed" };
      },
    });
  }

  /** Names this backend in what changes something; the commands of a batch carry it each. */
  function markWrite(method: string, parameters: Parameters, safe: boolean): Parameters {
    const carries = options.connector !== undefined && !safe && !/^(batch$|event\.)/i.test(method);
    return carries ? { auth_connector: options.connector, ...parameters } : parameters;
  }

  async function request(
    method: string,
    parameters: Parameters = {},
    callOptions: CallOptions = {},
  ): Promise<Envelope> {
    if (!/^[A-Za-z0-9._]+$/.test(method)) throw new ConfigError("method must be a name such as crm.deal.get");
    const { safe = isRead(method), signal } = callOptions;
    const json = toJsonParameters(markWrite(method, parameters, safe), method) as Readonly<Record<string, unknown>>;
    let token = await oauth?.tokens.current();
    let hasNewToken = false;
    for (let detours = 0, pauses = 0; ; ) {
      const release = await operating.reserve(method, 1, signal);
      let target: string | undefined;
      try {
        const at = await currentOrigin();
        const client = clientAt(at, (location) => {
          target = readRename(location, { current: at, path: `${address.path}/${method}`, allowedHosts });
        });
        const answer = await client.request({
          name: method,
          method: "POST",
          path: `/${method}`,
          json: token ? { ...json, auth: token.accessToken } : json,
          schema: envelopeSchema,
          safe: safe && isRead(method) ? "read" : safe,
          ...(signal ? { signal } : {}),
        });
        if (!answer) {
          throw new ResponseShapeError(`bitrix: ${method} answered an empty body`, {
            vendor: "bitrix",
            status: 200,
            paths: [],
            outcome: "unknown",
          });
        }
        operating.record(method, answer.time);
        return { result: answer.result, total: answer.total, next: answer.next };
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.vendorCode === "OPERATION_TIME_LIMIT") {
          if (++pauses > maxPauses) throw error;
          await operating.exhaust(method);
          continue;
        }
        if (++detours > maxDetours) throw error;
        if (error.vendorCode === redirected) await follow(target, method, error.status);
        else if (oauth && token && tokenRefusals.has(error.vendorCode)) {
          if (hasNewToken) refreshAgainAt = clock.monotonicMs() + refreshPauseMs;
          if (clock.monotonicMs() < refreshAgainAt) throw error;
          token = await oauth.tokens.replace(token);
          hasNewToken = true;
        } else throw error;
      } finally {
        release();
      }
    }
  }

  const batch = createBatch({
    request,
    isRead,
    operating,
    markWrite,
    block: (code) =>
      limiter.block(code).catch((error: unknown) => {
        logger.error("bitrix: the block could not be stored, so other calls are not stopped", { error });
      }),
  });
  const client: Bitrix = {
    request,
    async call<Result>(method: string, parameters?: Parameters, callOptions?: CallOptions) {
      return (await request(method, parameters, callOptions)).result as Result;
    },
    batch,
    list: createList({ request, batch, costOf: operating.costOf, retries, minDelayMs, clock }),
    items: (entityTypeId) => createItems(client, entityTypeId),
    get deals() {
      return deals;
    },
    get contacts() {
      return contacts;
    },
    get categories() {
      return categories;
    },
    get products() {
      return products;
    },
    get orders() {
      return orders;
    },
  };
  const deals = createDeals(client);
  const contacts = createContacts(client);
  const categories = createCategories(client);
  const products = createProducts(client);
  const orders = createShopOrders(client);
  return client;
}

/** Names that only read, over all families of methods. What `event.offline.get` hands out leaves the queue. */
function isRead(method: string): boolean {
  if (/^event\.offline\.get$/i.test(method)) return false;
  return /(^|\.)(get|list|fields|getfields|types|current|count|info|scope|methods|profile|events)$/i.test(method);
}
