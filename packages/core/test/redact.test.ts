import fc from "fast-check";
import { expect, test } from "vitest";
import { redact, redactingLogger, redactText } from "../src/index.ts";

test.each([
  ["call to https://shop.bitrix24.kz/rest/1/abc123def/crm.deal.list failed", "abc123def"],
  ["postgres://user:pa55word@db/shop https://user:pa55word@host/", "pa55word"],
  ["GET /cron?task=new&token=s3cr3tvalue&x=1", "s3cr3tvalue"],
  ["https://x/?access_token=s3cr3tvalue", "s3cr3tvalue"],
  ["https://x/?SignatureValue=s3cr3tvalue", "s3cr3tvalue"],
  ["authorization: Bearer s3cr3t.value-x/y=", "s3cr3t"],
  ["Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"],
  ["token=s3cr3tvalue", "s3cr3tvalue"],
  ['{"access_token": "s3cr3tvalue", "ok": 1}', "s3cr3tvalue"],
  ["password: 's3cr3t value'", "s3cr3t"],
  ["X-Api-Key: s3cr3tvalue", "s3cr3tvalue"],
  ["secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8"],
  ["jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIi"],
  ["buyer +7 701 123-45-67", "123-45-67"],
  ["buyer +77011234567", "77011234567"],
  ["buyer 8 (701) 123 45 67", "123 45"],
  ["buyer 77011234567", "77011234567"],
  ["mail aigul.k+shop@example.kz", "aigul"],
  ['{"body":"{\\"access_token\\":\\"s3cr3t value\\",\\"ok\\":1}"}', "s3cr3t"],
  ["Authorization: Token s3cr3tvalue", "s3cr3tvalue"],
  ['Authorization: Digest username="shop", response="s3cr3tvalue"', "s3cr3tvalue"],
  ["Cookie: a=1; session=s3cr3tvalue", "s3cr3tvalue"],
  ["crc=s3cr3tvalue", "s3cr3tvalue"],
  ["pass=s3cr3tvalue", "s3cr3tvalue"],
  ["credential=s3cr3tvalue", "s3cr3tvalue"],
  ["private_key: s3cr3tvalue", "s3cr3tvalue"],
  ["ENCRYPTION_KEYS=a:s3cr3tvalue", "s3cr3tvalue"],
  ["postgres://user:pa@s3cr3tvalue@db/shop", "s3cr3tvalue"],
  ["POST /amocrm/webhook/s3cr3tvalue answered 404", "s3cr3tvalue"],
  ["https://shop.bitrix24.kz/rest/api/1/s3cr3tvalue/crm.deal.list", "s3cr3tvalue"],
  ["tel77011234567", "77011234567"],
  ["customer_87011234567", "87011234567"],
])("leaves the secret out of %j", (text, secret) => {
  expect(redactText(text)).not.toContain(secret);
});

test.each([
  "kaspi: orders.list answered 503",
  "order 123456789 at 2026-11-01T00:00:00.000Z took 1500 ms",
  "stage C9:WON of deal 4711",
  "id 0193b1b0-7701-4123-8456-7a0123456789",
  "digest 3ce87011234567f0a1b2c3d4e5f60718",
  "https://shop.example:8443/orders?page=2 answered 200",
  "POST /api/v1/webhooks/order-status-sync answered 200",
])("leaves %j as it is", (text) => {
  expect(redactText(text)).toBe(text);
});

test("leaves what follows a quoted secret", () => {
  const text = '{"authorization":"Bearer abc","cookie":"a=1; b=2","status":401}';
  expect(redactText(text)).toBe('{"authorization":[redacted],"cookie":[redacted],"status":401}');
});

test("drops values under secret names at any depth, and keeps the rest", () => {
  const fields = {
    status: 503,
    nested: [{ accessToken: "a", api_key: "b", Password1: "c", phone: "d", "x-webhook-signature": "e", orderId: "7" }],
    total: 12n,
  };
  expect(redact(fields)).toEqual({
    status: 503,
    nested: [
      {
        accessToken: "[redacted]",
        api_key: "[redacted]",
        Password1: "[redacted]",
        phone: "[redacted]",
        "x-webhook-signature": "[redacted]",
        orderId: "7",
      },
    ],
    total: "12",
  });
});

test("a phone that came as a number is none in the log, other numbers stay", () => {
  const fields = { customer: 77011234567, other: 87011234567n, status: 503, at: 1793527200000, share: 0.5 };
  expect(redact(fields)).toEqual({ ...fields, customer: "[phone]", other: "[phone]" });
});

test("ends in circles, depths and long texts", () => {
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  expect(JSON.stringify(redact(circle))).toContain("[deep]");
  expect((redact("x".repeat(10_000)) as string).length).toBeLessThan(2100);
});

test.each(["?token", "&code", "a", "7", "7 ", "a.", "token='", "eyJ-", "/rest/1", "a@", "x://", "+7", " "])(
  "takes no time over a megabyte of %j, in a text or in the message of an error",
  (piece) => {
    const text = piece.repeat(Math.ceil(1_000_000 / piece.length));
    const startedAt = performance.now();
    const shown = [
      redactText(text),
      (redact({ error: new Error(text) }) as { error: { message: string } }).error.message,
    ];
    expect(performance.now() - startedAt).toBeLessThan(100);
    for (const one of shown) expect(one.length).toBeLessThan(20_000);
  },
);

test.each([
  (secret: string) => `https://merchant:${secret}@api.example/x`,
  (secret: string) => `{"token":"${secret} ${secret}"}`,
  (secret: string) => `password: '${secret} ${secret}'`,
  (secret: string) => `Authorization: Basic ${secret}`,
  (secret: string) => `https://shop.bitrix24.kz/rest/17/${secret}/profile`,
  (secret: string) => `${secret}@example.kz`,
  () => "+7 701 123 45 67",
])("a cut through a secret shows no part of it (%#)", (put) => {
  const secret = "qZ7wXv3KpLm9RtYb";
  const planted = put(secret);
  for (let at = 0; at <= planted.length; at++) {
    for (const filler of ["и ", '","', "x"]) {
      const before = filler.repeat(2000).slice(0, 2000 - at - 1);
      const shown = redactText(`${before} ${planted} and more ${"y".repeat(100)}`).slice(1500);
      expect([shown.includes("qZ7"), shown.includes("701")]).toEqual([false, false]);
    }
  }
});

test("shows an error by its name and its redacted message only", () => {
  const error = new Error("no answer from https://u:pa55@x/", { cause: new Error("token=abc") });
  expect(redact({ error })).toEqual({ error: { name: "Error", message: "no answer from https://[redacted]@x/" } });
});

test("a logger behind it never sees a planted secret", () => {
  const secret = fc.stringMatching(/^[A-Za-z0-9]{16,24}$/).map((text) => `Z${text}`);
  const place = fc.constantFrom<(secret: string) => unknown>(
    (value) => ({ token: value }),
    (value) => ({ deep: [{ clientSecret: value }] }),
    (value) => `https://shop.bitrix24.kz/rest/17/${value}/profile`,
    (value) => `Bearer ${value}`,
    (value) => ({ message: `GET https://api.example/x?a=1&password=${value}&b=2` }),
    (value) => new Error(`{"refresh_token":"${value}"}`),
    (value) => `https://merchant:${value}@api.example/x`,
    (value) => ({ list: ["ok", `Cookie: session; Authorization=${value}`] }),
  );
  fc.assert(
    fc.property(secret, place, fc.string(), (planted, put, noise) => {
      const lines: string[] = [];
      const log = (message: string, fields?: object) => void lines.push(message + JSON.stringify(fields));
      const logger = redactingLogger({ debug: log, info: log, warn: log, error: log });
      const value = put(planted);
      logger.error(typeof value === "string" ? `${noise} ${value}` : noise, { value });
      expect(lines.join()).not.toContain(planted);
    }),
    { seed: 20261101, numRuns: 500 },
  );
});
