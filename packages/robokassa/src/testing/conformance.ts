import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import type { ConformanceCase } from "@orderbridge/core/testing";
import type { CallbackEntry, NewOrder, RobokassaStorage } from "../storage.ts";

export interface RobokassaStorageContext {
  /** Empty storage with the default InvId ranges, created with `maxRefusedCallbacks: 20`. */
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
  fit: { password: "password2", algorithm: "sha256", sum: "received", shp: "received" },
  status: 200,
};

/** Refused callbacks that the storage under test is created to keep. */
const maxRefusedCallbacks = 20;

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
    name: "gives the stored order again after its description was erased, but not for another total",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.create({ ...order, id: "order-2" });
      await orders.prune(new Date("2100-01-01T00:00:00.000Z"));
      equal((await orders.create(order))?.invId, "1");
      equal(await orders.create({ ...order, total: "1000.01" }), undefined);
      await orders.erase("order-2");
      equal((await orders.create({ ...order, id: "order-2" }))?.invId, "2");
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
    name: "learns the operation's key from a later notification, and keeps the first one",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      await orders.bookPayment({ invId: "1", source: "result2", paidAt, opKey: "KEY-1" });
      await orders.bookPayment({ invId: "1", source: "reconcile", paidAt, opKey: "KEY-2" });
      equal((await orders.get("order-1"))?.opKey, "KEY-1");
    },
  },
  {
    name: "a hold without the operation's key leaves it unknown, for a later notification to bring",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookHold({ invId: "1", opKey: undefined, sentAt: paidAt });
      equal((await orders.get("order-1"))?.opKey, undefined);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      await orders.bookPayment({ invId: "1", source: "result2", paidAt, opKey: "KEY-1" });
      equal((await orders.get("order-1"))?.opKey, "KEY-1");
    },
  },
  {
    name: "holds, releases and pays; a hold is not paid, and an older message changes nothing",
    async run({ storage: { orders } }) {
      await orders.create(order);
      const hold = { invId: "1", opKey: "KEY-1", sentAt: paidAt };
      equal((await orders.bookHold(hold)).state, "booked");
      equal((await orders.bookHold(hold)).state, "repeated");
      const held = await orders.get("order-1");
      deepEqual([held?.status, held?.paidAt, held?.opKey], ["held", undefined, "KEY-1"]);
      equal((await orders.bookRelease("1")).state, "booked");
      equal((await orders.bookRelease("1")).state, "repeated");
      equal((await orders.bookHold(hold)).state, "repeated");
      equal((await orders.get("order-1"))?.status, "new");
      equal((await orders.bookHold({ ...hold, sentAt: new Date(paidAt.getTime() + 1) })).state, "booked");
      equal((await orders.bookPayment({ invId: "1", source: "result", paidAt })).state, "booked");
      equal((await orders.bookHold({ ...hold, sentAt: new Date(paidAt.getTime() + 2) })).state, "repeated");
      equal((await orders.bookRelease("1")).state, "repeated");
      equal((await orders.get("order-1"))?.status, "paid");
      equal((await orders.bookHold({ ...hold, invId: "9" })).state, "unknown");
      equal((await orders.bookRelease("9")).state, "unknown");
    },
  },
  {
    name: "a release that is older than the hold, or of another operation, changes nothing",
    async run({ storage: { orders } }) {
      await orders.create(order);
      const at = (seconds: number): Date => new Date(paidAt.getTime() + seconds * 1000);
      const status = async () => (await orders.get("order-1"))?.status;
      await orders.bookHold({ invId: "1", opKey: undefined, sentAt: at(0) });
      equal((await orders.bookRelease("1", { opKey: "KEY-0", at: at(-1) })).state, "repeated");
      equal((await orders.bookRelease("1", { opKey: undefined, at: at(-1) })).state, "repeated");
      equal(await status(), "held");
      equal((await orders.bookRelease("1", { opKey: "KEY-0", at: at(1) })).state, "booked");
      equal(await status(), "new");
      await orders.bookHold({ invId: "1", opKey: "KEY-1", sentAt: at(2) });
      equal((await orders.bookRelease("1", { opKey: "KEY-0", at: at(3) })).state, "repeated");
      equal((await orders.bookRelease("1", { opKey: undefined, at: at(1) })).state, "repeated");
      equal(await status(), "held");
      // The message of a hold may be sent again after the money went back.
      equal((await orders.bookRelease("1", { opKey: "KEY-1", at: at(1) })).state, "booked");
      equal(await status(), "new");
    },
  },
  {
    name: "books no payment whose sum was compared with another one than is to be paid by now",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookHold({ invId: "1", opKey: "KEY-1", sentAt: paidAt });
      await orders.keepCapture("1", "400.00", undefined);
      const payment = { invId: "1", source: "result", paidAt } as const;
      let worked = 0;
      const work = async () => {
        worked++;
      };
      equal((await orders.bookPayment({ ...payment, payable: "1000.00" }, work)).state, "changed");
      const stored = await orders.get("order-1");
      deepEqual([stored?.status, stored?.captured, worked], ["held", "400.00", 0]);
      equal((await orders.bookPayment({ ...payment, payable: "400.00" }, work)).state, "booked");
      equal((await orders.bookPayment({ ...payment, payable: "1000.00" }, work)).state, "repeated");
      await orders.create({ ...order, id: "order-2" });
      equal((await orders.bookPayment({ ...payment, invId: "2", payable: "1000.00" }, work)).state, "booked");
    },
  },
  {
    name: "keeps the text of the newest link until it is erased",
    async run({ storage: { orders } }) {
      equal((await orders.create(order))?.link, undefined);
      equal(await orders.keepLink("order-1", "shop:1000.00:1:[password1]:Shp_name=Ә"), true);
      equal((await orders.create(order))?.link, "shop:1000.00:1:[password1]:Shp_name=Ә");
      equal(await orders.keepLink("order-1", "shop:1000.00:1:[password1]"), true);
      equal((await orders.getByInvId("1"))?.link, "shop:1000.00:1:[password1]");
      equal(await orders.keepLink("order-9", "text"), false);
      await orders.erase("order-1");
      equal((await orders.get("order-1"))?.link, undefined);
    },
  },
  {
    name: "keeps how much of a hold is captured, and refunds no more than that",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      equal(await orders.keepCapture("1", "600.00", undefined), false);
      await orders.bookHold({ invId: "1", opKey: "KEY-1", sentAt: paidAt });
      equal(await orders.keepCapture("1", "1000.01", undefined), false);
      equal((await orders.get("order-1"))?.captured, undefined);
      equal(await orders.keepCapture("1", "600.00", undefined), true);
      equal(await orders.keepCapture("1", "500.00", undefined), false);
      equal((await orders.get("order-1"))?.captured, "600.00");
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      equal(await orders.keepCapture("1", "500.00", "600.00"), false);
      equal((await refunds.begin({ id: "much", invId: "1", amount: "600.01" })).state, "exceeds");
      equal((await refunds.begin({ id: "all", invId: "1", amount: "600.00" })).state, "begun");
      await refunds.settle("all", { state: "finished" });
      const stored = await orders.get("order-1");
      deepEqual([stored?.status, stored?.captured, stored?.total], ["refunded", "600.00", "1000.00"]);
      equal(await orders.keepCapture("9", "1.00", undefined), false);
    },
  },
  {
    name: "lets one of many simultaneous captures keep its sum",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookHold({ invId: "1", opKey: "KEY-1", sentAt: paidAt });
      const sums = Array.from({ length: 10 }, (_, index) => `${index + 1}00.00`);
      const kept = await Promise.all(sums.map((sum) => orders.keepCapture("1", sum, undefined)));
      deepEqual(
        sums.filter((_, index) => kept[index]),
        [(await orders.get("order-1"))?.captured],
      );
    },
  },
  {
    name: "forgets a capture when the hold is released",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookHold({ invId: "1", opKey: "KEY-1", sentAt: paidAt });
      await orders.keepCapture("1", "600.00", undefined);
      await orders.bookRelease("1");
      equal((await orders.get("order-1"))?.captured, undefined);
    },
  },
  {
    name: "hands out waiting live orders for a state query, counts each query once, and stops when told",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.create({ ...order, id: "order-2", test: true });
      const soon = new Date("2100-01-01T00:00:00.000Z");
      deepEqual(await orders.dueChecks(new Date("2000-01-01T00:00:00.000Z"), 10), []);
      const due = await orders.dueChecks(soon, 10);
      deepEqual(
        due.map((one) => [one.order.id, one.checks]),
        [["order-1", 0]],
      );
      const later = new Date(soon.getTime() + 1000);
      equal(await orders.scheduleCheck("1", { checks: 0, nextAt: later }), true);
      equal(await orders.scheduleCheck("1", { checks: 0, nextAt: later }), false);
      deepEqual(await orders.dueChecks(soon, 10), []);
      equal((await orders.dueChecks(later, 10))[0]?.checks, 1);
      equal(await orders.scheduleCheck("1", { checks: 1, nextAt: undefined }), true);
      deepEqual(await orders.dueChecks(later, 10), []);
      equal(await orders.scheduleCheck("9", { checks: 0, nextAt: later }), false);
    },
  },
  {
    name: "hands out the orders that were asked about least often first",
    async run({ storage: { orders } }) {
      for (const id of ["order-1", "order-2", "order-3"]) await orders.create({ ...order, id });
      const soon = new Date("2100-01-01T00:00:00.000Z");
      await orders.scheduleCheck("1", { checks: 0, nextAt: new Date(0) });
      deepEqual(
        (await orders.dueChecks(soon, 10)).map((one) => one.order.invId),
        ["2", "3", "1"],
      );
    },
  },
  {
    name: "makes a query due at once when asked, also after they ended, but none of a paid or a test order",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.create({ ...order, id: "order-2", test: true });
      const soon = new Date("2100-01-01T00:00:00.000Z");
      await orders.scheduleCheck("1", { checks: 0, nextAt: new Date(soon.getTime() + 1) });
      await orders.scheduleCheck("1", { checks: 1, nextAt: undefined });
      equal(await orders.checkSoon("1"), true);
      deepEqual(
        (await orders.dueChecks(soon, 10)).map((one) => [one.order.invId, one.checks]),
        [["1", 0]],
      );
      equal(await orders.scheduleCheck("1", { checks: 0, nextAt: undefined }), true);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      for (const invId of ["1", "1000000000", "9"]) equal(await orders.checkSoon(invId), false);
      deepEqual(await orders.dueChecks(soon, 10), []);
    },
  },
  {
    name: "does not ask about a paid order",
    async run({ storage: { orders } }) {
      await orders.create(order);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      deepEqual(await orders.dueChecks(new Date("2100-01-01T00:00:00.000Z"), 10), []);
    },
  },
  {
    name: "never refunds more than was paid, whatever comes at the same time",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      equal((await refunds.begin({ id: "early", invId: "1", amount: "1.00" })).state, "not_paid");
      equal((await refunds.begin({ id: "lost", invId: "9", amount: "1.00" })).state, "unknown");
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      equal((await refunds.begin({ id: "much", invId: "1", amount: "1000.01" })).state, "exceeds");
      const begun = await Promise.all(
        Array.from({ length: 5 }, (_, index) => refunds.begin({ id: `part-${index}`, invId: "1", amount: "400.00" })),
      );
      deepEqual(begun.map(({ state }) => state).sort(), ["begun", "begun", "exceeds", "exceeds", "exceeds"]);
      equal((await orders.get("order-1"))?.refunded, "800.00");
    },
  },
  {
    name: "gives open refunds page by page, each once, also those of one moment",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      const ids = ["R-1", "r-1", "r-10", "r-2", "е-1", "ё-1"];
      for (const id of ids) {
        await refunds.begin({ id, invId: "1", amount: "10.00" });
        await refunds.settle(id, { state: "processing", requestId: "REQ" });
      }
      const seen: string[] = [];
      for (let after = (await refunds.open(1))[0]; after; after = (await refunds.open(1, "processing", after))[0]) {
        seen.push(after.id);
      }
      deepEqual(seen.toSorted(), ids.toSorted());
    },
  },
  {
    name: "knows a refund by its id, and frees the amount of a refused or canceled one",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      await refunds.begin({ id: "r-1", invId: "1", amount: "600.00" });
      const again = await refunds.begin({ id: "r-1", invId: "1", amount: "700.00" });
      equal(again.state, "known");
      ok("refund" in again && again.refund.amount === "600.00" && again.refund.state === "asking");
      equal((await refunds.settle("r-1", { state: "refused" }))?.state, "refused");
      equal((await orders.get("order-1"))?.refunded, "0.00");
      await refunds.begin({ id: "r-2", invId: "1", amount: "1000.00" });
      equal((await refunds.settle("r-2", { state: "processing", requestId: "REQ" }))?.requestId, "REQ");
      deepEqual(
        (await refunds.open(10)).map(({ id }) => id),
        ["r-2"],
      );
      deepEqual([(await refunds.open(10, "asking")).length, (await refunds.open(10, "processing")).length], [0, 1]);
      equal((await orders.get("order-1"))?.status, "paid");
      equal((await refunds.settle("r-2", { state: "finished" }))?.requestId, "REQ");
      deepEqual(await refunds.open(10), []);
      const refunded = await orders.get("order-1");
      deepEqual([refunded?.status, refunded?.refunded, refunded?.paidAt], ["refunded", "1000.00", paidAt]);
      equal(await refunds.settle("nobody", { state: "finished" }), undefined);
      equal(await refunds.get("nobody"), undefined);
    },
  },
  {
    name: "begins a refused refund anew with its new amount, once, and no other one",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      await orders.create({ ...order, id: "order-2" });
      for (const invId of ["1", "2"]) await orders.bookPayment({ invId, source: "result", paidAt });
      await refunds.begin({ id: "r-1", invId: "1", amount: "600.00" });
      await refunds.settle("r-1", { state: "refused" });
      equal((await refunds.begin({ id: "r-1", invId: "2", amount: "1.00" })).state, "known");
      equal((await refunds.begin({ id: "r-1", invId: "1", amount: "1000.01" })).state, "exceeds");
      const begun = await Promise.all(
        Array.from({ length: 5 }, () => refunds.begin({ id: "r-1", invId: "1", amount: "700.00" })),
      );
      deepEqual(begun.map(({ state }) => state).sort(), ["begun", "known", "known", "known", "known"]);
      const again = await refunds.get("r-1");
      deepEqual([again?.state, again?.amount], ["asking", "700.00"]);
      equal((await orders.get("order-1"))?.refunded, "700.00");
      await refunds.settle("r-1", { state: "canceled" });
      equal((await refunds.begin({ id: "r-1", invId: "1", amount: "700.00" })).state, "known");
    },
  },
  {
    name: "keeps an order paid when a part of it went back",
    async run({ storage: { orders, refunds } }) {
      await orders.create(order);
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      await refunds.begin({ id: "r-1", invId: "1", amount: "0.01" });
      await refunds.settle("r-1", { state: "finished" });
      const stored = await orders.get("order-1");
      deepEqual([stored?.status, stored?.refunded], ["paid", "0.01"]);
    },
  },
  {
    name: "erases the description, and drops old callbacks",
    async run({ storage: { orders, callbacks } }) {
      await orders.create(order);
      equal(await orders.erase("order-1"), true);
      equal(await orders.erase("order-9"), false);
      equal((await orders.get("order-1"))?.description, "");
      await callbacks.record(callback);
      await callbacks.record({ ...callback, at: new Date(paidAt.getTime() + 1) });
      equal(await callbacks.prune(new Date(paidAt.getTime() + 1)), 1);
      equal((await callbacks.list({ limit: 10 })).length, 1);
    },
  },
  {
    name: "erases old orders, a held one excepted, and keeps their sums and states",
    async run({ storage: { orders } }) {
      for (const id of ["order-1", "order-2", "order-3"]) await orders.create({ ...order, id });
      await orders.bookPayment({ invId: "1", source: "result", paidAt });
      await orders.bookHold({ invId: "2", opKey: "KEY-2", sentAt: paidAt });
      await orders.erase("order-3");
      await orders.keepLink("order-3", "shop:1000.00:3:[password1]");
      equal(await orders.prune(new Date("2000-01-01T00:00:00.000Z")), 0);
      const soon = new Date("2100-01-01T00:00:00.000Z");
      equal(await orders.prune(soon), 2);
      equal(await orders.prune(soon), 0);
      const [paid, held, erased] = await Promise.all(["order-1", "order-2", "order-3"].map((id) => orders.get(id)));
      deepEqual([paid?.description, paid?.total, paid?.status], ["", "1000.00", "paid"]);
      deepEqual([held?.description, erased?.link], [order.description, undefined]);
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
    name: "drops the oldest callbacks without a fitting signature beyond the limit and keeps the signed ones",
    async run({ storage: { callbacks } }) {
      await callbacks.record(callback);
      const failed = { ...callback, invId: "147", verdict: "error", status: 500 };
      await callbacks.record(failed);
      const refused = { ...callback, invId: undefined, outSum: undefined, signature: undefined, status: 400 };
      for (let index = 0; index <= maxRefusedCallbacks; index++) {
        await callbacks.record({ ...refused, verdict: `refused-${index}` });
      }
      const all = await callbacks.list({ limit: maxRefusedCallbacks + 10 });
      equal(all.length, maxRefusedCallbacks + 2);
      deepEqual(await callbacks.list({ invId: "147", limit: 1 }), [failed]);
      equal(all[0]?.verdict, `refused-${maxRefusedCallbacks}`);
      equal(all.at(-3)?.verdict, "refused-1");
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
