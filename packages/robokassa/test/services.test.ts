import { ApiError } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createRobokassa } from "../src/index.ts";
import { signReceipt } from "../src/second-receipt.ts";
import { createFakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

function shop(algorithm: "md5" | "sha256" | "sha512" = "md5") {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const called: string[] = [];
  const fake = createFakeRobokassa({
    ...demoShop,
    algorithm,
    recurringAllowed: true,
    resultUrl: "https://shop.example/result",
    clock,
    deliver: async (request) => {
      const invId = new URLSearchParams(await request.text()).get("InvId");
      called.push(invId ?? "");
      return new Response(`OK${invId}`);
    },
  });
  const robokassa = createRobokassa({ ...demoShop, algorithm, fetch: fetchFrom(fake.handle), clock });
  return { fake, robokassa, called };
}

describe("invoices", () => {
  test("sends the token that the official SDK's test expects, in quotes", async () => {
    let sent: { readonly url: string; readonly body: string; readonly type: string | null } | undefined;
    const robokassa = createRobokassa({
      login: "login",
      password1: "p1",
      password2: "p2",
      fetch: async (input, init) => {
        const request = new Request(input, init);
        sent = { url: request.url, body: await request.text(), type: request.headers.get("content-type") };
        return Response.json({ isSuccess: true, url: "https://auth.robokassa.ru/merchant/Invoice/abc", id: "abc" });
      },
    });
    await robokassa.invoices.create({ invId: "1", outSum: "1", description: "test" });
    expect(sent).toEqual({
      url: "https://services.robokassa.ru/InvoiceServiceWebApi/api/CreateInvoice",
      type: "application/json",
      // HMAC-MD5 with the key login:p1, from the tests of robokassa/sdk-php (April 2026)
      body: '"eyJhbGciOiJNRDUiLCJ0eXAiOiJKV1QifQ.eyJNZXJjaGFudExvZ2luIjoibG9naW4iLCJJbnZvaWNlVHlwZSI6Ik9uZVRpbWUiLCJDdWx0dXJlIjoicnUiLCJJbnZJZCI6MSwiT3V0U3VtIjoxLCJEZXNjcmlwdGlvbiI6InRlc3QifQ.FKHP-6TuMui4tsnqUvjumw"',
    });
  });

  test.each(["md5", "sha256", "sha512"] as const)("makes and ends a link, signed with %s", async (algorithm) => {
    const { robokassa } = shop(algorithm);
    const invoice = { invId: 9223372036854775807n, outSum: "1000.00", description: "Қалам", shp: { shp_info: "test" } };
    expect((await robokassa.invoices.create(invoice)).url).toContain("https://auth.robokassa.ru/merchant/Invoice/");
    await expect(robokassa.invoices.create(invoice)).rejects.toMatchObject({ name: "ApiError", outcome: "refused" });
    await robokassa.invoices.deactivate(invoice.invId);
    await expect(robokassa.invoices.deactivate("5")).rejects.toThrow(ApiError);
  });

  test("is not asked twice when the reply is lost", async () => {
    const { robokassa, fake } = shop();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await expect(robokassa.invoices.create({ invId: "1", outSum: "1.00", description: "A" })).rejects.toMatchObject({
      outcome: "unknown",
    });
    expect(fake.journal.count("CreateInvoice")).toBe(1);
  });

  test.each([
    ["description", { description: "" }],
    ["outSum", { outSum: "0" }],
    ["shp.user", { shp: { user: "1" } }],
  ])("names a wrong %s", async (field, change) => {
    const { robokassa, fake } = shop();
    const invoice = { invId: "1", outSum: "1.00", description: "A", ...change };
    await expect(robokassa.invoices.create(invoice)).rejects.toThrow(field);
    expect(fake.journal.entries).toHaveLength(0);
  });
});

describe("recurring charges", () => {
  async function withParent() {
    const parts = shop();
    const url = parts.robokassa.paymentUrl({ invId: "1", outSum: "500.00", description: "A", recurring: true });
    await parts.fake.pay({ url });
    return parts;
  }

  test("is accepted after a recurring payment, and told by ResultURL", async () => {
    const { robokassa, fake, called } = await withParent();
    const receipt = { items: [{ name: "A", quantity: "1", sum: "500.00", tax: "none" }] };
    await robokassa.recurring.charge({
      invId: "2",
      previousInvId: "1",
      outSum: "500.00",
      description: "B",
      receipt,
      shp: { Shp_user: "5" },
    });
    await fake.idle();
    expect(called).toEqual(["1", "2"]);
  });

  test("is not asked for twice when the reply is lost: the charge is looked up", async () => {
    const { robokassa, fake } = await withParent();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("Recurring") });
    await robokassa.recurring.charge({ invId: "2", previousInvId: "1", outSum: "500.00", description: "B" });
    expect(fake.journal.count("/Merchant/Recurring")).toBe(1);
    expect(fake.operations).toHaveLength(2);
  });

  test.each(["", "OK", "OK: 2", '{"ok":true}', "<html>"])(
    "is looked up, not told as refused, when it ran and the answer is %j",
    async (answer) => {
      const { fake } = await withParent();
      const cut: typeof fetch = async (input, init) => {
        const response = await fetchFrom(fake.handle)(input, init);
        return String(input).includes("/Merchant/Recurring") ? new Response(answer) : response;
      };
      const robokassa = createRobokassa({ ...demoShop, fetch: cut });
      await robokassa.recurring.charge({ invId: "2", previousInvId: "1", outSum: "500.00", description: "B" });
      expect([fake.journal.count("/Merchant/Recurring"), fake.journal.count("OpStateExt")]).toEqual([1, 1]);
      // Nothing is found under this number: nobody knows whether it was charged.
      const failed = createRobokassa({
        ...demoShop,
        fetch: async (input, init) =>
          String(input).includes("Recurring") ? new Response(answer) : fetchFrom(fake.handle)(input, init),
      });
      await expect(
        failed.recurring.charge({ invId: "3", previousInvId: "1", outSum: "500.00", description: "B" }),
      ).rejects.toMatchObject({ outcome: "unknown" });
    },
  );

  test("a payment of another sum under its number is not taken for the charge whose reply was lost", async () => {
    const { robokassa, fake } = await withParent();
    await fake.pay({ invId: "2", outSum: "700.00" }); // of a former order
    fake.faults.add({
      fault: { kind: "failBeforeExecuting", status: 502 },
      match: ({ url }) => url.includes("Recurring"),
    });
    const charge = { invId: "2", previousInvId: "1", outSum: "500.00", description: "B" };
    await expect(robokassa.recurring.charge(charge)).rejects.toMatchObject({ outcome: "unknown" });
  });

  test("says no to a payment that was not recurring, and to its own number", async () => {
    const { robokassa, fake } = shop();
    await fake.pay({ invId: "1", outSum: "500.00" });
    const charge = { previousInvId: "1", outSum: "500.00", description: "B" };
    await expect(robokassa.recurring.charge({ ...charge, invId: "2" })).rejects.toMatchObject({
      vendorCode: "ERROR: 35",
    });
    await expect(robokassa.recurring.charge({ ...charge, invId: "1" })).rejects.toThrow("invId must be a new number");
  });
});

describe("second receipts", () => {
  // The sample of the documents: shop robokassa_sell, password 1 robokassatest.
  const sample =
    "eyJtZXJjaGFudElkIjogInJvYm9rYXNzYV9zZWxsIiwiaWQiOiAiMTQiLCJvcmlnaW5JZCI6ICIxMyIsIm9wZXJhdGlvbiI6ICJzZWxsIiwKInNubyI6ICJvc24iLCJ1cmwiOiAiaHR0cHM6Ly93d3cucm9ib2thc3NhLnJ1LyIsInRvdGFsIjogMTAwLCJpdGVtcyI6IFt7Im5hbWUiOiAi0KLQvtCy0LDRgCIsInF1YW50aXR5IjogMSwic3VtIjogMTAwLCJ0YXgiOiAibm9uZSIsInBheW1lbnRfbWV0aG9kIjogImZ1bGxfcGF5bWVudCIsInBheW1lbnRfb2JqZWN0IjogImNvbW1vZGl0eSJ9XSwiY2xpZW50IjogeyJlbWFpbCI6ICJ0ZXN0QHRlc3QucnUiLCJwaG9uZSI6ICI3MTIzNDU2Nzg5MCJ9LCJwYXltZW50cyI6IFt7InR5cGUiOiAyLCJzdW0iOiAxMDB9XSwidmF0cyI6IFt7InR5cGUiOiAibm9uZSIsInN1bSI6IDB9XX0";

  test("signs the documents' sample as the documents do", () => {
    const live = { password1: "robokassatest", password2: "unused" };
    expect(signReceipt(Buffer.from(sample, "base64").toString(), { algorithm: "md5", live })).toBe(
      `${sample}.MzAwMTU4NjIwMTE0M2RhNDIzMjg5NmM0NDI0NGJkYmI`,
    );
  });

  const request = {
    id: "14",
    originId: "13",
    sno: "osn",
    url: "https://shop.example/",
    total: "100.00",
    items: [{ name: "Қалам", quantity: "1", sum: "100.00", tax: "vat22" }],
    client: { email: "buyer@example.com" },
    vats: [{ type: "vat22", sum: "18.03" }],
  };

  test("attaches a receipt and asks for its state", async () => {
    const { robokassa, fake } = shop();
    expect(await robokassa.secondReceipt.attach(request)).toMatchObject({ state: "accepted", code: "0" });
    expect(JSON.parse(fake.receipts.get("14") as string)).toEqual({
      merchantId: "demo-shop",
      id: 14,
      originId: 13,
      operation: "sell",
      url: "https://shop.example/",
      total: 100,
      sno: "osn",
      items: [{ name: "Қалам", quantity: 1, sum: 100, payment_method: "full_payment", tax: "vat22" }],
      client: { email: "buyer@example.com" },
      payments: [{ type: 2, sum: 100 }],
      vats: [{ type: "vat22", sum: 18.03 }],
    });
    expect(await robokassa.secondReceipt.status("14")).toEqual({
      state: "registered",
      code: "2",
      description: undefined,
      fnNumber: "9960440300000001",
      fiscalDocumentNumber: "7",
      fiscalDocumentAttribute: "3456789012",
      fiscalDate: "2026-11-01T10:00:00+03:00",
      fiscalType: "1",
    });
    expect((await robokassa.secondReceipt.status("15")).state).toBe("failed");
  });

  test.each([
    ["id", { id: "13" }],
    ["receipt.items", { total: "100.01" }],
    ["vats[0].sum", { vats: [{ type: "vat22", sum: "100.01" }] }],
    ["items[0].paymentMethod", { items: [{ ...request.items[0], paymentMethod: "advance" }] }],
  ])("names a wrong %s", async (field, change) => {
    const { robokassa } = shop();
    await expect(robokassa.secondReceipt.attach({ ...request, ...change } as typeof request)).rejects.toThrow(field);
  });
});
