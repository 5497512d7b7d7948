import type { Fault } from "@orderbridge/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { outcomeOf } from "./outcome.ts";
import { createOrders, createSetting } from "./setting.ts";
import { dailyStorages, type OpenStorage } from "./storages.ts";

type Setting = ReturnType<typeof createSetting>;

const orders = createOrders(8).map((order, index) => ({
  ...order,
  ...(index === 2 && { state: "ARCHIVE", status: "COMPLETED" }),
}));

async function play(setting: Setting, trouble: () => void) {
  const { kaspi, sync, clock, amocrm } = setting;
  for (const order of orders) kaspi.addOrder(order);
  trouble();
  const run = async () => {
    await sync.importNew().catch(() => undefined);
    clock.advance(130_000);
    await sync.reconcile().catch(() => undefined);
    clock.advance(130_000);
  };
  await run();
  kaspi.changeOrder("700000001", { entries: [{ sku: "SKU-1", name: "Шам", basePrice: 7990.5, quantity: 1 }] });
  kaspi.changeOrder("700000004", { state: "ARCHIVE", status: "CANCELLED" });
  await run();
  amocrm.faults.clear();
  kaspi.faults.clear();
  await run();
  await run();
  return outcomeOf(amocrm);
}

const clean = await play(createSetting(), () => undefined);

const faults: readonly Fault[] = [
  { kind: "dropReplyAfterExecuting" },
  { kind: "failAfterExecuting", status: 502 },
  { kind: "failAfterExecuting", status: 504 },
  { kind: "failBeforeExecuting", status: 503 },
  { kind: "htmlAnswer" },
  { kind: "truncate" },
  { kind: "rateLimit" },
];
const nameOf = (fault: Fault): string => ("status" in fault ? `${fault.kind} ${fault.status}` : fault.kind);
const calls = [
  "POST /api/v4/contacts",
  "POST /api/v4/leads",
  "PATCH /api/v4/leads",
  "POST /api/v4/catalogs/9001/elements",
  "POST /api/v4/leads/link",
  "POST /api/v4/leads/unlink",
  "POST /api/v4/leads/notes",
  "PATCH /api/v4/leads/notes",
  "GET /api/v4/leads/links",
  "GET /api/v4/contacts",
];
const readings = [
  { relinking: "replaces", losesTenthLink: false },
  { relinking: "adds", losesTenthLink: true },
] as const;

const combinations = faults.flatMap((fault) =>
  calls.flatMap((call) =>
    readings.map((reading) => ({
      fault,
      call,
      reading,
      title: `${nameOf(fault)} at ${call}, relinking ${reading.relinking},`,
    })),
  ),
);

/** Every combination with `PROOF=1`; else in memory each seventh, which meets every fault and every call. */
const stepOf = (storageName: string): number => (process.env.PROOF === "1" ? 1 : storageName === "memory" ? 7 : 49);

/** What was written although nobody said so may double. */
const afterExecuting = faults.filter(({ kind }) => kind === "dropReplyAfterExecuting" || kind === "failAfterExecuting");
const writes = calls.filter((call) => !call.startsWith("GET"));

test("the undisturbed run is as expected", () => {
  expect(clean.leads).toHaveLength(8);
  expect(clean.leads.map(({ notes }) => notes.length)).toEqual(Array(8).fill(1));
  expect(clean.leads.find(({ name }) => name === "Kaspi 700000001")).toMatchObject({
    price: 7991,
    goods: [["SKU-1", 1]],
  });
  expect(clean.leads.find(({ name }) => name === "Kaspi 700000004")?.statusId).toBe(143);
});

for (const { name: storageName, skipped, open } of dailyStorages("MariaDB")) {
  describe.skipIf(skipped)(storageName, () => {
    let storage: OpenStorage;
    let passed = 0;
    beforeAll(async () => {
      storage = await open();
    });
    afterAll(async () => {
      recordProof(`kaspi-amocrm-faults-${storageName.toLowerCase()}`, { combinations: passed, "same outcome": passed });
      await storage?.close();
    });

    const meets = (call: string) => (request: Request) => `${request.method} ${new URL(request.url).pathname}` === call;

    test.each(combinations.filter((_combination, index) => index % stepOf(storageName) === 0))(
      "$title changes nothing in the end",
      async ({ fault, call, reading }) => {
        const setting = createSetting({ ...(await storage.clear()), amocrm: reading });
        const outcome = await play(setting, () => {
          setting.amocrm.faults.add({ fault, times: 2, match: meets(call) });
        });
        expect(outcome).toEqual(clean);
        expect(setting.amocrm.faults.hits).toBeGreaterThan(0);
        passed++;
      },
    );

    test.each(afterExecuting.flatMap((fault) => readings.map((reading) => ({ fault, reading, title: nameOf(fault) }))))(
      "$title at the first of every kind of write, relinking $reading.relinking, changes nothing in the end",
      async ({ fault, reading }) => {
        const setting = createSetting({ ...(await storage.clear()), amocrm: reading });
        const outcome = await play(setting, () => {
          for (const call of writes) setting.amocrm.faults.add({ fault, match: meets(call) });
        });
        expect(outcome).toEqual(clean);
        expect(setting.amocrm.faults.hits).toBe(writes.length);
      },
    );

    test("lists that come without their lines change nothing in the end", async () => {
      const setting = createSetting({ ...(await storage.clear()), kaspi: { ignoresInclude: true } });
      expect(await play(setting, () => undefined)).toEqual(clean);
    });

    // Each with memory and in full; of the rest the databases see what is answered in place of JSON.
    const kaspiFaults = stepOf(storageName) <= 7 ? faults : faults.filter(({ kind }) => /html|truncate/.test(kind));
    test.each(kaspiFaults)("$kind of Kaspi in the middle of a listing loses nothing", async (fault) => {
      const setting = createSetting(await storage.clear());
      const outcome = await play(setting, () => {
        setting.kaspi.faults.add({ fault, times: 4, match: ({ url }) => url.includes("ARCHIVE") });
      });
      expect(outcome).toEqual(clean);
      expect(setting.kaspi.faults.hits).toBe(4);
    });

    test.each(["atomic", "partial"] as const)(
      "one bad order of many is parked alone when bad items are %s",
      async (badItems) => {
        const {
          kaspi,
          amocrm,
          sync,
          clock,
          storage: stores,
        } = createSetting({
          ...(await storage.clear()),
          amocrm: { badItems },
          sync: { attemptsBeforeParking: 2 },
        });
        for (const order of createOrders(50)) kaspi.addOrder(order);
        amocrm.refuses = (item) => item.includes('"Kaspi 700000017"');

        expect(await sync.importNew()).toMatchObject({ created: 49, failed: 1, parked: 0 });
        expect(amocrm.leads).toHaveLength(49);
        clock.advance(120_000);
        expect(await sync.importNew()).toMatchObject({ failed: 1, parked: 1 });
        expect((await sync.status()).parked).toEqual([
          { shop: "default", code: "700000017", reason: "lead refused: NotSupportedChoice name" },
        ]);
        // The watermark went on: a poison order holds nobody back.
        expect((await sync.status()).shops[0]?.watermark?.getTime()).toBeGreaterThan(
          Date.parse("2026-11-20T06:00:00Z"),
        );

        amocrm.refuses = undefined;
        clock.advance(3_600_000);
        expect(await sync.importNew()).toMatchObject({ created: 1 });
        expect(amocrm.leads).toHaveLength(50);
        expect((await stores.orders.counts()).done).toBe(50);
      },
    );

    test("a block stops every call, survives a restart and is lifted by a person only", async () => {
      const setting = createSetting(await storage.clear({ storesBudget: true }));
      const { kaspi, amocrm, sync, clock, createWorker } = setting;
      for (const order of orders) kaspi.addOrder(order);
      amocrm.faults.add({ fault: { kind: "block" } });
      await expect(sync.importNew()).rejects.toThrow("blocks this account");
      const calls = amocrm.journal.entries.length;
      clock.advance(3_600_000);
      await expect(createWorker().importNew()).rejects.toThrow("calls are stopped since");
      expect(amocrm.journal.entries).toHaveLength(calls);

      amocrm.faults.clear();
      await setting.storage.rateLimits.unblock("amocrm:demo.amocrm.ru:token");
      clock.advance(3_600_000);
      expect(await createWorker().importNew()).toMatchObject({ created: 8 });
    });
  });
}
