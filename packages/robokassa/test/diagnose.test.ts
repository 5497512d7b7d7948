import { silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import {
  createResult2Handler,
  createResultHandler,
  createRobokassa,
  diagnose,
  placeOrder,
  type RobokassaOptions,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeCertificate, createFakeRobokassa, type FakeShop } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

/** A shop whose order 146 waits; `through` changes a notification on its way. */
async function shop(
  options: {
    readonly client?: Partial<RobokassaOptions>;
    readonly fake?: Partial<FakeShop>;
    readonly through?: (body: string) => string;
    readonly fails?: boolean;
    readonly test?: boolean;
    readonly shp?: Readonly<Record<string, string>>;
  } = {},
) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const storage = createRobokassaMemoryStorage({ clock, firstLiveInvId: "146", firstTestInvId: "9000" });
  const { through = (body: string) => body } = options;
  const fake = createFakeRobokassa({
    ...demoShop,
    resultUrl: "https://shop.example/result",
    ...options.fake,
    clock,
    retryDelaysMs: [],
    deliver: async (request) =>
      handler(new Request(request.url, { method: "POST", body: through(await request.text()) })),
  });
  const robokassa = createRobokassa({ ...demoShop, fetch: fetchFrom(fake.handle), clock, ...options.client });
  const handler = createResultHandler({
    robokassa,
    storage,
    clock,
    logger: silentLogger,
    onPaid: async () => {
      if (options.fails) throw new Error("the warehouse is closed");
    },
  });
  const { order, paymentUrl } = await placeOrder({
    robokassa,
    storage,
    id: "order-146",
    total: "1000.00",
    description: "Қалам",
    test: options.test ?? false,
    ...(options.shp ? { shp: options.shp } : {}),
  });
  return {
    clock,
    fake,
    storage,
    order,
    paymentUrl,
    robokassa,
    handler,
    pay: () =>
      fake.pay({
        invId: order.invId,
        outSum: "1000.00",
        test: order.test,
        ...(options.shp ? { shp: options.shp } : {}),
      }),
    diagnose: (more: object = {}) => diagnose({ robokassa, storage, clock, order: order.invId, ...more }),
  };
}

const shp = { Shp_cart: "77", Shp_user: "5" };

describe("names the cause of a notification that was", () => {
  test.each([
    ["signed with passwords swapped", { fake: { password1: "live-two", password2: "live-one" } }, "password1_used"],
    ["signed with password 1 of the test pair", { test: true, fake: { testPassword2: "try-one" } }, "password1_used"],
    ["signed with SHA-256", { fake: { algorithm: "sha256" } }, "algorithm_differs"],
    [
      "signed with SHA-512 while the shop has RIPEMD-160",
      { client: { algorithm: "ripemd160" }, fake: { algorithm: "sha512" } },
      "algorithm_differs",
    ],
    [
      "cut to two decimals",
      { through: (body: string) => body.replaceAll("=1000.000000", "=1000.00") },
      "sum_rewritten",
    ],
    ["cut to a whole number", { through: (body: string) => body.replaceAll("=1000.000000", "=1000") }, "sum_rewritten"],
    ["robbed of its Shp_ fields", { shp, through: (body: string) => body.replace(/&Shp_.*/, "") }, "shp_rewritten"],
    ["given a Shp_ field", { through: (body: string) => `${body}&Shp_user=5` }, "shp_dropped"],
    [
      "decoded too often",
      { shp: { Shp_name: "%D0%92" }, through: (body: string) => decodeURIComponent(body) },
      "shp_encoding",
    ],
    [
      "encoded too often",
      { shp: { Shp_name: "a b" }, through: (body: string) => body.replace("Shp_name=a+b", "Shp_name=a%2520b") },
      "shp_encoding",
    ],
    [
      "given two sums",
      { through: (body: string) => body.replace("out_summ=1000", "out_summ=1") },
      "notification_malformed",
    ],
    [
      "robbed of its signature",
      { through: (body: string) => body.replace(/(crc|SignatureValue)=\w+&/g, "") },
      "notification_malformed",
    ],
    ["signed by another shop", { fake: { password1: "one-else", password2: "two-else" } }, "state_password_wrong"],
    ["not booked, because onPaid failed", { fails: true }, "answer_failed"],
    ["sent nowhere", { fake: { resultUrl: "" } }, "no_notification"],
    ["sent by e-mail", { fake: { resultMethod: "email" as const } }, "no_notification"],
  ] as const)("%s", async (_case, options, code) => {
    const { pay, diagnose, order, storage } = await shop(options);
    const { delivery } = await pay();
    expect(delivery?.accepted ?? false).toBe(false);
    expect(await diagnose()).toMatchObject({ code, exitCode: 1 });
    expect((await storage.orders.getByInvId(order.invId))?.status).toBe("new");
  });
});

test.each([
  ["no signature", 500, ""],
  ["a wrong signature for the order's own number", 30, `OutSum=1000.00&InvId=146&SignatureValue=${"0".repeat(32)}`],
])("strangers who send %s do not hide that booking failed", { timeout: 20_000 }, async (_case, times, body) => {
  const { pay, diagnose, handler } = await shop({ fails: true });
  await pay();
  for (let index = 0; index < times; index++) {
    await handler(new Request("https://shop.example/result", { method: "POST", body }));
  }
  const { code, evidence } = await diagnose();
  expect(code).toBe("answer_failed");
  expect(evidence.join("\n")).toContain("result: error, answered 500");
});

test("tells that a ResultUrl2 message came and booking it failed", async () => {
  const { storage, robokassa, clock, diagnose } = await shop();
  const fake = createFakeRobokassa({
    ...demoShop,
    clock,
    retryDelaysMs: [],
    deliver: (request) => result2(request),
  });
  const result2 = createResult2Handler({
    robokassa,
    storage,
    clock,
    certificates: fake.certificate,
    logger: silentLogger,
    onPaid: async () => {
      throw new Error("the warehouse is closed");
    },
  });
  const url = robokassa.paymentUrl({
    invId: "146",
    outSum: "1000.00",
    description: "Қалам",
    resultUrl2: "https://shop.example/result2",
  });
  expect((await fake.pay({ url })).delivery2?.status).toBe(500);
  expect(await storage.callbacks.list({ invId: "146", limit: 9 })).toMatchObject([
    { source: "result2", verdict: "error", status: 500 },
  ]);
  expect((await diagnose()).code).toBe("answer_failed");
});

test("sees that a test payment was made for a live order", async () => {
  const { fake, diagnose } = await shop();
  await fake.pay({ invId: "146", outSum: "1000.00", test: true });
  expect(await diagnose()).toMatchObject({ code: "test_payment", exitCode: 1 });
});

test("sees that the sum is another one", async () => {
  const { fake, diagnose } = await shop();
  await fake.pay({ invId: "146", outSum: "900.00" });
  expect(await diagnose()).toMatchObject({ code: "amount_differs" });
});

test("sees that the InvId was not stored", async () => {
  const { fake, diagnose } = await shop();
  await fake.pay({ invId: "777", outSum: "1000.00" });
  expect(await diagnose({ order: "777" })).toMatchObject({ code: "inv_id_not_stored" });
  expect(await diagnose({ order: "778" })).toMatchObject({ code: "order_not_found", exitCode: 3 });
  expect(await diagnose({ order: "no such order" })).toMatchObject({ code: "order_not_found", exitCode: 3 });
});

test.each([
  [5, "waiting", 2],
  [10, "cancelled", 1],
  [20, "held", 2],
  [50, "waiting", 2],
  [60, "returned", 1],
  [80, "suspended", 1],
  [100, "no_notification", 1],
] as const)("explains state %i as %s", async (state, code, exitCode) => {
  const { fake, paymentUrl, diagnose } = await shop();
  await fake.confirm({ url: paymentUrl });
  fake.setState("146", state);
  expect(await diagnose()).toMatchObject({ code, exitCode });
});

test("sends a payment that is credited for more than 20 minutes to support", async () => {
  const { fake, paymentUrl, diagnose, clock } = await shop();
  await fake.confirm({ url: paymentUrl });
  fake.setState("146", 50);
  clock.advance(1_200_001);
  expect(await diagnose()).toMatchObject({ code: "crediting_too_long", exitCode: 1 });
});

test("says that the buyer never confirmed, even when a stranger posted a wrong signature", async () => {
  const { diagnose, fake, storage } = await shop();
  expect(await diagnose()).toMatchObject({ code: "not_started", exitCode: 2 });
  fake.configure({ password2: "of-a-stranger" });
  await fake.pay({ invId: "146", outSum: "1000.00" });
  expect((await storage.callbacks.list({ limit: 1 }))[0]?.verdict).toBe("bad_signature");
  fake.configure({ password2: demoShop.password2 });
  fake.setState("146", 10);
  expect(await diagnose()).toMatchObject({ code: "cancelled" });
});

test("sees a number that a test shares with a live payment, a wrong login, and a silent vendor", async () => {
  const { fake, diagnose } = await shop({ fake: { resultUrl: "" } });
  await fake.pay({ invId: "146", outSum: "1000.00" });
  await fake.pay({ invId: "146", outSum: "1000.00", test: true });
  expect(await diagnose()).toMatchObject({ code: "number_shared_with_test" });
  fake.configure({ active: false });
  expect(await diagnose()).toMatchObject({ code: "shop_unknown" });
  fake.faults.add({ fault: { kind: "htmlAnswer" } });
  expect(await diagnose()).toMatchObject({ code: "robokassa_does_not_answer", exitCode: 2 });
});

test("tells that a test order can only be looked for in our own log", async () => {
  const { diagnose, fake } = await shop({ test: true });
  expect(await diagnose()).toMatchObject({ code: "test_no_notification" });
  expect(fake.journal.count("OpStateExt")).toBe(0);
});

test("tells that the certificates have ended", async () => {
  const { diagnose } = await shop();
  const { certificate } = createFakeCertificate({
    validFrom: new Date("2025-06-16T00:00:00.000Z"),
    validTo: new Date("2026-06-16T00:00:00.000Z"),
  });
  const { code, evidence } = await diagnose({ certificates: certificate });
  expect(code).toBe("certificate");
  expect(evidence).toContain("a ResultUrl2 certificate ended on 2026-06-16");
});

test("replays a notification from the operator's log, with the hashed text for a ticket", async () => {
  const { diagnose } = await shop();
  const { code, trace } = await diagnose({
    // md5sum of 1000.00:146:live-two, while six decimals were sent
    callback: "OutSum=1000.000000&InvId=146&SignatureValue=dbe260a4cd4a9b27fc84c9ef90ead00f",
  });
  expect([code, trace]).toEqual(["sum_rewritten", "1000.000000:146:[password2]"]);
});

test("finds the Shp_ order that fits, when the shop is set to the other", async () => {
  // md5sum of 1000.000000:146:live-two:Shp_a1=y:Shp_a=x, the order of name=value pairs
  const robokassa = createRobokassa({ ...demoShop, readings: { shpOrder: "name" } });
  expect(
    robokassa.explainResult(
      "OutSum=1000.000000&InvId=146&SignatureValue=2ab48d8c5b16e41beb9fa1bc04a016a1&Shp_a=x&Shp_a1=y",
    ),
  ).toMatchObject({ shp: "other_order" });
});

describe("tries the way to the Result URL with a probe that pays nothing", () => {
  const resultUrl = "https://shop.example/result";
  const answers = (body: string | null, status = 200, headers: Readonly<Record<string, string>> = {}) =>
    new Response(body, { status, headers });
  test.each([
    [
      "a redirect",
      answers(null, 301, { location: "https://www.shop.example/result" }),
      "result_url_redirects",
      "to www.",
    ],
    ["a redirect to a slash", answers(null, 308, { location: "/result/" }), "result_url_redirects", "to another path"],
    ["a page", answers("<!doctype html><p>OK0"), "answer_bytes", "(HTML)"],
    ["JSON", answers('"OK0"'), "answer_bytes", "5 bytes: 22 4f 4b 30 22 (JSON)"],
    ["a byte order mark", answers("\ufeffOK0"), "answer_bytes", "6 bytes: ef bb bf 4f 4b 30 (a byte order mark)"],
    ["a line end", answers("OK0\n"), "answer_bytes", "4 bytes: 4f 4b 30 0a (spaces or line ends around it)"],
    ["another number", answers("OK1"), "answer_bytes", "3 bytes: 4f 4b 31"],
    ["nothing", answers(null, 204), "answer_bytes", "204, without a body"],
    ["a login page's status", answers("", 401), "result_url_closed", "401"],
    ["no such page", answers("", 404), "result_url_not_found", "404"],
    ["an error", answers("", 502), "result_url_fails", "502"],
    ["a refused signature", answers(null, 400), "result_url_other_password", "400, without a body"],
  ] as const)("and names %s", async (_case, response, code, text) => {
    const { fake, diagnose } = await shop({ fake: { resultUrl: "" } });
    await fake.pay({ invId: "146", outSum: "1000.00" });
    const found = await diagnose({ resultUrl, fetch: async () => response });
    expect([found.code, found.exitCode]).toEqual([code, 1]);
    expect(found.evidence.at(-2)).toContain(text);
    expect(JSON.stringify(found)).not.toContain("shop.example");
  });

  test("and names a connection that is refused, and a server that is silent", async () => {
    const { fake, diagnose, clock } = await shop({ fake: { resultUrl: "" } });
    await fake.pay({ invId: "146", outSum: "1000.00" });
    const refused = async () => {
      throw new TypeError("fetch failed", { cause: { code: "ECONNREFUSED" } });
    };
    expect(await diagnose({ resultUrl, fetch: refused })).toMatchObject({
      code: "result_url_unreachable",
      evidence: expect.arrayContaining(["Result URL: ECONNREFUSED"]),
    });
    const silent = (_url: unknown, { signal }: RequestInit) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason));
        queueMicrotask(() => clock.advance(10_000));
      });
    expect(await diagnose({ resultUrl, fetch: silent })).toMatchObject({
      code: "result_url_unreachable",
      evidence: expect.arrayContaining(["Result URL: no answer within 10000 ms"]),
    });
  });

  test("and the shop's own handler answers it OK0, books nothing and logs nothing", async () => {
    const { fake, diagnose, storage, handler } = await shop({ fake: { resultUrl: "" } });
    await fake.pay({ invId: "146", outSum: "1000.00" });
    const found = await diagnose({ resultUrl, fetch: fetchFrom(handler) });
    expect(found.code).toBe("no_notification");
    expect(found.evidence).toContain("Result URL answered a probe 200, 3 bytes: 4f 4b 30");
    expect(await storage.callbacks.list({ limit: 10 })).toEqual([]);
    expect((await storage.orders.get("order-146"))?.status).toBe("new");
  });

  test("and does not outweigh what the buyer did not do", async () => {
    const { diagnose } = await shop();
    expect(await diagnose({ resultUrl, fetch: async () => answers("", 502) })).toMatchObject({ code: "not_started" });
  });
});

test("shows the hashed text of the link, without password, card or address, until it is erased", async () => {
  const { diagnose, storage, robokassa } = await shop({ shp });
  expect((await diagnose()).link).toBe("demo-shop:1000.00:146:[password1]:Shp_cart=77:Shp_user=5");
  const link = {
    invId: "146",
    outSum: "1000.00",
    description: "A",
    userIp: "203.0.113.7",
    token: "CARD-7",
    test: true,
  };
  expect(robokassa.traceLink(link)).toBe("demo-shop:1000.00:146:[userIp]:[token]:[testPassword1]");
  await storage.orders.erase("order-146");
  const erased = await diagnose();
  expect(erased.link).toBeUndefined();
  expect(erased.evidence).toContain("no link was stored with the order: it was not made by placeOrder");
});

test("sees that the link was made for another shop", async () => {
  const { storage, clock, fake } = await shop();
  const robokassa = createRobokassa({ ...demoShop, login: "other-shop", clock, fetch: fetchFrom(fake.handle) });
  expect(await diagnose({ robokassa, storage, clock, order: "146" })).toMatchObject({ code: "link_of_other_shop" });
});

test("sees that the server ran with another password when it refused", async () => {
  const { pay, storage, clock, fake } = await shop({ client: { password2: "of-last-year" } });
  await pay();
  const robokassa = createRobokassa({ ...demoShop, clock, fetch: fetchFrom(fake.handle) });
  const found = await diagnose({ robokassa, storage, clock, order: "146" });
  expect(found).toMatchObject({ code: "settings_changed", trace: "1000.000000:146:[password2]" });
  expect(found.evidence).toContain("2026-11-01T10:00:00.000Z result: bad_signature, answered 400 without a body");
});

test("says until when certificates are valid, and that none fits when a hold was refused", async () => {
  const { diagnose, storage, paymentUrl, fake, clock, robokassa } = await shop();
  const [own, foreign] = ["2027-06-16", "2027-01-01"].map((day) =>
    createFakeCertificate({ validFrom: new Date("2026-01-01"), validTo: new Date(day) }),
  );
  const certificates = foreign?.certificate as string;
  expect((await diagnose({ certificates })).evidence).toContain("ResultUrl2 certificates are valid until 2027-01-01");
  const handler2 = createResult2Handler({ robokassa, storage, clock, certificates, logger: silentLogger });
  const signer = createFakeRobokassa({
    ...demoShop,
    clock,
    holdAllowed: true,
    deliver: handler2,
    ...(own ? { certificate: own } : {}),
  });
  const held = { invId: "146", outSum: "1000.00", description: "A", hold: true };
  await signer.pay({ url: robokassa.paymentUrl({ ...held, resultUrl2: "https://shop.example/r2" }) });
  await fake.confirm({ url: paymentUrl });
  fake.setState("146", 20);
  expect(await diagnose({ certificates })).toMatchObject({ code: "certificate", exitCode: 1 });
});

test("says paid when it is, and never holds a secret", async () => {
  const { pay, diagnose } = await shop();
  await pay();
  const diagnosis = await diagnose();
  expect(diagnosis).toMatchObject({ code: "paid", exitCode: 0 });
  for (const secret of Object.values(demoShop).slice(1)) expect(JSON.stringify(diagnosis)).not.toContain(secret);
});
