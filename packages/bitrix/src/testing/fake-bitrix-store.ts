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

/** Orders and payments of the store, products and prices. "Online store", "Catalog", apidocs.bitrix24.ru (read 2026-08) */
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
  const products = new Map<number, Row>();
  const prices = new Map<number, Row>();
  const priceTypes = [
    { id: 1, name: "BASE", base: "Y", sort: 100, xmlId: "BASE" },
    { id: 2, name: "Опт", base: "N", sort: 200, xmlId: "" },
  ];

  function saveOrder(row: Row, fields: Values, by?: Caller): void {
    Object.assign(row, fields, { version: Number(row.version ?? 0) + 1, dateUpdate: clock.now().toISOString() });
    raise("ONSALEORDERSAVED", { FIELDS: { ID: row.id, XML_ID: row.xmlId ?? "", ACTION: "save" } }, by);
  }
  function find(rows: ReadonlyMap<number, Row>, id: unknown, code: unknown, text: string): Row {
    const row = rows.get(Number(id));
    if (!row) throw new Refused(400, code, text);
    return row;
  }
  const findOrder = (id: unknown): Row => find(orders, id, 200540400001, "order is not exists");
  const findPayment = (id: unknown): Row => find(payments, id, 200640400001, "payment is not exists");
  const findProduct = (id: unknown): Row => find(products, id, 0, "product does not exist.");
  const findPrice = (id: unknown): Row => find(prices, id, 0, "Price is not exists");

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
    "sale.payment.update": ({ id, fields }, by) => {
      const row = findPayment(id);
      const values = (fields ?? {}) as Values;
      if (values.paySystemId === undefined) throw new Refused(400, 0, "Required fields: paySystemId");
      write("sale.payment.update", row.id, values);
      Object.assign(row, values, values.paid === "Y" ? { datePaid: clock.now().toISOString() } : {});
      settle(row.orderId, by);
      return { result: { payment: { ...row } } };
    },
    "catalog.product.list": (parameters) => {
      const select = Object.values((parameters.select ?? {}) as Values);
      const filter = (parameters.filter ?? {}) as Values;
      if (!select.includes("id") || !select.includes("iblockId")) {
        throw new Refused(400, 0, "Required select fields: id, iblockId");
      }
      if (filter.iblockId === undefined) throw new Refused(400, 0, "Required filter fields: iblockId");
      return page(products.values(), parameters, { idName: "id", wrap: (rows) => ({ products: rows }) });
    },
    "catalog.product.get": ({ id }) => ({ result: { product: { ...findProduct(id) } } }),
    "catalog.product.update": ({ id, fields }, by) => {
      const row = findProduct(id);
      write("catalog.product.update", row.id, (fields ?? {}) as Values);
      Object.assign(row, fields, { timestampX: clock.now().toISOString() });
      raise("CATALOG.PRODUCT.ON.UPDATE", { FIELDS: { ID: row.id, TYPE: row.type ?? 1 } }, by);
      return { result: { element: { ...row } } };
    },
    "catalog.pricetype.list": (parameters) =>
      page(priceTypes.values(), parameters, { idName: "id", wrap: (rows) => ({ priceTypes: rows }) }),
    "catalog.price.list": (parameters) =>
      page(prices.values(), parameters, { idName: "id", wrap: (rows) => ({ prices: rows }) }),
    "catalog.price.add": ({ fields }, by) => {
      const row: Row = { quantityFrom: null, quantityTo: null, ...(fields as Values), id: nextId() };
      prices.set(row.id as number, row);
      write("catalog.price.add", row.id, fields as Values);
      raise("CATALOG.PRICE.ON.ADD", { FIELDS: { ID: row.id } }, by);
      return { result: { price: { ...row } } };
    },
    "catalog.price.update": ({ id, fields }, by) => {
      const row = findPrice(id);
      const { price, currency } = (fields ?? {}) as Values;
      if (price === undefined || currency === undefined) throw new Refused(400, 0, "Required fields: price, currency");
      write("catalog.price.update", row.id, fields as Values);
      Object.assign(row, { price, currency });
      raise("CATALOG.PRICE.ON.UPDATE", { FIELDS: { ID: row.id } }, by);
      return { result: { price: { ...row } } };
    },
    // Replaces the whole set: what is not listed is deleted.
    "catalog.price.modify": ({ fields }, by) => {
      const { id, prices: wanted = {} } = ((fields as Values | undefined)?.product ?? {}) as Values;
      const product = findProduct(id);
      const given = Object.values(wanted as Values) as Values[];
      if (new Set(given.map(({ catalogGroupId }) => String(catalogGroupId))).size < given.length) {
        throw new Refused(400, 0, "Duplicate catalogGroupId");
      }
      write("catalog.price.modify", product.id, fields as Values);
      const kept = new Set(given.map((price) => Number(price.id ?? 0)));
      for (const [key, row] of prices) {
        if (row.productId !== product.id || kept.has(key)) continue;
        prices.delete(key);
        raise("CATALOG.PRICE.ON.DELETE", { FIELDS: { ID: key } }, by);
      }
      for (const price of given) {
        const row = prices.get(Number(price.id ?? 0));
        if (row) Object.assign(row, price);
        else {
          const added = { ...price, productId: product.id, id: nextId() };
          prices.set(added.id, added);
        }
      }
      return { result: { prices: [...prices.values()].filter(({ productId }) => productId === product.id) } };
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
    addProduct(product: Values & { readonly id: number; readonly iblockId: number }): void {
      products.set(product.id, { active: "Y", ...product });
    },
    addPrice(price: Values & { readonly id: number; readonly productId: number }): void {
      prices.set(price.id, { catalogGroupId: 1, currency: "KZT", quantityFrom: null, quantityTo: null, ...price });
    },
    get prices(): readonly Values[] {
      return [...prices.values()];
    },
  };
}
