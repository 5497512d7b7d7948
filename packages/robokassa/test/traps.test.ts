import { createHash } from "node:crypto";
import { silentLogger } from "@orderbridge/core";
import { describe, expect, test } from "vitest";
import {
  createResultHandler,
  createRobokassa,
  type PaymentRequest,
  type RobokassaOptions,
  readCertificates,
} from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeCertificate } from "../src/testing/index.ts";
import { availableDigests, foreignDigests } from "./foreign.ts";
import { demoShop, liveResult } from "./shop-fixture.ts";

/** A client that keeps what it sends instead of sending it. */
function recorder(
  options: Partial<RobokassaOptions> = {},
  answer: () => Response = () => new Response("", { status: 500 }),
) {
  const sent: { url: string; body: string; type: string | null }[] = [];
  const robokassa = createRobokassa({
    ...demoShop,
    password3: "live-three",
    ...options,
    fetch: async (input, init) => {
      const request = new Request(input, init);
      sent.push({ url: request.url, body: await request.text(), type: request.headers.get("content-type") });
      return answer();
    },
  });
  return { robokassa, sent };
}

const signatureOf = (options: RobokassaOptions, request: PaymentRequest): string | undefined =>
  createRobokassa(options)
    .paymentForm(request)
    .fields.find(([name]) => name === "SignatureValue")?.[1];

describe("published signatures of payment starts come out of the whole client, not only of the hash", () => {
  const demo = (password1: string): RobokassaOptions => ({ login: "demo", password1, password2: "secret2" });
  const receipt = { items: [{ name: "product", quantity: "1", sum: "8.96", tax: "none" }] };
  const login: RobokassaOptions = { login: "login", password1: "p1", password2: "p2" };
  const mine: RobokassaOptions = { login: "myMerchantLogin", password1: "my_first_secret_password", password2: "two" };
  const rest = { description: "A" };
  test.each([
    [
      "V2, where InvId 0 keeps its 0 in the slot",
      mine,
      { ...rest, outSum: "1000", invId: "0" },
      "abd49d48d09a4ad6e373d3bfabc0051e",
    ],
    [
      "V3, with Shp_ fields in lower case",
      mine,
      {
        ...rest,
        outSum: "1000",
        invId: "0",
        shp: { shp_product_id: "a9902187-44f1-4b08-83d0-4944f36c2bfe", shp_customer_id: "s8d92378" },
      },
      "f5ed8acce2768d062817733feaff8b23",
    ],
    ["V5", demo("pass1"), { ...rest, outSum: "2900.00", invId: "1001" }, "ab652b7b36ba1b702a88c3b7aa18d7ff"],
    [
      "V6",
      demo("secret1"),
      { ...rest, outSum: "99.90", invId: "1001", shp: { Shp_item: "digital" } },
      "6f3ff72da89c99859c09fac8b1b61cb5",
    ],
    [
      "V7, with a receipt encoded once and addresses as they are",
      demo("secret1"),
      {
        ...rest,
        outSum: "8.96",
        invId: "12345",
        receipt,
        successUrl2: { url: "https://example.com/success", method: "POST" },
        failUrl2: { url: "https://example.com/fail", method: "GET" },
        shp: { Shp_item: "digital" },
      },
      "4ec77aca3fd8a369fdaff8c2975daa94",
    ],
    [
      "V10, where Recurring is sent and not signed",
      login,
      { ...rest, outSum: "5", invId: "154", recurring: true },
      "ea9bd729a4456cfbfb91294b8e2781d6",
    ],
  ] as const)("%s", (_name, options, request, digest) => {
    expect(signatureOf(options, request)).toBe(digest);
  });
});

describe.each(availableDigests())("every documented formula of a start, as %s signs it", (program) => {
  const receipt = { items: [{ name: "A", quantity: "1", sum: "1000.00", tax: "none" }] };
  const encoded =
    "%7B%22items%22%3A%5B%7B%22name%22%3A%22A%22%2C%22quantity%22%3A1%2C%22sum%22%3A1000.00%2C%22tax%22%3A%22none%22%7D%5D%7D";
  test.each([
    ["plain", {}, "P1"],
    ["currency and address", { outSumCurrency: "USD", userIp: "10.0.0.7" }, "USD:10.0.0.7:P1"],
    ["receipt", { receipt }, "RECEIPT:P1"],
    ["currency before receipt", { outSumCurrency: "USD", receipt }, "USD:RECEIPT:P1"],
    ["hold with a receipt", { hold: true, receipt }, "RECEIPT:true:P1"],
    ["hold without one", { hold: true }, "true:P1"],
    [
      "ResultUrl2 after the hold",
      { hold: true, receipt, resultUrl2: "https://a.example/r" },
      "RECEIPT:true:https://a.example/r:P1",
    ],
    [
      "only FailUrl2, with its method",
      { failUrl2: { url: "https://a.example/f?x=1", method: "GET" } },
      "https://a.example/f?x=1:GET:P1",
    ],
    ["saved card", { receipt, resultUrl2: "https://a.example/r", token: "T-1" }, "RECEIPT:https://a.example/r:T-1:P1"],
    ["Shp_ after the password", { shp: { Shp_oplata: "1", Shp_login: "Vasya" } }, "P1:Shp_login=Vasya:Shp_oplata=1"],
  ] as const)("%s", (_name, change, tail) => {
    const base = `demo-shop:1000.00:146:${tail.replace("RECEIPT", encoded).replace("P1", "live-one")}`;
    const request = { invId: "146", outSum: "1000.00", description: "A", ...change };
    expect(signatureOf(demoShop, request)).toBe(foreignDigests[program]("md5", base));
  });
});

test.each(["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const)(
  "a ResultURL hashed with %s is taken by a shop set to it, and by no other",
  (algorithm) => {
    const others = (["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const).filter(
      (name) => name !== algorithm,
    );
    const digest = createHash(algorithm).update("1000.000000:146:live-two").digest("hex").toUpperCase();
    const fields = `OutSum=1000.000000&InvId=146&SignatureValue=${digest}`;
    expect(createRobokassa({ ...demoShop, algorithm }).verifyResult(fields).ok).toBe(true);
    for (const other of others)
      expect(createRobokassa({ ...demoShop, algorithm: other }).verifyResult(fields).ok).toBe(false);
  },
);

test("the sum made neat is refused: what was received is hashed (X8)", () => {
  const robokassa = createRobokassa(demoShop);
  const fields = "OutSum=1000.000000&InvId=146&SignatureValue=dbe260a4cd4a9b27fc84c9ef90ead00f";
  expect(robokassa.verifyResult(fields)).toEqual({ ok: false, reason: "bad_signature" });
});

test("a plus sign that was hashed stays one: no second decode (V9's value on the wire)", () => {
  // md5sum of 5:9:p2:Shp_order=abc+1
  const robokassa = createRobokassa({ login: "login", password1: "p1", password2: "p2" });
  const fields = "OutSum=5&InvId=9&SignatureValue=aa2c25b5baebab5fbebbb4e639c7d990&Shp_order=abc%2B1";
  expect(robokassa.verifyResult(fields)).toMatchObject({ ok: true, notification: { shp: { Shp_order: "abc+1" } } });
  expect(robokassa.verifyResult(fields.replace("%2B", "+")).ok).toBe(false);
});

test("every shp_ field that comes is hashed, also one that the service added to an invoice's payment", () => {
  // md5sum of 1000.000000:146:live-two:shp_info=test:shp_interface=link
  const fields =
    "OutSum=1000.000000&InvId=146&SignatureValue=3e68931da7bd3a45e5105a08d3e2989a&shp_interface=link&shp_info=test";
  expect(createRobokassa(demoShop).verifyResult(fields)).toMatchObject({
    ok: true,
    notification: { shp: { shp_info: "test", shp_interface: "link" } },
  });
});

test("the largest InvId goes through callback, booking and answer without losing a digit", async () => {
  const storage = createRobokassaMemoryStorage({ firstLiveInvId: "9223372036854775807" });
  await storage.orders.create({ id: "A", test: false, total: "1000.00", description: "A" });
  const handler = createResultHandler({ robokassa: createRobokassa(demoShop), storage, logger: silentLogger });
  // md5sum of 1000.000000:9223372036854775807:live-two
  const body = "OutSum=1000.000000&InvId=9223372036854775807&SignatureValue=7d5283e394acab2b77e46f7d557ea4bb";
  const answer = await handler(new Request("https://shop.example/result", { method: "POST", body }));
  expect(await answer.text()).toBe("OK9223372036854775807");
  expect((await storage.orders.get("A"))?.status).toBe("paid");
});

test.each(["", "&IsTest=", "&IsTest=0", "&IsTest=1"])(
  "a live signature is a live payment, whatever IsTest says: %j",
  (field) => {
    expect(createRobokassa(demoShop).verifyResult(liveResult + field)).toMatchObject({ notification: { test: false } });
  },
);

test("a live start never carries IsTest, not even as 0", () => {
  const { fields } = createRobokassa(demoShop).paymentForm({
    invId: "1",
    outSum: "1.00",
    description: "A",
    test: false,
  });
  expect(fields.map(([name]) => name)).not.toContain("IsTest");
});

test("the sample token of the documents is read, and believed under no certificate", () => {
  // docs.robokassa.ru, "Notifications": its signature fits neither published key
  const token =
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJoZWFkZXIiOnsidHlwZSI6IlBheW1lbnRTdGF0ZU5vdGlmaWNhdGlvbiIsInZlcnNpb24iOiIxLjAuMCIsInRpbWVzdGFtcCI6IjE2OTA0NTQ5ODAifSwiZGF0YSI6eyJzaG9wIjoicm9iby1kZW1vLXRlc3QiLCJvcEtleSI6IjE0RDJCNTIxLTRFQUItNDkyQS05RDkxLTAwRDEyRkYyNEQ1Ny0xTnZIRU5Md2dwIiwiaW52SWQiOiIxMjM0ODI5IiwicGF5bWVudE1ldGhvZCI6IkJhbmtDYXJkIiwiaW5jU3VtIjoiMTAuMDAiLCJzdGF0ZSI6Ik9LIn19.DaanjJ4A2yaGOppIVEj929MGNWU4jHcjAh4_DnFRJzkqvESbVpN5trGg8OlaftyQEldxeQaTF9ykrS7O1BmhPow0ZRv4GwjJQSwHzCGJUOcyVw507PMnRSAIT4oXq_PtKjqjuHQL_bxQxyGxZORoKhzsDwBYl_nMXsY-R_SCXPfvYRDPeJRRlC-HwQscOzyGN1cBHStuh5-w8qHytpaysVlif_XYK1-Lfa3ZsFjNz-2LENGL4CRmKMA2KhUfhNfNWXSA4J2KykfWznAvaY37T__QQHhDyHuIjsUtstG5Jf2aK2CuJY-i9mBTRkXD0U3Y5Lh7lnJQrkXAMBySRvYigQ";
  const now = new Date("2023-07-27T10:50:00.000Z");
  const { certificate } = createFakeCertificate({
    validFrom: new Date("2023-01-01T00:00:00.000Z"),
    validTo: new Date("2024-01-01T00:00:00.000Z"),
  });
  const robokassa = createRobokassa({ ...demoShop, login: "robo-demo-test" });
  const certificates = readCertificates(certificate);
  for (const body of [token, `"${token}"`, Buffer.from(token).toString("base64"), `${token}\n`]) {
    expect(robokassa.verifyResult2(body, { certificates, now })).toEqual({ ok: false, reason: "bad_signature" });
  }
});

describe("hosts of each country", () => {
  const ask = async (options: Partial<RobokassaOptions>): Promise<readonly string[]> => {
    const { robokassa, sent } = recorder(options, () => new Response("{}", { status: 400 }));
    const sum = { invId: "1", outSum: "1.00" };
    const item = { name: "A", quantity: "1", sum: "1.00", tax: "none" };
    const calls: readonly (() => Promise<unknown>)[] = [
      () => robokassa.operationState("1"),
      () => robokassa.catalog.currencies(),
      () => robokassa.holds.capture(sum),
      () => robokassa.holds.release(sum),
      () => robokassa.recurring.charge({ ...sum, invId: "2", previousInvId: "1", description: "A" }),
      () => robokassa.invoices.create({ ...sum, description: "A" }),
      () => robokassa.invoices.deactivate("1"),
      () => robokassa.refunds.create({ opKey: "A" }),
      () => robokassa.refunds.state("a-b"),
      () => robokassa.sms.send({ phone: "77010000000", message: "A" }),
      () =>
        robokassa.secondReceipt.attach({
          id: "2",
          originId: "1",
          sno: "osn",
          url: "https://shop.example",
          total: "1.00",
          items: [item],
          client: { email: "buyer@example.com" },
          vats: [],
        }),
      () => robokassa.secondReceipt.status("2"),
    ];
    for (const call of calls) await call().catch(() => undefined); // the answer is not what is asked here
    return sent.map(({ url }) => url.split("?")[0] as string);
  };
  const expected = (payment: string): readonly string[] => [
    "https://auth.robokassa.ru/Merchant/WebService/Service.asmx/OpStateExt",
    "https://auth.robokassa.ru/Merchant/WebService/Service.asmx/GetCurrencies",
    `${payment}/Merchant/Payment/Confirm`,
    `${payment}/Merchant/Payment/Cancel`,
    `${payment}/Merchant/Recurring`,
    "https://services.robokassa.ru/InvoiceServiceWebApi/api/CreateInvoice",
    "https://services.robokassa.ru/InvoiceServiceWebApi/api/DeactivateInvoice",
    "https://services.robokassa.ru/RefundService/Refund/Create",
    "https://services.robokassa.ru/RefundService/Refund/GetState",
    "https://services.robokassa.ru/SMS/",
    "https://ws.roboxchange.com/RoboFiscal/Receipt/Attach",
    "https://ws.roboxchange.com/RoboFiscal/Receipt/Status",
  ];
  test("Russia", async () => expect(await ask({})).toEqual(expected("https://auth.robokassa.ru")));
  test("Kazakhstan: its own page, holds and charges; the services stay", async () =>
    expect(await ask({ country: "kz" })).toEqual(expected("https://auth.robokassa.kz")));
  test("any of them can be another", async () => {
    const urls = await ask({ country: "kz", hosts: { state: "https://auth.robokassa.kz" } });
    expect(urls[0]).toBe("https://auth.robokassa.kz/Merchant/WebService/Service.asmx/OpStateExt");
  });
});

describe("taxes of a receipt", () => {
  const russian = "none vat0 vat5 vat7 vat10 vat20 vat22 vat105 vat107 vat110 vat120 vat122".split(" ");
  const kazakh = "none vat0 vat5 vat12 vat16".split(" ");
  const accepts = (country: "ru" | "kz", tax: string): boolean => {
    const receipt = { items: [{ name: "A", quantity: "1", sum: "1.00", tax }] };
    try {
      createRobokassa({ ...demoShop, country }).paymentForm({ invId: "1", outSum: "1.00", description: "A", receipt });
      return true;
    } catch {
      return false;
    }
  };
  const all = [...new Set([...russian, ...kazakh, "vat18", "vat118", "VAT20", "vat"])];
  test("of Russia, with those of 2026", () => expect(all.filter((tax) => accepts("ru", tax))).toEqual(russian));
  test("of Kazakhstan, with 16 % of 2026", () =>
    expect(all.filter((tax) => accepts("kz", tax)).sort()).toEqual([...kazakh].sort()));
});

test("a line carries its agent and supplier, keys in lower case with underscores", () => {
  const form = createRobokassa(demoShop).paymentForm({
    invId: "1",
    outSum: "1.00",
    description: "A",
    receipt: {
      items: [
        {
          name: 'Қалам "Көк"',
          quantity: "1",
          sum: "1.00",
          tax: "none",
          nomenclatureCode: "010463003407001221",
          agentInfo: { type: "commission_agent" },
          supplierInfo: { name: "ТОО Қалам", inn: "7700000000", phones: ["+77010000000"] },
        },
      ],
    },
  });
  const receipt = form.fields.find(([name]) => name === "Receipt")?.[1] as string;
  expect(decodeURIComponent(receipt)).toBe(
    '{"items":[{"name":"Қалам \\"Көк\\"","quantity":1,"sum":1.00,"tax":"none","nomenclature_code":"010463003407001221",' +
      '"agent_info":{"type":"commission_agent"},"supplier_info":{"name":"ТОО Қалам","inn":"7700000000","phones":["+77010000000"]}}]}',
  );
});

describe("state queries", () => {
  const answer = (text: string) => recorder({}, () => new Response(text)).robokassa.operationState("1");
  test("result 1000 is to be asked again", async () => {
    expect(await answer("<R><Result><Code>1000</Code></Result></R>")).toEqual({
      found: false,
      reason: "internal",
      code: "1000",
    });
  });
  test("a state that no document names is shown as it is", async () => {
    const state = await answer("<R><Result><Code>0</Code></Result><State><Code>77</Code></State></R>");
    expect(state).toMatchObject({ found: true, state: "unknown", code: "77" });
  });
  test.each([
    [
      "an entity of its own",
      '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><R><Result><Code>&x;</Code></Result></R>',
    ],
    [
      "entities that grow",
      `<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "${"&a;".repeat(100)}">]><R><Result><Code>0</Code></Result></R>`,
    ],
    ["an entity that nobody declared", "<R><Result><Code>&x;</Code></Result></R>"],
    ["two roots", "<R/><R/>"],
    ["nothing", ""],
  ])("%s is an error, not a state", async (_name, text) => {
    await expect(answer(text)).rejects.toMatchObject({ name: "ResponseShapeError" });
  });
  test("a secret in an address is in no error", async () => {
    const error = await recorder()
      .robokassa.operationState("1")
      .catch((reason) => reason);
    expect(`${error.message}${JSON.stringify(error)}${error.stack}`).not.toMatch(/Signature|live-two|https?:\/\/auth/);
  });
});

test("a refund with a wrong password 3 is a refusal", async () => {
  const { robokassa, sent } = recorder({}, () =>
    Response.json({ success: false, message: "Signature key is not exists", requestId: null }, { status: 401 }),
  );
  await expect(robokassa.refunds.create({ opKey: "A" })).rejects.toMatchObject({
    name: "ApiError",
    status: 401,
    outcome: "refused",
  });
  expect(sent).toHaveLength(1);
});

test("a refund carries its lines with capital names, and exactly the sum that was asked for", async () => {
  const { robokassa, sent } = recorder();
  const items = [{ name: "Қалам", quantity: "1", cost: "400.10", tax: "vat22" }];
  await robokassa.refunds.create({ opKey: "14D2", amount: "400.10", items }).catch(() => undefined);
  const payload = Buffer.from(
    (JSON.parse(sent[0]?.body as string) as string).split(".")[1] as string,
    "base64url",
  ).toString();
  expect(payload).toBe(
    '{"OpKey":"14D2","RefundSum":400.10,"InvoiceItems":[{"Name":"Қалам","Quantity":1,"Cost":400.10,"Tax":"vat22"}]}',
  );
  await expect(robokassa.refunds.create({ opKey: "14D2", items })).rejects.toMatchObject({ field: "amount" });
  await expect(robokassa.refunds.create({ opKey: "14D2", amount: "400.00", items })).rejects.toMatchObject({
    field: "items",
  });
});

test("a recurring charge sends neither Recurring nor IncCurrLabel, ExpirationDate, IsTest", async () => {
  const { robokassa, sent } = recorder();
  await robokassa.recurring
    .charge({ invId: "2", previousInvId: "1", outSum: "500.00", description: "Қалам", shp: { Shp_user: "5" } })
    .catch(() => undefined);
  expect([...new URLSearchParams(sent[0]?.body)]).toEqual([
    ["MerchantLogin", "demo-shop"],
    ["InvoiceID", "2"],
    ["PreviousInvoiceID", "1"],
    ["Description", "Қалам"],
    ["OutSum", "500.00"],
    ["SignatureValue", "2a9d1493034a996035e1707d1f7d234c"], // md5sum of demo-shop:500.00:2:live-one:Shp_user=5
    ["Shp_user", "5"],
  ]);
});

test("a capture is signed as a start is, and a release without its sum (X10, X14)", async () => {
  const { robokassa, sent } = recorder({}, () => Response.json("success: true"));
  await robokassa.holds.capture({ invId: "146", outSum: "1000.00" });
  await robokassa.holds.release({ invId: "146", outSum: "1000.00" });
  expect(sent.map(({ body }) => new URLSearchParams(body).get("SignatureValue"))).toEqual([
    "8a875f1aabd88bf5a41fc286f54b9f15",
    "0aca264c2162699055080b750f3fb31f",
  ]);
  expect(new URLSearchParams(sent[1]?.body).get("OutSum")).toBe("1000.00");
});

test("a shop in test mode takes no real money by a recurring charge or a split payment", async () => {
  const { robokassa, sent } = recorder({ test: true });
  const charge = { invId: "2", previousInvId: "1", outSum: "500.00", description: "A" };
  await expect(robokassa.recurring.charge(charge)).rejects.toMatchObject({ field: "test" });
  expect(() => robokassa.splitForm({ outSum: "1.00", parts: [{ id: "a", amount: "1.00" }] })).toThrow("test mode");
  expect(robokassa.freeSumSignature("146")).toBe("504e6b698c2eed9a0591367432cb4749"); // md5sum of demo-shop::146:try-one
  expect(sent).toEqual([]);
});
