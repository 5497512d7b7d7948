import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import type { ConformanceCase } from "@orderbridge/core/testing";
import { type CallbackEntry, maxRefusedCallbacks, type NewOrder, type RobokassaStorage } from "../storage.ts";

export interface RobokassaStorageContext {
  /** Empty storage with the default InvId ranges. */
  readonly storage: RobokassaStorage;
}

const order: NewOrder = { id: "order-1", test: false, total: "1000.00", description: "Қалам мен дәптер" };
const paidAt = new Date("2026-11-01T10:00:00.000Z");
const callback: CallbackEntry = {
  source: "result",
  at: paidAt,
  invId: "146",
  outSum: "1000.000000",
  signature: "F56D901DE60F49774AD1AC8F91458650",
  shpNames: ["Shp_cart", "Shp_user"],
  verdict: "paid",
  status: 200,
};

/** What {@link RobokassaStorage} promises. */
export const robokassaStorageCases: readonly ConformanceCase<RobokassaStorageContext>[] = [
  {
    name: "gives live and test orders numbers from ranges that lie apart",
    async run({ storage: { orders } }) {
      equal((await orders.create(order))?.invId, "1");
      equal((await orders.create({ ...order, id: "order-2" }))?.invId, "2");
      equal((await orders.create({ ...order, id: "order-3", test: true }))?.invId, "1000000000");
      equal((await orders.create({ ...order, id: "order-4", test: true }))?.invId, "1000000001");
    },
  },
  {
    name: "gives the stored order when the same one is created again",
    async run({ storage: { orders } }) {
      const first = await orders.create(order);
      deepEqual(await orders.create(order), first);
      deepEqual(await orders.get("order-1"), first);
      deepEqual(await orders.getByInvId("1"), first);
      equal(first?.status, "new");
      equal(first?.description, "Қалам мен дәптер");
      equal(first?.paidAt, undefined);
    },
  },
  {
    name: "refuses another order under a known id",
    async run({ storage: { orders } }) {
      await orders.create(order);
      equal(await orders.create({ ...order, total: "1000.01" }), undefined);
      equal(await orders.create({ ...order, test: true }), undefined);
      equal((await orders.get("order-1"))?.total, "1000.00");
    },
  },
  {
    name: "keeps ids apart that differ by case, trailing space or one letter",
    async run({ storage: { orders } }) {
      const ids = ["Заказ-е", "Заказ-ё", "заказ-е", "Заказ-е "];
      for (const id of ids) await orders.create({ ...order, id });
      const invIds = await Promise.all(ids.map(async (id) => (await orders.get(id))?.invId));
      equal(new Set(invIds).size, ids.length);
    },
  },
  {
    name: "gives each of many simultaneous orders its own number, without gaps",
    async run({ storage: { orders } }) {
      const created = await Promise.all(
        Array.from({ length: 20 }, (_, index) => orders.create({ ...order, id: `race-${index}` })),
      );
      const numbers = created.map((one) => Number(one?.invId)).sort((a, b) => a - b);
      deepEqual(
        numbers,
        Array.from({ length: 20 }, (_, index) => index + 1),
      );
    },
  },
  {
    name: "gives simultaneous callers with one id the same order",
    async run({ storage: { orders } }) {
      const created = await Promise.all(Array.from({ length: 10 }, () => orders.create(order)));
      deepEqual(new Set(created.map((one) => one?.invId)).size, 1);
    },
  },
  {
    name: "knows no order by another number, a leading zero or an empty text",
    async run({ storage: { orders } }) {
      await orders.create(order);
      for (const invId of ["2", "01", "", "1 "]) equal(await orders.getByInvId(invId), undefined);
      equal(await orders.get("order-2"), undefined);
    },
  },
  {
    name: "books a payment once and keeps its time",
    async run({ storage: { orders } }) {
      await orders.create(order);
      const first = await orders.bookPayment({ invId: "1", source: "result", paidAt, opKey: "KEY-1" });
      equal(first.state, "booked");
      const later = new Date("2026-11-02T10:00:00.000Z");
      const second = await orders.bookPayment({ invId: "1", source: "reconcile", paidAt: later });
      equal(second.state, "repeated");
      const stored = await orders.get("order-1");
      equal(stored?.status, "paid");
      deepEqual(stored?.paidAt, paidAt);
      equal(stored?.opKey, "KEY-1");
    },
  },
  {
    name: "lets one of many simultaneous notifications book",
    async run({ storage: { orders } }) {
      await orders.create(order);
      let worked = 0;
      const results = await Promise.all(
        Array.from({ length: 10 }, () =>
          orders.bookPayment({ invId: "1", source: "result", paidAt }, async () => {
            worked++;
          }),
        ),
      );
      equal(results.filter(({ state }) => state === "booked").length, 1);
      equal(results.filter(({ state }) => state === "repeated").length, 9);
      ok(worked >= 1);
    },
  },
  {
    name: "books nothing when the work fails, so that the next notification can",
    async run({ storage: { orders } }) {
      await orders.create(order);
      const payment = { invId: "1", source: "result", paidAt } as const;
      await rejects(
        orders.bookPayment(payment, async () => {
          throw new Error("the warehouse is closed");
        }),
        /the warehouse is closed/,
      );
      equal((await orders.get("order-1"))?.status, "new");
      equal((await orders.bookPayment(payment)).state, "booked");
    },
  },
  {
    name: "says unknown for a number that was never given",
    async run({ storage: { orders } }) {
      deepEqual(await orders.bookPayment({ invId: "999", source: "result", paidAt }), { state: "unknown" });
    },
  },
  {
    name: "lists callbacks newest first, of one number or of all",
    async run({ storage: { callbacks } }) {
      await callbacks.record(callback);
      await callbacks.record({ ...callback, invId: "147", shpNames: [] });
      await callbacks.record({ ...callback, verdict: "repeated" });
      deepEqual(await callbacks.list({ invId: "146", limit: 10 }), [{ ...callback, verdict: "repeated" }, callback]);
      equal((await callbacks.list({ limit: 2 })).length, 2);
      equal((await callbacks.list({ limit: 10 }))[1]?.invId, "147");
    },
  },
  {
    name: "drops the oldest refused callbacks beyond the limit and keeps the accepted ones",
    async run({ storage: { callbacks } }) {
      await callbacks.record(callback);
      const refused = { ...callback, invId: undefined, outSum: undefined, signature: undefined, status: 400 };
      for (let index = 0; index <= maxRefusedCallbacks; index++) {
        await callbacks.record({ ...refused, verdict: `refused-${index}` });
      }
      const all = await callbacks.list({ limit: maxRefusedCallbacks + 10 });
      equal(all.length, maxRefusedCallbacks + 1);
      equal(all[0]?.verdict, `refused-${maxRefusedCallbacks}`);
      equal(all.at(-2)?.verdict, "refused-1");
      deepEqual(all.at(-1), callback);
    },
  },
  {
    name: "answers a ping",
    async run({ storage }) {
      await storage.ping();
    },
  },
];
