import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import type { FakeOrder } from "../src/testing/index.ts";
import { createKiller } from "./killer.ts";
import { outcomeOf } from "./outcome.ts";
import { createOrders, createSetting } from "./setting.ts";
import { type OpenStorage, testStorages } from "./storages.ts";

const orders: readonly FakeOrder[] = createOrders(4).map((order, index) => ({
  ...order,
  ...(index === 2 && { state: "ARCHIVE", status: "COMPLETED" }),
}));

async function createScene(
  storage: OpenStorage,
  point: number,
  before: (setting: ReturnType<typeof createSetting>) => Promise<void>,
) {
  const setting = createSetting(await storage.clear());
  for (const order of orders) setting.kaspi.addOrder(order);
  await before(setting);
  const killer = createKiller(point);
  const { watermarks, leases, orders: ledger, contacts, elements, events } = setting.storage;
  const worker = setting.createWorker({
    storage: storage.through?.(killer.plugin, setting.clock) ?? {
      watermarks: killer.guardAll(watermarks),
      leases: killer.guardAll(leases),
      orders: killer.guardAll(ledger),
      contacts: killer.guardAll(contacts),
      elements: killer.guardAll(elements),
      events: killer.guardAll(events),
    },
    guardFetch: (send) => killer.guard(send as () => Promise<Response>) as typeof fetch,
  });
  return { ...setting, worker, killer };
}

async function goOn(
  { clock, sync, amocrm, kaspi }: Awaited<ReturnType<typeof createScene>>,
  after: Partial<FakeOrder>,
) {
  clock.advance(601_000); // leases end, writes settle
  kaspi.changeOrder("700000000", after);
  await sync.reconcile();
  clock.advance(601_000);
  await sync.importNew();
  return outcomeOf(amocrm);
}

/** Every point with `PROOF=1`; else each twentieth in memory and a few in databases, to keep the daily run short. */
const stepOf = (storageName: string): number => (process.env.PROOF === "1" ? 1 : storageName === "memory" ? 20 : 90);

/**
 * Of a clean run, as counted last. A job that has become shorter for a reason gets its new number here.
 *
 * Commits are between the answer of a transaction's last statement (rolled back) and the next point (committed). An insert
 * that MariaDB refuses as a duplicate has no answer to stop at. A batch of rows is saved in one statement.
 */
const recordedPoints: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  importNew: { memory: 126, SQLite: 166, PostgreSQL: 170, MariaDB: 170 },
  "reconcile, after which the order moves on": { memory: 102, SQLite: 136, PostgreSQL: 142, MariaDB: 141 },
  "reconcile, after which the order moves back": { memory: 102, SQLite: 136, PostgreSQL: 142, MariaDB: 141 },
  reconcile: { memory: 102, SQLite: 136, PostgreSQL: 142, MariaDB: 141 },
};

const reconcile = {
  async before({ kaspi, sync, clock }: ReturnType<typeof createSetting>) {
    await sync.importNew();
    clock.advance(60_000);
    kaspi.changeOrder("700000000", { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" });
    kaspi.changeOrder("700000001", { entries: [{ sku: "SKU-1", name: "Шам", basePrice: 7990.5, quantity: 1 }] });
    kaspi.changeOrder("700000003", { cellPhone: "7010000009" });
  },
  work: (worker: ReturnType<ReturnType<typeof createSetting>["createWorker"]>) => worker.reconcile(),
};

const jobs = [
  {
    name: "importNew",
    before: async () => undefined,
    work: (worker: ReturnType<ReturnType<typeof createSetting>["createWorker"]>) => worker.importNew(),
    after: {},
  },
  { name: "reconcile", ...reconcile, after: {} },
  // A stage that was written without a note of it must not pass for a person's move.
  {
    name: "reconcile, after which the order moves on",
    ...reconcile,
    after: { state: "ARCHIVE", status: "COMPLETED" },
  },
  {
    name: "reconcile, after which the order moves back",
    ...reconcile,
    after: { state: "NEW", status: "APPROVED_BY_BANK" },
  },
];

for (const { name: storageName, skipped, open } of testStorages()) {
  describe.skipIf(skipped)(storageName, () => {
    let storage: OpenStorage;
    beforeAll(async () => {
      storage = await open();
    });
    afterAll(() => storage?.close());

    test.each(jobs)(
      "a process that dies at any point of $name leaves nothing lost and nothing double",
      { timeout: 600_000 },
      async ({ name, before, work, after }) => {
        const clean = await createScene(storage, Number.POSITIVE_INFINITY, before);
        await work(clean.worker);
        const points = clean.killer.passed();
        const expected = await goOn(clean, after);
        expect(expected.leads).toHaveLength(4);
        expect(points, "points; fewer need a reason").toBeGreaterThanOrEqual(
          recordedPoints[name]?.[storageName] as number,
        );
        process.stdout.write(`  ${name} on ${storageName}: ${points} kill points\n`);

        let killed = 0;
        for (let point = 0; point < points; point += stepOf(storageName)) {
          const scene = await createScene(storage, point, before);
          const end = await Promise.race([work(scene.worker).catch(() => "failed"), scene.killer.dead]);
          expect(end, `point ${point}`).toBe("killed");
          expect(await goOn(scene, after), `killed at point ${point} of ${points}`).toEqual(expected);
          killed++;
        }
        recordProof(`kaspi-amocrm-kill-points-${name.replaceAll(/\W+/g, "-")}-${storageName.toLowerCase()}`, {
          points,
          killed,
          "same outcome": killed,
        });
      },
    );
  });
}
