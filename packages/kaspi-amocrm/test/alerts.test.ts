import { silentLogger } from "@orderbridge/core";
import { fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createAmocrm } from "../src/amocrm/index.ts";
import type { KaspiAmocrmAlert } from "../src/index.ts";
import { createKaspi } from "../src/kaspi/index.ts";
import { createFakeKaspi, type FakeOrder, fakeAccount } from "../src/testing/index.ts";
import { createSetting, type SettingOptions } from "./setting.ts";

const minute = 60_000;
const { stageIds } = fakeAccount;
const order = (code: string, more: Partial<FakeOrder> = {}): FakeOrder => ({
  code,
  entries: [{ sku: "LAMP", basePrice: 7990 }],
  ...more,
});

/** Its long-lived token was revoked in the keys tab. */
function revokedWorker({ createWorker, clock, amocrm, storage }: ReturnType<typeof createWatched>) {
  const { rateLimits } = storage;
  const client = { clock, rateLimits, fetch: fetchFrom(amocrm.handle), minDelayMs: 1 };
  return createWorker({ amocrm: createAmocrm({ ...client, host: fakeAccount.host, token: "revoked" }) });
}

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
  const ids = { leadId: String(lead?.id), twinId: String(twin.id) };
  expect(alerts).toEqual([{ kind: "twin", isClosed: true, shop: "default", code: "700000001", ...ids }]);

  amocrm.moveLead(twin.id, stageIds.won); // whoever closes it otherwise keeps that
  clock.advance(10 * minute);
  await sync.reconcile();
  expect([twin.statusId, notes().length, alerts.length]).toEqual([stageIds.won, 1, 1]);
});

test("a second lead that was made before there was a field for the code, or a second shop, is closed too", async () => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched({ kaspi: { shops: { almaty: "a", astana: "b" } } });
  kaspi.addOrder(order("700000001"), "astana");
  await sync.importNew();
  clock.advance(10 * minute);
  const twin = amocrm.addLead({ name: "Kaspi 700000001" });
  twin.tags.push("Kaspi", "Kaspi 700000001");
  const stranger = amocrm.addLead({ name: "Kaspi 700000001" });
  stranger.tags.push("Kaspi: almaty", "Kaspi 700000001");
  await sync.reconcile();
  expect([twin.statusId, stranger.statusId]).toEqual([stageIds.lost, stageIds.new]);
  expect(alerts).toMatchObject([{ kind: "twin", shop: "astana", isClosed: true, twinId: String(twin.id) }]);
});

test("a lead that was there before the ledger's is not ours: it stays open, without a note, and is told", async () => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched();
  const old = amocrm.addLead({ name: "Kaspi 700000001", orderCode: "700000001", statusId: stageIds.delivery });
  clock.advance(60 * minute);
  kaspi.addOrder(order("700000001"));
  await sync.importNew();
  amocrm.moveLead(old.id, stageIds.accepted); // a manager works on it
  for (let run = 0; run < 3; run++) {
    clock.advance(10 * minute);
    await sync.importNew();
    await sync.reconcile();
  }
  expect(old.statusId).toBe(stageIds.accepted);
  expect(amocrm.notes.filter(({ leadId }) => leadId === old.id)).toEqual([]);
  expect(alerts).toMatchObject([{ kind: "twin", isClosed: false, code: "700000001", twinId: String(old.id) }]);
});

test.each([1, 9])("a lead of somebody else that is %i minutes older than the order stays open too", async (age) => {
  const { alerts, kaspi, amocrm, sync, clock } = createWatched();
  const old = amocrm.addLead({ name: "Заказ", orderCode: "700000001", statusId: stageIds.delivery });
  clock.advance(age * minute);
  kaspi.addOrder(order("700000001"));
  await sync.importNew();
  clock.advance(5 * minute);
  amocrm.moveLead(old.id, stageIds.accepted);
  clock.advance(10 * minute);
  await sync.reconcile();
  expect(old.statusId).toBe(stageIds.accepted);
  expect(alerts).toMatchObject([{ kind: "twin", isClosed: false, twinId: String(old.id) }]);
});

test("a second lead that amoCRM refuses to close is told as open, and holds no later look up", async () => {
  const { alerts, kaspi, amocrm, createWorker, clock } = createWatched({ sync: { silenceAfterMs: 10_000 * minute } });
  const sync = createWorker({
    guardFetch: (send) => async (input, init) => {
      if (init?.method !== "PATCH") return send(input, init);
      const problem = {
        "validation-errors": [{ request_id: "0", errors: [{ code: "NotSupportedChoice", path: "status_id" }] }],
      };
      return new Response(JSON.stringify(problem), {
        status: 400,
        headers: { "content-type": "application/problem+json" },
      });
    },
  });
  kaspi.addOrder(order("700000001"));
  await sync.importNew();
  await sync.reconcile();
  clock.advance(20 * minute);
  const twin = amocrm.addLead({ name: "копия", orderCode: "700000001" });
  for (let day = 0; day < 3; day++) {
    for (let count = 0; count < 300; count++) amocrm.addLead({ name: "чужая" });
    clock.advance(24 * 60 * minute);
    await sync.reconcile();
  }
  amocrm.journal.clear();
  clock.advance(20 * minute);
  await sync.reconcile();
  expect(amocrm.journal.count(/^GET .*\/leads\?/)).toBe(1);
  expect(twin.statusId).toBe(stageIds.new);
  expect(alerts).toMatchObject([{ kind: "twin", isClosed: false, twinId: String(twin.id) }]);
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
  const { alerts, kaspi, amocrm, sync, clock, storage } = createWatched({ sync: { silenceAfterMs: 1_000 * minute } });
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

test("a shop's lasting failure hides neither another shop's refused token nor its error", async () => {
  const logged: unknown[][] = [];
  const logger = { ...silentLogger, error: (...line: unknown[]) => void logged.push(line) };
  const { alerts, kaspi, sync, clock } = createWatched({
    kaspi: { shops: { almaty: "a", astana: "b" } },
    sync: { logger },
  });
  const fails = (token: string, status: number) =>
    kaspi.faults.add({
      fault: { kind: "failBeforeExecuting", status },
      times: 10_000,
      match: ({ headers }) => headers.get("x-auth-token") === token,
    });
  fails("a", 500);
  fails("b", 401);
  for (let run = 0; run < 2; run++) {
    await expect(sync.importNew()).rejects.toThrow("500");
    clock.advance(5 * minute);
  }
  expect(alerts).toEqual([{ kind: "refused", vendor: "kaspi", status: 401 }]);
  expect(logged.filter(([message]) => message === "kaspi-amocrm: this failed too")).toHaveLength(2);
});

test("a second block is told while one shop's token stays refused", async () => {
  const { alerts, kaspi, amocrm, sync, clock, storage } = createWatched({
    kaspi: { shops: { almaty: "a", astana: "b" } },
    sync: { silenceAfterMs: 1_000 * minute },
  });
  kaspi.faults.add({
    fault: { kind: "failBeforeExecuting", status: 401 },
    times: 10_000,
    match: ({ headers }) => headers.get("x-auth-token") === "b",
  });
  const run = async () => {
    clock.advance(10 * minute);
    await sync.reconcile().catch(() => undefined);
  };
  await run();
  for (let block = 0; block < 2; block++) {
    amocrm.faults.add({ fault: { kind: "block" } });
    await run();
    amocrm.faults.clear();
    await storage.rateLimits.unblock("amocrm:demo.amocrm.ru:token");
    await run();
  }
  expect(alerts.map(({ kind }) => kind)).toEqual(["refused", "block", "block"]);
});

test("a shop whose imports no longer end is told as silent, until one ends", async () => {
  const { alerts, sync, clock } = createWatched();
  await sync.importNew();
  const since = clock.now();
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

test("an onAlert that rejects is logged and ends no process", async () => {
  const logged: unknown[][] = [];
  const { kaspi, sync } = createSetting({
    sync: {
      onAlert: () => Promise.reject(new Error("the pager is broken")),
      logger: { ...silentLogger, error: (...line) => void logged.push(line) },
    },
  });
  kaspi.addOrder(order("700000001", { status: "CANCELLING" }));
  await sync.importNew(); // a rejection that nobody takes fails the test run
  await expect.poll(() => logged.map(([message]) => message)).toContain("kaspi-amocrm: onAlert failed");
});

test("the log names the order of an alert", async () => {
  const logged: unknown[][] = [];
  const logger = { ...silentLogger, error: (...line: unknown[]) => void logged.push(line) };
  const { kaspi, amocrm, sync } = createSetting({ sync: { attemptsBeforeParking: 1, logger } });
  kaspi.addOrder(order("700000001"));
  amocrm.refuses = (item) => item.includes('"Kaspi 700000001"');
  await sync.importNew();
  const [, fields] = logged.find(([message]) => String(message).includes("parked")) ?? [];
  expect(fields).toMatchObject({ kind: "parked", shop: "default", order: "700000001" });
});

test.each([
  [401, (setting: ReturnType<typeof createWatched>) => revokedWorker(setting)],
  [
    402,
    (setting: ReturnType<typeof createWatched>) => {
      setting.amocrm.isPaid = false;
      return setting.sync;
    },
  ],
] as const)(
  "amoCRM that answers every call with %i is told once, and the silence after an hour",
  async (status, spoil) => {
    const setting = createWatched();
    const { alerts, kaspi, clock } = setting;
    await setting.sync.importNew();
    const worker = spoil(setting);
    kaspi.addOrder(order("700000001"));
    for (let run = 0; run < 12; run++) {
      clock.advance(10 * minute);
      await worker.importNew().catch(() => undefined);
      await worker.reconcile().catch(() => undefined);
    }
    expect(alerts).toMatchObject([
      { kind: "refused", vendor: "amocrm", status },
      { kind: "silence", shop: "default" },
    ]);
  },
);

test("a Kaspi token that was wrong from the start is told, and that no import has ever ended", async () => {
  const { alerts, createWorker, clock } = createWatched();
  const worker = createWorker({
    kaspi: [createKaspi({ token: "wrong", clock, fetch: fetchFrom(createFakeKaspi({ clock }).handle), minDelayMs: 1 })],
  });
  for (let run = 0; run < 10; run++) {
    await worker.importNew().catch(() => undefined);
    await worker.reconcile().catch(() => undefined);
    clock.advance(10 * minute);
  }
  expect(alerts).toMatchObject([{ kind: "refused", vendor: "kaspi", status: 401 }, { kind: "silence" }]);
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
