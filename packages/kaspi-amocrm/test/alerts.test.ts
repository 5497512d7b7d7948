import { expect, test } from "vitest";
import type { KaspiAmocrmAlert } from "../src/index.ts";
import { type FakeOrder, fakeAccount } from "../src/testing/index.ts";
import { createSetting, type SettingOptions } from "./setting.ts";

const minute = 60_000;
const { stageIds } = fakeAccount;
const order = (code: string, more: Partial<FakeOrder> = {}): FakeOrder => ({
  code,
  entries: [{ sku: "LAMP", basePrice: 7990 }],
  ...more,
});

function createWatched(options: SettingOptions = {}) {
  const alerts: KaspiAmocrmAlert[] = [];
  const onAlert = (alert: KaspiAmocrmAlert) => void alerts.push(alert);
  return { alerts, ...createSetting({ ...options, sync: { onAlert, ...options.sync } }) };
}

test("a second lead with an order's code gets a note and is closed, once; the ledger's lead stays", async () => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched();
  kaspi.addOrder(order("700000001"));
  await sync.importNew();
  const lead = amocrm.leadOf("700000001");
  clock.advance(10 * minute);
  const twin = amocrm.addLead({ name: "Kaspi 700000001", orderCode: "700000001" });
  const stranger = amocrm.addLead({ name: "Kaspi 5", orderCode: "5" });

  await sync.reconcile();

  expect([twin.statusId, lead?.statusId, stranger.statusId]).toEqual([stageIds.lost, stageIds.new, stageIds.new]);
  const notes = () => amocrm.notes.filter(({ leadId }) => leadId === twin.id).map(({ text }) => text);
  expect(notes()).toEqual([`Двойник: сделка заказа Kaspi 700000001 — ${lead?.id}`]);
  const told = { kind: "twin", shop: "default", code: "700000001", leadId: String(lead?.id), twinId: String(twin.id) };
  expect(alerts).toEqual([told]);

  amocrm.moveLead(twin.id, stageIds.won); // whoever closes it otherwise keeps that
  clock.advance(10 * minute);
  await sync.reconcile();
  expect([twin.statusId, notes().length, alerts.length]).toEqual([stageIds.won, 1, 1]);
});

test.each(["POST", "PATCH"])(
  "a second lead is closed by the next reconcile when the %s for it fails",
  async (method) => {
    const { alerts, kaspi, amocrm, sync, clock } = createWatched();
    kaspi.addOrder(order("700000001"));
    await sync.importNew();
    clock.advance(10 * minute);
    const twin = amocrm.addLead({ name: "Kaspi 700000001", orderCode: "700000001" });
    amocrm.faults.add({
      fault: { kind: "failAfterExecuting", status: 504 },
      match: (request) => request.method === method,
    });
    await sync.reconcile().catch(() => undefined);
    clock.advance(10 * minute);
    await sync.reconcile();
    expect(twin.statusId).toBe(stageIds.lost);
    expect(amocrm.notes.filter(({ leadId }) => leadId === twin.id)).toHaveLength(1);
    expect(alerts.map(({ kind }) => kind)).toEqual(["twin"]);
  },
);

test("a lead that a person makes in place of a deleted one is left alone", async () => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched();
  kaspi.addOrder(order("700000001"));
  await sync.importNew();
  amocrm.deleteLead(amocrm.leadOf("700000001")?.id as number);
  clock.advance(10 * minute);
  const made = amocrm.addLead({ name: "Kaspi 700000001", orderCode: "700000001" });
  await sync.reconcile();
  expect([made.statusId, alerts]).toEqual([stageIds.new, []]);
});

test("a status without a stage is told once", async () => {
  const { alerts, kaspi, sync, clock } = createWatched();
  kaspi.addOrder(order("700000001", { status: "CANCELLING" }));
  kaspi.addOrder(order("700000002", { status: "CANCELLING" }));
  await sync.importNew();
  clock.advance(minute);
  kaspi.addOrder(order("700000003", { status: "CANCELLING" }));
  await sync.importNew();
  expect(alerts).toEqual([{ kind: "unmapped", state: "NEW", status: "CANCELLING" }]);
});

test("an order is told when it is parked, not at its earlier and later failures", async () => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched({ sync: { attemptsBeforeParking: 2 } });
  kaspi.addOrder(order("700000001"));
  amocrm.refuses = (item) => item.includes('"Kaspi 700000001"');
  const counts: number[] = [];
  for (let run = 0; run < 4; run++) {
    await sync.importNew();
    counts.push(alerts.length);
    clock.advance(61 * minute);
  }
  expect(counts).toEqual([0, 1, 1, 1]);
  expect(alerts[0]).toMatchObject({
    kind: "parked",
    code: "700000001",
    reason: expect.stringMatching(/^lead refused/),
  });
});

test("a block is told once while it lasts, and again when it comes again", async () => {
  const { alerts, kaspi, amocrm, sync, clock, storage } = createWatched();
  kaspi.addOrder(order("700000001"));
  const block = async () => {
    amocrm.faults.add({ fault: { kind: "block" } });
    await expect(sync.reconcile()).rejects.toThrow("blocks this account");
    clock.advance(61 * minute);
    await expect(sync.reconcile()).rejects.toThrow("calls are stopped");
    amocrm.faults.clear();
    await storage.rateLimits.unblock("amocrm:demo.amocrm.ru:token");
    clock.advance(61 * minute);
  };
  await block();
  expect(alerts).toEqual([{ kind: "block", vendor: "amocrm" }]);
  await sync.reconcile();
  await block();
  expect(alerts).toHaveLength(2);
});

test("a shop whose imports no longer end is told as silent, until one ends", async () => {
  const { alerts, sync, clock } = createWatched();
  await sync.importNew();
  const since = (await sync.status()).shops[0]?.watermark;
  for (let run = 0; run < 3; run++) {
    clock.advance(59 * minute);
    await sync.reconcile();
  }
  expect(alerts).toEqual([{ kind: "silence", shop: "default", since }]);
  await sync.importNew();
  await sync.reconcile();
  clock.advance(61 * minute);
  await sync.reconcile();
  expect(alerts).toHaveLength(2);
});

test("a failing onAlert holds nothing up", async () => {
  const { kaspi, amocrm, sync } = createSetting({
    sync: {
      onAlert() {
        throw new Error("the pager is broken");
      },
    },
  });
  kaspi.addOrder(order("700000001", { status: "CANCELLING" }));
  expect(await sync.importNew()).toMatchObject({ created: 1, unmapped: 1 });
  expect(amocrm.leads).toHaveLength(1);
});

test("a Kaspi token that is known under another shop's name is refused before anything is read", async () => {
  const first = createSetting({ kaspi: { shops: { almaty: "token-a", astana: "token-b" } } });
  await first.sync.importNew();
  const second = createSetting({
    kaspi: { shops: { main: "token-a" } },
    core: () => first.storage,
    stores: first.storage,
  });
  second.kaspi.addOrder(order("700000001"), "main");
  await expect(second.sync.importNew()).rejects.toThrow('the token of shop "main" is known as that of "almaty"');
  await expect(second.sync.check()).rejects.toThrow("use that name");
  expect(second.kaspi.journal.entries).toEqual([]);
  expect(await first.createWorker().importNew()).toMatchObject({ failed: 0 });
});
