import { ConfigError, defineHandler, type FetchHandler, type Logger } from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";
import * as v from "valibot";
import { InputError } from "./errors.ts";
import { toDecimalText } from "./money.ts";
import type { Orders } from "./orders.ts";
import type { ProductSync } from "./product-sync.ts";
import type { Order, OrderChange, Product, ProductConflict } from "./storage.ts";
import { idSchema, json, readJson, textSchema } from "./webhook-request.ts";

export interface BackendApiOptions {
  readonly orders: Orders;
  readonly products: Pick<ProductSync, "update" | "get" | "conflicts">;
  /** Bearer tokens in force; several while one is being replaced. */
  readonly apiTokens: readonly string[];
  /** Who the history names for changes that come by this API. @defaultValue "backend" */
  readonly changedBy?: string;
  /** @defaultValue console */
  readonly logger?: Pick<Logger, "error">;
}

const newOrder = v.object({
  total: v.string('must be text, e.g. "1000.00"'),
  bitrix_order_id: v.optional(idSchema),
  deal_id: v.optional(idSchema),
  status: v.optional(v.string("must be text")),
});
const orderChange = v.object({
  status: v.optional(v.string("must be text")),
  paid: v.optional(v.boolean("must be true or false")),
});
const productChange = v.object({
  name: v.optional(v.pipe(textSchema, v.nonEmpty("must not be empty"))),
  price: v.optional(
    v.pipe(
      v.number("must be a whole number of tiyn"),
      v.safeInteger("must be a whole number of tiyn"),
      v.minValue(0, "must not be negative"),
      v.transform((minor) => BigInt(minor)),
    ),
  ),
  enabled: v.optional(v.boolean("must be true or false")),
});

type Route = readonly [
  method: string,
  path: RegExp,
  run: (id: string, body: Uint8Array) => Promise<readonly [status: number, body: unknown] | undefined>,
];

/**
 * This backend's own orders and products over HTTP, under `/api/v1`:
 *
 * - `POST`, `GET /orders`; `GET`, `PUT /orders/:id`; `GET /orders/:id/history`
 * - `PUT`, `GET /products/:id`; `GET /products/:id/conflicts`
 *
 * 401 without a token, 404 for what is not known, 422 that names the field. Prices go in as integer tiyn and come out the
 * same.
 */
export function createBackendApi(options: BackendApiOptions): FetchHandler {
  const { orders, products, apiTokens, changedBy = "backend", logger = console } = options;
  if (apiTokens.length === 0 || apiTokens.includes("")) throw new ConfigError("apiTokens: give at least one");

  const ok = <Value>(value: Value | undefined, toBody: (value: Value) => unknown) =>
    value === undefined ? undefined : ([200, toBody(value)] as const);

  const routes: readonly Route[] = [
    [
      "POST",
      /^\/orders$/,
      async (_id, body) => {
        const { total, status, bitrix_order_id: bitrixOrderId, deal_id: dealId } = readJson(body, newOrder);
        return [201, orderBody(await orders.create({ total, status, bitrixOrderId, dealId }))];
      },
    ],
    ["GET", /^\/orders$/, async () => [200, (await orders.list({ limit: 100 })).map(orderBody)]],
    ["GET", /^\/orders\/([^/]+)$/, async (id) => ok(await orders.get(id), orderBody)],
    [
      "PUT",
      /^\/orders\/([^/]+)$/,
      async (id, body) => ok(await orders.change(id, readJson(body, orderChange), { changedBy }), orderBody),
    ],
    [
      "GET",
      /^\/orders\/([^/]+)\/history$/,
      async (id) => ok(await orders.history(id), (changes) => changes.map(changeBody)),
    ],
    [
      "PUT",
      /^\/products\/([^/]+)$/,
      async (id, body) => {
        const { price, ...change } = readJson(body, productChange);
        return [200, productBody(await products.update(readProductId(id), { ...change, priceMinor: price }))];
      },
    ],
    ["GET", /^\/products\/([^/]+)$/, async (id) => ok(await products.get(id), productBody)],
    [
      "GET",
      /^\/products\/([^/]+)\/conflicts$/,
      async (id) => ok(await products.conflicts(id), (conflicts) => conflicts.map(conflictBody)),
    ],
  ];

  return defineHandler(
    async (request, body) => {
      const token = /^Bearer (.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
      if (!verifySharedSecret(token, apiTokens).ok) return json(401, { detail: "Unauthorized" });
      const path = /\/api\/v1(\/.*?)\/?$/.exec(new URL(request.url).pathname)?.[1] ?? "";
      const matching = routes.filter(([, pattern]) => pattern.test(path));
      const route = matching.find(([method]) => method === request.method);
      if (!route) return json(matching.length > 0 ? 405 : 404, { detail: "Not found" });
      try {
        const id = decodeURIComponent(route[1].exec(path)?.[1] ?? "");
        // No id holds NUL, which PostgreSQL refuses to look for.
        if (id.includes("\0")) return json(404, { detail: "Not found" });
        const answer = await route[2](id, body);
        return answer ? json(...answer) : json(404, { detail: "Not found" });
      } catch (error) {
        if (error instanceof InputError) return json(422, { detail: error.message, field: error.field });
        if (error instanceof URIError) return json(404, { detail: "Not found" });
        throw error;
      }
    },
    { methods: ["GET", "POST", "PUT"], maxBodyBytes: 65_536, logger },
  );
}

function readProductId(id: string): string {
  if (!/^[1-9]\d{0,18}$/.test(id)) throw new InputError("id", "must be the product's id on the site");
  return id;
}

const orderBody = ({ id, status, paidAt, bitrixOrderId, dealId, total }: Order) => ({
  id,
  status,
  paid_at: paidAt?.toISOString() ?? null,
  bitrix_order_id: bitrixOrderId ?? null,
  deal_id: dealId ?? null,
  total,
});

const changeBody = ({ field, from, to, changedBy, changedAt }: OrderChange) => ({
  field,
  from,
  to,
  changed_by: changedBy,
  changed_at: changedAt.toISOString(),
});

const productBody = ({ id, name, priceMinor, currency, enabled, siteVersion, pending }: Product) => ({
  id,
  name: name ?? null,
  price: priceMinor === undefined ? null : Number(priceMinor),
  currency,
  enabled: enabled ?? null,
  /** The site's version that these values rest on. */
  version: siteVersion ?? null,
  /** Still on the way to the site. */
  pending,
});

const conflictBody = ({ at, ours, theirs, siteVersion }: ProductConflict) => {
  const values = ({ name, priceMinor, currency, enabled }: ProductConflict["ours"]) => ({
    name: name ?? null,
    price: priceMinor === undefined ? null : toDecimalText(priceMinor),
    currency,
    enabled: enabled ?? null,
  });
  return { at: at.toISOString(), ours: values(ours), theirs: values(theirs), version: siteVersion ?? null };
};
