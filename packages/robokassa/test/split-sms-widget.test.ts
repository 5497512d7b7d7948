import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createRobokassa, type PaymentForm, type SplitRequest } from "../src/index.ts";
import { signSplit } from "../src/split.ts";
import { createFakeRobokassa, type FakeShop } from "../src/testing/index.ts";
import { availableDigests, foreignDigests } from "./foreign.ts";
import { demoShop } from "./shop-fixture.ts";

function shop(change: Partial<FakeShop> = {}) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const fake = createFakeRobokassa({ ...demoShop, splitAllowed: true, holdAllowed: true, clock, ...change });
  return { fake, clock, robokassa: createRobokassa({ ...demoShop, clock, fetch: fetchFrom(fake.handle) }) };
}

const post = ({ action, fields }: PaymentForm): Request =>
  new Request(action, {
    method: "POST",
    body: new URLSearchParams(fields.map(([name, value]) => [name, value] as [string, string])),
  });

describe("split payments", () => {
  const request = {
    outSum: "1000.00",
    parts: [
      { id: "demo-shop", invId: 9223372036854775807n, amount: "900.00" },
      {
        id: "other-shop",
        amount: "100.00",
        receipt: { items: [{ name: "Қалам", quantity: "1", sum: "100.00", tax: "none" }] },
      },
    ],
  } as const satisfies SplitRequest;

  test("are signed over the raw JSON immediately followed by password 1, without a colon", () => {
    const live = { password1: "live-one", password2: "live-two" };
    // md5sum of {"outAmount":1000}live-one
    expect(signSplit('{"outAmount":1000}', { algorithm: "md5", live })).toBe("59ca41f88f77924fa3d6a36523cabd6e");
  });

  test.each(availableDigests())("carry every field, signed as %s signs them", (program) => {
    const { robokassa } = shop();
    const form = robokassa.splitForm({
      ...request,
      comment: "для склада",
      shopParams: { basket: "77" },
      email: "buyer@example.com",
      incCurrLabel: "BankCardPSR",
      culture: "ru",
      expiresAt: new Date("2026-11-02T00:00:00.000Z"),
    });
    const json =
      '{"outAmount":1000.00,"shop_params":[{"name":"basket","value":"77"}],"email":"buyer@example.com","incCurr":"BankCardPSR",' +
      '"language":"ru","expirationDate":"2026-11-02T00:00:00.000Z","merchant":{"id":"demo-shop","comment":"для склада"},' +
      '"splitMerchants":[{"id":"demo-shop","InvoiceId":9223372036854775807,"amount":900.00},{"id":"other-shop","InvoiceId":0,' +
      '"amount":100.00,"receipt":{"items":[{"name":"Қалам","quantity":1,"sum":100.00,"tax":"none"}]}}]}';
    expect(form).toEqual({
      action: "https://auth.robokassa.ru/Merchant/Payment/CreateV2",
      method: "POST",
      fields: [
        ["Invoice", json],
        ["Signature", foreignDigests[program]("md5", `${json}live-one`)],
      ],
    });
  });

  test("are taken by the service, and refused with another password or without an agreement", async () => {
    const { robokassa, fake } = shop();
    const form = robokassa.splitForm(request);
    expect(await (await fake.handle(post(form))).text()).toContain("Started");
    expect(JSON.parse(fake.splits[0] as string)).toMatchObject({ outAmount: 1000, merchant: { id: "demo-shop" } });
    fake.configure({ splitAllowed: false });
    expect(await (await fake.handle(post(form))).text()).toContain('data-error-code="41"');
    fake.configure({ password1: "another" });
    expect(await (await fake.handle(post(form))).text()).toContain('data-error-code="29"');
  });

  test.each([
    ["outSum", { outSum: 1000 }],
    ["parts", { parts: [] }],
    ["parts", { parts: [{ id: "a", amount: "1000.01" }] }],
    ["parts[0]", { parts: [null] }],
    ["parts[0].amount", { parts: [{ id: "a", amount: "0" }] }],
    ["parts[0].id", { parts: [{ amount: "1.00" }] }],
    ["parts[0].invId", { parts: [{ id: "a", amount: "1.00", invId: "-1" }] }],
    ["receipt.items", { parts: [{ id: "a", amount: "1.00", receipt: request.parts[1].receipt }] }],
    ["shopParams", { shopParams: null }],
    ["shopParams.a", { shopParams: { a: 5 } }],
    ["email", { email: "" }],
    ["culture", { culture: "kk" }],
    ["expiresAt", { expiresAt: new Date(Number.NaN) }],
    ["comment", { comment: "x".repeat(256) }],
  ])("name a wrong %s: %j", (field, change) => {
    const { robokassa } = shop();
    expect(() => robokassa.splitForm({ ...request, ...change } as never)).toThrow(`robokassa: ${field} `);
  });
});

describe("text messages", () => {
  test("are signed over the text as it is, and sent once encoded", async () => {
    const { robokassa, fake } = shop();
    expect(await robokassa.sms.send({ phone: "77010000000", message: "Test 146" })).toEqual({ count: 1 });
    expect(fake.messages).toEqual([{ phone: "77010000000", message: "Test 146" }]);
    // md5sum of demo-shop:77010000000:Test 146:live-one
    expect(fake.journal.entries[0]?.path).toBe(
      "/SMS/?login=demo-shop&phone=77010000000&message=Test+146&signature=3c8d0b3e04b500e992d8d7dd0381bc69",
    );
    await robokassa.sms.send({ phone: "77010000000", message: "Тапсырыс № 146: 100% & төленді" });
    expect(fake.messages[1]?.message).toBe("Тапсырыс № 146: 100% & төленді");
  });

  test("are not sent twice when the reply is lost, and no error holds the phone", async () => {
    const { robokassa, fake } = shop();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    const error = await robokassa.sms.send({ phone: "77010000000", message: "A" }).catch((reason) => reason);
    expect(error).toMatchObject({ name: "RequestError", outcome: "unknown" });
    expect(`${error.message} ${JSON.stringify(error)}`).not.toContain("7701");
    expect(fake.messages).toHaveLength(1);
  });

  test("are refused by name, here and there", async () => {
    const { robokassa, fake } = shop();
    await expect(robokassa.sms.send({ phone: "+7701", message: "A" })).rejects.toMatchObject({ field: "phone" });
    await expect(robokassa.sms.send({ phone: "77010000000", message: "ә".repeat(129) })).rejects.toMatchObject({
      field: "message",
    });
    expect(fake.journal.entries).toHaveLength(0);
    fake.configure({ password1: "another" });
    await expect(robokassa.sms.send({ phone: "77010000000", message: "A" })).rejects.toMatchObject({
      name: "ApiError",
      outcome: "refused",
    });
  });
});

describe("a payment in a frame", () => {
  const request = { invId: "146", outSum: "1000.00", description: "Қалам" } as const;

  test("has the parameters and signature of a payment start, and no password", () => {
    const { robokassa } = shop();
    expect(robokassa.widget(request)).toEqual({
      script: "https://auth.robokassa.ru/Merchant/bundle/robokassa_iframe.js",
      parameters: {
        MerchantLogin: "demo-shop",
        OutSum: "1000.00",
        InvId: "146",
        Description: "Қалам",
        SignatureValue: "8a875f1aabd88bf5a41fc286f54b9f15", // md5sum of demo-shop:1000.00:146:live-one
        Encoding: "utf-8",
      },
    });
  });

  test("names its ways to pay in the settings of Render", () => {
    const { robokassa } = shop();
    const { parameters } = robokassa.widget({ ...request, mode: "modal", paymentMethods: ["BankCard", "SBP"] });
    expect(parameters.Settings).toBe('{"PaymentMethods":["BankCard","SBP"],"Mode":"modal"}');
    expect(parameters.PaymentMethods).toBeUndefined();
    expect(() => robokassa.widget({ ...request, paymentMethods: ["SBP"] })).toThrow("paymentMethods");
    expect(() => robokassa.widget({ ...request, mode: "full" as "modal" })).toThrow("mode");
    expect(() => robokassa.widget({ ...request, token: "14D2" })).toThrow("token");
  });

  test("loads its script from the country's own host", () => {
    expect(createRobokassa({ ...demoShop, country: "kz" }).widget(request).script).toBe(
      "https://auth.robokassa.kz/Merchant/bundle/robokassa_iframe.js",
    );
  });

  test.each(availableDigests())("a form with a free sum has an empty slot for it, as %s signs", (program) => {
    expect(shop().robokassa.freeSumSignature("146")).toBe(foreignDigests[program]("md5", "demo-shop::146:live-one"));
    expect(() => shop().robokassa.freeSumSignature("0")).toThrow("invId");
  });
});

test("a saved card starts at a page of its own, its key in the hash", () => {
  const { robokassa } = shop();
  const link = {
    invId: "146",
    outSum: "1000.00",
    description: "A",
    resultUrl2: "https://shop.example/r2",
    token: "14D2B521",
  };
  const url = new URL(robokassa.paymentUrl(link));
  expect(url.pathname).toBe("/Merchant/Payment/CoFPayment");
  // md5sum of demo-shop:1000.00:146:https://shop.example/r2:14D2B521:live-one
  expect(url.searchParams.get("SignatureValue")).toBe("13fcb27295c8b94f2d390658990336ae");
});
