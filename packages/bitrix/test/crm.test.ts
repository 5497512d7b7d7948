import { ResponseShapeError } from "@orderbridge/core";
import { fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, InputError } from "../src/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

function setUp() {
  const portal = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 } });
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(portal.handle),
    plan: { intervalMs: 0.001, capacity: 1 },
    minDelayMs: 1,
    retries: 2,
  });
  portal.addSmartProcess({
    entityTypeId: 130,
    title: "Доставка",
    userFields: ["ufCrm_ADDRESS"],
    booleanFields: ["ufUrgent"],
  });
  const lose = (method: string) =>
    portal.faults.add({
      fault: { kind: "dropReplyAfterExecuting" },
      match: (request) => request.url.endsWith(`/${method}`),
    });
  const written = (method: string) => portal.writes.filter((write) => write.method === method);
  return { portal, bitrix, lose, written };
}

describe("elements of a smart process", () => {
  test("are created once for one xmlId, also when the reply is lost", async () => {
    const { portal, bitrix, lose } = setUp();
    const items = bitrix.items(130);
    lose("crm.item.add");
    const created = await items.add({ match: { xmlId: "order-17" }, fields: { title: "Жеткізу 17" } });
    expect((await items.add({ match: { xmlId: "order-17" }, fields: { title: "x" } })).id).toBe(created.id);
    expect(portal.items(130)).toMatchObject([{ xmlId: "order-17", title: "Жеткізу 17" }]);
    expect(await items.get(created.id)).toMatchObject({ xmlId: "order-17" });
    expect(await items.get("999999")).toBeUndefined();
  });

  test("a field that the type does not have cannot stand for an id", async () => {
    const { portal, bitrix } = setUp();
    const add = bitrix.items(130).add({ match: { originId: "17" }, fields: {} });
    await expect(add).rejects.toMatchObject({ vendorCode: "INVALID_ARG_VALUE" });
    expect(portal.items(130)).toEqual([]);
    await expect(bitrix.items(130).add({ match: {}, fields: {} })).rejects.toThrow("match must name");
    expect(() => bitrix.items(0)).toThrow(InputError);
  });

  test("a portal that leaves the id out is noticed at once, not at the next doubled element", async () => {
    const { portal } = setUp();
    const bitrix = createBitrix({
      webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
      plan: { intervalMs: 0.001, capacity: 1 },
      fetch: async (input) =>
        String(input).endsWith("crm.item.list")
          ? Response.json({ result: { items: [{ id: 1, title: "чужой", xmlId: "other" }] } }) // the filter was ignored
          : Response.json({ result: { item: { id: 2, title: "наш", xmlId: null } } }),
    });
    const add = bitrix.items(130).add({ match: { xmlId: "order-17" }, fields: {} });
    await expect(add).rejects.toThrow(ResponseShapeError);
  });

  test("yes and no are read as Y and N, and filtered as the list wants", async () => {
    const { bitrix } = setUp();
    const items = bitrix.items(130);
    await items.add({ match: { xmlId: "1" }, fields: { ufUrgent: "Y" } });
    const second = await items.add({ match: { xmlId: "2" }, fields: { ufUrgent: "N" } });
    const urgent = [];
    for await (const { fields } of items.list({ filter: { "=ufUrgent": true } })) urgent.push(fields.ufUrgent);
    expect(urgent).toEqual(["Y"]);
    expect((await items.update(second.id, { ufUrgent: "Y", noSuchField: 1 })).fields).toMatchObject({ ufUrgent: "Y" });
  });
});

describe("contacts", () => {
  test("are created once for one origin, also when the reply is lost", async () => {
    const { bitrix, lose, written } = setUp();
    lose("crm.contact.add");
    const contact = { originatorId: "shop", originId: "buyer-5", fields: { NAME: "Айгүл", UF_CRM_CITY: "Алматы" } };
    const created = await bitrix.contacts.add({ ...contact, phones: [{ value: "+77011234567", type: "MOBILE" }] });
    expect(created).toMatchObject({ name: "Айгүл", phones: [{ value: "+77011234567", type: "MOBILE" }] });
    expect(created.fields.UF_CRM_CITY).toBe("Алматы");
    expect((await bitrix.contacts.add(contact)).id).toBe(created.id);
    expect(written("crm.contact.add")).toHaveLength(1);
  });

  test("a phone that is there is not doubled, another one is added, a named row is changed, the rest stays", async () => {
    const { bitrix, written } = setUp();
    const { contacts } = bitrix;
    const phones = [{ value: "+77011234567", type: "MOBILE" }, { value: "+77272334455" }];
    const { id, phones: before } = await contacts.add({ originatorId: "shop", originId: "1", phones });
    await contacts.update(id, { phones: [{ value: "+77011234567" }] });
    expect(written("crm.contact.update")).toEqual([]);
    const after = await contacts.update(id, {
      phones: [
        { id: before[1]?.id, value: "+77272334466" },
        { value: "+77059998877", type: "HOME" },
      ],
      emails: [{ value: "aigul@example.kz" }],
    });
    expect(after.phones.map(({ value, type }) => [value, type])).toEqual([
      ["+77011234567", "MOBILE"],
      ["+77272334466", "WORK"],
      ["+77059998877", "HOME"],
    ]);
    expect(after.emails).toHaveLength(1);
  });

  test("an empty value, which would delete the row, and rows of another contact are refused", async () => {
    const { bitrix, written } = setUp();
    const { contacts } = bitrix;
    const { id, phones } = await contacts.add({
      originatorId: "shop",
      originId: "1",
      phones: [{ value: "+77011234567" }],
    });
    const refused = [
      [{ phones: [{ id: phones[0]?.id, value: " " }] }, "must not be empty"],
      [{ phones: [{ id: "999", value: "+7701" }] }, "has no row 999"],
      [{ fields: { PHONE: [] } }, "must not hold PHONE"],
    ] as const;
    for (const [change, reason] of refused) await expect(contacts.update(id, change)).rejects.toThrow(reason);
    await expect(contacts.update("999999", {})).rejects.toThrow(InputError);
    expect(written("crm.contact.update")).toEqual([]);
  });

  test("are found by exactly this phone or e-mail, and listed with them", async () => {
    const { bitrix } = setUp();
    const { contacts } = bitrix;
    await contacts.add({ originatorId: "shop", originId: "1", phones: [{ value: "+77011234567" }] });
    await contacts.add({ originatorId: "shop", originId: "2", emails: [{ value: "b@example.kz" }] });
    expect((await contacts.find({ phone: "+77011234567" })).map(({ originId }) => originId)).toEqual(["1"]);
    expect(await contacts.find({ phone: "87011234567" })).toEqual([]);
    expect((await contacts.find({ email: "b@example.kz" })).map(({ originId }) => originId)).toEqual(["2"]);
    const listed = [];
    for await (const { emails } of contacts.list({ filter: { ORIGINATOR_ID: "shop" } })) listed.push(emails.length);
    expect(listed).toEqual([0, 1]);
    expect(await contacts.get("999999")).toBeUndefined();
  });
});

test("a payment of a deal is paid once, also when the reply is lost, and taken back", async () => {
  const { portal, bitrix, lose, written } = setUp();
  const { id } = portal.addDeal({ title: "Роза" });
  portal.addDealPayment({ id: 1036, dealId: id, sum: 5000.5 });
  portal.addDealPayment({ id: 1037, dealId: id + 1, sum: 1 });
  const { payments } = bitrix.deals;
  expect(await payments.ofDeal(String(id))).toMatchObject([
    { id: "1036", paid: false, sum: "5000.50", currency: "KZT" },
  ]);
  lose("crm.item.payment.pay");
  expect(await payments.setPaid(String(id), "1036", true)).toMatchObject({ paid: true, datePaid: expect.any(String) });
  await payments.setPaid(String(id), "1036", true);
  expect(written("crm.item.payment.pay")).toHaveLength(1);
  expect((await payments.setPaid(String(id), "1036", false)).paid).toBe(false);
  await expect(payments.setPaid(String(id), "1037", true)).rejects.toThrow("is not a payment of this deal");
});

test("funnels and dictionaries come in their order", async () => {
  const { portal, bitrix } = setUp();
  portal.addCategory(9, "Доставка", [
    { id: "C9:WON", name: "Жеткізілді", sort: 20, semantics: "success" },
    { id: "C9:NEW", name: "Жаңа", sort: 10, semantics: "process" },
  ]);
  expect(await bitrix.categories.list()).toEqual([
    { id: "0", name: "Общая", isDefault: true },
    { id: "9", name: "Доставка", isDefault: false },
  ]);
  expect((await bitrix.categories.dictionary("DEAL_STAGE_9")).map(({ id, semantics }) => [id, semantics])).toEqual([
    ["C9:NEW", "process"],
    ["C9:WON", "success"],
  ]);
  expect(await bitrix.categories.dictionary("DEAL_STAGE_77")).toEqual([]);
});

describe("user fields of deals", () => {
  test("one that is missing is created once, with the portal's own prefix, and holds values", async () => {
    const { bitrix, lose, written } = setUp();
    const { userFields } = bitrix.deals;
    lose("crm.deal.userfield.add");
    const field = { type: "string", label: "Номер накладной" };
    expect(await userFields.ensure("UF_CRM_WAYBILL", field)).toMatchObject({ name: "UF_CRM_WAYBILL", type: "string" });
    await userFields.ensure("UF_CRM_WAYBILL", field);
    expect(written("crm.deal.userfield.add")).toMatchObject([{ fields: { FIELD_NAME: "WAYBILL" } }]);
    const deal = await bitrix.deals.add({ originatorId: "shop", originId: "1", fields: { UF_CRM_WAYBILL: "А-17" } });
    expect(deal.fields.UF_CRM_WAYBILL).toBe("А-17");
    expect((await userFields.list()).map(({ name }) => name)).toEqual(["UF_CRM_ORDER_ID", "UF_CRM_WAYBILL"]);
  });

  test("a name that the portal cannot have and a field of another type are refused", async () => {
    const { bitrix, written } = setUp();
    const ensure = (name: string, type: string) => bitrix.deals.userFields.ensure(name, { type, label: "x" });
    for (const name of ["ORDER_ID", "UF_CRM_order", "UF_CRM_FOURTEEN_CHARS"]) {
      await expect(ensure(name, "string")).rejects.toThrow("name must be");
    }
    await expect(ensure("UF_CRM_ORDER_ID", "integer")).rejects.toThrow("exists as string");
    expect(written("crm.deal.userfield.add")).toEqual([]);
  });

  test("that two processes make at once is one field; any other refusal is told", async () => {
    const { portal, bitrix, written } = setUp();
    const ensure = (type = "string") => bitrix.deals.userFields.ensure("UF_CRM_WAYBILL", { type, label: "x" });
    const [one, two] = await Promise.all([ensure(), ensure()]);
    expect(one).toEqual(two);
    expect(portal.journal.count("/crm.deal.userfield.add")).toBe(2);
    expect(written("crm.deal.userfield.add")).toHaveLength(1);
    portal.setBeforeCommand((method) =>
      method === "crm.deal.userfield.add" ? { status: 400, error: "", description: "Access denied" } : undefined,
    );
    const refused = bitrix.deals.userFields.ensure("UF_CRM_OTHER", { type: "string", label: "x" });
    await expect(refused).rejects.toMatchObject({ outcome: "refused", vendorCode: "" });
  });
});
