import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createWebhookSigner } from "@orderbridge/core/signature";
import { Webhook } from "standardwebhooks";
import { expect, test } from "vitest";
import { findProgram } from "../../../scripts/services.ts";
import { signTestWebhook, verifyWebhook } from "../src/webhooks/index.ts";

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const now = () => Date.parse("2026-11-01T00:00:00Z");

test("a test webhook is accepted by verifyWebhook and by standardwebhooks", () => {
  const { headers, body } = signTestWebhook({ secret, webhook: { metadata: { order_id: "7" } }, now });
  const result = verifyWebhook({ headers, body, secrets: [secret], now });
  expect(result).toMatchObject({ ok: true, webhook: { event: "paid", metadata: { order_id: "7" } } });
  const today = signTestWebhook({ secret });
  expect(new Webhook(secret).verify(today.body, { ...today.headers })).toMatchObject({ event: "paid" });
});

test("svix accepts ours and signs what verifyWebhook accepts, also while a secret is being replaced", () => {
  const { Webhook: SvixWebhook } = createRequire(join(import.meta.dirname, "../../../bench/package.json"))("svix");
  const today = signTestWebhook({ secret });
  const svixTakes = (one: string, body: string, headers: object): boolean => {
    try {
      new SvixWebhook(one).verify(body, { ...headers }); // throws when it does not
      return true;
    } catch {
      return false;
    }
  };
  expect(svixTakes(secret, today.body, today.headers)).toBe(true);
  expect(svixTakes(secret, `${today.body} `, today.headers)).toBe(false);
  const next = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";
  const signed = createWebhookSigner({ secrets: [next, secret] })({
    id: "evt_test",
    timestamp: new Date(),
    body: today.body,
  });
  for (const one of [next, secret]) {
    expect(svixTakes(one, today.body, signed)).toBe(true);
    expect(new Webhook(one).verify(today.body, { ...signed })).toMatchObject({ event: "paid" });
  }
  const { body } = signTestWebhook({ secret, now });
  const headers = {
    "webhook-id": "evt_test",
    "webhook-timestamp": String(now() / 1000),
    "webhook-signature": new SvixWebhook(secret).sign("evt_test", new Date(now()), body),
  };
  expect(verifyWebhook({ headers, body, secrets: [secret], now }).ok).toBe(true);
});

test("standardwebhooks signs what verifyWebhook accepts", () => {
  const { body } = signTestWebhook({ secret, now });
  const headers = {
    "webhook-id": "evt_test",
    "webhook-timestamp": String(now() / 1000),
    "webhook-signature": new Webhook(secret).sign("evt_test", new Date(now()), body),
  };
  expect(verifyWebhook({ headers, body, secrets: ["another_secret", secret], now }).ok).toBe(true);
});

test("the older header is the HMAC that openssl computes, and is accepted only when asked for", () => {
  const { headers } = signTestWebhook({ secret: "test_secret_key", now });
  // openssl dgst -sha256 -hmac test_secret_key
  const body = '{"event":"paid","id":"evt_1","transaction_id":"t1"}';
  const old = { "X-Webhook-Signature": "d511f5c7c143f4330114ff2c68d6d3bcd3b997bb04b3045f3b08f6ea913691b8" };
  expect(headers["x-webhook-signature"]).toMatch(/^[0-9a-f]{64}$/);
  expect(verifyWebhook({ headers: old, body, secrets: ["test_secret_key"], now })).toEqual({
    ok: false,
    reason: "missing",
  });
  expect(verifyWebhook({ headers: old, body, secrets: ["test_secret_key"], bodySignature: true, now }).ok).toBe(true);
});

test.skipIf(process.env.REQUIRE_SERVICES !== "1" && findProgram("php") === undefined)(
  "the older header is what PHP's hash_hmac gives, also for a secret that is not ASCII",
  () => {
    for (const key of ["test_secret_key", secret, "Құпия сөз + 100%"]) {
      const { headers, body } = signTestWebhook({ secret: key, webhook: { metadata: { имя: "Әлия" } }, now });
      const php = "echo hash_hmac('sha256', file_get_contents('php://stdin'), $argv[1]);";
      const { stdout } = spawnSync("php", ["-r", php, "--", key], { input: body, encoding: "utf8" });
      expect(headers["x-webhook-signature"]).toBe(stdout);
    }
  },
);

test.each([
  ["a changed body", { body: (text: string) => text.replace("500.00", "900.00") }, "mismatch"],
  ["an old message", { at: 301 }, "too_old"],
  ["a message from the future", { at: -301 }, "too_new"],
  ["another secret", { secrets: ["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] }, "mismatch"],
])("refuses %s", (_name, change: { body?: (text: string) => string; at?: number; secrets?: string[] }, reason) => {
  const { headers, body } = signTestWebhook({ secret, now });
  const result = verifyWebhook({
    headers,
    body: change.body?.(body) ?? body,
    secrets: change.secrets ?? [secret],
    now: () => now() + (change.at ?? 0) * 1000,
  });
  expect(result).toEqual({ ok: false, reason });
});

test.each([
  ["parsed JSON", { event: "paid" }],
  ["nothing, as Express gives without a parser", undefined],
  ["an array of numbers", [123, 125]],
])("a body that is %s is told, with what to do", (_name, body) => {
  const { headers } = signTestWebhook({ secret, now });
  // As somebody without types would call it.
  const verify = verifyWebhook as (request: object) => unknown;
  expect(() => verify({ headers, body, secrets: [secret], now })).toThrow(
    new TypeError("body: give the bytes as they arrived; a body parser has read them, so verify before it"),
  );
});

test("refuses a body that is not ours, and one whose id is not the signed one", () => {
  const sign = (id: string, body: string) => ({
    "webhook-id": id,
    "webhook-timestamp": String(now() / 1000),
    "webhook-signature": new Webhook(secret).sign(id, new Date(now()), body),
  });
  for (const body of ["", "nothing", "[]", "null", '{"id":"evt_1"}']) {
    const result = verifyWebhook({ headers: sign("evt_1", body), body, secrets: [secret], now });
    expect(result).toEqual({ ok: false, reason: "not_json" });
  }
  const body = '{"event":"paid","id":"evt_2","transaction_id":"t"}';
  expect(verifyWebhook({ headers: sign("evt_1", body), body, secrets: [secret], now })).toEqual({
    ok: false,
    reason: "wrong_id",
  });
});
