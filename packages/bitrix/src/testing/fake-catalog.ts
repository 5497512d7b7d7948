import type { Clock } from "@orderbridge/core";
import { type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { page } from "./fake-bitrix-rows.ts";

/**
 * Products and prices: fields that are insisted on, codes, texts and keys of the answers (`product`, `products`, `element`,
 * `price`, `prices`, `priceTypes`) as on the pages of `catalog.product`, `catalog.price` and `catalog.priceType`,
 * apidocs.bitrix24.ru (read 2026-11). Two texts of `catalog.product.update` are not given there.
 */
export function createFakeCatalog({
  clock,
  raise,
  write,
  nextId,
  missingProductCode = "",
}: {
  readonly missingProductCode?: "" | 0 | undefined;
  readonly clock: Clock;
  readonly raise: (event: string, data: Values, by?: Caller) => void;
  readonly write: (method: string, id: unknown, fields: Values) => void;
  readonly nextId: () => number;
}) {
  const products = new Map<number, Row>();
  const prices = new Map<number, Row>();
  const priceTypes: Row[] = [
    { id: 1, name: "BASE", base: "Y", sort: 100, xmlId: "BASE" },
    { id: 2, name: "Опт", base: "N", sort: 200, xmlId: "" },
  ];

  /** @param code "Get product by id" names an empty one, "Change product" 0. */
  function findProduct(id: unknown, code: unknown = missingProductCode): Row {
    if (id === undefined) throw new Refused(400, "100", "Could not find value for parameter {id}");
    const row = products.get(Number(id));
    if (!row) throw new Refused(400, code, "product does not exist.");
    return row;
  }
  function findPrice(id: unknown): Row {
    if (id === undefined) throw new Refused(400, "100", "Could not find value for parameter {id}");
    const row = prices.get(Number(id));
    if (!row) throw new Refused(400, "", "Price does not exist");
    return row;
  }
  /** `fields` that are missing or empty have a code of their own. */
  function required(fields: unknown, names: readonly string[]): Values {
    if (typeof fields !== "object" || fields === null || Object.keys(fields).length === 0) {
      throw new Refused(400, "100", "Could not find value for parameter {fields}");
    }
    const missing = names.filter((name) => (fields as Values)[name] === undefined);
    if (missing.length > 0) throw new Refused(400, 0, `Required fields: ${missing.join(", ")}`);
    return fields as Values;
  }
  function checkPriceType(id: unknown): void {
    if (priceTypes.some((row) => row.id === Number(id))) return;
    throw new Refused(400, 0, "Validate price error. Catalog price group is wrong");
  }
  const tooManyPrices = (): Refused =>
    new Refused(
      400,
      0,
      "Validate price error. Catalog product is allowed has only single price without ranges in price group",
    );

  /** Values of a property get ids; a value without its id is a new one, and what is not listed by id is dropped. */
  function toStored(name: string, value: unknown, before: unknown): unknown {
    if (!/^property\d+$/.test(name)) return value;
    const known = new Map([before].flat().map((row) => [String((row as Values | undefined)?.valueId ?? ""), row]));
    const store = (row: unknown): Values => {
      const { value: text, valueId } = (typeof row === "object" && row !== null ? row : { value: row }) as Values;
      const id = String(valueId ?? "");
      return { value: text, valueId: id !== "" && known.has(id) ? id : String(nextId()) };
    };
    const given = typeof value === "object" && value !== null && !("value" in value) ? Object.values(value) : value;
    return Array.isArray(given) ? given.map(store) : store(given);
  }

  function save(row: Row, fields: Values): void {
    for (const [name, value] of Object.entries(fields)) {
      if (name !== "id" && name !== "iblockId") row[name] = toStored(name, value, row[name]);
    }
    row.timestampX = clock.now().toISOString();
  }

  function addPriceRow(fields: Values): Row {
    const row: Row = {
      quantityFrom: null,
      quantityTo: null,
      extraId: null,
      ...fields,
      productId: Number(fields.productId),
      catalogGroupId: Number(fields.catalogGroupId),
      price: Number(fields.price),
      id: nextId(),
      timestampX: clock.now().toISOString(),
    };
    prices.set(row.id as number, row);
    return row;
  }
  const pricesOf = (productId: unknown) => [...prices.values()].filter((row) => row.productId === productId);

  const methods: Readonly<Record<string, Method>> = {
    "catalog.product.list": (parameters) => {
      const select = Object.values((parameters.select ?? {}) as Values);
      const filter = (parameters.filter ?? {}) as Values;
      const missing = ["id", "iblockId"].filter((name) => !select.includes(name));
      if (missing.length > 0) throw new Refused(400, 0, `Required select fields: ${missing.join(", ")}`);
      if (filter.iblockId === undefined) throw new Refused(400, 0, "Required filter fields: iblockId");
      return page(products.values(), parameters, { idName: "id", wrap: (rows) => ({ products: rows }) });
    },
    "catalog.product.get": ({ id }) => ({ result: { product: { ...findProduct(id) } } }),
    "catalog.product.add": ({ fields }, by) => {
      const values = required(fields, ["iblockId", "name"]);
      const row: Row = { active: "Y", type: 1, xmlId: null, iblockId: Number(values.iblockId), id: nextId() };
      // Without an external code the portal puts the id.
      save(row, { ...values, xmlId: values.xmlId ?? String(row.id) });
      products.set(row.id as number, row);
      write("catalog.product.add", row.id, values);
      raise("CATALOG.PRODUCT.ON.ADD", { FIELDS: { ID: row.id, TYPE: row.type } }, by);
      return { result: { element: { ...row } } };
    },
    "catalog.product.update": ({ id, fields }, by) => {
      const row = findProduct(id, 0);
      const values = required(fields, []);
      write("catalog.product.update", row.id, values);
      save(row, values);
      raise("CATALOG.PRODUCT.ON.UPDATE", { FIELDS: { ID: row.id, TYPE: row.type ?? 1 } }, by);
      return { result: { element: { ...row } } };
    },
    "catalog.pricetype.list": (parameters) =>
      page(priceTypes, parameters, { idName: "id", wrap: (rows) => ({ priceTypes: rows }) }),
    "catalog.price.list": (parameters) =>
      page(prices.values(), parameters, { idName: "id", wrap: (rows) => ({ prices: rows }) }),
    "catalog.price.add": ({ fields }, by) => {
      const values = required(fields, ["productId", "catalogGroupId", "price", "currency"]);
      const product = findProduct(values.productId, 0);
      checkPriceType(values.catalogGroupId);
      if (pricesOf(product.id).some((row) => row.catalogGroupId === Number(values.catalogGroupId))) {
        throw tooManyPrices();
      }
      const row = addPriceRow(values);
      write("catalog.price.add", row.id, values);
      raise("CATALOG.PRICE.ON.ADD", { FIELDS: { ID: row.id } }, by);
      return { result: { price: { ...row } } };
    },
    "catalog.price.update": ({ id, fields }, by) => {
      const row = findPrice(id);
      const { price, currency } = required(fields, ["price", "currency"]);
      write("catalog.price.update", row.id, fields as Values);
      Object.assign(row, { price: Number(price), currency, timestampX: clock.now().toISOString() });
      raise("CATALOG.PRICE.ON.UPDATE", { FIELDS: { ID: row.id } }, by);
      return { result: { price: { ...row } } };
    },
    // Replaces the whole set: what is not listed is deleted.
    "catalog.price.modify": ({ fields }, by) => {
      const { id, prices: wanted = {} } = (required(fields, ["product"]).product ?? {}) as Values;
      const product = findProduct(id, 0);
      const given = Object.values(wanted as Values) as Values[];
      for (const row of given) {
        required(row, ["catalogGroupId", "price", "currency"]);
        checkPriceType(row.catalogGroupId);
      }
      if (new Set(given.map(({ catalogGroupId }) => String(catalogGroupId))).size < given.length) {
        throw tooManyPrices();
      }
      write("catalog.price.modify", product.id, fields as Values);
      const kept = new Set(given.map((price) => Number(price.id ?? 0)));
      for (const row of pricesOf(product.id)) {
        if (kept.has(row.id as number)) continue;
        prices.delete(row.id as number);
        raise("CATALOG.PRICE.ON.DELETE", { FIELDS: { ID: row.id } }, by);
      }
      for (const price of given) {
        const row = prices.get(Number(price.id ?? 0));
        if (row) Object.assign(row, { price: Number(price.price), currency: price.currency });
        else addPriceRow({ ...price, productId: product.id });
      }
      return { result: { prices: pricesOf(product.id) } };
    },
  };

  return {
    methods,
    product: (id: number): Values | undefined => products.get(id),
    addProduct(product: Values & { readonly id: number; readonly iblockId: number }): void {
      products.set(product.id, { active: "Y", type: 1, xmlId: String(product.id), ...product });
    },
    addPrice(price: Values & { readonly id: number; readonly productId: number }): void {
      prices.set(price.id, { catalogGroupId: 1, currency: "KZT", quantityFrom: null, quantityTo: null, ...price });
    },
    get prices(): readonly Values[] {
      return [...prices.values()];
    },
  };
}
