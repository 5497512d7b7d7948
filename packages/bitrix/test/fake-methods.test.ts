// The fake portal against the vendor's documents, by plain requests: what our client makes of it is tested elsewhere.
// Contacts, user fields, products and prices: the page of each method, apidocs.bitrix24.ru (read 2026-11); where the sources differ, each reading.
import { describe, expect, test } from "vitest";
import { call, setUp } from "./fake-requests.ts";

describe("the pages of single methods", () => {
  test("crm.contact: texts with an empty code, multifields only with a value", async () => {
    const { fake } = setUp();
    const refusal = async (method: string, parameters: object) => {
      const { body } = await call(fake, method, parameters);
      return [body.error, body.error_description];
    };
    expect(await refusal("crm.contact.get", { id: 5 })).toEqual(["", "Not found"]);
    expect(await refusal("crm.contact.get", { id: "x" })).toEqual(["", "ID is not defined or invalid."]);
    expect(await refusal("crm.contact.update", { id: 5, fields: {} })).toEqual(["", "Contact is not found"]);
    expect(await refusal("crm.contact.add", {})).toEqual(["", "Parameter 'fields' must be array."]);
    const id = (await call(fake, "crm.contact.add", { fields: { NAME: "Айгүл", PHONE: [{ VALUE: "+77010000001" }] } }))
      .body.result;
    const { PHONE, ...row } = (await call(fake, "crm.contact.get", { id })).body.result;
    expect(PHONE).toMatchObject([{ VALUE: "+77010000001", VALUE_TYPE: "WORK", TYPE_ID: "PHONE" }]);
    expect(row).toMatchObject({ ID: String(id), NAME: "Айгүл", HAS_PHONE: "Y", HAS_EMAIL: "N" });
    await call(fake, "crm.contact.update", { id, fields: { PHONE: [{ ID: PHONE[0].ID }] } });
    expect((await call(fake, "crm.contact.get", { id })).body.result).not.toHaveProperty("PHONE");
  });

  test("crm.deal.userfield: required fields, allowed names, labels in one language only when it is named", async () => {
    const { fake } = setUp();
    const refusal = async (fields: object) => (await call(fake, "crm.deal.userfield.add", { fields })).body;
    expect(await refusal({ FIELD_NAME: "A" })).toEqual({
      error: "",
      error_description: "The 'USER_TYPE_ID' field is not found.",
    });
    expect((await refusal({ USER_TYPE_ID: "string" })).error_description).toBe("The 'FIELD_NAME' field is not found.");
    expect((await refusal({ FIELD_NAME: "a-b", USER_TYPE_ID: "string" })).error_description).toMatch(
      /invalid characters/,
    );
    expect((await refusal({ FIELD_NAME: "A2345678901234", USER_TYPE_ID: "string" })).error_description).toMatch(
      /too long/,
    );
    const LIST = [{ VALUE: "роза", XML_ID: "rose" }, { VALUE: "" }];
    await call(fake, "crm.deal.userfield.add", {
      fields: { FIELD_NAME: "A", USER_TYPE_ID: "enumeration", LABEL: "Цветы", LIST },
    });
    const list = async (filter: object) => (await call(fake, "crm.deal.userfield.list", { filter })).body.result;
    const [plain] = await list({ FIELD_NAME: "UF_CRM_A" });
    expect(plain).toMatchObject({ USER_TYPE_ID: "enumeration", LIST: [{ VALUE: "роза", XML_ID: "rose" }] });
    expect(plain).not.toHaveProperty("EDIT_FORM_LABEL");
    expect((await list({ FIELD_NAME: "UF_CRM_A", LANG: "ru" }))[0]).toMatchObject({ EDIT_FORM_LABEL: "Цветы" });
  });

  test("catalog.product: what select and filter must hold, the keys of the answers, the codes", async () => {
    const { fake } = setUp();
    fake.addProduct({ id: 7, iblockId: 23, name: "Роза" });
    const list = async (parameters: object) => (await call(fake, "catalog.product.list", parameters)).body;
    expect(await list({ select: ["id"], filter: { iblockId: 23 } })).toEqual({
      error: 0,
      error_description: "Required select fields: iblockId",
    });
    expect(await list({ select: ["id", "iblockId"] })).toEqual({
      error: 0,
      error_description: "Required filter fields: iblockId",
    });
    expect((await list({ select: ["id", "iblockId"], filter: { iblockId: 23 } })).result).toEqual({
      products: [{ id: 7, iblockId: 23 }],
    });
    expect((await call(fake, "catalog.product.get", { id: 7 })).body.result.product).toMatchObject({
      name: "Роза",
      xmlId: "7",
    });
    expect((await call(fake, "catalog.product.get", { id: 8 })).body).toEqual({
      error: "",
      error_description: "product does not exist.",
    });
    expect((await call(fake, "catalog.product.get")).body).toEqual({
      error: "100",
      error_description: "Could not find value for parameter {id}",
    });
    expect((await call(fake, "catalog.product.add", { fields: { name: "x" } })).body.error).toBe(0);
    expect((await call(fake, "catalog.product.add", { fields: {} })).body.error).toBe("100");
    expect(
      (await call(fake, "catalog.product.update", { id: 7, fields: { name: "y" } })).body.result.element.name,
    ).toBe("y");
  });

  test("catalog.price: all four fields are required, one row for a type; modify deletes what it is not given", async () => {
    const { fake } = setUp();
    fake.addProduct({ id: 7, iblockId: 23 });
    const add = async (fields: object) => (await call(fake, "catalog.price.add", { fields })).body;
    const price = { productId: 7, catalogGroupId: 1, price: 5000, currency: "KZT" };
    for (const name of Object.keys(price)) {
      expect((await add({ ...price, [name]: undefined })).error_description).toBe(`Required fields: ${name}`);
    }
    expect((await add({ ...price, catalogGroupId: 99 })).error_description).toBe(
      "Validate price error. Catalog price group is wrong",
    );
    const { id } = (await add(price)).result.price;
    expect(await add(price)).toMatchObject({
      error: 0,
      error_description: expect.stringContaining("only single price"),
    });
    await add({ ...price, catalogGroupId: 2 });
    const update = async (fields: object, of = id) =>
      (await call(fake, "catalog.price.update", { id: of, fields })).body;
    expect(await update({ price: 1 })).toEqual({ error: 0, error_description: "Required fields: currency" });
    expect(await update({ price: 1, currency: "KZT" }, 99)).toEqual({
      error: "",
      error_description: "Price does not exist",
    });
    const product = { id: 7, prices: [{ id, catalogGroupId: 1, price: 6000, currency: "KZT" }] };
    const { prices } = (await call(fake, "catalog.price.modify", { fields: { product } })).body.result;
    expect(prices).toMatchObject([{ id, price: 6000 }]);
    const list = await call(fake, "catalog.price.list", { filter: { productId: 7 } });
    expect(list.body.result.prices).toHaveLength(1);
    const types = (await call(fake, "catalog.priceType.list")).body.result.priceTypes;
    expect(types).toMatchObject([
      { id: 1, base: "Y" },
      { id: 2, base: "N" },
    ]);
  });
});
