import { expect, test } from "vitest";
import { fakeAccount } from "../src/testing/index.ts";
import { createOrders, createSetting } from "./setting.ts";

test("250 orders become exactly 250 leads with contacts, goods, prices and one note each; a second run adds nothing", async () => {
  const { kaspi, amocrm, sync, clock } = createSetting({ kaspi: { order: "shuffled" } });
  for (const order of createOrders(250)) kaspi.addOrder(order);

  const report = await sync.importNew();

  expect(report).toMatchObject({ seen: 250, created: 250, failed: 0, deferred: 0 });
  expect(amocrm.leads).toHaveLength(250);
  expect(amocrm.notes).toHaveLength(250);
  expect(new Set(amocrm.notes.map(({ leadId }) => leadId)).size).toBe(250);

  const elementOf = new Map(amocrm.elements.map(({ id, sku }) => [sku, id]));
  expect(elementOf.size).toBe(amocrm.elements.length);
  for (const [index, order] of createOrders(250).entries()) {
    const lead = amocrm.leadOf(order.code);
    if (!lead) throw new Error(`order ${order.code} has no lead`);
    const contacts = amocrm.contacts.filter(({ id }) => lead.contactIds.includes(id));
    expect(contacts.map(({ phones }) => phones)).toEqual(order.cellPhone ? [[`+7${order.cellPhone}`]] : []);
    // Worked out by hand: 1560 × 3.8 kg = 5928; two or three lamps of 7990.50, a case of 1200; rounded half up.
    const lamps = index % 2 === 0 ? 23_971.5 : 15_981;
    const expected = index % 10 === 0 ? 5928 : lamps + (index % 3 === 0 ? 1200 : 0);
    expect(lead.price).toBe(Math.round(expected));
    const quantities =
      index % 10 === 0
        ? [[elementOf.get(`WEIGHED-${index % 7}`), 3.8]]
        : [
            [elementOf.get(`SKU-${index % 30}`), index % 2 === 0 ? 3 : 2],
            ...(index % 3 === 0 ? [[elementOf.get(`EXTRA-${index % 11}`), 1]] : []),
          ];
    expect([...amocrm.linksOf(lead.id)].sort()).toEqual(quantities.sort());
  }
  const phones = createOrders(250).flatMap(({ cellPhone }) => (cellPhone ? [cellPhone] : []));
  expect(amocrm.contacts).toHaveLength(new Set(phones).size);
  expect(amocrm.busiestSecond).toBeLessThanOrEqual(7);
  expect(amocrm.journal.entries.length).toBeLessThan(40);

  amocrm.journal.clear();
  clock.advance(60_000);
  expect(await sync.importNew()).toMatchObject({ created: 0, updated: 0 });
  expect(amocrm.journal.entries).toEqual([]);
});

test("a change of the status in Kaspi reaches its lead by reconcile, and an unchanged order causes no write", async () => {
  const { kaspi, amocrm, sync, clock } = createSetting();
  for (const order of createOrders(120)) kaspi.addOrder(order);
  await sync.importNew();
  kaspi.changeOrder("700000007", { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" });
  kaspi.changeOrder("700000008", { state: "ARCHIVE", status: "CANCELLED" });
  clock.advance(600_000);
  amocrm.journal.clear();

  expect(await sync.reconcile()).toMatchObject({ updated: 2, failed: 0 });

  expect(amocrm.leadOf("700000007")?.statusId).toBe(fakeAccount.stageIds.accepted);
  expect(amocrm.leadOf("700000008")).toMatchObject({ statusId: 143, lossReasonId: fakeAccount.lossReasonId });
  expect(amocrm.leads.filter(({ statusId }) => statusId === fakeAccount.stageIds.new)).toHaveLength(118);
  expect(amocrm.journal.count(/^(POST|PATCH)/)).toBe(1);
  expect(amocrm.notes).toHaveLength(120);

  amocrm.journal.clear();
  clock.advance(600_000);
  expect(await sync.reconcile()).toMatchObject({ updated: 0 });
  expect(amocrm.journal.count(/^(POST|PATCH)/)).toBe(0);
});
