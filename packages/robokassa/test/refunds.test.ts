import { ApiError, RequestError, silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import {
  captureOrder,
  createReconciler,
  createResult2Handler,
  createResultHandler,
  createRobokassa,
  type Order,
  placeOrder,
  type RobokassaOptions,
  refreshRefunds,
  refundOrder,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa, type FakeReadings } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

/** A shop with one paid order of 1000.00, or a held one. */
async function shop(
  options: {
    readonly client?: Partial<RobokassaOptions>;
    readonly readings?: FakeReadings;
    readonly hold?: boolean;
  } = {},
) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const storage = createRobokassaMemoryStorage({ clock });
  const server = { isUp: true };
  const fake = createFakeRobokassa({
    ...demoShop,
    password3: "three",
    holdAllowed: true,
    resultUrl: "https://shop.example/result",
    clock,
    ...(options.readings ? { readings: options.readings } : {}),
    deliver: async (request) => {
      if (!server.isUp) return new Response(null, { status: 503 });
      return request.url.endsWith("2") ? result2(request) : result(request);
    },
  });
  const robokassa = createRobokassa({
    ...demoShop,
    password3: "three",
    fetch: fetchFrom(fake.handle),
    clock,
    ...options.client,
  });
  const shared = { robokassa, storage, clock, logger: silentLogger };
  const result = createResultHandler(shared);
  const result2 = createResult2Handler({ ...shared, certificates: fake.certificate });
  const { paymentUrl } = await placeOrder({
    robokassa,
    storage,
    id: "order-1",
    total: "1000.00",
    description: "Қалам",
    ...(options.hold ? { hold: true, resultUrl2: "https://shop.example/result2" } : {}),
  });
  await fake.pay({ url: paymentUrl });
  const refund = (id: string, amount?: string) =>
    refundOrder({ robokassa, storage, id, invId: "1", ...(amount === undefined ? {} : { amount }) });
  const capture = (amount?: string, through: Partial<typeof robokassa> = {}) =>
    captureOrder({
      robokassa: { ...robokassa, ...through },
      storage,
      invId: "1",
      ...(amount === undefined ? {} : { amount }),
    });
  const reconciler = createReconciler(shared);
  const order = () => storage.orders.get("order-1");
  const check = async () => (await reconciler.check((await order()) as Order)).outcome;
  return { clock, storage, fake, server, robokassa, refund, capture, check, order };
}

test.each(["json", "bare"] as const)("refunds a payment in full, with a %s body", async (refundBody) => {
  const { refund, fake, robokassa, storage, order } = await shop({
    client: { readings: { refundBody } },
    readings: { refundBody },
  });
  const asked = await refund("r-1");
  expect(asked).toMatchObject({ state: "processing", amount: "1000.00", requestId: fake.refunds[0]?.requestId });
  expect((await order())?.status).toBe("paid");
  expect(await refreshRefunds({ robokassa, storage })).toBe(0);
  fake.endRefund(asked.requestId as string, "finished");
  expect(await refreshRefunds({ robokassa, storage })).toBe(1);
  expect(await order()).toMatchObject({ status: "refunded", refunded: "1000.00" });
  expect(fake.refunds).toHaveLength(1);
});

test("the same id is refunded once, however often it is asked for", async () => {
  const { refund, fake } = await shop();
  const first = await refund("r-1", "400.00");
  expect(await refund("r-1", "400.00")).toEqual(first);
  expect(fake.refunds).toHaveLength(1);
});

test("a refund that was refused is asked for anew under its id, by one of several callers", async () => {
  const { refund, fake, order } = await shop();
  fake.configure({ password3: "changed" });
  await expect(refund("r-1", "400.00")).rejects.toMatchObject({ outcome: "refused" });
  fake.configure({ password3: "three" });
  const again = await Promise.all([refund("r-1", "400.00"), refund("r-1", "400.00")]);
  expect(again.map(({ state }) => state).sort()).toEqual(["asking", "processing"]);
  expect(fake.refunds.map(({ amount }) => Number(amount))).toEqual([400]);
  expect(await order()).toMatchObject({ refunded: "400.00" });
  expect(await refund("r-1", "400.00")).toMatchObject({ state: "processing", requestId: fake.refunds[0]?.requestId });
});

test("says that nothing is left, and keeps no refund of nothing", async () => {
  const { refund, storage } = await shop();
  await refund("r-1");
  await expect(refund("r-2")).rejects.toThrow("invId is of a payment that is refunded already or about to be");
  expect(await storage.refunds.get("r-2")).toBeUndefined();
});

test("refuses more than is left before Robokassa is asked", async () => {
  const { refund, fake } = await shop();
  await refund("r-1", "999.99");
  await expect(refund("r-2", "0.02")).rejects.toThrow("amount is more than what is left of the payment: 0.01");
  expect(fake.journal.count("Refund/Create")).toBe(1);
  expect(await refund("r-3")).toMatchObject({ amount: "0.01" });
});

test("frees the amount when Robokassa cancels, or refuses", async () => {
  const { refund, fake, robokassa, storage, order } = await shop();
  const { requestId } = await refund("r-1");
  fake.endRefund(requestId as string, "canceled");
  await refreshRefunds({ robokassa, storage });
  expect(await order()).toMatchObject({ status: "paid", refunded: "0.00" });
  fake.configure({ password3: "changed" });
  await expect(refund("r-2")).rejects.toThrow(ApiError);
  expect(await order()).toMatchObject({ status: "paid", refunded: "0.00" });
  fake.configure({ password3: "three" });
  expect((await refund("r-3")).state).toBe("processing");
});

test("after a lost reply nothing is asked again, and the amount stays taken", async () => {
  const { refund, fake, order, storage } = await shop();
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("Refund/Create") });
  await expect(refund("r-1", "600.00")).rejects.toThrow(RequestError);
  expect((await refund("r-1", "600.00")).state).toBe("asking");
  await expect(refund("r-2", "600.00")).rejects.toThrow("400.00");
  expect(fake.refunds).toHaveLength(1);
  expect((await order())?.refunded).toBe("600.00");
  // A person looked into the cabinet.
  await storage.refunds.settle("r-1", { state: "processing", requestId: fake.refunds[0]?.requestId });
  expect((await storage.refunds.get("r-1"))?.state).toBe("processing");
});

test("says no to orders that are unknown or not paid, and to a shop without password 3", async () => {
  const { refund, robokassa, storage, fake } = await shop();
  await expect(refundOrder({ robokassa, storage, id: "r", invId: "9" })).rejects.toThrow(
    "invId is the number of no order",
  );
  await placeOrder({ robokassa, storage, id: "order-2", total: "1.00", description: "A" });
  await expect(refundOrder({ robokassa, storage, id: "r", invId: "2" })).rejects.toThrow("no operation at Robokassa");
  const without = createRobokassa({ ...demoShop, fetch: fetchFrom(fake.handle) });
  await expect(without.refunds.create({ opKey: "KEY" })).rejects.toThrow("password3");
  await expect(refund("r-1", "1,00")).rejects.toThrow("amount");
});

test("does not know the state of a request that was never made", async () => {
  const { robokassa } = await shop();
  expect(await robokassa.refunds.state("none")).toBeUndefined();
});

test("captures a hold, and the payment is booked by the notification that follows", async () => {
  const { robokassa, fake, order } = await shop({ hold: true });
  expect((await order())?.status).toBe("held");
  await robokassa.holds.capture({ invId: "1", outSum: "1000.00" });
  await fake.idle();
  expect((await order())?.status).toBe("paid");
  await expect(robokassa.holds.capture({ invId: "1", outSum: "1000.00" })).rejects.toMatchObject({
    outcome: "refused",
  });
});

test("a capture with a lost reply is not taken for done when another sum was taken before", async () => {
  const { robokassa, fake } = await shop({ hold: true });
  await robokassa.holds.capture({ invId: "1", outSum: "400.00" });
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  await expect(robokassa.holds.capture({ invId: "1", outSum: "500.00" })).rejects.toMatchObject({
    message: expect.stringMatching(/400\.0+ was taken already, not 500\.00/),
    outcome: "refused",
  });
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  // More than was asked for may as well be the sum that was held.
  await expect(robokassa.holds.capture({ invId: "1", outSum: "300.00" })).rejects.toMatchObject({
    message: expect.stringMatching(/the books name 400\.0+, not 300\.00/),
    outcome: "unknown",
  });
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  await robokassa.holds.capture({ invId: "1", outSum: "400.00" });
});

test("captures a part of a hold: the order is paid with that sum, and refunds end there", async () => {
  const { robokassa, storage, fake, order, refund, capture } = await shop({ hold: true });
  await expect(capture("1000.01")).rejects.toThrow("amount is more than the order's total 1000.00");
  await capture("600");
  await fake.idle();
  expect(await order()).toMatchObject({ status: "paid", total: "1000.00", captured: "600.00" });
  expect(fake.deliveries.map(({ kind, accepted }) => [kind, accepted])).toEqual([
    ["result2", true],
    ["result", true],
    ["result2", true],
  ]);
  await expect(capture()).rejects.toThrow("is the number of an order that is not held");
  await expect(refund("much", "600.01")).rejects.toThrow("what is left of the payment: 600.00");
  const { requestId } = await refund("all");
  fake.endRefund(requestId as string, "finished");
  await refreshRefunds({ robokassa, storage });
  expect(await order()).toMatchObject({ status: "refunded", refunded: "600.00" });
});

test("keeps the sum of a capture whose reply was lost, when a second one is refused", async () => {
  const { robokassa, capture, order } = await shop({ hold: true });
  const failing = (outcome: "unknown" | "refused") => {
    const about = { vendor: "robokassa", status: 200, vendorCode: "false", outcome };
    return { holds: { ...robokassa.holds, capture: () => Promise.reject(new ApiError("Payment/Confirm", about)) } };
  };
  await expect(capture("600.00", failing("unknown"))).rejects.toThrow(ApiError);
  await expect(capture("500.00", failing("refused"))).rejects.toThrow(ApiError);
  expect((await order())?.captured).toBe("600.00");
});

test("of two captures at one moment one is refused, and the payment is booked with the sum of the other", async () => {
  const { robokassa, storage, fake, order } = await shop({ hold: true });
  const captures = ["400.00", "300.00"].map((amount) => captureOrder({ robokassa, storage, invId: "1", amount }));
  const [first, second] = await Promise.allSettled(captures);
  expect([first?.status, second?.status]).toEqual(["fulfilled", "rejected"]);
  await expect(captures[1]).rejects.toThrow("is being captured by another call");
  await fake.idle();
  expect(await order()).toMatchObject({ status: "paid", captured: "400.00" });
  expect(fake.journal.count("Payment/Confirm")).toBe(1);
});

test("a capture that is refused does not take the sum of a later one away", async () => {
  const { robokassa, capture, order } = await shop({ hold: true });
  let refuse = (): void => undefined;
  const slow = new Promise<void>((_resolve, reject) => {
    refuse = () =>
      reject(new ApiError("refused", { vendor: "robokassa", status: 200, vendorCode: "false", outcome: "refused" }));
  });
  const answering = (answer: Promise<void>) => ({ holds: { ...robokassa.holds, capture: () => answer } });
  const first = capture("400.00", answering(slow));
  await expect.poll(async () => (await order())?.captured).toBe("400.00");
  await capture("300.00", answering(Promise.resolve()));
  refuse();
  await expect(first).rejects.toThrow("refused");
  expect((await order())?.captured).toBe("300.00");
});

describe("what was taken of a hold is not lost to a second capture of another sum", () => {
  test("that comes before the notification, while the network is dead", async () => {
    const { fake, server, capture, order } = await shop({ hold: true });
    server.isUp = false;
    await capture("400.00");
    const noAnswer = () =>
      Promise.reject(new RequestError("down", { vendor: "r", code: "network", outcome: "unknown" }));
    const dead = { operationState: noAnswer, holds: { capture: noAnswer, release: noAnswer } };
    await expect(capture("600.00", dead)).rejects.toThrow("down");
    await expect(capture("600.00")).rejects.toThrow("400.00");
    expect(await order()).toMatchObject({ status: "held", captured: "400.00" });
    expect(fake.journal.count("Payment/Confirm")).toBe(1);
    server.isUp = true;
    await fake.redeliver("1");
    expect(await order()).toMatchObject({ status: "paid", captured: "400.00" });
  });

  test("that never ended: the next one finds what was taken", async () => {
    const { server, storage, robokassa, capture, check, order } = await shop({ hold: true });
    server.isUp = false;
    await storage.orders.keepCapture("1", "600.00", undefined); // the process died here
    await robokassa.holds.capture({ invId: "1", outSum: "400.00" }); // asked for by another one
    expect(await check()).toBe("amount_differs");
    await expect(capture("600.00")).rejects.toMatchObject({ outcome: "refused" });
    expect(await order()).toMatchObject({ status: "held", captured: "400.00" });
    expect(await check()).toBe("paid");
    expect(await order()).toMatchObject({ status: "paid", captured: "400.00" });
  });

  test("also where the books name the held sum after a capture of a part", async () => {
    const { fake, server, capture, order } = await shop({ hold: true, readings: { stateOutSum: "held" } });
    server.isUp = false;
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await expect(capture("400.00")).rejects.toMatchObject({ outcome: "unknown" });
    for (const amount of ["400.00", "600.00", "1000.00"]) await expect(capture(amount)).rejects.toThrow();
    server.isUp = true;
    await fake.redeliver("1");
    expect(await order()).toMatchObject({ status: "paid", captured: "400.00" });
  });

  test("but a capture that took nothing gives way to another sum", async () => {
    const { fake, capture, order } = await shop({ hold: true });
    fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 502 } });
    await expect(capture("400.00")).rejects.toMatchObject({ status: 502 });
    await capture("600.00");
    await fake.idle();
    expect(await order()).toMatchObject({ status: "paid", captured: "600.00" });
  });
});

test("releases a hold, whose sum is sent but not hashed", async () => {
  const { robokassa, fake } = await shop({ hold: true });
  await robokassa.holds.release({ invId: "1", outSum: "1000.00" });
  expect(fake.operations[0]?.state).toBe(60);
});

test.each([
  ["capture", "Payment/Confirm"],
  ["release", "Payment/Cancel"],
] as const)("a lost reply to a %s is looked up, not sent again", async (verb, path) => {
  const { robokassa, fake } = await shop({ hold: true });
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes(path) });
  await robokassa.holds[verb]({ invId: "1", outSum: "1000.00" });
  expect(fake.journal.count(path)).toBe(1);
  expect(fake.journal.count("OpStateExt")).toBe(1);
});

test("a capture that did not run is told as an error", async () => {
  const { robokassa, fake } = await shop({ hold: true });
  fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 502 }, match: ({ url }) => url.includes("Confirm") });
  await expect(robokassa.holds.capture({ invId: "1", outSum: "1000.00" })).rejects.toMatchObject({ status: 502 });
  expect(fake.operations[0]?.state).toBe(20);
  await robokassa.holds.capture({ invId: "1", outSum: "1000.00" });
  expect(fake.operations[0]?.state).toBe(100);
});

test("refunds whose reply was lost do not keep others from being asked about", async () => {
  const { refund, fake, robokassa, storage, clock } = await shop();
  for (const id of ["lost-1", "lost-2"]) {
    await storage.refunds.begin({ id, invId: "1", amount: "1.00" });
    clock.advance(1000);
  }
  const { requestId } = await refund("r-1", "10.00");
  fake.endRefund(requestId as string, "finished");
  expect(await refreshRefunds({ robokassa, storage, limit: 2 })).toBe(1);
});

test("refunds that never end do not keep later ones from being asked about", async () => {
  const { refund, fake, robokassa, storage, clock } = await shop();
  for (let index = 0; index < 5; index++) await refund(`stuck-${index}`, "1.00"); // at one moment
  clock.advance(1000);
  const { requestId } = await refund("r-1", "10.00");
  fake.endRefund(requestId as string, "finished");
  expect(await refreshRefunds({ robokassa, storage, limit: 2 })).toBe(1);
  expect(await refreshRefunds({ robokassa, storage, limit: 2 })).toBe(0);
});

test("the id of another order's refund is refused", async () => {
  const { refund, robokassa, storage } = await shop();
  await refund("r-1", "10.00");
  await placeOrder({ robokassa, storage, id: "order-2", total: "5.00", description: "Дәптер" });
  await storage.orders.bookPayment({ invId: "2", source: "reconcile", paidAt: new Date(), opKey: "KEY-2" });
  await expect(refundOrder({ robokassa, storage, id: "r-1", invId: "2" })).rejects.toThrow("another order");
});

test("a refund that cannot be asked about does not keep others from being asked about, and is told", async () => {
  const { refund, fake, robokassa, storage } = await shop();
  await storage.refunds.begin({ id: "broken", invId: "1", amount: "1.00" });
  await storage.refunds.settle("broken", { state: "processing", requestId: "broken" });
  const { requestId } = await refund("r-1", "10.00");
  fake.endRefund(requestId as string, "finished");
  const failure = new Error("the answer cannot be read");
  const refunds = {
    ...robokassa.refunds,
    state: async (id: string) => (id === "broken" ? Promise.reject(failure) : robokassa.refunds.state(id)),
  };
  await expect(refreshRefunds({ robokassa: { refunds }, storage })).rejects.toBe(failure);
  expect((await storage.refunds.get("r-1"))?.state).toBe("finished");
});
