import { createHmac } from "node:crypto";
import { createStatusMapper, silentLogger } from "@orderbridge/core";
import { createFakeClock } from "@orderbridge/core/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { type BitrixStorage, bitrixOrderStatuses, createOrderStatusHandler, createOrders } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";

const secret = "site-webhook-secret";
let storage: BitrixStorage;
let orderId: string;
let send: (body: unknown, headers?: Record<string, string>) => Promise<{ status: number; body: unknown }>;
let orders: ReturnType<typeof createOrders>;

beforeEach(async () => {
  const clock = createFakeClock();
  storage = createBitrixMemoryStorage({ clock });
  orders = createOrders({ storage, clock });
  orderId = (await orders.create({ total: "1000", bitrixOrderId: "123456" })).id;
  const handle = createOrderStatusHandler({
    storage,
    secrets: ["older-webhook-secret", secret],
    clock,
    logger: silentLogger,
  });
  send = async (body, headers = { "x-webhook-secret": secret }) => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const request = new Request("http://backend/hook", { method: "POST", headers, body: text });
    const answer = await handle(request);
    return { status: answer.status, body: await answer.json() };
  };
});

const statusOf = async () => (await orders.get(orderId))?.status;

test.each([
  ["N", "new"],
  ["PD", "paid"],
  ["AP", "accepted"],
  ["CO", "in_production"],
  ["DE", "in_delivery"],
  ["F", "delivered"],
  ["RF", "cancelled"],
  ["UN", "cancelled"],
])("%s of the site is %s here", async (code, status) => {
  expect((await send({ order_id: 123456, status: code })).status).toBe(200);
  expect(await statusOf()).toBe(status);
});

test("a cancelled order goes back as UN", () => {
  expect(bitrixOrderStatuses.unmap("cancelled")).toEqual({ code: "UN" });
});

test("applies a change and writes who made it", async () => {
  const answer = await send({ order_id: 123456, status: "AP", version: 2, changed_at: "2026-11-01T12:00:00+05:00" });
  expect(answer).toEqual({
    status: 200,
    body: {
      status: "success",
      order_id: orderId,
      bitrix_order_id: "123456",
      old_status: "new",
      new_status: "accepted",
      changed: true,
    },
  });
  expect(await orders.history(orderId)).toEqual([
    { field: "status", from: "new", to: "accepted", changedBy: "bitrix", changedAt: new Date("2026-11-01T07:00:00Z") },
  ]);
});

test.each([
  ["a wrong secret", { "x-webhook-secret": "wrong-secret" }],
  ["no secret", {}],
  ["a right secret with a wrong signature", { "x-webhook-secret": secret, "x-webhook-signature": "00" }],
])("answers 401 to %s and changes nothing", async (_case, headers) => {
  expect(await send({ order_id: 123456, status: "AP" }, headers as Record<string, string>)).toEqual({
    status: 401,
    body: { detail: "Invalid webhook secret" },
  });
  expect(await statusOf()).toBe("new");
});

test("accepts the secret that is being replaced, and a right signature", async () => {
  expect((await send({ order_id: 123456, status: "AP" }, { "x-webhook-secret": "older-webhook-secret" })).status).toBe(
    200,
  );
  const body = JSON.stringify({ order_id: 123456, status: "CO" });
  const signature = createHmac("sha256", secret).update(body).digest("hex");
  expect((await send(body, { "x-webhook-secret": secret, "x-webhook-signature": signature })).status).toBe(200);
});

test("answers 404 for an order that is not known here, so that the site sends again", async () => {
  expect(await send({ order_id: 999, status: "AP" })).toEqual({ status: 404, body: { detail: "Order not found" } });
});

test.each([
  ["text that is not JSON", "{", "body"],
  ["no order", { status: "AP" }, "order_id"],
  ["an order id with a fraction", { order_id: 1.5, status: "AP" }, "order_id"],
  ["a status that is no text", { order_id: 1, status: 5 }, "status"],
  ["no status", { order_id: 1 }, "status"],
  ["a payment that is no flag", { order_id: 1, status: "AP", paid: "maybe" }, "paid"],
  ["a time without a zone", { order_id: 1, status: "AP", changed_at: "2026-11-01 12:00" }, "changed_at"],
  ["a negative version", { order_id: 1, status: "AP", version: -1 }, "version"],
])("answers 422 that names the field for %s", async (_case, body, field) => {
  const answer = await send(body);
  expect(answer).toMatchObject({ status: 422, body: { field } });
  expect((answer.body as { detail: string }).detail).toContain(field);
});

describe("order of arrival", () => {
  const stale = { status: 200, body: { status: "ignored", reason: "stale" } };

  test("ignores a version that is older than the stored one", async () => {
    await send({ order_id: 123456, status: "CO", version: 3 });
    expect(await send({ order_id: 123456, status: "AP", version: 2 })).toEqual(stale);
    expect(await statusOf()).toBe("in_production");
    expect(await orders.history(orderId)).toHaveLength(1);
  });

  test("ignores an older time when there is no version", async () => {
    await send({ order_id: 123456, status: "CO", changed_at: "2026-11-01T12:00:01+05:00" });
    expect(await send({ order_id: 123456, status: "AP", changed_at: "2026-11-01T12:00:00+05:00" })).toEqual(stale);
  });

  test("changes nothing for a repetition", async () => {
    await send({ order_id: 123456, status: "AP", version: 2 });
    expect(await send({ order_id: 123456, status: "AP", version: 2 })).toMatchObject({
      status: 200,
      body: { status: "success", changed: false },
    });
    expect(await orders.history(orderId)).toHaveLength(1);
  });

  test("a repetition does not undo what changed here since", async () => {
    const accepted = { order_id: 123456, status: "AP", version: 2, changed_at: "2026-11-01T12:00:00+05:00" };
    await send(accepted);
    await orders.change(orderId, { status: "delivered" }, { changedBy: "bitrix24" });
    expect(await send(accepted)).toMatchObject({
      status: 200,
      body: { status: "success", new_status: "delivered", changed: false },
    });
    expect(await statusOf()).toBe("delivered");
    // A site whose counter stands still while the order moves on is believed by its time.
    await send({ ...accepted, status: "CO", changed_at: "2026-11-01T12:00:01+05:00" });
    expect(await statusOf()).toBe("in_production");
  });

  test("goes back to an earlier status when the site says so later", async () => {
    await send({ order_id: 123456, status: "F", version: 2 });
    await send({ order_id: 123456, status: "AP", version: 3 });
    expect(await statusOf()).toBe("accepted");
  });

  test("remembers the version of a status without a mapping, and leaves the order alone", async () => {
    expect(await send({ order_id: 123456, status: "ZZ", version: 5 })).toEqual({
      status: 200,
      body: { status: "ignored", reason: "unmapped_status" },
    });
    expect(await statusOf()).toBe("new");
    expect(await send({ order_id: 123456, status: "AP", version: 4 })).toEqual(stale);
  });

  test("applies many changes at once in the order of their versions", async () => {
    const codes = ["PD", "AP", "CO", "DE", "F"];
    await Promise.all(codes.map((status, index) => send({ order_id: 123456, status, version: index + 2 })).reverse());
    expect(await statusOf()).toBe("delivered");
  });
});

describe("payment and cancellation", () => {
  test("books a payment that comes with a status without a mapping", async () => {
    expect((await send({ order_id: 123456, status: "ZZ", paid: true, version: 2 })).body).toEqual({
      status: "ignored",
      reason: "unmapped_status",
    });
    expect(await orders.get(orderId)).toMatchObject({ status: "new", paidBy: "bitrix", paidAt: expect.any(Date) });
    expect(await orders.history(orderId)).toMatchObject([{ field: "paid", to: "paid", changedBy: "bitrix" }]);
  });

  test("keeps the payment apart from the status", async () => {
    await send({ order_id: 123456, status: "N", paid: true, version: 2, changed_at: "2026-11-01T12:00:00+05:00" });
    expect(await orders.get(orderId)).toMatchObject({ status: "new", paidAt: new Date("2026-11-01T07:00:00Z") });
  });

  test("takes back only a payment that the site had told of", async () => {
    await orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await send({ order_id: 123456, status: "AP", paid: false, version: 2 });
    expect((await orders.get(orderId))?.paidAt).toBeDefined();

    const other = await orders.create({ total: "5.00", bitrixOrderId: "7" });
    await send({ order_id: 7, status: "N", paid: true, version: 2 });
    await send({ order_id: 7, status: "N", paid: false, version: 3 });
    expect((await orders.get(other.id))?.paidAt).toBeUndefined();
  });

  test("takes the site's own flag for a cancellation, whatever the status", async () => {
    await send({ order_id: 123456, status: "AP", canceled: "Y", version: 2 });
    expect(await statusOf()).toBe("cancelled");
  });

  test("a cancellation on a site whose orders have other statuses here is their own status for it", async () => {
    const statuses = createStatusMapper({
      pairs: [
        ["N", "open"],
        ["F", "done"],
        ["UN", "annulled"],
      ],
    });
    const own = createOrders({ storage, statuses: statuses.statuses });
    const { id } = await own.create({ total: "5", bitrixOrderId: "8", status: "open" });
    const handle = createOrderStatusHandler({
      storage,
      secrets: [secret],
      statuses,
      cancelledStatus: "annulled",
      logger: silentLogger,
    });
    const body = JSON.stringify({ order_id: 8, status: "N", canceled: true, version: 2 });
    await handle(new Request("http://backend/hook", { method: "POST", headers: { "x-webhook-secret": secret }, body }));
    expect((await own.get(id))?.status).toBe("annulled");
  });
});
