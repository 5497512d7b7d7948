import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@orderbridge/core";
import { createCipher, openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, expect, test } from "vitest";
import { runCommandLine } from "../src/cli-commands.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeReceiver, type FakeReceiver } from "../src/testing/index.ts";
import { signTestWebhook } from "../src/webhooks/index.ts";

let folder: string;
let url: string;
let receiver: FakeReceiver;
const closing: (() => Promise<void>)[] = [];
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-gateway-cli-"));
  url = `sqlite:${join(folder, "gateway.db")}`;
  receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
});
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  rmSync(folder, { recursive: true, force: true });
});

const run = (...args: readonly string[]) => runWith({}, ...args);

async function runWith(variables: Readonly<Record<string, string>>, ...args: readonly string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCommandLine(args, {
    variables: { DATABASE_URL: url, WEBHOOK_ALLOW_ADDRESSES: "127.0.0.1", ...variables },
    out: (text) => out.push(text),
    err: (text) => err.push(text),
    signal: AbortSignal.abort(),
  });
  return { code, out: out.join("\n"), err: err.join("\n") };
}

async function open() {
  await run("migrate");
  const database = await openDatabase(url);
  const listening = await listen(receiver.handle);
  const storage = createPaymentGatewayStorage(database);
  const gateway = createPaymentGateway({
    storage,
    providers: [createSandboxProvider()],
    publicUrl: "https://pay.example",
    webhooks: { allowAddresses: ["127.0.0.1"] },
    retryDelaysMs: [],
    breaker: { failures: 1 },
    logger: silentLogger,
  });
  closing.push(database.close, () => listening.close(), gateway.close);
  return { gateway, storage, receiverUrl: listening.url };
}

test("migrate makes the tables, doctor finds nothing in an empty database, and the help names every command", async () => {
  expect((await run("migrate")).code).toBe(0);
  expect(await run("doctor")).toMatchObject({ code: 0, out: expect.stringContaining("nothing needs a person") });
  const { out } = await run("--help");
  for (const command of [
    "doctor",
    "migrate",
    "reencrypt",
    "payment",
    "resend",
    "dismiss",
    "unblock",
    "token",
    "endpoint",
    "secret",
    "prune",
    "erase",
  ]) {
    expect(out).toContain(`\n  ${command}`);
  }
});

test("a mistyped path is told and makes no file: only migrate makes a database", async () => {
  const path = join(folder, "gateway.db");
  for (const command of [["doctor"], ["payment", "p"], ["token", "list"], ["prune"], ["erase", "--payment", "p"]]) {
    expect(await run(...command), command.join(" ")).toEqual({
      code: 2,
      out: "",
      err: `cannot run: there is no database file ${path}; check DATABASE_URL`,
    });
  }
  expect(existsSync(path)).toBe(false);
  expect((await run("migrate")).code).toBe(0);
  expect((await run("doctor")).code).toBe(0);
});

test("a wrong command, option or variable is named, with exit code 2 and without a stack", async () => {
  await run("migrate");
  expect(await run("refund")).toMatchObject({ code: 2, err: expect.stringContaining("there is no command refund") });
  expect(await run("prune", "--days", "soon")).toMatchObject({
    code: 2,
    err: expect.stringContaining("--days must be"),
  });
  expect((await run("doctor", "--what")).err).toContain("--what");
  const code = await runCommandLine(["doctor"], {
    variables: {},
    out: () => undefined,
    err: (text) => expect(text).toMatch(/^DATABASE_URL is missing/),
    signal: AbortSignal.abort(),
  });
  expect(code).toBe(2);
});

test("a token that was made works with its scopes until it is revoked", async () => {
  const { gateway } = await open();
  const { out } = await run("token", "create", "--merchant", "shop", "--scopes", "read");
  const [, id = "", token = ""] = /^(tok_\S+): (obk_\S+)$/.exec(out) ?? [];
  const ask = async (path: string, method = "GET") =>
    (await gateway.handle(new Request(`https://pay.example${path}`, { method, headers: { "x-api-token": token } })))
      .status;
  expect([await ask("/api/payments"), await ask("/api/payment/init", "POST")]).toEqual([200, 403]);
  expect((await run("token", "list")).out).toMatch(new RegExp(`^${id} of shop, read, made 20`));
  expect((await run("token", "revoke", id)).code).toBe(0);
  expect(await ask("/api/payments")).toBe(401);
  expect((await run("token", "revoke", id)).code).toBe(1);
  expect(await run("token", "create", "--merchant", "shop", "--scopes", "all")).toMatchObject({ code: 2 });
});

test("a receiver that failed is told by doctor, unblocked, and gets the webhook again", async () => {
  const { gateway, receiverUrl } = await open();
  const { payment } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 50_000n,
    webhookUrl: `${receiverUrl}/hook`,
    webhookSecret: "test_secret_key",
  });
  receiver.failNext(1);
  await gateway.payments.cancel("shop", payment.id);
  await gateway.work();
  const told = await run("doctor");
  expect(told.code).toBe(1);
  expect(told.out).toContain("! 1 webhooks were given up");
  const [, givenUp = ""] =
    /^given up: (evt_\S+) of payment (\S+), to 127.0.0.1:\d+ of shop: http_500$/m.exec(told.out) ?? [];
  expect(told.out).toContain(`unblock --merchant shop --origin ${receiverUrl}`);
  expect(await run("unblock", "--merchant", "shop", "--origin", receiverUrl)).toMatchObject({ code: 0 });
  expect(await run("unblock", "--merchant", "shop", "--origin", receiverUrl)).toMatchObject({ code: 1 });
  const shown = await run("payment", payment.id);
  const [, eventId = ""] = /event (evt_\S+): cancelled/.exec(shown.out) ?? [];
  expect(givenUp).toBe(eventId);
  expect(shown.out).toContain("to its own address: exhausted");
  expect(shown.out).toContain("try 1 at");
  expect(await run("resend", eventId)).toMatchObject({ code: 0, out: "due at once: 1" });
  await gateway.work();
  expect(receiver.accepted).toHaveLength(1);
  expect(await run("resend", "evt_none")).toMatchObject({ code: 1 });
  expect(await run("doctor")).toMatchObject({ code: 0, out: expect.not.stringContaining("given up:") });
  expect(await run("payment", "nobody")).toMatchObject({ code: 1 });
});

test("webhooks that were given up are sent again all at once, or dismissed", async () => {
  const { gateway, receiverUrl } = await open();
  const cancelled = async (merchant: string) => {
    const { payment } = await gateway.payments.create({
      merchant,
      amountMinor: 50_000n,
      webhookUrl: `${receiverUrl}/hook`,
      webhookSecret: "test_secret_key",
    });
    receiver.failNext(1);
    await gateway.payments.cancel(merchant, payment.id);
    await gateway.work();
    await run("unblock", "--merchant", merchant, "--origin", receiverUrl);
  };
  for (const merchant of ["shop", "shop", "other"]) await cancelled(merchant);
  receiver.failNext(0);
  expect(await run("resend", "--given-up", "--merchant", "nobody")).toMatchObject({ code: 1, out: "due at once: 0" });
  expect(await run("resend", "--given-up", "--merchant", "shop")).toMatchObject({ code: 0, out: "due at once: 2" });
  await gateway.work();
  expect(receiver.accepted).toHaveLength(2);
  const { out } = await run("doctor");
  const [, last = ""] = /^given up: (evt_\S+) of payment \S+, to \S+ of other: http_500$/m.exec(out) ?? [];
  expect(await run("dismiss", last)).toMatchObject({ code: 0, out: "dismissed: 1" });
  expect(await run("dismiss", last)).toMatchObject({ code: 1 });
  expect(await run("doctor")).toMatchObject({ code: 0, out: expect.stringContaining("nothing needs a person") });
});

test("resend --given-up leaves alone what was taken of the same event", async () => {
  const { gateway, receiverUrl } = await open();
  const secret = "test_secret_key";
  await gateway.endpoints.add({ merchant: "shop", url: `${receiverUrl}/all`, secret });
  const { payment } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 50_000n,
    webhookUrl: `${receiverUrl}/hook`,
    webhookSecret: secret,
  });
  receiver.failNext(1);
  await gateway.payments.cancel("shop", payment.id);
  await gateway.work();
  await run("unblock", "--merchant", "shop", "--origin", receiverUrl);
  expect(receiver.requests).toHaveLength(2);
  expect(await run("resend", "--given-up")).toMatchObject({ code: 0, out: "due at once: 1" });
  await gateway.work();
  expect(receiver.requests).toHaveLength(3);
  const deliveries = await gateway.payments.deliveries("shop", payment.id);
  expect(deliveries.map(({ state, attempts }) => [state, attempts]).sort()).toEqual([
    ["delivered", 1],
    ["delivered", 2],
  ]);
});

test("options that contradict each other are refused before anything happens", async () => {
  const { gateway, storage } = await open();
  const metadata = '{"phone":"+7 701 123 45 67"}';
  const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100n, metadata });
  for (const args of [
    ["erase", "--payment", payment.id, "--phone", "87011234567"],
    ["resend", "evt_1", "--given-up"],
    ["resend", "evt_1", "--merchant", "shop"],
    ["resend", "evt_1", "evt_2"],
    ["dismiss", "evt_1", "evt_2"],
    ["doctor", "now"],
  ]) {
    const { code, out } = await run(...args);
    expect([args, code, out]).toEqual([args, 2, ""]);
  }
  expect((await storage.getPayment(payment.id))?.metadata).toBe(metadata);
});

test("what waited for an endpoint that was removed on purpose is no trouble, and doctor names every payment that needs a person", async () => {
  const { gateway, storage, receiverUrl } = await open();
  const { endpoint } = await gateway.endpoints.add({ merchant: "shop", url: `${receiverUrl}/all` });
  const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100n });
  await gateway.payments.cancel("shop", payment.id);
  expect((await storage.health()).pending).toBe(1);
  await run("endpoint", "remove", endpoint.id, "--merchant", "shop");
  await gateway.work();
  expect((await run("doctor")).code).toBe(0);
  await storage.change(payment.id, (current) => ({ payment: { ...current, needsAttention: "look at the terminal" } }));
  expect(await run("doctor")).toMatchObject({
    code: 1,
    out: expect.stringContaining(`! payment ${payment.id}: look at the terminal`),
  });
});

test.each([
  ["endpoint disable", "--secret", "my_own_secret_key"],
  ["endpoint list", "--overlap-hours", "1"],
  ["token create", "--secret", "my_own_secret_key"],
  ["prune", "--payment", "abc"],
  ["erase", "--days", "7"],
  ["doctor", "--merchant", "shop"],
  ["resend", "--origin", "https://shop.example"],
])("%s does not take %s, and does nothing then", async (command, option, value) => {
  await run("migrate");
  expect(await run(...command.split(" "), option, value)).toMatchObject({
    code: 2,
    err: expect.stringContaining(`${command} does not take ${option}`),
  });
});

test("a secret of one's own is taken where one is set", async () => {
  const { gateway, receiverUrl } = await open();
  const own = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";
  const other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const added = await run("endpoint", "add", "--merchant", "shop", "--url", `${receiverUrl}/all`, "--secret", own);
  const [id = "", shown] = added.out.split(": ");
  expect(shown).toBe(own);
  expect((await run("endpoint", "rotate", id, "--merchant", "shop", "--secret", other)).out).toBe(other);
  expect((await run("secret", "rotate", "--merchant", "shop", "--secret", own)).out).toBe(own);
  const created = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 100n,
    webhookUrl: "https://a.example/",
  });
  expect(created.webhookSecret).toBe(own);
  expect(await run("secret", "rotate", "--merchant", "shop", "--secret", "short")).toMatchObject({ code: 1 });
});

test("endpoints are added, rotated and switched off; an address inside the network is refused", async () => {
  const { gateway, receiverUrl } = await open();
  const added = await run("endpoint", "add", "--merchant", "shop", "--url", `${receiverUrl}/all`);
  const [, id = ""] = /^(we_\S+): whsec_\S+$/.exec(added.out) ?? [];
  expect((await run("endpoint", "rotate", id, "--merchant", "shop")).out).toMatch(/^whsec_\S+$/);
  expect((await run("endpoint", "disable", id, "--merchant", "shop")).code).toBe(0);
  expect((await run("endpoint", "list", "--merchant", "shop")).out).toBe(`${id}: disabled, ${receiverUrl}/all`);
  expect((await gateway.endpoints.list("shop")).length).toBe(1);
  expect((await run("endpoint", "remove", id, "--merchant", "other")).code).toBe(1);
  expect((await run("endpoint", "remove", id, "--merchant", "shop")).code).toBe(0);
  expect(await run("endpoint", "add", "--merchant", "shop", "--url", "https://10.0.0.1/")).toMatchObject({
    code: 1,
    err: "cannot run: url names an address that is not allowed",
  });
});

test("a merchant's own secret is replaced, and shown once; without --merchant nothing happens", async () => {
  const { gateway, storage } = await open();
  const before = await storage.merchantSecret("shop", "former_secret_key");
  const { code, out } = await run("secret", "rotate", "--merchant", "shop", "--overlap-hours", "1");
  expect([code, out]).toEqual([0, expect.stringMatching(/^whsec_[A-Za-z0-9+/]{24,}=*$/)]);
  expect(before).not.toBe(out);
  const { webhookSecret } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 100n,
    webhookUrl: "https://shop.example/hook",
  });
  expect(webhookSecret).toBe(out);
  expect(await run("secret", "rotate")).toMatchObject({
    code: 2,
    err: expect.stringContaining("--merchant is needed"),
  });
  expect(await run("secret", "show", "--merchant", "shop")).toMatchObject({ code: 2 });
});

test("erase --phone finds a phone however it is written, and leaves other payments and the money alone", async () => {
  const { gateway, storage } = await open();
  const create = async (metadata: object, description = "") =>
    (
      await gateway.payments.create({
        merchant: "shop",
        amountMinor: 100n,
        metadata: JSON.stringify(metadata),
        description,
      })
    ).payment.id;
  const his = [
    await create({ buyer: { phone: "+7 (701) 123-45-67", name: "Әлия" } }),
    await create({ phone: 87011234567 }),
    await create({}, "Звонить 8 701 123 45 67"),
    await create({ phone: "+7\u00A0701\u00A0123\u201345\u201367" }),
    await create({}, "8.701/123_45_67\u200B, до обеда"),
  ];
  const other = await create({ phone: "+7 701 123 45 68" });
  const { code, out } = await run("erase", "--phone", "8-701-123-45-67");
  expect(code).toBe(0);
  expect(out.split("\n").sort()).toEqual(his.map((id) => `payment ${id}: erased`).sort());
  for (const id of his)
    expect(await storage.getPayment(id)).toMatchObject({ metadata: "{}", description: "", amountMinor: 100n });
  expect((await storage.getPayment(other))?.metadata).toContain("+7 701 123 45 68");
  expect(await run("erase", "--phone", "8-701-123-45-67")).toMatchObject({
    code: 1,
    out: "no payment holds this phone",
  });
  expect(await run("erase", "--payment", other)).toMatchObject({ code: 0 });
  expect(await run("erase", "--payment", "nobody")).toMatchObject({ code: 1 });
});

test("prune leaves what is not old enough", async () => {
  await open();
  expect(await run("prune")).toMatchObject({
    code: 0,
    out: "payments of which a tombstone is left: 0, idempotency keys deleted: 0",
  });
});

test("receive verifies what arrives and prints it; fake serves a provider", async () => {
  const lines: string[] = [];
  const stopping = new AbortController();
  const ended = runCommandLine(["receive", "--secret", "test_secret_key", "--port", "0"], {
    variables: {},
    out: (text) => lines.push(text),
    err: (text) => lines.push(text),
    signal: stopping.signal,
  });
  await expect.poll(() => lines.length).toBe(1);
  const address = lines[0]?.replace("listening on ", "") ?? "";
  const { headers, body } = signTestWebhook({ secret: "test_secret_key" });
  expect((await fetch(address, { method: "POST", headers, body })).status).toBe(204);
  expect((await fetch(address, { method: "POST", headers, body: `${body} ` })).status).toBe(400);
  expect(lines.slice(1)).toEqual([`verified: ${body}`, `refused, mismatch: ${body} `]);
  stopping.abort();
  expect(await ended).toBe(0);
  expect(await run("fake", "kaspi-qr", "--port", "0")).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^listening on/),
  });
  expect(await run("fake", "bank")).toMatchObject({ code: 2 });
});

test("reencrypt puts webhook secrets under the first key, and says which key is missing otherwise", async () => {
  const keyOf = (id: string, fill: number) => `${id}:${Buffer.alloc(32, fill).toString("base64")}`;
  const { storage } = await open();
  await storage.merchantSecret("shop", "a secret in the clear");
  expect(await run("reencrypt")).toMatchObject({ code: 2, err: expect.stringContaining("ENCRYPTION_KEYS is missing") });
  const encrypted = await runWith({ ENCRYPTION_KEYS: keyOf("a", 1) }, "reencrypt");
  expect(encrypted).toMatchObject({ code: 0, out: expect.stringContaining("encrypted anew: 1\n") });
  const lost = await runWith({ ENCRYPTION_KEYS: keyOf("b", 2) }, "reencrypt");
  expect(lost).toMatchObject({ code: 1, out: expect.stringContaining("1 secrets do not open") });
  expect(lost.out).toContain('the key "a"');
});

test("reencrypt says that servers need the new key first, and a second run finds what one without it stored", async () => {
  const keyOf = (id: string, fill: number) => `${id}:${Buffer.alloc(32, fill).toString("base64")}`;
  await open();
  const database = await openDatabase(url);
  closing.push(database.close);
  const server = (keys: string) => createPaymentGatewayStorage({ ...database, cipher: createCipher({ keys }) });
  const reencrypt = () => runWith({ ENCRYPTION_KEYS: `${keyOf("b", 2)},${keyOf("a", 1)}` }, "reencrypt");
  const formerly = server(keyOf("a", 1));
  await formerly.merchantSecret("shop", "secret of the shop");
  const told = [
    "older keys may go if every server had the new one in front before this run; else restart them and run this again",
    "tokens of createKyselyStorage are not among these: npx orderbridge reencrypt",
  ];
  expect(await reencrypt()).toMatchObject({
    code: 0,
    out: ["webhook secrets encrypted anew: 1", ...told].join("\n"),
  });
  await formerly.merchantSecret("other", "secret of the other"); // it was not restarted yet
  const restarted = server(keyOf("b", 2));
  await expect(restarted.merchantSecret("other", "")).rejects.toThrow('the key "a"');
  expect(await reencrypt()).toMatchObject({
    code: 0,
    out: ["webhook secrets encrypted anew: 1", ...told].join("\n"),
  });
  expect(await restarted.merchantSecret("other", "")).toBe("secret of the other");
  expect(await restarted.merchantSecret("shop", "")).toBe("secret of the shop");
});

test("doctor tells of payments whose provider no server has", async () => {
  const { gateway, storage } = await open();
  const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100n });
  await storage.scheduleCheck(payment.id, { delayMs: -3_600_000 });
  expect(await run("doctor")).toMatchObject({
    code: 1,
    out: expect.stringContaining("1 payments of sandbox have waited for a check for up to 60 min"),
  });
});
