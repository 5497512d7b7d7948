import { deepEqual, equal, rejects } from "node:assert/strict";
import type { ConformanceCase, FakeClock } from "@orderbridge/core/testing";
import type { BitrixStorage, Order, Product, SyncLink } from "../storage.ts";

export interface BitrixStorageContext {
  readonly storage: BitrixStorage;
  /** The clock that the storage was created with. */
  readonly clock: FakeClock;
}

const at = new Date("2026-11-01T07:00:00.123Z");

const order = (id: string, fields: Partial<Order> = {}): Order => ({
  id,
  bitrixOrderId: undefined,
  dealId: undefined,
  total: "1000.00",
  status: "new",
  statusChangedAt: at,
  paidAt: undefined,
  paidBy: undefined,
  siteVersion: undefined,
  siteChangedAt: undefined,
  version: 1,
  createdAt: at,
  ...fields,
});

const product = (fields: Partial<Product> = {}): Product => ({
  id: "668826",
  name: "Эустомы",
  priceMinor: 500_000n,
  currency: "KZT",
  enabled: true,
  siteVersion: 7,
  pending: true,
  sent: undefined,
  version: 1,
  updatedAt: at,
  ...fields,
});

const link = (fields: Partial<SyncLink> = {}): SyncLink => ({
  sync: "order-deal",
  leftId: "order-1",
  rightId: "7405",
  agreed: undefined,
  expectedEcho: undefined,
  echoes: 0,
  nearMisses: 0,
  state: "active",
  note: undefined,
  unfollowed: undefined,
  version: 1,
  ...fields,
});

/** What every storage of this package keeps to. */
export const bitrixStorageCases: readonly ConformanceCase<BitrixStorageContext>[] = [
  {
    name: "gives an order back as it was stored, by its id and by its Bitrix order id",
    async run({ storage: { orders } }) {
      const full = order("order-1", {
        bitrixOrderId: "123456",
        dealId: "9007199254740993",
        paidAt: at,
        paidBy: "backend",
        siteVersion: 3,
        siteChangedAt: at,
      });
      equal(await orders.insert(full), true);
      deepEqual(await orders.get("order-1"), full);
      deepEqual(await orders.getByBitrixOrderId("123456"), full);
      equal(await orders.get("ORDER-1"), undefined);
      equal(await orders.getByBitrixOrderId("12345"), undefined);
    },
  },
  {
    name: "refuses an order whose id, Bitrix order id or deal id is taken, and takes many without them",
    async run({ storage: { orders } }) {
      equal(await orders.insert(order("a", { bitrixOrderId: "1", dealId: "10" })), true);
      equal(await orders.insert(order("a")), false);
      equal(await orders.insert(order("b", { bitrixOrderId: "1" })), false);
      equal(await orders.insert(order("c", { dealId: "10" })), false);
      equal(await orders.insert(order("d")), true);
      equal(await orders.insert(order("e")), true);
    },
  },
  {
    name: "lists the newest orders first",
    async run({ storage: { orders } }) {
      await orders.insert(order("a", { createdAt: new Date(1000) }));
      await orders.insert(order("b", { createdAt: new Date(2000) }));
      await orders.insert(order("c", { createdAt: new Date(3000) }));
      deepEqual(
        (await orders.list({ limit: 2 })).map(({ id }) => id),
        ["c", "b"],
      );
    },
  },
  {
    name: "replaces an order only on top of the version before, with its history in order",
    async run({ storage: { orders } }) {
      await orders.insert(order("order-1"));
      const status = { field: "status", from: "new", to: "accepted", changedBy: "bitrix", changedAt: at } as const;
      const paid = { field: "paid", from: "unpaid", to: "paid", changedBy: "backend", changedAt: at } as const;
      equal(await orders.replace(order("order-1", { status: "accepted", version: 2 }), [status, paid]), true);
      equal(await orders.replace(order("order-1", { status: "delivered", version: 2 }), [status]), false);
      equal(await orders.replace(order("nobody", { version: 2 }), [status]), false);
      equal((await orders.get("order-1"))?.status, "accepted");
      deepEqual(await orders.history("order-1"), [status, paid]);
      deepEqual(await orders.history("nobody"), []);
    },
  },
  {
    name: "lets one of many simultaneous changes of an order through",
    async run({ storage: { orders } }) {
      await orders.insert(order("order-1"));
      const results = await Promise.all(
        Array.from({ length: 8 }, (_, index) =>
          orders.replace(order("order-1", { total: `${index}.00`, version: 2 }), []),
        ),
      );
      equal(results.filter(Boolean).length, 1);
    },
  },
  {
    name: "keeps a product and its conflicts, once per version",
    async run({ storage: { products } }) {
      const first = product({ sent: { name: "Эустомы", priceMinor: 400_000n, currency: "KZT", enabled: undefined } });
      equal(await products.put(first), true);
      equal(await products.put(first), false);
      deepEqual(await products.get("668826"), first);
      const ours = { name: "Эустомы", priceMinor: 500_000n, currency: "KZT", enabled: true };
      const conflict = {
        productId: "668826",
        at,
        ours,
        theirs: { ...ours, name: undefined, priceMinor: 9_007_199_254_740_993n },
        siteVersion: 8,
      };
      const second = product({
        version: 2,
        pending: false,
        name: undefined,
        enabled: undefined,
        siteVersion: undefined,
      });
      equal(await products.put(second, conflict), true);
      equal(await products.put(second, conflict), false);
      deepEqual(await products.get("668826"), second);
      deepEqual(await products.conflicts("668826"), [conflict]);
    },
  },
  {
    name: "keeps a link, found from both ends, and lets no other link take an end",
    async run({ storage: { links } }) {
      equal(await links.put(link()), true);
      equal(await links.put(link()), false);
      equal(await links.put(link({ leftId: "order-2" })), false);
      const agreed = {
        left: { code: "new", paid: true },
        right: { code: "C9:NEW", paid: false },
      };
      const second = link({
        agreed,
        expectedEcho: { side: "right", code: "C9:WON", until: at },
        echoes: 2,
        nearMisses: 1,
        note: "unmapped C9:UC_NYL06U",
        unfollowed: { side: "right", status: "accepted" },
        version: 2,
      });
      equal(await links.put(second), true);
      deepEqual(await links.getByLeft("order-deal", "order-1"), second);
      deepEqual(await links.getByRight("order-deal", "7405"), second);
      equal(await links.getByRight("another", "7405"), undefined);
      await links.put(link({ leftId: "order-2", rightId: "7406" }));
      equal(await links.put(link({ leftId: "order-2", rightId: "7405", version: 2 })), false);
      const listed = await links.list("order-deal", { after: "order-1", limit: 10 });
      deepEqual(
        listed.map(({ leftId }) => leftId),
        ["order-2"],
      );
    },
  },
  {
    name: "hands out marked work once, however often it was marked",
    async run({ storage: { work } }) {
      await work.mark("deal", "7405");
      await work.mark("deal", "7405");
      await work.mark("order", "7405");
      const [first, ...others] = await work.claim({ topics: ["deal"], limit: 10, ttlMs: 1000 });
      deepEqual([first?.topic, first?.key, first?.attempt, others.length], ["deal", "7405", 1, 0]);
      deepEqual(await work.claim({ topics: ["deal"], limit: 10, ttlMs: 1000 }), []);
      equal(first && (await work.finish(first)), true);
      equal((await work.get("deal", "7405"))?.state, "done");
      deepEqual(await work.claim({ topics: ["deal"], limit: 10, ttlMs: 1000 }), []);
    },
  },
  {
    name: "keeps an item due that was marked while it was at work",
    async run({ storage: { work } }) {
      await work.mark("deal", "1");
      const [first] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      await work.mark("deal", "1");
      deepEqual(await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 }), []);
      equal(first && (await work.finish(first)), true);
      const [second] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      deepEqual([second?.key, second?.attempt], ["1", 1]);
    },
  },
  {
    name: "hands out an expired claim again and refuses the former holder",
    async run({ storage: { work }, clock }) {
      await work.mark("deal", "1");
      const [first] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      clock.advance(1000);
      const [second] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      equal(second?.attempt, 2);
      equal(first && (await work.finish(first)), false);
      equal(first && (await work.park(first, "late")), false);
      equal(second && (await work.finish(second)), true);
    },
  },
  {
    name: "waits for the delay of a retry and of a mark",
    async run({ storage: { work }, clock }) {
      await work.mark("deal", "1", { delayMs: 500 });
      deepEqual(await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 }), []);
      clock.advance(500);
      const [first] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      equal(first && (await work.retry(first, { delayMs: 2000, error: "503" })), true);
      clock.advance(1999);
      deepEqual(await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 }), []);
      deepEqual(await work.get("deal", "1"), { topic: "deal", key: "1", state: "due", attempts: 1, lastError: "503" });
      clock.advance(1);
      const [second] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      equal(second?.attempt, 2);
    },
  },
  {
    name: "counts an item's own failures beside its attempts, until it succeeds or is marked after it was set aside",
    async run({ storage: { work } }) {
      const claim = async () => {
        const [claimed] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
        if (!claimed) throw new Error("nothing is due");
        return claimed;
      };
      await work.mark("deal", "1");
      const first = await claim();
      deepEqual([first.attempt, first.failures], [1, 0]);
      await work.retry(first, { delayMs: 0, error: "502", isOutage: true });
      const second = await claim();
      deepEqual([second.attempt, second.failures], [2, 0]);
      await work.retry(second, { delayMs: 0, error: "422" });
      const third = await claim();
      deepEqual([third.attempt, third.failures], [3, 1]);
      await work.mark("deal", "1"); // while it is at work: no success
      await work.retry(third, { delayMs: 0, error: "422" });
      const fourth = await claim();
      deepEqual([fourth.attempt, fourth.failures], [4, 2]);
      await work.park(fourth, "422");
      await work.mark("deal", "1");
      const fifth = await claim();
      deepEqual([fifth.attempt, fifth.failures], [1, 0]);
      await work.retry(fifth, { delayMs: 0, error: "422" });
      await work.finish(await claim());
      await work.mark("deal", "1");
      deepEqual((await claim()).failures, 0);
    },
  },
  {
    name: "sets work aside until it is marked again",
    async run({ storage: { work } }) {
      await work.mark("deal", "1");
      const [first] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      equal(first && (await work.park(first, "broken")), true);
      deepEqual(await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 }), []);
      const entry = { topic: "deal", key: "1", state: "parked", attempts: 1, lastError: "broken" };
      deepEqual(await work.get("deal", "1"), entry);
      deepEqual(await work.parked({ limit: 10 }), [entry]);
      await work.mark("deal", "1");
      const [second] = await work.claim({ topics: ["deal"], limit: 1, ttlMs: 1000 });
      equal(second?.attempt, 1);
    },
  },
  {
    name: "gives each item to one of many workers",
    async run({ storage: { work } }) {
      for (let index = 0; index < 10; index++) await work.mark("deal", String(index));
      const claims = await Promise.all(
        Array.from({ length: 4 }, () => work.claim({ topics: ["deal"], limit: 10, ttlMs: 1000 })),
      );
      const keys = claims.flat().map(({ key }) => key);
      deepEqual([keys.length, new Set(keys).size], [10, 10]);
    },
  },
  {
    name: "counts marks that come at the same time",
    async run({ storage: { work } }) {
      await Promise.all(Array.from({ length: 8 }, () => work.mark("deal", "1")));
      const [first] = await work.claim({ topics: ["deal"], limit: 10, ttlMs: 1000 });
      equal(first?.generation, 8);
    },
  },
  {
    name: "undoes everything when a transaction fails",
    async run({ storage }) {
      await rejects(
        storage.transaction(async (stores) => {
          await stores.orders.insert(order("order-1"));
          await stores.work.mark("order", "order-1");
          throw new Error("no");
        }),
        /no/,
      );
      equal(await storage.orders.get("order-1"), undefined);
      equal(await storage.work.get("order", "order-1"), undefined);
    },
  },
  {
    name: "prunes what ended long ago; orders, products, pairs and open work stay",
    async run({ storage, clock }) {
      const { orders, products, links, work } = storage;
      const changedAt = clock.now();
      const change = { field: "status", from: "new", to: "paid", changedBy: "site", changedAt } as const;
      await orders.insert(order("order-1", { dealId: "7405" }));
      await orders.replace(order("order-1", { dealId: "7405", version: 2 }), [change]);
      const values = { name: "Эустомы", priceMinor: 1n, currency: "KZT", enabled: true };
      const conflict = { productId: "668826", at: changedAt, ours: values, theirs: values, siteVersion: 7 };
      await products.put(product(), conflict);
      await links.put(link());
      for (const key of ["done", "parked", "claimed"]) await work.mark("deal", key);
      for (const claimed of await work.claim({ topics: ["deal"], limit: 3, ttlMs: 1000 })) {
        if (claimed.key === "done") await work.finish(claimed);
        if (claimed.key === "parked") await work.park(claimed, "no");
      }
      clock.advance(30 * 86_400_000);
      await work.mark("deal", "due");
      await work.mark("deal", "recent");
      deepEqual(await storage.prune(), { work: 0, changes: 0, conflicts: 0 });
      clock.advance(1);
      for (const claimed of await work.claim({ topics: ["deal"], limit: 9, ttlMs: 1000 })) {
        if (claimed.key === "recent") await work.finish(claimed);
      }
      deepEqual(await storage.prune(), { work: 1, changes: 0, conflicts: 0 });
      equal(await work.get("deal", "done"), undefined);
      equal((await work.get("deal", "recent"))?.state, "done");
      clock.advance(336 * 86_400_000);
      deepEqual(await storage.prune(), { work: 1, changes: 1, conflicts: 1 });
      deepEqual(await storage.prune(), { work: 0, changes: 0, conflicts: 0 });
      deepEqual([await orders.history("order-1"), await products.conflicts("668826")], [[], []]);
      equal((await orders.get("order-1"))?.version, 2);
      equal((await products.get("668826"))?.version, 1);
      equal((await links.getByLeft("order-deal", "order-1"))?.rightId, "7405");
      const states = await Promise.all(["parked", "claimed", "due"].map((key) => work.get("deal", key)));
      deepEqual(
        states.map((entry) => entry?.state),
        ["parked", "due", "due"],
      );
      await work.mark("deal", "done"); // begins anew
      equal((await work.get("deal", "done"))?.state, "due");
    },
  },
];
