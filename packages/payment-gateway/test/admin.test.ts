import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { withRemoteAddress } from "@orderbridge/core/node";
import { listen } from "@orderbridge/core/testing";
import { chromium } from "playwright-core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findChromium } from "../../../scripts/services.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createWorld, otherToken, type World } from "./gateway-harness.ts";
import { openQr, openSmartpos } from "./provider-worlds.ts";

const password = "корень-of-all-evil";
const admin = { password, sessionSecret: "a session secret of thirty-two characters" };
const hostile = `<script>document.title="owned"</script>"><img src=x onerror='document.title="owned"'>`;

let world: World;
let cookie: string;
beforeEach(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), { admin });
  cookie = "";
});
afterEach(() => world.close());

interface Page {
  readonly status: number;
  readonly headers: Headers;
  readonly html: string;
}

async function call(path: string, init: RequestInit = {}, address = "203.0.113.7"): Promise<Page> {
  const request = new Request(`https://pay.example${path}`, init);
  if (cookie !== "" && !request.headers.has("cookie")) request.headers.set("cookie", cookie);
  const response = await world.gateway.handle(withRemoteAddress(request, address));
  return { status: response.status, headers: response.headers, html: await response.text() };
}
const open = (path: string) => call(path);
const submit = (
  path: string,
  fields: Readonly<Record<string, string>>,
  headers: Record<string, string> = {},
  address?: string,
) => call(path, { method: "POST", body: new URLSearchParams(fields), headers }, address);

async function logIn(given = password, address?: string): Promise<Page> {
  const answer = await submit("/admin/login", { password: given }, {}, address);
  cookie = (answer.headers.get("set-cookie") ?? "").split(";")[0] ?? "";
  return answer;
}

/** Fields of the form that posts to this address, as the page holds them. */
function fieldsOf(html: string, action: string): Record<string, string> {
  const form = html.split(`action="${action}">`)[1]?.split("</form>")[0] ?? "";
  const fields = form.matchAll(/<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"/g);
  return Object.fromEntries([...fields].map(([, name = "", value = ""]) => [name, value]));
}

async function create(fields: object = {}, token?: string): Promise<string> {
  const headers = token === undefined ? {} : { "x-api-token": token };
  const { body } = await world.api("POST", "/api/payment/init", { amount: "500.00", ...fields }, headers);
  return body.data.transaction_id;
}

describe("login", () => {
  test.each(["/admin", "/admin/health", "/admin/payments/x", "/admin/anything"])(
    "%s shows nothing without a session",
    async (path) => {
      const { status, headers, html } = await open(path);
      expect([status, headers.get("location"), html]).toEqual([303, "/admin/login", ""]);
    },
  );

  test("the right password opens a session that other sites and scripts cannot reach", async () => {
    const { status, headers } = await logIn();
    expect([status, headers.get("location")]).toEqual([303, "/admin"]);
    expect(headers.get("set-cookie")).toMatch(
      /^orderbridge_admin=\S+; Max-Age=28800; Path=\/admin; HttpOnly; SameSite=Strict; Secure$/,
    );
    expect((await open("/admin")).status).toBe(200);
  });

  test("a session ends after eight hours, and with its password", async () => {
    await logIn();
    world.clock.advance(8 * 3_600_000 - 1);
    expect((await open("/admin")).status).toBe(200);
    world.clock.advance(1);
    expect((await open("/admin")).status).toBe(303);
    await logIn();
    const request = new Request("https://pay.example/admin", { headers: { cookie } });
    const changed = world.another({ admin: { ...admin, password: "another-password" } });
    expect([(await world.another().handle(request)).status, (await changed.handle(request)).status]).toEqual([
      200, 303,
    ]);
  });

  test.each([
    ["another end", (text: string) => text.replace(/=\d+/, (found) => `${found}0`)],
    ["another nonce", (text: string) => text.replace(/\.[^.]+\./, ".x.")],
    ["no signature", (text: string) => text.replace(/\.[^.]+$/, ".")],
    ["nothing", () => "orderbridge_admin="],
  ])("a cookie with %s is refused", async (_name, change) => {
    await logIn();
    cookie = change(cookie);
    expect((await open("/admin")).status).toBe(303);
  });

  test("after five wrong passwords an address must wait 15 minutes, others need not", async () => {
    for (let index = 0; index < 5; index++) expect((await logIn("wrong")).status).toBe(403);
    const locked = await logIn();
    expect([locked.status, locked.headers.get("retry-after")]).toEqual([429, "900"]);
    expect((await logIn(password, "203.0.113.8")).status).toBe(303);
    world.clock.advance(15 * 60_000);
    expect((await logIn()).status).toBe(303);
  });

  test("an IPv6 customer has one count however many addresses of the network try", async () => {
    for (let index = 1; index <= 5; index++) {
      expect((await logIn("wrong", `2001:db8:0:7:${index}::${index}`)).status).toBe(403);
    }
    expect((await logIn(password, "2001:db8:0:7:ffff::1")).status).toBe(429);
    expect((await logIn(password, "2001:db8:0:8::1")).status).toBe(303);
  });

  test("logging out ends the session of the browser", async () => {
    await logIn();
    const fields = fieldsOf((await open("/admin")).html, "/admin/logout");
    const { headers } = await submit("/admin/logout", fields);
    expect(headers.get("set-cookie")).toMatch(/^orderbridge_admin=; Max-Age=0; Path=\/admin;/);
  });

  test("without the option there is no /admin; a short password or secret is refused at creation", async () => {
    const { handle } = world.another({ admin: undefined } as object);
    expect((await handle(new Request("https://pay.example/admin"))).status).toBe(404);
    expect(() => world.another({ admin: { ...admin, password: "short" } })).toThrow("admin.password");
    expect(() => world.another({ admin: { ...admin, sessionSecret: "short" } })).toThrow("admin.sessionSecret");
  });
});

describe("forms", () => {
  beforeEach(async () => {
    await logIn();
  });

  test.each(["cancel", "refund", "resend"])("%s without the token of the page does nothing", async (action) => {
    const id = await create();
    const fields = { confirmed: "yes", amount: "1", key: "k", event: "e", csrf: "x" };
    expect((await submit(`/admin/payments/${id}/${action}`, fields)).status).toBe(403);
    expect((await world.api("GET", `/api/payment/${id}`)).body.data.status).toBe("pending");
  });

  test("a form sent by another site is refused, whatever it holds", async () => {
    const id = await create();
    const { csrf = "" } = fieldsOf((await open(`/admin/payments/${id}`)).html, `/admin/payments/${id}/cancel`);
    for (const site of ["cross-site", "same-site", "none"]) {
      const answer = await submit(
        `/admin/payments/${id}/cancel`,
        { csrf, confirmed: "yes" },
        { "sec-fetch-site": site },
      );
      expect(answer.status).toBe(403);
    }
  });

  test("cancelling asks first, then cancels", async () => {
    const path = `/admin/payments/${await create()}/cancel`;
    const asked = await submit(path, fieldsOf((await open(path.replace("/cancel", ""))).html, path));
    expect(asked.html).toContain("Cancel this payment of 500.00 KZT?");
    expect((await open(path.replace("/cancel", ""))).html).toContain("pending");
    const done = await submit(path, fieldsOf(asked.html, path));
    expect(done.status).toBe(303);
    expect((await open(path.replace("/cancel", ""))).html).toContain("event 1: cancelled");
  });

  test("refunding asks first; the same confirmation sent twenty times at once is one refund", async () => {
    const id = await create();
    await world.press(id, "pay");
    const path = `/admin/payments/${id}/refund`;
    const fields = fieldsOf((await open(`/admin/payments/${id}`)).html, path);
    expect(fields.amount).toBe("500.00");
    const asked = await submit(path, { ...fields, amount: "120,5" });
    expect(asked.html).toContain("Give 120.50 KZT back to the payer?");
    const confirmed = fieldsOf(asked.html, path);
    const answers = await Promise.all(Array.from({ length: 20 }, () => submit(path, confirmed)));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([303]));
    expect((await world.api("GET", `/api/payment/${id}`)).body.data.refunded_amount).toBe("120.50");
  });

  test.each([
    ["1e3", 400, "The sum must be a decimal number such as 500.00."],
    ["0", 400, "The sum must be a decimal number such as 500.00."],
    ["500.01", 409, "no more than 500.00 can be refunded"],
  ])("a refund of %s is refused with a reason", async (amount, status, text) => {
    const id = await create();
    await world.press(id, "pay");
    const path = `/admin/payments/${id}/refund`;
    const { csrf = "" } = fieldsOf((await open(`/admin/payments/${id}`)).html, path);
    const answer = await submit(path, { csrf, amount, confirmed: "yes", key: "admin_test" });
    expect([answer.status, answer.html.includes(text)]).toEqual([status, true]);
  });

  test("a webhook is sent again with the same id, and its tries are shown", async () => {
    const id = await create({ webhook_url: world.receiverUrl, webhook_secret: "test_secret_key" });
    await world.press(id, "pay");
    await world.gateway.work();
    const path = `/admin/payments/${id}/resend`;
    const page = await open(`/admin/payments/${id}`);
    expect(page.html).toContain("http_204");
    await submit(path, fieldsOf(page.html, path));
    await world.gateway.work();
    expect(world.receiver.requests.map(({ headers }) => headers["webhook-id"])).toEqual(
      Array.from({ length: 2 }, () => fieldsOf(page.html, path).event),
    );
  });
});

describe("pages", () => {
  beforeEach(async () => {
    await logIn();
  });

  test("payments of all merchants are listed, found by text, merchant and status, and paged", async () => {
    const ids: string[] = [];
    for (let index = 0; index < 51; index++) {
      ids.push(await create({ description: `Order ${index}` }));
      world.clock.advance(1);
    }
    const other = await create({ description: "Әлия", metadata: { order_id: "A-17" } }, otherToken);
    const idsIn = (html: string) => [...html.matchAll(/payments\/([\w-]+)"/g)].map(([, id]) => id);
    const first = await open("/admin");
    expect(idsIn(first.html)).toEqual([other, ...ids.toReversed().slice(0, 49)]);
    const older = (/href="([^"]+)" rel="next"/.exec(first.html)?.[1] ?? "").replaceAll("&amp;", "&");
    expect(idsIn((await open(older)).html)).toEqual([ids[1], ids[0]]);
    for (const query of ["q=A-17", `q=${encodeURIComponent("Әлия")}`, "merchant=other", `q=${other}`]) {
      expect(idsIn((await open(`/admin?${query}`)).html)).toEqual([other]);
    }
    await world.press(other, "pay");
    expect(idsIn((await open("/admin?status=paid")).html)).toEqual([other]);
    expect((await open("/admin?q=nothing")).html).toContain("No payment fits.");
  });

  test("an address with a slash at its end, or that does not exist, is answered by a page", async () => {
    const { status, headers } = await open("/admin/");
    expect([status, headers.get("location")]).toEqual([303, "/admin"]);
    const nothing = await open("/admin/paiments");
    expect([nothing.status, nothing.headers.get("content-type")]).toEqual([404, "text/html; charset=UTF-8"]);
    expect(nothing.html).toContain("There is nothing at this address.");
  });

  test("health tells of receivers that fail, by host only", async () => {
    world.receiver.failNext(1);
    const id = await create({ webhook_url: `${world.receiverUrl}?key=secret`, webhook_secret: "test_secret_key" });
    await world.press(id, "pay");
    await world.gateway.work();
    const { html } = await open("/admin/health");
    expect(html).toContain(new URL(world.receiverUrl).host);
    expect(html).not.toContain("key=secret");
  });

  test("health counts what waits and how late it is, what was given up, and receivers that are left alone", async () => {
    const busy = world.another({ retryDelaysMs: [60_000], breaker: { failures: 2 } });
    const html = async (path: string) =>
      (await busy.handle(new Request(`https://pay.example${path}`, { headers: { cookie } }))).text();
    const numbers = async () =>
      Object.fromEntries(
        [...(await html("/admin/health")).matchAll(/<th scope="row">([^<]+)<\/th><td>([^<]+)<\/td>/g)].map(
          ([, name, value]) => [name, value],
        ),
      );
    const quiet = {
      "Webhooks waiting": "0",
      "of these due now": "0",
      "the oldest is due for": "0 s",
      "Webhooks given up": "0",
      "Refunds without an outcome": "0",
      "Endpoints that are gone (410)": "0",
    };
    expect(await numbers()).toEqual(quiet);
    const fields = { webhook_url: world.receiverUrl, webhook_secret: "test_secret_key" };
    for (const id of [await create(fields), await create(fields)]) await world.press(id, "pay");
    world.clock.advance(7_000);
    expect(await numbers()).toEqual({
      ...quiet,
      "Webhooks waiting": "2",
      "of these due now": "2",
      "the oldest is due for": "7 s",
    });
    world.receiver.failNext(3);
    await busy.work();
    expect(await numbers()).toEqual({ ...quiet, "Webhooks waiting": "2" });
    const { host } = new URL(world.receiverUrl);
    expect(await html("/admin/health")).toContain(`<tr><td>${host}</td><td>shop</td><td>2</td><td>2026-11-01`);
    await busy.endpoints.add({ merchant: "shop", url: world.receiverUrl, secret: "test_secret_key" });
    world.clock.advance(60_000);
    await busy.work(); // the one try that is let through fails too, so its webhook is given up
    expect(await numbers()).toMatchObject({ "Webhooks waiting": "1", "Webhooks given up": "1" });
    const list = await html("/admin?webhooks=given-up");
    expect(list.match(/<td>shop<\/td>/g)).toHaveLength(1);
    expect(await html("/admin/health")).toContain('href="/admin?webhooks=given-up"');
    world.clock.advance(300_000);
    await busy.work();
    expect(await numbers()).toMatchObject({ "Webhooks waiting": "0", "Webhooks given up": "1" });
    world.receiver.failNext(1, 410);
    await world.press(await create(), "pay");
    await busy.work();
    expect(await numbers()).toMatchObject({ "Endpoints that are gone (410)": "1" });
  });

  test("what a provider and a receiver say of themselves is text on the page of health", async () => {
    const at = world.clock.now();
    const last = { at, call: "state", message: hostile };
    await world.storage.recordProviderErrors({ provider: "sandbox", day: at, failures: 1, last });
    const { headers, html } = await open("/admin/health");
    expect(html).toContain("state: &lt;script&gt;document.title=&quot;owned&quot;&lt;/script&gt;");
    expect([html.includes("<script"), html.includes("<img")]).toEqual([false, false]);
    expect(headers.get("content-security-policy")).toMatch(/^default-src 'none';/);
  });

  test("no secret of a webhook is on a page", async () => {
    const id = await create({ webhook_url: world.receiverUrl, webhook_secret: "planted-secret-in-the-clear" });
    expect((await open(`/admin/payments/${id}`)).html).not.toContain("planted-secret");
  });

  test("nothing inline and nothing foreign may run; what strangers wrote is text", async () => {
    const id = await create({ description: hostile, metadata: { [hostile]: hostile } });
    for (const path of ["/admin", `/admin?q=${encodeURIComponent(hostile)}`, `/admin/payments/${id}`]) {
      const { headers, html } = await open(path);
      const policy = headers.get("content-security-policy") ?? "";
      expect([policy.includes("default-src 'none'"), policy.includes("unsafe")]).toEqual([true, false]);
      expect([headers.get("cache-control"), html.includes("<script"), html.includes("<img")]).toEqual([
        "no-store",
        false,
        false,
      ]);
    }
  });
});

test("a person closes what was seen to, and nothing that was said meanwhile", async () => {
  await logIn();
  const id = await create();
  const path = `/admin/payments/${id}`;
  const call = (needsAttention: string) =>
    world.storage.change(id, (current) => ({ payment: { ...current, needsAttention } }));
  const attention = async () => (await world.gateway.payments.get("shop", id))?.needsAttention;
  await call("money arrived after a full refund");
  const asked = await submit(`${path}/seen`, fieldsOf((await open(path)).html, `${path}/seen`));
  expect(asked.html).toContain("Has this been seen to: money arrived after a full refund");
  const answer = fieldsOf(asked.html, `${path}/seen`);
  await call("look into the cabinet");
  expect([(await submit(`${path}/seen`, answer)).status, await attention()]).toEqual([409, "look into the cabinet"]);
  await call("money arrived after a full refund");
  expect([(await submit(`${path}/seen`, answer)).status, await attention()]).toEqual([303, undefined]);
  expect((await open(path)).html).not.toContain(`${path}/seen`);
});

test("the log of a webhook shows what was sent, when, what came back as text, and the next try", async () => {
  const rude = await listen(async () => new Response(hostile, { status: 500 }));
  try {
    await logIn();
    const id = await create({
      webhook_url: `${rude.url}/hook`,
      webhook_secret: "test_secret_key",
      metadata: { n: "Әлия" },
    });
    await world.press(id, "pay");
    await world.gateway.work();
    const { html } = await open(`/admin/payments/${id}`);
    // The clock of the tests begins at midnight; the second try comes five seconds later.
    expect(html).toContain("pending, next try 2026-11-01 00:00:05 UTC");
    expect(html).toMatch(
      /<td>1<\/td><td>2026-11-01 00:00:00 UTC<\/td><td>\d+ ms<\/td><td>http_500<\/td><td>&lt;script&gt;/,
    );
    expect(html).toContain("{&quot;event&quot;:&quot;paid&quot;");
    expect(html).toContain("Әлия");
    expect([html.includes("<script"), html.includes("<img")]).toEqual([false, false]);
  } finally {
    await rude.close();
  }
});

describe("providers with attempts", () => {
  test("a person sees the attempts, what is wrong with them, and gives one up after confirming", async () => {
    const { world: till, fake, provider, pass } = await openSmartpos({ gateway: { admin } });
    try {
      const at = (path: string, fields?: Readonly<Record<string, string>>, headers: Record<string, string> = {}) =>
        till.gateway.handle(
          withRemoteAddress(
            new Request(`https://pay.example${path}`, {
              headers,
              ...(fields ? { method: "POST", body: new URLSearchParams(fields) } : {}),
            }),
            "203.0.113.7",
          ),
        );
      const { payment } = await till.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
      fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("/v2/payment") });
      await at(`/providers/kaspi-smartpos/${payment.id}`, { action: "pay" });
      await pass(25 * 3_600_000, 3_600_000);
      const login = await at("/admin/login", { password });
      const session = { cookie: (login.headers.get("set-cookie") ?? "").split(";")[0] ?? "" };
      expect(await (await at("/admin?attention=yes", undefined, session)).text()).toContain(payment.id);
      const health = await (await at("/admin/health", undefined, session)).text();
      expect(health).toContain("whether the terminal began is not known");
      expect(health).toMatch(/<td>kaspi-smartpos<\/td><td>\d+<\/td><td>[1-9]\d*<\/td><td>2026-11-0\d \S+ UTC state: /);
      const path = `/admin/payments/${payment.id}`;
      const page = await (await at(path, undefined, session)).text();
      expect(page).toContain("<h2>Attempts</h2>");
      // It is open until a person says what became of it.
      expect(page).not.toContain(`${path}/seen`);
      const { csrf = "" } = fieldsOf(page, `${path}/give-up`);
      const { needsAttention = "" } = (await till.gateway.payments.get("shop", payment.id)) ?? {};
      const closed = await at(`${path}/seen`, { csrf, attention: needsAttention, confirmed: "yes" }, session);
      expect(closed.status).toBe(409);
      const asked = await at(`${path}/give-up`, fieldsOf(page, `${path}/give-up`), session);
      const question = await asked.text();
      expect(question).toContain("Have you made sure that this attempt took no money?");
      expect((await at(`${path}/give-up`, fieldsOf(question, `${path}/give-up`), session)).status).toBe(303);
      const after = await till.gateway.payments.get("shop", payment.id);
      expect([after?.status, after?.needsAttention]).toEqual(["pending", undefined]);
      expect((await at(`${path}/give-up`, fieldsOf(question, `${path}/give-up`), session)).status).toBe(409);
      expect(after && provider.payerStep(after)).toMatchObject({ kind: "actions" });
    } finally {
      await till.close();
    }
  });

  test("a refund of unknown outcome is ended by a person, after confirming", async () => {
    const { world: till, fake, context, pass } = await openSmartpos({ gateway: { admin } });
    try {
      const call = (path: string, init: RequestInit = {}) =>
        till.gateway.handle(new Request(`https://pay.example${path}`, init));
      const { payment } = await till.gateway.payments.create({ merchant: "shop", amountMinor: 50_500n });
      await context.pay(payment);
      context.loseRefundReply?.();
      const { refund } = await till.gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 10_000n });
      fake.confirm();
      await pass(120_000, 30_000);
      const login = await call("/admin/login", { method: "POST", body: new URLSearchParams({ password }) });
      const headers = { cookie: (login.headers.get("set-cookie") ?? "").split(";")[0] ?? "" };
      const path = `/admin/payments/${payment.id}`;
      const post = (fields: Readonly<Record<string, string>>) =>
        call(`${path}/settle-refund`, { method: "POST", headers, body: new URLSearchParams(fields) });
      const page = await (await call(path, { headers })).text();
      expect(page).toContain("The refund of 100.00 KZT was given back");
      const fields = fieldsOf(page, `${path}/settle-refund`);
      expect(fields).toMatchObject({ refund: refund.id, outcome: "succeeded" });
      expect((await post({ ...fields, outcome: "perhaps" })).status).toBe(400);
      const question = await (await post(fields)).text();
      expect(question).toContain(`that the refund ${refund.id} was given back?`);
      expect((await till.gateway.payments.get("shop", payment.id))?.refundedMinor).toBe(0n);
      expect((await post(fieldsOf(question, `${path}/settle-refund`))).status).toBe(303);
      expect((await post(fieldsOf(question, `${path}/settle-refund`))).status).toBe(409);
      expect(await till.gateway.payments.get("shop", payment.id)).toMatchObject({
        refundedMinor: 10_000n,
        refundingMinor: 0n,
      });
      expect(await (await call(path, { headers })).text()).not.toContain("settle-refund");
    } finally {
      await till.close();
    }
  });

  test("money that a person found at the terminal is recorded once, after confirming", async () => {
    const { world: till, fake, pass } = await openSmartpos({ gateway: { admin } });
    try {
      const call = (path: string, init: RequestInit = {}) =>
        till.gateway.handle(new Request(`https://pay.example${path}`, init));
      const { payment } = await till.gateway.payments.create({ merchant: "shop", amountMinor: 50_500n });
      fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("/v2/payment") });
      await call(`/providers/kaspi-smartpos/${payment.id}`, {
        method: "POST",
        body: new URLSearchParams({ action: "pay" }),
      });
      fake.confirm();
      await pass(1_000);
      const login = await call("/admin/login", { method: "POST", body: new URLSearchParams({ password }) });
      const headers = { cookie: (login.headers.get("set-cookie") ?? "").split(";")[0] ?? "" };
      const path = `/admin/payments/${payment.id}/record`;
      const page = await (await call(`/admin/payments/${payment.id}`, { headers })).text();
      const record = (fields: Readonly<Record<string, string>>) =>
        call(path, { method: "POST", headers, body: new URLSearchParams(fields) });
      const { csrf = "" } = fieldsOf(page, path);
      const transaction = fake.transactions[0]?.transactionId ?? "";
      expect((await record({ csrf, transaction: "<b>", amount: "505" })).status).toBe(400);
      expect((await record({ csrf, transaction, amount: "1e3" })).status).toBe(400);
      const question = await (await record({ csrf, transaction, amount: "505" })).text();
      expect(question).toContain(`Record 505.00 KZT as paid by transaction ${transaction}?`);
      const answers = await Promise.all(Array.from({ length: 5 }, () => record(fieldsOf(question, path))));
      expect(answers.map(({ status }) => status).sort()).toEqual([303, 409, 409, 409, 409]);
      const paid = await till.gateway.payments.get("shop", payment.id);
      expect([paid?.status, paid?.paidMinor, paid?.needsAttention]).toEqual(["paid", 50_500n, undefined]);
      await pass(26 * 3_600_000, 3_600_000);
      expect((await till.gateway.payments.get("shop", payment.id))?.paidMinor).toBe(50_500n);
    } finally {
      await till.close();
    }
  });

  test.each([
    ["the process ends", 500],
    ["the attempt is asked about, which finds the money too,", 409],
  ] as const)("money is recorded once although %s at that moment", async (_what, status) => {
    let meanwhile: (() => Promise<unknown>) | undefined;
    const {
      world: till,
      fake,
      pass,
    } = await openSmartpos({
      gateway: { admin },
      async storageFor(clock) {
        const storage = createPaymentGatewayMemoryStorage({ clock });
        const change: typeof storage.change = async (id, decide, key) => {
          const now = meanwhile;
          meanwhile = undefined;
          if (status === 409) await now?.();
          const result = await storage.change(id, decide, key);
          if (status === 500) await now?.();
          return result;
        };
        return { ...storage, change };
      },
    });
    try {
      const { gateway, clock } = till;
      const call = (path: string, headers: Record<string, string>, fields?: Readonly<Record<string, string>>) =>
        gateway.handle(
          new Request(`https://pay.example${path}`, {
            headers,
            ...(fields ? { method: "POST", body: new URLSearchParams(fields) } : {}),
          }),
        );
      const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_500n });
      await call(`/providers/kaspi-smartpos/${payment.id}`, {}, { action: "pay" });
      fake.lose("success");
      await pass(30_000, 1_000);
      const login = await call("/admin/login", {}, { password });
      const headers = { cookie: (login.headers.get("set-cookie") ?? "").split(";")[0] ?? "" };
      const path = `/admin/payments/${payment.id}/record`;
      const { csrf = "" } = fieldsOf(await (await call(`/admin/payments/${payment.id}`, headers)).text(), path);
      meanwhile = async () => {
        if (status === 500) throw new Error("the process ends");
        fake.heal();
        clock.advance(10_000);
        await gateway.work();
      };
      const fields = { csrf, transaction: "100000000002", amount: "505.00", confirmed: "yes" };
      expect((await call(path, headers, fields)).status).toBe(status);
      fake.heal();
      await pass(60_000, 1_000);
      const { bookings } = await till.storage.historyOf(payment.id);
      expect([(await gateway.payments.get("shop", payment.id))?.paidMinor, bookings.length]).toEqual([50_500n, 1]);
    } finally {
      await till.close();
    }
  });

  test("a refund that waits for the buyer says what he must scan", async () => {
    const { world: shop, context } = await openQr({ scheme: "r2", gateway: { admin } });
    try {
      const call = (path: string, init: RequestInit = {}) =>
        shop.gateway.handle(new Request(`https://pay.example${path}`, init));
      const login = await call("/admin/login", { method: "POST", body: new URLSearchParams({ password }) });
      const headers = { cookie: (login.headers.get("set-cookie") ?? "").split(";")[0] ?? "" };
      const { payment } = await shop.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
      await context.pay(payment);
      await shop.gateway.payments.refund({ merchant: "shop", id: payment.id });
      const page = await (await call(`/admin/payments/${payment.id}`, { headers })).text();
      expect(page).toContain("pending, the buyer scans https://qr.kaspi.kz/");
    } finally {
      await shop.close();
    }
  });
});

test("health draws payments and webhook tries by day, as pictures and as tables", async () => {
  world.clock.advance(86_400_000);
  await logIn();
  const id = await create({ webhook_url: world.receiverUrl, webhook_secret: "test_secret_key" });
  await create();
  world.receiver.failNext(1);
  await world.press(id, "pay");
  await world.gateway.work();
  world.clock.advance(5_000);
  await world.gateway.work();
  const { html } = await open("/admin/health");
  const [payments = "", tries = ""] = [...html.matchAll(/<figure>[\s\S]*?<\/figure>/g)].map(([figure]) => figure);
  // 2 November 2026, the day after the clock of the tests begins.
  expect(payments).toContain("<tr><td>02.11</td><td>2</td><td>1</td></tr>");
  expect(payments).toContain("<title>02.11: 1 paid</title>");
  expect(tries).toContain("<tr><td>02.11</td><td>1</td><td>1</td></tr>");
  expect([...html.matchAll(/<svg [^>]*role="img"/g)]).toHaveLength(2);
  expect(payments.match(/<rect /g)).toHaveLength(28);
});

const executablePath = findChromium();
test.skipIf(!executablePath)(
  "in a browser: hostile metadata stays text, a payment is found, refunded and its webhook sent again",
  async () => {
    let handle: FetchHandler = async () => new Response(null, { status: 503 });
    const listening = await listen((request) => handle(request));
    const gateway = createPaymentGateway({
      storage: createPaymentGatewayMemoryStorage(),
      providers: [createSandboxProvider()],
      publicUrl: listening.url,
      admin,
      webhooks: { allowAddresses: ["127.0.0.1"] },
      logger: silentLogger,
    });
    handle = gateway.handle;
    const browser = await chromium.launch({
      executablePath: executablePath as string,
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"],
    });
    try {
      const { payment } = await gateway.payments.create({
        merchant: "shop",
        amountMinor: 50_000n,
        description: hostile,
        metadata: JSON.stringify({ [hostile]: hostile, order_id: "A-17" }),
        webhookUrl: world.receiverUrl,
        webhookSecret: "test_secret_key",
      });
      await handle(
        new Request(`${listening.url}/providers/sandbox/${payment.id}`, {
          method: "POST",
          body: new URLSearchParams({ action: "pay" }),
        }),
      );
      await gateway.work();
      const page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
      const problems: string[] = [];
      page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
      page.on("pageerror", (error) => problems.push(error.message));
      page.on("dialog", (dialog) => problems.push(dialog.message()));
      await page.goto(`${listening.url}/admin`);
      await page.getByLabel("Password").fill(password);
      await page.getByRole("button", { name: "Log in" }).click();
      await page.getByLabel("Search").fill("A-17");
      await page.getByRole("button", { name: "Show" }).click();
      await page.getByRole("link", { name: payment.id }).click();
      expect(await page.locator("pre").first().textContent()).toBe(payment.metadata);
      expect(await page.locator("img, script").count()).toBe(0);
      await page.getByLabel("Sum to refund").fill("100");
      await page.getByRole("button", { name: "Refund" }).click();
      await page.getByText("Give 100.00 KZT back to the payer?").waitFor();
      await page.getByRole("button", { name: "Yes, refund" }).click();
      await page.getByText("100.00 KZT: succeeded").waitFor();
      await page.getByRole("button", { name: "Send again" }).first().click();
      await page.getByRole("heading", { name: "Webhooks" }).waitFor();
      expect(await page.title()).toBe(`Payment ${payment.id}`);
      await gateway.work();
      expect(world.receiver.requests.length).toBeGreaterThanOrEqual(2);
      mkdirSync(join(import.meta.dirname, "../../../test-artifacts"), { recursive: true });
      await page.screenshot({ path: join(import.meta.dirname, "../../../test-artifacts/gateway-admin.png") });
      await page.getByRole("link", { name: "Health" }).click();
      await page.getByRole("heading", { name: "Health" }).waitFor();
      expect(await page.locator("svg rect.bad").last().isVisible()).toBe(true);
      await page.screenshot({
        path: join(import.meta.dirname, "../../../test-artifacts/gateway-admin-health.png"),
        fullPage: true,
      });
      await page.getByRole("button", { name: "Log out" }).click();
      await page.getByLabel("Password").waitFor();
      expect(problems).toEqual([]);
    } finally {
      await browser.close();
      await gateway.close();
      await listening.close();
    }
  },
);
