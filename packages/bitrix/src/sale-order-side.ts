import { ConfigError, createStatusMapper } from "@orderbridge/core";
import { readLink } from "./deal-side.ts";
import type { Deals } from "./deals.ts";
import type { ShopOrder, ShopOrders } from "./shop-orders.ts";
import type { SideState, SyncSide } from "./status-sync.ts";

export interface SaleOrderSideOptions {
  readonly bitrix: {
    readonly orders: Pick<ShopOrders, "get" | "update" | "statuses">;
    readonly deals: Pick<Deals, "list">;
  };
  /** Shared status -> order status of the store: `{ new: "N", paid: "P", delivered: "F", cancelled: "D" }`. */
  readonly statuses: Readonly<Record<string, string>>;
  /** @defaultValue ["delivered"] */
  readonly finalStatuses?: readonly string[];
  /** The shared status that the order's flag `canceled` stands for, whatever its own status is. @defaultValue "cancelled" */
  readonly cancelledStatus?: string;
  /** Field of the deal that holds the order's id. @defaultValue "UF_CRM_ORDER_ID" */
  readonly linkField?: string;
}

export interface SaleOrderSide extends SyncSide {
  /**
   * Compares the mapping with the store's statuses; call it at start.
   * @throws {ConfigError} names statuses of the mapping that the store does not have.
   */
  check(): Promise<{ readonly unmappedStatuses: readonly string[] }>;
}

/** Code of an order whose flag `canceled` is set. Ids of statuses have one or two letters. */
const canceledCode = "canceled";

/**
 * Orders of the online store (`sale.order`) as a side of a sync. They tell of payments but take none over: Bitrix derives
 * `payed` from the payments of the order.
 *
 * @see apidocs.bitrix24.ru, "sale.order.update", "sale.status.list" (read 2026-08)
 */
export function createSaleOrderSide(options: SaleOrderSideOptions): SaleOrderSide {
  const {
    bitrix,
    statuses,
    finalStatuses = ["delivered"],
    cancelledStatus = "cancelled",
    linkField = "UF_CRM_ORDER_ID",
  } = options;
  const mapper = createStatusMapper<[string, string][]>({
    pairs: Object.entries(statuses).map(([status, id]) => [id, status]),
  });

  function toState(order: ShopOrder): SideState {
    const mapped = mapper.map(order.statusId);
    const ownStatus = "status" in mapped ? mapped.status : undefined;
    const status = order.canceled ? cancelledStatus : ownStatus;
    const isFinal = status !== undefined && finalStatuses.includes(status);
    const changedAt = new Date(order.dateUpdate ?? Number.NaN);
    return {
      code: order.canceled ? canceledCode : order.statusId,
      status,
      paid: order.paid,
      rank: status === cancelledStatus ? "cancelled" : isFinal ? "final" : "progress",
      changedAt: Number.isNaN(changedAt.getTime()) ? undefined : changedAt,
    };
  }

  return {
    name: "sale.order",
    async check() {
      const known = await bitrix.orders.statuses();
      const unknown = mapper.codes.filter((id) => !known.includes(id));
      if (unknown.length > 0) {
        throw new ConfigError(`statuses: the store has no ${unknown.join(", ")}; it has ${known.join(", ")}`);
      }
      return { unmappedStatuses: known.filter((id) => "unmapped" in mapper.map(id)) };
    },
    async read(id) {
      const order = await bitrix.orders.get(id);
      return order && toState(order);
    },
    async target({ status }, seen) {
      if (status === undefined) return seen.code;
      if (status === cancelledStatus) return canceledCode;
      const mapped = mapper.unmap(status);
      return "code" in mapped ? mapped.code : undefined;
    },
    async write(id, { code, seen, signal }) {
      const order = await bitrix.orders.get(id);
      if (!order || toState(order).code !== seen.code) return "changed";
      if (code === seen.code) return seen;
      const own = mapper.unmap(cancelledStatus);
      const fields =
        code === canceledCode
          ? { canceled: "Y", ...("code" in own ? { statusId: own.code } : {}) }
          : { statusId: code, ...(order.canceled ? { canceled: "N" } : {}) };
      const state = toState(await bitrix.orders.update(id, fields, signal ? { signal } : {}));
      // What a handler of the store made of it is not ours: it will be seen as a move of the order. One that put it back
      // has refused it.
      return state.code === seen.code ? state : { ...state, code };
    },
    async peerOf(id) {
      for await (const deal of bitrix.deals.list({ filter: { [`=${linkField}`]: id } })) {
        // A filter that was ignored would give every deal.
        return readLink(deal.fields[linkField]) === id ? deal.id : undefined;
      }
      return undefined;
    },
  };
}
