import { execFileSync } from "node:child_process";
import { createFakeClock, fetchFrom, listen } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createRobokassa, InputError, type InvoiceRequest, type ListedInvoice } from "../src/index.ts";
import { encodeJwt } from "../src/jwt.ts";
import { createFakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

function shop(algorithm: "md5" | "ripemd160" | "sha1" | "sha256" | "sha384" | "sha512" = "md5") {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const fake = createFakeRobokassa({ ...demoShop, algorithm, holdAllowed: true, recurringAllowed: true, clock });
  let payload = "";
  const call = fetchFrom(fake.handle);
  const robokassa = createRobokassa({
    ...demoShop,
    algorithm,
    clock,
    fetch: async (input, init) => {
      const body = String(init?.body ?? "");
      payload = Buffer.from(body.split(".")[1] ?? "", "base64url").toString();
      return call(input, init);
    },
  });
  return { fake, robokassa, clock, payload: () => payload };
}

const invoice = { invId: "7", outSum: "1000.00", description: "Қалам" } as const satisfies InvoiceRequest;

const collect = async (list: AsyncIterable<ListedInvoice>): Promise<readonly ListedInvoice[]> => {
  const all: ListedInvoice[] = [];
  for await (const one of list) all.push(one);
  return all;
};

// The header names the algorithm, and the HMAC is of that algorithm, whatever it is.
describe.each([
  ["MD5", "md5"],
  ["RIPEMD160", "ripemd160"],
  ["SHA1", "sha1"],
  ["HS1", "sha1"],
  ["SHA256", "sha256"],
  ["HS256", "sha256"],
  ["SHA384", "sha384"],
  ["HS384", "sha384"],
  ["SHA512", "sha512"],
  ["HS512", "sha512"],
] as const)("a token with alg %s", (alg, algorithm) => {
  const token = encodeJwt('{"InvId":1,"Description":"Қалам"}', { alg, algorithm, key: "login:p1" });
  const [header = "", content = "", signature = ""] = token.split(".");

  test.each([
    [
      "openssl",
      () =>
        execFileSync(
          "openssl",
          ["dgst", "-provider", "default", "-provider", "legacy", `-${algorithm}`, "-hmac", "login:p1", "-binary"],
          { input: `${header}.${content}` },
        ),
    ],
    [
      "php",
      () =>
        execFileSync(
          "php",
          ["-r", `echo hash_hmac('${algorithm}', file_get_contents('php://stdin'), 'login:p1', true);`],
          {
            input: `${header}.${content}`,
          },
        ),
    ],
  ] as const)("is signed as %s signs it", (program, digest) => {
    let bytes: Buffer;
    try {
      bytes = digest();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT" && program === "php") return; // not on this machine
      throw error;
    }
    expect(signature).toBe(bytes.toString("base64url"));
    expect(JSON.parse(Buffer.from(header, "base64url").toString())).toEqual({ alg, typ: "JWT" });
    expect(token).not.toMatch(/[=+/]/);
  });
});

test.each(["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const)(
  "makes a link whose shop is set to %s",
  async (algorithm) => {
    const { robokassa, fake } = shop(algorithm);
    const { url, invId } = await robokassa.invoices.create({ ...invoice, invId: 9223372036854775807n });
    expect(invId).toBe("9223372036854775807");
    expect((await fake.pay({ url })).invId).toBe("9223372036854775807");
  },
);

test("sends every field by its documented name, amounts as the digits that were given", async () => {
  const { robokassa, payload } = shop();
  await robokassa.invoices.create({
    ...invoice,
    comment: "для склада",
    type: "OneTime",
    culture: "en",
    shp: { shp_info: "test" },
    items: [
      {
        name: "Қалам",
        quantity: "2",
        cost: "450.00",
        tax: "vat22",
        paymentMethod: "full_payment",
        paymentObject: "commodity",
      },
      { name: "Дәптер", quantity: "0.500", cost: "200.00", tax: "none", nomenclatureCode: "0105" },
    ],
    successUrl2: { url: "https://shop.example/ok", method: "GET" },
    failUrl2: { url: "https://shop.example/no", method: "POST" },
    expiresAt: new Date("2026-11-02T00:00:00.000Z"),
    email: "buyer@example.com",
    resultUrl2: "https://shop.example/r2",
    hold: true,
  });
  expect(payload()).toBe(
    '{"MerchantLogin":"demo-shop","InvoiceType":"OneTime","Culture":"en","InvId":7,"OutSum":1000.00,"Description":"Қалам",' +
      '"MerchantComments":"для склада","UserFields":{"shp_info":"test"},"InvoiceItems":[' +
      '{"Name":"Қалам","Quantity":2,"Cost":450.00,"PaymentMethod":"full_payment","PaymentObject":"commodity","Tax":"vat22"},' +
      '{"Name":"Дәптер","Quantity":0.500,"Cost":200.00,"Tax":"none","NomenclatureCode":"0105"}],' +
      '"SuccessUrl2Data":{"Url":"https://shop.example/ok","Method":"GET"},"FailUrl2Data":{"Url":"https://shop.example/no","Method":"POST"},' +
      '"ExpirationDate":"2026-11-02T00:00:00.000Z",' +
      '"AdditionalParameters":{"Email":"buyer@example.com","ResultURL2":"https://shop.example/r2","StepByStep":"true"}}',
  );
});

test("additional parameters are text, the shares of other shops included", async () => {
  const { robokassa, payload } = shop();
  await robokassa.invoices.create({
    ...invoice,
    split: [
      { id: "demo-shop", amount: "900.00" },
      { id: "other", invId: "8", amount: "100.00" },
    ],
  });
  expect(JSON.parse(payload()).AdditionalParameters).toEqual({
    Split: '[{"id":"demo-shop","InvoiceId":0,"amount":900.00},{"id":"other","InvoiceId":8,"amount":100.00}]',
  });
});

test.each([
  ["recurring", { hold: true, recurring: true }],
  ["token", { hold: true, token: "14D2" }],
  ["token", { recurring: true, token: "14D2" }],
  ["hold", { hold: true, type: "Reusable" }],
  ["type", { type: "Twice" }],
  ["culture", { culture: "kk" }],
  ["items", { items: [{ name: "A", quantity: "1", cost: "999.99", tax: "none" }] }],
  ["items[0].sum", { items: [{ name: "A", quantity: "1", sum: "1000.00", tax: "none" }] }],
  ["successUrl2.method", { successUrl2: { url: "https://shop.example", method: "get" } }],
  ["failUrl2", { failUrl2: null }],
  ["resultUrl2", { resultUrl2: "shop.example" }],
  ["expiresAt", { expiresAt: "tomorrow" }],
  ["comment", { comment: "" }],
  ["shp.shp_a", { shp: { shp_a: 5 } }],
  ["shp", { shp: null }],
  ["description", { description: 5 }],
  ["parts", { split: [{ id: "other", amount: "1000.01" }] }],
  ["invId", { invId: 7 }],
] as const)("names a wrong %s before anything is sent: %j", async (field, change) => {
  const { robokassa, fake } = shop();
  const refused = robokassa.invoices.create({ ...invoice, ...change } as unknown as InvoiceRequest);
  await expect(refused).rejects.toBeInstanceOf(InputError);
  await expect(refused).rejects.toMatchObject({ field });
  expect(fake.journal.entries).toHaveLength(0);
});

test("a one-time link is paid once, a reusable one again, an ended one never", async () => {
  const { robokassa, fake, clock } = shop();
  const once = await robokassa.invoices.create(invoice);
  const often = await robokassa.invoices.create({ ...invoice, invId: "8", type: "Reusable" });
  const late = await robokassa.invoices.create({
    ...invoice,
    invId: "9",
    expiresAt: new Date("2026-11-01T11:00:00.000Z"),
  });
  expect([(await fake.pay(once)).errorCode, (await fake.pay(once)).errorCode]).toEqual([undefined, 52]);
  expect([(await fake.pay(often)).errorCode, (await fake.pay(often)).errorCode]).toEqual([undefined, undefined]);
  clock.advance(3_600_000);
  expect((await fake.pay(late)).errorCode).toBe(51);
  expect((await fake.pay({ url: "https://auth.robokassa.ru/merchant/Invoice/nothing" })).errorCode).toBe(53);
});

test("an invoice is ended by its number, its id, or the last part of its link", async () => {
  const { robokassa, fake } = shop();
  const links = [];
  for (const invId of ["7", "8", "9"]) links.push(await robokassa.invoices.create({ ...invoice, invId }));
  await robokassa.invoices.deactivate("7");
  await robokassa.invoices.deactivate({ id: links[1]?.id as string });
  await robokassa.invoices.deactivate({ encodedId: links[2]?.encodedId as string });
  for (const { url } of links) expect((await fake.pay({ url })).errorCode).toBe(51);
  expect(links[2]?.url.endsWith(`/${links[2]?.encodedId}`)).toBe(true);
});

test("gives the number that Robokassa chose, when none was given", async () => {
  const { robokassa, fake } = shop();
  const { invId, url } = await robokassa.invoices.create({ ...invoice, invId: "" });
  expect(invId).toMatch(/^[1-9]\d+$/);
  expect((await fake.pay({ url })).invId).toBe(invId);
});

test("a fake on a port keeps its buyers: the link opens there, and is paid by its button", async () => {
  const fake = createFakeRobokassa(demoShop);
  const server = await listen(fake.handle);
  try {
    const robokassa = createRobokassa({ ...demoShop, apiUrl: server.url });
    const { url } = await robokassa.invoices.create(invoice);
    expect(url.startsWith(`${server.url}/merchant/Invoice/`)).toBe(true);
    const page = await (await fetch(url)).text();
    expect(page).toContain("Қалам");
    const action = /action="([^"]+)"/.exec(page)?.[1];
    const paid = await fetch(`${server.url}${action}`, {
      method: "POST",
      body: new URLSearchParams({ action: "pay" }),
    });
    expect(await paid.text()).toContain("Paid");
    expect(fake.operations).toMatchObject([{ invId: "7", state: 100 }]);
    expect(await (await fetch(url)).text()).toContain('data-error-code="52"');
  } finally {
    await server.close();
  }
});

describe("the list of invoices", () => {
  const filter = { from: new Date("2026-11-01T00:00:00.000Z"), to: new Date("2026-11-02T00:00:00.000Z") };

  /** A service with invoices 1 to `count` that gives at most 100 of them a page, the newest first. */
  function cappedService({ count = 250, tellsTotal = true, grows = 0 } = {}) {
    let calls = 0;
    const robokassa = createRobokassa({
      ...demoShop,
      fetch: async (_input, init) => {
        const [, payload = ""] = String(init?.body).split(".");
        const { CurrentPage, PageSize } = JSON.parse(Buffer.from(payload, "base64url").toString());
        const size = Math.min(PageSize, 100);
        const total = count + grows * calls++;
        const ids = Array.from({ length: total }, (_, index) => String(total - index));
        const page = ids.slice((CurrentPage - 1) * size, CurrentPage * size);
        const invoiceInformationList = page.map((id) => ({ id }));
        return Response.json({ isSuccess: true, invoiceInformationList, ...(tellsTotal ? { total } : {}) });
      },
    });
    return { robokassa, calls: () => calls };
  }

  test.each([
    ["that tells the total", { tellsTotal: true }, 3],
    ["that does not", { tellsTotal: false }, 4],
    ["while new ones come", { grows: 30 }, 4],
  ])(
    "is complete and without doubles from a service with shorter pages than asked for, %s",
    async (_case, how, calls) => {
      const service = cappedService(how);
      const ids = (await collect(service.robokassa.invoices.list({ ...filter, pageSize: 500 }))).map(({ id }) => id);
      const expected = Array.from({ length: 250 }, (_, index) => String(250 - index));
      expect(ids.filter((id) => Number(id) <= 250)).toEqual(expected);
      expect([new Set(ids).size, service.calls()]).toEqual([ids.length, calls]);
    },
  );

  test("goes over all pages and loses no digit", async () => {
    const { robokassa, fake } = shop();
    for (const invId of ["1", "2", "3", "4", "9223372036854775807"]) {
      await robokassa.invoices.create({ ...invoice, invId, outSum: "0.30", description: `Қалам ${invId}` });
    }
    await robokassa.invoices.deactivate("4");
    const all = await collect(robokassa.invoices.list({ ...filter, pageSize: 2 }));
    expect(all.map(({ invId }) => invId)).toEqual(["1", "2", "3", "4", "9223372036854775807"]);
    expect(all[4]).toEqual({
      id: expect.stringMatching(/^[\w-]{36}$/),
      invId: "9223372036854775807",
      type: "onetime",
      status: "notpaid",
      outSum: "0.30",
      description: "Қалам 9223372036854775807",
      url: expect.stringContaining("https://auth.robokassa.ru/merchant/Invoice/"),
      createdAt: "2026-11-01T10:00:00.000Z",
      modifiedAt: "2026-11-01T10:00:00.000Z",
    });
    expect(fake.journal.count("GetInvoiceInformationList")).toBe(3);
    expect(
      (await collect(robokassa.invoices.list({ ...filter, statuses: ["expired"] }))).map(({ invId }) => invId),
    ).toEqual(["4"]);
  });

  test("asks with every filter by its documented name", async () => {
    const { robokassa, payload } = shop();
    await collect(
      robokassa.invoices.list({
        ...filter,
        statuses: ["paid"],
        types: ["reusable"],
        keywords: "қалам",
        sumFrom: "1.00",
        sumTo: "2.50",
        ascending: false,
        pageSize: 10,
      }),
    );
    expect(payload()).toBe(
      '{"MerchantLogin":"demo-shop","CurrentPage":1,"PageSize":10,"InvoiceStatuses":["paid"],"InvoiceTypes":["reusable"],' +
        '"DateFrom":"2026-11-01T00:00:00.000Z","DateTo":"2026-11-02T00:00:00.000Z","Keywords":"қалам","IsAscending":false,"SumFrom":1.00,"SumTo":2.50}',
    );
  });

  test("is asked again after a lost reply, for it only reads", async () => {
    const { robokassa, fake, clock } = shop();
    await robokassa.invoices.create(invoice);
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    const listed = collect(robokassa.invoices.list(filter));
    await expect.poll(() => clock.sleepers).toBe(1);
    clock.advance(60_000);
    expect((await listed).length).toBe(1);
    expect(fake.journal.count("GetInvoiceInformationList")).toBe(2);
  });

  test.each([
    ["to", { to: new Date("2026-10-01T00:00:00.000Z") }],
    ["from", { from: "2026-11-01" }],
    ["statuses", { statuses: ["gone"] }],
    ["types", { types: [] }],
    ["pageSize", { pageSize: 0 }],
    ["sumFrom", { sumFrom: 5, sumTo: "6.00" }],
    ["sumTo", { sumFrom: "5.00", sumTo: "4.00" }],
    ["keywords", { keywords: "" }],
  ])("names a wrong %s", async (field, change) => {
    const { robokassa, fake } = shop();
    const listed = collect(robokassa.invoices.list({ ...filter, ...change } as never));
    await expect(listed).rejects.toMatchObject({ name: "InputError", field });
    expect(fake.journal.entries).toHaveLength(0);
  });
});
