import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createRobokassa } from "../src/index.ts";
import { createFakeRobokassa, type FakeReadings } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

function shop(readings: FakeReadings = {}) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const fake = createFakeRobokassa({ ...demoShop, clock, readings });
  return { fake, clock, robokassa: createRobokassa({ ...demoShop, clock, fetch: fetchFrom(fake.handle) }) };
}

test.each(["documents", "tests"] as const)(
  "lists the ways to pay, in the namespace of the %s",
  async (xmlNamespace) => {
    const { robokassa, fake } = shop({ xmlNamespace });
    expect(await robokassa.catalog.currencies("en")).toEqual([
      {
        code: "BankCard",
        description: "Bank card",
        currencies: [
          { label: "BankCardPSR", name: "Bank card & Apple Pay", alias: "BankCard", minValue: "1", maxValue: "600000" },
        ],
      },
      {
        code: "SBP",
        description: "Fast payments",
        currencies: [{ label: "SBPPSR", name: "SBP", alias: undefined, minValue: undefined, maxValue: undefined }],
      },
      { code: "EWallet", description: "", currencies: [] },
    ]);
    // Unsigned: no secret is in the address.
    expect(fake.journal.entries[0]?.path).toBe(
      "/Merchant/WebService/Service.asmx/GetCurrencies?MerchantLogin=demo-shop&Language=en",
    );
  },
);

test("asks for each language once a day", async () => {
  const { robokassa, fake, clock } = shop();
  expect((await robokassa.catalog.currencies())[0]?.description).toBe("Банковская карта");
  await robokassa.catalog.currencies("ru");
  await robokassa.catalog.currencies("en");
  expect(fake.journal.count("GetCurrencies")).toBe(2);
  clock.advance(86_400_000);
  await robokassa.catalog.currencies("ru");
  expect(fake.journal.count("GetCurrencies")).toBe(3);
});

test("tells what the shop gets of what the buyer pays", async () => {
  const { robokassa } = shop();
  expect(await robokassa.catalog.outSum({ incCurrLabel: "BankCardPSR", incSum: "1000.00" })).toBe("961.00");
  await expect(robokassa.catalog.outSum({ incCurrLabel: "", incSum: "1.00" })).rejects.toMatchObject({
    field: "incCurrLabel",
  });
  await expect(robokassa.catalog.outSum({ incCurrLabel: "A", incSum: "1,00" })).rejects.toMatchObject({
    field: "incSum",
  });
});

test("a shop that is not active gets result 2 here as well, and no empty list", async () => {
  const { robokassa, fake } = shop();
  fake.configure({ active: false });
  const refusal = { name: "ApiError", vendorCode: "2", outcome: "refused" };
  await expect(robokassa.catalog.currencies()).rejects.toMatchObject(refusal);
  await expect(robokassa.catalog.outSum({ incCurrLabel: "A", incSum: "1.00" })).rejects.toMatchObject(refusal);
  fake.configure({ active: true });
  expect(await robokassa.catalog.currencies()).toHaveLength(3);
});

test("an answer without the sum is no sum", async () => {
  const answer = "<R><Result><Code>0</Code></Result></R>";
  const robokassa = createRobokassa({ ...demoShop, fetch: async () => new Response(answer) });
  await expect(robokassa.catalog.outSum({ incCurrLabel: "A", incSum: "1.00" })).rejects.toMatchObject({
    name: "ResponseShapeError",
  });
  expect(await robokassa.catalog.currencies()).toEqual([]);
});
