import { createHmac } from "node:crypto";
import {
  ApiError,
  type Clock,
  ConfigError,
  createHttpClient,
  createRateLimiter,
  type HttpAnswer,
  type Logger,
  type RateLimitStore,
  type Refusal,
  RequestError,
  ResponseShapeError,
  systemClock,
} from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import * as v from "valibot";
import {
  type KaspiEntry,
  type KaspiOrder,
  type KaspiState,
  kaspiStates,
  type Resource,
  readEntry,
  readOrder,
} from "./order.ts";
import { cutWindows } from "./windows.ts";

export interface KaspiOptions {
  /** `X-Auth-Token` of the seller cabinet (Settings, API token). It cannot be rotated: keep it secret. */
  readonly token: string;
  /** Name of the shop; a token belongs to one. @defaultValue "default" */
  readonly shop?: string;
  /** Replaces `https://kaspi.kz`, e.g. by the address of the fake. */
  readonly origin?: string;
  /** The API was seen to hang on requests without one. @defaultValue "Mozilla/5.0 (compatible; orderbridge)" */
  readonly userAgent?: string;
  /** No limit is published. @defaultValue 5 */
  readonly ratePerSecond?: number;
  /** Share it among processes. @defaultValue this process's memory */
  readonly rateLimits?: RateLimitStore;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** @defaultValue 30_000 */
  readonly timeoutMs?: number;
  /** First pause before a read is repeated, in milliseconds. @defaultValue 500 */
  readonly minDelayMs?: number;
}

export interface OrderQuery {
  /** Both bounds are inclusive; spans over 14 days are cut. */
  readonly createdFrom: Date;
  readonly createdTo: Date;
  /** Left out: all six, one after the other. */
  readonly state?: KaspiState;
  readonly signal?: AbortSignal;
}

export interface OrderPage {
  readonly orders: readonly KaspiOrder[];
  /** From 0. */
  readonly number: number;
  readonly pageCount: number | undefined;
  readonly totalCount: number | undefined;
}

export interface Kaspi {
  readonly shop: string;
  /** HMAC-SHA256 of the token, in hex: tells whether a token is known without keeping it. */
  tokenHash(key: string): string;
  readonly orders: {
    /** Orders of a time span with their entries, each code once per window of 14 days. The order of results is Kaspi's. */
    list(query: OrderQuery): AsyncIterable<KaspiOrder>;
    /** The pages of one state in one window of at most 14 days. */
    pages(query: OrderQuery & { readonly state: KaspiState }): AsyncIterable<OrderPage>;
    /**
     * A list asked for with parameters of one's own: for finding out what the guide leaves open.
     */
    raw(query: URLSearchParams): Promise<{
      readonly data: readonly KaspiOrder[];
      readonly meta: { readonly pageCount: number | undefined; readonly totalCount: number | undefined };
    }>;
    /** `undefined` for an unknown code. */
    byCode(code: string): Promise<KaspiOrder | undefined>;
    /**
     * Changes an order, in one request that is never repeated by itself, not even after a 429: after an error whose outcome
     * is `unknown` read the order again.
     */
    setStatus(orderId: string, change: OrderStatusChange): Promise<void>;
    /**
     * Takes goods out of an order: what remains of one line. Resolves to `false` while Kaspi still works on it. Sent once.
     *
     * Wire: `POST /orderEntryCancelOperation` with `remainedQuantity`, `reason`, `notes` and the relationship `entry`.
     */
    cancelLine(line: LineCancellation & { readonly remainedQuantity: number }): Promise<boolean>;
    /**
     * The same for several lines at once, or for goods that weigh less. Sent once.
     *
     * Wire: `PUT /shop/api/orderPartialCancel/{orderId}` with a list of lines.
     */
    cancelLines(orderId: string, lines: readonly LineCancellation[]): Promise<boolean>;
  };
  /** The lines of one order. */
  entries(orderId: string): Promise<readonly KaspiEntry[]>;
}

export type OrderStatusChange =
  | { readonly status: "ACCEPTED_BY_MERCHANT" | "ARRIVED" | "ARRIVED_BACKWARD" }
  | { readonly status: "ASSEMBLE"; readonly numberOfSpace: number }
  /** Without a code the buyer is sent one; with it the order is completed. */
  | { readonly status: "COMPLETED"; readonly securityCode?: string }
  | {
      readonly status: "CANCELLED";
      readonly reason: "MERCHANT_OUT_OF_STOCK" | "BUYER_CANCELLATION_BY_MERCHANT" | "BUYER_NOT_REACHABLE";
      /** At most 1 000 characters. */
      readonly comment?: string;
    };

export interface LineCancellation {
  readonly entryId: string;
  /** Pieces that stay. */
  readonly remainedQuantity?: number;
  /** Grams that stay, of measurable goods. */
  readonly remainedWeight?: number;
  /** `MERCHANT_OUT_OF_STOCK`, …; for weight `PRODUCT_UNDERWEIGHT`. */
  readonly reason: string;
  readonly notes?: string;
}

const resourceSchema = v.object({
  id: v.pipe(v.union([v.string(), v.number()]), v.transform(String)),
  type: v.optional(v.string()),
  attributes: v.nullish(v.record(v.string(), v.unknown()), {}),
  relationships: v.nullish(v.record(v.string(), v.unknown()), {}),
});

const listSchema = v.object({
  data: v.array(resourceSchema), // an answer without it is no empty list
  included: v.fallback(v.nullish(v.array(resourceSchema), []), []),
  meta: v.fallback(
    v.nullish(v.object({ pageCount: v.nullish(v.number()), totalCount: v.nullish(v.number()) }), {}),
    {},
  ),
});

/** Both spellings occur: `SUCCESSFUL` of the bulk method, `SUCCESSFULL` of the other; else `INPROGRESS`. */
const cancelledSchema = v.pipe(
  v.union([
    v.object({ data: v.object({ attributes: v.object({ status: v.string() }) }) }),
    v.object({ status: v.string() }),
  ]),
  v.transform((answer) => ("data" in answer ? answer.data.attributes.status : answer.status).startsWith("SUCCESS")),
);

const pageSize = 100; // the largest allowed
const maxPages = 10_000; // a server that ignores paging must not hold us for ever

/**
 * Client of the Kaspi shop API. There is no sandbox and no webhook: orders are polled.
 *
 * @see guide.kaspi.kz, "Shop", "API" (read 2025-12)
 */
export function createKaspi({
  token,
  shop = "default",
  origin = "https://kaspi.kz",
  userAgent = "Mozilla/5.0 (compatible; orderbridge)",
  ratePerSecond = 5,
  clock = systemClock,
  rateLimits = createMemoryStorage({ clock }).rateLimits,
  ...rest
}: KaspiOptions): Kaspi {
  if (!token) throw new ConfigError("kaspi: token is empty; copy it from the seller cabinet, Settings, API token");
  if (!(ratePerSecond > 0)) throw new ConfigError("kaspi: ratePerSecond must be positive");
  const shared = {
    vendor: "kaspi",
    baseUrl: `${origin}/shop/api`,
    headers: {
      accept: "application/vnd.api+json",
      "content-type": "application/vnd.api+json",
      "user-agent": userAgent,
      "x-auth-token": token,
    },
    limiter: createRateLimiter({
      vendor: "kaspi",
      account: `kaspi:${shop}`,
      budget: { intervalMs: Math.ceil(1000 / ratePerSecond) },
      store: rateLimits,
      clock,
    }),
    clock,
    readRefusal,
    ...rest,
  };
  const http = createHttpClient({ ...shared, retries: 2 });
  /** A change cannot be undone, and there is no key that makes it safe to repeat. */
  const changes = createHttpClient({ ...shared, retries: 0 });

  async function listPage(
    name: string,
    query: URLSearchParams,
    signal?: AbortSignal,
  ): Promise<Omit<OrderPage, "number">> {
    const answer = await http.request({
      name,
      path: "/v2/orders",
      query,
      schema: listSchema,
      ...(signal && { signal }),
    });
    const included = new Map((answer?.included ?? []).map((resource) => [resource.id, resource as Resource]));
    return {
      orders: (answer?.data ?? []).map((resource) => readOrder(resource as Resource, included, shop)),
      pageCount: answer?.meta?.pageCount ?? undefined,
      totalCount: answer?.meta?.totalCount ?? undefined,
    };
  }

  async function* pages({ createdFrom, createdTo, state, signal }: Parameters<Kaspi["orders"]["pages"]>[0]) {
    for (let number = 0; number < maxPages; number++) {
      const query = new URLSearchParams({
        "page[number]": String(number),
        "page[size]": String(pageSize),
        "filter[orders][state]": state,
        "filter[orders][creationDate][$ge]": String(createdFrom.getTime()),
        "filter[orders][creationDate][$le]": String(createdTo.getTime()),
        "include[orders]": "entries",
      });
      const page = await listPage("orders.list", query, signal);
      yield { ...page, number };
      if (page.orders.length === 0 || number + 1 >= (page.pageCount ?? Number.POSITIVE_INFINITY)) return;
    }
  }

  return {
    shop,
    tokenHash: (key) => createHmac("sha256", key).update(token).digest("hex"),
    orders: {
      pages,
      async *list({ createdFrom, createdTo, state, signal }) {
        for (const window of cutWindows(createdFrom, createdTo)) {
          const codes = new Set<string>(); // an order that changes its folder meanwhile appears in both
          for (const folder of state ? [state] : kaspiStates) {
            const query = { createdFrom: window.from, createdTo: window.to, state: folder, ...(signal && { signal }) };
            for await (const page of pages(query)) {
              for (const order of page.orders) {
                if (codes.has(order.code)) continue;
                codes.add(order.code);
                yield order;
              }
            }
          }
        }
      },
      async raw(query) {
        const { orders, pageCount, totalCount } = await listPage("orders.raw", query);
        return { data: orders, meta: { pageCount, totalCount } };
      },
      async byCode(code) {
        const query = new URLSearchParams({ "filter[orders][code]": code, "include[orders]": "entries" });
        const { orders } = await listPage("orders.byCode", query);
        return orders.find((order) => order.code === code);
      },
      async setStatus(orderId, change) {
        const attributes: Record<string, unknown> = { status: change.status };
        const headers: Record<string, string> = {};
        if (change.status === "ASSEMBLE") attributes.numberOfSpace = String(change.numberOfSpace);
        if (change.status === "CANCELLED") {
          attributes.cancellationReason = change.reason;
          if (change.comment !== undefined) attributes.cancellationComment = change.comment.slice(0, 1000);
        }
        if (change.status === "COMPLETED") {
          headers["x-security-code"] = change.securityCode ?? "";
          headers["x-send-code"] = "true";
        }
        await changes.send({
          name: `orders.setStatus ${change.status}`,
          method: "POST",
          path: "/v2/orders",
          headers,
          json: { data: { type: "orders", id: orderId, attributes } },
        });
      },
      async cancelLine({ entryId, remainedQuantity, reason, notes }) {
        const done = await changes.request({
          name: "orders.cancelLine",
          method: "POST",
          path: "/v2/orderEntryCancelOperation",
          json: {
            data: {
              type: "orderEntryCancelOperation",
              attributes: { remainedQuantity, reason, ...(notes !== undefined && { notes }) },
              relationships: { entry: { data: { type: "orderentries", id: entryId } } },
            },
          },
          schema: cancelledSchema,
        });
        return done === true;
      },
      async cancelLines(orderId, lines) {
        const done = await changes.request({
          name: "orders.cancelLines",
          method: "PUT",
          path: `/orderPartialCancel/${encodeURIComponent(orderId)}`,
          json: lines.map(({ entryId, ...line }) => ({ entry: { id: entryId }, ...line })),
          schema: cancelledSchema,
        });
        return done === true;
      },
    },
    async entries(orderId) {
      // One request: the method has no documented paging, and a server that ignores it would never end the loop.
      const answer = await http.request({
        name: "orders.entries",
        path: `/v2/orders/${encodeURIComponent(orderId)}/entries`,
        schema: listSchema,
      });
      const byId = new Map((answer?.data ?? []).map((resource) => [resource.id, readEntry(resource as Resource)]));
      return [...byId.values()];
    },
  };
}

/** A completion code that is wrong, a bad token, a span that is too long: refused. 5xx on a change may have run. */
function readRefusal({ status }: HttpAnswer): Refusal | undefined {
  if (status === 401 || status === 403) return { vendorCode: "auth", outcome: "refused" };
  if (status === 404) return { vendorCode: "not-found", outcome: "refused" };
  if (status === 400 || status === 406 || status === 422) return { vendorCode: "validation", outcome: "refused" };
  return undefined;
}

export type KaspiErrorKind = "auth" | "rate" | "not-found" | "validation" | "html" | "timeout" | "network";

/**
 * What a Kaspi error means: `auth` (check the token), `rate`, `not-found`, `validation`, `html` (a page in place of an
 * answer: a block, maintenance, a lost header), `timeout` (also the answer to a bad header or a foreign address), `network`;
 * else `undefined`. A page with a status other than 200 is what its status says.
 */
export function kaspiErrorKind(error: unknown): KaspiErrorKind | undefined {
  if (error instanceof RequestError && error.vendor === "kaspi") {
    return error.code === "timeout" || error.code === "network" ? error.code : undefined;
  }
  if (error instanceof ResponseShapeError && error.vendor === "kaspi") {
    return /HTML page/.test(error.message) ? "html" : undefined;
  }
  if (!(error instanceof ApiError) || error.vendor !== "kaspi") return undefined;
  if (error.status === 429) return "rate";
  const code = error.vendorCode;
  return code === "auth" || code === "not-found" || code === "validation" ? code : undefined;
}
