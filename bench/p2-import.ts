import { systemClock } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { fetchFrom } from "@orderbridge/core/testing";
import { createKaspiAmocrmSync } from "@orderbridge/kaspi-amocrm";
import { createAmocrm } from "@orderbridge/kaspi-amocrm/amocrm";
import { createKaspi } from "@orderbridge/kaspi-amocrm/kaspi";
import { createKaspiAmocrmMemoryStorage } from "@orderbridge/kaspi-amocrm/memory";
import { createFakeAmocrm, createFakeKaspi, fakeAccount } from "@orderbridge/kaspi-amocrm/testing";
import type { BenchResult } from "./harness.ts";

const orders = 50;

interface Run {
  readonly calls: number;
  readonly seconds: number;
  readonly leads: number;
  readonly links: number;
}

/** Imports 50 orders with 75 lines into an account of 500 elements and 2 000 contacts, cold and then warm. */
async function run(contactLookup: "index" | "query"): Promise<{ readonly cold: Run; readonly warm: Run }> {
  const kaspi = createFakeKaspi();
  const amocrm = createFakeAmocrm();
  for (let index = 0; index < 500; index++) amocrm.addElement({ name: `Old ${index}`, sku: `OLD-${index}` });
  // So many that the contact index takes one page, as in the reference's own count.
  for (let index = 0; index < 200; index++) amocrm.addContact({ name: `Old ${index}`, phones: [`+7702${index}00000`] });
  const sync = createKaspiAmocrmSync({
    kaspi: createKaspi({ token: "kaspi-token", ratePerSecond: 50, fetch: fetchFrom(kaspi.handle) }),
    amocrm: createAmocrm({ host: fakeAccount.host, token: "amo-token", fetch: fetchFrom(amocrm.handle) }),
    storage: { ...createMemoryStorage({ clock: systemClock }), ...createKaspiAmocrmMemoryStorage() },
    pipelineId: String(fakeAccount.pipelineId),
    statusId: String(fakeAccount.stageIds.new),
    catalogId: String(fakeAccount.catalogId),
    orderCodeFieldId: String(fakeAccount.orderCodeFieldId),
    contactLookup,
  });
  let leadsBefore = 0;
  async function importFifty(first: number): Promise<Run> {
    for (let index = 0; index < orders; index++) {
      kaspi.addOrder({
        code: String(first + index),
        cellPhone: String(7_010_000_000 + index),
        entries: [
          { sku: `NEW-${index}`, basePrice: 100 },
          ...(index % 2 === 0 ? [{ sku: `NEW-${50 + (index % 10)}`, basePrice: 1 }] : []),
        ],
      });
    }
    const callsBefore = amocrm.journal.entries.length;
    const startedAt = performance.now();
    await sync.importNew();
    const made = amocrm.leads.slice(leadsBefore);
    leadsBefore = amocrm.leads.length;
    return {
      calls: amocrm.journal.entries.length - callsBefore,
      seconds: (performance.now() - startedAt) / 1000,
      leads: made.length,
      links: made.reduce((sum, { id }) => sum + amocrm.linksOf(id).size, 0),
    };
  }
  return { cold: await importFifty(700_000_000), warm: await importFifty(700_001_000) };
}

export async function benchImport(): Promise<BenchResult> {
  const byIndex = await run("index");
  const byQuery = await run("query");
  const rows = [
    { name: "warm", run: byIndex.warm, most: 4 },
    { name: "cold, contact index", run: byIndex.cold, most: 9 },
    { name: "cold, a search per phone", run: byQuery.cold, most: 58 },
  ];
  return {
    id: "P2",
    title: "Import of 50 orders with 75 lines: calls to amoCRM, counted at the fake, at 7 calls a second",
    table: [
      ["", "calls", "leads", "linked lines", "seconds"],
      ...rows.map(({ name, run: { calls, leads, links, seconds } }) => [
        name,
        String(calls),
        String(leads),
        String(links),
        seconds.toFixed(1),
      ]),
    ],
    targets: rows.map(({ name, run: { calls, leads, links }, most }) => ({
      text: `${name}: at most ${most} calls, all ${orders} leads and 75 lines there`,
      met: calls <= most && leads === orders && links === 75,
    })),
  };
}
