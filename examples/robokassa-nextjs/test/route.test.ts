import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { createRobokassaStorage } from "@orderbridge/robokassa/kysely";
import { createFakeRobokassa } from "@orderbridge/robokassa/testing";
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { GET, POST } from "../app/[...path]/route.ts";

const shop = {
  login: "demo-shop",
  password1: "live-password-1",
  password2: "live-password-2",
  testPassword1: "test-password-1",
  testPassword2: "test-password-2",
};

beforeAll(() => {
  vi.stubEnv("ROBOKASSA_LOGIN", shop.login);
  vi.stubEnv("ROBOKASSA_PASSWORD1", shop.password1);
  vi.stubEnv("ROBOKASSA_PASSWORD2", shop.password2);
  vi.stubEnv("ROBOKASSA_TEST_PASSWORD1", shop.testPassword1);
  vi.stubEnv("ROBOKASSA_TEST_PASSWORD2", shop.testPassword2);
  vi.stubEnv("DATABASE_URL", "sqlite::memory:");
  vi.stubEnv("LOG_LEVEL", "error");
});
afterEach(GET.closeShop);
afterAll(() => {
  vi.unstubAllEnvs();
});

const get = (path: string): Promise<Response> => GET(new Request(`https://shop.example${path}`));
const post = (path: string, body: string | URLSearchParams): Promise<Response> =>
  POST(new Request(`https://shop.example${path}`, { method: "POST", body }));

const fakeFor = (resultMethod: "POST" | "GET") =>
  createFakeRobokassa({
    ...shop,
    resultMethod,
    resultUrl: "https://shop.example/robokassa/result",
    successUrl: "https://shop.example/robokassa/success",
    deliver: (request) => (request.method === "POST" ? POST : GET)(request),
  });

test.each(["POST", "GET"] as const)("sells an order and books its payment, called by %s", async (method) => {
  const fake = fakeFor(method);
  const placed = await post("/orders", JSON.stringify({ total: "1000.00", description: "Қалам" }));
  expect(placed.status).toBe(201);
  const { id, robokassaInvId, paymentUrl } = (await placed.json()) as Record<string, string>;
  expect(robokassaInvId).toBe("1");

  const paid = await fake.pay({ url: paymentUrl as string });
  expect(paid.delivery).toMatchObject({ status: 200, answer: "OK1" });
  expect(await (await get(`/orders/${id}`)).json()).toMatchObject({ status: "paid", total: "1000.00", test: false });
  const page = await GET(new Request(paid.redirectUrl as string));
  expect(await page.text()).toBe(`Thank you. Order ${id} is paid.`);
});

test("a forged notification changes nothing", async () => {
  const placed = await post("/orders", JSON.stringify({ total: "1000.00", description: "Қалам" }));
  const { id } = (await placed.json()) as Record<string, string>;
  const forged = new URLSearchParams({ OutSum: "1000.000000", InvId: "1", SignatureValue: "0".repeat(32) });
  expect((await post("/robokassa/result", forged)).status).toBe(400);
  expect(await (await get(`/orders/${id}`)).json()).toMatchObject({ status: "new", paidAt: null });
});

test("names the wrong field of an order, and knows what is not there", async () => {
  expect(await (await post("/orders", "{}")).json()).toMatchObject({ field: "total" });
  expect((await get("/orders/unknown")).status).toBe(404);
  expect((await get("/elsewhere")).status).toBe(404);
  expect((await get("/robokassa/success")).status).toBe(400);
  expect((await get("/healthz")).status).toBe(200);
});

test("a schedule that knows the secret finds a payment whose notification was lost", async () => {
  const vendor = createFakeRobokassa(shop);
  const server = await listen(vendor.handle);
  onTestFinished(() => server.close());
  vi.stubEnv("ROBOKASSA_API_URL", server.url);
  vi.stubEnv("CRON_SECRET", "cron-secret-0123456789");
  onTestFinished(() => {
    vi.stubEnv("ROBOKASSA_API_URL", "");
    vi.stubEnv("CRON_SECRET", "");
  });
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-next-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  vi.stubEnv("DATABASE_URL", `sqlite:${join(folder, "shop.db")}`);
  onTestFinished(() => void vi.stubEnv("DATABASE_URL", "sqlite::memory:"));
  const placed = await post("/orders", JSON.stringify({ total: "1000.00", description: "Қалам" }));
  const { id, paymentUrl, robokassaInvId } = (await placed.json()) as Record<string, string>;
  await vendor.pay({ url: paymentUrl as string });
  const database = await openDatabase(process.env.DATABASE_URL as string);
  onTestFinished(() => database.close());
  await createRobokassaStorage(database).orders.checkSoon(robokassaInvId as string);

  const cron = (headers: Record<string, string>) => GET(new Request("https://shop.example/cron", { headers }));
  expect((await cron({})).status).toBe(401);
  expect((await cron({ authorization: "Bearer another-secret-0123456789" })).status).toBe(401);
  const called = await cron({ authorization: "Bearer cron-secret-0123456789" });
  expect(await called.json()).toMatchObject({ checked: 1, paid: 1 });
  expect(await (await get(`/orders/${id}`)).json()).toMatchObject({ status: "paid" });
});

test("the first live order gets ROBOKASSA_FIRST_INV_ID", async () => {
  vi.stubEnv("ROBOKASSA_FIRST_INV_ID", "50000");
  onTestFinished(() => void vi.stubEnv("ROBOKASSA_FIRST_INV_ID", ""));
  const placed = await post("/orders", JSON.stringify({ total: "1000.00", description: "Қалам" }));
  expect(await placed.json()).toMatchObject({ robokassaInvId: "50000" });
});

test("notifications that are older than 90 days leave the log by themselves", async () => {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-next-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const databaseUrl = `sqlite:${join(folder, "shop.db")}`;
  vi.stubEnv("DATABASE_URL", databaseUrl);
  onTestFinished(() => void vi.stubEnv("DATABASE_URL", "sqlite::memory:"));
  const database = await openDatabase(databaseUrl);
  onTestFinished(() => database.close());
  const storage = createRobokassaStorage(database);
  await storage.migrate();
  const entry = { source: "result", signature: undefined, shpNames: [], verdict: "paid", fit: undefined } as const;
  const sold = { ...entry, outSum: "1000.00", status: 200 };
  for (const [index, ageDays] of [91, 89].entries()) {
    await storage.callbacks.record({ ...sold, invId: String(index), at: new Date(Date.now() - ageDays * 86_400_000) });
  }
  expect((await get("/healthz")).status).toBe(200); // the first request opens the shop
  await expect
    .poll(async () => (await storage.callbacks.list({ limit: 9 })).map(({ invId }) => invId), { timeout: 10_000 })
    .toEqual(["1"]);
});
