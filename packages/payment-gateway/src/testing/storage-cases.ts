import { deepEqual, equal, rejects } from "node:assert/strict";
import type { ConformanceCase, FakeClock } from "@orderbridge/core/testing";
import type { Payment } from "../payment.ts";
import type { ClaimedDelivery, GatewayStorage, IdempotencyKey, PaymentChange } from "../storage.ts";

export interface GatewayStorageContext {
  /** Empty. */
  readonly storage: GatewayStorage;
  /** Moves the time that the storage judges by. */
  readonly clock: Pick<FakeClock, "advance" | "now">;
}

const payment = (id: string, clock: GatewayStorageContext["clock"], fields: Partial<Payment> = {}): Payment => ({
  id,
  merchant: "shop",
  provider: "sandbox",
  status: "pending",
  currency: "KZT",
  amountMinor: 10_000n,
  paidMinor: 0n,
  refundedMinor: 0n,
  refundingMinor: 0n,
  description: "Чай «Ёлка» 🍵",
  metadata: "{}",
  webhookUrl: "https://shop.example/hook",
  webhookSecret: "test_secret_key",
  late: false,
  test: true,
  sequence: 0,
  createdAt: clock.now(),
  updatedAt: clock.now(),
  expiresAt: new Date(clock.now().getTime() + 3_600_000),
  version: 1,
  ...fields,
});

const key = (fields: Partial<IdempotencyKey> = {}): IdempotencyKey => ({
  merchant: "shop",
  key: "k1",
  fingerprint: "f1",
  resourceId: "p1",
  workMs: 0,
  ...fields,
});

/** Money of one transfer, with an event. */
const pay = (current: Payment, transactionId: string, amountMinor: bigint, body = "{}"): PaymentChange => {
  const sequence = current.sequence + 1;
  const paidMinor = current.paidMinor + amountMinor;
  const status = paidMinor >= current.amountMinor ? "paid" : "partially_paid";
  const { id: paymentId, merchant, provider, updatedAt } = current;
  return {
    payment: { ...current, status, paidMinor, sequence },
    booking: { provider, transactionId, paymentId, amountMinor, paidAt: updatedAt },
    event: {
      id: `evt_${paymentId}_${sequence}`,
      paymentId,
      merchant,
      sequence,
      name: status,
      body,
      createdAt: updatedAt,
    },
  };
};

const tried = (delivery: ClaimedDelivery, clock: GatewayStorageContext["clock"]) => ({
  attempt: delivery.attempt,
  startedAt: clock.now(),
  durationMs: 5,
  outcome: "http_500",
  status: 500,
  answer: "сбой\0",
});

const claimOne = { limit: 10, ttlMs: 1_000 };

/** What a storage of the gateway must do; run each case on an empty one. */
export const gatewayStorageCases: readonly ConformanceCase<GatewayStorageContext>[] = [
  {
    name: "gives a payment back as it was stored",
    async run({ storage, clock }) {
      const stored = payment("p1", clock, {
        amountMinor: 1_000_000_000_000_00n,
        metadata: `{"long":"${"ж".repeat(100_000)}"}`,
        returnUrl: "https://shop.example/",
        account: "1000017",
        session: "s",
        needsAttention: "look",
      });
      deepEqual(await storage.createPayment(stored), { state: "created" });
      deepEqual(await storage.getPayment("p1"), stored);
      equal(await storage.getPayment("P1"), undefined);
      equal(await storage.getPayment("p2"), undefined);
    },
  },
  {
    name: "finds a payment by provider and account, and refuses the same account twice",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock, { account: "17" }));
      equal((await storage.findByAccount("sandbox", "17"))?.id, "p1");
      equal(await storage.findByAccount("other", "17"), undefined);
      await rejects(storage.createPayment(payment("p2", clock, { account: "17" })));
    },
  },
  {
    name: "of many creations with one key stores one payment",
    async run({ storage, clock }) {
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          storage.createPayment(payment(`p${index}`, clock), key({ resourceId: `p${index}` })),
        ),
      );
      equal(results.filter(({ state }) => state === "created").length, 1);
      const stored = await Promise.all(results.map((_, index) => storage.getPayment(`p${index}`)));
      const [winner] = stored.filter((found) => found !== undefined);
      equal(stored.filter((found) => found !== undefined).length, 1);
      for (const result of results) {
        if (result.state === "key_used") deepEqual(result.key, { state: "done", resourceId: winner?.id });
      }
    },
  },
  {
    name: "tells keys apart by merchant and by case, and refuses another fingerprint",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock), key());
      const other = await storage.createPayment(payment("p2", clock), key({ fingerprint: "f2" }));
      deepEqual(other, { state: "key_used", key: { state: "mismatch" } });
      deepEqual(await storage.createPayment(payment("p3", clock), key({ key: "K1" })), { state: "created" });
      deepEqual(await storage.createPayment(payment("p4", clock), key({ merchant: "other" })), { state: "created" });
    },
  },
  {
    name: "lets one caller take over a key whose work time is over, or that was given back",
    async run({ storage, clock }) {
      const again = () => storage.createPayment(payment("p9", clock), key({ workMs: 1_000 }));
      await storage.createPayment(payment("p1", clock), key({ workMs: 1_000 }));
      deepEqual(await again(), { state: "key_used", key: { state: "running" } });
      clock.advance(1_000);
      const results = await Promise.all([again(), again(), again()]);
      const states = results.map((result) => (result.state === "key_used" ? result.key.state : result.state));
      deepEqual(states.sort(), ["running", "running", "taken_over"]);
      await storage.releaseKey("shop", "k1");
      deepEqual(await again(), { state: "key_used", key: { state: "taken_over", resourceId: "p1" } });
      await storage.finishKey("shop", "k1");
      await storage.releaseKey("shop", "k1");
      deepEqual(await again(), { state: "key_used", key: { state: "done", resourceId: "p1" } });
    },
  },
  {
    name: "makes simultaneous changes one after the other",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await Promise.all(
        Array.from({ length: 20 }, (_, index) => storage.change("p1", (current) => pay(current, `t${index}`, 100n))),
      );
      const after = await storage.getPayment("p1");
      deepEqual([after?.paidMinor, after?.sequence], [2_000n, 20]);
      equal((await storage.eventsAfter("shop", 0, 100)).length, 20);
    },
  },
  {
    name: "books one transfer once, also of another payment",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.createPayment(payment("p2", clock));
      const results = await Promise.all(
        ["p1", "p1", "p1", "p2"].map((id) => storage.change(id, (current) => pay(current, "t1", 100n))),
      );
      deepEqual(results.map(({ state }) => state).sort(), ["changed", "duplicate", "duplicate", "duplicate"]);
      equal((await storage.getBooking("sandbox", "t1"))?.amountMinor, 100n);
      equal(await storage.getBooking("sandbox", "T1"), undefined);
      equal((await storage.eventsAfter("shop", 0, 100)).length, 1);
    },
  },
  {
    name: "stores nothing of a change that the rules forbid",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock, { status: "paid", paidMinor: 10_000n }));
      const forbidden: readonly Partial<Payment>[] = [
        { status: "pending" },
        { paidMinor: 9_999n },
        { refundingMinor: 10_001n },
        { refundedMinor: 10_001n },
      ];
      for (const fields of forbidden) {
        const change = storage.change("p1", (current) => ({
          ...pay(current, "t1", 1n),
          payment: { ...current, ...fields },
        }));
        await rejects(change, { name: "ForbiddenChangeError" });
      }
      equal((await storage.getPayment("p1"))?.version, 1);
      equal(await storage.getBooking("sandbox", "t1"), undefined);
      deepEqual(await storage.eventsAfter("shop", 0, 100), []);
    },
  },
  {
    name: "keeps a key only with a change",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      equal((await storage.change("p1", () => undefined, key())).state, "unchanged");
      equal((await storage.change("p1", (current) => pay(current, "t1", 1n), key())).state, "changed");
      const used = await storage.change("p1", (current) => pay(current, "t2", 1n), key());
      deepEqual(used.state === "key_used" && used.key, { state: "done", resourceId: "p1" });
      equal((await storage.change("p9", (current) => pay(current, "t1", 1n))).state, "not_found");
    },
  },
  {
    name: "settles a refund once",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock, { status: "paid", paidMinor: 10_000n }));
      const refund = {
        id: "re_1",
        paymentId: "p1",
        amountMinor: 500n,
        status: "pending" as const,
        createdAt: clock.now(),
        updatedAt: clock.now(),
      };
      await storage.change("p1", (current) => ({ payment: { ...current, refundingMinor: 500n }, refund }));
      deepEqual(await storage.openRefunds(1, 10), []);
      clock.advance(1);
      equal((await storage.openRefunds(1, 10)).length, 1);
      const settle = () =>
        storage.change("p1", (current) => ({
          payment: { ...current, refundingMinor: 0n, refundedMinor: current.refundedMinor + 500n },
          refund: { ...refund, status: "succeeded" },
        }));
      const results = await Promise.all([settle(), settle(), settle()]);
      deepEqual(results.map(({ state }) => state).sort(), ["changed", "duplicate", "duplicate"]);
      equal((await storage.getPayment("p1"))?.refundedMinor, 500n);
      equal((await storage.getRefund("re_1"))?.status, "succeeded");
      deepEqual(await storage.openRefunds(0, 10), []);
    },
  },
  {
    name: "names payments whose life has ended, the oldest first, none with money",
    async run({ storage, clock }) {
      const expiresAt = (ms: number) => ({ expiresAt: new Date(clock.now().getTime() + ms) });
      await storage.createPayment(payment("p1", clock, expiresAt(2_000)));
      await storage.createPayment(payment("p2", clock, expiresAt(1_000)));
      await storage.createPayment(
        payment("p3", clock, { ...expiresAt(1_000), status: "partially_paid", paidMinor: 1n }),
      );
      await storage.createPayment(payment("p4", clock, expiresAt(2_001)));
      clock.advance(2_000);
      deepEqual(await storage.dueForExpiry(10), ["p2", "p1"]);
      deepEqual(await storage.dueForExpiry(1), ["p2"]);
    },
  },
  {
    name: "gives every number once",
    async run({ storage }) {
      const numbers = await Promise.all(Array.from({ length: 10 }, () => storage.nextNumber("a")));
      deepEqual(
        numbers.sort((left, right) => left - right),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
      );
      equal(await storage.nextNumber("b"), 1);
    },
  },
  {
    name: "hands a delivery to one of many workers, and again once its claim has ended; the former holder changes nothing",
    async run({ storage, clock }) {
      const body = `{"text":"${"ә".repeat(20_000)}"}`;
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n, body));
      const claims = (await Promise.all(Array.from({ length: 8 }, () => storage.claimDeliveries(claimOne)))).flat();
      equal(claims.length, 1);
      const [first] = claims as [ClaimedDelivery];
      deepEqual([first.body, first.attempt, first.secrets], [body, 1, ["test_secret_key"]]);
      clock.advance(999);
      deepEqual(await storage.claimDeliveries(claimOne), []);
      clock.advance(1);
      const [second] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      deepEqual([second.body, second.eventId, second.attempt], [body, first.eventId, 2]);
      equal(await storage.finishDelivery(first, tried(first, clock), { state: "delivered" }), false);
      equal(await storage.finishDelivery(second, tried(second, clock), { state: "pending", delayMs: 500 }), true);
      const [record] = await storage.deliveriesOf("p1");
      deepEqual([record?.state, record?.attempts, record?.log.map(({ attempt }) => attempt)], ["pending", 2, [2]]);
      clock.advance(499);
      deepEqual(await storage.claimDeliveries(claimOne), []);
      clock.advance(1);
      equal((await storage.claimDeliveries(claimOne)).length, 1);
    },
  },
  {
    name: "delivers the events of a payment in order, and lets later ones pass after three failed tries",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      await storage.change("p1", (current) => pay(current, "t2", 1n));
      for (let attempt = 1; attempt <= 3; attempt++) {
        const claimed = await storage.claimDeliveries(claimOne);
        deepEqual(
          claimed.map(({ eventId }) => eventId),
          ["evt_p1_1"],
        );
        const [head] = claimed as [ClaimedDelivery];
        await storage.finishDelivery(head, tried(head, clock), { state: "pending", delayMs: attempt < 3 ? 0 : 60_000 });
      }
      const [later] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      equal(later.eventId, "evt_p1_2");
      await storage.finishDelivery(later, tried(later, clock), { state: "delivered" });
      deepEqual(await storage.claimDeliveries(claimOne), []);
      await storage.change("p1", (current) => pay(current, "t3", 1n));
      // The new event makes the head due at once.
      equal((await storage.claimDeliveries(claimOne))[0]?.eventId, "evt_p1_1");
    },
  },
  {
    name: "sends an event again with a new schedule",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const [first] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await storage.finishDelivery(first, tried(first, clock), { state: "exhausted" });
      deepEqual(await storage.claimDeliveries(claimOne), []);
      equal(await storage.redeliver("evt_none"), 0);
      equal(await storage.redeliver("evt_p1_1"), 1);
      const [again] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      deepEqual([again.attempt, again.scheduleAttempt], [2, 1]);
    },
  },
  {
    name: "keeps the first secret of a merchant, and tokens by their digest",
    async run({ storage, clock }) {
      const secrets = await Promise.all(["a", "b", "c"].map((proposal) => storage.merchantSecret("shop", proposal)));
      equal(new Set(secrets).size, 1);
      const token = { id: "tok_1", merchant: "shop", scopes: ["read"], createdAt: clock.now() };
      await storage.addToken({ ...token, hash: "abc" });
      deepEqual(await storage.findToken("abc"), token);
      equal(await storage.findToken("ABC"), undefined);
      equal(await storage.removeToken("tok_1"), true);
      equal(await storage.removeToken("tok_1"), false);
      equal(await storage.findToken("abc"), undefined);
    },
  },
  {
    name: "lists payments by merchant, status and text, the newest first, in pages without gaps",
    async run({ storage, clock }) {
      for (const id of ["p1", "p2", "p3", "p4", "p5"]) {
        const merchant = id === "p5" ? "other" : "shop";
        const metadata = id === "p3" ? '{"order_id":"100%_Ә"}' : "{}";
        await storage.createPayment(payment(id, clock, { merchant, metadata, account: `10${id}` }));
        if (id !== "p3") clock.advance(1); // p3 and p4 are made in the same millisecond
      }
      await storage.change("p2", (current) => pay(current, "t1", 10_000n));
      const ids = async (filter: Parameters<typeof storage.listPayments>[0], limit = 10) =>
        (await storage.listPayments(filter, limit)).map(({ id }) => id);
      deepEqual(await ids({}), ["p5", "p4", "p3", "p2", "p1"]);
      deepEqual(await ids({ merchant: "shop", status: "pending" }), ["p4", "p3", "p1"]);
      deepEqual(await ids({ search: "100%_Ә" }), ["p3"]);
      deepEqual(await ids({ search: "p4" }), ["p4"]);
      deepEqual(await ids({ search: "10p2" }), ["p2"]);
      deepEqual(await ids({ search: "«ёлка»" }), []);
      deepEqual(await ids({ search: "_%" }), []);
      const [, last] = await storage.listPayments({}, 2);
      deepEqual(await ids(last ? { after: last } : {}, 2), ["p3", "p2"]);
    },
  },
  {
    name: "tells the history of one payment",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.createPayment(payment("p2", clock));
      await storage.change("p1", (current) => pay(current, "t1", 4_000n));
      await storage.change("p1", (current) => pay(current, "t2", 6_000n));
      await storage.change("p2", (current) => pay(current, "t3", 10_000n));
      const { events, bookings, refunds } = await storage.historyOf("p1");
      deepEqual(
        events.map(({ name, sequence }) => [name, sequence]),
        [
          ["partially_paid", 1],
          ["paid", 2],
        ],
      );
      deepEqual(bookings.map(({ transactionId }) => transactionId).sort(), ["t1", "t2"]);
      deepEqual(refunds, []);
    },
  },
  {
    name: "tells how many deliveries wait, since when, what was given up, and who fails",
    async run({ storage, clock }) {
      deepEqual(await storage.health(), {
        pending: 0,
        due: 0,
        lagMs: 0,
        exhausted: 0,
        openRefunds: 0,
        failingReceivers: [],
      });
      for (const id of ["p1", "p2", "p3"]) {
        await storage.createPayment(payment(id, clock));
        await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
      }
      const [first, second] = await storage.claimDeliveries({ limit: 2, ttlMs: 1_000 });
      const attempt = { attempt: 1, startedAt: clock.now(), durationMs: 1, outcome: "http_500", status: 500 };
      if (first) await storage.finishDelivery(first, attempt, { state: "pending", delayMs: 60_000 });
      if (second) await storage.finishDelivery(second, attempt, { state: "exhausted" });
      clock.advance(500);
      const { pending, due, lagMs, exhausted, failingReceivers } = await storage.health();
      deepEqual(
        { pending, due, lagMs, exhausted, failingReceivers },
        {
          pending: 2,
          due: 1,
          lagMs: 500,
          exhausted: 1,
          failingReceivers: [{ url: "https://shop.example/hook", deliveries: 1 }],
        },
      );
    },
  },
  {
    name: "claims no more for one receiver than its share, and those behind it for others",
    async run({ storage, clock }) {
      for (let index = 0; index < 12; index++) {
        const webhookUrl = `https://${index < 10 ? "slow" : "fast"}.example/hook?order=${index}`;
        await storage.createPayment(payment(`p${index}`, clock, { webhookUrl }));
        await storage.change(`p${index}`, (current) => pay(current, `t${index}`, 10_000n));
        clock.advance(1);
      }
      const claim = async (running: readonly (readonly [string, number])[]) => {
        const receivers = { limit: 3, running: new Map(running) };
        const claimed = await storage.claimDeliveries({ limit: 2, ttlMs: 60_000, receivers });
        return claimed.map(({ paymentId }) => paymentId).sort();
      };
      deepEqual(await claim([]), ["p0", "p1"]);
      // Ten of the slow one stand before these, more than one look sees.
      deepEqual(await claim([["https://slow.example", 3]]), ["p10", "p11"]);
      deepEqual(await claim([["https://slow.example", 2]]), ["p2"]);
    },
  },
];
