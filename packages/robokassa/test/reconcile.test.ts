import { ResponseShapeError, silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import {
  createReconciler,
  createResultHandler,
  createRobokassa,
  diagnose,
  type OperationState,
  type Order,
  placeOrder,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import {
  createFakeRobokassa,
  type FakeOperationState,
  type FakeReadings,
  type FakeShop,
} from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

async function shop(
  options: { readonly readings?: FakeReadings; readonly fake?: Partial<FakeShop>; readonly total?: string } = {},
) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const fake = createFakeRobokassa({
    ...demoShop,
    ...options.fake,
    holdAllowed: true,
    clock,
    ...(options.readings ? { readings: options.readings } : {}),
  });
  const storage = createRobokassaMemoryStorage({ clock });
  const robokassa = createRobokassa({ ...demoShop, fetch: fetchFrom(fake.handle), clock });
  let paid = 0;
  const shared = {
    robokassa,
    storage,
    clock,
    logger: silentLogger,
    onPaid: async () => {
      paid++;
    },
  };
  const place = (id: string, more: object = {}) =>
    placeOrder({ robokassa, storage, id, total: "1000.00", description: "Қалам", ...more });
  const { paymentUrl } = await place("order-1");
  return {
    clock,
    fake,
    storage,
    robokassa,
    paymentUrl,
    place,
    reconciler: createReconciler(shared),
    handler: createResultHandler(shared),
    order: () => storage.orders.get("order-1"),
    paid: () => paid,
  };
}

describe("operationState", () => {
  test.each([
    [5, "started"],
    [10, "cancelled"],
    [20, "held"],
    [50, "crediting"],
    [60, "returned"],
    [80, "suspended"],
    [100, "paid"],
  ] as const)("reads state %i as %s", async (code, state) => {
    const { fake, paymentUrl, robokassa } = await shop();
    await fake.pay({ url: paymentUrl });
    fake.setState("1", code);
    expect(await robokassa.operationState("1")).toMatchObject({ found: true, state, code: String(code) });
  });

  test.each(["documents", "tests"] as const)("reads every field, in the namespace of the %s", async (xmlNamespace) => {
    const { fake, place, robokassa } = await shop({ readings: { xmlNamespace } });
    const { paymentUrl } = await place("order-2", { shp: { Shp_name: "A & <B>", Shp_user: "5" } });
    await fake.pay({ url: paymentUrl });
    expect(await robokassa.operationState(2n)).toEqual({
      found: true,
      state: "paid",
      code: "100",
      stateAt: new Date("2026-11-01T10:00:00.000Z"),
      outSum: "1000.000000",
      incSum: "1000.000000",
      opKey: fake.operations[0]?.opKey,
      paymentMethod: "BankCard",
      incCurrLabel: "BankCardPSR",
      shp: { Shp_name: "A%20%26%20%3CB%3E", Shp_user: "5" },
    });
  });

  test.each([
    ["bad_signature", "1", { password2: "another" }, true],
    ["unknown_shop", "2", { active: false }, false],
    ["not_found", "3", {}, false],
  ] as const)("tells %s (%s) as a value", async (reason, code, change, pays) => {
    const { fake, paymentUrl, robokassa } = await shop();
    if (pays) await fake.pay({ url: paymentUrl });
    fake.configure(change);
    expect(await robokassa.operationState("1")).toEqual({ found: false, reason, code });
  });

  test("tells when a test payment shares the number", async () => {
    const { fake, paymentUrl, robokassa } = await shop();
    await fake.pay({ url: paymentUrl });
    await fake.pay({ invId: "1", outSum: "1000.00", test: true });
    expect(await robokassa.operationState("1")).toEqual({ found: false, reason: "ambiguous", code: "4" });
  });

  test.each([
    ["a page", { kind: "htmlAnswer" }],
    ["half an answer", { kind: "truncate" }],
  ] as const)("does not take %s for a state", async (_case, fault) => {
    const { fake, paymentUrl, robokassa } = await shop();
    await fake.pay({ url: paymentUrl });
    fake.faults.add({ fault });
    await expect(robokassa.operationState("1")).rejects.toThrow(ResponseShapeError);
  });

  test("refuses an answer that declares entities", async () => {
    const bomb =
      '<!DOCTYPE a [<!ENTITY b "100">]><R><Result><Code>0</Code></Result><State><Code>&b;</Code></State></R>';
    const robokassa = createRobokassa({ ...demoShop, fetch: async () => new Response(bomb) });
    await expect(robokassa.operationState("1")).rejects.toThrow("document type");
  });

  test.each(["", "0", "x"])("refuses the InvId %j before asking", async (invId) => {
    const { robokassa, fake } = await shop();
    await expect(robokassa.operationState(invId)).rejects.toThrow("invId");
    expect(fake.journal.entries).toHaveLength(0);
  });
});

describe("reconcile", () => {
  test("finds a payment whose notification was lost", async () => {
    const { fake, paymentUrl, reconciler, clock, order, paid } = await shop();
    await fake.pay({ url: paymentUrl });
    expect(await reconciler.runOnce()).toMatchObject({ checked: 0 });
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toEqual({ checked: 1, paid: 1, held: 0, closed: 0, pending: 0, failed: 0 });
    expect(await order()).toMatchObject({ status: "paid", opKey: fake.operations[0]?.opKey });
    expect(paid()).toBe(1);
    clock.advance(86_400_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 0 });
  });

  test("books once when ResultURL and reconcile race", async () => {
    const { fake, paymentUrl, reconciler, handler, clock, paid } = await shop();
    fake.configure({ resultUrl: "https://shop.example/result", resultMethod: "email" });
    await fake.pay({ url: paymentUrl });
    clock.advance(60_000);
    const body = "OutSum=1000.000000&InvId=1&SignatureValue=7e32d9e428890c3b46e559c36ce494d8"; // md5sum of 1000.000000:1:live-two
    const [answer, counts] = await Promise.all([
      handler(new Request("https://shop.example/result", { method: "POST", body })),
      reconciler.runOnce(),
    ]);
    expect([answer.status, counts.checked, paid()]).toEqual([200, 1, 1]);
  });

  test("asks with growing pauses while nothing happens, and gives up after 14 days", async () => {
    const { reconciler, clock, fake } = await shop();
    const pauses: number[] = [];
    for (let minutes = 0; minutes < 15 * 24 * 60; minutes++) {
      clock.advance(60_000);
      if ((await reconciler.runOnce()).checked > 0) pauses.push(minutes + 1);
    }
    expect(pauses.slice(0, 5)).toEqual([1, 2, 4, 8, 16]);
    expect(pauses.at(-1)).toBeGreaterThan(13 * 24 * 60);
    expect(pauses.at(-1)).toBeLessThan(14 * 24 * 60 + 361);
    expect(fake.journal.count("OpStateExt")).toBe(pauses.length);
  });

  test.each([
    [5, "pending", "new"],
    [10, "closed", "new"],
    [20, "held", "held"],
    [50, "pending", "new"],
    [60, "closed", "new"],
    [80, "pending", "new"],
  ] as const)("state %i is %s and leaves the order %s", async (state, outcome, status) => {
    const { fake, paymentUrl, reconciler, order } = await shop();
    await fake.confirm({ url: paymentUrl });
    fake.setState("1", state as FakeOperationState);
    const before = await order();
    expect((await reconciler.check(before as NonNullable<typeof before>)).outcome).toBe(outcome);
    expect((await order())?.status).toBe(status);
  });

  test("a hold that went back is open again", async () => {
    const { fake, paymentUrl, reconciler, clock, order } = await shop();
    await fake.confirm({ url: paymentUrl });
    fake.setState("1", 20);
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toMatchObject({ held: 1 });
    fake.setState("1", 60);
    clock.advance(120_000);
    expect(await reconciler.runOnce()).toMatchObject({ closed: 1 });
    expect((await order())?.status).toBe("new");
  });

  test.each(["with", "without"])(
    "an answer about a former attempt, %s its key, that comes after the buyer paid again leaves the new hold alone",
    async (key) => {
      const { fake, paymentUrl, reconciler, robokassa, storage, clock, order } = await shop();
      await fake.confirm({ url: paymentUrl });
      fake.setState("1", 10);
      clock.advance(60_000);
      const late = createReconciler({
        storage,
        clock,
        logger: silentLogger,
        robokassa: {
          async operationState(invId) {
            const { opKey, ...answer } = (await robokassa.operationState(invId)) as OperationState & { found: true };
            clock.advance(60_000);
            await fake.confirm({ url: paymentUrl });
            fake.setState("1", 20);
            await storage.orders.bookHold({ invId: "1", opKey: fake.operations.at(-1)?.opKey, sentAt: clock.now() });
            return { ...answer, opKey: key === "with" ? opKey : undefined };
          },
        },
      });
      expect((await late.check((await order()) as Order)).outcome).toBe("unchanged");
      expect((await order())?.status).toBe("held");
      expect((await reconciler.check((await order()) as Order)).outcome).toBe("unchanged");
      fake.setState("1", 60);
      expect((await reconciler.check((await order()) as Order)).outcome).toBe("closed");
      expect((await order())?.status).toBe("new");
    },
  );

  test("a capture of another sum, asked for while the payment is compared, is not booked with it", async () => {
    const { fake, paymentUrl, reconciler, robokassa, storage, clock, order, paid } = await shop();
    await fake.confirm({ url: paymentUrl });
    fake.setState("1", 20);
    expect((await reconciler.check((await order()) as Order)).outcome).toBe("held");
    fake.setState("1", 100);
    await storage.orders.keepCapture("1", "1000.00", undefined);
    let isFirst = true;
    const racing = createReconciler({
      robokassa,
      clock,
      logger: silentLogger,
      storage: {
        orders: {
          ...storage.orders,
          async bookPayment(payment, work) {
            if (isFirst) await storage.orders.keepCapture("1", "400.00", "1000.00");
            isFirst = false;
            return storage.orders.bookPayment(payment, work);
          },
        },
      },
    });
    expect((await racing.check((await order()) as Order)).outcome).toBe("amount_differs");
    expect([(await order())?.status, paid()]).toEqual(["held", 0]);
    await storage.orders.keepCapture("1", "1000.00", "400.00"); // the second capture was refused
    expect((await racing.check((await order()) as Order)).outcome).toBe("paid");
    expect(await order()).toMatchObject({ status: "paid", captured: "1000.00" });
  });

  test("a link that was cancelled first and paid later is found, though its notification was lost", async () => {
    const { fake, paymentUrl, reconciler, clock, order, paid } = await shop();
    await fake.confirm({ url: paymentUrl });
    fake.setState("1", 10);
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 1, closed: 1 });
    expect((await fake.pay({ url: paymentUrl })).errorCode).toBeUndefined();
    clock.advance(120_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 1, paid: 1 });
    expect([(await order())?.status, paid()]).toEqual(["paid", 1]);
  });

  test.each([
    ["paid", 100],
    ["held", 20],
  ] as const)("a payment of a former order with the same number, %s, books nothing", async (_state, code) => {
    const { fake, clock, place, storage, reconciler, robokassa, paid } = await shop();
    await fake.pay({ invId: "2", outSum: "1000.00" }); // last year's buyer, of another database
    fake.setState("2", code);
    clock.advance(365 * 86_400_000);
    const { order, paymentUrl } = await place("order-2");
    expect(order.invId).toBe("2");
    if (code === 100) expect((await fake.pay({ url: paymentUrl })).errorCode).toBe(40);
    expect((await reconciler.check(order)).outcome).toBe("number_used_before");
    expect([(await storage.orders.get("order-2"))?.status, paid()]).toEqual(["new", 0]);
    expect((await diagnose({ robokassa, storage, order: "2", clock })).code).toBe("number_used_before");
  });

  test("a clock that is minutes ahead of Robokassa's takes no payment for a former one", async () => {
    const { fake, clock, place, reconciler } = await shop();
    await fake.pay({ invId: "2", outSum: "1000.00" });
    clock.advance(600_000);
    const { order } = await place("order-2");
    expect((await reconciler.check(order)).outcome).toBe("paid");
  });

  test("one run asks about every order that is due, also when they fill more than a batch", async () => {
    const { place, reconciler, clock, fake } = await shop();
    for (let index = 2; index <= 120; index++) await place(`order-${index}`);
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 120, pending: 120 });
    expect(fake.journal.count("OpStateExt")).toBe(120);
  });

  test("leaves an order alone that was paid with another sum", async () => {
    const { fake, reconciler, clock, order } = await shop();
    await fake.pay({ invId: "1", outSum: "999.99" });
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 1, failed: 1 });
    expect((await order())?.status).toBe("new");
  });

  test("goes on with the other orders when one query fails, and comes back to it", async () => {
    const { fake, place, reconciler, clock, order, storage } = await shop();
    const { paymentUrl } = await place("order-2");
    await fake.pay({ url: paymentUrl });
    await fake.pay({ invId: "1", outSum: "1000.00" });
    clock.advance(60_000);
    fake.faults.add({ fault: { kind: "htmlAnswer" } });
    expect(await reconciler.runOnce()).toMatchObject({ checked: 2, paid: 1, failed: 1 });
    expect((await storage.orders.get("order-2"))?.status).toBe("paid");
    clock.advance(60_000);
    expect(await reconciler.runOnce()).toMatchObject({ checked: 1, paid: 1 });
    expect((await order())?.status).toBe("paid");
  });

  test("two processes ask about an order once", async () => {
    const { fake, reconciler, clock } = await shop();
    clock.advance(60_000);
    const counts = await Promise.all([reconciler.runOnce(), reconciler.runOnce()]);
    expect(counts.map(({ checked }) => checked).sort()).toEqual([0, 1]);
    expect(fake.journal.count("OpStateExt")).toBe(1);
  });

  test("runs until it is stopped", async () => {
    const { fake, reconciler, clock, paymentUrl, order } = await shop();
    await fake.pay({ url: paymentUrl });
    const stopping = new AbortController();
    const running = reconciler.run(stopping.signal, { intervalMs: 60_000 });
    await expect.poll(() => clock.sleepers).toBe(1);
    clock.advance(60_000);
    await expect.poll(async () => (await order())?.status).toBe("paid");
    stopping.abort();
    await running;
  });
});
