import * as v from "valibot";
import {
  createOnce,
  decimalText,
  equalTo,
  holds,
  idText,
  isRefusal,
  optionalId,
  optionalText,
  readAnswer,
  settle,
  yes,
} from "./answers.ts";
import type { Bitrix } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import type { ListOptions } from "./list.ts";
import { fromDecimalText, toDecimalText } from "./money.ts";
import type { Parameters } from "./parameters.ts";

/** A simple product of the catalogue. Prices are not part of it. */
export interface CatalogProduct {
  readonly id: string;
  readonly iblockId: string;
  readonly name: string;
  readonly active: boolean;
  /** The id in your own system. */
  readonly xmlId: string | undefined;
  /** 1 simple, 2 set, 3 parent of variations, 4 variation, 5 free variation, 6 empty parent, 7 service. */
  readonly type: number | undefined;
  /** Everything that came. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** One price row: a product has at most one for each type, or several for ranges of quantities. */
export interface CatalogPrice {
  readonly id: string;
  readonly productId: string;
  /** `catalogGroupId`. */
  readonly priceTypeId: string;
  /** Decimal text, e.g. `5000.00`. */
  readonly price: string;
  /** ISO code. */
  readonly currency: string;
  readonly quantityFrom: number | undefined;
  readonly quantityTo: number | undefined;
}

export interface PriceType {
  readonly id: string;
  readonly name: string;
  readonly isBase: boolean;
}

export interface Products {
  /** `undefined` when there is no such product. */
  get(id: string): Promise<CatalogProduct | undefined>;
  /** The first product with this id of your own. */
  find(product: { readonly iblockId: number; readonly xmlId: string }): Promise<CatalogProduct | undefined>;
  /** In the order of the ids. `select` names fields to have besides the usual ones. */
  list(
    options: {
      readonly iblockId: number;
      readonly filter?: Parameters;
      readonly select?: readonly string[];
    } & ListOptions,
  ): AsyncIterableIterator<CatalogProduct>;
  /**
   * Creates a simple product once per (`iblockId`, `xmlId`): looks for it before, and again when the reply was lost. Two
   * processes may still both create: the catalogue has no unique key.
   */
  add(product: {
    readonly iblockId: number;
    readonly xmlId: string;
    readonly name: string;
    readonly fields?: Parameters;
  }): Promise<CatalogProduct>;
  /**
   * Changes fields and gives the product as it is then. `propertyN: [{ value, valueId }, …]` replaces all values of a
   * property: what is not listed with its `valueId` is dropped by Bitrix24.
   *
   * @throws {InputError} when stored values of a property would be dropped and `dropsValues` is not set.
   */
  update(id: string, fields: Parameters, options?: { readonly dropsValues?: boolean }): Promise<CatalogProduct>;
  /** All price rows of a product, by id. */
  prices(productId: string): Promise<readonly CatalogPrice[]>;
  /** The portal's price types. The base one is usually 1, but not always. */
  priceTypes(): Promise<readonly PriceType[]>;
  /**
   * Sets the price of one type; every other row stays as it is. The row is changed or added by itself:
   * `catalog.price.modify` would delete each row that it is not given, also one that was added after we looked. Nothing is
   * written when the price is so already.
   *
   * @throws {InputError} for a price that is not decimal text with at most two decimals, and when the product has prices for
   *   ranges of quantities in this type: which of them is meant?
   */
  setPrice(
    productId: string,
    price: {
      /** `5000.00`. */
      readonly price: string;
      readonly currency: string;
      /** @defaultValue the portal's base type */
      readonly priceTypeId?: string;
    },
  ): Promise<CatalogPrice>;
}

const productSchema = v.looseObject({
  id: idText,
  iblockId: idText,
  name: v.fallback(v.string(), ""),
  active: yes,
  xmlId: optionalText,
  type: v.fallback(v.optional(v.number()), undefined),
});
const quantity = v.fallback(
  v.pipe(
    v.nullish(v.number()),
    v.transform((value) => value ?? undefined),
  ),
  undefined,
);
const priceSchema = v.pipe(
  v.object({
    id: idText,
    productId: idText,
    catalogGroupId: idText,
    price: decimalText,
    currency: v.string(),
    quantityFrom: quantity,
    quantityTo: quantity,
  }),
  v.transform(
    ({ id, productId, catalogGroupId, price, currency, quantityFrom, quantityTo }): CatalogPrice => ({
      id,
      productId,
      priceTypeId: catalogGroupId,
      price,
      currency,
      quantityFrom,
      quantityTo,
    }),
  ),
);
const priceTypeSchema = v.object({ id: idText, name: v.fallback(v.string(), ""), base: yes });

/** `catalog.product.get` has no number for "product does not exist." only; missing rights and a missing block have one. */
const productNotFound = ["", "0"];

/** Of `catalog.price.add` for a type that the product has already, among others. */
const genericRefusal = "0";

/** Needed by `catalog.product.list`: the first two it insists on. */
const usualFields = ["id", "iblockId", "name", "active", "xmlId", "type"];

function toProduct(value: unknown, method: string): CatalogProduct {
  const { id, iblockId, name, active, xmlId, type } = readAnswer(productSchema, value, method);
  return { id, iblockId, name, active, xmlId, type, fields: value as Readonly<Record<string, unknown>> };
}

/** Ids of the stored values of a property, single or multiple. */
const valueIds = (property: unknown): readonly string[] =>
  [property]
    .flat()
    .map((row) => readValueId(row))
    .filter((id) => id !== undefined);
function readValueId(row: unknown): string | undefined {
  const parsed = v.safeParse(v.object({ valueId: optionalId }), row);
  return parsed.success ? parsed.output.valueId : undefined;
}

/**
 * Products and prices by `catalog.product` and `catalog.price`; the scope is `catalog`, and changes need an administrator.
 *
 * @see apidocs.bitrix24.ru, "Catalog", "Prices" (read 2026-11)
 */
export function createProducts(bitrix: Pick<Bitrix, "call" | "list">): Products {
  async function get(id: string): Promise<CatalogProduct | undefined> {
    try {
      const answer = await bitrix.call("catalog.product.get", { id });
      const { product } = readAnswer(v.object({ product: v.unknown() }), answer, "catalog.product.get");
      return toProduct(product, "catalog.product.get");
    } catch (error) {
      if (isRefusal(error, productNotFound)) return undefined;
      throw error;
    }
  }

  async function find(wanted: {
    readonly iblockId: number;
    readonly xmlId: string;
  }): Promise<CatalogProduct | undefined> {
    const { products } = readAnswer(
      v.object({ products: v.array(v.unknown()) }),
      await bitrix.call("catalog.product.list", {
        select: usualFields,
        filter: { iblockId: wanted.iblockId, ...equalTo({ xmlId: wanted.xmlId }) },
        order: { id: "ASC" },
      }),
      "catalog.product.list",
    );
    return products
      .map((row) => toProduct(row, "catalog.product.list"))
      .find(({ fields }) => holds(fields, { iblockId: wanted.iblockId, xmlId: wanted.xmlId }));
  }

  async function prices(productId: string): Promise<readonly CatalogPrice[]> {
    const rows: CatalogPrice[] = [];
    for await (const row of bitrix.list("catalog.price.list", { filter: { productId } }, { parallel: 1 })) {
      const price = readAnswer(priceSchema, row, "catalog.price.list");
      // A filter that was ignored would give the prices of all products.
      if (price.productId === productId) rows.push(price);
    }
    return rows;
  }

  async function priceTypes(): Promise<readonly PriceType[]> {
    const types: PriceType[] = [];
    for await (const row of bitrix.list("catalog.priceType.list", {}, { parallel: 1 })) {
      const { id, name, base } = readAnswer(priceTypeSchema, row, "catalog.priceType.list");
      types.push({ id, name, isBase: base });
    }
    return types;
  }

  async function baseType(): Promise<string> {
    const base = (await priceTypes()).find(({ isBase }) => isBase);
    if (!base) throw new InputError("priceTypeId", "must be given: the portal names no base price type");
    return base.id;
  }

  /** The row of this type, which must not be split by quantities. */
  async function findPrice(productId: string, priceTypeId: string): Promise<CatalogPrice | undefined> {
    const rows = (await prices(productId)).filter((row) => row.priceTypeId === priceTypeId);
    if (rows.some(({ quantityFrom, quantityTo }) => quantityFrom !== undefined || quantityTo !== undefined)) {
      throw new InputError(
        "priceTypeId",
        "has prices for ranges of quantities on this product; change them by their ids",
      );
    }
    return rows[0];
  }

  return {
    get,
    find,
    async *list({ iblockId, filter = {}, select = [], ...options }) {
      const parameters = { filter: { ...filter, iblockId }, select: [...new Set([...usualFields, ...select])] };
      for await (const row of bitrix.list("catalog.product.list", parameters, options)) {
        yield toProduct(row, "catalog.product.list");
      }
    },
    async add({ iblockId, xmlId, name, fields = {} }) {
      if (xmlId === "") throw new InputError("xmlId", "must not be empty: by it the product is found again");
      return createOnce({
        method: "catalog.product.add",
        match: { xmlId },
        find: () => find({ iblockId, xmlId }),
        async create() {
          const answer = await bitrix.call("catalog.product.add", { fields: { ...fields, name, iblockId, xmlId } });
          const { element } = readAnswer(v.object({ element: v.unknown() }), answer, "catalog.product.add");
          return toProduct(element, "catalog.product.add");
        },
      });
    },
    async update(id, fields, { dropsValues = false } = {}) {
      const properties = Object.entries(fields).filter(([name]) => /^property\d+$/.test(name));
      if (properties.length > 0 && !dropsValues) {
        const stored = await get(id);
        if (!stored) throw new InputError("id", "is not the id of a product");
        for (const [name, value] of properties) {
          const kept = new Set(valueIds(value));
          const dropped = valueIds(stored.fields[name]).filter((valueId) => !kept.has(valueId));
          if (dropped.length > 0) {
            throw new InputError(
              name,
              `would drop the stored values ${dropped.join(", ")}; list them, or set dropsValues`,
            );
          }
        }
      }
      const answer = await bitrix.call("catalog.product.update", { id, fields });
      const { element } = readAnswer(v.object({ element: v.unknown() }), answer, "catalog.product.update");
      return toProduct(element, "catalog.product.update");
    },
    prices,
    priceTypes,
    async setPrice(productId, { price, currency, priceTypeId }) {
      const minor = fromDecimalText(price);
      if (minor === undefined) throw new InputError("price", 'must be text with at most two decimals, e.g. "5000.00"');
      if (!/^[A-Z]{3}$/.test(currency)) throw new InputError("currency", "must be an ISO code such as KZT");
      const typeId = priceTypeId ?? (await baseType());
      const text = toDecimalText(minor);
      const isSet = (row: CatalogPrice) => row.price === text && row.currency === currency;
      // At most 15 digits, which a JSON number carries exactly.
      const values = { price: Number(text), currency };

      function write(row: CatalogPrice | undefined): Promise<CatalogPrice> {
        const method = row ? "catalog.price.update" : "catalog.price.add";
        const parameters: Parameters = row
          ? { id: row.id, fields: values }
          : { fields: { productId, catalogGroupId: typeId, ...values } };
        return settle({
          write: async () =>
            readAnswer(v.object({ price: priceSchema }), await bitrix.call(method, parameters), method).price,
          async look() {
            const found = await findPrice(productId, typeId);
            return found && isSet(found) ? found : undefined;
          },
        });
      }

      const row = await findPrice(productId, typeId);
      if (row && isSet(row)) return row;
      try {
        return await write(row);
      } catch (error) {
        // Refused since somebody else added the first price of this type meanwhile?
        if (row || !isRefusal(error, [genericRefusal])) throw error;
        const added = await findPrice(productId, typeId);
        if (!added) throw error;
        return isSet(added) ? added : write(added);
      }
    },
  };
}
