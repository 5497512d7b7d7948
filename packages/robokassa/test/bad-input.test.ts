import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createRobokassa, InputError, type PaymentRequest, placeOrder } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { demoShop } from "./shop-fixture.ts";

const robokassa = createRobokassa({
  ...demoShop,
  password3: "live-three",
  fetch: async () => new Response("", { status: 500 }),
});

/** Every field of a payment start with a value that is taken. */
const good = {
  invId: "146",
  outSum: "1000.00",
  description: "Қалам",
  test: false,
  outSumCurrency: "USD",
  userIp: "203.0.113.7",
  receipt: { sno: "osn", items: [{ name: "Қалам", quantity: "1", sum: "1000.00", tax: "vat22" }] },
  hold: false,
  resultUrl2: "https://shop.example/r2",
  successUrl2: { url: "https://shop.example/ok", method: "GET" },
  failUrl2: { url: "https://shop.example/no", method: "POST" },
  token: "14D2B521-4EAB",
  recurring: false,
  shp: { Shp_user: "5" },
  email: "buyer@example.com",
  culture: "ru",
  expiresAt: new Date("2026-11-02T00:00:00.000Z"),
  incCurrLabel: "BankCard",
  paymentMethods: ["BankCard"],
} as const satisfies PaymentRequest;

test("takes the request that the bad ones below are made from", () => {
  expect(robokassa.paymentForm(good).fields.length).toBeGreaterThan(20);
});

// `undefined` leaves an optional field out, and so is no bad value.
const junk: readonly unknown[] = [
  null,
  0,
  1.5,
  Number.NaN,
  "",
  "\u0000",
  "a\r\nb",
  "\ud800",
  [],
  [[]],
  {},
  { a: 1 },
  () => "x",
  Symbol("x"),
  10n ** 30n,
];

const isEmpty = (value: unknown, kind: object): boolean =>
  typeof value === "object" &&
  value !== null &&
  Array.isArray(value) === Array.isArray(kind) &&
  Object.keys(value).length === 0;

describe.each(Object.keys(good) as (keyof typeof good)[])("the field %s", (field) => {
  test.each(
    junk.map((value) => [
      typeof value === "symbol"
        ? "a symbol"
        : `${typeof value} ${String(typeof value === "object" ? JSON.stringify(value) : value)}`,
      value,
    ]),
  )("with %s is refused by its name, or is what it may be", (_name, value) => {
    let refusal: unknown;
    try {
      robokassa.paymentForm({ ...good, [field]: value } as never);
    } catch (error) {
      refusal = error;
    }
    // An empty number leaves the choice to Robokassa, and no Shp_ fields are fields too.
    const isAllowed =
      (field === "invId" && value === "") ||
      (field === "shp" && isEmpty(value, {})) ||
      (field === "paymentMethods" && isEmpty(value, []));
    if (isAllowed) expect(refusal).toBeUndefined();
    else {
      expect(refusal).toBeInstanceOf(InputError);
      expect((refusal as InputError).field.split(/[.[]/)[0]).toBe(field);
    }
  });
});

test.each([
  ["receipt.items[0]", { items: [null] }],
  ["receipt.items[0].name", { items: [{ ...good.receipt.items[0], name: ["Қалам"] }] }],
  ["receipt.items[0].quantity", { items: [{ ...good.receipt.items[0], quantity: "0.0001" }] }],
  ["receipt.items[0].quantity", { items: [{ ...good.receipt.items[0], quantity: "123456" }] }],
  ["receipt.items[0].sum", { items: [{ ...good.receipt.items[0], sum: "123456789.00" }] }],
  ["receipt.items[0].sum", { items: [{ ...good.receipt.items[0], cost: "1000.00" }] }],
  ["receipt.items[0].name", { items: [{ ...good.receipt.items[0], name: "ә".repeat(129) }] }],
  ["receipt.items[0].paymentMethod", { items: [{ ...good.receipt.items[0], paymentMethod: "cash" }] }],
  ["receipt.items[0].paymentObject", { items: [{ ...good.receipt.items[0], paymentObject: "thing" }] }],
  ["receipt.items[0].nomenclatureCode", { items: [{ ...good.receipt.items[0], nomenclatureCode: "" }] }],
  ["receipt.items[0].agentInfo.type", { items: [{ ...good.receipt.items[0], agentInfo: {} }] }],
  ["receipt.items[0].supplierInfo.inn", { items: [{ ...good.receipt.items[0], supplierInfo: { inn: "7" } }] }],
  ["receipt.items[0].supplierInfo.phones", { items: [{ ...good.receipt.items[0], supplierInfo: { phones: "7" } }] }],
  ["receipt.items", { items: Array.from({ length: 101 }, () => good.receipt.items[0]) }],
  ["receipt.sno", { ...good.receipt, sno: "envd" }],
] as const)("names %s of a receipt", (field, receipt) => {
  expect(() => robokassa.paymentForm({ ...good, receipt: receipt as never })).toThrow(`robokassa: ${field} `);
});

test("names of Shp_ fields that objects have by themselves are only names", () => {
  const shp = JSON.parse('{"__proto__": "1"}') as Record<string, string>;
  expect(() => robokassa.paymentForm({ ...good, shp })).toThrow("shp.__proto__");
  const form = robokassa.paymentForm({ ...good, shp: { Shp___proto__: "1", Shp_constructor: "2" } });
  expect(form.fields.filter(([name]) => name.startsWith("Shp_"))).toEqual([
    ["Shp___proto__", "1"],
    ["Shp_constructor", "2"],
  ]);
});

test("no request whatever makes anything but an InputError, and nothing is stored for it", async () => {
  const storage = createRobokassaMemoryStorage();
  const field = fc.constantFrom(...Object.keys(good), "id", "total", "__proto__", "extra");
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(field, fc.anything()), { minLength: 1, maxLength: 4 }), async (changes) => {
      const change = Object.fromEntries(changes);
      try {
        robokassa.paymentUrl({ ...good, ...change } as never);
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
      }
      const options = { robokassa, storage, id: "A", total: "1000.00", ...good, ...change };
      await placeOrder(options as never).then(
        ({ order }) => storage.orders.erase(order.id),
        (error) => expect(error).toBeInstanceOf(InputError),
      );
    }),
    { seed: 146, numRuns: 1000 },
  );
});

describe("services name the wrong field before anything is sent", () => {
  const second = {
    id: "2",
    originId: "1",
    sno: "osn",
    url: "https://shop.example/",
    total: "10.00",
    items: [{ name: "Қалам", quantity: "1", sum: "10.00", tax: "none" }],
    client: { email: "buyer@example.com" },
    vats: [{ type: "none", sum: "0.00" }],
  };
  const calls: readonly (readonly [string, () => unknown])[] = [
    ["invId", () => robokassa.operationState("0")],
    ["outSum", () => robokassa.holds.capture({ invId: "1", outSum: "1e3" })],
    ["invId", () => robokassa.holds.release({ invId: "", outSum: "1.00" })],
    ["opKey", () => robokassa.refunds.create({ opKey: "a b" })],
    ["amount", () => robokassa.refunds.create({ opKey: "A", amount: "0" })],
    [
      "previousInvId",
      () => robokassa.recurring.charge({ invId: "2", previousInvId: "x", outSum: "1.00", description: "A" }),
    ],
    [
      "description",
      () => robokassa.recurring.charge({ invId: "2", previousInvId: "1", outSum: "1.00", description: "" }),
    ],
    ["description", () => robokassa.invoices.create({ invId: "2", outSum: "1.00", description: "a\u0000" })],
    ["originId", () => robokassa.secondReceipt.attach({ id: "2", originId: "" } as never)],
    ["vats[0].type", () => robokassa.secondReceipt.attach({ ...second, vats: [{ sum: "0.00" }] } as never)],
    ["vats[0].type", () => robokassa.secondReceipt.attach({ ...second, vats: [{ type: "vat12", sum: "0.00" }] })],
    ["vats[0]", () => robokassa.secondReceipt.attach({ ...second, vats: [null] } as never)],
    ["client", () => robokassa.secondReceipt.attach({ ...second, client: {} })],
    ["client.email", () => robokassa.secondReceipt.attach({ ...second, client: { email: 5 } } as never)],
    ["client.phone", () => robokassa.secondReceipt.attach({ ...second, client: { phone: "8 (701)" } })],
  ];
  test.each(calls)("%s", async (field, call) => {
    await expect((async () => call())()).rejects.toMatchObject({ name: "InputError", field });
  });
});
