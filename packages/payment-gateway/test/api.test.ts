import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createWorld, otherToken, type World } from "./gateway-harness.ts";

let world: World;
beforeAll(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
});
afterAll(() => world.close());

const init = (body: unknown, headers?: Readonly<Record<string, string>>) =>
  world.api("POST", "/api/payment/init", body, headers);

describe("amounts are read from the digits that were sent", () => {
  test.each([
    ["500", "500.00"],
    ['"500"', "500.00"],
    ["500.5", "500.50"],
    ["0.01", "0.01"],
    ['"1000000000000.00"', "1000000000000.00"],
    ["999999999999.99", "999999999999.99"],
    ["1.10", "1.10"],
  ])("%s is %s", async (sent, amount) => {
    const { status, body } = await init(`{"amount": ${sent}}`);
    expect([status, body.data?.amount]).toEqual([200, amount]);
  });

  test.each([
    ["1e3", 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['"1e3"', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ["-5", 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['"+5"', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['" 5"', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['"05"', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['"5."', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['"٥"', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ["true", 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ["null", 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ["[5]", 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ['{"rawJSON":"5"}', 'amount must be a decimal number such as 500 or "500.50", without sign or exponent'],
    ["5.001", "amount must have at most two decimals"],
    ["5.000", "amount must have at most two decimals"],
    ["0.30000000000000004", "amount must have at most two decimals"],
    ["1000000000000.01", "amount must be at most 1000000000000.00"],
    ["99999999999999999999", "amount must be at most 1000000000000.00"],
    ["0", "amount must be more than zero"],
    ["0.00", "amount must be more than zero"],
  ])("%s is refused", async (sent, detail) => {
    const { status, body } = await init(`{"amount": ${sent}}`);
    expect([status, body.detail]).toEqual([400, detail]);
  });
});

test("errors are problem details that name the field", async () => {
  const answer = await init({ amount: 5, currency: "XXX" });
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.body).toEqual({
    type: "about:blank",
    title: "Bad Request",
    status: 400,
    detail: expect.stringMatching(/^currency must be one of KZT, RUB, /),
    success: false,
    code: "invalid",
    errors: [{ pointer: "#/currency", detail: expect.stringMatching(/^currency /) }],
  });
});

const badWhsec = "webhook_secret must be base64 after whsec_, with its padding and at least 8 bytes of key";

test.each([
  [{}, "amount is missing"],
  [{ amount: 1, webhook: "x" }, "webhook is not a field of this request"],
  [{ amount: 1, description: 5 }, "description must be text"],
  [{ amount: 1, description: "a\u0000b" }, "description must be readable text"],
  [{ amount: 1, description: "я".repeat(501) }, "description must have at most 500 characters"],
  [{ amount: 1, webhook_url: "http://shop.example/hook" }, undefined],
  [{ amount: 1, webhook_url: "https://10.0.0.1/hook" }, "webhook_url names an address that is not allowed"],
  [{ amount: 1, webhook_url: "javascript:alert(1)" }, "webhook_url must start with https://"],
  [{ amount: 1, return_url: "javascript:alert(1)" }, "return_url must be an http(s) address"],
  [{ amount: 1, webhook_secret: "short" }, "webhook_secret must be text of 8 to 256 characters"],
  [{ amount: 1, webhook_secret: 12345678 }, "webhook_secret must be text of 8 to 256 characters"],
  [{ amount: 1, webhook_secret: "ә".repeat(257) }, "webhook_secret must be text of 8 to 256 characters"],
  [{ amount: 1, webhook_secret: "two\nlines" }, "webhook_secret must be readable text in one line"],
  [{ amount: 1, webhook_secret: "whsec_%%%%" }, badWhsec],
  [{ amount: 1, webhook_secret: "whsec_Aa" }, badWhsec],
  [{ amount: 1, webhook_secret: "whsec_AAAAAAAAAA==" }, badWhsec],
  [{ amount: 1, webhook_secret: "whsec_MfKQ9r8GKYqrTwj" }, badWhsec],
  [
    { amount: 1, webhook_secret: "enc1.AAAAAAAA" },
    "webhook_secret must not begin with enc1., as encrypted values in the database do",
  ],
  [{ amount: 1, expires_in: 59 }, "expires_in must be a whole number of seconds from 60 to 2592000"],
  [{ amount: 1, expires_in: 60.5 }, "expires_in must be a whole number of seconds from 60 to 2592000"],
  [{ amount: 1, expires_in: "60" }, "expires_in must be a whole number of seconds"],
  [{ amount: 1, metadata: [] }, "metadata must be an object"],
  [{ amount: 1, metadata: 5 }, "metadata must be an object"],
  [{ amount: 1, metadata: { a: { b: { c: { d: { e: {} } } } } } }, "metadata must be at most 5 levels deep"],
  [{ amount: 1, metadata: { a: "x".repeat(8_192) } }, "metadata must take at most 8192 bytes as JSON"],
  [
    { amount: 1, metadata: Object.fromEntries(Array.from({ length: 51 }, (_, index) => [`k${index}`, 1])) },
    "metadata must have at most 50 keys",
  ],
  [{ amount: 1, provider: "visa" }, "provider is not one of sandbox"],
])("%j: %s", async (request, detail) => {
  const { status, body } = await init(request);
  expect([status, body.detail]).toEqual(detail === undefined ? [200, undefined] : [400, detail]);
});

test("metadata of exactly the largest size, depth and count comes back", async () => {
  const size = 8_192 - '{"text":""}'.length;
  const large = { text: "Ә".repeat(Math.floor(size / 2)) + "x".repeat(size % 2) }; // two bytes each
  expect(Buffer.byteLength(JSON.stringify(large))).toBe(8_192);
  const many = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`k${index}`, index]));
  for (const metadata of [large, many, { a: { b: { c: { d: { e: 1 } } } } }, { a: [[[[1]]]] }]) {
    const { status, body } = await init({ amount: 1, metadata });
    expect([status, body.data?.metadata]).toEqual([200, metadata]);
  }
  for (const metadata of [{ text: `${large.text}x` }, { ...many, k50: 1 }, { a: [[[[[]]]]] }]) {
    expect((await init({ amount: 1, metadata })).body.errors[0].pointer).toBe("#/metadata");
  }
});

test("metadata comes back as it was sent: an empty object, long numbers, Cyrillic, hostile names", async () => {
  const metadata =
    '{"empty":{},"list":[],"big":12345678901234567890,"exact":1.10,"exponent":1E400,"имя":"Әлия","__proto__":{"a":1}}';
  const { text, body } = await init(`{"amount": 1, "metadata": ${metadata}}`);
  expect(text).toContain(`"metadata":${metadata}`);
  expect((await init({ amount: 1, metadata: {} })).text).toContain('"metadata":{}');
  expect((await init({ amount: 1 })).text).toContain('"metadata":{}');
  await world.press(body.data.transaction_id, "pay");
  expect((await world.api("GET", "/api/events")).text).toContain(`"metadata":${metadata}`);
});

test.each([
  ["not JSON", "{", "the body must be JSON in UTF-8"],
  ["a list", "[]", "the body must be a JSON object"],
  ["nothing", "", "amount is missing"],
])("a body that is %s is refused", async (_name, sent, detail) => {
  const { status, body } = await init(sent);
  expect([status, body.detail]).toEqual([400, detail]);
});

test("a body that is not UTF-8 is refused", async () => {
  const response = await world.gateway.handle(
    new Request("https://pay.example/api/payment/init", {
      method: "POST",
      headers: { "x-api-token": "shop-token-0123456789abcdef" },
      body: new Uint8Array([0x7b, 0xff, 0x7d]),
    }),
  );
  expect(response.status).toBe(400);
});

test("a body without end is refused with 413", async () => {
  const { status, body } = await init(" ".repeat(70_000));
  expect([status, body.code]).toEqual([413, "too_large"]);
});

test.each([
  ["no token", ""],
  ["a wrong token", "shop-token-0123456789abcdee"],
])("with %s nothing is told: 401", async (_name, token) => {
  const { status, body } = await init({ amount: 1 }, { "x-api-token": token });
  expect([status, body.code]).toEqual([401, "unauthorized"]);
});

test("a wrong method is answered 405, an unknown address 404, an impossible id 404", async () => {
  const wrong = await world.api("GET", "/api/payment/init/");
  expect(wrong.status).toBe(404);
  const refused = await world.api("DELETE", "/api/payment/init");
  expect([refused.status, refused.headers.get("allow")]).toEqual([405, "POST"]);
  for (const path of [
    "/api/nothing",
    "/api/payment/%00",
    `/api/payment/${"x".repeat(500)}`,
    "/providers/none/1",
    "/pay/%00",
  ]) {
    expect((await world.api("GET", path)).status).toBe(404);
  }
});

test("GET /api/events refuses a cursor that it never gave", async () => {
  for (const after of ["x", "-1", "1.5", "9".repeat(30)]) {
    expect((await world.api("GET", `/api/events?after=${after}`)).status).toBe(400);
  }
});

test("GET /api/payments lists the merchant's own payments in pages, by status and text", async () => {
  const own = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
  try {
    const ids: string[] = [];
    for (const order of ["A-1", "A-2", "A-3"]) {
      const { body } = await own.api("POST", "/api/payment/init", { amount: 5, metadata: { order_id: order } });
      ids.unshift(body.data.transaction_id);
      own.clock.advance(1);
    }
    await own.api("POST", "/api/payment/init", { amount: 5 }, { "x-api-token": otherToken });
    await own.press(ids[0] ?? "", "pay");
    const list = async (query: string) => {
      const { body } = await own.api("GET", `/api/payments${query}`);
      const found = body.data.payments.map(({ transaction_id }: { transaction_id: string }) => transaction_id);
      return { found, next: body.data.next };
    };
    expect(await list("")).toEqual({ found: ids, next: null });
    const first = await list("?limit=2");
    expect(first.found).toEqual(ids.slice(0, 2));
    expect(await list(`?limit=2&after=${first.next}`)).toEqual({ found: ids.slice(2), next: null });
    expect((await list("?status=paid")).found).toEqual([ids[0]]);
    expect((await list("?search=A-2")).found).toEqual([ids[1]]);
  } finally {
    await own.close();
  }
});

test.each([
  ["status=done", "status must be one of pending, "],
  ["after=x", 'after must be empty or a former "next"'],
  ["after=1.%00", 'after must be empty or a former "next"'],
  ["limit=0", "limit must be a whole number from 1 to 100"],
  ["limit=101", "limit must be a whole number from 1 to 100"],
])("GET /api/payments?%s is refused: %s", async (query, detail) => {
  const { status, body } = await world.api("GET", `/api/payments?${query}`);
  expect([status, body.detail.startsWith(detail)]).toEqual([400, true]);
});

test("a payment without a webhook address has no secret in its answer and no webhook, but its events can be read", async () => {
  const { body } = await init({ amount: 7 });
  expect(body.data).not.toHaveProperty("webhook_secret");
  await world.press(body.data.transaction_id, "pay");
  expect(await world.gateway.payments.deliveries("shop", body.data.transaction_id)).toEqual([]);
});

test("endpoints by the API: added, listed, rotated, switched off and on, removed; twenty at most", async () => {
  const { token } = await world.gateway.tokens.create({ merchant: "shop", scopes: ["admin"] });
  const call = async (method: string, path: string, body?: object) =>
    (await world.api(method, `/api/webhook-endpoints${path}`, body, { "x-api-token": token })).body;
  const url = world.receiverUrl;
  const { id, secret, ...rest } = (await call("POST", "", { url, secret: "test_secret_key" })).data;
  // echo -n test_secret_key | base64
  expect([secret, rest]).toEqual([
    "whsec_dGVzdF9zZWNyZXRfa2V5",
    { url, state: "enabled", created_at: world.clock.now().toISOString() },
  ]);
  const tell = async (): Promise<number> => {
    const before = world.receiver.accepted.length;
    const { body } = await init({ amount: 1 });
    await world.press(body.data.transaction_id, "pay");
    await world.gateway.work();
    return world.receiver.accepted.length - before;
  };
  expect(await tell()).toBe(1);
  expect((await call("GET", "")).data.endpoints).toEqual([{ id, ...rest }]);
  expect((await call("POST", `/${id}/rotate`, { secret: "another_secret_key", overlap: 60 })).data).toEqual({
    id,
    secret: "whsec_YW5vdGhlcl9zZWNyZXRfa2V5",
    overlap: 60,
  });
  expect(await tell()).toBe(1); // the former secret still signs
  expect((await call("POST", `/${id}/disable`)).data).toEqual({ id });
  expect([await tell(), (await call("GET", "")).data.endpoints[0].state]).toEqual([0, "disabled"]);
  await call("POST", `/${id}/enable`);
  expect(await tell()).toBe(1);
  expect((await call("DELETE", `/${id}`)).data).toEqual({ id });
  expect([await tell(), (await call("GET", "")).data.endpoints]).toEqual([0, []]);
  expect((await call("DELETE", `/${id}`)).code).toBe("not_found");
  for (let count = 0; count < 20; count++) await call("POST", "", { url });
  expect(await call("POST", "", { url })).toMatchObject({
    status: 409,
    detail: "a merchant may have 20 endpoints; remove one first",
  });
  for (const endpoint of (await call("GET", "")).data.endpoints) await call("DELETE", `/${endpoint.id}`);
});

test("an unexpected error becomes a problem without details, and is logged", async () => {
  const errors: unknown[] = [];
  const storage = createPaymentGatewayMemoryStorage();
  const broken = world.another({
    storage: { ...storage, getPayment: () => Promise.reject(new Error("relation gateway_payment does not exist")) },
    logger: { ...console, error: (message, fields) => errors.push([message, fields]) },
  });
  const response = await broken.handle(
    new Request("https://pay.example/api/payment/abc", { headers: { "x-api-token": "shop-token-0123456789abcdef" } }),
  );
  expect([response.status, (await response.text()).includes("relation")]).toEqual([500, false]);
  expect(errors).toHaveLength(1);
});

test.each([
  "localhost:3004",
  "pay.example",
  "pay:example",
  "ftp://pay.example",
  "https://",
  "https://pay.example/?a=1",
  "https://pay.example/#pay",
])("publicUrl %s is refused at creation", async (publicUrl) => {
  const storage = createPaymentGatewayMemoryStorage();
  expect(() => createPaymentGateway({ storage, providers: [createSandboxProvider()], publicUrl })).toThrow(
    /^publicUrl must be/,
  );
});
