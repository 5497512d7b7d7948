import { listen } from "@orderbridge/core/testing";
import {
  createFakeAmocrm,
  createFakeKaspi,
  type FakeEntry,
  type FakeOrder,
  fakeAccount,
} from "@orderbridge/kaspi-amocrm/testing";
import { check, type Flow, type FlowGroup, send } from "../flow.ts";
import { startServer } from "../servers.ts";

const cronSecret = "demo-cron-secret-0001";
const orderCount = 250;
const { stageIds } = fakeAccount;

const goods = [
  { sku: "LAMP-1", name: "Шам «Жарық»", basePrice: 7_990 },
  { sku: "TEA-2", name: "Чай чёрный, 500 г", basePrice: 1_450 },
  { sku: "CUP-3", name: "Кесе, 6 шт.", basePrice: 3_300 },
] as const;
const cheese = { sku: "CHEESE-4", name: "Сыр весовой", basePrice: 1_560, weightGrams: 3_800, quantity: 3 };

/** Order number `index`: every tenth is hidden, every fifth has weighed goods, every seventh names one SKU twice. */
function orderOf(index: number, firstCheckout: number): FakeOrder & { readonly creationDate: number } {
  const item = goods[index % goods.length] as (typeof goods)[number];
  const quantity = 1 + (index % 3);
  const entries: FakeEntry[] = [{ ...item, quantity }];
  if (index % 5 === 0) entries.push(cheese);
  if (index % 7 === 0) entries.push({ ...item, quantity: 1 });
  return {
    code: String(700_000_000 + index),
    // Six orders share each millisecond, over the ends of pages.
    creationDate: firstCheckout + Math.floor(index / 6),
    ...(index % 10 === 0 ? {} : { cellPhone: String(7_010_000_000 + (index % 30)) }),
    firstName: `Покупатель ${index % 30}`,
    lastName: "Пробный",
    entries,
  };
}

/** What the lead must hold, worked out from the order by hand: pieces, or kilograms of weighed goods. */
function expectedOf(order: FakeOrder) {
  const quantities: Record<string, number> = {};
  let price = 0;
  for (const { sku = "", quantity = 1, basePrice, weightGrams } of order.entries) {
    const amount = weightGrams === undefined ? quantity : weightGrams / 1000;
    quantities[sku] = (quantities[sku] ?? 0) + amount;
    price += basePrice * amount;
  }
  return { price: Math.round(price), quantities, phones: order.cellPhone ? [`+7${order.cellPhone}`] : [] };
}

export async function createKaspiFlows(): Promise<FlowGroup> {
  const kaspi = createFakeKaspi({ order: "shuffled" });
  const amocrm = createFakeAmocrm();
  const [kaspiServer, amocrmServer] = await Promise.all([listen(kaspi.handle), listen(amocrm.handle)]);
  const server = await startServer("kaspi-amocrm-worker", {
    DATABASE_URL: "sqlite::memory:",
    SCHEDULE: "off",
    CRON_SECRET: cronSecret,
    KASPI_TOKEN: "kaspi-token",
    KASPI_API_URL: kaspiServer.url,
    AMO_ACCOUNT_HOST: fakeAccount.host,
    AMO_API_URL: amocrmServer.url,
    AMO_CLIENT_ID: "00000000-0000-4000-8000-000000000001",
    AMO_CLIENT_SECRET: "demo-client-secret",
    AMO_REDIRECT_URI: "https://shop.example/oauth/callback",
    AMO_ACCESS_TOKEN: "amo-token",
    AMO_PIPELINE_ID: String(fakeAccount.pipelineId),
    AMO_STATUS_ID: String(stageIds.new),
    AMO_RESPONSIBLE_USER_ID: String(fakeAccount.responsibleUserId),
    AMO_CATALOG_ID: String(fakeAccount.catalogId),
    AMO_LEAD_ORDER_CODE_FIELD_ID: String(fakeAccount.orderCodeFieldId),
    AMO_STATUS_MAP: JSON.stringify({
      ACCEPTED_BY_MERCHANT: stageIds.accepted,
      COMPLETED: stageIds.won,
      CANCELLED: { statusId: stageIds.lost, lossReasonId: fakeAccount.lossReasonId },
    }),
    AMO_WEBHOOK_SECRET: "demo-webhook-secret-0001",
  });
  const cron = async (task: "new" | "reconcile") =>
    (await send("GET", `${server.url}/cron?task=${task}`, { headers: { "x-cron-secret": cronSecret } })).body;

  /** A lead as a person sees it in amoCRM. */
  function seen(code: string) {
    const leads = amocrm.leads.filter(({ fields }) => fields[fakeAccount.orderCodeFieldId] === code);
    const lead = leads[0];
    if (!lead || leads.length > 1) return { leads: leads.length };
    const skuOf = new Map(amocrm.elements.map(({ id, sku }) => [id, sku]));
    const quantities = Object.fromEntries(
      [...amocrm.linksOf(lead.id)].map(([id, quantity]) => [skuOf.get(id), quantity]),
    );
    const phones = lead.contactIds.flatMap((id) => amocrm.contacts.find((contact) => contact.id === id)?.phones ?? []);
    return { price: lead.price, quantities, phones };
  }
  const sorted = (value: object) =>
    JSON.stringify(value, (_key, part) =>
      part && typeof part === "object" && !Array.isArray(part) ? Object.fromEntries(Object.entries(part).sort()) : part,
    );

  let extra = 0;
  const flow: Flow = {
    id: 1,
    async once(log) {
      // A stranger whose card only mentions a buyer's digits: the fuzzy search finds him first.
      const stranger = amocrm.addContact({ name: "Чужой", remark: "спрашивал про 7010000001" });
      const firstCheckout = Date.now() - 2 * 3_600_000;
      const orders = Array.from({ length: orderCount }, (_, index) => orderOf(index, firstCheckout));
      for (const order of orders) kaspi.addOrder(order);
      log(`${orderCount} orders in Kaspi, the importer starts`);

      await cron("new");
      log(`${amocrm.leads.length} leads, ${amocrm.journal.entries.length} calls to amoCRM`);
      const wrong = orders.filter((order) => sorted(seen(order.code)) !== sorted(expectedOf(order)));
      const notesPerLead = amocrm.leads.map(({ id }) => amocrm.notes.filter(({ leadId }) => leadId === id).length);
      const phones = new Set(orders.flatMap(({ cellPhone }) => cellPhone ?? []));
      const buyers = amocrm.contacts.filter(({ id }) => id !== stranger.id);

      const writesBefore = amocrm.journal.count(/^(POST|PATCH)/);
      await cron("new");
      const second = amocrm.journal.count(/^(POST|PATCH)/) - writesBefore;
      log(`second run: ${second} writes`);

      const moved = "700000042";
      kaspi.changeOrder(moved, { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" });
      await cron("reconcile");
      log(`order ${moved} was accepted in Kaspi, its lead follows`);
      return [
        check("exactly one lead per order", amocrm.leads.length, orderCount),
        check(
          "price, quantities and contact of every lead",
          wrong.slice(0, 3).map(({ code }) => [code, seen(code)]),
          [],
        ),
        check(
          "one note each",
          notesPerLead.every((count) => count === 1),
          true,
        ),
        check("one contact per open phone, none for hidden ones", buyers.length, phones.size),
        check(
          "the stranger got no lead",
          amocrm.leads.some(({ contactIds }) => contactIds.includes(stranger.id)),
          false,
        ),
        check("a second run writes nothing", second, 0),
        check("a status change reaches its lead", amocrm.leadOf(moved)?.statusId, stageIds.accepted),
        check("and no other", amocrm.leads.filter(({ statusId }) => statusId !== stageIds.new).length, 1),
        // Calls leave at their pace; a machine that stalls for a tenth of a second may still bring two together, and the
        // second is refused, waited for and made again. At a pace of 8 three are refused already.
        check("7 requests in a second: at most 2 refused as more", amocrm.violations <= 2, true),
        check("a call without the secret is refused", (await send("GET", `${server.url}/cron?task=new`)).status, 401),
      ];
    },
    async tick(log) {
      const order = orderOf(orderCount + extra++, Date.now() - 60_000);
      kaspi.addOrder(order);
      await cron("new");
      log(`order ${order.code}: ${amocrm.leadOf(order.code) ? "lead created" : "no lead yet"}`);
    },
    figures: () => ({
      "Kaspi orders": orderCount + extra,
      "amoCRM leads": amocrm.leads.length,
      contacts: amocrm.contacts.length,
      "calls to amoCRM": amocrm.journal.entries.length,
    }),
  };
  return {
    flows: [flow],
    async stop() {
      await server.stop();
      await Promise.all([kaspiServer.close(), amocrmServer.close()]);
    },
  };
}
