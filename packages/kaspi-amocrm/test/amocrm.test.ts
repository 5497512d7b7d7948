import { ConfigError } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createAmocrm, createAmocrmWebhookHandler } from "../src/amocrm/index.ts";
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

test("all events of a webhook arrive, and only under its secret path", async () => {
  const received: unknown[] = [];
  const handle = createAmocrmWebhookHandler({
    secret: "unguessable-path",
    onEvents: async (events) => void received.push(...events),
  });
  const post = (secret: string, body: string) =>
    handle(
      new Request(`https://worker.example/amocrm/webhook/${secret}`, {
        method: "POST",
        body,
        headers: { "content-type": "application/x-www-form-urlencoded" },
      }),
    );
  const body =
    "leads[status][0][id]=1&leads[status][0][status_id]=142&leads[status][3][id]=2&leads[delete][0][id]=3&contacts[add][0][id]=4&contacts[add][0][type]=contact&account[id]=31000001";
  expect((await post("wrong", body)).status).toBe(404);
  expect(received).toEqual([]);
  expect((await post("unguessable-path", body)).status).toBe(200);
  expect(received).toMatchObject([
    { entity: "leads", action: "status", id: "1", statusId: "142", accountId: "31000001" },
    { entity: "leads", action: "status", id: "2" },
    { entity: "leads", action: "delete", id: "3" },
    { entity: "contacts", action: "add", id: "4" },
  ]);
  expect((await post("unguessable-path", "leads[__proto__][x][id]=1")).status).toBe(400);
});

test("a flood of webhooks is answered at once, handled one at a time, and waits within bounds", async () => {
  const calls: number[] = [];
  const { promise: handling, resolve: goOn } = Promise.withResolvers<void>();
  const warnings: unknown[] = [];
  const handle = createAmocrmWebhookHandler({
    secret: "unguessable-path",
    maxWaiting: 500,
    logger: { ...console, warn: (_text, fields) => void warnings.push(fields) },
    async onEvents(events) {
      calls.push(events.length);
      await handling;
      if (calls.length === 2) throw new Error("the second time fails");
    },
  });
  const flood = async (from: number, count: number) => {
    const answers = Array.from({ length: count }, (_, index) => {
      // Every event comes twice, as after a repetition.
      const id = from + (index >> 1);
      const body = `leads[update][0][id]=${id}&leads[update][0][last_modified]=1&account[id]=31000001`;
      const headers = { "content-type": "application/x-www-form-urlencoded" };
      return handle(new Request("https://worker.example/unguessable-path", { method: "POST", body, headers }));
    });
    return new Set((await Promise.all(answers)).map(({ status }) => status));
  };
  expect(await flood(1, 2000)).toEqual(new Set([200])); // while the first call still runs
  expect(calls).toEqual([1]);
  goOn();
  await expect.poll(() => calls).toEqual([1, 500]);
  expect(warnings).toEqual([{ dropped: expect.any(Number) }]);
  await flood(5000, 1);
  await expect.poll(() => calls.length).toBe(3); // a failure does not end the queue
});

test("the fake's own webhooks reach the handler: several events in a body, repeated after a failure, switched off in the end", async () => {
  const clock = createFakeClock("2026-11-20T06:00:00.000Z");
  const received: string[] = [];
  let status = 500;
  const handle = createAmocrmWebhookHandler({
    secret: "unguessable-path",
    onEvents: async (events) =>
      void received.push(...events.map(({ action, id, statusId }) => `${action} ${id} ${statusId}`)),
  });
  const fake = createFakeAmocrm({
    clock,
    ratePerSecond: 50,
    deliver: async (request) => (status === 200 ? handle(request) : new Response(null, { status })),
  });
  const fetch = fetchFrom(fake.handle);
  const amocrm = createAmocrm({ host: fakeAccount.host, token: "amo-token", ratePerSecond: 50, fetch });
  const address = "https://worker.example/amocrm/webhook/unguessable-path";
  await amocrm.webhooks.subscribe(address, ["add_lead"]);
  await amocrm.webhooks.subscribe(address, ["add_lead", "status_lead"]);
  expect(await amocrm.webhooks.list()).toEqual([
    { destination: address, events: ["add_lead", "status_lead"], isDisabled: false },
  ]);
  const lead = fake.addLead({ name: "Первая" });
  fake.moveLead(lead.id, fakeAccount.stageIds.accepted);
  expect(await fake.hooks.deliver()).toEqual([500]);
  clock.advance(4 * 60_000);
  expect(await fake.hooks.deliver()).toEqual([]); // the second attempt comes after five minutes
  clock.advance(60_000);
  status = 200;
  expect(await fake.hooks.deliver()).toEqual([200]);
  expect(received).toEqual([`add ${lead.id} 70011`, `status ${lead.id} 70012`]);

  status = 404;
  for (let round = 0; round < 101; round++) {
    fake.moveLead(lead.id, fakeAccount.stageIds.delivery - (round % 2));
    await fake.hooks.deliver();
  }
  expect(await amocrm.webhooks.list()).toMatchObject([{ isDisabled: true }]);
  expect([await amocrm.webhooks.unsubscribe(address), await amocrm.webhooks.unsubscribe(address)]).toEqual([
    true,
    false,
  ]);
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
