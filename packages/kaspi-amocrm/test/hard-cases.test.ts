import { createHmac } from "node:crypto";
import { fetchFrom } from "@orderbridge/core/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createAmocrm } from "../src/amocrm/index.ts";
import { createKaspi } from "../src/kaspi/index.ts";
import { type FakeKaspi, type FakeOrder, fakeAccount } from "../src/testing/index.ts";
import { createSetting as createSettingOn, type SettingOptions } from "./setting.ts";
import { dailyStorages, type OpenStorage } from "./storages.ts";

const minute = 60_000;
const day = 86_400_000;
const { stageIds } = fakeAccount;
const key = { shop: "default", code: "700000001" };
const order = (code: string, more: Partial<FakeOrder> = {}): FakeOrder => ({
  code,
  cellPhone: "7010000001",
  entries: [{ sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 2 }],
  ...more,
});
type GuardOptions = Pick<NonNullable<Parameters<ReturnType<typeof createSettingOn>["createWorker"]>[0]>, "guardFetch">;
const accepted = { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" };
const completed = { state: "ARCHIVE", status: "COMPLETED" };
const cancelled = { state: "ARCHIVE", status: "CANCELLED" };

for (const { name: storageName, skipped, open } of dailyStorages("SQLite")) {
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

    test("orders from before the first run come by backfill only, and are followed from then on", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting(); // from 2026-11-19
      const old = Date.parse("2026-11-10T00:00:00.000Z");
      kaspi.addOrder(order("700000001", { creationDate: old, ...accepted }));
      kaspi.addOrder(order("700000002", { creationDate: old + 5 * day, ...accepted }));
      kaspi.addOrder(order("700000003", { creationDate: Date.parse("2026-11-19T00:00:00.000Z") }));
      const run = async () => {
        await sync.importNew();
        await sync.reconcile();
        clock.advance(10 * minute);
        return amocrm.leads.map(({ name }) => name).sort();
      };
      expect(await run()).toEqual(["Kaspi 700000003"]);
      expect(await run()).toEqual(["Kaspi 700000003"]);

      await sync.backfill({ from: new Date(old - day), to: new Date(old + day) });
      kaspi.changeOrder("700000001", completed);
      expect(await run()).toEqual(["Kaspi 700000001", "Kaspi 700000003"]);
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.won);
    });

    test("the overlap of the second run does not reach behind the start", async () => {
      const setting = createSetting();
      const start = setting.clock.now();
      const worker = setting.createWorker({ importFrom: start });
      setting.kaspi.addOrder(order("700000001", { creationDate: start.getTime() - 5 * minute }));
      for (let run = 0; run < 3; run++) {
        await worker.importNew();
        setting.clock.advance(minute);
      }
      expect(setting.amocrm.leads).toEqual([]);
    });

    test("an order from before the start is imported when the bank approves it, or its buyer signs, after the start", async () => {
      const setting = createSetting();
      const { kaspi, amocrm, clock } = setting;
      const start = clock.now().getTime();
      const sync = setting.createWorker({ importFrom: new Date(start) });
      const approved = (approvedByBankDate: number) => ({
        creationDate: start - 20_000,
        attributes: { approvedByBankDate },
      });
      await sync.importNew();
      clock.advance(5_000);
      kaspi.addOrder(order("700000001", approved(start + 5_000)));
      kaspi.addOrder(
        order("700000002", { ...approved(start - 15_000), state: "SIGN_REQUIRED", signatureRequired: true }),
      );
      kaspi.addOrder(order("700000003", approved(start - 15_000))); // the former program has seen it
      for (let run = 0; run < 3; run++) {
        clock.advance(10 * minute);
        expect(await sync.importNew()).toMatchObject(run === 0 ? { seen: 3, created: 1, foreign: 1 } : { created: 0 });
        expect(await sync.reconcile()).toMatchObject({ seen: 3, created: 0, foreign: 1 });
      }
      expect(amocrm.leads.map(({ name }) => name)).toEqual(["Kaspi 700000001"]);
      kaspi.changeOrder("700000002", { state: "NEW", signatureRequired: false });
      await sync.reconcile();
      expect(amocrm.leads.map(({ name }) => name)).toEqual(["Kaspi 700000001", "Kaspi 700000002"]);
    });

    test("leads go on to follow when the account has another host", async () => {
      const { kaspi, amocrm, sync, clock, createWorker, storage: stores } = createSetting();
      for (let run = 0; run < 20; run++) {
        clock.advance(10 * minute);
        await sync.reconcile();
      }
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      amocrm.rename("novoe");
      const client = { clock, rateLimits: stores.rateLimits, fetch: fetchFrom(amocrm.handle), minDelayMs: 1 };
      const worker = createWorker({ amocrm: createAmocrm({ ...client, host: amocrm.host, token: "amo-token" }) });
      kaspi.changeOrder("700000001", completed);
      clock.advance(10 * minute);
      expect(await worker.reconcile()).toMatchObject({ updated: 1, failed: 0 });
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.won);
    });

    test("rows that a newer holder took are counted as failed, not passed over in silence", async () => {
      const { kaspi, sync, clock, storage: stores } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      await stores.orders.claim([key], 1_000_000); // leases that began anew beside a ledger that was kept
      kaspi.changeOrder("700000001", completed);
      clock.advance(10 * minute);
      expect(await sync.reconcile()).toMatchObject({ updated: 0, failed: 1 });
    });

    test.each([
      ["on", completed, stageIds.won],
      ["back", { state: "NEW", status: "APPROVED_BY_BANK" }, stageIds.new],
    ] as const)(
      "an order that moves %s while a write of its stage is open takes its lead along",
      async (_where, next, stageId) => {
        const { kaspi, amocrm, sync, clock, createWorker, storage: stores } = createSetting();
        kaspi.addOrder(order("700000001"));
        await sync.importNew();
        kaspi.changeOrder("700000001", accepted);
        clock.advance(10 * minute);
        const { promise: dead, resolve: die } = Promise.withResolvers<void>();
        const worker = createWorker({
          guardFetch: (send) => async (input, init) => {
            const answer = await send(input, init);
            if (init?.method !== "PATCH") return answer;
            die(); // between the write and its note in the ledger
            return new Promise<never>(() => undefined);
          },
        });
        void worker.reconcile().catch(() => undefined);
        await dead;
        expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.accepted);
        clock.advance(60 * minute);
        kaspi.changeOrder("700000001", next);
        await sync.reconcile();
        expect(amocrm.leadOf("700000001")?.statusId).toBe(stageId);
        expect(await stores.orders.get(key)).toMatchObject({ intentAt: undefined, intendedStageId: undefined });
      },
    );

    test("a lead that a person moved while a write of its stage was open stays there", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      kaspi.changeOrder("700000001", accepted);
      clock.advance(10 * minute);
      amocrm.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ method }) => method === "PATCH" });
      amocrm.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 9, match: isLeadList });
      await sync.reconcile().catch(() => undefined);
      amocrm.faults.clear();
      amocrm.moveLead(amocrm.leadOf("700000001")?.id as number, stageIds.delivery);
      kaspi.changeOrder("700000001", completed);
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.delivery);
    });
    test.each([
      ["while another process holds the writer's lease", 1, "busy"],
      ["before a rerun", 1, "rerun"],
      ["while Kaspi is being read", 1, "reading"],
      ["while Kaspi is being read, one of many", 9, "reading"],
    ] as const)("a lead that a person moves %s stays there", async (_when, count, how) => {
      const { kaspi, amocrm, sync, clock, createWorker, storage: stores } = createSetting();
      const all = Array.from({ length: count }, (_, index) => String(700_000_001 + index));
      for (const code of all) kaspi.addOrder(order(code));
      await sync.importNew();
      clock.advance(10 * minute);
      await sync.reconcile();
      clock.advance(10 * minute);
      const lead = amocrm.leadOf("700000001");
      if (!lead) throw new Error("no lead");
      for (const code of all) kaspi.changeOrder(code, accepted);
      if (how === "reading") {
        const worker = createWorker({
          guardFetch: (send) => async (input, init) => {
            if (String(input).includes("=ARCHIVE")) amocrm.moveLead(lead.id, stageIds.delivery);
            return send(input, init);
          },
        });
        await worker.reconcile();
      } else {
        amocrm.moveLead(lead.id, stageIds.delivery);
        if (how === "rerun") await sync.rerun(key);
        else {
          await stores.leases.acquire("kaspi-amocrm:writer", { holder: "a backfill", ttlMs: 31_000 });
          expect(await sync.reconcile()).toMatchObject({ updated: count });
        }
      }
      expect(all.map((code) => amocrm.leadOf(code)?.statusId)).toEqual(
        all.map((_code, index) => (index === 0 ? stageIds.delivery : stageIds.accepted)),
      );
    });
    const isLeadList = ({ method, url }: Request) => method === "GET" && url.includes("/leads?");

    test.each([
      ["a field for the code", { isBare: true, shops: ["default"] }, { shops: ["default"] }],
      ["no field for the code any more", { shops: ["default"] }, { isBare: true, shops: ["default"] }],
      ["a second shop", { shops: ["default"] }, { shops: ["default", "astana"] }],
      ["a second shop and a field", { isBare: true, shops: ["default"] }, { shops: ["default", "astana"] }],
    ] as const)("a lead whose worker died before its note is found again with %s", async (_change, before, after) => {
      const alerts: unknown[] = [];
      const tokens = { default: "kaspi-token", astana: "token-b" };
      const setting = createSetting({
        kaspi: { shops: tokens },
        sync: { onAlert: (alert) => void alerts.push(alert) },
      });
      const { kaspi, amocrm, clock } = setting;
      const client = { clock, minDelayMs: 1, ratePerSecond: 50, fetch: fetchFrom(kaspi.handle) };
      const createWorker = ({ shops, ...more }: typeof before | typeof after, guard: GuardOptions = {}) =>
        setting.createWorker({
          ...more,
          ...guard,
          kaspi: shops.map((shop) => createKaspi({ ...client, shop, token: tokens[shop] })),
        });
      kaspi.addOrder(order("700000001"));
      const { promise: dead, resolve: die } = Promise.withResolvers<void>();
      const dying = createWorker(before, {
        guardFetch: (send) => async (input, init) => {
          const answer = await send(input, init);
          if (init?.method !== "POST" || !String(input).endsWith("/leads")) return answer;
          die();
          return new Promise<never>(() => undefined);
        },
      });
      void dying.importNew().catch(() => undefined);
      await dead;
      const worker = createWorker(after);
      for (let run = 0; run < 2; run++) {
        clock.advance(10 * minute);
        await worker.importNew();
        await worker.reconcile();
      }
      expect(amocrm.leads).toHaveLength(1);
      expect(alerts).toEqual([]);
      expect(amocrm.notes).toHaveLength(1);
    });

    test("a contact that was merged into another gives way to it, also in the order that was refused", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      const [gone] = amocrm.contacts;
      if (!gone) throw new Error("no contact");
      clock.advance(minute);
      const survivor = amocrm.addContact({ name: "Айгүл" });
      amocrm.mergeContacts(gone.id, survivor.id);
      kaspi.addOrder(order("700000002"));
      expect(await sync.importNew()).toMatchObject({ created: 0, failed: 1 });
      clock.advance(2 * minute);
      expect(await sync.importNew()).toMatchObject({ created: 1, failed: 0 });
      expect(amocrm.leadOf("700000002")?.contactIds).toEqual([survivor.id]);
      expect(amocrm.contacts).toHaveLength(1);
    });

    const fewer = { entries: [{ sku: "LAMP", name: "Шам", basePrice: 7990, quantity: 1 }] };
    test.each([
      ["its order moves", completed],
      ["its order loses goods", fewer],
      ["the buyer's phone opens", { cellPhone: "7010000001" }],
      ["the phone opens and the order is cancelled", { cellPhone: "7010000001", ...cancelled }],
      ["its order loses goods and is completed", { ...fewer, ...completed }],
    ])("a deleted lead is left alone, and nobody is told, when %s", async (_what, change) => {
      const alerts: unknown[] = [];
      const {
        kaspi,
        amocrm,
        sync,
        clock,
        storage: stores,
      } = createSetting({
        sync: { onAlert: (alert) => void alerts.push(alert), attemptsBeforeParking: 1 },
      });
      kaspi.addOrder({ code: "700000001", entries: order("700000001").entries });
      await sync.importNew();
      amocrm.deleteLead(amocrm.leads[0]?.id as number);
      kaspi.changeOrder("700000001", change);
      clock.advance(10 * minute);
      expect(await sync.reconcile()).toMatchObject({ skipped: 1, failed: 0 });
      expect(await stores.orders.get(key)).toMatchObject({ phase: "skipped", lastError: "the lead was deleted" });
      const elements = await stores.elements.find(String(fakeAccount.catalogId), ["LAMP"]);
      expect([elements.size, alerts]).toEqual([1, []]); // its goods are as good as before
    });

    test("goods that may not be linked any more cost orders their goods only", async () => {
      const alerts: unknown[] = [];
      const { kaspi, amocrm, sync, clock, createWorker, storage: stores } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew(); // its element is known from now on
      const worker = createWorker({
        onAlert: (alert) => void alerts.push(alert),
        guardFetch: (send) => async (input, init) => {
          const isRefused = /catalogs/.test(String(input)) || /catalog_elements/.test(String(init?.body ?? ""));
          if (!isRefused) return send(input, init);
          const headers = { "content-type": "application/problem+json" };
          return new Response(JSON.stringify({ title: "Forbidden", status: 403 }), { status: 403, headers });
        },
      });
      clock.advance(minute);
      for (const code of ["700000002", "700000003"]) kaspi.addOrder(order(code));
      expect(await worker.importNew()).toMatchObject({ created: 2, failed: 0 });
      kaspi.changeOrder("700000002", completed);
      clock.advance(10 * minute);
      await worker.reconcile();
      expect(amocrm.leadOf("700000002")?.statusId).toBe(stageIds.won);
      expect(await stores.orders.counts()).toEqual({ done: 3 });
      expect(alerts).toEqual([{ kind: "catalog", catalogId: String(fakeAccount.catalogId) }]);
    });

    test("a phone that was moved to another card leads to that card from the next reconcile on", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      const wrong = amocrm.addContact({ name: "Айгүл", phones: ["+77010000001"] });
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      clock.advance(60 * minute);
      Object.assign(wrong, { phones: ["+77019999999"], updatedAt: Math.floor(clock.now().getTime() / 1000) });
      const right = amocrm.addContact({ name: "Ерлан", phones: ["+77010000001"] });
      clock.advance(minute);
      await sync.reconcile();
      kaspi.addOrder(order("700000002"));
      await sync.importNew();
      expect(amocrm.leadOf("700000002")?.contactIds).toEqual([right.id]);
    });

    test("prices stay exact when an old lead tells no minor units", async () => {
      const { kaspi, amocrm, clock, createWorker } = createSetting({ amocrm: { hasMinorUnits: true } });
      const old = amocrm.addLead({ name: "старая" });
      const other = amocrm.addLead({ name: "другая" });
      const worker = () =>
        createWorker({
          guardFetch: (send) => async (input, init) => {
            const answer = await send(input, init);
            if (!/\/leads\?/.test(String(input)) || answer.status !== 200) return answer;
            const body = (await answer.json()) as { _embedded: { leads: Record<string, unknown>[] } };
            for (const lead of body._embedded.leads) if (lead.id === old.id) delete lead.price_with_minor_units;
            return new Response(JSON.stringify(body), { headers: answer.headers });
          },
        });
      kaspi.addOrder(order("700000001", { entries: [{ sku: "LAMP", basePrice: 7990.5 }] }));
      await worker().importNew();
      expect([other.price, amocrm.leadOf("700000001")?.price]).toEqual([0, 7990.5]);
      amocrm.moveLead(old.id, stageIds.delivery); // now it is the first in the list of changes
      kaspi.changeOrder("700000001", accepted);
      clock.advance(10 * minute);
      await worker().reconcile();
      expect(amocrm.leadOf("700000001")).toMatchObject({ price: 7990.5, statusId: stageIds.accepted });
    });

    test.each([
      ["of a new lead", undefined],
      ["of a lead that is there", "+0(000)-000-00-00"],
    ])(
      "a worker that dies behind the contact %s leaves one contact, although the search lags",
      async (_whose, hidden) => {
        const { kaspi, amocrm, sync, clock, createWorker } = createSetting({
          amocrm: { indexLagMs: 15 * minute },
          sync: { contactLookup: "query" },
        });
        kaspi.addOrder(order("700000001", hidden ? { attributes: { customer: { cellPhone: hidden } } } : {}));
        if (hidden) {
          await sync.importNew();
          kaspi.changeOrder("700000001", { attributes: {} });
          clock.advance(10 * minute);
        }
        const { promise: dead, resolve: die } = Promise.withResolvers<void>();
        const dying = createWorker({
          guardFetch: (send) => async (input, init) => {
            const answer = await send(input, init);
            if (init?.method !== "POST" || !String(input).endsWith("/contacts")) return answer;
            die();
            return new Promise<never>(() => undefined);
          },
        });
        void (hidden ? dying.reconcile() : dying.importNew()).catch(() => undefined);
        await dead;
        clock.advance(6 * minute);
        await (hidden ? sync.reconcile() : sync.importNew());
        expect(amocrm.contacts).toHaveLength(1);
        expect(amocrm.leadOf("700000001")?.contactIds).toEqual([amocrm.contacts[0]?.id]);
      },
    );

    test("a deleted contact is made anew when the phone of an order opens late", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001"));
      kaspi.addOrder({ code: "700000002", entries: [{ sku: "LAMP", basePrice: 1 }] });
      await sync.importNew();
      amocrm.deleteContact(amocrm.contacts[0]?.id as number);
      kaspi.changeOrder("700000002", { cellPhone: "7010000001" });
      for (let run = 0; run < 2; run++) {
        clock.advance(10 * minute);
        await sync.reconcile();
      }
      expect(amocrm.contacts.map(({ phones }) => phones)).toEqual([["+77010000001"]]);
      expect(amocrm.leadOf("700000002")?.contactIds).toEqual([amocrm.contacts[0]?.id]);
    });

    test("an order whose lines cannot be read is parked, and asked hourly from then on", async () => {
      const { kaspi, amocrm, sync, clock, storage: stores } = createSetting({ kaspi: { ignoresInclude: true } });
      kaspi.addOrder(order("700000001"));
      kaspi.faults.add({
        fault: { kind: "failBeforeExecuting", status: 500 },
        times: 10_000,
        match: ({ url }) => url.includes("/entries"),
      });
      const attempts: (number | undefined)[] = [];
      for (let run = 0; run < 16; run++) {
        await sync.importNew();
        attempts.push((await stores.orders.get(key))?.attempts);
        clock.advance(minute);
      }
      expect(attempts.slice(0, 9)).toEqual([1, 2, 2, 3, 3, 3, 3, 4, 4]); // pauses of 1, 2, 4 minutes
      const { parked } = await sync.status();
      expect(parked).toEqual([{ ...key, reason: expect.stringMatching(/^lines could not be read: .*500/) }]);
      kaspi.journal.clear();
      for (let run = 0; run < 5; run++) {
        await sync.importNew();
        clock.advance(10 * minute);
      }
      expect(kaspi.journal.count("/entries")).toBe(0);
      kaspi.faults.clear();
      clock.advance(60 * minute);
      expect(await sync.importNew()).toMatchObject({ created: 1 });
      expect(amocrm.leads).toHaveLength(1);
    });

    test("lines that nobody gets for five minutes park no order, and delay none for an hour", async () => {
      const alerts: unknown[] = [];
      const setting = createSetting({ kaspi: { ignoresInclude: true } });
      const { kaspi, amocrm, clock } = setting;
      const sync = setting.createWorker({ onAlert: (alert) => void alerts.push(alert) });
      const now = clock.now().getTime();
      for (let index = 0; index < 30; index++) {
        kaspi.addOrder(order(String(700_000_100 + index), { creationDate: now - index * 1_000 }));
      }
      kaspi.faults.add({
        fault: { kind: "failBeforeExecuting", status: 503 },
        times: 10_000,
        match: ({ url }) => url.includes("/entries"),
      });
      for (let run = 0; run < 12; run++) {
        if (run === 5) kaspi.faults.clear();
        const ended = await sync.importNew().then(
          () => true,
          () => false,
        );
        expect(ended).toBe(run >= 5);
        clock.advance(minute);
      }
      expect(amocrm.leads).toHaveLength(30);
      expect(alerts).toEqual([]);
    });

    const failsByCode = (kaspi: FakeKaspi, code: string) =>
      kaspi.faults.add({
        fault: { kind: "failBeforeExecuting", status: 500 },
        times: 10_000,
        match: ({ url }) => decodeURIComponent(url).includes(`[code]=${code}`),
      });

    test("an old order that Kaspi does not give does not keep the later ones from being followed, and is parked", async () => {
      const { kaspi, amocrm, sync, clock, storage: stores } = createSetting();
      const now = clock.now().getTime();
      for (const days of [19, 18, 17]) {
        kaspi.addOrder(order(`7000000${days}`, { creationDate: now - days * day, ...accepted }));
      }
      await sync.backfill({ from: new Date(now - 30 * day), to: new Date(now) });
      failsByCode(kaspi, "700000019");
      for (const code of ["700000018", "700000017"]) kaspi.changeOrder(code, completed);
      clock.advance(10 * minute);
      expect(await sync.reconcile()).toMatchObject({ updated: 2, failed: 1 });
      expect(["700000019", "700000018", "700000017"].map((code) => amocrm.leadOf(code)?.statusId)).toEqual([
        stageIds.accepted,
        stageIds.won,
        stageIds.won,
      ]);
      kaspi.faults.clear();
      clock.advance(10 * minute);
      await sync.reconcile(); // it is well again: what it failed is forgotten
      expect(await stores.orders.get({ ...key, code: "700000019" })).toMatchObject({ phase: "done", attempts: 0 });

      failsByCode(kaspi, "700000019");
      for (let run = 0; run < 5; run++) {
        clock.advance(10 * minute);
        await sync.reconcile();
      }
      expect((await sync.status()).parked).toMatchObject([{ code: "700000019" }]);
    });

    test("a parked order that Kaspi does not give does not keep the other parked ones from their next try", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({ sync: { attemptsBeforeParking: 1 } });
      const now = clock.now().getTime();
      for (const days of [19, 18, 17]) kaspi.addOrder(order(`7000000${days}`, { creationDate: now - days * day }));
      amocrm.refuses = () => true;
      await sync.backfill({ from: new Date(now - 30 * day), to: new Date(now) });
      amocrm.refuses = undefined;
      failsByCode(kaspi, "700000019");
      clock.advance(61 * minute);
      expect(await sync.importNew()).toMatchObject({ created: 2, failed: 1 });
      expect(amocrm.leads.map(({ name }) => name).sort()).toEqual(["Kaspi 700000017", "Kaspi 700000018"]);
    });

    test("an unfinished order that Kaspi does not know any more is parked, not asked every minute", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      amocrm.refuses = () => true;
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      kaspi.removeOrder("700000001");
      for (let run = 0; run < 60; run++) {
        clock.advance(minute);
        await sync.importNew();
      }
      expect((await sync.status()).parked).toEqual([{ ...key, reason: "Kaspi does not know this order" }]);
      kaspi.journal.clear();
      for (let run = 0; run < 20; run++) {
        clock.advance(3 * minute);
        await sync.importNew();
      }
      expect(kaspi.journal.count("code")).toBeLessThanOrEqual(1);
    });

    test("an answer without the total leaves the lead's price and note", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting();
      kaspi.addOrder(order("700000001"));
      await sync.importNew();
      kaspi.changeOrder("700000001", { attributes: { totalPrice: undefined } });
      kaspi.addOrder(order("700000002", { attributes: { totalPrice: undefined } }));
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(amocrm.leadOf("700000001")?.price).toBe(15_980);
      expect(amocrm.notes[0]?.text).toContain("Итого: 15980.00");
      kaspi.changeOrder("700000002", { attributes: {} });
      clock.advance(10 * minute);
      await sync.reconcile();
      expect(amocrm.leadOf("700000002")?.price).toBe(15_980);
    });

    test("the price has its fraction where the account keeps minor units", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({ amocrm: { hasMinorUnits: true } });
      amocrm.addLead({ name: "другая" }); // by which it shows what it can
      kaspi.addOrder(order("700000001", { entries: [{ sku: "LAMP", basePrice: 7990.5 }] }));
      await sync.importNew();
      expect(amocrm.leadOf("700000001")?.price).toBe(7990.5);
      kaspi.changeOrder("700000001", { entries: [{ sku: "LAMP", basePrice: 7990.3 }] });
      amocrm.faults.add({
        fault: { kind: "failBeforeExecuting", status: 504 },
        match: ({ method }) => method === "PATCH",
      });
      for (let run = 0; run < 2; run++) {
        clock.advance(10 * minute);
        await sync.reconcile();
      }
      expect(amocrm.leadOf("700000001")?.price).toBe(7990.3); // 7991 and 7990 tell less
    });

    test.each([
      ["as it was", {}],
      ["without any lines left", { entries: [] }],
    ])("a cancelled order closes its lead when lists come without lines, %s", async (_how, change) => {
      const { kaspi, amocrm, sync, clock } = createSetting({ kaspi: { ignoresInclude: true } });
      kaspi.addOrder(order("700000001"));
      kaspi.addOrder(order("700000002"));
      await sync.importNew();
      kaspi.changeOrder("700000001", { ...cancelled, ...change });
      clock.advance(10 * minute);
      kaspi.journal.clear();
      expect(await sync.reconcile()).toMatchObject({ updated: 1, failed: 0 });
      expect(amocrm.leadOf("700000001")?.statusId).toBe(stageIds.lost);
      expect(kaspi.journal.count("/entries")).toBe(1); // of the one that changed
    });

    test("a list that is not of goods is found by check, and costs an order its goods only", async () => {
      const { kaspi, amocrm, clock, createWorker } = createSetting();
      const worker = createWorker({ catalogId: String(fakeAccount.regularCatalogId) });
      expect(await worker.check()).toEqual([
        "catalogId 9002 has no field SKU and PRICE; choose a list of type products: 9001 (Товары)",
      ]);
      kaspi.addOrder(order("700000001"));
      await worker.importNew();
      clock.advance(minute);
      expect(amocrm.leadOf("700000001")?.price).toBe(15_980);
      expect(amocrm.notes.map(({ text }) => text.includes("Шам [LAMP]"))).toEqual([true]);
    });

    test("without an index, an unclear write of a contact reads the latest contacts, not all", async () => {
      const { kaspi, amocrm, sync, clock } = createSetting({ sync: { contactLookup: "query" } });
      for (let index = 0; index < 1_000; index++)
        amocrm.addContact({ name: `${index}`, phones: [`+7705${1_000_000 + index}`] });
      clock.advance(day);
      kaspi.addOrder(order("700000001"));
      amocrm.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        match: ({ method, url }) => method === "POST" && url.endsWith("/contacts"),
      });
      for (let run = 0; run < 3; run++) {
        await sync.importNew();
        clock.advance(2 * minute);
      }
      expect(amocrm.leads).toHaveLength(1);
      expect(amocrm.contacts).toHaveLength(1_001);
      expect(amocrm.journal.count(/^GET .*\/contacts\?.*order/)).toBeLessThanOrEqual(1);
    });

    test("erasing names the contacts that only amoCRM knows", async () => {
      const { amocrm, sync } = createSetting({ sync: { contactLookup: "query" } });
      const ids = [1, 2].map(() => String(amocrm.addContact({ name: "Айгүл", phones: ["8 701 000 00 01"] }).id));
      amocrm.addContact({ name: "Ерлан", phones: ["+77010000002"] });
      expect(await sync.erase("+77010000001")).toEqual(ids);
    });

    test("erasing forgets the other phones of a contact too, also when only amoCRM knows the one asked for", async () => {
      const { kaspi, amocrm, sync, storage: stores } = createSetting();
      kaspi.addOrder(order("700000001", { cellPhone: "7010000002" }));
      await sync.importNew();
      const [buyer] = amocrm.contacts;
      buyer?.phones.push("+77010000001");
      const secret = await stores.contacts.secret();
      const known = createHmac("sha256", secret).update("+77010000002").digest("hex");
      expect((await stores.contacts.find([known])).size).toBe(1);
      expect(await sync.erase("+77010000001")).toEqual([String(buyer?.id)]);
      expect((await stores.contacts.find([known])).size).toBe(0);
    });
  });
}
