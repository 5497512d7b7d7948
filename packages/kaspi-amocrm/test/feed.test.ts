import { createMemoryStorage } from "@orderbridge/core/memory";
import { fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createKaspi, createOrderFeed, cutWindows, kaspiErrorKind } from "../src/kaspi/index.ts";
import { createFakeKaspi, type FakeKaspiOptions } from "../src/testing/index.ts";
import { createSteppingClock } from "./setting.ts";

const start = Date.parse("2026-11-20T06:00:00.000Z");
const day = 86_400_000;

function createScene(options: FakeKaspiOptions = {}, token = "kaspi-token") {
  const clock = createSteppingClock();
  const fake = createFakeKaspi({ clock, ...options });
  const kaspi = createKaspi({ token, clock, fetch: fetchFrom(fake.handle), minDelayMs: 1 });
  const { watermarks, leases } = createMemoryStorage({ clock });
  const feed = createOrderFeed({ kaspi, watermarks, leases, clock });
  const add = (count: number, first = 700_000_000) => {
    for (let index = 0; index < count; index++) {
      fake.addOrder({ code: String(first + index), creationDate: start - 60_000, entries: [{ basePrice: 1 }] });
    }
  };
  const read = async (commit = true): Promise<string[]> => {
    const codes: string[] = [];
    for await (const page of feed.pages()) {
      codes.push(...page.orders.map(({ code }) => code));
      if (commit) await page.commit();
    }
    return codes;
  };
  return { clock, fake, kaspi, feed, add, read };
}

test.each([0, 1, 99, 100, 101, 200, 250])(
  "%i orders of one millisecond arrive each once, and the overlap brings them again",
  async (count) => {
    const { add, read, feed, clock } = createScene({ order: "shuffled" });
    add(count);
    const codes = await read();
    expect([codes.length, new Set(codes).size]).toEqual([count, count]);
    expect(await feed.watermark()).toEqual(new Date(start)); // the bound was fixed before the first page
    clock.advance(60_000);
    expect(await read()).toHaveLength(count);
  },
);

test("the watermark waits for every page to be committed", async () => {
  const { add, read, feed } = createScene();
  add(150);
  expect(await read(false)).toHaveLength(150);
  expect(await feed.watermark()).toBeUndefined();
  expect(await read()).toHaveLength(150);
  expect(await feed.watermark()).toBeDefined();
});

test("an answer 200 that broke off before its first byte is no empty page", async () => {
  const { add, fake, read, feed } = createScene();
  add(3);
  const cut = { kind: "truncate", length: 0 } as const;
  fake.faults.add({ fault: cut });
  expect(await read()).toHaveLength(3); // asked again
  fake.faults.add({ fault: cut, times: 1_000 });
  const watermark = await feed.watermark();
  await expect(read()).rejects.toThrow("kaspi: orders.list answered 200 with an empty body");
  expect(await feed.watermark()).toEqual(watermark);
});

test.each([{}, { data: null }, { errors: [{ title: "Internal error" }] }])(
  "an answer 200 without a list, as %j, is no empty page and no order without lines",
  async (body) => {
    const headers = { "content-type": "application/vnd.api+json" };
    const fetch = async () => new Response(JSON.stringify(body), { headers });
    const clock = createSteppingClock();
    const kaspi = createKaspi({ token: "kaspi-token", fetch, clock, minDelayMs: 1 });
    const { watermarks, leases } = createMemoryStorage({ clock });
    const feed = createOrderFeed({ kaspi, watermarks, leases, clock });
    const pages = feed.pages()[Symbol.asyncIterator]();
    await expect(pages.next()).rejects.toThrow("kaspi: orders.list");
    await expect(kaspi.orders.byCode("700000001")).rejects.toThrow("kaspi: orders.byCode");
    await expect(kaspi.entries("NzAw")).rejects.toThrow("kaspi: orders.entries");
    expect(await feed.watermark()).toBeUndefined();
  },
);

test("an order that slips to a page already read is found by reading again", async () => {
  const { add, fake, read } = createScene();
  add(150);
  let moved = false;
  fake.onPage = ({ state, number }) => {
    if (state !== "NEW" || number !== 0 || moved) return;
    moved = true; // the first row leaves the folder, so row 100 slips to page 0
    fake.changeOrder("700000000", { state: "KASPI_DELIVERY" });
  };
  expect(new Set(await read()).size).toBe(150);
});

test("an order that comes in between pages, and totals that change, lose nothing", async () => {
  const { add, fake, read } = createScene({ order: "newest" });
  add(250);
  let added = 0;
  fake.onPage = ({ state }) => {
    if (state === "NEW" && added < 2)
      fake.addOrder({ code: String(800_000_000 + added++), creationDate: start - 1, entries: [{ basePrice: 1 }] });
  };
  expect(new Set(await read()).size).toBe(252);
});

test("a folder that never stands still holds the watermark, and says so", async () => {
  const { add, fake, read, feed } = createScene({ order: "newest" });
  add(150);
  let added = 0;
  fake.onPage = ({ state }) => {
    if (state === "NEW")
      fake.addOrder({ code: String(800_000_000 + added++), creationDate: start - 1, entries: [{ basePrice: 1 }] });
  };
  await read();
  expect(await feed.watermark()).toBeUndefined();
});

test("page 3 of 5 failing for good ends the run, and the next one brings everything", async () => {
  const { add, fake, read, feed } = createScene();
  add(500);
  fake.faults.add({
    fault: { kind: "failBeforeExecuting", status: 503 },
    times: 3,
    match: ({ url }) => decodeURIComponent(url).includes("page[number]=2"),
  });
  await expect(read()).rejects.toThrow("orders.list answered 503");
  expect(await feed.watermark()).toBeUndefined();
  expect(await read()).toHaveLength(500);
});

test("only one of two readers of a shop reads", async () => {
  const { add, read } = createScene();
  add(10);
  const lengths = await Promise.all([read(), read()]);
  expect(lengths.map(({ length }) => length).sort()).toEqual([0, 10]);
});

test("windows of at most 14 days follow each other without a gap or an overlap", () => {
  const windows = cutWindows(new Date(start), new Date(start + 40 * day));
  expect(windows).toHaveLength(3);
  for (const [index, { from, to }] of windows.entries()) {
    expect(to.getTime() - from.getTime()).toBeLessThan(14 * day);
    if (index > 0) expect(from.getTime()).toBe((windows[index - 1]?.to.getTime() ?? 0) + 1);
  }
  expect(cutWindows(new Date(start), new Date(start))).toEqual([{ from: new Date(start), to: new Date(start) }]);
  expect(cutWindows(new Date(start + 1), new Date(start))).toEqual([]);
});

test("the order of the guide is read: sums, pieces, grams, phone, a name that is null", async () => {
  const { fake, kaspi } = createScene();
  fake.addOrder({
    code: "700000123",
    cellPhone: "7010000001",
    entries: [
      { sku: "SKU-1", name: "Lamp", basePrice: 7990, quantity: 2 },
      { sku: "RICE", basePrice: 1560, weightGrams: 3800, quantity: 3 },
    ],
  });
  const order = await kaspi.orders.byCode("700000123");
  // 1560 × 3800 g = 5928, the guide's own example.
  expect(order).toMatchObject({ totalMinor: 2_190_800n, phone: "+77010000001", customerName: "Серікқызы Айгүл" });
  expect(order?.entries?.map(({ sku, quantityMicro, totalMinor }) => [sku, quantityMicro, totalMinor])).toEqual([
    ["SKU-1", 2_000_000n, 1_598_000n],
    ["RICE", 3_800_000n, 592_800n],
  ]);
  expect(await kaspi.entries(order?.id ?? "")).toEqual(order?.entries);
  expect(await kaspi.orders.byCode("1")).toBeUndefined();
});

test("a change of the status is sent once, and what it did is seen by reading again", async () => {
  const { fake, kaspi } = createScene();
  fake.addOrder({ code: "700000123", entries: [{ basePrice: 1 }] });
  const id = (await kaspi.orders.byCode("700000123"))?.id ?? "";
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ method }) => method === "POST" });
  await expect(kaspi.orders.setStatus(id, { status: "ACCEPTED_BY_MERCHANT" })).rejects.toMatchObject({
    outcome: "unknown",
  });
  expect(fake.journal.count("POST")).toBe(1);
  expect((await kaspi.orders.byCode("700000123"))?.status).toBe("ACCEPTED_BY_MERCHANT");
  await kaspi.orders.setStatus(id, { status: "ASSEMBLE", numberOfSpace: 1 });
  expect((await kaspi.orders.byCode("700000123"))?.assembled).toBe(true);
  await kaspi.orders.setStatus(id, { status: "COMPLETED" });
  await expect(kaspi.orders.setStatus(id, { status: "COMPLETED", securityCode: "9999" })).rejects.toMatchObject({
    status: 400,
  });
  await kaspi.orders.setStatus(id, { status: "COMPLETED", securityCode: "1234" });
  expect((await kaspi.orders.byCode("700000123"))?.status).toBe("COMPLETED");
});

test("errors are told apart and hold neither token nor phone", async () => {
  const { kaspi } = createScene({}, "wrong-token");
  const error = await kaspi.orders.byCode("700000123").catch((reason: unknown) => reason);
  expect(kaspiErrorKind(error)).toBe("auth");
  expect(String(error)).not.toContain("wrong-token");
  const other = createScene();
  expect(kaspiErrorKind(await other.kaspi.entries("700000123").catch((reason: unknown) => reason))).toBe("not-found");
});

test("goods are taken out of an order line by line or several at once, each request sent once", async () => {
  const { fake, kaspi } = createScene();
  fake.addOrder({
    code: "700000123",
    entries: [
      { sku: "LAMP", basePrice: 100, quantity: 3 },
      { sku: "APPLE", basePrice: 1560, weightGrams: 3800, quantity: 3 },
      { sku: "CUP", basePrice: 10, quantity: 1 },
    ],
  });
  const order = await kaspi.orders.byCode("700000123");
  const [lamp, apple, cup] = order?.entries ?? [];
  const reason = "MERCHANT_OUT_OF_STOCK";
  expect(await kaspi.orders.cancelLine({ entryId: lamp?.id ?? "", remainedQuantity: 1, reason })).toBe(true);
  fake.faults.add({ fault: { kind: "failAfterExecuting", status: 502 }, match: ({ method }) => method === "PUT" });
  const lines = [
    { entryId: apple?.id ?? "", remainedWeight: 3750, reason: "PRODUCT_UNDERWEIGHT" },
    { entryId: cup?.id ?? "", remainedQuantity: 0, reason, notes: "закончились" },
  ];
  await expect(kaspi.orders.cancelLines(order?.id ?? "", lines)).rejects.toMatchObject({ outcome: "unknown" });
  expect(fake.journal.count("PUT /shop/api/orderPartialCancel/")).toBe(1);
  // 100 + 1560 × 3.750 kg
  expect((await kaspi.orders.byCode("700000123"))?.totalMinor).toBe(595_000n);
});

test("a partial cancel that Kaspi still works on says so, and a change is not repeated after a 429 either", async () => {
  const { fake, kaspi } = createScene({ cancelsLater: true });
  fake.addOrder({ code: "700000123", entries: [{ basePrice: 1, quantity: 2 }] });
  const order = await kaspi.orders.byCode("700000123");
  const line = { entryId: order?.entries?.[0]?.id ?? "", remainedQuantity: 1, reason: "MERCHANT_OUT_OF_STOCK" };
  expect(await kaspi.orders.cancelLine(line)).toBe(false);
  expect(await kaspi.orders.cancelLines(order?.id ?? "", [line])).toBe(false);
  fake.faults.add({ fault: { kind: "rateLimit" } });
  await expect(kaspi.orders.setStatus(order?.id ?? "", { status: "ACCEPTED_BY_MERCHANT" })).rejects.toMatchObject({
    status: 429,
    outcome: "not-executed",
  });
  expect(fake.journal.count("POST /shop/api/v2/orders")).toBe(1);
});

test.each([
  ["rate", { kind: "rateLimit" }],
  ["html", { kind: "htmlAnswer" }],
  ["auth", { kind: "block" }],
  ["network", { kind: "dropReplyAfterExecuting" }],
] as const)("an error of the kind %s is told apart", async (kind, fault) => {
  const { fake, kaspi } = createScene();
  fake.faults.add({ fault, times: 3 });
  expect(kaspiErrorKind(await kaspi.orders.byCode("1").catch((error: unknown) => error))).toBe(kind);
});

test("a request without a browser's name hangs at Kaspi, and ends with our own timeout", async () => {
  const clock = createSteppingClock();
  const fake = createFakeKaspi({ clock });
  const kaspi = createKaspi({
    token: "kaspi-token",
    userAgent: "",
    clock,
    fetch: fetchFrom(fake.handle),
    minDelayMs: 1,
  });
  const asked = kaspi.orders.byCode("1").catch((error: unknown) => error);
  for (let attempt = 0; attempt < 3; attempt++) {
    await expect.poll(() => clock.sleepers).toBeGreaterThan(1); // the hanging answer and the deadline
    clock.advance(30_000);
  }
  expect(kaspiErrorKind(await asked)).toBe("timeout");
});

test.each([
  { requiresState: true },
  { largePages: "cut" as const },
  { hasMeta: false },
  { order: "newest" as const },
  { badTokenStatus: 403 as const },
])("with the reading %j of the guide 250 orders arrive each once, and a bad token is known", async (reading) => {
  const { add, read } = createScene(reading);
  add(250);
  const codes = await read();
  expect([codes.length, new Set(codes).size]).toEqual([250, 250]);
  const { kaspi } = createScene(reading, "wrong-token");
  expect(kaspiErrorKind(await kaspi.orders.byCode("1").catch((error: unknown) => error))).toBe("auth");
});
