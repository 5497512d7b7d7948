import { silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom, listen } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createResultHandler, createRobokassa, placeOrder, type RobokassaOptions } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa, type FakeReadings, type FakeShop } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

const resultUrl = "https://shop.example/robokassa/result";

function shop(
  options: {
    readonly client?: Partial<RobokassaOptions>;
    readonly fake?: Partial<FakeShop>;
    readonly readings?: FakeReadings;
  } = {},
) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const storage = createRobokassaMemoryStorage({ clock });
  const robokassa = createRobokassa({ ...demoShop, ...options.client });
  const handler = createResultHandler({ robokassa, storage, clock, logger: silentLogger });
  let down = 0;
  const fake = createFakeRobokassa({
    ...demoShop,
    resultUrl,
    successUrl: "https://shop.example/success",
    failUrl: "https://shop.example/fail",
    ...options.fake,
    ...(options.readings ? { readings: options.readings } : {}),
    clock,
    deliver: async (request) => (down-- > 0 ? new Response("busy", { status: 503 }) : handler(request)),
  });
  return {
    clock,
    storage,
    robokassa,
    fake,
    place: (id: string, more: object = {}) =>
      placeOrder({ robokassa, storage, id, total: "1000.00", description: "Қалам мен дәптер", ...more }),
    goDown: (requests: number) => {
      down = requests;
    },
  };
}

describe.each(["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const)("with %s", (algorithm) => {
  test.each([false, true])("a link is accepted and its payment booked (test mode: %s)", async (isTest) => {
    const { place, fake, storage } = shop({ client: { algorithm }, fake: { algorithm } });
    const { order, paymentUrl } = await place("order-1", {
      test: isTest,
      shp: { Shp_cart: "Айгүл + 1%", Shp_user: "5" },
    });
    const paid = await fake.pay({ url: paymentUrl });
    expect(paid).toMatchObject({
      errorCode: undefined,
      invId: order.invId,
      delivery: { attempt: 1, status: 200, answer: `OK${order.invId}`, accepted: true },
    });
    expect(await storage.orders.get("order-1")).toMatchObject({ status: "paid", test: isTest });
  });
});

test.each([
  ["Shp_ sorted by name", { shpOrder: "name" }],
  ["Shp_ sorted by pair", { shpOrder: "pair" }],
] as const)("a link with Shp_ fields passes when the service has %s", async (_case, readings) => {
  const { place, fake } = shop({ readings });
  const { paymentUrl } = await place("order-1", { shp: { Shp_user: "5", Shp_cart: "7" } });
  expect((await fake.pay({ url: paymentUrl })).delivery?.accepted).toBe(true);
});

test.each(["name", "pair"] as const)(
  "names that sort in two ways pass once readings.shpOrder says %s",
  async (shpOrder) => {
    const { place, fake } = shop({ client: { readings: { shpOrder } }, readings: { shpOrder } });
    const { paymentUrl } = await place("order-1", { shp: { Shp_a: "x", Shp_a1: "y" } });
    expect((await fake.pay({ url: paymentUrl })).delivery?.accepted).toBe(true);
  },
);

test.each(["raw", "encoded"] as const)(
  "addresses in the link pass when the service hashes them %s",
  async (url2Signing) => {
    const { place, fake } = shop({ client: { readings: { url2Signing } }, readings: { url2Signing } });
    const { paymentUrl } = await place("order-1", {
      successUrl2: { url: "https://shop.example/ok?order=1", method: "GET" },
    });
    const { redirectUrl } = await fake.pay({ url: paymentUrl });
    expect(redirectUrl).toContain("https://shop.example/ok?order=1&OutSum=1000.00&InvId=1&");
  },
);

test("the SuccessURL visit is genuine for verifySuccess, and proves no payment", async () => {
  const { place, fake, robokassa } = shop();
  const { paymentUrl } = await place("order-1", { test: true, shp: { Shp_user: "5" } });
  const { redirectUrl } = await fake.pay({ url: paymentUrl });
  const { search } = new URL(redirectUrl as string);
  expect(robokassa.verifySuccess(search)).toMatchObject({
    ok: true,
    notification: { test: true, shp: { Shp_user: "5" } },
  });
  expect(robokassa.verifyResult(search).ok).toBe(false);
});

test("a receipt is accepted by link and by form", async () => {
  const { place, fake, robokassa } = shop();
  const receipt = { items: [{ name: "Қалам + «дәптер»", quantity: "2", sum: "1000.00", tax: "vat22" }] };
  const { paymentUrl } = await place("order-1", { receipt });
  expect((await fake.pay({ url: paymentUrl })).errorCode).toBeUndefined();
  const form = robokassa.paymentForm({ invId: "777", outSum: "1000.00", description: "A", receipt });
  const page = await fake.handle(
    new Request(form.action, {
      method: "POST",
      body: new URLSearchParams(form.fields.map(([name, value]) => [name, value] as [string, string])),
    }),
  );
  expect(await page.text()).toContain('<button name="action" value="pay">');
});

test("the shop is called five times at most, then its administrator gets a letter", async () => {
  const { place, fake, clock, goDown, storage } = shop();
  const { order, paymentUrl } = await place("order-1");
  goDown(5);
  await fake.pay({ url: paymentUrl });
  for (let attempt = 2; attempt <= 6; attempt++) {
    clock.advance(3_600_000);
    await fake.idle();
  }
  expect(fake.deliveries.map(({ attempt, status }) => [attempt, status])).toEqual([
    [1, 503],
    [2, 503],
    [3, 503],
    [4, 503],
    [5, 503],
  ]);
  expect(fake.letters).toEqual([{ invId: order.invId, reason: "not_accepted" }]);
  expect((await storage.orders.get("order-1"))?.status).toBe("new");
  expect((await fake.redeliver(order.invId))?.accepted).toBe(true);
  expect((await storage.orders.get("order-1"))?.status).toBe("paid");
});

test("a notification lost twice arrives with the third attempt", async () => {
  const { place, fake, clock, goDown, storage } = shop();
  const { paymentUrl } = await place("order-1");
  goDown(2);
  await fake.pay({ url: paymentUrl });
  for (let attempt = 2; attempt <= 4; attempt++) {
    clock.advance(3_600_000);
    await fake.idle();
  }
  expect(fake.deliveries.map(({ accepted }) => accepted)).toEqual([false, false, true]);
  expect((await storage.orders.get("order-1"))?.status).toBe("paid");
});

describe("the payment page says", () => {
  test.each([
    ["29 to a changed sum", {}, (url: string) => url.replace("OutSum=1000.00", "OutSum=1.00"), 29],
    ["29 to a live link that is marked as a test", {}, (url: string) => `${url}&IsTest=1`, 29],
    ["29 to a Shp_ field that was added", {}, (url: string) => `${url}&Shp_user=5`, 29],
    ["29 to another algorithm", { algorithm: "sha256" }, (url: string) => url, 29],
    ["26 to an unknown shop", { login: "other" }, (url: string) => url, 26],
    ["25 while the shop is not active", { active: false }, (url: string) => url, 25],
    ["31 to an empty sum", {}, (url: string) => url.replace("OutSum=1000.00", "OutSum="), 31],
    ["30 to a number that is none", {}, (url: string) => url.replace("InvId=1&", "InvId=x&"), 30],
  ] as const)("%s", async (_case, change, edit, errorCode) => {
    const { place, fake } = shop({ fake: change });
    const { paymentUrl } = await place("order-1");
    expect((await fake.pay({ url: edit(paymentUrl) })).errorCode).toBe(errorCode);
  });

  test("40 to a number that was paid, but not to one that was paid in a test", async () => {
    const { fake, robokassa } = shop();
    const link = (isTest: boolean) =>
      robokassa.paymentUrl({ invId: "146", outSum: "1000.00", description: "A", test: isTest });
    expect((await fake.pay({ url: link(true) })).errorCode).toBeUndefined();
    expect((await fake.pay({ url: link(false) })).errorCode).toBeUndefined();
    expect((await fake.pay({ url: link(false) })).errorCode).toBe(40);
  });

  test("33 when the link has ended, 64 to a hold without an agreement", async () => {
    const { place, fake } = shop();
    const ended = await place("order-1", { expiresAt: new Date("2026-11-01T09:59:59.000Z") });
    expect((await fake.pay({ url: ended.paymentUrl })).errorCode).toBe(33);
    const held = await place("order-2", { hold: true });
    expect((await fake.pay({ url: held.paymentUrl })).errorCode).toBe(64);
  });
});

test("nobody is called when the cabinet says e-mail", async () => {
  const { place, fake, storage } = shop({ fake: { resultMethod: "email" } });
  const { paymentUrl } = await place("order-1");
  expect((await fake.pay({ url: paymentUrl })).delivery).toBeUndefined();
  expect(fake.letters).toEqual([{ invId: "1", reason: "email_method" }]);
  expect((await storage.orders.get("order-1"))?.status).toBe("new");
});

test("sends the fields of production and of tests as the documents show them", async () => {
  const { fake } = shop();
  const live = await fake.pay({ invId: "146", outSum: "1000.00" });
  expect(live.delivery?.body).toBe(
    "out_summ=1000.000000&OutSum=1000.000000&inv_id=146&InvId=146&crc=F56D901DE60F49774AD1AC8F91458650&SignatureValue=F56D901DE60F49774AD1AC8F91458650&PaymentMethod=BankCard&IncSum=1000.000000&IncCurrLabel=BankCardPSR&EMail=&Fee=39.000000",
  );
  const tried = await fake.pay({ invId: "146", outSum: "1000.00", test: true });
  expect(tried.delivery?.body).toBe(
    "out_summ=1000.00&OutSum=1000.00&inv_id=146&InvId=146&crc=FF3B04586235329CF11828144874438D&SignatureValue=FF3B04586235329CF11828144874438D&PaymentMethod=BankCard&IncSum=1000.00&IncCurrLabel=BankCardPSR&IsTest=1&EMail=&Fee=0.0",
  );
});

test("pays over HTTP as a person does: open the link, press the button, land on the success page", async () => {
  const { place, fake, storage } = shop();
  const { url, close } = await listen(fake.handle);
  try {
    const { paymentUrl } = await place("order-1");
    const page = await (await fetch(paymentUrl.replace("https://auth.robokassa.ru", url))).text();
    const action = /action="([^"]+)"/.exec(page)?.[1];
    const press = (choice: string) =>
      fetch(`${url}${action}`, { method: "POST", body: new URLSearchParams({ action: choice }), redirect: "manual" });
    const refused = await press("refuse");
    expect(refused.headers.get("location")).toBe("https://shop.example/fail?OutSum=1000.00&InvId=1&Culture=ru");
    const paid = await press("pay");
    expect(paid.status).toBe(302);
    expect(paid.headers.get("location")).toContain(
      "https://shop.example/success?OutSum=1000.00&InvId=1&SignatureValue=",
    );
    expect((await storage.orders.get("order-1"))?.status).toBe("paid");
    expect(await (await press("pay")).text()).toContain('data-error-code="40"');
  } finally {
    await close();
  }
});

test("is steered over HTTP by a page in another process", async () => {
  const { place, fake } = shop();
  const call = fetchFrom(fake.handle);
  const { paymentUrl } = await place("order-1");
  const paid = await call("http://fake/fake/pay", { method: "POST", body: JSON.stringify({ url: paymentUrl }) });
  expect(await paid.json()).toMatchObject({ invId: "1", delivery: { accepted: true } });
  const again = await call("http://fake/fake/redeliver", { method: "POST", body: JSON.stringify({ invId: "1" }) });
  expect(await again.json()).toMatchObject({ accepted: true });
  const state = await (await call("http://fake/fake/state")).json();
  expect(state).toMatchObject({ operations: [{ invId: "1", state: 100 }], letters: [] });
});
