import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type FakeOrder, fakeAccount } from "../src/testing/index.ts";
import { createOrders, createSetting as createSettingOn, type SettingOptions, statusMap } from "./setting.ts";
import { dailyStorages, type OpenStorage } from "./storages.ts";

const minute = 60_000;
const day = 86_400_000;
const { stageIds } = fakeAccount;

const order = (code: string, more: Partial<FakeOrder> = {}): FakeOrder => ({
  code,
  cellPhone: "7010000001",
  entries: [{ sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 2 }],
  ...more,
});

for (const { name: storageName, skipped, open } of dailyStorages("MariaDB")) {
  describe.skipIf(skipped)(storageName, () => {
    let storage: OpenStorage;
    let onStorage: Awaited<ReturnType<OpenStorage["clear"]>>;
    beforeAll(async () => {
      storage = await open();
    });
    beforeEach(async () => {
      onStorage = await storage.clear();
    });
    afterAll(() => storage?.close());
    const createSetting = (options: SettingOptions = {}) => createSettingOn({ ...onStorage, ...options });

    test("two workers at once: one imports, the other steps back, every order has one lead", async () => {
      const { kaspi, amocrm, createWorker, clock } = createSetting();
      for (const one of createOrders(60)) kaspi.addOrder(one);
      const reports = await Promise.all([createWorker().importNew(), createWorker().importNew()]);
      expect(reports.filter((report) => report === undefined)).toHaveLength(1);
      clock.advance(minute);
      await Promise.all([createWorker().importNew(), createWorker().reconcile(), createWorker().importNew()]);
      expect(amocrm.leads).toHaveLength(60);
      expect(amocrm.notes).toHaveLength(60);
    });

    test("a worker that is paused past its lease writes nothing more when it wakes", async () => {
      const { kaspi, amocrm, createWorker, clock } = createSetting();
      for (const one of createOrders(5)) kaspi.addOrder(one);
      const { promise: paused, resolve: onPause } = Promise.withResolvers<void>();
      const { promise: waking, resolve: wake } = Promise.withResolvers<void>();
      const sleeper = createWorker({
        guardFetch: (send) => async (input, init) => {
          const answer = await send(input, init);
          if (init?.method === "POST" && String(input).endsWith("/leads")) {
            onPause();
            await waking;
          }
          return answer;
        },
      });
      const sleeping = sleeper.importNew();
      await paused;
      clock.advance(10 * minute);
      expect(await createWorker().importNew()).toMatchObject({ failed: 0 });
      const writes = amocrm.journal.count(/^(POST|PATCH)/);
      wake();
      await expect(sleeping).rejects.toThrow("lost");
      expect(amocrm.journal.count(/^(POST|PATCH)/)).toBe(writes);
      expect(amocrm.leads).toHaveLength(5);
      expect(amocrm.notes).toHaveLength(5);
    });

    test("a worker that is paused between taking goods off and putting them on puts nothing on when it wakes", async () => {
      const { kaspi, amocrm, sync, createWorker, clock } = createSetting({ amocrm: { relinking: "adds" } });
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      kaspi.changeOrder("700000001", { entries: [{ sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 3 }] });
      clock.advance(10 * minute);
      const { promise: paused, resolve: onPause } = Promise.withResolvers<void>();
      const { promise: waking, resolve: wake } = Promise.withResolvers<void>();
      const sleeper = createWorker({
        guardFetch: (send) => async (input, init) => {
          const answer = await send(input, init);
          if (init?.method === "POST" && String(input).endsWith("/leads/unlink")) {
            onPause();
            await waking;
          }
          return answer;
        },
      });
      const sleeping = sleeper.reconcile();
      await paused;
      clock.advance(10 * minute);
      expect(await createWorker().reconcile()).toMatchObject({ updated: 1, failed: 0 });
      wake();
      await expect(sleeping).rejects.toThrow("lost");
      expect([...amocrm.linksOf(amocrm.leadOf("700000001")?.id ?? 0).values()]).toEqual([3]);
    });

    test("an order that was accepted before the first look is imported into the stage of its status", async () => {
      const { kaspi, amocrm, sync } = createSetting();
      kaspi.addOrder(order("700000001", { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" }));
      await sync.importNew();
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.accepted);
    });

    test("the same code in two shops is two orders", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({
        kaspi: { shops: { almaty: "token-a", astana: "token-b" } },
      });
      kaspi.addOrder(order("700000001"), "almaty");
      kaspi.addOrder(order("700000001", { entries: [{ sku: "CUP", basePrice: 10 }] }), "astana");
      amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        times: 2,
        match: ({ method, url }) => method === "POST" && url.endsWith("/leads"),
      });
      for (let run = 0; run < 3; run++) {
        await sync.importNew();
        clock.advance(2 * minute);
      }
      expect(amocrm.leads.map(({ price, tags }) => [price, tags])).toEqual([
        [15980, ["Kaspi", "Kaspi: almaty"]],
        [10, ["Kaspi", "Kaspi: astana"]],
      ]);
    });

    test.each(["index", "query"] as const)(
      "a stranger who comes first in the search is not taken for the buyer (%s)",
      async (contactLookup) => {
        const { kaspi, amocrm, sync } = createSetting({ sync: { contactLookup } });
        amocrm.addContact({
          name: "Чужой",
          phones: ["+7 777 123-45-67"],
          remark: "звонил с 7010000001, просил перезвонить",
        });
        const buyer = amocrm.addContact({ name: "Айгүл", phones: ["8 (701) 000-00-01"] });
        amocrm.addContact({ name: "Айгүл ещё раз", phones: ["77010000001"] });
        kaspi.addOrder(order("700000001"));
        await sync.importNew();
        expect(amocrm.leadOf("700000001")?.contactIds).toEqual([buyer.id]);
        expect(amocrm.contacts).toHaveLength(3);
      },
    );

    test("two orders of one new phone in one run share one contact; hidden buyers are never merged", async () => {
      const { kaspi, amocrm, sync } = createSetting();
      kaspi.addOrder(order("700000001"));
      kaspi.addOrder(order("700000002"));
      for (const code of ["700000003", "700000004"]) kaspi.addOrder({ code, entries: [{ sku: "LAMP", basePrice: 1 }] });
      await sync.importNew();
      expect(amocrm.contacts.map(({ phones }) => phones)).toEqual([["+77010000001"]]);
      expect(amocrm.leadOf("700000002")?.contactIds).toEqual(amocrm.leadOf("700000001")?.contactIds);
      expect(amocrm.leadOf("700000003")?.contactIds).toEqual([]);
      expect(amocrm.leadOf("700000004")?.contactIds).toEqual([]);
    });

    test("a phone that opens later brings the contact; one that is hidden again takes nothing away", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder({ code: "700000001", entries: [{ sku: "LAMP", basePrice: 1 }] });
      await sync.importNew();
      clock.advance(10 * minute);
      kaspi.changeOrder("700000001", { cellPhone: "9160000003" });
      await sync.reconcile();
      const contactIds = amocrm.contacts.map(({ id }) => id);
      expect(amocrm.contacts.map(({ phones }) => phones)).toEqual([["+79160000003"]]);
      expect(amocrm.leadOf("700000001")?.contactIds).toEqual(contactIds);
      kaspi.changeOrder("700000001", { attributes: { customer: { cellPhone: "+0(000)-000-00-00" } } });
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(amocrm.leadOf("700000001")?.contactIds).toEqual(contactIds);
    });

    test("a manager's stage, goods and price stay; what Kaspi changes elsewhere goes on", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      const lead = amocrm.leadOf("700000001");
      if (!lead) throw new Error("no lead");
      const gift = amocrm.addElement({ name: "Подарок", sku: "GIFT" });
      amocrm.linkElement(lead.id, gift.id, 1);
      clock.advance(minute);
      amocrm.moveLead(lead.id, stageIds.delivery);
      lead.price = 1;
      kaspi.changeOrder("700000001", {
        state: "KASPI_DELIVERY",
        status: "ACCEPTED_BY_MERCHANT",
        entries: [{ sku: "CUP", name: "Кесе", basePrice: 7990, quantity: 2 }],
      });
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(lead.statusId).toBe(stageIds.delivery);
      expect(lead.price).toBe(1); // the total in Kaspi did not change
      const skus = [...amocrm.linksOf(lead.id).keys()].map(
        (id) => amocrm.elements.find((element) => element.id === id)?.sku,
      );
      expect(skus.sort()).toEqual(["CUP", "GIFT"]);
      expect(amocrm.notes.map(({ text }) => text.includes("Кесе [CUP]: 2"))).toEqual([true]);
    });

    test("a deleted lead is left alone and not created again", async () => {
      const { kaspi, amocrm, sync, clock, storage } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      amocrm.deleteLead(amocrm.leads[0]?.id ?? 0);
      kaspi.changeOrder("700000001", { state: "ARCHIVE", status: "COMPLETED" });
      for (let run = 0; run < 8; run++) {
        clock.advance(70 * minute);
        await sync.reconcile();
        await sync.importNew();
      }
      expect(amocrm.leads).toEqual([]);
      expect(await storage.orders.get({ shop: "default", code: "700000001" })).toMatchObject({
        phase: "skipped",
        lastError: "the lead was deleted",
      });
    });

    test("a partial cancel and a changed weight arrive although state and status stay", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(
        order("700000001", {
          entries: [
            { sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 2 },
            { sku: "APPLE", name: "Алма", basePrice: 1560, weightGrams: 3800, quantity: 3 },
          ],
        }),
      );
      await sync.importNew();
      kaspi.changeOrder("700000001", {
        entries: [{ sku: "APPLE", name: "Алма", basePrice: 1560, weightGrams: 3750, quantity: 3 }],
      });
      clock.advance(10 * minute);
      await sync.reconcile();
      const lead = amocrm.leadOf("700000001");
      const apple = amocrm.elements.find(({ sku }) => sku === "APPLE");
      expect(lead?.price).toBe(5850);
      expect([...amocrm.linksOf(lead?.id ?? 0)]).toEqual([[apple?.id, 3.75]]);
      expect(amocrm.notes).toHaveLength(1);
      expect(amocrm.notes[0]?.text).toContain("Алма [APPLE]: 3.75 кг × 1560.00 ₸ = 5850.00 ₸");
    });

    test("an order that waits for a signature becomes a lead three days later, when it is signed", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001", { state: "SIGN_REQUIRED", signatureRequired: true }));
      for (let hour = 0; hour < 72; hour += 12) {
        await sync.importNew();
        await sync.reconcile();
        clock.advance(day / 2);
      }
      expect(amocrm.leads).toEqual([]);
      kaspi.changeOrder("700000001", { state: "NEW", signatureRequired: false });
      await sync.importNew();
      expect(amocrm.leads).toHaveLength(1);
    });

    test("an order first seen cancelled is skipped", async () => {
      const { kaspi, amocrm, sync } = createSetting();
      kaspi.addOrder(order("700000001", { state: "ARCHIVE", status: "CANCELLED" }));
      expect(await sync.importNew()).toMatchObject({ skipped: 1, created: 0 });
      expect(amocrm.journal.entries).toEqual([]);
    });

    test("a return is seen 44 days after the checkout", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({
        sync: { statusMap: { ...statusMap, RETURNED: String(stageIds.lost) } },
      });
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      clock.advance(30 * day);
      kaspi.changeOrder("700000001", { state: "ARCHIVE", status: "COMPLETED" });
      await sync.reconcile();
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.won);
      clock.advance(14 * day);
      kaspi.changeOrder("700000001", { status: "RETURNED" });
      await sync.reconcile();
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.lost);
    });

    test.each([
      ["20 seconds", 20_000],
      ["three days", 3 * day],
    ])("an order that becomes visible %s after its checkout is not lost", async (_name, delayMs) => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001", { visibleFrom: clock.now().getTime() + delayMs }));
      await sync.importNew();
      kaspi.addOrder(order("700000002"));
      await sync.importNew();
      expect(amocrm.leads).toHaveLength(1);
      clock.advance(delayMs);
      await sync.importNew();
      await sync.reconcile();
      expect(amocrm.leads).toHaveLength(2);
    });

    test("40 days of standing still are made up for", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      await sync.importNew();
      const from = clock.now().getTime();
      for (const [index, one] of createOrders(120).entries()) {
        kaspi.addOrder({ ...one, creationDate: from + index * 8 * 3_600_000 });
      }
      clock.advance(40 * day);
      expect(await sync.importNew()).toMatchObject({ created: 120 });
      expect(amocrm.leads).toHaveLength(120);
    });

    test.each([
      ["ahead", 5 * minute],
      ["behind", -5 * minute],
    ])("a clock that is five minutes %s loses and doubles nothing", async (_name, offsetMs) => {
      const { kaspi, amocrm, createWorker, clock } = createSetting();
      const workerClock = {
        ...clock,
        now: () => new Date(clock.now().getTime() + offsetMs),
      };
      const worker = createWorker({ workerClock });
      amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        times: 1,
        match: ({ url }) => url.endsWith("/leads"),
      });
      for (let run = 0; run < 12; run++) {
        kaspi.addOrder(order(String(700_000_000 + run)));
        await worker.importNew();
        clock.advance(minute);
      }
      clock.advance(6 * minute);
      await worker.importNew();
      expect(amocrm.leads).toHaveLength(12);
    });

    test("a creation date that cannot be read, missing entries and a lagging search do not stop the import", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({
        kaspi: { ignoresInclude: true },
        amocrm: { indexLagMs: 30_000, hasFilters: false },
        sync: { contactLookup: "query" },
      });
      kaspi.addOrder(order("700000001", { attributes: { creationDate: "soon" } }));
      await sync.importNew();
      clock.advance(10_000);
      kaspi.addOrder(order("700000002"));
      await sync.importNew();
      expect(amocrm.leads.map(({ name }) => name)).toEqual(["Kaspi 700000001", "Kaspi 700000002"]);
      expect(amocrm.contacts).toHaveLength(1);
      expect(amocrm.elements).toHaveLength(1);
    });

    test("without a catalog and an order-code field the code is in the name and a tag, and nothing doubles", async () => {
      const { kaspi, amocrm, clock, createWorker } = createSetting();
      const worker = createWorker({ isBare: true });
      kaspi.addOrder(order("700000001"));
      amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        times: 1,
        match: ({ url }) => url.endsWith("/leads"),
      });
      await worker.importNew();
      clock.advance(2 * minute);
      await worker.importNew();
      expect(amocrm.leads.map(({ name, tags }) => [name, tags])).toEqual([
        ["Kaspi 700000001", ["Kaspi", "Kaspi 700000001"]],
      ]);
      expect(amocrm.elements).toEqual([]);
      expect(amocrm.notes).toHaveLength(1);
    });

    test("50 orders with 75 lines take at most 4 calls warm and 9 cold with the contact index", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      for (let index = 0; index < 500; index++) amocrm.addElement({ name: `Old ${index}`, sku: `OLD-${index}` });
      const fifty = (first: number, sku: (index: number) => string): FakeOrder[] =>
        Array.from({ length: 50 }, (_, index) => ({
          code: String(first + index),
          cellPhone: String(7_010_000_000 + index),
          entries: [
            { sku: sku(index), basePrice: 100 },
            ...(index % 2 === 0 ? [{ sku: sku(50 + index / 2), basePrice: 100 }] : []),
          ],
        }));
      for (const one of fifty(700_000_000, (index) => `NEW-${index % 60}`)) kaspi.addOrder(one);
      await sync.importNew();
      expect(amocrm.leads).toHaveLength(50);
      expect(amocrm.journal.entries.length).toBeLessThanOrEqual(9);

      amocrm.journal.clear();
      clock.advance(minute);
      for (const one of fifty(700_001_000, (index) => `NEW-${index % 60}`)) kaspi.addOrder(one);
      await sync.importNew();
      expect(amocrm.leads).toHaveLength(100);
      expect(amocrm.journal.entries.length).toBeLessThanOrEqual(4);
    });

    test("50 cold orders take at most 58 calls when every phone is searched", async () => {
      const { kaspi, amocrm, sync } = createSetting({ sync: { contactLookup: "query" } });
      for (let index = 0; index < 500; index++) amocrm.addElement({ name: `Old ${index}`, sku: `OLD-${index}` });
      for (let index = 0; index < 50; index++) {
        kaspi.addOrder({
          code: String(700_000_000 + index),
          cellPhone: String(7_010_000_000 + index),
          entries: [
            { sku: `NEW-${index}`, basePrice: 100 },
            ...(index % 2 === 0 ? [{ sku: `NEW-${50 + (index % 10)}`, basePrice: 1 }] : []),
          ],
        });
      }
      await sync.importNew();
      expect(amocrm.leads).toHaveLength(50);
      expect(amocrm.journal.entries.length).toBeLessThanOrEqual(58);
    });
  });
}
