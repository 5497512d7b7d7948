import { fetchFrom } from "@orderbridge/core/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createAmocrm, createAmocrmConnection } from "../src/amocrm/index.ts";
import { type FakeOrder, fakeAccount, fakeIntegration } from "../src/testing/index.ts";
import { createOrders, createSetting as createSettingOn, type SettingOptions } from "./setting.ts";
import { dailyStorages, type OpenStorage } from "./storages.ts";

const minute = 60_000;
const day = 86_400_000;
const created = Date.parse("2026-11-20T05:00:00.000Z");
const order = (code: string, more: Partial<FakeOrder> = {}): FakeOrder => ({
  code,
  cellPhone: "7010000001",
  entries: [{ sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 2 }],
  ...more,
});

for (const { name: storageName, skipped, open } of dailyStorages("PostgreSQL")) {
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
    const openCount = storageName === "memory" || process.env.PROOF === "1" ? 1000 : 100;
    const createSetting = (options: SettingOptions = {}) => createSettingOn({ ...onStorage, ...options });
    /** Every order has exactly one lead. */
    const expectLeads = (setting: ReturnType<typeof createSetting>, count: number) => {
      const names = setting.amocrm.leads.map(({ name }) => name);
      expect([names.length, new Set(names).size]).toEqual([count, count]);
    };

    test("an order on the bound that two windows could share comes once, and none falls between them", async () => {
      const from = new Date("2026-11-01T00:00:00.000Z");
      const setting = createSetting({ sync: { importFrom: from } });
      const bound = from.getTime() + 14 * day;
      for (const [index, at] of [bound - 2, bound - 1, bound, bound + 1].entries()) {
        setting.kaspi.addOrder(order(String(700_000_000 + index), { creationDate: at }));
      }
      expect(await setting.sync.importNew()).toMatchObject({ seen: 4, created: 4 });
      expectLeads(setting, 4);
    });

    test.each([502, 504])(
      "a batch over 10 that the vendor answers with %i although it ran is found again",
      async (status) => {
        const setting = createSetting(status === 504 ? { amocrm: { slowFrom: 10 } } : {});
        if (status === 502) {
          setting.amocrm.faults.add({
            fault: { kind: "failAfterExecuting", status },
            times: 4,
            match: ({ method, url }) => method !== "GET" && !url.endsWith("/unlink"),
          });
        }
        for (const one of createOrders(30)) setting.kaspi.addOrder(one);
        for (let run = 0; run < 8; run++) {
          await setting.sync.importNew();
          setting.clock.advance(2 * minute);
        }
        expectLeads(setting, 30);
        expect(setting.amocrm.notes).toHaveLength(30);
        if (status === 504) expect(Math.min(...setting.amocrm.batchSizes.filter((size) => size > 1))).toBeLessThan(30);
      },
    );

    test("a search index that lags 30 s doubles no contact, element or lead", async () => {
      const setting = createSetting({ amocrm: { indexLagMs: 30_000 }, sync: { contactLookup: "query" } });
      setting.amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        times: 3,
        match: ({ method, url }) => method === "POST" && /(contacts|elements|leads)$/.test(url),
      });
      setting.kaspi.addOrder(order("700000001"));
      setting.kaspi.addOrder(order("700000002"));
      for (let run = 0; run < 6; run++) {
        await setting.sync.importNew();
        setting.clock.advance(2 * minute);
      }
      expectLeads(setting, 2);
      expect([setting.amocrm.contacts.length, setting.amocrm.elements.length]).toEqual([1, 1]);
    });

    test("entries that are refused with 429 or ignore paging are read, one order after the other", async () => {
      const setting = createSetting({ kaspi: { ignoresInclude: true, refusesParallelEntries: true } });
      const { kaspi, amocrm } = setting;
      const many = Array.from({ length: 150 }, (_, index) => ({ sku: `SKU-${index}`, basePrice: 1 }));
      kaspi.addOrder(order("700000001", { entries: many })); // one answer of 150 lines, however pages are asked for
      for (let index = 2; index < 8; index++) kaspi.addOrder(order(`70000000${index}`));
      kaspi.faults.add({ fault: { kind: "rateLimit" }, times: 2, match: ({ url }) => url.includes("/entries") });
      await setting.sync.importNew();
      expectLeads(setting, 7);
      expect(amocrm.linksOf(amocrm.leadOf("700000001")?.id ?? 0).size).toBe(150);
      expect(
        kaspi.journal.entries.filter(({ path, status }) => path.includes("/entries") && status === 200),
      ).toHaveLength(7);
    });

    test.each([{ kind: "htmlAnswer" }, { kind: "truncate" }, { kind: "dropReplyAfterExecuting" }] as const)(
      "$kind at entries costs one order a run, not the others",
      async (fault) => {
        const setting = createSetting({ kaspi: { ignoresInclude: true } });
        for (let index = 1; index < 4; index++) setting.kaspi.addOrder(order(`70000000${index}`));
        setting.kaspi.faults.add({ fault, times: 3, match: ({ url }) => url.includes("/entries") });
        expect(await setting.sync.importNew()).toMatchObject({ created: 2, failed: 1 });
        setting.clock.advance(minute);
        await setting.sync.importNew();
        expectLeads(setting, 3);
      },
    );

    test("an SKU that is twice in an order is one link with the sum, kilograms included; relinking adds nothing", async () => {
      const setting = createSetting({ amocrm: { relinking: "adds" } });
      const { kaspi, amocrm, sync, clock } = setting;
      const apple = { sku: "APPLE", name: "Алма", basePrice: 1560, weightGrams: 1900, quantity: 1 };
      kaspi.addOrder(order("700000001", { entries: [apple, apple, { sku: "CUP", basePrice: 1, quantity: 2 }] }));
      await sync.importNew();
      kaspi.changeOrder("700000001", { entries: [apple, { sku: "CUP", basePrice: 1, quantity: 3 }] });
      const skus = () => {
        const skuOf = new Map(amocrm.elements.map(({ id, sku }) => [id, sku]));
        const links = amocrm.linksOf(amocrm.leadOf("700000001")?.id ?? 0);
        return Object.fromEntries([...links].map(([id, quantity]) => [skuOf.get(id), quantity]));
      };
      expect(skus()).toEqual({ APPLE: 3.8, CUP: 2 });
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(skus()).toEqual({ APPLE: 1.9, CUP: 3 });
    });

    test("an element that a manager renamed is found by its SKU, and keeps name and price", async () => {
      const setting = createSetting();
      const { kaspi, amocrm, sync, clock } = setting;
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      const [element] = amocrm.elements;
      if (!element) throw new Error("no element");
      element.name = "Шам «Жарық», переименован";
      element.price = "1";
      clock.advance(minute);
      kaspi.addOrder(order("700000002"));
      await sync.importNew();
      expect(amocrm.elements).toMatchObject([{ name: "Шам «Жарық», переименован", price: "1" }]);
      expect([...amocrm.linksOf(amocrm.leadOf("700000002")?.id ?? 0)]).toEqual([[element.id, 2]]);
    });

    test("without a list of goods in the account's plan the goods are in the note, and check says what to do", async () => {
      const setting = createSetting({ amocrm: { hasCatalogs: false } });
      await expect(setting.sync.check()).resolves.toEqual([expect.stringContaining("catalogId 9001 cannot be used")]);
      setting.kaspi.addOrder(order("700000001"));
      const alerts: unknown[] = [];
      const worker = setting.createWorker({ onAlert: (alert) => void alerts.push(alert) });
      expect(await worker.importNew()).toMatchObject({ created: 1, failed: 0 });
      expect(alerts).toEqual([{ kind: "catalog", catalogId: "9001" }]);
      expect(setting.amocrm.notes.map(({ text }) => text.includes("Шам [LAMP]: 2 × 7990.00 ₸"))).toEqual([true]);
    });

    test("filters that are ignored decide nothing: the newest leads are compared with the code one by one", async () => {
      const setting = createSetting({ amocrm: { hasFilters: false } });
      for (let index = 0; index < 60; index++)
        setting.amocrm.addLead({ name: `Kaspi ${index}`, orderCode: `${index}` });
      setting.amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        match: ({ method, url }) => method === "POST" && url.endsWith("/leads"),
      });
      setting.kaspi.addOrder(order("700000001"));
      for (let run = 0; run < 3; run++) {
        await setting.sync.importNew();
        setting.clock.advance(2 * minute);
      }
      expectLeads(setting, 61);
      expect(setting.amocrm.journal.count("filter[id]")).toBe(0);
    });

    test.each([
      ["phone", "phone"],
      ["field", { leadFieldId: fakeAccount.orderCodeFieldId }],
    ] as const)(
      "duplicate control by %s merges nothing: two orders of one buyer stay two leads",
      async (_name, duplicateControl) => {
        const setting = createSetting({ amocrm: { duplicateControl } });
        setting.kaspi.addOrder(order("700000001"));
        await setting.sync.importNew();
        setting.clock.advance(minute);
        setting.kaspi.addOrder(order("700000002"));
        await setting.sync.importNew();
        expectLeads(setting, 2);
        expect(setting.amocrm.contacts).toHaveLength(1);
      },
    );

    test(`${openCount} unchanged open orders cause no write to the CRM, old ones included`, async () => {
      const setting = createSetting({ sync: { importFrom: new Date("2026-10-01T00:00:00.000Z") } });
      const { kaspi, amocrm, sync, clock } = setting;
      for (const [index, one] of createOrders(openCount).entries()) {
        kaspi.addOrder({
          ...one,
          creationDate: Date.parse("2026-10-05T00:00:00.000Z") + index * (3_000_000_000 / openCount),
        });
      }
      expect(await sync.importNew()).toMatchObject({ created: openCount });
      clock.advance(10 * minute);
      await sync.reconcile();
      amocrm.journal.clear();
      clock.advance(10 * minute);
      expect(await sync.reconcile()).toMatchObject({ updated: 0, created: 0, failed: 0 });
      expect(amocrm.journal.count(/^(POST|PATCH|DELETE)/)).toBe(0);
      expect(amocrm.journal.entries.length).toBeLessThanOrEqual(5);
    });

    test("an account that is renamed in the middle of the day is followed, without a second lead", async () => {
      const setting = createSetting();
      const { kaspi, amocrm, clock, createWorker } = setting;
      const fetch = fetchFrom(amocrm.handle);
      const { host } = fakeAccount;
      const connection = createAmocrmConnection({ ...fakeIntegration, host, storage: setting.storage, clock, fetch });
      await connection.importPair(amocrm.oauth.issuePair());
      const worker = createWorker({
        amocrm: createAmocrm({ host, token: connection.tokens, integration: "oauth", clock, fetch, minDelayMs: 1 }),
      });
      kaspi.addOrder(order("700000001"));
      await worker.importNew();
      amocrm.rename("novoe-imya");
      clock.advance(minute);
      kaspi.addOrder(order("700000002"));
      await worker.importNew();
      expectLeads(setting, 2);
    });

    test.each([100, 200])("exactly %i orders of one millisecond, in no order, become as many leads", async (count) => {
      const setting = createSetting({ kaspi: { order: "shuffled" } });
      for (let index = 0; index < count; index++) {
        setting.kaspi.addOrder(order(String(700_000_000 + index), { creationDate: created }));
      }
      expect(await setting.sync.importNew()).toMatchObject({ seen: count, created: count });
      expectLeads(setting, count);
      setting.clock.advance(minute);
      expect(await setting.sync.importNew()).toMatchObject({ created: 0, updated: 0 });
    });

    test.each(["a row leaves the folder", "a row comes in between"])(
      "nothing is lost when %s while pages are read, and totals change",
      async (what) => {
        const setting = createSetting({ kaspi: { order: what.includes("leaves") ? "oldest" : "newest" } });
        const { kaspi } = setting;
        for (let index = 0; index < 150; index++) {
          kaspi.addOrder(order(String(700_000_000 + index), { creationDate: created }));
        }
        let moved = false;
        kaspi.onPage = ({ state, number }) => {
          if (state !== "NEW" || number !== 0 || moved) return;
          moved = true;
          if (what.includes("leaves")) kaspi.changeOrder("700000000", { state: "KASPI_DELIVERY" });
          else kaspi.addOrder(order("800000000", { creationDate: created + 1 }));
        };
        await setting.sync.importNew();
        expectLeads(setting, what.includes("leaves") ? 150 : 151);
      },
    );

    test("page 3 of 5 of one millisecond failing for good holds the watermark; the next run brings everything, once", async () => {
      const setting = createSetting();
      const { kaspi, sync } = setting;
      for (let index = 0; index < 450; index++) {
        kaspi.addOrder(order(String(700_000_000 + index), { creationDate: created }));
      }
      kaspi.faults.add({
        fault: { kind: "failBeforeExecuting", status: 503 },
        times: 3,
        match: ({ url }) => decodeURIComponent(url).includes("page[number]=2"),
      });
      await expect(sync.importNew()).rejects.toThrow("503");
      expect((await sync.status()).shops[0]?.watermark).toBeUndefined();
      await sync.importNew();
      expectLeads(setting, 450);
    });

    test("batch answers that come in another order give each order its own lead, note and element", async () => {
      const setting = createSetting({ amocrm: { shufflesAnswers: true } });
      const { kaspi, amocrm, sync } = setting;
      const codes = Array.from({ length: 12 }, (_, index) => String(700_000_000 + index));
      for (const [index, code] of codes.entries()) {
        const cellPhone = `70100000${String(index).padStart(2, "0")}`;
        kaspi.addOrder(order(code, { cellPhone, entries: [{ sku: `SKU-${index}`, basePrice: 100 + index }] }));
      }
      await sync.importNew();
      for (const [index, code] of codes.entries()) {
        const lead = amocrm.leadOf(code);
        const row = await setting.storage.orders.get({ shop: "default", code });
        const phones = amocrm.contacts
          .filter(({ id }) => lead?.contactIds.includes(id))
          .map((contact) => contact.phones);
        const goods = amocrm.elements.filter(({ id }) => amocrm.linksOf(lead?.id ?? 0).has(id)).map(({ sku }) => sku);
        const notes = amocrm.notes.filter(({ leadId }) => leadId === lead?.id);
        expect([lead?.price, phones, goods, notes.map(({ text }) => text.split("\n", 1)[0])]).toEqual([
          100 + index,
          [[`+770100000${String(index).padStart(2, "0")}`]],
          [`SKU-${index}`],
          [`Заказ Kaspi ${code}`],
        ]);
        expect([row?.leadId, row?.noteId]).toEqual([String(lead?.id), String(notes[0]?.id)]);
      }
    });

    test("a Kaspi that hangs in the middle of a listing ends the run at its timeouts; the next one brings everything, once", async () => {
      const setting = createSetting();
      const { kaspi, clock, createWorker } = setting;
      for (const one of createOrders(30)) kaspi.addOrder(one);
      let hangs = 3;
      const worker = createWorker({
        guardFetch: (send) => (input, init) => {
          if (!decodeURIComponent(String(input)).includes("[state]=DELIVERY") || hangs === 0) return send(input, init);
          hangs--;
          const ended = new Promise<never>((_resolve, reject) =>
            init?.signal?.addEventListener("abort", () => reject(init.signal?.reason)),
          );
          setImmediate(() => clock.advance(30_000)); // the client's own timeout, three times
          return ended;
        },
      });
      await expect(worker.importNew()).rejects.toThrow("did not answer in time");
      expect([hangs, (await worker.status()).shops[0]?.watermark]).toEqual([0, undefined]);
      expect(await worker.importNew()).toMatchObject({ failed: 0 });
      expectLeads(setting, 30);
    });

    test("a 504 that ran nothing makes the next batches smaller, until they pass", async () => {
      const setting = createSetting();
      setting.amocrm.faults.add({
        fault: { kind: "failBeforeExecuting", status: 504 },
        times: 3,
        match: ({ method, url }) => method === "POST" && url.endsWith("/leads"),
      });
      for (const one of createOrders(40)) setting.kaspi.addOrder(one);
      for (let run = 0; run < 8; run++) {
        await setting.sync.importNew();
        setting.clock.advance(2 * minute);
      }
      expectLeads(setting, 40);
      const creates = setting.amocrm.journal.count(/^POST \/api\/v4\/leads$/);
      expect(creates).toBeGreaterThan(4); // three refused, then more than one smaller batch
    });
  });
}
