import { silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import { type KyselyPlugin, sql } from "kysely";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { testDatabases } from "../../core/test/databases.ts";
import { createKiller } from "../../kaspi-amocrm/test/killer.ts";
import {
  type BitrixStorage,
  createBitrix,
  createDealSide,
  createDealSweep,
  createEventHandler,
  createOrderSide,
  createOrderStatusHandler,
  createOrders,
  createProductSync,
  createStatusSync,
  createSyncHandlers,
  createWorker,
  productTopic,
} from "../src/index.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix, createFakeBitrixSite } from "../src/testing/index.ts";
import { stages } from "./backend-and-portal.ts";

const secret = "site-webhook-secret";
const productId = 668826;

interface Open {
  /** Empties it. */
  clear(clock: FakeClock): Promise<BitrixStorage>;
  /** What a process that can be killed works on. */
  through(killer: ReturnType<typeof createKiller>, storage: BitrixStorage, clock: FakeClock): BitrixStorage;
  close(): Promise<void>;
}

const memory = {
  name: "memory",
  skipped: false,
  open: async (): Promise<Open> => ({
    clear: async (clock) => createBitrixMemoryStorage({ clock }),
    through: ({ guard, guardAll }, { transaction, prune, ping, ...stores }) => ({
      orders: guardAll(stores.orders),
      products: guardAll(stores.products),
      links: guardAll(stores.links),
      work: guardAll(stores.work),
      transaction: guard(transaction as never) as typeof transaction,
      prune,
      ping,
    }),
    close: async () => undefined,
  }),
};
const tables = ["orders", "order_changes", "products", "product_conflicts", "links", "work"];
const databases = testDatabases().map(({ name, skipped, open }) => ({
  name,
  skipped,
  async open(): Promise<Open> {
    const database = await open();
    await createBitrixStorage(database).migrate();
    const withPlugin = (plugin: KyselyPlugin) => ({ ...database, db: database.db.withPlugin(plugin) });
    return {
      async clear(clock) {
        for (const table of tables) await sql`delete from ${sql.table(`bitrix_${table}`)}`.execute(database.db);
        return createBitrixStorage({ ...database, clock });
      },
      through: ({ plugin }, _storage, clock) => createBitrixStorage({ ...withPlugin(plugin), clock }),
      close: database.close,
    };
  },
}));

/** Ids of orders are random. */
const by =
  <Name extends string>(name: Name) =>
  (left: { readonly [key in Name]: string | undefined }, right: { readonly [key in Name]: string | undefined }) =>
    Number(left[name]) - Number(right[name]);

/** A portal, a site, and a backend of two processes: one that is killed at a point, and one that goes on. */
async function createScene(open: Open, point: number) {
  const clock = createFakeClock();
  const storage = await open.clear(clock);
  const killer = createKiller(point);
  const portal = createFakeBitrix({
    clock,
    bucket: { perSecond: 1000, capacity: 1_000_000 },
    operatingLimitSeconds: 10_000_000,
    // Nobody waits for the answer of a dead process.
    deliver: (request) =>
      Promise.race([receiver.events(request), killer.dead.then(() => new Response(null, { status: 502 }))]),
  });
  const site = createFakeBitrixSite({
    backendUrl: "http://backend",
    webhookSecret: secret,
    siteToken: "site-token",
    clock,
    fetch: fetchFrom(async (request) => {
      await webhooksOfSite;
      return heir.products.handle(request);
    }),
  });
  let webhooksOfSite = Promise.resolve();
  let letWebhooksGo = (): void => undefined;
  const core = createMemoryStorage({ clock });

  function start(stores: BitrixStorage, guard: <Send>(send: Send) => Send) {
    const common = { storage: stores, clock, logger: silentLogger };
    const bitrix = createBitrix({
      webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
      fetch: guard(fetchFrom(portal.handle)),
      plan: { intervalMs: 0.001 },
      operatingLimitSeconds: 10_000_000,
      retries: 0,
    });
    const sync = createStatusSync({
      ...common,
      name: "order-deal",
      left: createOrderSide({ storage: stores, changedBy: "bitrix24", clock }),
      right: createDealSide({ bitrix, stages, paidStageId: "PREPAYMENT_INVOICE" }),
      conflict: "right",
    });
    const products = createProductSync({
      ...common,
      siteUrl: "http://site",
      siteToken: "site-token",
      secrets: [secret],
      fetch: guard(fetchFrom(site.handle)),
    });
    return {
      products,
      orders: createOrders({ storage: stores, clock }),
      statusWebhook: createOrderStatusHandler({ ...common, secrets: [secret] }),
      events: createEventHandler({ ...common, applicationTokens: ["fake-application-token"] }),
      sweep: createDealSweep({ ...common, bitrix, core, sync: "order-deal" }),
      worker: createWorker({
        ...common,
        retryMs: 0,
        handlers: { ...createSyncHandlers({ sync, storage: stores }), [productTopic]: products.push },
      }),
    };
  }

  const heir = start(storage, (send) => send);
  const doomed = start(
    open.through(killer, storage, clock),
    (send) => killer.guard(send as () => Promise<unknown>) as typeof send,
  );
  let receiver: Pick<typeof heir, "events"> = heir;
  async function settle(): Promise<void> {
    do await portal.settled();
    while ((await heir.worker.drain()) > 0);
  }

  site.addProduct({ id: productId, name: "Эустомы", price: "4500.00" });
  await site.resendProduct(productId);
  const deal = portal.addDeal({ title: "Заказ" });
  const order = await heir.orders.create({ total: "1000.00", bitrixOrderId: "123456", dealId: String(deal.id) });
  await settle();
  await heir.sweep.sweep();
  await settle();

  const sendStatus = (to: typeof heir) =>
    to.statusWebhook(
      new Request("http://backend/status", {
        method: "POST",
        headers: { "x-webhook-secret": secret },
        body: JSON.stringify({ order_id: 123456, status: "AP", paid: true, version: 2 }),
      }),
    );
  return {
    killer,
    heir,
    doomed,
    portal,
    orderId: order.id,
    dealId: deal.id,
    sendStatus,
    settle,
    /** Events reach this process from now on. */
    receiveAt(process: typeof heir) {
      receiver = process;
    },
    /** What tells of its own writes would come sooner or later than it ends, so that points could not be counted. */
    loseEvents: () => portal.setEventCopies(() => 0),
    delayWebhooks() {
      const { promise, resolve } = Promise.withResolvers<void>();
      webhooksOfSite = promise;
      letWebhooksGo = resolve;
    },
    /** The claims of the dead end, the sweep comes by, and everything is done. */
    async goOn() {
      receiver = heir;
      portal.setEventCopies(() => 1);
      letWebhooksGo();
      for (let round = 0; round < 2; round++) {
        clock.advance(300_001);
        await heir.sweep.sweep();
        await settle();
      }
      const all = [...(await storage.orders.list({ limit: 10 }))].sort(by("dealId"));
      const histories = await Promise.all(all.map(({ id }) => storage.orders.history(id)));
      const product = await storage.products.get(String(productId));
      return {
        orders: all.map(({ status, paidAt, dealId }) => ({ status, paid: paidAt !== undefined, dealId })),
        histories: histories.map((changes) => changes.map(({ from, to, changedBy }) => [from, to, changedBy])),
        deals: portal.deals.map(({ stageId }) => stageId),
        writes: portal.writes.length,
        links: [...(await storage.links.list("order-deal", { limit: 10 }))]
          .sort(by("rightId"))
          .map(({ rightId, state, agreed }) => ({ rightId, state, agreed })),
        product: [product?.name, product?.priceMinor, product?.pending, product?.siteVersion],
        conflicts: (await storage.products.conflicts(String(productId))).length,
        site: { ...site.product(productId), changedAt: undefined },
        parked: await storage.work.parked({ limit: 10 }),
      };
    },
  };
}
type Scene = Awaited<ReturnType<typeof createScene>>;

interface Job {
  readonly name: string;
  before(scene: Scene): Promise<unknown>;
  work(scene: Scene): Promise<unknown>;
  /** What a sender that got no answer does then. */
  after?(scene: Scene): Promise<unknown>;
}

const jobs: readonly Job[] = [
  {
    name: "telling a deal of its order's status and payment",
    before({ heir, orderId, loseEvents }) {
      loseEvents();
      return heir.orders.change(orderId, { status: "accepted", paid: true }, { changedBy: "manager" });
    },
    work: ({ doomed }) => doomed.worker.drain(),
  },
  {
    name: "hearing of a deal and telling its order",
    async before(scene) {
      scene.receiveAt(scene.doomed);
    },
    async work({ portal, dealId, doomed }) {
      portal.moveDeal(dealId, "WON");
      await portal.settled();
      await doomed.worker.drain();
    },
  },
  {
    name: "finding a deal by its link field",
    async before({ heir, portal, settle }) {
      const { id } = await heir.orders.create({ total: "5.00" });
      await settle();
      portal.moveDeal(portal.addDeal({ UF_CRM_ORDER_ID: id }).id, "EXECUTING");
      await portal.settled();
    },
    work: ({ doomed }) => doomed.worker.drain(),
  },
  {
    name: "taking over a status of the site",
    before: async ({ loseEvents }) => loseEvents(),
    async work({ doomed, sendStatus }) {
      await sendStatus(doomed);
      await doomed.worker.drain();
    },
    after: ({ heir, sendStatus }) => sendStatus(heir),
  },
  {
    name: "pushing a product to the site",
    before({ heir, delayWebhooks }) {
      delayWebhooks();
      return heir.products.update(String(productId), { name: "Розы", priceMinor: 500_000n });
    },
    work: ({ doomed }) => doomed.worker.drain(),
  },
  {
    name: "following a deal and telling it of a payment in one look",
    before({ heir, portal, dealId, orderId, loseEvents }) {
      loseEvents();
      portal.moveDeal(dealId, "PREPARATION");
      return heir.orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    },
    work: ({ doomed }) => doomed.worker.drain(),
  },
];

/** Every point with `PROOF=1`; else each seventh in memory and a few in databases, to keep the daily run short. */
const stepOf = (storageName: string): number =>
  process.env.PROOF === "1" ? 1 : storageName === "memory" ? 7 : storageName === "SQLite" ? 11 : 23;

/** Of a clean run, as counted last; fewer need a reason. */
const recordedPoints: Readonly<Record<string, readonly number[]>> = {
  memory: [20, 30, 38, 22, 12, 24],
  SQLite: [28, 46, 56, 38, 20, 38],
  PostgreSQL: [28, 46, 56, 38, 20, 38],
  MariaDB: [28, 46, 56, 38, 20, 38],
};

for (const { name: storageName, skipped, open } of [memory, ...databases]) {
  describe.skipIf(skipped)(storageName, () => {
    let opened: Open;
    beforeAll(async () => {
      opened = await open();
    });
    afterAll(() => opened?.close());

    test.each(jobs.map((job, index) => ({ ...job, index })))(
      "a process that dies at any point of $name leaves nothing lost and nothing double",
      { timeout: 300_000 },
      async ({ name, index, before, work, after }) => {
        const clean = await createScene(opened, Number.POSITIVE_INFINITY);
        await before(clean);
        await work(clean);
        const points = clean.killer.passed();
        await after?.(clean);
        const expected = await clean.goOn();
        expect(expected.parked).toEqual([]);
        expect(points, "points; fewer need a reason").toBeGreaterThanOrEqual(recordedPoints[storageName]?.[index] ?? 1);
        process.stdout.write(`  ${name} on ${storageName}: ${points} kill points\n`);

        let killed = 0;
        for (let point = 0; point < points; point += stepOf(storageName)) {
          const scene = await createScene(opened, point);
          await before(scene);
          const end = await Promise.race([work(scene).catch(() => "failed"), scene.killer.dead]);
          expect(end, `point ${point}`).toBe("killed");
          await after?.(scene);
          expect(await scene.goOn(), `killed at point ${point} of ${points}`).toEqual(expected);
          killed++;
        }
        recordProof(`bitrix-kill-points-${index}-${storageName.toLowerCase()}`, {
          job: name,
          points,
          killed,
          "same outcome": killed,
        });
      },
    );
  });
}
