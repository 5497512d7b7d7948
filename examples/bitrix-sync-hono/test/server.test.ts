import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createFakeBitrix,
  createFakeBitrixSite,
  type FakeBitrix,
  type FakeBitrixSite,
} from "@orderbridge/bitrix/testing";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { openRedis } from "@orderbridge/core/redis";
import { createFakeClock, type Listening, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { redisProgram, startRedisServer } from "../../../packages/core/test/redis-server.ts";
import { send } from "../../demo/flow.ts";
import { type RunningServer, startServer } from "../../demo/servers.ts";

const token = "demo-backend-token";
const secret = "demo-webhook-secret";
const stages = { new: "NEW", accepted: "PREPARATION", delivered: "WON", cancelled: "LOSE" };

let portal: FakeBitrix;
let site: FakeBitrixSite;
let server: RunningServer;
let listening: readonly Listening[];
let variables: Readonly<Record<string, string>>;

beforeAll(async () => {
  portal = createFakeBitrix();
  site = createFakeBitrixSite({ webhookSecret: secret, siteToken: "demo-site-token" });
  listening = await Promise.all([listen(portal.handle), listen(site.handle)]);
  const [portalServer, siteServer] = listening as [Listening, Listening];
  variables = {
    DATABASE_URL: "sqlite::memory:",
    WEBHOOK_SECRET: secret,
    API_TOKEN: token,
    BITRIX_SITE_URL: siteServer.url,
    BITRIX_SITE_TOKEN: "demo-site-token",
    BITRIX_WEBHOOK_URL: portal.webhookUrl(portalServer.url),
    BITRIX_APPLICATION_TOKEN: "fake-application-token",
    BITRIX_STAGE_MAP: JSON.stringify(stages),
    BITRIX_PAID_STAGE_ID: "PREPAYMENT_INVOICE",
  };
  server = await startServer("bitrix-sync-hono", variables);
  portal.setEventUrl(`${server.url}/bitrix/events`);
  site.setBackendUrl(server.url);
});

afterAll(async () => {
  await server?.stop();
  await Promise.all(listening.map((one) => one.close()));
});

const api = (method: string, path: string, body?: unknown, bearer = token) =>
  send(method, `${server.url}/api/v1${path}`, { body, headers: { authorization: `Bearer ${bearer}` } });

const until = (ask: () => unknown) => expect.poll(ask, { timeout: 15_000, interval: 50 });

test("a status of the site reaches the order, with its history; a stale repeat changes nothing", async () => {
  const { status, body: order } = await api("POST", "/orders", { total: "1000.00", bitrix_order_id: 123456 });
  expect([status, order]).toEqual([
    201,
    { id: order.id, status: "new", paid_at: null, bitrix_order_id: "123456", deal_id: null, total: "1000.00" },
  ]);
  site.addOrder({ id: 123456 });
  expect((await site.changeOrder(123456, { status: "AP" }))?.status).toBe(200);
  expect((await api("GET", `/orders/${order.id}`)).body.status).toBe("accepted");
  expect(await site.sendOrder({ order_id: 123456, status: "N", version: 1 })).toMatchObject({
    status: 200,
    answer: { status: "ignored", reason: "stale" },
  });
  expect(await site.sendOrder({ order_id: 123456, status: "F" }, { secret: "wrong-secret" })).toMatchObject({
    status: 401,
    answer: { detail: "Invalid webhook secret" },
  });
  expect((await api("GET", `/orders/${order.id}/history`)).body).toMatchObject([
    { from: "new", to: "accepted", changed_by: "bitrix" },
  ]);
});

test("a price goes to the site; a change of the site at the same time wins and is logged", async () => {
  site.addProduct({ id: 668826, name: "Эустомы", price: "4500.00" });
  await api("PUT", "/products/668826", { name: "Эустомы (Updated)", price: 500_000, enabled: true });
  await until(() => site.product(668826)?.price).toBe("5000.00");
  await until(async () => (await api("GET", "/products/668826")).body).toMatchObject({ version: 2, pending: false });

  await site.changeProduct(668826, { price: "6000.00" }, { notify: false });
  await api("PUT", "/products/668826", { price: 550_000 });
  await until(async () => (await api("GET", "/products/668826")).body.price).toBe(600_000);
  expect(site.product(668826)?.price).toBe("6000.00");
  expect((await api("GET", "/products/668826/conflicts")).body).toMatchObject([
    { ours: { price: "5500.00" }, theirs: { price: "6000.00" } },
  ]);
});

test("a won deal closes its order; a paid order moves its deal at once; one write per change", async () => {
  const [first, second] = [portal.addDeal({ title: "Роза" }), portal.addDeal({ title: "Тюльпан" })];
  const won = (await api("POST", "/orders", { total: "5000.00", deal_id: first.id })).body;
  const paid = (await api("POST", "/orders", { total: "7000.00", deal_id: second.id })).body;
  portal.moveDeal(first.id, "WON");
  await until(async () => (await api("GET", `/orders/${won.id}`)).body.status).toBe("delivered");
  await api("PUT", `/orders/${paid.id}`, { paid: true });
  await until(() => portal.deal(second.id)?.stageId).toBe("PREPAYMENT_INVOICE");
  await portal.settled();
  expect(portal.writes.map(({ id }) => id)).toEqual([second.id]);
  expect((await api("GET", `/orders/${paid.id}`)).body).toMatchObject({ status: "new", paid_at: expect.any(String) });
});

test("names the field of a bad request, and asks for the token", async () => {
  expect(await api("POST", "/orders", { total: 1000 })).toMatchObject({ status: 422, body: { field: "total" } });
  expect(await api("PUT", "/products/668826", { price: 10.5 })).toMatchObject({
    status: 422,
    body: { field: "price" },
  });
  expect((await api("GET", "/orders/unknown")).status).toBe(404);
  expect((await api("GET", "/orders", undefined, "wrong")).status).toBe(401);
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
});

test("a start with a wrong address names its variable", async () => {
  await expect(
    startServer("bitrix-sync-hono", {
      WEBHOOK_SECRET: secret,
      API_TOKEN: token,
      BITRIX_SITE_URL: "https://shop.example",
      BITRIX_SITE_TOKEN: "demo-site-token",
      BITRIX_WEBHOOK_URL: "https://example.bitrix24.kz/",
      BITRIX_APPLICATION_TOKEN: "fake-application-token",
      BITRIX_STAGE_MAP: '{"done": "WON"}',
    }),
  ).rejects.toThrow(/BITRIX_WEBHOOK_URL must look like[\s\S]*BITRIX_STAGE_MAP is wrong at "done"/);
});

test("what ended long ago is deleted by itself", async () => {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-bitrix-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const databaseUrl = `sqlite:${join(folder, "sync.db")}`;
  const database = await openDatabase(databaseUrl);
  onTestFinished(() => database.close());
  const storage = createKyselyStorage({ ...database, clock: createFakeClock("2026-01-01T00:00:00Z") });
  await storage.migrate();
  await storage.idempotency.begin({ scope: "shop", key: "old", fingerprint: "", ttlMs: 1000 });
  const pruning = await startServer("bitrix-sync-hono", { ...variables, DATABASE_URL: databaseUrl });
  onTestFinished(() => pruning.stop());
  await until(() => database.db.selectFrom("orderbridge_idempotency").selectAll().execute()).toEqual([]);
});

test.skipIf(redisProgram.skipped)(
  `with REDIS_URL the portal's budget comes from Redis (${redisProgram.name})`,
  async () => {
    const redisServer = await startRedisServer();
    onTestFinished(() => redisServer.remove());
    const redis = await openRedis(redisServer.url, { purpose: "slots" });
    onTestFinished(() => redis.disconnect());
    const budgeted = await startServer("bitrix-sync-hono", { ...variables, REDIS_URL: redisServer.url });
    await until(() => redis.keys("orderbridge:rate:*")).toEqual([expect.stringContaining("bitrix")]); // the stage map is checked
    await budgeted.stop();
  },
);
