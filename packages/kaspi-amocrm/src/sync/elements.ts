import type { Amocrm } from "../amocrm/client.ts";
import type { ElementIndex } from "../ledger.ts";
import { formatMinor } from "../money.ts";
import { createBatchSize, type SureResult, writeSurely } from "./bulk.ts";
import type { OrderLine } from "./summary.ts";

export interface ElementFinder {
  /**
   * The catalog element of each SKU, created where there is none. After an interrupted attempt the whole list is read,
   * since the search may not know yet what that attempt created.
   */
  ensure(
    lines: readonly OrderLine[],
    options: { readonly wasInterrupted: boolean; readonly beforeWrite: () => void },
  ): Promise<SureResult>;
  /** After an element was refused: it may have been deleted. */
  forget(elementIds: readonly string[]): Promise<void>;
}

const pageSize = 250;

export function createElementFinder({
  amocrm,
  index,
  catalogId,
}: {
  readonly amocrm: Amocrm;
  readonly index: ElementIndex;
  readonly catalogId: string;
}): ElementFinder {
  const batchSize = createBatchSize(100); // elements are small; 250 is the vendor's limit
  /** Pages of the list when it was last read: up to there searching one by one is cheaper. */
  let pages = 3;

  async function readList(): Promise<void> {
    const elements: { sku: string; elementId: string }[] = [];
    const seen = new Set<string>();
    let count = 0;
    for await (const { id, sku } of amocrm.catalogs.elements(catalogId)) {
      count++;
      if (sku === undefined || seen.has(sku)) continue; // the first of twins, always the same one
      seen.add(sku);
      elements.push({ sku, elementId: id });
    }
    pages = Math.max(1, Math.ceil(count / pageSize));
    await index.add(catalogId, elements);
  }

  async function search(skus: readonly string[]): Promise<void> {
    for (const sku of skus) {
      const element = await amocrm.catalogs.findBySku(catalogId, sku);
      if (element) await index.add(catalogId, [{ sku, elementId: element.id }]);
    }
  }

  return {
    async ensure(lines, { wasInterrupted, beforeWrite }) {
      const wanted = new Map(lines.flatMap((line) => (line.sku === undefined ? [] : [[line.sku, line] as const])));
      const skus = [...wanted.keys()];
      const ids = new Map(await index.find(catalogId, skus));
      const unknown = () => skus.filter((sku) => !ids.has(sku));
      if (unknown().length > 0) {
        if (wasInterrupted || unknown().length >= pages) await readList();
        else await search(unknown());
        for (const [sku, id] of await index.find(catalogId, unknown())) ids.set(sku, id);
      }
      const result = await writeSurely({
        items: unknown(),
        keyOf: (sku) => sku,
        batchSize,
        beforeWrite,
        async send(batch) {
          const answer = await amocrm.catalogs.createElements(
            catalogId,
            batch.map((sku) => {
              const line = wanted.get(sku) as OrderLine;
              const price = line.priceMinor === undefined ? {} : { price: formatMinor(line.priceMinor) };
              return { requestId: sku, sku, name: line.name, ...price };
            }),
          );
          await index.add(
            catalogId,
            [...answer.written].map(([sku, elementId]) => ({ sku, elementId })),
          );
          return answer;
        },
        async find(batch) {
          await readList();
          return index.find(catalogId, batch);
        },
      });
      return { ...result, ids: new Map([...ids, ...result.ids]) };
    },
    forget: (elementIds) => index.forget(catalogId, elementIds),
  };
}
