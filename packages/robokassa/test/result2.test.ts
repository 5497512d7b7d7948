import { execFileSync } from "node:child_process";
import { sign } from "node:crypto";
import { ConfigError, silentLogger } from "@orderbridge/core";
import { createFakeClock } from "@orderbridge/core/testing";
import { beforeAll, describe, expect, test } from "vitest";
import {
  createResult2Handler,
  createRobokassa,
  placeOrder,
  readCertificates,
  type Verification2,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import {
  createFakeCertificate,
  createFakeRobokassa,
  type FakeCertificate,
  type FakeReadings,
} from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

const now = new Date("2026-11-01T10:00:00.000Z");
const robokassa = createRobokassa(demoShop);

let key: FakeCertificate;
let stranger: FakeCertificate;
beforeAll(() => {
  const validity = { validFrom: new Date("2026-06-16T00:00:00.000Z"), validTo: new Date("2027-06-16T00:00:00.000Z") };
  key = createFakeCertificate(validity);
  stranger = createFakeCertificate(validity);
});

const segment = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

function message(
  change: {
    readonly data?: object;
    readonly header?: object;
    readonly jose?: object;
    readonly by?: FakeCertificate;
  } = {},
): string {
  const text = `${segment({ typ: "JWT", alg: "RS256", ...change.jose })}.${segment({
    header: { type: "PaymentStateNotification", version: "1.0.0", timestamp: "1793527200", ...change.header },
    data: {
      shop: "demo-shop",
      opKey: "14D2B521-4EAB-492A-9D91-00D12FF24D57-1NvHENLwgp",
      invId: "146",
      paymentMethod: "BankCard",
      incSum: "1000.00",
      state: "OK",
      ...change.data,
    },
  })}`;
  return `${text}.${sign("sha256", Buffer.from(text), (change.by ?? key).privateKey).toString("base64url")}`;
}

const check = (body: string, certificates = [key], at = now): Verification2 =>
  robokassa.verifyResult2(body, {
    certificates: certificates.flatMap(({ certificate }) => readCertificates(certificate)),
    now: at,
  });

test("the fake's certificate is one that openssl takes, with the validity that was asked for", () => {
  const openssl = (...args: string[]) => execFileSync("openssl", args, { input: key.certificate, encoding: "utf8" });
  expect(openssl("x509", "-noout", "-startdate", "-enddate")).toBe(
    "notBefore=Jun 16 00:00:00 2026 GMT\nnotAfter=Jun 16 00:00:00 2027 GMT\n",
  );
});

test.each([
  ["bare", (body: string) => body],
  ["in quotes", (body: string) => `"${body}"`],
  ["in base64", (body: string) => Buffer.from(body).toString("base64")],
  [
    "in base64 and quotes, with a line break after it",
    (body: string) => `"${Buffer.from(body).toString("base64")}"\r\n`,
  ],
])("takes a message %s", (_case, wrap) => {
  expect(check(wrap(message()))).toEqual({
    ok: true,
    notification: {
      invId: "146",
      opKey: "14D2B521-4EAB-492A-9D91-00D12FF24D57-1NvHENLwgp",
      state: "OK",
      paymentMethod: "BankCard",
      incSum: "1000.00",
      sentAt: now,
    },
  });
});

test("takes a message signed with any certificate of the list", () => {
  expect(check(message({ by: stranger }), [key, stranger]).ok).toBe(true);
});

// The sample of the documents: it can be read, but fits no published key.
const sample =
  "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJoZWFkZXIiOnsidHlwZSI6IlBheW1lbnRTdGF0ZU5vdGlmaWNhdGlvbiIsInZlcnNpb24iOiIxLjAuMCIsInRpbWVzdGFtcCI6IjE2OTA0NTQ5ODAifSwiZGF0YSI6eyJzaG9wIjoicm9iby1kZW1vLXRlc3QiLCJvcEtleSI6IjE0RDJCNTIxLTRFQUItNDkyQS05RDkxLTAwRDEyRkYyNEQ1Ny0xTnZIRU5Md2dwIiwiaW52SWQiOiIxMjM0ODI5IiwicGF5bWVudE1ldGhvZCI6IkJhbmtDYXJkIiwiaW5jU3VtIjoiMTAuMDAiLCJzdGF0ZSI6Ik9LIn19.DaanjJ4A2yaGOppIVEj929MGNWU4jHcjAh4_DnFRJzkqvESbVpN5trGg8OlaftyQEldxeQaTF9ykrS7O1BmhPow0ZRv4GwjJQSwHzCGJUOcyVw507PMnRSAIT4oXq_PtKjqjuHQL_bxQxyGxZORoKhzsDwBYl_nMXsY-R_SCXPfvYRDPeJRRlC-HwQscOzyGN1cBHStuh5-w8qHytpaysVlif_XYK1-Lfa3ZsFjNz-2LENGL4CRmKMA2KhUfhNfNWXSA4J2KykfWznAvaY37T__QQHhDyHuIjsUtstG5Jf2aK2CuJY-i9mBTRkXD0U3Y5Lh7lnJQrkXAMBySRvYigQ";

test.each([
  ["the documents' sample", () => sample, "bad_signature"],
  ["a stranger's signature", () => message({ by: stranger }), "bad_signature"],
  [
    "a changed payload",
    () => message().replace(/\.[\w-]+\./, `.${segment({ header: {}, data: { state: "OK" } })}.`),
    "bad_signature",
  ],
  ["no signature", () => message().replace(/\.[\w-]+$/, "."), "malformed"],
  ["the algorithm none", () => message({ jose: { alg: "none" } }), "wrong_algorithm"],
  ["an HMAC", () => message({ jose: { alg: "HS256" } }), "wrong_algorithm"],
  ["another type of token", () => message({ jose: { typ: "JWE" } }), "wrong_algorithm"],
  ["a form", () => "OutSum=1000.00&InvId=146", "malformed"],
  ["nothing", () => "", "malformed"],
  ["another message", () => message({ header: { type: "Other" } }), "wrong_type"],
  ["another shop's message", () => message({ data: { shop: "other" } }), "wrong_shop"],
  ["an unknown state", () => message({ data: { state: "MAYBE" } }), "malformed"],
  ["a number in place of text", () => message({ data: { invId: 146 } }), "malformed"],
  ["no key of the operation", () => message({ data: { opKey: undefined } }), "malformed"],
  // 7 days and 1 s before, 5 min and 1 s after
  ["a replay of last week", () => message({ header: { timestamp: "1792922399" } }), "too_old"],
  ["a message from the future", () => message({ header: { timestamp: "1793527501" } }), "too_new"],
])("refuses %s", (_case, body, reason) => {
  expect(check(body())).toEqual({ ok: false, reason });
});

test("believes no certificate before or after its validity", () => {
  expect(check(message(), [key], new Date("2027-06-16T00:00:01.000Z"))).toEqual({
    ok: false,
    reason: "certificate_expired",
  });
  expect(check(message(), [key], new Date("2026-06-15T23:59:59.000Z"))).toEqual({
    ok: false,
    reason: "certificate_expired",
  });
});

test("refuses certificates that are none, and reads several out of one text", () => {
  expect(() => readCertificates("")).toThrow(ConfigError);
  expect(() => readCertificates([new Uint8Array([1, 2, 3])])).toThrow(ConfigError);
  expect(readCertificates(key.certificate + stranger.certificate)).toHaveLength(2);
  expect(readCertificates([Buffer.from(key.certificate.replace(/-.*-|\n/g, ""), "base64")])).toHaveLength(1);
});

async function shop(
  options: {
    readonly readings?: FakeReadings;
    readonly total?: string;
    readonly hold?: boolean;
    readonly at?: string;
  } = {},
) {
  const clock = createFakeClock(options.at ?? now);
  const storage = createRobokassaMemoryStorage({ clock });
  const warnings: string[] = [];
  let paid = 0;
  const deliver = createResult2Handler({
    robokassa,
    storage,
    certificates: key.certificate,
    clock,
    logger: { ...silentLogger, warn: (text) => warnings.push(text) },
    onPaid: async () => {
      paid++;
    },
  });
  const fake = createFakeRobokassa({
    ...demoShop,
    holdAllowed: true,
    certificate: key,
    clock,
    deliver,
    ...(options.readings ? { readings: options.readings } : {}),
  });
  const { paymentUrl } = await placeOrder({
    robokassa,
    storage,
    id: "order-1",
    total: "1000.00",
    description: "Қалам",
    hold: options.hold ?? false,
    resultUrl2: "https://shop.example/result2",
  });
  return {
    clock,
    storage,
    deliver,
    fake,
    paymentUrl,
    warnings,
    paid: () => paid,
    order: () => storage.orders.get("order-1"),
  };
}

const post = (body: string): Request => new Request("https://shop.example/result2", { method: "POST", body });

describe("the handler", () => {
  test.each(["bare", "quoted", "base64"] as const)(
    "books a payment told by a %s message, once, and keeps its key",
    async (result2Body) => {
      const { fake, paymentUrl, order, deliver, paid } = await shop({ readings: { result2Body } });
      const { delivery2 } = await fake.pay({ url: paymentUrl });
      expect(delivery2).toMatchObject({ status: 200, answer: "OK1", accepted: true });
      expect(await order()).toMatchObject({ status: "paid", opKey: fake.operations[0]?.opKey });
      expect((await deliver(post(delivery2?.body as string))).status).toBe(200);
      expect(paid()).toBe(1);
    },
  );

  test("marks a hold as held, which is not paid", async () => {
    const { fake, paymentUrl, order, paid } = await shop({ hold: true });
    expect((await fake.pay({ url: paymentUrl })).delivery2?.answer).toBe("OK1");
    expect(await order()).toMatchObject({ status: "held", paidAt: undefined });
    expect(paid()).toBe(0);
  });

  test("refuses a sum below the total, and takes one above it: a surcharge", async () => {
    const less = await shop();
    expect((await less.deliver(post(message({ data: { invId: "1", incSum: "999.99" } })))).status).toBe(409);
    expect((await less.order())?.status).toBe("new");
    expect((await less.deliver(post(message({ data: { invId: "1", incSum: "1039.00" } })))).status).toBe(200);
    expect((await less.order())?.status).toBe("paid");
  });

  test("answers 404 to an unknown number and 400 to a forged message, and logs both", async () => {
    const { deliver, storage, order, warnings } = await shop();
    expect((await deliver(post(message()))).status).toBe(404);
    expect((await deliver(post(message({ data: { invId: "1" }, by: stranger })))).status).toBe(400);
    expect((await order())?.status).toBe("new");
    expect((await storage.callbacks.list({ limit: 5 })).map(({ source, verdict }) => [source, verdict])).toEqual([
      ["result2", "bad_signature"],
      ["result2", "unknown_order"],
    ]);
    expect(warnings).toHaveLength(2);
  });

  test("warns 30 days before the last certificate ends", async () => {
    const early = await shop({ at: "2027-05-16T00:00:00.000Z" });
    expect(early.warnings).toEqual([]);
    const late = await shop({ at: "2027-05-18T00:00:00.000Z" });
    expect(late.warnings[0]).toContain("ends on 2027-06-16");
  });

  test("looks at its certificates again each day, and warns when the end comes near", async () => {
    const { clock, deliver, warnings } = await shop({ at: "2027-05-16T00:00:00.000Z" });
    await deliver(post(message()));
    clock.advance(86_400_000);
    expect(warnings.filter((text) => text.includes("certificate"))).toEqual([]);
    clock.advance(86_400_000);
    await deliver(post(message()));
    await deliver(post(message()));
    const [warning, ...others] = warnings.filter((text) => text.includes("certificate"));
    expect([warning, others]).toEqual([expect.stringContaining("ends on 2027-06-16"), []]);
  });

  test("messages that come while the first certificates are loaded wait for them", async () => {
    const storage = createRobokassaMemoryStorage();
    const loads: ((certificate: string) => void)[] = [];
    const deliver = createResult2Handler({
      robokassa,
      storage,
      clock: createFakeClock(now),
      logger: silentLogger,
      certificates: () => new Promise<string>((resolve) => loads.push(resolve)),
    });
    const answers = [deliver(post(message())), deliver(post(message()))];
    await expect.poll(() => loads.length).toBe(1);
    loads[0]?.(key.certificate);
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([404, 404]); // genuine; no such order
    expect(loads).toHaveLength(1);
  });

  test("asks a function for certificates once a day, and keeps those of before when it fails", async () => {
    const clock = createFakeClock(now);
    const storage = createRobokassaMemoryStorage({ clock });
    const answers: (() => Promise<string>)[] = [
      async () => Promise.reject(new Error("the disk is full")),
      async () => stranger.certificate,
      async () => "no certificate",
      async () => key.certificate,
    ];
    let asked = 0;
    const errors: string[] = [];
    const deliver = createResult2Handler({
      robokassa,
      storage,
      clock,
      certificates: async () => (answers[asked++] as () => Promise<string>)(),
      logger: { ...silentLogger, error: (text) => errors.push(text) },
    });
    const status = async (by: FakeCertificate) => (await deliver(post(message({ by })))).status;
    expect([await status(key), asked]).toEqual([500, 1]); // none yet: Robokassa calls again
    expect([await status(stranger), await status(key), asked]).toEqual([404, 400, 2]);
    clock.advance(86_400_000);
    expect([await status(stranger), asked]).toEqual([404, 3]); // those of before
    clock.advance(86_400_000);
    expect([await status(key), await status(stranger), asked]).toEqual([404, 400, 4]);
    expect(errors.filter((text) => text.includes("could not be read"))).toHaveLength(2);
  });
});

describe.each([
  ["bare", "base64"],
  ["base64", "bare"],
] as const)("a shop whose readings say that messages are %s", (result2Body, other) => {
  const set = createRobokassa({ ...demoShop, readings: { result2Body } });
  const wrap = { bare: (text: string) => text, base64: (text: string) => Buffer.from(text).toString("base64") };
  const verify = (body: string): Verification2 =>
    set.verifyResult2(body, { certificates: readCertificates(key.certificate), now });

  test("takes them so, in quotes or not", () => {
    expect(verify(wrap[result2Body](message())).ok).toBe(true);
    expect(verify(`"${wrap[result2Body](message())}"`).ok).toBe(true);
  });

  test("refuses the other form", () => {
    expect(verify(wrap[other](message()))).toEqual({ ok: false, reason: "malformed" });
  });
});
