import type { Clock } from "@orderbridge/core";
import { type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { page } from "./fake-bitrix-rows.ts";

const statuses = [
  ["N", "O"],
  ["P", "O"],
  ["S", "O"],
  ["D", "O"],
  ["F", "O"],
  ["DN", "D"],
  ["DD", "D"],
  ["DF", "D"],
].map(([id, type], index) => ({ id, type, sort: 100 * (index + 1), notify: "Y", color: "", xmlId: "" }));

/** Orders and payments of the store. "Online store", apidocs.bitrix24.ru (read 2026-08) */
export function createFakeStore({
  clock,
  raise,
  write,
  nextId,
}: {
  readonly clock: Clock;
  readonly raise: (event: string, data: Values, by?: Caller) => void;
  readonly write: (method: string, id: unknown, fields: Values) => void;
  readonly nextId: () => number;
}) {
  const orders = new Map<number, Row>();
  const payments = new Map<number, Row>();

  function saveOrder(row: Row, fields: Values, by?: Caller): void {
    Object.assign(row, fields, { version: Number(row.version ?? 0) + 1, dateUpdate: clock.now().toISOString() });
    raise("ONSALEORDERSAVED", { FIELDS: { ID: row.id, XML_ID: row.xmlId ?? "", ACTION: "save" } }, by);
    raise("ONORDERENTITYSAVED", { FIELDS: { ID: row.id } }, by);
  }
  function find(rows: ReadonlyMap<number, Row>, id: unknown, code: unknown, text: string): Row {
    const row = rows.get(Number(id));
    if (!row) throw new Refused(400, code, text);
    return row;
  }
  const findOrder = (id: unknown): Row => find(orders, id, 200540400001, "order is not exists");
  const findPayment = (id: unknown): Row => find(payments, id, 200640400001, "payment is not exists");

  /** `payed` follows the payments. */
  function settle(orderId: unknown, by?: Caller): void {
    const row = findOrder(orderId);
    const own = [...payments.values()].filter((payment) => payment.orderId === row.id);
    const payed = own.length > 0 && own.every(({ paid }) => paid === "Y") ? "Y" : "N";
    if (payed !== row.payed) saveOrder(row, { payed }, by);
  }

  const methods: Readonly<Record<string, Method>> = {
    "sale.order.get": ({ id }) => ({ result: { order: { ...findOrder(id) } } }),
    "sale.order.list": (parameters) =>
      page(orders.values(), parameters, { idName: "id", wrap: (rows) => ({ orders: rows }) }),
    "sale.order.update": ({ id, fields }, by) => {
      const row = findOrder(id);
      const { payed: _derived, id: _id, ...writable } = (fields ?? {}) as Row;
      write("sale.order.update", row.id, writable);
      saveOrder(row, writable, by);
      return { result: { order: { ...row } } };
    },
    "sale.status.list": ({ filter }) => {
      const type = (filter as Values | undefined)?.type;
      return { result: { statuses: type === undefined ? statuses : statuses.filter((row) => row.type === type) } };
    },
    "sale.payment.get": ({ id }) => ({ result: { payment: { ...findPayment(id) } } }),
    "sale.payment.list": (parameters) =>
      page(payments.values(), parameters, { idName: "id", wrap: (rows) => ({ payments: rows }) }),
    "sale.payment.add": ({ fields }, by) => {
      const values = (fields ?? {}) as Values;
      if (values.orderId === undefined || values.paySystemId === undefined) {
        throw new Refused(400, 0, "Required fields: orderId, paySystemId");
      }
      const order = findOrder(values.orderId);
      const row: Row = {
        paid: "N",
        currency: order.currency ?? "KZT",
        sum: 0,
        ...values,
        orderId: order.id,
        paySystemId: Number(values.paySystemId),
        id: nextId(),
      };
      payments.set(row.id as number, row);
      write("sale.payment.add", row.id, values);
      raise("ONPAYMENTENTITYSAVED", { FIELDS: { ID: row.id } }, by);
      settle(row.orderId, by);
      return { result: { payment: { ...row } } };
    },
    "sale.payment.update": ({ id, fields }, by) => {
      const row = findPayment(id);
      const values = (fields ?? {}) as Values;
      if (values.paySystemId === undefined) throw new Refused(400, 0, "Required fields: paySystemId");
      write("sale.payment.update", row.id, values);
      Object.assign(row, values, values.paid === "Y" ? { datePaid: clock.now().toISOString() } : {});
      raise("ONPAYMENTENTITYSAVED", { FIELDS: { ID: row.id } }, by);
      settle(row.orderId, by);
      return { result: { payment: { ...row } } };
    },
  };

  return {
    methods,
    order: (id: number): Values | undefined => orders.get(id),
    addOrder(order: Values & { readonly id: number }): void {
      orders.set(order.id, { statusId: "N", payed: "N", canceled: "N", version: 0, ...order });
    },
    changeOrder(id: number, fields: Values): void {
      saveOrder(findOrder(id), fields);
    },
    addPayment(payment: Values & { readonly id: number; readonly orderId: number }): void {
      payments.set(payment.id, { paid: "N", paySystemId: 1, currency: "KZT", ...payment });
    },
  };
}
