import { type Clock, systemClock } from "@orderbridge/core";
import { bitrixOrderStatuses } from "./order-statuses.ts";
import { changeOrder, updateOrder } from "./orders.ts";
import type { SideState, SyncSide } from "./status-sync.ts";
import type { BitrixStorage, Order } from "./storage.ts";

export interface OrderSideOptions {
  readonly storage: BitrixStorage;
  /** Who the history names for a change that came from the other side. */
  readonly changedBy: string;
  /** Statuses that an order may have. @defaultValue those of `bitrixOrderStatuses` */
  readonly statuses?: readonly string[];
  /** @defaultValue ["delivered"] */
  readonly finalStatuses?: readonly string[];
  /** @defaultValue ["cancelled"] */
  readonly cancelledStatuses?: readonly string[];
  readonly clock?: Clock;
}

/** The orders of this backend as a side of a sync. They know of payments. */
export function createOrderSide(options: OrderSideOptions): SyncSide {
  const {
    storage,
    changedBy,
    statuses = bitrixOrderStatuses.statuses,
    finalStatuses = ["delivered"],
    cancelledStatuses = ["cancelled"],
    clock = systemClock,
  } = options;

  const toState = ({ status, paidAt, statusChangedAt }: Order): SideState => ({
    code: status,
    status,
    paid: paidAt !== undefined,
    rank: cancelledStatuses.includes(status) ? "cancelled" : finalStatuses.includes(status) ? "final" : "progress",
    changedAt: statusChangedAt,
  });

  return {
    name: "backend",
    async read(id) {
      const order = await storage.orders.get(id);
      return order && toState(order);
    },
    async target({ status }, seen) {
      if (status === undefined) return seen.code;
      return statuses.includes(status) ? status : undefined;
    },
    async write(id, { code, paid, seen }) {
      const result = await updateOrder(
        storage,
        (stores) => stores.orders.get(id),
        (order) =>
          order.status === seen.code
            ? { ...changeOrder(order, { status: code, paid }, { changedBy, at: clock.now() }), changed: false }
            : { order, changes: [], changed: true },
        { mark: false },
      );
      return !result || result.changed ? "changed" : toState(result.order);
    },
    async peerOf(id) {
      return (await storage.orders.get(id))?.dealId;
    },
    async link(id, peerId, gonePeerId) {
      await updateOrder(
        storage,
        (stores) => stores.orders.get(id),
        (order) => {
          const isFree = order.dealId === undefined || order.dealId === gonePeerId;
          return { order: isFree ? { ...order, dealId: peerId } : order, changes: [] };
        },
      );
    },
  };
}
