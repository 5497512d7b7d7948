import { ConfigError } from "@orderbridge/core";
import { fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createAmocrm } from "../src/amocrm/index.ts";
import { createFakeAmocrm, type FakeAmocrmOptions, fakeAccount } from "../src/testing/index.ts";
import { createSteppingClock } from "./setting.ts";

function createScene(options: FakeAmocrmOptions = {}) {
  const clock = createSteppingClock();
  const fake = createFakeAmocrm({ clock, ...options });
  const amocrm = createAmocrm({
    host: fakeAccount.host,
    token: "amo-token",
    clock,
    fetch: fetchFrom(fake.handle),
    minDelayMs: 1,
  });
  return { clock, fake, amocrm };
}

async function all<Item>(source: AsyncIterable<Item>): Promise<Item[]> {
  const items: Item[] = [];
  for await (const item of source) items.push(item);
  return items;
}

test("answers are matched by request_id, whatever their order", async () => {
  const { amocrm, fake } = createScene();
  const leads = Array.from({ length: 50 }, (_, index) => ({ requestId: `order ${index}`, name: `Lead ${index}` }));
  const { written, uncertain } = await amocrm.leads.create(leads);
  expect(uncertain).toEqual([]);
  for (const lead of fake.leads) expect(written.get(`order ${lead.name.slice(5)}`)).toBe(String(lead.id));
});

test("leads/complex tells contacts, and that duplicate control merged into an existing lead", async () => {
  const { amocrm, fake } = createScene({ duplicateControl: { leadFieldId: fakeAccount.orderCodeFieldId } });
  const one = {
    requestId: "1",
    name: "Kaspi 1",
    fields: [{ fieldId: String(fakeAccount.orderCodeFieldId), values: ["1"] }],
    contact: { name: "Айгүл", phone: "+77010000001" },
  };
  const first = await amocrm.leads.createComplex([one, { ...one, requestId: "2", fields: [] }]);
  expect([...first.written.keys()].sort()).toEqual(["1", "2"]);
  expect(first.contacts.get("1")).toBe(String(fake.contacts[0]?.id));
  const again = await amocrm.leads.createComplex([one]);
  expect(again.merged).toEqual(new Set(["1"]));
  expect(again.written.get("1")).toBe(first.written.get("1"));
  await expect(amocrm.leads.createComplex(Array(51).fill(one))).rejects.toThrow(ConfigError);
});

test("an empty list and a missing lead are no error", async () => {
  const { amocrm } = createScene();
  expect(await all(amocrm.leads.list())).toEqual([]);
  expect(await amocrm.leads.get("1")).toBeUndefined();
  expect(await amocrm.contacts.findByPhone("+77010000001")).toBeUndefined();
});

test("lists are read to their end, page by page", async () => {
  const { amocrm, fake } = createScene();
  for (let index = 0; index < 501; index++) fake.addContact({ name: `Contact ${index}` });
  expect(await all(amocrm.contacts.list())).toHaveLength(501);
  expect(fake.journal.entries).toHaveLength(3);
});

test("one bad item is named; what became of the others has to be looked up", async () => {
  const { amocrm, fake } = createScene({ badItems: "partial" });
  const result = await amocrm.leads.create([
    { requestId: "good", name: "Good" },
    { requestId: "bad", name: "Bad", responsibleUserId: "999" },
  ]);
  expect(result.rejected).toEqual(new Map([["bad", "NotSupportedChoice responsible_user_id"]]));
  expect([result.uncertain, result.settled]).toEqual([["good"], true]);
  expect(fake.leads).toHaveLength(1);
});

test("40 calls at once keep every sliding second within seven", async () => {
  const { amocrm, fake, clock } = createScene();
  const startedAt = clock.monotonicMs();
  await Promise.all(Array.from({ length: 40 }, () => amocrm.leads.get("1")));
  expect([fake.busiestSecond, fake.violations]).toEqual([7, 0]);
  expect(clock.monotonicMs() - startedAt).toBeLessThan(6_600);
});

test("an HTML 429 is waited out, also for a write", async () => {
  const { amocrm, fake } = createScene();
  fake.faults.add({ fault: { kind: "rateLimit" }, times: 2 });
  expect((await amocrm.leads.create([{ requestId: "1", name: "One" }])).written.size).toBe(1);
  expect(fake.leads).toHaveLength(1);
});

test("events, fields, elements and contacts: each area of the API answers in our terms", async () => {
  const { amocrm, fake } = createScene();
  const { written } = await amocrm.contacts.create([{ requestId: "1", name: "Айгүл", phone: "+77010000001" }]);
  const contactId = written.get("1") as string;
  await amocrm.contacts.update([{ id: contactId, name: "Айгүл С.", phone: "+77010000002" }]);
  expect([fake.contacts[0]?.name, fake.contacts[0]?.phones]).toEqual(["Айгүл С.", ["+77010000002"]]);
  expect((await amocrm.contacts.get(contactId))?.phones).toEqual(["+77010000002"]);

  const catalogId = String(fakeAccount.catalogId);
  await amocrm.catalogs.createElements(catalogId, [{ requestId: "s", name: "Шам", sku: "LAMP", price: "7990.00" }]);
  const element = await amocrm.catalogs.findBySku(catalogId, "LAMP");
  await amocrm.catalogs.renameElements(catalogId, [{ id: element?.id ?? "", name: "Лампа" }]);
  expect(await amocrm.catalogs.element(catalogId, element?.id ?? "")).toMatchObject({ name: "Лампа", sku: "LAMP" });
  expect(await amocrm.catalogs.element(catalogId, "1")).toBeUndefined();
  expect((await amocrm.elementFields(catalogId)).map(({ code, type }) => [code, type])).toEqual([
    ["SKU", "text"],
    ["PRICE", "price"],
  ]);
  expect((await amocrm.contactFields()).map(({ code }) => code)).toEqual(["PHONE"]);

  const lead = fake.addLead({ name: "Первая" });
  fake.moveLead(lead.id, fakeAccount.stageIds.accepted);
  fake.addLead({ name: "Вторая" });
  const moves = await all(amocrm.events({ types: ["lead_status_changed"], leadIds: [String(lead.id)] }));
  expect(moves).toMatchObject([{ type: "lead_status_changed", leadId: String(lead.id), createdBy: "0" }]);
  expect(await all(amocrm.events())).toHaveLength(3);
  const asked = decodeURIComponent(fake.journal.entries.find(({ path }) => path.includes("/events"))?.path ?? "");
  expect(asked).toContain(`filter[entity][]=lead&filter[type][]=lead_status_changed&filter[entity_id][]=${lead.id}`);
  await expect(all(amocrm.events({ leadIds: Array(11).fill("1") }))).rejects.toThrow(ConfigError);
});

test.each(["html", "retry-after", "json"] as const)(
  "a 429 as %s pauses the budget, and the call goes on",
  async (rateLimitAnswer) => {
    const { amocrm, fake, clock } = createScene({ rateLimitAnswer });
    fake.faults.add({ fault: { kind: "rateLimit" } });
    const startedAt = clock.monotonicMs();
    await amocrm.account();
    expect(fake.journal.entries.map(({ status }) => status)).toEqual([429, 200]);
    if (rateLimitAnswer !== "html") expect(clock.monotonicMs() - startedAt).toBeGreaterThanOrEqual(3_000);
  },
);

test("a field for the order code is made once: an answer that is lost is looked up, and a second call finds it", async () => {
  const { amocrm, fake } = createScene();
  const isCreation = (request: Request) => request.method === "POST";
  fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 502 }, match: isCreation });
  await expect(amocrm.createLeadField("Код заказа")).rejects.toMatchObject({ status: 502, outcome: "unknown" });
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: isCreation });
  const id = await amocrm.createLeadField("Код заказа");
  expect(await amocrm.createLeadField("Код заказа")).toBe(id);
  expect((await amocrm.leadFields()).filter(({ name }) => name === "Код заказа")).toEqual([
    { id, name: "Код заказа", code: undefined, type: "text" },
  ]);
  expect(fake.journal.count("POST /api/v4/leads/custom_fields")).toBe(2);
  const other = await amocrm.createLeadField("Ещё одно");
  expect(other).not.toBe(id);
  fake.addLead({ name: "Первая" });
  const fields = [{ fieldId: other, values: ["700000001"] }];
  const { written } = await amocrm.leads.create([{ requestId: "1", name: "Вторая", fields }]);
  expect((await amocrm.leads.get(written.get("1") ?? ""))?.fields).toMatchObject(fields);
});

test("the request for a field is the documented one: an array with name and type, and a whole field comes back", async () => {
  const bodies: unknown[] = [];
  const answers = [
    new Response(null, { status: 204 }),
    // As on the vendor's page: 201, no request_id.
    new Response(
      JSON.stringify({
        _total_items: 1,
        _embedded: {
          custom_fields: [
            { name: "Код заказа", type: "text", sort: 510, settings: null, id: 4457223, code: null, enums: null },
          ],
        },
      }),
      { status: 201, headers: { "content-type": "application/hal+json" } },
    ),
  ];
  const vendor = async (request: Request) => {
    if (request.method === "POST") bodies.push([new URL(request.url).pathname, await request.json()]);
    return answers.shift() as Response;
  };
  const amocrm = createAmocrm({
    host: fakeAccount.host,
    token: "amo-token",
    fetch: fetchFrom(vendor),
    ratePerSecond: 50,
  });
  expect(await amocrm.createLeadField("Код заказа")).toBe("4457223");
  expect(bodies).toEqual([["/api/v4/leads/custom_fields", [{ name: "Код заказа", type: "text" }]]]);
});

test("what needs an administrator says so", async () => {
  const { amocrm, fake } = createScene({ isAdmin: false });
  await expect(amocrm.createLeadField("Код заказа")).rejects.toThrow("only an administrator may make a field");
  await expect(amocrm.webhooks.subscribe("https://worker.example/x", ["add_lead"])).rejects.toMatchObject({
    status: 403,
  });
  expect([fake.hooks.subscriptions.length, (await amocrm.leadFields()).length]).toEqual([0, 1]);
});

test("the fake refuses fields that the vendor's page does not know", async () => {
  const { fake } = createScene();
  const post = async (body: unknown) => {
    const headers = { authorization: "Bearer amo-token" };
    const url = `https://${fakeAccount.host}/api/v4/leads/custom_fields`;
    return (await fake.handle(new Request(url, { method: "POST", headers, body: JSON.stringify(body) }))).status;
  };
  expect(await post([{ type: "text" }])).toBe(400);
  expect(await post([{ name: "Х", type: "price" }])).toBe(400); // of lists only
  expect(await post([{ name: "Х", type: "text", colour: "red" }])).toBe(400);
  expect(await post({ name: "Х", type: "text" })).toBe(400); // no array
  expect(await post([{ name: "Х", type: "text", code: "X", sort: 510, is_api_only: false }])).toBe(201);
});
