import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, InputError } from "../src/index.ts";
import { createFakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";

const iblockId = 23;

function setUp(options: FakeBitrixOptions = {}) {
  const portal = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 }, ...options });
  const bitrix = createBitrix({
    webhookUrl: portal.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(portal.handle),
    plan: { intervalMs: 0.001, capacity: 1 },
    minDelayMs: 1,
    retries: 2,
  });
  portal.addProduct({ id: 1243, iblockId, name: "Раушан гүлі, 25 дана", xmlId: "rose-25" });
  portal.addPrice({ id: 1, productId: 1243, catalogGroupId: 1, price: 4500.5 });
  portal.addPrice({ id: 2, productId: 1243, catalogGroupId: 2, price: 4000 });
  const lose = (method: string) =>
    portal.faults.add({
      fault: { kind: "dropReplyAfterExecuting" },
      match: (request) => request.url.endsWith(`/${method}`),
    });
  const written = (method: string) => portal.writes.filter((write) => write.method === method);
  return { portal, bitrix, products: bitrix.products, lose, written };
}

describe("products", () => {
  test("are read with what the list insists on, in order, by the caller's filter", async () => {
    const { portal, products } = setUp();
    portal.addProduct({ id: 1300, iblockId, name: "Эустома", active: "N" });
    portal.addProduct({ id: 1301, iblockId: 99, name: "Другой каталог" });
    const rows = [];
    for await (const row of products.list({ iblockId })) rows.push([row.id, row.name, row.active]);
    expect(rows).toEqual([
      ["1243", "Раушан гүлі, 25 дана", true],
      ["1300", "Эустома", false],
    ]);
    const inactive = [];
    for await (const { id } of products.list({ iblockId, filter: { active: "N" } })) inactive.push(id);
    expect(inactive).toEqual(["1300"]);
  });

  test.each(["", 0] as const)("one that does not exist is undefined (its code: %o)", async (missingProductCode) => {
    const { products } = setUp({ missingProductCode });
    expect(await products.get("999")).toBeUndefined();
    expect(await products.get("1243")).toMatchObject({ id: "1243", iblockId: "23", xmlId: "rose-25" });
  });

  test("are created once for one xmlId, also when the reply is lost", async () => {
    const { products, lose, written } = setUp();
    lose("catalog.product.add");
    const created = await products.add({ iblockId, xmlId: "tulip", name: "Қызғалдақ" });
    expect((await products.add({ iblockId, xmlId: "tulip", name: "Қызғалдақ" })).id).toBe(created.id);
    expect(written("catalog.product.add")).toHaveLength(1);
    expect((await products.find({ iblockId, xmlId: "tulip" }))?.id).toBe(created.id);
    expect(await products.find({ iblockId, xmlId: "TULIP" })).toBeUndefined();
    await expect(products.add({ iblockId, xmlId: "", name: "x" })).rejects.toThrow(InputError);
  });

  test("a change that would drop stored values of a property is refused, unless it is meant", async () => {
    const { portal, bitrix, products } = setUp();
    await products.update("1243", { property258: [{ value: "белая" }, { value: "красная" }] });
    const stored = portal.product(1243)?.property258 as { value: string; valueId: string }[] | undefined;
    const [first, second] = stored ?? [];
    await expect(products.update("1243", { property258: [{ value: "розовая" }] })).rejects.toThrow(
      `property258 would drop the stored values ${first?.valueId}, ${second?.valueId}`,
    );
    await expect(products.update("1243", { property258: { value: "одна" } })).rejects.toThrow(InputError);
    const kept = [{ ...first }, { ...second, value: "алая" }, { value: "розовая" }];
    const { fields } = await products.update("1243", { property258: kept as never });
    expect((fields.property258 as { value: string }[]).map(({ value }) => value)).toEqual(["белая", "алая", "розовая"]);
    await products.update("1243", { property258: [{ value: "одна" }] }, { dropsValues: true });
    expect(portal.product(1243)?.property258).toHaveLength(1);
    expect(await bitrix.products.update("1243", { name: "Роза" })).toMatchObject({ name: "Роза" });
  });
});

describe("prices", () => {
  test("are decimal text, by type", async () => {
    const { products } = setUp();
    expect(await products.prices("1243")).toEqual([
      expect.objectContaining({
        id: "1",
        priceTypeId: "1",
        price: "4500.50",
        currency: "KZT",
        quantityFrom: undefined,
      }),
      expect.objectContaining({ id: "2", priceTypeId: "2", price: "4000.00" }),
    ]);
    expect(await products.priceTypes()).toEqual([
      { id: "1", name: "BASE", isBase: true },
      { id: "2", name: "Опт", isBase: false },
    ]);
  });

  test("the base price is set and no other row is touched; the same price is not written", async () => {
    const { portal, products, written } = setUp();
    const price = { price: "5000.00", currency: "KZT" };
    expect(await products.setPrice("1243", price)).toMatchObject({ id: "1", price: "5000.00" });
    await products.setPrice("1243", price);
    expect(portal.prices.map(({ id, price }) => [id, price])).toEqual([
      [1, 5000],
      [2, 4000],
    ]);
    expect(written("catalog.price.update")).toMatchObject([{ id: 1, fields: { price: 5000, currency: "KZT" } }]);
    expect(written("catalog.price.modify")).toEqual([]);
  });

  test("a first price is added once, also when the reply is lost", async () => {
    const { portal, products, lose, written } = setUp();
    portal.addProduct({ id: 1300, iblockId, name: "Эустома" });
    lose("catalog.price.add");
    const price = { price: "700.05", currency: "KZT", priceTypeId: "2" };
    expect(await products.setPrice("1300", price)).toMatchObject({ productId: "1300", price: "700.05" });
    expect(written("catalog.price.add")).toHaveLength(1);
  });

  test("of two that add the first price at once both succeed, with one row", async () => {
    const { portal, products } = setUp();
    portal.addProduct({ id: 1300, iblockId, name: "Эустома" });
    const set = (price: string) => products.setPrice("1300", { price, currency: "KZT", priceTypeId: "1" });
    const results = await Promise.all([set("700.00"), set("710.00")]);
    expect(results.map(({ price }) => price).sort()).toEqual(["700.00", "710.00"]);
    expect(portal.prices.filter(({ productId }) => productId === 1300)).toHaveLength(1);
  });

  test("a lost reply to a change is settled by a look, not by a second write", async () => {
    const { products, lose, written } = setUp();
    lose("catalog.price.update");
    expect((await products.setPrice("1243", { price: "5000", currency: "KZT" })).price).toBe("5000.00");
    expect(written("catalog.price.update")).toHaveLength(1);
  });

  test("what is unclear is refused: another form of the price, ranges of quantities", async () => {
    const { portal, products, written } = setUp();
    portal.addPrice({ id: 3, productId: 1300, catalogGroupId: 1, price: 10, quantityFrom: 1, quantityTo: 9 });
    portal.addPrice({ id: 4, productId: 1300, catalogGroupId: 1, price: 9, quantityFrom: 10 });
    for (const price of ["5000.005", "5e3", "-1", "5 000"]) {
      await expect(products.setPrice("1243", { price, currency: "KZT" })).rejects.toThrow("price must be text");
    }
    await expect(products.setPrice("1243", { price: "1", currency: "тг" })).rejects.toThrow("currency must be");
    await expect(products.setPrice("1300", { price: "1", currency: "KZT" })).rejects.toThrow("ranges of quantities");
    expect(written("catalog.price.update")).toEqual([]);
  });

  test("the fake's price.modify deletes what it is not given, as documented", async () => {
    const { portal, bitrix } = setUp();
    await bitrix.call("catalog.price.modify", {
      fields: { product: { id: 1243, prices: [{ id: 1, catalogGroupId: 1, price: 1, currency: "KZT" }] } },
    });
    expect(portal.prices.map(({ id }) => id)).toEqual([1]);
  });
});

describe("payments of the store's orders", () => {
  test("are added once and paid with the stored pay system; the order follows", async () => {
    const { portal, bitrix, lose, written } = setUp({ clock: createFakeClock(new Date("2026-11-01T10:00:00Z")) });
    portal.addShopOrder({ id: 17, currency: "KZT" });
    lose("sale.payment.add");
    const { payments } = bitrix.orders;
    const payment = await payments.add({ orderId: "17", xmlId: "pay-1", paySystemId: "9", fields: { sum: 1000.5 } });
    expect(payment).toMatchObject({ orderId: "17", sum: "1000.50", paid: false, paySystemId: "9" });
    await payments.add({ orderId: "17", xmlId: "pay-1", paySystemId: "9" });
    expect(written("sale.payment.add")).toHaveLength(1);

    lose("sale.payment.update");
    expect((await payments.setPaid(payment.id, true, { psInvoiceId: "146" })).paid).toBe(true);
    await payments.setPaid(payment.id, true);
    expect(written("sale.payment.update")).toMatchObject([
      { fields: { paySystemId: "9", paid: "Y", psInvoiceId: "146" } },
    ]);
    expect((await bitrix.orders.get("17"))?.paid).toBe(true);
    expect((await payments.ofOrder("17")).map(({ id }) => id)).toEqual([payment.id]);
    expect(await payments.get("999999")).toBeUndefined();
    await expect(payments.setPaid("999999", true)).rejects.toThrow(InputError);
  });

  test("statuses of orders and of deliveries are told apart", async () => {
    const { bitrix } = setUp();
    expect(await bitrix.orders.statuses()).toEqual(["N", "P", "S", "D", "F"]);
    expect(await bitrix.orders.statuses("delivery")).toEqual(["DN", "DD", "DF"]);
  });
});
