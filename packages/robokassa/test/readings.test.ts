import { createHash } from "node:crypto";
import { silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import {
  createResult2Handler,
  createResultHandler,
  createRobokassa,
  InputError,
  placeOrder,
  type Readings,
  type RobokassaOptions,
  refundOrder,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa, type FakeReadings } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

/** A shop set to one reading, and a Robokassa that behaves by another or the same. */
function shop(
  { ours = {}, theirs = {} }: { readonly ours?: Readings; readonly theirs?: FakeReadings },
  options: Partial<RobokassaOptions> = {},
) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const storage = createRobokassaMemoryStorage({ clock });
  const fake = createFakeRobokassa({
    ...demoShop,
    password3: "live-three",
    resultUrl: "https://shop.example/result",
    holdAllowed: true,
    recurringAllowed: true,
    readings: theirs,
    clock,
    retryDelaysMs: [],
    deliver: (request) => (new URL(request.url).pathname === "/result2" ? result2 : result)(request),
  });
  const fetch = fetchFrom(fake.handle);
  const robokassa = createRobokassa({ ...demoShop, password3: "live-three", readings: ours, fetch, clock, ...options });
  const parts = { robokassa, storage, clock, logger: silentLogger };
  const result = createResultHandler(parts);
  const result2 = createResult2Handler({ ...parts, certificates: fake.certificate });
  const order = { robokassa, storage, id: "A", total: "1000.00", description: "Қалам" };
  return { ...parts, fake, order };
}

const receipt = { items: [{ name: "Қалам", quantity: "1", sum: "1000.00", tax: "none" }] };
const trap = { Shp_a: "x", Shp_a1: "y" };
const texts = { name: "Shp_a=x:Shp_a1=y", pair: "Shp_a1=y:Shp_a=x" };

describe("the order of Shp_ fields", () => {
  test.each(["name", "pair"] as const)("by %s: a set on which the orders differ is paid", async (shpOrder) => {
    const { fake, order } = shop({ ours: { shpOrder }, theirs: { shpOrder } });
    const { paymentUrl } = await placeOrder({ ...order, shp: trap });
    expect((await fake.pay({ url: paymentUrl })).delivery?.answer).toBe("OK1");
  });

  test.each(["name", "pair"] as const)(
    "left out, Robokassa's by %s: other sets are paid, such a set is refused before it is sent",
    async (shpOrder) => {
      const { fake, order } = shop({ theirs: { shpOrder } });
      await expect(placeOrder({ ...order, shp: trap })).rejects.toThrow(InputError);
      const { paymentUrl } = await placeOrder({ ...order, shp: { Shp_cart: "77", Shp_user: "5" } });
      expect((await fake.pay({ url: paymentUrl })).delivery?.answer).toBe("OK1");
    },
  );

  test.each([
    ["name", "1a0f07d3ac397198604db9753d4b74bc"],
    ["pair", "9024251dfa8b3f8dde7f1e504171921f"],
  ] as const)("a notification by %s is taken whatever is set, and the order is told", (shpOrder, startDigest) => {
    // The starts of both orders are published vectors; of callbacks the same fields by md5sum of 1.00:1:P2:…
    expect(createHash("md5").update(`L:1.00:1:P:${texts[shpOrder]}`).digest("hex")).toBe(startDigest);
    const signature = createHash("md5").update(`1000.000000:1:live-two:${texts[shpOrder]}`).digest("hex");
    const fields = `OutSum=1000.000000&InvId=1&SignatureValue=${signature}&Shp_a1=y&Shp_a=x`;
    for (const ours of [{}, { shpOrder: "name" }, { shpOrder: "pair" }] as const) {
      const { robokassa } = shop({ ours });
      expect(robokassa.verifyResult(fields)).toMatchObject({ ok: true, notification: { shpOrder, shp: trap } });
    }
  });

  test("set wrongly: the payment page says 29", async () => {
    const { fake, order } = shop({ ours: { shpOrder: "name" }, theirs: { shpOrder: "pair" } });
    expect((await fake.pay({ url: (await placeOrder({ ...order, shp: trap })).paymentUrl })).errorCode).toBe(29);
  });
});

const forms = [
  { ours: {}, theirs: "first", errorCode: undefined },
  { ours: "second", theirs: "second", errorCode: undefined },
  { ours: {}, theirs: "second", errorCode: 29 },
  { ours: "second", theirs: "first", errorCode: 29 },
] as const;

describe.each([
  ["addresses in the hash", "url2Signing", ["raw", "encoded"], { resultUrl2: "https://shop.example/result2" }],
  ["the receipt", "receiptSigning", ["encoded", "raw"], { receipt }],
] as const)("%s (%s)", (_name, reading, [first, second], more) => {
  const value = (which: "first" | "second") => ({ [reading]: which === "first" ? first : second });
  test.each(forms)("ours $ours, theirs $theirs: error $errorCode", async ({ ours, theirs, errorCode }) => {
    const { fake, order } = shop({ ours: ours === "second" ? value(ours) : {}, theirs: value(theirs) });
    const { paymentUrl } = await placeOrder({ ...order, ...more });
    const paid = await fake.pay({ url: paymentUrl });
    expect([paid.errorCode, paid.delivery?.answer]).toEqual([errorCode, errorCode ? undefined : "OK1"]);
  });
});

test.each(["encoded", "raw"] as const)(
  "captures a hold and charges again with a receipt that is %s",
  async (receiptSigning) => {
    const { fake, order, robokassa, storage } = shop({ ours: { receiptSigning }, theirs: { receiptSigning } });
    const { paymentUrl } = await placeOrder({ ...order, hold: true, receipt, recurring: true });
    await fake.pay({ url: paymentUrl });
    await robokassa.holds.capture({ invId: "1", outSum: "1000.00", receipt });
    await fake.idle();
    expect((await storage.orders.get("A"))?.status).toBe("paid");
    const charge = { previousInvId: "1", outSum: "1000.00", description: "B", receipt };
    await robokassa.recurring.charge({ ...charge, invId: "2" });
  },
);

test.each(["bare", "quoted", "base64"] as const)(
  "takes a ResultUrl2 message that is %s, whatever the readings",
  async (result2Body) => {
    const { fake, order, storage } = shop({ theirs: { result2Body } });
    const { paymentUrl } = await placeOrder({ ...order, hold: true, resultUrl2: "https://shop.example/result2" });
    expect((await fake.pay({ url: paymentUrl })).delivery2).toMatchObject({ status: 200, answer: "OK1" });
    expect((await storage.orders.get("A"))?.status).toBe("held");
  },
);

describe("the body of a refund", () => {
  test.each(["json", "bare"] as const)("is %s", async (refundBody) => {
    const { fake, order, robokassa, storage } = shop({ ours: { refundBody }, theirs: { refundBody } });
    await fake.pay({ url: (await placeOrder(order)).paymentUrl });
    expect((await refundOrder({ robokassa, storage, id: "R", invId: "1" })).state).toBe("processing");
  });
});

describe("invoices in test mode", () => {
  const plain = { invId: "7", outSum: "1000.00", description: "A" };
  const invoice = { ...plain, test: true };

  test("are refused here by default, and so is every invoice of a shop in test mode", async () => {
    const { fake, robokassa } = shop({});
    await expect(robokassa.invoices.create(invoice)).rejects.toThrow("test mode has no invoices");
    const inTest = shop({}, { test: true });
    await expect(inTest.robokassa.invoices.create(plain)).rejects.toThrow(InputError);
    expect([fake.journal.entries.length, inTest.fake.journal.entries.length]).toEqual([0, 0]);
  });

  test("are signed by the test pair when readings say so, and paid as tests", async () => {
    const reading = { invoiceTest: "test-pair" } as const;
    const { fake, robokassa } = shop({ ours: reading, theirs: reading });
    const { url } = await robokassa.invoices.create(invoice);
    await fake.pay({ url });
    expect(fake.operations).toMatchObject([{ invId: "7", test: true, outSum: "1000.00" }]);
    await robokassa.invoices.deactivate("7", { test: true });
    expect((await fake.pay({ url })).errorCode).toBe(51);
  });

  test("are refused by a Robokassa that has none", async () => {
    const { robokassa } = shop({ ours: { invoiceTest: "test-pair" } });
    await expect(robokassa.invoices.create(invoice)).rejects.toMatchObject({ outcome: "refused" });
  });
});

test.each(["shpOrder", "url2Signing", "receiptSigning", "result2Body", "refundBody", "invoiceTest"])(
  "refuses an unknown reading of %s",
  (name) => {
    expect(() => createRobokassa({ ...demoShop, readings: { [name]: "other" } })).toThrow(`readings.${name}`);
  },
);

test.each(["shpOrdr", "__proto__", "constructor"])(
  "refuses a reading by the name of %s, which would change nothing",
  (name) => {
    const readings = JSON.parse(`{"${name}": "pair"}`) as Readings;
    expect(() => createRobokassa({ ...demoShop, readings })).toThrow(`readings.${name} is unknown`);
  },
);
