import { silentLogger } from "@orderbridge/core";
import { createRobokassa } from "@orderbridge/robokassa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createRobokassaProvider } from "../src/providers/robokassa.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createWorld, type World } from "./gateway-harness.ts";

let world: World;
beforeAll(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
});
afterAll(() => world.close());

async function create(fields: object = {}): Promise<string> {
  const { body } = await world.api("POST", "/api/payment/init", { amount: "5000.00", ...fields });
  return body.data.transaction_id;
}

const open = async (path: string, headers: Record<string, string> = {}) => {
  const response = await world.gateway.handle(new Request(`https://pay.example${path}`, { headers }));
  return { response, html: await response.text() };
};

test.each([
  ["", "", "ru", "Ожидает оплаты"],
  ["?lang=kk", "", "kk", "Төлем күтілуде"],
  ["?lang=en", "ru", "en", "Waiting for payment"],
  ["", "kk-KZ,ru;q=0.8", "kk", "Төлем күтілуде"],
  ["", "de, en;q=0.5, ru;q=0.4", "en", "Waiting for payment"],
  ["?lang=xx", "fr", "ru", "Ожидает оплаты"],
])("%s with Accept-Language %s is shown in %s", async (query, accept, language, text) => {
  const { html } = await open(`/pay/${await create()}${query}`, accept === "" ? {} : { "accept-language": accept });
  expect(html).toContain(`<html lang="${language}">`);
  expect(html).toContain(text);
  expect(html).toContain("5\u00a0000,00\u00a0₸");
});

test("a language that was chosen stays after a button, in a cookie that holds nothing else", async () => {
  const id = await create();
  const chosen = await open(`/pay/${id}?lang=kk`, { "accept-language": "ru" });
  const cookie = chosen.response.headers.get("set-cookie") ?? "";
  expect(cookie).toBe("pay_language=kk; Max-Age=31536000; Path=/pay; HttpOnly; Secure; SameSite=Lax");
  const back = (await world.press(id, "pay")).headers.get("location") ?? "";
  const headers = { "accept-language": "ru", cookie: cookie.split(";")[0] ?? "" };
  const { response, html } = await open(new URL(back).pathname, headers);
  expect(html).toContain('<html lang="kk">');
  expect(response.headers.get("set-cookie")).toBeNull();
  expect((await open(`/pay/${id}?lang=en`, headers)).html).toContain('<html lang="en">');
  for (const wrong of ["pay_language=xx", "pay_language=%3Cscript%3E", "pay_language="]) {
    expect((await open(`/pay/${id}`, { "accept-language": "en", cookie: wrong })).html).toContain('<html lang="en">');
  }
  expect((await open(`/pay/${id}?lang=xx`)).response.headers.get("set-cookie")).toBeNull();
});

test("what the merchant wrote is shown as text", async () => {
  const id = await create({
    description: `<script>alert(1)</script>"><img src=x onerror=alert(1)>`,
    return_url: `https://shop.example/?a="><script>alert(1)</script>`,
    metadata: { note: "<script>alert(2)</script>" },
  });
  const { html } = await open(`/pay/${id}`);
  expect(html).not.toContain("<script>alert");
  expect(html).not.toContain("<img");
  expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
});

test("nothing inline and nothing foreign may run, and the address is not passed on", async () => {
  const { response, html } = await open(`/pay/${await create()}`);
  const policy = response.headers.get("content-security-policy") ?? "";
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain("frame-ancestors 'none'");
  expect(policy).not.toContain("unsafe");
  expect(response.headers.get("referrer-policy")).toBe("no-referrer");
  expect(html).not.toMatch(/ style=| on[a-z]+=|<script>|<style>/);
});

test("its own stylesheet and script are served from beside it", async () => {
  const { html } = await open(`/pay/${await create()}`);
  for (const [, path] of html.matchAll(/(?:href|src)="(assets\/[^"]+)"/g)) {
    const { response } = await open(`/pay/${path}`);
    expect([response.status, response.headers.get("cache-control")]).toEqual([
      200,
      "public, max-age=31536000, immutable",
    ]);
  }
  expect([...html.matchAll(/assets\//g)]).toHaveLength(2);
});

test("the buttons are plain forms that lead back to the page", async () => {
  const id = await create();
  const { html } = await open(`/pay/${id}`);
  expect(html).toContain(`<form method="post" action="../providers/sandbox/${id}">`);
  for (const action of ["pay", "pay_part", "cancel", "fail"]) expect(html).toContain(`name="action" value="${action}"`);
  expect(html).toMatch(/<label for="input-pay_part">.+<\/label><input id="input-pay_part"/);
  const answer = await world.press(id, "pay");
  expect([answer.status, answer.headers.get("location")]).toEqual([303, `https://pay.example/pay/${id}`]);
  expect((await open(`/pay/${id}`)).html).toContain("Оплачено. Спасибо!");
});

test("the script learns the state from /state, which tells no more than that", async () => {
  const id = await create();
  await world.press(id, "pay_part", "10");
  const { response, html } = await open(`/pay/${id}/state`);
  expect([response.headers.get("cache-control"), JSON.parse(html)]).toEqual([
    "no-store",
    { status: "partially_paid", paid: "10.00", step: expect.stringMatching(/^[\w-]{8}$/) },
  ]);
});

test("an unknown payment is a readable 404", async () => {
  const { response, html } = await open("/pay/unknown?lang=en");
  expect([response.status, html.includes("There is no such payment.")]).toEqual([404, true]);
});

test.each([
  ["pay_part", "1e3", 400],
  ["pay_part", "", 400],
  ["pay_part", "-5", 400],
  ["steal", "1", 400],
  ["", "1", 400],
])("the sandbox refuses action %s with amount %s", async (action, amount, status) => {
  const id = await create();
  expect((await world.press(id, action, amount)).status).toBe(status);
  expect((await world.api("GET", `/api/payment/${id}`)).body.data.status).toBe("pending");
});

test("delayed money comes by itself, unless it is said to fail; after a cancellation it is late", async () => {
  const delayed = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), {});
  const gateway = delayed.another({ providers: [createSandboxProvider({ delayMs: 5_000, clock: delayed.clock })] });
  const press = (id: string, action: string) =>
    gateway.handle(
      new Request(`https://pay.example/providers/sandbox/${id}`, {
        method: "POST",
        body: new URLSearchParams({ action }),
      }),
    );
  const begin = async (): Promise<string> => {
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    await press(payment.id, "delay");
    await press(payment.id, "delay");
    expect((await gateway.payments.get("shop", payment.id))?.status).toBe("processing");
    return payment.id;
  };
  try {
    const [paid, failed, cancelled] = [await begin(), await begin(), await begin()];
    await press(failed, "fail");
    await press(cancelled, "cancel");
    delayed.clock.advance(4_999);
    await gateway.work();
    const states = async () =>
      (await Promise.all([paid, failed, cancelled].map((id) => gateway.payments.get("shop", id)))).map(
        (payment) => [payment?.status, payment?.paidMinor, payment?.late] as const,
      );
    expect((await states()).map(([status]) => status)).toEqual(["processing", "pending", "cancelled"]);
    delayed.clock.advance(1);
    await gateway.work();
    expect(await states()).toEqual([
      ["paid", 50_000n, false],
      ["pending", 0n, false],
      ["paid", 50_000n, true],
    ]);
  } finally {
    await delayed.close();
  }
});

test("failing leaves the payment open, cancelling ends it", async () => {
  const id = await create();
  await world.press(id, "fail");
  expect((await world.api("GET", `/api/payment/${id}`)).body.data.status).toBe("pending");
  await world.press(id, "cancel");
  expect((await world.api("GET", `/api/payment/${id}`)).body.data.status).toBe("cancelled");
});

test("a payment whose next step cannot be told is shown without it, and the log says why", async () => {
  const provider = (test: boolean) =>
    createRobokassaProvider({
      robokassa: createRobokassa({
        login: "demo-shop",
        password1: "live-one",
        password2: "live-two",
        ...(test ? { testPassword1: "try-one", testPassword2: "try-two" } : {}),
        test,
      }),
      currency: "RUB",
    });
  const shop = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), {
    providers: [provider(true)],
    defaultCurrency: "RUB",
  });
  const { payment } = await shop.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
  const errors: string[] = [];
  // A payment of the time when the shop was tried, on a server that went live.
  const live = shop.another({
    providers: [provider(false)],
    logger: { ...silentLogger, error: (message, fields) => errors.push(`${message} ${fields?.payment}`) },
  });
  const at = (path: string) => live.handle(new Request(`https://pay.example/pay/${payment.id}${path}`));
  const page = await at("");
  expect([page.status, (await page.text()).includes("500,00"), (await at("/state")).status]).toEqual([200, true, 200]);
  expect(errors[0]).toBe(`what the payer does next cannot be told ${payment.id}`);
  await shop.close();
});
