import { ApiError, ResponseShapeError } from "@orderbridge/core";
import * as v from "valibot";
import type { Bitrix } from "./bitrix.ts";
import type { ListOptions } from "./list.ts";
import type { Parameters } from "./parameters.ts";

/** An order of the online store (`sale.order`). */
export interface ShopOrder {
  readonly id: string;
  readonly statusId: string;
  /** Derived by Bitrix from the order's payments; it cannot be written. */
  readonly paid: boolean;
  readonly canceled: boolean;
  readonly xmlId: string | undefined;
  readonly version: number | undefined;
  /** ISO 8601 with offset. */
  readonly dateUpdate: string | undefined;
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface ShopOrders {
  /** `undefined` when there is no such order. */
  get(id: string): Promise<ShopOrder | undefined>;
  update(id: string, fields: Parameters): Promise<ShopOrder>;
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<ShopOrder>;
  /** Ids of the order statuses of this portal. */
  statuses(): Promise<readonly string[]>;
}

const text = v.pipe(v.union([v.number(), v.string()]), v.transform(String));
const orderSchema = v.looseObject({
  id: text,
  statusId: v.string(),
  payed: v.fallback(v.string(), "N"),
  canceled: v.fallback(v.string(), "N"),
  xmlId: v.fallback(v.optional(v.string()), undefined),
  version: v.fallback(v.optional(v.number()), undefined),
  dateUpdate: v.fallback(v.optional(v.string()), undefined),
});

function toShopOrder(value: unknown, method: string): ShopOrder {
  const parsed = v.safeParse(orderSchema, value);
  if (!parsed.success) {
    throw new ResponseShapeError(`bitrix: ${method} answered an unexpected shape`, {
      vendor: "bitrix",
      status: 200,
      paths: parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)"),
      outcome: "executed",
    });
  }
  const { id, statusId, payed, canceled, xmlId, version, dateUpdate } = parsed.output;
  return {
    id,
    statusId,
    paid: payed === "Y",
    canceled: canceled === "Y",
    xmlId,
    version,
    dateUpdate,
    fields: value as Readonly<Record<string, unknown>>,
  };
}

/** "Order not found" of `sale.order`, apidocs.bitrix24.ru (read 2026-08). */
const orderNotFound = "200540400001";

/** Needs the scope `sale` and the rights of an administrator. */
export function createShopOrders(bitrix: Pick<Bitrix, "call" | "list">): ShopOrders {
  return {
    async get(id) {
      try {
        const { order } = await bitrix.call<{ order: unknown }>("sale.order.get", { id });
        return toShopOrder(order, "sale.order.get");
      } catch (error) {
        if (error instanceof ApiError && error.vendorCode === orderNotFound) return undefined;
        throw error;
      }
    },
    async update(id, fields) {
      const { order } = await bitrix.call<{ order: unknown }>("sale.order.update", { id, fields });
      return toShopOrder(order, "sale.order.update");
    },
    async *list(parameters = {}, options = {}) {
      for await (const order of bitrix.list("sale.order.list", parameters, options)) {
        yield toShopOrder(order, "sale.order.list");
      }
    },
    async statuses() {
      const { statuses } = await bitrix.call<{ statuses: { id: string; type: string }[] }>("sale.status.list", {
        filter: { type: "O" },
      });
      return statuses.map(({ id }) => id);
    },
  };
}
