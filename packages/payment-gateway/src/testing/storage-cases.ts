import { deepEqual, equal, match, rejects } from "node:assert/strict";
import type { ConformanceCase, FakeClock } from "@orderbridge/core/testing";
import type { Payment } from "../payment.ts";
import type {
  BreakerRule,
  ClaimedDelivery,
  DeliveryVerdict,
  DueCheck,
  GatewayStorage,
  IdempotencyKey,
  NewPayment,
  PaymentChange,
  WebhookEndpoint,
} from "../storage.ts";

export interface GatewayStorageContext {
  /** Empty. */
  readonly storage: GatewayStorage;
  /** Moves the time that the storage judges by. */
  readonly clock: Pick<FakeClock, "advance" | "now">;
}

const payment = (id: string, clock: GatewayStorageContext["clock"], fields: Partial<NewPayment> = {}): NewPayment => ({
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

const claimOne = { limit: 10, ttlMs: 1_000, lane: "prompt" } as const;
const claimLate = { ...claimOne, lane: "late" } as const;

const breaker = { failures: 10, pauseMs: 30_000, maxPauseMs: 300_000 };

/** Ends one try. */
const finish = async (
  storage: GatewayStorage,
  delivery: ClaimedDelivery,
  clock: GatewayStorageContext["clock"],
  verdict: DeliveryVerdict,
  rule: BreakerRule = breaker,
): Promise<boolean> => {
  const [stored] = await storage.finishDeliveries([{ delivery, attempt: tried(delivery, clock), verdict }], rule);
  return stored === true;
};

const checks = { provider: "sandbox", limit: 10, ttlMs: 1_000 };

/** What a storage of the gateway must do; run each case on an empty one. */
export const gatewayStorageCases: readonly ConformanceCase<GatewayStorageContext>[] = [
  {
    name: "gives a payment back as it was stored, without its secret",
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
      const { webhookSecret: _secret, ...shown } = stored;
      deepEqual(await storage.getPayment("p1"), shown);
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
      clock.advance(29_999);
      deepEqual(await storage.claimRefunds(checks), []);
      clock.advance(1);
      deepEqual(await storage.claimRefunds({ ...checks, provider: "other" }), []);
      const claims = await Promise.all(Array.from({ length: 5 }, () => storage.claimRefunds(checks)));
      equal(claims.flat().length, 1);
      // Asked again after a quarter of its age, which is longer than a second.
      clock.advance(7_499);
      deepEqual(await storage.claimRefunds(checks), []);
      clock.advance(1);
      equal((await storage.claimRefunds({ ...checks, maxPauseMs: 2_000 })).length, 1);
      // And this time after two seconds, as the provider wishes.
      clock.advance(1_999);
      deepEqual(await storage.claimRefunds(checks), []);
      clock.advance(1);
      equal((await storage.claimRefunds(checks)).length, 1);
      const settle = () =>
        storage.change("p1", (current) => ({
          payment: { ...current, refundingMinor: 0n, refundedMinor: current.refundedMinor + 500n },
          refund: { ...refund, status: "succeeded" },
        }));
      const results = await Promise.all([settle(), settle(), settle()]);
      deepEqual(results.map(({ state }) => state).sort(), ["changed", "duplicate", "duplicate"]);
      equal((await storage.getPayment("p1"))?.refundedMinor, 500n);
      equal((await storage.getRefund("re_1"))?.status, "succeeded");
      clock.advance(1_000_000);
      deepEqual(await storage.claimRefunds(checks), []);
    },
  },
  {
    name: "hands out payments whose life has ended, the oldest first, none that have ended otherwise",
    async run({ storage, clock }) {
      const expiresAt = (ms: number) => ({ expiresAt: new Date(clock.now().getTime() + ms) });
      await storage.createPayment(payment("p1", clock, expiresAt(2_000)));
      await storage.createPayment(payment("p2", clock, expiresAt(1_000)));
      await storage.createPayment(payment("p3", clock, expiresAt(1_000)));
      await storage.createPayment(payment("p4", clock, expiresAt(2_001)));
      await storage.change("p3", (current) => pay(current, "t1", 10_000n));
      clock.advance(2_000);
      const due = async (limit: number) =>
        (await storage.claimChecks({ ...checks, limit })).map((check) => [check.payment.id, check.isOver]);
      deepEqual(await due(1), [["p2", true]]);
      deepEqual(await due(10), [["p1", true]]);
      deepEqual(await due(10), []);
      clock.advance(1_000);
      deepEqual((await due(10)).map(([id]) => id).sort(), ["p1", "p2", "p4"]);
    },
  },
  {
    name: "hands a check of a provider to one of many callers, again once its claim has ended, and heeds only the present holder",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.createPayment(payment("p2", clock, { provider: "other" }));
      await storage.scheduleCheck("p1", { delayMs: 500 });
      await storage.scheduleCheck("p2", { delayMs: 500 });
      deepEqual(await storage.claimChecks(checks), []);
      clock.advance(500);
      const claims = await Promise.all(Array.from({ length: 8 }, () => storage.claimChecks(checks)));
      const [first] = claims.flat() as [DueCheck];
      deepEqual([claims.flat().length, first.payment.id, first.isOver], [1, "p1", false]);
      clock.advance(1_000);
      const [second] = (await storage.claimChecks(checks)) as [DueCheck];
      await storage.scheduleCheck("p1", { delayMs: 0, claim: first.claim });
      deepEqual(await storage.claimChecks(checks), []);
      await storage.scheduleCheck("p1", { delayMs: 0, claim: second.claim });
      equal((await storage.claimChecks(checks)).length, 1);
      deepEqual(
        (await storage.claimChecks({ ...checks, provider: "other" })).map((check) => check.payment.id),
        ["p2"],
      );
    },
  },
  {
    name: "tells by provider of payments whose check nobody takes",
    async run({ storage, clock }) {
      for (const [id, provider] of [
        ["p1", "gone"],
        ["p2", "gone"],
        ["p3", "sandbox"],
      ] as const) {
        await storage.createPayment(payment(id, clock, { provider }));
        await storage.scheduleCheck(id, { delayMs: 1_000 });
        clock.advance(1_000);
      }
      clock.advance(299_000);
      deepEqual((await storage.health()).lateChecks, [{ provider: "gone", payments: 1, lagMs: 301_000 }]);
      clock.advance(1_000);
      deepEqual((await storage.health()).lateChecks, [{ provider: "gone", payments: 2, lagMs: 302_000 }]);
      await storage.claimChecks(checks);
      clock.advance(1_000_000);
      deepEqual(
        (await storage.health()).lateChecks.map(({ provider, payments }) => [provider, payments]),
        [
          ["gone", 2],
          ["sandbox", 1],
        ],
      );
    },
  },
  {
    name: "checks a payment no later than it expires, and one that has ended only when its provider wants to",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock)); // lives for an hour
      await storage.createPayment(payment("p2", clock));
      await storage.scheduleCheck("p1", { delayMs: 7_200_000 });
      clock.advance(3_600_000);
      const due = await storage.claimChecks(checks);
      deepEqual(due.map((check) => check.payment.id).sort(), ["p1", "p2"]);
      for (const id of ["p1", "p2"]) {
        const [check] = due.filter(({ payment: { id: own } }) => own === id) as [DueCheck];
        await storage.change(id, (current) => ({ payment: { ...current, status: "expired" } }));
        await storage.scheduleCheck(id, { claim: check.claim, ...(id === "p2" ? { delayMs: 60_000 } : {}) });
      }
      clock.advance(59_999);
      deepEqual(await storage.claimChecks(checks), []);
      clock.advance(1);
      deepEqual(
        (await storage.claimChecks(checks)).map((check) => [check.payment.id, check.isOver]),
        [["p2", false]],
      );
    },
  },
  {
    name: "stores the time of the next check with a change, or not at all",
    async run({ storage, clock }) {
      for (const id of ["p1", "p2", "p3"]) await storage.createPayment(payment(id, clock)); // live for an hour
      const asked = (current: Payment) => ({ payment: { ...current, session: "s" }, checkInMs: 1_000 });
      await storage.change("p1", asked);
      await storage.change("p2", (current) => ({ ...asked(current), checkInMs: 7_200_000 }));
      await storage.change("p3", (current) => ({ payment: { ...current, status: "cancelled" }, checkInMs: 7_200_000 }));
      await storage.change("p1", (current) => pay(current, "t1", 100n));
      clock.advance(1_000);
      const [first] = (await storage.claimChecks(checks)) as [DueCheck];
      equal(first.payment.id, "p1");
      await storage.change("p1", asked); // ends the claim
      await storage.scheduleCheck("p1", { delayMs: 0, claim: first.claim });
      await storage.change("p1", (current) => ({ ...pay(current, "t1", 100n), checkInMs: 0 })); // booked before
      deepEqual(await storage.claimChecks(checks), []);
      clock.advance(1_000);
      const due = async () => (await storage.claimChecks(checks)).map((check) => check.payment.id);
      deepEqual(await due(), ["p1"]);
      await storage.scheduleCheck("p1", {});
      clock.advance(3_598_000);
      deepEqual(await due(), ["p2"]);
      await storage.scheduleCheck("p2", { delayMs: 10_000_000 });
      clock.advance(3_599_999);
      deepEqual(await due(), []);
      clock.advance(1);
      deepEqual(await due(), ["p3"]);
    },
  },
  {
    name: "gives a reader its next event, however many of others were not read",
    async run({ storage, clock }) {
      const other = { merchant: "other", webhookUrl: "" };
      for (let index = 0; index < 12; index++) {
        await storage.createPayment(payment(`o${index}`, clock, other));
        await storage.change(`o${index}`, (current) => pay(current, `o${index}`, 1n));
      }
      clock.advance(1);
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const [first] = await storage.eventsAfter("shop", 0, 10);
      equal(first?.body, "{}");
      await storage.change("p1", (current) => pay(current, "t2", 1n, '{"second":true}'));
      const next = await storage.eventsAfter("shop", first?.position ?? 0, 10);
      deepEqual(
        next.map(({ body }) => body),
        ['{"second":true}'],
      );
      equal((await storage.eventsAfter("other", 0, 11)).length, 11);
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
      equal(await finish(storage, first, clock, { state: "delivered" }), false);
      equal(await finish(storage, second, clock, { state: "pending", delayMs: 500 }), true);
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
        await finish(storage, head, clock, { state: "pending", delayMs: attempt < 3 ? 0 : 60_000 });
      }
      deepEqual(await storage.claimDeliveries(claimLate), []); // the head is not due
      const [later] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      equal(later.eventId, "evt_p1_2");
      await finish(storage, later, clock, { state: "delivered" });
      deepEqual(await storage.claimDeliveries(claimOne), []);
      await storage.change("p1", (current) => pay(current, "t3", 1n));
      // The new event makes the head due at once.
      equal((await storage.claimDeliveries(claimLate))[0]?.eventId, "evt_p1_1");
      deepEqual(
        (await storage.claimDeliveries(claimOne)).map(({ eventId }) => eventId),
        [],
      ); // one at a time
    },
  },
  {
    name: "sends one late event of a payment at a time, the earlier one first",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      for (const transaction of ["t1", "t2"]) {
        await storage.change("p1", (current) => pay(current, transaction, 1n));
        for (let attempt = 1; attempt <= 3; attempt++) {
          const [claimed] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
          // The second event is due before the first one, which was tried earlier.
          const delayMs = transaction === "t1" ? 60_000 : 30_000;
          await finish(storage, claimed, clock, { state: "pending", delayMs: attempt < 3 ? 0 : delayMs });
        }
      }
      clock.advance(60_000);
      const claim = async () => (await storage.claimDeliveries(claimLate)).map(({ eventId }) => eventId);
      deepEqual([await claim(), await claim()], [["evt_p1_1"], []]);
    },
  },
  {
    name: "sends an event again with a new schedule",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const [first] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await finish(storage, first, clock, { state: "exhausted" });
      deepEqual(await storage.claimDeliveries(claimOne), []);
      equal(await storage.redeliver("evt_none"), 0);
      equal(await storage.redeliver("evt_p1_1"), 1);
      const [again] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      deepEqual([again.attempt, again.scheduleAttempt], [2, 1]);
    },
  },
  {
    name: "sends an event again although its last try is under way",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const [last] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      equal(await storage.redeliver("evt_p1_1"), 1);
      await finish(storage, last, clock, { state: "exhausted" });
      const [again] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      deepEqual([again?.attempt, again?.scheduleAttempt], [2, 1]);
    },
  },
  {
    name: "sends only what was given up again, when that is asked for",
    async run({ storage, clock }) {
      await storage.addEndpoint(
        { id: "we1", merchant: "shop", url: "https://we1.example/", state: "enabled", createdAt: clock.now() },
        "secret-of-it",
      );
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      for (const delivery of await storage.claimDeliveries(claimOne)) {
        await finish(storage, delivery, clock, { state: delivery.endpointId === "" ? "delivered" : "exhausted" });
      }
      equal(await storage.redeliver("evt_p1_1", { only: "exhausted" }), 1);
      deepEqual(
        (await storage.claimDeliveries(claimOne)).map(({ endpointId, scheduleAttempt }) => [
          endpointId,
          scheduleAttempt,
        ]),
        [["we1", 1]],
      );
      equal(await storage.redeliver("evt_p1_1", { only: "exhausted" }), 0);
    },
  },
  {
    name: "counts no try whose claim is given back, and gives back no claim that was lost",
    async run({ storage, clock }) {
      for (const id of ["p1", "p2"]) {
        await storage.createPayment(payment(id, clock));
        await storage.change(id, (current) => pay(current, `t-${id}`, 1n));
      }
      const claimed = await storage.claimDeliveries(claimOne);
      await storage.releaseDeliveries([]);
      await storage.releaseDeliveries(claimed);
      const again = await storage.claimDeliveries(claimOne);
      deepEqual(again.map(({ paymentId, attempt, scheduleAttempt }) => [paymentId, attempt, scheduleAttempt]).sort(), [
        ["p1", 1, 1],
        ["p2", 1, 1],
      ]);
      await storage.releaseDeliveries(claimed); // these are held by the second claim
      deepEqual(await storage.claimDeliveries(claimOne), []);
      for (const delivery of again) equal(await finish(storage, delivery, clock, { state: "delivered" }), true);
      await storage.releaseDeliveries(again);
      const known = await storage.deliveriesOf("p1");
      deepEqual(
        known.map(({ attempts, state, log }) => [attempts, state, log.length]),
        [[1, "delivered", 1]],
      );
    },
  },
  {
    name: "lets the one try of a breaker through again when a claim that was given back would have ended",
    async run({ storage, clock }) {
      const rule = { failures: 1, pauseMs: 30_000, maxPauseMs: 30_000 };
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const [first] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await finish(storage, first, clock, { state: "pending", delayMs: 0 }, rule);
      clock.advance(30_000);
      const trial = await storage.claimDeliveries(claimOne);
      equal(trial.length, 1);
      await storage.releaseDeliveries(trial);
      clock.advance(999);
      deepEqual(await storage.claimDeliveries(claimOne), []);
      clock.advance(1);
      deepEqual(
        (await storage.claimDeliveries(claimOne)).map(({ attempt, scheduleAttempt }) => [attempt, scheduleAttempt]),
        [[2, 2]],
      );
    },
  },
  {
    name: "books and tells of money although the receiver's host is as long as a host may be",
    async run({ storage, clock }) {
      const host = (last: string) => `${`${"a".repeat(63)}.`.repeat(3)}${last.repeat(61)}`;
      const rule = { failures: 1, pauseMs: 30_000, maxPauseMs: 30_000 };
      for (const [id, last] of [
        ["p1", "b"],
        ["p2", "c"],
      ] as const) {
        await storage.createPayment(payment(id, clock, { webhookUrl: `https://${host(last)}/hook` }));
        equal((await storage.change(id, (current) => pay(current, `t_${id}`, 1n))).state, "changed");
      }
      const claimed = await storage.claimDeliveries({ limit: 2, ttlMs: 1000, lane: "prompt" });
      deepEqual(claimed.map(({ paymentId }) => paymentId).sort(), ["p1", "p2"]);
      for (const delivery of claimed) {
        const isDead = delivery.paymentId === "p1";
        await finish(
          storage,
          delivery,
          clock,
          isDead ? { state: "pending", delayMs: 0 } : { state: "delivered" },
          rule,
        );
      }
      // Told apart although they begin alike.
      deepEqual(
        (await storage.health()).pausedReceivers.map(({ failures, origin }) => [failures, origin.length]),
        [[1, 191]],
      );
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
    name: "signs with the new and the former secrets of a merchant until the overlap ends, ten at most",
    async run({ storage, clock }) {
      const { webhookSecret: _own, ...unsigned } = payment("p1", clock);
      await storage.merchantSecret("shop", "secret-0");
      await storage.createPayment(unsigned);
      await storage.createPayment(payment("p2", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      await storage.change("p2", (current) => pay(current, "t2", 1n));
      const secretsOf = async (id: string) => {
        const claimed = await storage.claimDeliveries({ ...claimOne, ttlMs: 1 });
        clock.advance(1);
        return claimed.find(({ paymentId }) => paymentId === id)?.secrets;
      };
      const rotate = (secret: string, overlapMs: number, merchant = "shop") =>
        storage.rotateMerchantSecret(merchant, { secret, overlapMs });
      equal(await rotate("secret-1", 1_000), true);
      equal(await storage.merchantSecret("shop", "another"), "secret-1");
      deepEqual(await secretsOf("p1"), ["secret-1", "secret-0"]);
      deepEqual(await secretsOf("p2"), ["test_secret_key"]); // a payment's own secret is its own
      clock.advance(500);
      equal(await rotate("secret-2", 5_000), true);
      clock.advance(497);
      deepEqual(await secretsOf("p1"), ["secret-2", "secret-1", "secret-0"]);
      deepEqual(await secretsOf("p1"), ["secret-2", "secret-1"]); // the first one's second has passed
      await storage.cleanUp({ expiredForMs: 0, exhaustedForMs: 0, keysForMs: 0, limit: 10 });
      deepEqual(await secretsOf("p1"), ["secret-2", "secret-1"]);
      equal(await rotate("secret-3", 10), true); // a shorter overlap ends all former ones sooner
      clock.advance(10);
      deepEqual(await secretsOf("p1"), ["secret-3"]);
      await storage.cleanUp({ expiredForMs: 0, exhaustedForMs: 0, keysForMs: 0, limit: 10 });
      deepEqual(await secretsOf("p1"), ["secret-3"]);
      const many = await Promise.all(Array.from({ length: 12 }, (_, index) => rotate(`more-${index}`, 60_000)));
      equal(many.filter(Boolean).length, 9);
      const inForce = await secretsOf("p1");
      // Each one that was accepted is in force, and the merchant's own is the newest of them.
      deepEqual(
        [...(inForce ?? [])].sort(),
        ["secret-3", ...many.flatMap((isDone, index) => (isDone ? [`more-${index}`] : []))].sort(),
      );
      equal(await storage.merchantSecret("shop", "another"), inForce?.[0]);
      equal(await rotate("secret-4", 0), true); // a leaked one ends at once, with all others
      deepEqual(await secretsOf("p1"), ["secret-4"]);
      // A merchant that had none gets it, also when several come at once; another merchant's is not touched.
      const first = await Promise.all(["a", "b"].map((secret) => rotate(secret, 60_000, "other")));
      deepEqual(first, [true, true]);
      match(await storage.merchantSecret("other", "another"), /^[ab]$/);
      equal(await storage.merchantSecret("shop", "another"), "secret-4");
    },
  },
  {
    name: "counts failed calls by provider and day, sums what comes at once, keeps the latest, and forgets old days",
    async run({ storage, clock }) {
      const dayMs = 86_400_000;
      const today = new Date(Math.floor(clock.now().getTime() / dayMs) * dayMs);
      const at = (days: number, ms = 0) => new Date(today.getTime() + days * dayMs + ms);
      const record = (provider: string, days: number, ms: number, failures: number, message: string) =>
        storage.recordProviderErrors({
          provider,
          day: at(days),
          failures,
          last: { at: at(days, ms), call: "state", message },
        });
      await record("bank", -30, 1, 7, "a month ago");
      await record("bank", -2, 5, 1, "earlier");
      await Promise.all(Array.from({ length: 12 }, (_, index) => record("bank", 0, index, 2, `Банк\0 ${index} 😀`)));
      await record("bank", 0, 3, 1, "told late");
      await record("Bank", 0, 4, 1, "another one");
      const shown = async (since: Date) =>
        (await storage.providerErrors(since)).map(({ provider, day, failures, last }) => [
          provider,
          (day.getTime() - today.getTime()) / dayMs,
          failures,
          last.at.getTime() - day.getTime(),
          last.call,
          last.message.replaceAll("\0", "\uFFFD"),
        ]);
      const recent = [
        ["Bank", 0, 1, 4, "state", "another one"],
        ["bank", 0, 25, 11, "state", "Банк\uFFFD 11 😀"],
        ["bank", -2, 1, 5, "state", "earlier"],
      ];
      deepEqual(await shown(at(-2, 1)), recent); // from the day, not from the instant
      const month = ["bank", -30, 7, 1, "state", "a month ago"];
      deepEqual(await shown(at(-40)), [...recent, month]);
      const cleanUp = () => storage.cleanUp({ expiredForMs: 0, exhaustedForMs: 0, keysForMs: 0, limit: 10 });
      await cleanUp(); // its day ended less than 30 days ago
      deepEqual(await shown(at(-40)), [...recent, month]);
      clock.advance(dayMs);
      await cleanUp();
      deepEqual(await shown(at(-40)), recent);
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
        pausedReceivers: [],
        goneEndpoints: 0,
        lateChecks: [],
      });
      for (const id of ["p1", "p2", "p3"]) {
        await storage.createPayment(payment(id, clock));
        await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
      }
      const [first, second] = await storage.claimDeliveries({ ...claimOne, limit: 2 });
      if (first) await finish(storage, first, clock, { state: "pending", delayMs: 60_000 });
      if (second) await finish(storage, second, clock, { state: "exhausted" });
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
      const claim = async (running: readonly (readonly [string, number])[], limit: number) => {
        const receivers = { limit: 3, running: new Map(running) };
        const claimed = await storage.claimDeliveries({ limit, ttlMs: 60_000, lane: "prompt", receivers });
        return claimed.map(({ paymentId }) => paymentId);
      };
      // Ten of the slow one stand before these.
      deepEqual(await claim([["https://slow.example", 3]], 1), ["p10"]);
      // Of both, the first that were due go first.
      deepEqual(await claim([["https://slow.example", 1]], 9), ["p0", "p1", "p11"]);
      deepEqual(await claim([["https://slow.example", 2]], 9), ["p2"]);
    },
  },
  {
    name: "gives each receiver its turn, however much waits for others and however few places there are",
    async run({ storage, clock }) {
      for (const host of ["a", "b", "c"]) {
        for (const merchant of ["one", "two"]) {
          for (let index = 0; index < 8; index++) {
            const id = `${host}-${merchant}-${index}`;
            const webhookUrl = `https://${host}.example/hook`;
            await storage.createPayment(payment(id, clock, { merchant, webhookUrl }));
            await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
          }
        }
      }
      clock.advance(1);
      const turns: string[] = [];
      for (let count = 0; count < 48; count++) {
        const claimed = await storage.claimDeliveries({ ...claimOne, limit: 1, ttlMs: 60_000 });
        for (const { paymentId } of claimed) turns.push(paymentId.slice(0, -2));
      }
      deepEqual([...new Set(turns)].length, 6);
      for (let count = 0; count < 48; count += 6) {
        deepEqual(turns.slice(count, count + 6).sort(), ["a-one", "a-two", "b-one", "b-two", "c-one", "c-two"]);
      }
    },
  },
  {
    name: "shares the places of one origin among its merchants",
    async run({ storage, clock }) {
      for (const merchant of ["one", "two", "three"]) {
        for (let index = 0; index < 8; index++) {
          const id = `${merchant}-${index}`;
          await storage.createPayment(payment(id, clock, { merchant }));
          await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
        }
      }
      clock.advance(1);
      const counts = new Map<string, number>();
      for (let count = 0; count < 6; count++) {
        const receivers = { limit: 4, running: new Map([["https://shop.example", 2]]) };
        const claimed = await storage.claimDeliveries({ ...claimOne, limit: 9, ttlMs: 60_000, receivers });
        equal(claimed.length, 2);
        for (const { merchant } of claimed) counts.set(merchant, (counts.get(merchant) ?? 0) + 1);
      }
      deepEqual(Object.fromEntries(counts), { one: 4, two: 4, three: 4 });
    },
  },
  {
    name: "stores tries that end together in one go, each by its own claim",
    async run({ storage, clock }) {
      for (const id of ["p1", "p2", "p3"]) {
        await storage.createPayment(payment(id, clock));
        await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
      }
      const claimed = await storage.claimDeliveries(claimOne);
      const [lost] = claimed as [ClaimedDelivery];
      clock.advance(1_000);
      const again = await storage.claimDeliveries(claimOne); // all three, after the first claims ended
      const ended = (delivery: ClaimedDelivery, verdict: DeliveryVerdict) => ({
        delivery,
        attempt: tried(delivery, clock),
        verdict,
      });
      const [first, second, third] = again as [ClaimedDelivery, ClaimedDelivery, ClaimedDelivery];
      deepEqual(
        await storage.finishDeliveries(
          [
            ended(first, { state: "delivered" }),
            ended(lost, { state: "delivered" }),
            ended(second, { state: "pending", delayMs: 1_000 }),
            ended(third, { state: "exhausted" }),
          ],
          breaker,
        ),
        [true, false, true, true],
      );
      const states = await Promise.all(again.map(({ paymentId }) => storage.deliveriesOf(paymentId)));
      deepEqual(
        states.flat().map(({ state, log }) => [state, log.map(({ attempt }) => attempt)]),
        [
          ["delivered", [2]],
          ["pending", [2]],
          ["exhausted", [2]],
        ],
      );
      deepEqual(await storage.finishDeliveries([], breaker), []);
    },
  },
  {
    name: "leaves a receiver alone after failures in a row, lets one try through when the pause is over, and heeds it",
    async run({ storage, clock }) {
      const rule = { failures: 3, pauseMs: 30_000, maxPauseMs: 100_000 };
      for (let index = 0; index < 6; index++) {
        const merchant = index === 5 ? "other" : "shop";
        await storage.createPayment(payment(`p${index}`, clock, { merchant }));
        await storage.change(`p${index}`, (current) => pay(current, `t${index}`, 10_000n));
        clock.advance(1);
      }
      const claim = () => storage.claimDeliveries({ ...claimOne, ttlMs: 10_000 });
      const all = await claim();
      equal(all.length, 6);
      const fail = (delivery: ClaimedDelivery | undefined) =>
        finish(storage, delivery as ClaimedDelivery, clock, { state: "pending", delayMs: 0 }, rule);
      await fail(all[0]);
      await fail(all[1]);
      equal((await claim()).length, 2); // not yet
      await fail(all[2]);
      await fail(all[3]); // it was under way and lengthens nothing
      deepEqual(
        (await storage.health()).pausedReceivers.map(({ until, ...receiver }) => [receiver, until.getTime()]),
        [[{ merchant: "shop", origin: "https://shop.example", failures: 4 }, clock.now().getTime() + 30_000]],
      );
      await fail(all[5]); // another merchant's count is its own
      deepEqual(
        (await claim()).map(({ merchant }) => merchant),
        ["other"],
      );
      clock.advance(30_000);
      const probes = (await Promise.all(Array.from({ length: 5 }, claim))).flat();
      deepEqual(
        probes.filter(({ merchant }) => merchant === "shop").map(({ attempt }) => attempt > 0),
        [true],
      );
      await fail(probes.find(({ merchant }) => merchant === "shop")); // twice as long now
      clock.advance(59_999);
      deepEqual(
        (await claim()).filter(({ merchant }) => merchant === "shop"),
        [],
      );
      clock.advance(1);
      const [probe] = (await claim()).filter(({ merchant }) => merchant === "shop") as [ClaimedDelivery];
      await finish(storage, probe, clock, { state: "delivered" }, rule);
      deepEqual((await storage.health()).pausedReceivers, []);
      equal((await claim()).filter(({ merchant }) => merchant === "shop").length > 1, true);
    },
  },
  {
    name: "gives up what waited too long behind a breaker that opened often enough, and nothing else",
    async run({ storage, clock }) {
      const rule = { failures: 1, pauseMs: 30_000, maxPauseMs: 30_000 };
      const givingUp = { waitedMs: 60_000, openings: 3, limit: 10 };
      const create = async (id: string, host: string) => {
        await storage.createPayment(payment(id, clock, { webhookUrl: `https://${host}.example/hook` }));
        await storage.change(id, (current) => pay(current, `t-${id}`, 10_000n));
        clock.advance(1);
      };
      for (const id of ["d1", "d2", "d3", "d4"]) await create(id, "dead");
      for (const id of ["f1", "f2"]) await create(id, "flaky");
      await create("w1", "well"); // due as long as these, and simply not sent yet
      const claim = (count: number, host: string) =>
        storage.claimDeliveries({
          ...claimOne,
          limit: count,
          receivers: {
            limit: count,
            running: new Map(
              ["dead", "flaky", "well"]
                .filter((other) => other !== host)
                .map((other) => [`https://${other}.example`, count]),
            ),
          },
        });
      const fail = async (host: string) => {
        const [delivery] = (await claim(1, host)) as [ClaimedDelivery];
        await finish(storage, delivery, clock, { state: "pending", delayMs: 10 * 60_000 }, rule);
        return delivery.paymentId;
      };
      deepEqual([await fail("dead"), await fail("flaky")], ["d1", "f1"]);
      clock.advance(60_000);
      deepEqual(await storage.giveUpWaiting(givingUp), 0); // long enough, not often enough
      deepEqual(await fail("dead"), "d2");
      clock.advance(30_000);
      deepEqual(await fail("dead"), "d3");
      await create("d5", "dead");
      deepEqual(await storage.giveUpWaiting({ ...givingUp, waitedMs: 120_000 }), 0); // often enough, not long enough
      clock.advance(30_000);
      const [held] = (await claim(1, "dead")) as [ClaimedDelivery]; // the next probe is under way
      deepEqual(held.paymentId, "d4");
      deepEqual(await storage.giveUpWaiting(givingUp), 0);
      clock.advance(1_000);
      deepEqual(await storage.giveUpWaiting({ ...givingUp, limit: 1 }), 1);
      deepEqual(await storage.giveUpWaiting(givingUp), 0);
      const states = await Promise.all(
        ["d1", "d2", "d3", "d4", "d5", "f2", "w1"].map(async (id) => (await storage.deliveriesOf(id))[0]?.state),
      );
      deepEqual(states, ["pending", "pending", "pending", "exhausted", "pending", "pending", "pending"]);
      equal(await finish(storage, held, clock, { state: "delivered" }), true); // its answer came late, and counts
      equal((await storage.deliveriesOf("d4"))[0]?.state, "delivered");
    },
  },
  {
    name: "closes a breaker when a person asks, by the receiver or by the event",
    async run({ storage, clock }) {
      const rule = { failures: 1, pauseMs: 30_000, maxPauseMs: 30_000 };
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const claim = () => storage.claimDeliveries(claimOne);
      for (const ask of [
        () => storage.redeliver("evt_p1_1"),
        () => storage.unblockReceiver("shop", "https://shop.example"),
      ]) {
        const [delivery] = (await claim()) as [ClaimedDelivery];
        await finish(storage, delivery, clock, { state: "pending", delayMs: 0 }, rule);
        deepEqual(await claim(), []);
        await ask();
      }
      equal((await claim()).length, 1);
      equal(await storage.unblockReceiver("shop", "https://nobody.example"), false);
    },
  },
  {
    name: "gives a merchant twenty endpoints and no more, also when many are added at once",
    async run({ storage, clock }) {
      const add = (merchant: string, index: number) =>
        storage.addEndpoint(
          {
            id: `${merchant}-${index}`,
            merchant,
            url: "https://we.example/",
            state: "enabled",
            createdAt: clock.now(),
          },
          "secret-of-it",
        );
      const added = await Promise.all(Array.from({ length: 24 }, (_, index) => add("shop", index)));
      deepEqual([added.filter(Boolean).length, (await storage.listEndpoints("shop")).length], [20, 20]);
      equal(await add("other", 0), true);
      const [first] = await storage.listEndpoints("shop");
      equal(await storage.removeEndpoint("shop", first?.id ?? ""), true);
      deepEqual([await add("shop", 24), await add("shop", 25)], [true, false]);
    },
  },
  {
    name: "tells every endpoint of the merchant, each in its own order and with its own secrets",
    async run({ storage, clock }) {
      const endpoint = (id: string, merchant = "shop"): WebhookEndpoint => ({
        id,
        merchant,
        url: `https://${id}.example/hook`,
        state: "enabled",
        createdAt: clock.now(),
      });
      await storage.addEndpoint(endpoint("we1"), "secret-of-we1");
      await storage.addEndpoint(endpoint("we2", "other"), "secret-of-we2");
      deepEqual(await storage.listEndpoints("shop"), [endpoint("we1")]);
      const { webhookUrl: _url, ...silent } = payment("p2", clock);
      await storage.createPayment(payment("p1", clock));
      await storage.createPayment(silent);
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      await storage.change("p2", (current) => pay(current, "t2", 1n));
      const claimed = await storage.claimDeliveries(claimOne);
      deepEqual(
        claimed.map(({ paymentId, endpointId, url, secrets }) => [paymentId, endpointId, url, secrets]).sort(),
        [
          ["p1", "", "https://shop.example/hook", ["test_secret_key"]],
          ["p1", "we1", "https://we1.example/hook", ["secret-of-we1"]],
          ["p2", "we1", "https://we1.example/hook", ["secret-of-we1"]],
        ],
      );
      // The payment's own address goes on while the endpoint fails.
      await storage.change("p1", (current) => pay(current, "t3", 1n));
      for (const delivery of claimed) {
        const verdict: DeliveryVerdict =
          delivery.endpointId === "" ? { state: "delivered" } : { state: "pending", delayMs: 60_000 };
        await finish(storage, delivery, clock, verdict);
      }
      deepEqual(
        (await storage.claimDeliveries(claimOne)).map(({ eventId, endpointId }) => [eventId, endpointId]),
        [["evt_p1_2", ""]],
      );
    },
  },
  {
    name: "signs with the new and the former secrets of an endpoint until the overlap ends, ten at most",
    async run({ storage, clock }) {
      const we1: WebhookEndpoint = {
        id: "we1",
        merchant: "shop",
        url: "https://we1.example/",
        state: "enabled",
        createdAt: clock.now(),
      };
      await storage.addEndpoint(we1, "secret-0");
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const secrets = async () => {
        const claimed = await storage.claimDeliveries({ ...claimOne, ttlMs: 1 });
        clock.advance(1);
        return claimed.find(({ endpointId }) => endpointId === "we1")?.secrets;
      };
      const rotate = (secret: string, overlapMs: number) =>
        storage.rotateEndpointSecret("shop", "we1", { secret, overlapMs });
      equal(await rotate("secret-1", 1_000), true);
      deepEqual(await secrets(), ["secret-1", "secret-0"]);
      clock.advance(500);
      equal(await rotate("secret-2", 5_000), true);
      clock.advance(498);
      deepEqual(await secrets(), ["secret-2", "secret-1", "secret-0"]);
      deepEqual(await secrets(), ["secret-2", "secret-1"]); // the first one's second has passed
      equal(await rotate("secret-2b", 10), true); // a shorter overlap ends all former ones sooner
      clock.advance(7);
      deepEqual(await secrets(), ["secret-2b", "secret-2", "secret-1"]);
      clock.advance(2);
      deepEqual(await secrets(), ["secret-2b"]);
      equal(await rotate("secret-3", 0), true); // a leaked one ends at once, with all others
      deepEqual(await secrets(), ["secret-3"]);
      const many = await Promise.all(Array.from({ length: 12 }, (_, index) => rotate(`more-${index}`, 60_000)));
      equal(many.filter(Boolean).length, 9);
      equal((await secrets())?.length, 10);
      equal(await storage.rotateEndpointSecret("other", "we1", { secret: "x", overlapMs: 0 }), false);
      equal(await storage.rotateEndpointSecret("shop", "we9", { secret: "x", overlapMs: 0 }), false);
    },
  },
  {
    name: "switches an endpoint off after 410, or by hand: what waits is ended, nothing new is sent, and it may come back",
    async run({ storage, clock }) {
      for (const id of ["we1", "we2"]) {
        await storage.addEndpoint(
          { id, merchant: "shop", url: `https://${id}.example/`, state: "enabled", createdAt: clock.now() },
          "secret-of-it",
        );
      }
      for (const id of ["p1", "p2"]) await storage.createPayment(payment(id, clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      await storage.change("p2", (current) => pay(current, "t2", 1n));
      const claimed = await storage.claimDeliveries(claimOne);
      const [gone] = claimed.filter(({ endpointId }) => endpointId === "we1") as [ClaimedDelivery];
      await finish(storage, gone, clock, { state: "exhausted", gone: true });
      equal(await storage.setEndpointState("shop", "we2", "disabled"), true);
      deepEqual(
        (await storage.listEndpoints("shop")).map(({ id, state }) => [id, state]),
        [
          ["we1", "gone"],
          ["we2", "disabled"],
        ],
      );
      equal((await storage.health()).goneEndpoints, 1);
      // A try that was under way when its endpoint was switched off brings nothing back.
      for (const delivery of claimed) {
        if (delivery !== gone) await finish(storage, delivery, clock, { state: "pending", delayMs: 0 });
      }
      clock.advance(10_000);
      const waiting = await storage.claimDeliveries(claimOne);
      deepEqual(
        waiting.map(({ endpointId }) => endpointId),
        ["", ""],
      );
      equal(await storage.redeliver(gone.eventId), 1); // the payment's own address only
      equal(await storage.setEndpointState("shop", "we1", "enabled"), true);
      await storage.change("p1", (current) => pay(current, "t3", 1n));
      equal((await storage.deliveriesOf("p1")).filter(({ state }) => state === "pending").length, 3);
      equal(await storage.removeEndpoint("other", "we1"), false);
      equal(await storage.removeEndpoint("shop", "we1"), true);
      equal(await storage.removeEndpoint("shop", "we1"), false);
      equal(await storage.setEndpointState("shop", "we1", "enabled"), false);
      equal((await storage.deliveriesOf("p1")).filter(({ state }) => state === "pending").length, 2);
    },
  },
  {
    name: "leaves an endpoint as a person made it while a try was under way that is answered 410",
    async run({ storage, clock }) {
      for (const id of ["we1", "we2"]) {
        await storage.addEndpoint(
          { id, merchant: "shop", url: `https://${id}.example/`, state: "enabled", createdAt: clock.now() },
          "secret-of-it",
        );
      }
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 1n));
      const claimed = await storage.claimDeliveries(claimOne);
      for (const id of ["we1", "we2"]) equal(await storage.setEndpointState("shop", id, "disabled"), true);
      equal(await storage.setEndpointState("shop", "we2", "enabled"), true);
      await storage.change("p1", (current) => pay(current, "t2", 1n));
      for (const delivery of claimed) {
        if (delivery.endpointId === "") equal(await finish(storage, delivery, clock, { state: "delivered" }), true);
        else equal(await finish(storage, delivery, clock, { state: "exhausted", gone: true }), true);
      }
      deepEqual(
        (await storage.listEndpoints("shop")).map(({ id, state }) => [id, state]),
        [
          ["we1", "disabled"],
          ["we2", "enabled"],
        ],
      );
      equal((await storage.health()).goneEndpoints, 0);
      deepEqual((await storage.claimDeliveries(claimOne)).map(({ endpointId }) => endpointId).sort(), ["", "we2"]);
    },
  },
  {
    name: "counts and finds what was given up until it is dismissed, or its endpoint is switched off or removed by hand",
    async run({ storage, clock }) {
      for (const id of ["we1", "we2"]) {
        await storage.addEndpoint(
          { id, merchant: "shop", url: `https://${id}.example/`, state: "enabled", createdAt: clock.now() },
          "secret-of-it",
        );
      }
      for (const id of ["p1", "p2", "p3"]) {
        await storage.createPayment(payment(id, clock));
        clock.advance(1);
      }
      for (const id of ["p1", "p2"]) await storage.change(id, (current) => pay(current, `t${id}`, 1n));
      const statesOf = async (id: string) =>
        Object.fromEntries((await storage.deliveriesOf(id)).map(({ endpointId, state }) => [endpointId, state]));
      const givenUp = async () => [
        (await storage.health()).exhausted,
        ...(await storage.listPayments({ givenUp: true }, 10)).map(({ id }) => id),
      ];
      deepEqual(await givenUp(), [0]);
      for (const delivery of await storage.claimDeliveries({ ...claimOne, limit: 10 })) {
        if (delivery.paymentId === "p1" || delivery.endpointId === "we1") {
          await finish(storage, delivery, clock, { state: "exhausted" });
        } else await finish(storage, delivery, clock, { state: "pending", delayMs: 1_000 });
      }
      deepEqual(await givenUp(), [4, "p2", "p1"]);
      deepEqual(await storage.listPayments({ givenUp: true, merchant: "other" }, 10), []);
      equal(await storage.setEndpointState("shop", "we1", "disabled"), true);
      deepEqual(await givenUp(), [2, "p1"]);
      equal(await storage.removeEndpoint("shop", "we2"), true);
      deepEqual(await givenUp(), [1, "p1"]);
      deepEqual(await statesOf("p2"), { "": "pending", we1: "dropped", we2: "dropped" });
      equal(await storage.dismiss("evt_p1_1"), 1);
      equal(await storage.dismiss("evt_p1_1"), 0);
      equal(await storage.dismiss("evt_p2_1"), 0); // waits: it is not given up
      deepEqual(await givenUp(), [0]);
      deepEqual(await statesOf("p1"), { "": "dropped", we1: "dropped", we2: "dropped" });
      equal(await storage.redeliver("evt_p1_1"), 1); // a person may still want it
      deepEqual(await statesOf("p1"), { "": "pending", we1: "dropped", we2: "dropped" });
    },
  },
  {
    name: "cleans up what expired long ago without money and was told, and leaves what books and tells late money",
    async run({ storage, clock }) {
      const expire = (id: string) =>
        storage.change(id, (current) => ({
          payment: { ...current, status: "expired", sequence: 1, updatedAt: clock.now() },
          event: {
            id: `evt_${id}`,
            paymentId: id,
            merchant: "shop",
            sequence: 1,
            name: "expired",
            body: '{"metadata":{"имя":"Әлия"}}',
            createdAt: clock.now(),
          },
        }));
      const fields = { description: "для Әлии", metadata: '{"имя":"Әлия"}', returnUrl: "https://shop.example/aliya" };
      for (const id of ["told", "waiting", "given_up", "with_money", "silent"]) {
        const { webhookUrl: _url, ...silent } = payment(id, clock, { ...fields, account: id });
        await storage.createPayment(
          id === "silent" ? silent : payment(id, clock, { ...fields, account: id }),
          key({ key: id }),
        );
        await expire(id);
      }
      const states: Readonly<Record<string, DeliveryVerdict>> = {
        told: { state: "delivered" },
        waiting: { state: "pending", delayMs: 0 },
        given_up: { state: "exhausted" },
        with_money: { state: "delivered" },
      };
      for (const delivery of await storage.claimDeliveries(claimOne)) {
        await finish(storage, delivery, clock, states[delivery.paymentId] as DeliveryVerdict);
      }
      await storage.change("with_money", (current) => pay(current, "t1", 1n));
      const days = 86_400_000;
      const rule = { expiredForMs: 7 * days, exhaustedForMs: 30 * days, keysForMs: 30 * days, limit: 100 };
      clock.advance(7 * days - 1);
      deepEqual(await storage.cleanUp(rule), { payments: 0, keys: 0 });
      clock.advance(1);
      deepEqual(await storage.cleanUp({ ...rule, limit: 1 }), { payments: 1, keys: 0 });
      deepEqual(await storage.cleanUp(rule), { payments: 1, keys: 0 });
      deepEqual(await storage.cleanUp(rule), { payments: 0, keys: 0 });
      const tombstone = await storage.getPayment("told");
      deepEqual(
        [tombstone?.description, tombstone?.metadata, tombstone?.returnUrl, tombstone?.erasedAt],
        ["", "{}", undefined, clock.now()],
      );
      deepEqual(
        [tombstone?.amountMinor, tombstone?.account, tombstone?.webhookUrl],
        [10_000n, "told", "https://shop.example/hook"],
      );
      deepEqual([await storage.deliveriesOf("told"), (await storage.historyOf("told")).events], [[], []]);
      equal(await storage.getEvent("evt_told"), undefined);
      deepEqual((await storage.listPayments({}, 10)).map(({ id }) => id).sort(), ["given_up", "waiting", "with_money"]);
      // Late money: booked, told with the next number, to the same address with the same secret.
      equal((await storage.change("told", (current) => pay(current, "late", 10_000n))).state, "changed");
      const told = (await storage.claimDeliveries(claimOne)).find(({ paymentId }) => paymentId === "told");
      deepEqual(
        [told?.eventId, told?.url, told?.secrets],
        ["evt_told_2", "https://shop.example/hook", ["test_secret_key"]],
      );
      equal((await storage.listPayments({ search: "told" }, 10)).length, 1);
      clock.advance(23 * days);
      deepEqual(await storage.cleanUp(rule), { payments: 1, keys: 5 });
    },
  },
  {
    name: "keeps the first answer of a refund, whoever else gives one, until the payment is erased",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.change("p1", (current) => pay(current, "t1", 10_000n));
      const refund = {
        id: "re_1",
        paymentId: "p1",
        amountMinor: 100n,
        status: "pending",
        createdAt: clock.now(),
        updatedAt: clock.now(),
      } as const;
      await storage.change("p1", (current) => ({
        payment: { ...current, refundingMinor: current.refundingMinor + 100n },
        refund,
      }));
      const answers = ["a", "b", "c", "d"].map((name) => `{"${name}": "Ә 1.10"}`);
      const kept = await Promise.all(answers.map((answer) => storage.keepRefundAnswer("re_1", answer)));
      equal(new Set(kept).size, 1);
      equal(answers.includes(kept[0] ?? ""), true);
      equal(await storage.keepRefundAnswer("re_1", "later"), kept[0]);
      equal(await storage.keepRefundAnswer("re_unknown", "its own"), "its own");
      const [delivery] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await finish(storage, delivery, clock, { state: "delivered" });
      equal(await storage.erasePayment("p1"), "erased");
      equal(await storage.keepRefundAnswer("re_1", "after"), "after");
    },
  },
  {
    name: "erases one payment in any state, unless a webhook of it waits; its money stays",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock, { metadata: '{"phone":"+77011234567"}' }));
      await storage.change("p1", (current) => pay(current, "t1", 10_000n));
      equal(await storage.erasePayment("p1"), "waiting");
      const [delivery] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await finish(storage, delivery, clock, { state: "delivered" });
      equal(await storage.erasePayment("p1"), "erased");
      equal(await storage.erasePayment("nobody"), "not_found");
      const { metadata, paidMinor } = (await storage.getPayment("p1")) as Payment;
      deepEqual([metadata, paidMinor], ["{}", 10_000n]);
      deepEqual(await storage.eventsAfter("shop", 0, 10), []);
      equal((await storage.getBooking("sandbox", "t1"))?.amountMinor, 10_000n);
    },
  },
  {
    name: "lists payments that a person must look at",
    async run({ storage, clock }) {
      await storage.createPayment(payment("p1", clock));
      await storage.createPayment(payment("p2", clock, { needsAttention: "қараңыз" }));
      deepEqual(
        (await storage.listPayments({ needsAttention: true }, 10)).map(({ id }) => id),
        ["p2"],
      );
    },
  },
  {
    name: "counts payments and tries by day of UTC, days without any included",
    async run({ storage, clock }) {
      const dayMs = 86_400_000;
      const first = new Date(Math.floor(clock.now().getTime() / dayMs) * dayMs);
      const at = (ms: number) => new Date(first.getTime() + ms);
      await storage.createPayment(payment("p1", clock, { createdAt: first }));
      await storage.createPayment(payment("p2", clock, { createdAt: at(dayMs - 1) }));
      await storage.createPayment(payment("p3", clock, { createdAt: at(2 * dayMs) }));
      await storage.createPayment(payment("p4", clock, { createdAt: at(3 * dayMs) }));
      await storage.change("p2", (current) => pay(current, "t1", 10_000n));
      const [delivery] = (await storage.claimDeliveries(claimOne)) as [ClaimedDelivery];
      await finish(storage, delivery, clock, { state: "pending", delayMs: 0 });
      const days = (await storage.activity(first, at(3 * dayMs))).map(({ day, ...counts }) => [day, counts]);
      const none = { created: 0, paid: 0, delivered: 0, failed: 0 };
      deepEqual(days, [
        [first, { ...none, created: 2, paid: 1, failed: 1 }],
        [at(dayMs), none],
        [at(2 * dayMs), { ...none, created: 1 }],
      ]);
    },
  },
  {
    name: "lists tokens without their digests",
    async run({ storage, clock }) {
      const token = { id: "tok_1", merchant: "shop", scopes: ["read", "admin"], createdAt: clock.now() };
      await storage.addToken({ ...token, hash: "abc" });
      deepEqual(await storage.listTokens(), [token]);
    },
  },
];
