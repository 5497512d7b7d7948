import type * as v from "valibot";
import { readFields } from "./fields.ts";
import { catalogSchema, elementSchema } from "./schemas.ts";
import { type AmocrmTransport, all, type BulkResult } from "./transport.ts";

interface Catalog {
  readonly id: string;
  readonly name: string;
  /** `products` has the fields SKU and PRICE; also `regular`, `invoices`, … */
  readonly type: string;
  readonly canLinkMultiple: boolean | undefined;
}

export interface CatalogElement {
  readonly id: string;
  readonly name: string;
  readonly sku: string | undefined;
}

export interface NewElement {
  readonly requestId: string;
  readonly name: string;
  readonly sku?: string;
  /** Decimal text in major units. */
  readonly price?: string;
}

export interface AmocrmCatalogs {
  list(): Promise<readonly Catalog[]>;
  elements(catalogId: string, options?: { readonly query?: string }): AsyncIterable<CatalogElement>;
  findBySku(catalogId: string, sku: string): Promise<CatalogElement | undefined>;
  /** `undefined` for a missing one. */
  element(catalogId: string, id: string): Promise<CatalogElement | undefined>;
  /** Renames elements. Keys of the result are element ids. */
  renameElements(
    catalogId: string,
    changes: readonly { readonly id: string; readonly name: string }[],
  ): Promise<BulkResult>;
  createElements(catalogId: string, elements: readonly NewElement[]): Promise<BulkResult>;
}

export function createCatalogs({ request, items, write }: AmocrmTransport): AmocrmCatalogs {
  return {
    async list() {
      const found = await all(items("catalogs.list", "/catalogs", "catalogs", catalogSchema));
      return found.map(({ id, name, type, can_link_multiple }) => ({
        id,
        name: name ?? "",
        type: type ?? "",
        canLinkMultiple: can_link_multiple ?? undefined,
      }));
    },
    async *elements(catalogId, options) {
      const path = `/catalogs/${catalogId}/elements`;
      for await (const element of items("elements.list", path, "elements", elementSchema, options)) {
        yield readElement(element);
      }
    },
    async findBySku(catalogId, sku) {
      const path = `/catalogs/${catalogId}/elements`;
      const exact: CatalogElement[] = [];
      for await (const element of items("elements.search", path, "elements", elementSchema, { query: sku })) {
        const read = readElement(element);
        if (read.sku === sku) exact.push(read);
      }
      return exact.sort((left, right) => Number(left.id) - Number(right.id))[0];
    },
    async element(catalogId, id) {
      const path = `/catalogs/${catalogId}/elements/${id}`;
      const element = await request({ name: "elements.get", path, schema: elementSchema });
      return element && readElement(element);
    },
    renameElements: (catalogId, changes) =>
      write(
        { name: "elements.update", method: "PATCH", path: `/catalogs/${catalogId}/elements`, plural: "elements" },
        changes,
        { keyOf: ({ id }) => id, toWire: ({ id, name }) => ({ id: Number(id), name }), answerKey: "id" },
      ),
    createElements: (catalogId, elements) =>
      write(
        { name: "elements.create", method: "POST", path: `/catalogs/${catalogId}/elements`, plural: "elements" },
        elements,
        {
          keyOf: (element) => element.requestId,
          toWire: ({ requestId, name, sku, price }) => ({
            name,
            request_id: requestId,
            custom_fields_values: [
              ...(sku === undefined ? [] : [{ field_code: "SKU", values: [{ value: sku }] }]),
              ...(price === undefined ? [] : [{ field_code: "PRICE", values: [{ value: price }] }]),
            ],
          }),
          answerKey: "request_id",
        },
      ),
  };
}

function readElement(element: v.InferOutput<typeof elementSchema>): CatalogElement {
  const sku = readFields(element.custom_fields_values).find((field) => field.fieldCode === "SKU")?.values[0];
  return { id: element.id, name: element.name ?? "", sku };
}
