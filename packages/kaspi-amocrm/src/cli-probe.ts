import { SdkError, systemClock } from "@orderbridge/core";
import type { Amocrm } from "./amocrm/index.ts";
import type { Kaspi, KaspiState } from "./kaspi/index.ts";
import { kaspiErrorKind, kaspiStates } from "./kaspi/index.ts";

/** What was found out about a point on which the documents are silent or disagree. */
export interface Finding {
  readonly question: string;
  /** Counts, yes or no, names of fields: never what is in them. */
  readonly answer: string;
}

const day = 86_400_000;

/**
 * Settles the open points of the vendors' documents for one merchant, by reading only. Nothing of a buyer is in the findings:
 * no name, phone, address, order code or price.
 */
export async function* probeKaspi(kaspi: Kaspi, now = systemClock.now()): AsyncGenerator<Finding> {
  const ask = async (question: string, look: () => Promise<string>): Promise<Finding> => {
    try {
      return { question, answer: await look() };
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome === "not-executed") throw error;
      return { question, answer: `refused (${kaspiErrorKind(error) ?? error.outcome})` };
    }
  };
  const raw = (query: Readonly<Record<string, string>>) => kaspi.orders.raw(new URLSearchParams(query));
  const span = (days: number, back = 0) => ({
    "filter[orders][creationDate][$ge]": String(now.getTime() - (days + back) * day),
    "filter[orders][creationDate][$le]": String(now.getTime() - back * day),
  });
  const page = (size = 100) => ({ "page[number]": "0", "page[size]": String(size) });
  const told = ({ data, meta }: Awaited<ReturnType<Kaspi["orders"]["raw"]>>) =>
    `accepted, ${data.length} rows, total ${meta.totalCount ?? "not told"}`;

  yield await ask("list without a state", async () => told(await raw({ ...page(), ...span(14) })));
  yield await ask("two states joined with a comma", async () =>
    told(await raw({ ...page(), ...span(14), "filter[orders][state]": "NEW,ARCHIVE" })),
  );
  yield await ask("span of exactly 14 days", async () =>
    told(await raw({ ...page(), ...span(14), "filter[orders][state]": "ARCHIVE" })),
  );
  yield await ask("span of 15 days", async () =>
    told(await raw({ ...page(), ...span(15), "filter[orders][state]": "ARCHIVE" })),
  );
  yield await ask("page size 200", async () =>
    told(await raw({ ...page(200), ...span(14), "filter[orders][state]": "ARCHIVE" })),
  );
  for (const value of ["DELIVERY", "DELIVERY_LOCAL"]) {
    yield await ask(`deliveryType ${value}`, async () => {
      const filter = { "filter[orders][state]": "ARCHIVE", "filter[orders][deliveryType]": value };
      return told(await raw({ ...page(), ...span(14), ...filter }));
    });
  }
  for (const back of [60, 180, 360]) {
    yield await ask(`orders of ${back} days ago`, async () =>
      told(await raw({ ...page(), ...span(14, back), "filter[orders][state]": "ARCHIVE" })),
    );
  }
  yield await ask("order of results, lines and open phones in the last 14 days", async () => {
    let rows = 0;
    let withLines = 0;
    let withSku = 0;
    let withPhone = 0;
    let isAscending = true;
    let isDescending = true;
    for (const state of kaspiStates) {
      const found = await firstPage(kaspi, state, now);
      rows += found.length;
      withLines += found.filter(({ entries }) => entries !== undefined).length;
      withSku += found.filter(({ entries }) => entries?.every(({ sku }) => sku !== undefined)).length;
      withPhone += found.filter(({ phone }) => phone !== undefined).length;
      for (const [index, { createdAt }] of found.entries()) {
        const before = found[index - 1]?.createdAt;
        if (!before || !createdAt) continue;
        if (createdAt < before) isAscending = false;
        if (createdAt > before) isDescending = false;
      }
    }
    const sorting = isAscending ? "oldest first" : isDescending ? "newest first" : "none";
    return `order ${sorting}; of ${rows} orders ${withLines} with lines, ${withSku} with every SKU, ${withPhone} with an open phone`;
  });
}

async function firstPage(kaspi: Kaspi, state: KaspiState, now: Date) {
  const query = { createdFrom: new Date(now.getTime() - 14 * day + 1), createdTo: now, state };
  for await (const { orders } of kaspi.orders.pages(query)) return orders;
  return [];
}

/** The same for an amoCRM account. */
export async function* probeAmocrm(
  amocrm: Amocrm,
  { catalogId }: { readonly catalogId: string | undefined },
): AsyncGenerator<Finding> {
  const ask = async (question: string, look: () => Promise<string>): Promise<Finding> => {
    try {
      return { question, answer: await look() };
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome === "not-executed") throw error;
      return { question, answer: `refused (${error.message})` };
    }
  };
  const yesNo = (value: boolean | null | undefined) =>
    value === undefined || value === null ? "not told" : value ? "yes" : "no";
  yield await ask("paid filters", async () => yesNo((await amocrm.account()).is_api_filter_enabled));
  yield await ask("fractional prices of leads", async () => {
    for await (const { price, exactPrice } of amocrm.leads.list()) {
      return price === undefined ? "no price to see it by" : yesNo(exactPrice !== undefined);
    }
    return "no lead to see it by";
  });
  yield await ask("history of leads can be read", async () => {
    for await (const _event of amocrm.events()) return "yes";
    return "yes, empty";
  });
  yield await ask("webhooks can be read (rights of an administrator)", async () => {
    const hooks = await amocrm.webhooks.list();
    return `yes, ${hooks.length} of at most 100, ${hooks.filter(({ isDisabled }) => isDisabled).length} switched off`;
  });
  yield await ask("lists of goods", async () => {
    const lists = await amocrm.catalogs.list();
    const chosen = lists.find(({ id }) => id === catalogId);
    return `${lists.length}; an element on several leads: ${chosen ? yesNo(chosen.canLinkMultiple) : "no list is chosen"}`;
  });
  if (catalogId === undefined) return;
  yield await ask("fields of the list of goods", async () => {
    const known = (await amocrm.catalogs.list()).some(({ id }) => id === catalogId);
    if (!known) return "the list does not exist";
    const fields = await amocrm.elementFields(catalogId);
    return ["SKU", "PRICE"]
      .map((code) => `${code}: ${fields.find((field) => field.code === code)?.type ?? "missing"}`)
      .join(", ");
  });
}
