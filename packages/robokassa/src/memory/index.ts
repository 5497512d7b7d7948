import { type Clock, systemClock } from "@orderbridge/core";
import {
  type CallbackEntry,
  checkRanges,
  type InvIdRanges,
  isAccepted,
  isSameOrder,
  maxRefusedCallbacks,
  nextInvId,
  type Order,
  type RobokassaStorage,
} from "../storage.ts";

/** Orders and callbacks in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createRobokassaMemoryStorage({
  clock = systemClock,
  ...options
}: InvIdRanges & { readonly clock?: Clock } = {}): RobokassaStorage<undefined> {
  const ranges = checkRanges(options);
  const orders = new Map<string, Order>();
  const ids = new Map<string, string>();
  const last = new Map<boolean, bigint>();
  let callbacks: CallbackEntry[] = [];
  let queue: Promise<unknown> = Promise.resolve();

  /** Bookings run one after another, as transactions on one row do. */
  function inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const result = queue.then(work);
    queue = result.catch(() => undefined);
    return result;
  }

  const byInvId = (invId: string): Order | undefined => {
    const id = ids.get(invId);
    return id === undefined ? undefined : orders.get(id);
  };

  return {
    orders: {
      async create(order) {
        const stored = orders.get(order.id);
        if (stored) return isSameOrder(stored, order) ? stored : undefined;
        const number = nextInvId(ranges, order.test, last.get(order.test));
        last.set(order.test, number);
        const created: Order = {
          id: order.id,
          invId: String(number),
          test: order.test,
          total: order.total,
          currency: order.currency,
          description: order.description,
          status: "new",
          paidAt: undefined,
          opKey: undefined,
          createdAt: clock.now(),
        };
        orders.set(created.id, created);
        ids.set(created.invId, created.id);
        return created;
      },
      async get(id) {
        return orders.get(id);
      },
      async getByInvId(invId) {
        return byInvId(invId);
      },
      bookPayment: ({ invId, paidAt, opKey }, work) =>
        inTurn(async () => {
          const order = byInvId(invId);
          if (!order) return { state: "unknown" };
          if (order.status !== "new" && order.status !== "held") return { state: "repeated", order };
          const paid: Order = { ...order, status: "paid", paidAt, opKey: opKey ?? order.opKey };
          await work?.(paid, undefined);
          orders.set(paid.id, paid);
          return { state: "booked", order: paid };
        }),
    },
    callbacks: {
      async record(entry) {
        callbacks.push(entry);
        if (isAccepted(entry)) return;
        let surplus = callbacks.filter((other) => !isAccepted(other)).length - maxRefusedCallbacks;
        if (surplus > 0) callbacks = callbacks.filter((other) => isAccepted(other) || surplus-- <= 0);
      },
      async list({ invId, limit }) {
        const matching = invId === undefined ? callbacks : callbacks.filter((entry) => entry.invId === invId);
        return matching.slice(-limit).reverse();
      },
    },
    async ping() {},
  };
}
