import * as v from "valibot";
import {
  createOnce,
  decimalText,
  equalTo,
  holds,
  idText,
  isRefusal,
  optionalText,
  readAnswer,
  settle,
  yes,
} from "./answers.ts";
import type { Bitrix, CallOptions } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import type { ListOptions } from "./list.ts";
import { type Parameters, withFields } from "./parameters.ts";

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
  update(id: string, fields: Parameters, options?: Pick<CallOptions, "signal">): Promise<ShopOrder>;
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<ShopOrder>;
  /** Ids of the order statuses of this portal, or of its delivery statuses: they are unique across both. */
  statuses(kind?: "order" | "delivery"): Promise<readonly string[]>;
  readonly payments: ShopPayments;
}

/** A payment of an order. The order's `paid` follows its payments. */
export interface ShopPayment {
  readonly id: string;
  readonly orderId: string;
  readonly paid: boolean;
  /** Decimal text. */
  readonly sum: string;
  readonly currency: string | undefined;
  readonly paySystemId: string;
  readonly xmlId: string | undefined;
  /** ISO 8601 with offset. */
  readonly datePaid: string | undefined;
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface ShopPayments {
  /** `undefined` when there is no such payment. */
  get(id: string): Promise<ShopPayment | undefined>;
  /** Payments of one order, by id. */
  ofOrder(orderId: string): Promise<readonly ShopPayment[]>;
  /** Adds an unpaid payment once per (order, `xmlId`): looks for it before, and again when the reply was lost. */
  add(payment: {
    readonly orderId: string;
    readonly xmlId: string;
    readonly paySystemId: string;
    readonly fields?: Parameters;
  }): Promise<ShopPayment>;
  /**
   * Marks a payment as paid, or takes it back with `paid` false. The pay system, which every change must name, is the
   * stored one. Nothing is written when it is so already.
   *
   * @throws {InputError} when there is no such payment.
   */
  setPaid(id: string, paid: boolean, fields?: Parameters): Promise<ShopPayment>;
}

const orderSchema = v.looseObject({
  id: idText,
  statusId: v.string(),
  payed: yes,
  canceled: yes,
  xmlId: optionalText,
  version: v.fallback(v.optional(v.number()), undefined),
  dateUpdate: optionalText,
});
/** What a `ShopOrder` is made of: asked for beside what a `select` names. */
const orderFields = Object.keys(orderSchema.entries);
const paymentSchema = v.looseObject({
  id: idText,
  orderId: idText,
  paid: yes,
  sum: decimalText,
  currency: optionalText,
  paySystemId: idText,
  xmlId: optionalText,
  datePaid: optionalText,
});

function toShopOrder(value: unknown, method: string): ShopOrder {
  const { id, statusId, payed, canceled, xmlId, version, dateUpdate } = readAnswer(orderSchema, value, method);
  return {
    id,
    statusId,
    paid: payed,
    canceled,
    xmlId,
    version,
    dateUpdate,
    fields: value as Readonly<Record<string, unknown>>,
  };
}

function toShopPayment(value: unknown, method: string): ShopPayment {
  const { id, orderId, paid, sum, currency, paySystemId, xmlId, datePaid } = readAnswer(paymentSchema, value, method);
  const fields = value as Readonly<Record<string, unknown>>;
  return { id, orderId, paid, sum, currency, paySystemId, xmlId, datePaid, fields };
}

/** "Order not found" of `sale.order`, apidocs.bitrix24.ru (read 2026-08). */
const orderNotFound = "200540400001";
/** "Payment not found" of `sale.payment`. */
const paymentNotFound = "200640400001";

/** Needs the scope `sale` and the rights of an administrator. */
export function createShopOrders(bitrix: Pick<Bitrix, "call" | "list">): ShopOrders {
  async function call(method: string, parameters: Parameters, options: CallOptions = {}): Promise<ShopOrder> {
    const answer = await bitrix.call(method, parameters, options);
    const { order } = readAnswer(v.object({ order: v.unknown() }), answer, method);
    return toShopOrder(order, method);
  }

  return {
    async get(id) {
      try {
        return await call("sale.order.get", { id });
      } catch (error) {
        if (isRefusal(error, [orderNotFound])) return undefined;
        throw error;
      }
    },
    update: (id, fields, options) => call("sale.order.update", { id, fields }, options),
    async *list(parameters = {}, options = {}) {
      for await (const order of bitrix.list("sale.order.list", withFields(parameters, orderFields), options)) {
        yield toShopOrder(order, "sale.order.list");
      }
    },
    async statuses(kind = "order") {
      const type = kind === "order" ? "O" : "D";
      const answer = await bitrix.call("sale.status.list", { filter: { type } });
      const schema = v.object({ statuses: v.array(v.object({ id: v.string(), type: v.string() })) });
      return readAnswer(schema, answer, "sale.status.list")
        .statuses.filter((status) => status.type === type)
        .map(({ id }) => id);
    },
    payments: createShopPayments(bitrix),
  };
}

function createShopPayments(bitrix: Pick<Bitrix, "call" | "list">): ShopPayments {
  async function call(method: string, parameters: Parameters): Promise<ShopPayment> {
    const { payment } = readAnswer(v.object({ payment: v.unknown() }), await bitrix.call(method, parameters), method);
    return toShopPayment(payment, method);
  }

  async function get(id: string): Promise<ShopPayment | undefined> {
    try {
      return await call("sale.payment.get", { id });
    } catch (error) {
      if (isRefusal(error, [paymentNotFound])) return undefined;
      throw error;
    }
  }

  async function find(filter: Parameters): Promise<readonly ShopPayment[]> {
    const payments: ShopPayment[] = [];
    for await (const row of bitrix.list("sale.payment.list", { filter: equalTo(filter) })) {
      // A filter that was ignored would give the payments of all orders.
      if (holds(row, filter)) payments.push(toShopPayment(row, "sale.payment.list"));
    }
    return payments;
  }

  return {
    get,
    ofOrder: (orderId) => find({ orderId }),
    async add({ orderId, xmlId, paySystemId, fields = {} }) {
      if (xmlId === "") throw new InputError("xmlId", "must not be empty: by it the payment is found again");
      return createOnce({
        method: "sale.payment.add",
        match: { orderId, xmlId },
        find: async () => (await find({ orderId, xmlId }))[0],
        create: () => call("sale.payment.add", { fields: { ...fields, orderId, paySystemId, xmlId } }),
      });
    },
    async setPaid(id, paid, fields = {}) {
      const payment = await get(id);
      if (!payment) throw new InputError("id", "is not the id of a payment");
      if (payment.paid === paid) return payment;
      return settle({
        write: () =>
          call("sale.payment.update", {
            id,
            fields: { ...fields, paySystemId: payment.paySystemId, paid: paid ? "Y" : "N" },
          }),
        async look() {
          const now = await get(id);
          return now?.paid === paid ? now : undefined;
        },
      });
    },
  };
}
