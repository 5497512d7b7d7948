import { type Clock, systemClock } from "@orderbridge/core";
import { fromMinor, toMinor } from "../amount.ts";
import {
  type CallbackEntry,
  type CallbackLogOptions,
  checkRanges,
  countedRefunds,
  firstCheckDelayMs,
  type InvIdRanges,
  isSameOrder,
  isUnproven,
  nextInvId,
  type Order,
  payable,
  type Refund,
  type RobokassaStorage,
} from "../storage.ts";

/** Orders and callbacks in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createRobokassaMemoryStorage({
  clock = systemClock,
  maxRefusedCallbacks = 500,
  ...options
}: InvIdRanges & CallbackLogOptions & { readonly clock?: Clock } = {}): RobokassaStorage<undefined> {
  const ranges = checkRanges(options);
  const orders = new Map<string, Order>();
  const ids = new Map<string, string>();
  const last = new Map<boolean, bigint>();
  const notifiedAt = new Map<string, Date>();
  const checks = new Map<string, { checks: number; nextAt: Date }>();
  const refunds = new Map<string, Refund>();
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

  function save(order: Order): Order {
    orders.set(order.id, order);
    return order;
  }

  /** Brings the order's sum of refunds up to date, and its status when all of it went back. */
  function count(invId: string): void {
    const order = byInvId(invId) as Order;
    const own = [...refunds.values()].filter((refund) => refund.invId === invId);
    const sum = (states: readonly Refund["state"][]): bigint =>
      own.filter(({ state }) => states.includes(state)).reduce((total, { amount }) => total + toMinor(amount), 0n);
    const isRefunded = order.status === "paid" && sum(["finished"]) === toMinor(payable(order));
    save({ ...order, refunded: fromMinor(sum(countedRefunds)), status: isRefunded ? "refunded" : order.status });
  }

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
          captured: undefined,
          refunded: "0.00",
          link: undefined,
          createdAt: clock.now(),
        };
        orders.set(created.id, created);
        ids.set(created.invId, created.id);
        if (!created.test) {
          checks.set(created.invId, { checks: 0, nextAt: new Date(clock.now().getTime() + firstCheckDelayMs) });
        }
        return created;
      },
      async keepLink(id, link) {
        const order = orders.get(id);
        if (order) save({ ...order, link });
        return order !== undefined;
      },
      async get(id) {
        return orders.get(id);
      },
      async getByInvId(invId) {
        return byInvId(invId);
      },
      bookPayment: ({ invId, paidAt, opKey, payable: compared }, work) =>
        inTurn(async () => {
          const order = byInvId(invId);
          if (!order) return { state: "unknown" };
          if (order.status !== "new" && order.status !== "held") {
            if (order.opKey !== undefined || opKey === undefined) return { state: "repeated", order };
            return { state: "repeated", order: save({ ...order, opKey }) };
          }
          if (compared !== undefined && compared !== payable(order)) return { state: "changed", order };
          const paid: Order = { ...order, status: "paid", paidAt, opKey: opKey ?? order.opKey };
          await work?.(paid, undefined);
          return { state: "booked", order: save(paid) };
        }),
      bookHold: ({ invId, opKey, sentAt }) =>
        inTurn(async () => {
          const order = byInvId(invId);
          if (!order) return { state: "unknown" };
          if (order.status !== "new" || (notifiedAt.get(invId) ?? new Date(0)) >= sentAt) {
            return { state: "repeated", order };
          }
          notifiedAt.set(invId, sentAt);
          return { state: "booked", order: save({ ...order, status: "held", opKey }) };
        }),
      keepCapture: (invId, amount, was) =>
        inTurn(async () => {
          const order = byInvId(invId);
          if (order?.status !== "held" || order.captured !== was || toMinor(amount) > toMinor(order.total))
            return false;
          save({ ...order, captured: amount });
          return true;
        }),
      bookRelease: (invId, told) =>
        inTurn(async () => {
          const order = byInvId(invId);
          if (!order) return { state: "unknown" };
          const isHeldOne =
            told === undefined || order.opKey === undefined || told.opKey === undefined
              ? told === undefined || (notifiedAt.get(invId) ?? new Date(0)) <= told.at
              : order.opKey === told.opKey;
          if (order.status !== "held" || !isHeldOne) return { state: "repeated", order };
          return { state: "booked", order: save({ ...order, status: "new", captured: undefined }) };
        }),
      async dueChecks(now, limit) {
        const due = [...checks].filter(([, { nextAt }]) => nextAt <= now);
        due.sort(([, a], [, b]) => a.checks - b.checks || a.nextAt.getTime() - b.nextAt.getTime());
        return due
          .map(([invId, check]) => ({ order: byInvId(invId) as Order, checks: check.checks }))
          .filter(({ order }) => order.status === "new" || order.status === "held")
          .slice(0, limit);
      },
      async scheduleCheck(invId, change) {
        if (checks.get(invId)?.checks !== change.checks) return false;
        if (change.nextAt) checks.set(invId, { checks: change.checks + 1, nextAt: change.nextAt });
        else checks.delete(invId);
        return true;
      },
      async checkSoon(invId) {
        const order = byInvId(invId);
        const waits = order !== undefined && !order.test && (order.status === "new" || order.status === "held");
        if (waits) checks.set(invId, { checks: 0, nextAt: clock.now() });
        return waits;
      },
      async erase(id) {
        const order = orders.get(id);
        if (order) save({ ...order, description: "", link: undefined });
        return order !== undefined;
      },
      async prune(before) {
        const old = [...orders.values()].filter(
          ({ createdAt, status, description, link }) =>
            createdAt < before && status !== "held" && (description !== "" || link !== undefined),
        );
        for (const order of old) save({ ...order, description: "", link: undefined });
        return old.length;
      },
    },
    refunds: {
      begin: ({ id, invId, amount }) =>
        inTurn(async () => {
          const known = refunds.get(id);
          const isRetry = known?.state === "refused" && known.invId === invId;
          if (known && !isRetry) return { state: "known", refund: known };
          const order = byInvId(invId);
          if (!order) return { state: "unknown" };
          if (order.status !== "paid") return { state: "not_paid" };
          const left = toMinor(payable(order)) - toMinor(order.refunded);
          if (toMinor(amount) > left) return { state: "exceeds" };
          const refund: Refund = { id, invId, amount, state: "asking", requestId: undefined, createdAt: clock.now() };
          refunds.set(id, refund);
          count(invId);
          return { state: "begun", refund };
        }),
      settle: (id, { state, requestId }) =>
        inTurn(async () => {
          const refund = refunds.get(id);
          if (!refund) return undefined;
          const settled: Refund = { ...refund, state, requestId: requestId ?? refund.requestId };
          refunds.set(id, settled);
          count(refund.invId);
          return settled;
        }),
      async get(id) {
        return refunds.get(id);
      },
      async open(limit, only, after) {
        const isEarlier = (
          left: Pick<Refund, "id" | "createdAt">,
          right: Pick<Refund, "id" | "createdAt">,
        ): boolean => {
          const apartMs = left.createdAt.getTime() - right.createdAt.getTime();
          return apartMs < 0 || (apartMs === 0 && left.id < right.id);
        };
        return [...refunds.values()]
          .filter(({ state }) => (only ? state === only : state === "asking" || state === "processing"))
          .filter((refund) => after === undefined || isEarlier(after, refund))
          .sort((left, right) => (isEarlier(left, right) ? -1 : 1))
          .slice(0, limit);
      },
    },
    callbacks: {
      async record(entry) {
        callbacks.push(entry);
        if (!isUnproven(entry)) return;
        let surplus = callbacks.filter(isUnproven).length - maxRefusedCallbacks;
        if (surplus > 0) callbacks = callbacks.filter((other) => !isUnproven(other) || surplus-- <= 0);
      },
      async list({ invId, limit }) {
        const matching = invId === undefined ? callbacks : callbacks.filter((entry) => entry.invId === invId);
        return matching.slice(-limit).reverse();
      },
      async prune(before) {
        const kept = callbacks.filter(({ at }) => at >= before);
        const dropped = callbacks.length - kept.length;
        callbacks = kept;
        return dropped;
      },
    },
    async ping() {},
  };
}
