import { inspect } from "node:util";
import { ConfigError } from "@orderbridge/core";
import { describe, expect, test } from "vitest";
import { createRobokassa, InputError, type PaymentRequest, placeOrder, placeOrderForm } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa } from "../src/testing/index.ts";
import { availableDigests, foreignDigests } from "./foreign.ts";
import { demoShop } from "./shop-fixture.ts";

const robokassa = createRobokassa(demoShop);
const request = { invId: "146", outSum: "1000.00", description: "Заказ 146: қалам" } as const satisfies PaymentRequest;

const fieldsOf = (form: { readonly fields: readonly (readonly [string, string])[] }): Record<string, string> =>
  Object.fromEntries(form.fields);

test("makes a link with every field of the plain case", () => {
  const url = new URL(robokassa.paymentUrl(request));
  expect(url.origin + url.pathname).toBe("https://auth.robokassa.ru/Merchant/Index.aspx");
  expect([...url.searchParams]).toEqual([
    ["MerchantLogin", "demo-shop"],
    ["OutSum", "1000.00"],
    ["InvId", "146"],
    ["Description", "Заказ 146: қалам"],
    ["SignatureValue", "8a875f1aabd88bf5a41fc286f54b9f15"], // md5sum of demo-shop:1000.00:146:live-one
    ["Encoding", "utf-8"],
  ]);
});

test.each([
  ["test mode", { test: true }, "c31c1d85c152e27ead982f2dda974ec2"],
  ["no InvId", { invId: "" }, "42e24c553571a8b70f1df16e1b5eba78"],
  ["hold", { hold: true }, "67f8947c3b390ff3b4cbbc3e16074bc4"],
  ["ResultUrl2, hashed as it is", { resultUrl2: "https://shop.example/r2" }, "d63bdfd57b9a604820e66f161d1a82b9"],
] as const)("signs %s", (_case, change, digest) => {
  expect(fieldsOf(robokassa.paymentForm({ ...request, ...change })).SignatureValue).toBe(digest);
});

test("hashes addresses encoded when readings say so", () => {
  const encoded = createRobokassa({ ...demoShop, readings: { url2Signing: "encoded" } });
  expect(fieldsOf(encoded.paymentForm({ ...request, resultUrl2: "https://shop.example/r2" }))).toMatchObject({
    SignatureValue: "fa8c59362b4a95c796c2206020e66f7f",
    ResultUrl2: "https://shop.example/r2",
  });
});

test.each(availableDigests())("signs every modifier at once in the documented order, as %s does", (program) => {
  const form = robokassa.paymentForm({
    ...request,
    outSumCurrency: "USD",
    userIp: "10.0.0.7",
    receipt: { sno: "osn", items: [{ name: "Қалам", quantity: "2", sum: "1000.00", tax: "vat22" }] },
    hold: true,
    resultUrl2: "https://shop.example/r2",
    successUrl2: { url: "https://shop.example/ok?a=1&b=2", method: "GET" },
    failUrl2: { url: "https://shop.example/no", method: "POST" },
    token: "14D2B521-4EAB-492A-9D91-00D12FF24D57",
    shp: { Shp_user: "5", Shp_cart: "Вася + 1%" },
  });
  const base = [
    "demo-shop:1000.00:146:USD:10.0.0.7",
    "%7B%22sno%22%3A%22osn%22%2C%22items%22%3A%5B%7B%22name%22%3A%22%D2%9A%D0%B0%D0%BB%D0%B0%D0%BC%22%2C%22quantity%22%3A2%2C%22sum%22%3A1000.00%2C%22tax%22%3A%22vat22%22%7D%5D%7D",
    "true:https://shop.example/r2:https://shop.example/ok?a=1&b=2:GET:https://shop.example/no:POST",
    "14D2B521-4EAB-492A-9D91-00D12FF24D57:live-one",
    "Shp_cart=%D0%92%D0%B0%D1%81%D1%8F%20%2B%201%25:Shp_user=5",
  ].join(":");
  expect(fieldsOf(form).SignatureValue).toBe(foreignDigests[program]("md5", base));
  expect(form.action).toBe("https://auth.robokassa.ru/Merchant/Payment/CoFPayment");
});

test("sends a receipt encoded once in the form and twice in the link", () => {
  const receipt = { items: [{ name: "A", quantity: "1", sum: "1000.00", tax: "none" }] };
  const once =
    "%7B%22items%22%3A%5B%7B%22name%22%3A%22A%22%2C%22quantity%22%3A1%2C%22sum%22%3A1000.00%2C%22tax%22%3A%22none%22%7D%5D%7D";
  expect(fieldsOf(robokassa.paymentForm({ ...request, receipt })).Receipt).toBe(once);
  expect(robokassa.paymentUrl({ ...request, receipt })).toContain(`Receipt=${once.replaceAll("%", "%25")}`);
});

test("names every unsigned field", () => {
  const form = robokassa.paymentForm({
    ...request,
    email: "buyer@example.com",
    culture: "en",
    expiresAt: new Date("2026-11-02T03:04:05.000Z"),
    incCurrLabel: "BankCard",
    paymentMethods: ["BankCard", "SBP"],
    recurring: true,
  });
  expect(form.fields.slice(5)).toEqual([
    ["Recurring", "true"],
    ["IncCurrLabel", "BankCard"],
    ["PaymentMethods", "BankCard"],
    ["PaymentMethods", "SBP"],
    ["Culture", "en"],
    ["Encoding", "utf-8"],
    ["Email", "buyer@example.com"],
    ["ExpirationDate", "2026-11-02T03:04:05.000Z"],
  ]);
  expect(fieldsOf(form).SignatureValue).toBe("8a875f1aabd88bf5a41fc286f54b9f15");
});

test("sends Kazakhstan's shops to their own payment page", () => {
  const kz = createRobokassa({ ...demoShop, country: "kz" });
  expect(kz.paymentUrl(request)).toMatch(/^https:\/\/auth\.robokassa\.kz\/Merchant\/Index\.aspx\?/);
});

test("replaces the origin only when an address of the API is given", () => {
  const local = createRobokassa({ ...demoShop, apiUrl: "http://127.0.0.1:4100/ignored" });
  expect(local.paymentUrl(request)).toMatch(/^http:\/\/127\.0\.0\.1:4100\/Merchant\/Index\.aspx\?/);
});

test("carries the largest InvId without losing a digit", () => {
  expect(robokassa.paymentUrl({ ...request, invId: 9223372036854775807n })).toContain("InvId=9223372036854775807&");
  expect(robokassa.paymentUrl({ ...request, invId: "9223372036854775807" })).toContain("InvId=9223372036854775807&");
});

describe("refuses", () => {
  test.each([
    ["an amount as a number", { outSum: 1000 as unknown as string }, "outSum"],
    ["three decimals", { outSum: "1000.001" }, "outSum"],
    ["a decimal comma", { outSum: "1000,00" }, "outSum"],
    ["nothing", { outSum: "0.00" }, "outSum"],
    ["a negative amount", { outSum: "-1" }, "outSum"],
    ["an InvId beyond 64 bits", { invId: 9223372036854775808n }, "invId"],
    ["an InvId as a number", { invId: 146 as unknown as string }, "invId"],
    ["no description", { description: "" }, "description"],
    ["101 characters of description", { description: "ә".repeat(101) }, "description"],
    ["a line break in the description", { description: "a\r\nb" }, "description"],
    ["a Shp_ name without its prefix", { shp: { user: "5" } }, "shp.user"],
    ["a Shp_ name with a colon", { shp: { "Shp_a:b": "5" } }, "shp.Shp_a:b"],
    ["two spellings of the prefix", { shp: { Shp_c: "y", shp_b: "x" } }, "shp"],
    ["names that the vendor's own software sorts in two ways", { shp: { Shp_a: "x", Shp_a1: "y" } }, "shp"],
    ["one name in two cases", { shp: { Shp_a: "x", Shp_A: "y" } }, "shp.Shp_A"],
    ["Shp_ fields beyond 2048 characters", { shp: { Shp_a: "x".repeat(2048) } }, "shp"],
    ["a currency that does not exist", { outSumCurrency: "GEL" }, "outSumCurrency"],
    ["a hold in test mode", { hold: true, test: true }, "hold"],
    ["an address without a scheme", { resultUrl2: "shop.example/r2" }, "resultUrl2"],
    [
      "a method in lower case",
      { failUrl2: { url: "https://shop.example", method: "post" as "POST" } },
      "failUrl2.method",
    ],
    ["an invalid date", { expiresAt: new Date("tomorrow") }, "expiresAt"],
    [
      "a receipt whose lines miss a kopeck",
      { receipt: { items: [{ name: "A", quantity: "1", sum: "999.99", tax: "none" }] } },
      "receipt.items",
    ],
    ["a receipt without lines", { receipt: { items: [] } }, "receipt.items"],
    [
      "an unknown tax",
      { receipt: { items: [{ name: "A", quantity: "1", sum: "1000.00", tax: "vat18" }] } },
      "receipt.items[0].tax",
    ],
    [
      "a Kazakh tax in Russia",
      { receipt: { items: [{ name: "A", quantity: "1", sum: "1000.00", tax: "vat16" }] } },
      "receipt.items[0].tax",
    ],
    [
      "a receipt sum as a number",
      { receipt: { items: [{ name: "A", quantity: "1", sum: 1000 as unknown as string, tax: "none" }] } },
      "receipt.items[0].sum",
    ],
  ] as const)("%s and names the field", (_case, change, field) => {
    const start = () => robokassa.paymentUrl({ ...request, ...change });
    expect(start).toThrow(InputError);
    expect(start).toThrow(`robokassa: ${field} `);
  });

  test("a link that browsers would cut, and says to post a form", () => {
    const items = Array.from({ length: 10 }, () => ({
      name: "ә".repeat(60),
      quantity: "1",
      sum: "100.00",
      tax: "none",
    }));
    expect(() => robokassa.paymentUrl({ ...request, receipt: { items } })).toThrow("use paymentForm");
    expect(robokassa.paymentForm({ ...request, receipt: { items } }).fields.length).toBeGreaterThan(5);
  });
});

test("multiplies a price by a weight exactly and compares to the kopeck", () => {
  const receipt = (cost: string, quantity: string) => ({ items: [{ name: "Алма", quantity, cost, tax: "none" }] });
  // 0.10 * 3 is not 0.30 in floats
  expect(robokassa.paymentUrl({ ...request, outSum: "0.30", receipt: receipt("0.10", "3") })).toContain("Receipt=");
  expect(robokassa.paymentUrl({ ...request, outSum: "333.33", receipt: receipt("1333.30", "0.250") })).toContain(
    "Receipt=",
  );
});

test("keeps Kazakhstan's receipts to the fields that exist there", () => {
  const kz = createRobokassa({ ...demoShop, country: "kz" });
  const line = { name: "Алма", quantity: "1", sum: "1000.00", tax: "vat16" };
  expect(kz.paymentUrl({ ...request, receipt: { items: [line] } })).toContain("vat16");
  expect(() => kz.paymentUrl({ ...request, receipt: { sno: "osn", items: [line] } })).toThrow("receipt.sno");
  expect(() => kz.paymentUrl({ ...request, receipt: { items: [{ ...line, paymentObject: "commodity" }] } })).toThrow(
    "receipt.items[0].paymentObject",
  );
});

test("invoices and refunds take lines with the price of a piece in Kazakhstan too, and no Russian fields", async () => {
  const sent: string[] = [];
  const kz = createRobokassa({
    ...demoShop,
    password3: "live-three",
    country: "kz",
    fetch: async (input, init) => {
      const [, payload = ""] = JSON.parse(String(init?.body)).split(".");
      sent.push(Buffer.from(payload, "base64url").toString());
      const refunded = { success: true, requestId: "request-1" };
      return Response.json(String(input).includes("Refund") ? refunded : { isSuccess: true, url: "u", id: "1" });
    },
  });
  const line = { name: "Алма", quantity: "2", cost: "500.00", tax: "vat16" };
  await kz.invoices.create({ ...request, items: [line] });
  await kz.refunds.create({ opKey: "KEY", amount: "1000.00", items: [line] });
  const items = '"InvoiceItems":[{"Name":"Алма","Quantity":2,"Cost":500.00,"Tax":"vat16"}]';
  for (const json of sent) expect(json).toContain(items);
  const refuse = (change: object) => kz.invoices.create({ ...request, items: [{ ...line, ...change }] });
  await expect(refuse({ paymentMethod: "full_payment" })).rejects.toThrow("items[0].paymentMethod");
  await expect(refuse({ cost: undefined, sum: "1000.00" })).rejects.toThrow("give the price of a piece as cost");
});

test("a basket that no link holds is placed with a form, posted and paid", async () => {
  const fake = createFakeRobokassa(demoShop);
  const storage = createRobokassaMemoryStorage();
  const name = "Футболка хлопковая белая, размер L";
  const line = { name, quantity: "1", sum: "100.00", tax: "none", paymentMethod: "full_payment" };
  const order = {
    robokassa,
    storage,
    id: "basket",
    total: "1000.00",
    description: "Футболки",
    receipt: { sno: "usn_income", items: Array.from({ length: 10 }, () => line) },
  };
  await expect(placeOrder(order)).rejects.toThrow("placeOrderForm gives one");
  expect(await storage.orders.get("basket")).toBeUndefined();
  const { order: placed, paymentForm } = await placeOrderForm(order);
  const link = "demo-shop:1000.00:1:";
  expect((await storage.orders.get("basket"))?.link?.startsWith(link)).toBe(true);
  const body = new URLSearchParams(paymentForm.fields.map(([field, value]): [string, string] => [field, value]));
  const page = await (await fake.handle(new Request(paymentForm.action, { method: "POST", body }))).text();
  const action = /action="([^"]+)"/.exec(page)?.[1];
  await fake.handle(
    new Request(`https://auth.robokassa.ru${action}`, { method: "POST", body: new URLSearchParams({ action: "pay" }) }),
  );
  expect(fake.operations).toMatchObject([{ invId: placed.invId, state: 100, outSum: "1000.00" }]);
});

describe("a client is not made with", () => {
  test.each([
    ["an empty password 2", { password2: "" }, "password2"],
    ["spaces around a password", { password1: " live-one" }, "password1"],
    ["equal live passwords", { password2: "live-one" }, "password1 and password2 are equal"],
    ["a live password that is a test one", { testPassword2: "live-two" }, "password2 and testPassword2 are equal"],
    ["half of the test pair", { testPassword2: undefined as unknown as string }, "testPassword1 and testPassword2"],
    ["an unknown algorithm", { algorithm: "sha3" }, "algorithm"],
    ["an unknown country", { country: "by" as "ru" }, "country"],
    ["a login with a colon", { login: "demo:shop" }, "login"],
    ["an address that is none", { apiUrl: "localhost:4100" }, "apiUrl"],
    ["an unknown reading", { readings: { shpOrder: "random" as "name" } }, "readings.shpOrder"],
  ])("%s", (_case, change, text) => {
    const make = () => createRobokassa({ ...demoShop, ...change });
    expect(make).toThrow(ConfigError);
    expect(make).toThrow(text);
  });

  test("test mode but no test passwords", () => {
    const { login, password1, password2 } = demoShop;
    expect(() => createRobokassa({ login, password1, password2, test: true })).toThrow("testPassword1");
  });
});

test("keeps passwords out of what a log would show of the client", () => {
  const shown = inspect(createRobokassa({ ...demoShop, password3: "live-three" }), { depth: null, showHidden: true });
  expect(shown).not.toMatch(/live-|try-/);
});
