import { silentLogger } from "@orderbridge/core";
import { createFakeClock } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { type BitrixStorage, createBackendApi, createOrders, createProductSync, createWorker } from "../src/index.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";

const tokens = ["token-that-is-being-replaced", "token-of-today"];

function setUp(storage: BitrixStorage = createBitrixMemoryStorage()) {
  const clock = createFakeClock("2026-11-01T07:00:00.000Z");
  const orders = createOrders({ storage, clock });
  const products = createProductSync({
    storage,
    siteUrl: "http://site",
    siteToken: "site-token",
    secrets: ["site-webhook-secret"],
    clock,
    logger: silentLogger,
  });
  const api = createBackendApi({ orders, products, apiTokens: tokens, logger: silentLogger });
  async function send(method: string, path: string, body?: unknown, token = tokens[1]) {
    const answer = await api(
      new Request(`http://backend/api/v1${path}`, {
        method,
        headers: token === undefined || token === "" ? {} : { authorization: `Bearer ${token}` },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      }),
    );
    return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
  }
  const webhook = async (body: unknown) => {
    const answer = await products.handle(
      new Request("http://backend/product-sync", {
        method: "POST",
        headers: { "x-webhook-secret": "site-webhook-secret" },
        body: JSON.stringify(body),
      }),
    );
    return { status: answer.status, body: await answer.json() };
  };
  return { storage, clock, send, webhook };
}

describe("the backend's own orders", () => {
  test("are created, read, changed and remember who changed what", async () => {
    const { clock, send } = setUp();
    const created = await send("POST", "/orders", { total: "1000.5", bitrix_order_id: 123456, deal_id: "7001" });
    const id = String(created.body.id);
    const order = {
      id,
      status: "new",
      paid_at: null,
      bitrix_order_id: "123456",
      deal_id: "7001",
      total: "1000.50",
    };
    expect(created).toEqual({ status: 201, body: order });
    expect(await send("GET", `/orders/${id}`)).toEqual({ status: 200, body: order });
    clock.advance(1_000);
    const changed = { ...order, status: "accepted", paid_at: "2026-11-01T07:00:01.000Z" };
    expect(await send("PUT", `/orders/${id}`, { status: "accepted", paid: true })).toEqual({
      status: 200,
      body: changed,
    });
    expect(await send("GET", "/orders")).toEqual({ status: 200, body: [changed] });
    const by = { changed_by: "backend", changed_at: "2026-11-01T07:00:01.000Z" };
    expect((await send("GET", `/orders/${id}/history`)).body).toEqual([
      { field: "status", from: "new", to: "accepted", ...by },
      { field: "paid", from: "unpaid", to: "paid", ...by },
    ]);
  });

  test.each([
    ["no total", {}, "total"],
    ["an amount as a number", { total: 1000 }, "total"],
    ["three decimals", { total: "1000.005" }, "total"],
    ["a negative amount", { total: "-1.00" }, "total"],
    ["a status that nobody knows", { total: "1", status: "constructor" }, "status"],
    ["an id beyond what JSON keeps", '{"total": "1", "bitrix_order_id": 9007199254740993}', "bitrix_order_id"],
    ["an empty id", { total: "1", deal_id: "" }, "deal_id"],
    ["no JSON", "total=1", "body"],
    ["a list", [], "total"],
  ])("are refused with %s, and the field is named", async (_case, body, field) => {
    expect(await setUp().send("POST", "/orders", body)).toMatchObject({ status: 422, body: { field } });
  });

  test("have each Bitrix order and each deal once", async () => {
    const { send } = setUp();
    await send("POST", "/orders", { total: "1", bitrix_order_id: "7", deal_id: "9" });
    const again = (body: unknown) => send("POST", "/orders", body);
    expect((await again({ total: "1", bitrix_order_id: "7" })).body).toMatchObject({ field: "bitrix_order_id" });
    expect((await again({ total: "1", deal_id: "9" })).body).toMatchObject({ field: "deal_id" });
  });
});

test("products take and give whole tiyn", async () => {
  const { send, webhook } = setUp();
  expect(await send("PUT", "/products/668826", { price: 500_000 })).toMatchObject({
    status: 200,
    body: { id: "668826", price: 500_000, currency: "KZT", version: null, pending: true },
  });
  for (const price of ["500000", 5_000.5, -1]) {
    expect(await send("PUT", "/products/668826", { price })).toMatchObject({ status: 422, body: { field: "price" } });
  }
  expect(await send("PUT", "/products/rose", { price: 1 })).toMatchObject({ status: 422, body: { field: "id" } });
  await webhook({ id: 668826, name: "Эустомы", price: "6000.00", currency: "KZT", enabled: true, version: 5 });
  expect((await send("GET", "/products/668826")).body).toMatchObject({ price: 600_000, version: 5, pending: false });
  expect((await send("GET", "/products/668826/conflicts")).body).toMatchObject([
    { ours: { price: "5000.00" }, theirs: { name: "Эустомы", price: "6000.00" }, version: 5 },
  ]);
});

test("every route wants a token in force, and says nothing without one", async () => {
  const { send } = setUp();
  const paths = ["/orders", "/orders/1", "/orders/1/history", "/products/1", "/products/1/conflicts", "/nothing"];
  for (const path of paths) {
    for (const token of ["", "wrong", `${tokens[1]}x`, "token-of"]) {
      expect(await send("GET", path, undefined, token)).toEqual({ status: 401, body: { detail: "Unauthorized" } });
    }
  }
  for (const token of tokens) expect((await send("GET", "/orders", undefined, token)).status).toBe(200);
  expect((await send("GET", "/orders/unknown")).status).toBe(404);
  expect((await send("GET", "/nothing")).status).toBe(404);
  expect((await send("POST", "/products/1", {})).status).toBe(405);
});

for (const { name, skipped, open } of testDatabases()) {
  test.skipIf(skipped)(`texts that ${name} would change or refuse end in an answer, not in an error`, async () => {
    const { db, dialect, close } = await open();
    try {
      const storage = createBitrixStorage({ db, dialect });
      await storage.migrate();
      const { send, webhook } = setUp(storage);
      for (const text of ["Роза\0", "Роза \ud83c"]) {
        expect(await send("PUT", "/products/1", { name: text })).toMatchObject({
          status: 422,
          body: { field: "name" },
        });
        expect(await webhook({ id: 1, name: text, version: 1 })).toMatchObject({
          status: 422,
          body: { field: "name" },
        });
      }
      const long = "Ұзақ ".repeat(5_000);
      expect((await webhook({ id: 1, name: long, version: 1 })).status).toBe(200);
      expect((await send("GET", "/products/1")).body).toMatchObject({ name: long });
      for (const id of ["a%00b", "%F0%9F", "x".repeat(500), "__proto__"]) {
        expect((await send("GET", `/orders/${id}`)).status).toBe(404);
        expect((await send("PUT", `/orders/${id}`, { status: "accepted" })).status).toBe(404);
      }
      const handlers = {
        async order() {
          throw new Error("answered 400 \0 \ud83c");
        },
      };
      await storage.work.mark("order", "1");
      await createWorker({ storage, logger: silentLogger, handlers, maxAttempts: 1 }).drain();
      expect(await storage.work.get("order", "1")).toMatchObject({
        state: "parked",
        lastError: "answered 400  \ufffd",
      });
    } finally {
      await close();
    }
  });
}
