import { type Clock, ConfigError, systemClock } from "@orderbridge/core";
import { InputError } from "./errors.ts";
import { bitrixOrderStatuses } from "./order-statuses.ts";
import type { BitrixStorage, BitrixStores, Order, OrderChange } from "./storage.ts";

/** Work topic of an order that changed here. Keys are order ids. */
export const orderTopic = "order";

export interface OrdersOptions {
  readonly storage: BitrixStorage;
  /** Statuses that an order may have; the first one is that of a new order. @defaultValue those of `bitrixOrderStatuses` */
  readonly statuses?: readonly string[];
  readonly clock?: Clock;
}

export interface NewOrder {
  /** Decimal text, e.g. `1000.00`. */
  readonly total: string;
  readonly bitrixOrderId?: string | undefined;
  readonly dealId?: string | undefined;
  readonly status?: string | undefined;
}

/** Orders of this backend with their history. Every change makes the order due for the status sync, in one transaction. */
export interface Orders {
  /** @throws {InputError} names the field. */
  create(order: NewOrder): Promise<Order>;
  /** `undefined` for an unknown id. */
  get(id: string): Promise<Order | undefined>;
  /** The newest first. */
  list(options: { readonly limit: number }): Promise<readonly Order[]>;
  /** The oldest change first; `undefined` for an unknown id. */
  history(id: string): Promise<readonly OrderChange[] | undefined>;
  /**
   * Changes the status, the payment or both. What is so already is not stored again. `undefined` for an unknown id.
   * @throws {InputError} for a status that is not one of ours.
   */
  change(id: string, change: OrderValues, options: { readonly changedBy: string }): Promise<Order | undefined>;
}

export interface OrderValues {
  readonly status?: string | undefined;
  readonly paid?: boolean | undefined;
}

/** @throws {ConfigError} for an empty list of statuses. */
export function createOrders(options: OrdersOptions): Orders {
  const { storage, statuses = bitrixOrderStatuses.statuses, clock = systemClock } = options;
  const firstStatus = statuses[0];
  if (firstStatus === undefined) throw new ConfigError("statuses must name at least one");

  function checkStatus(status: string | undefined): void {
    if (status !== undefined && !statuses.includes(status)) {
      throw new InputError("status", `must be one of ${statuses.join(", ")}`);
    }
  }

  return {
    async create({ total, bitrixOrderId, dealId, status = firstStatus }) {
      checkStatus(status);
      const now = clock.now();
      const order: Order = {
        id: crypto.randomUUID(),
        bitrixOrderId: readId("bitrix_order_id", bitrixOrderId),
        dealId: readId("deal_id", dealId),
        total: readAmount("total", total),
        status,
        statusChangedAt: now,
        paidAt: undefined,
        paidBy: undefined,
        siteVersion: undefined,
        siteChangedAt: undefined,
        version: 1,
        createdAt: now,
      };
      const inserted = await storage.transaction(async (stores) => {
        if (!(await stores.orders.insert(order))) return false;
        await stores.work.mark(orderTopic, order.id);
        return true;
      });
      if (inserted) return order;
      const holder = bitrixOrderId === undefined ? undefined : await storage.orders.getByBitrixOrderId(bitrixOrderId);
      throw new InputError(holder ? "bitrix_order_id" : "deal_id", "belongs to another order already");
    },
    get: (id) => storage.orders.get(id),
    list: ({ limit }) => storage.orders.list({ limit }),
    async history(id) {
      return (await storage.orders.get(id)) && (await storage.orders.history(id));
    },
    async change(id, values, { changedBy }) {
      checkStatus(values.status);
      const result = await updateOrder(
        storage,
        (stores) => stores.orders.get(id),
        (order) => changeOrder(order, values, { changedBy, at: clock.now() }),
      );
      return result?.order;
    },
  };
}

export interface ChangedOrder {
  readonly order: Order;
  readonly changes: readonly OrderChange[];
}

/** The order as it is after the change, `version` not yet counted; the same object when nothing differs. */
export function changeOrder(
  order: Order,
  { status = order.status, paid }: OrderValues,
  { changedBy, at }: { readonly changedBy: string; readonly at: Date },
): ChangedOrder {
  const changes: OrderChange[] = [];
  let next = order;
  if (status !== order.status) {
    next = { ...next, status, statusChangedAt: at };
    changes.push({ field: "status", from: order.status, to: status, changedBy, changedAt: at });
  }
  const wasPaid = order.paidAt !== undefined;
  if (paid !== undefined && paid !== wasPaid) {
    next = { ...next, paidAt: paid ? at : undefined, paidBy: paid ? changedBy : undefined };
    changes.push({
      field: "paid",
      from: wasPaid ? "paid" : "unpaid",
      to: paid ? "paid" : "unpaid",
      changedBy,
      changedAt: at,
    });
  }
  return { order: next, changes };
}

const maxTurns = 20;

/** A payment is looked at before all that waits, a backlog after an outage included. */
const beforeOthers = { delayMs: -86_400_000 };

/**
 * Reads an order, changes it and stores it with its history, again from the start when somebody else was quicker. Marks it
 * for the status sync when its status or payment changed, unless the sync itself writes. `undefined` when there is no
 * such order.
 */
export async function updateOrder<Result extends ChangedOrder>(
  storage: BitrixStorage,
  find: (stores: BitrixStores) => Promise<Order | undefined>,
  change: (order: Order) => Result,
  { mark = true }: { readonly mark?: boolean } = {},
): Promise<(Result & { readonly before: Order }) | undefined> {
  for (let turn = 0; turn < maxTurns; turn++) {
    const outcome = await storage.transaction(async (stores) => {
      const before = await find(stores);
      if (!before) return { done: true } as const;
      const result = change(before);
      if (result.order === before) return { done: true, result: { ...result, before } } as const;
      const order: Order = { ...result.order, version: before.version + 1 };
      if (!(await stores.orders.replace(order, result.changes))) return { done: false } as const;
      if (mark && result.changes.length > 0) {
        const isPayment = result.changes.some(({ field }) => field === "paid");
        await stores.work.mark(orderTopic, order.id, isPayment ? beforeOthers : {});
      }
      return { done: true, result: { ...result, order, before } } as const;
    });
    if (outcome.done) return outcome.result;
  }
  throw new Error("bitrix: an order was changed by others at every attempt");
}

/** A vendor's id as text; `undefined` stays. @throws {InputError} */
function readId(field: string, value: string | undefined): string | undefined {
  if (value !== undefined && !/^[1-9]\d{0,18}$/.test(value)) {
    throw new InputError(field, "must be a positive whole number");
  }
  return value;
}

/** Decimal text with exactly two decimals. @throws {InputError} */
function readAmount(field: string, value: unknown): string {
  const parts = typeof value === "string" ? /^(0|[1-9]\d{0,12})(?:\.(\d{1,2}))?$/.exec(value) : null;
  if (!parts) throw new InputError(field, 'must be text with at most two decimals, e.g. "1000.00"');
  return `${parts[1]}.${(parts[2] ?? "").padEnd(2, "0")}`;
}
