import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "@orderbridge/core/kysely";
import { type Listening, listen } from "@orderbridge/core/testing";
import { createRobokassa } from "@orderbridge/robokassa";
import { createRobokassaStorage } from "@orderbridge/robokassa/kysely";
import { createFakeRobokassa, type FakeRobokassa } from "@orderbridge/robokassa/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

const shop = {
  login: "demo-shop",
  password1: "live-password-1",
  password2: "live-password-2",
  testPassword1: "test-password-1",
  testPassword2: "test-password-2",
};
const shopVariables = {
  ROBOKASSA_LOGIN: shop.login,
  ROBOKASSA_PASSWORD1: shop.password1,
  ROBOKASSA_PASSWORD2: shop.password2,
  ROBOKASSA_TEST_PASSWORD1: shop.testPassword1,
  ROBOKASSA_TEST_PASSWORD2: shop.testPassword2,
};

let folder: string;
let fake: FakeRobokassa;
let fakeServer: Listening;
let children: ChildProcess[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-express-"));
  fake = createFakeRobokassa({ ...shop, retryDelaysMs: [] });
  fakeServer = await listen(fake.handle);
  children = [];
});
afterEach(async () => {
  fake.close();
  await Promise.all(children.map((child) => stop(child)));
  await fakeServer.close();
  rmSync(folder, { recursive: true, force: true });
});

function launch(variables: Readonly<Record<string, string>>): ChildProcess {
  const child = spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, ".."),
    env: { PATH: process.env.PATH, PORT: "0", DATABASE_URL: `sqlite:${join(folder, "shop.db")}`, ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  return child;
}

async function stop(child: ChildProcess, signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }
  return child.exitCode;
}

/** Starts the server and points the fake's cabinet at it. */
async function startShop(
  variables: Readonly<Record<string, string>> = {},
): Promise<{ url: string; child: ChildProcess }> {
  const child = launch({ ...shopVariables, ROBOKASSA_API_URL: fakeServer.url, ...variables });
  let errors = "";
  child.stderr?.on("data", (chunk) => {
    errors += chunk;
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout?.on("data", (chunk) => {
      const found = /listening on (\S+)/.exec(String(chunk))?.[1];
      if (found) resolve(found);
    });
    child.once("exit", (code) => reject(new Error(`ended with ${code}: ${errors}`)));
  });
  fake.configure({
    resultUrl: `${url}/robokassa/result`,
    successUrl: `${url}/robokassa/success`,
    failUrl: `${url}/robokassa/fail`,
  });
  return { url, child };
}

/** Runs the server until it ends by itself, and gives what it said. */
async function failedStart(
  variables: Readonly<Record<string, string>>,
): Promise<{ code: number | null; said: string }> {
  const child = launch(variables);
  let said = "";
  child.stderr?.on("data", (chunk) => {
    said += chunk;
  });
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, said };
}

const placeOrder = async (url: string, body: unknown = { total: "1000.00", description: "Қалам мен дәптер" }) => {
  const answer = await fetch(`${url}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: answer.status, body: (await answer.json()) as Record<string, string> };
};

const getOrder = async (url: string, id: string) =>
  (await (await fetch(`${url}/orders/${id}`)).json()) as Record<string, unknown>;

test("sells: an order is placed, paid in the fake, booked once, and shown on the success page", async () => {
  const { url } = await startShop();
  expect((await fetch(`${url}/healthz`)).status).toBe(200);

  const { status, body } = await placeOrder(url);
  expect([status, body.robokassaInvId]).toEqual([201, "1"]);
  const id = body.id as string;
  expect(await getOrder(url, id)).toEqual({
    id,
    status: "new",
    total: "1000.00",
    robokassaInvId: "1",
    paidAt: null,
    test: false,
  });

  // A forged notification changes nothing.
  const forged = await fetch(`${url}/robokassa/result`, {
    method: "POST",
    body: new URLSearchParams({ OutSum: "1000.000000", InvId: "1", SignatureValue: "0".repeat(32) }),
  });
  expect([forged.status, await forged.text()]).toEqual([400, ""]);
  expect((await getOrder(url, id)).status).toBe("new");

  const paid = await fake.pay({ url: body.paymentUrl as string });
  expect(paid.delivery).toMatchObject({ status: 200, answer: "OK1", accepted: true });
  const order = await getOrder(url, id);
  expect(order.status).toBe("paid");

  expect((await fake.redeliver("1"))?.answer).toBe("OK1");
  expect(await getOrder(url, id)).toEqual(order);

  const page = await fetch(paid.redirectUrl as string);
  expect([page.status, await page.text()]).toEqual([200, `Thank you. Order ${id} is paid.`]);
});

test("takes notifications by GET as well", async () => {
  const { url } = await startShop();
  fake.configure({ resultMethod: "GET" });
  const { body } = await placeOrder(url);
  expect((await fake.pay({ url: body.paymentUrl as string })).delivery?.answer).toBe("OK1");
});

test("in test mode sells test orders, with numbers of their own", async () => {
  const { url } = await startShop({ ROBOKASSA_TEST: "1" });
  const { body } = await placeOrder(url);
  expect(body.robokassaInvId).toBe("1000000000");
  expect((await fake.pay({ url: body.paymentUrl as string })).delivery?.accepted).toBe(true);
  expect(await getOrder(url, body.id as string)).toMatchObject({ status: "paid", test: true });
});

test("hears of a payment through ResultUrl2 alone, once certificates are given", async () => {
  const { url } = await startShop({ ROBOKASSA_RESULT2_CERTS: fake.certificate });
  const { body } = await placeOrder(url);
  fake.configure({ resultUrl: "" });
  const link = createRobokassa({ ...shop, apiUrl: fakeServer.url }).paymentUrl({
    invId: body.robokassaInvId as string,
    outSum: "1000.00",
    description: "Қалам",
    resultUrl2: `${url}/robokassa/result2`,
  });
  expect((await fake.pay({ url: link })).delivery2).toMatchObject({ status: 200, answer: "OK1" });
  expect((await getOrder(url, body.id as string)).status).toBe("paid");
});

test("a test payment does not pay a live order", async () => {
  const { url } = await startShop();
  const { body } = await placeOrder(url);
  const { delivery } = await fake.pay({ invId: "1", outSum: "1000.00", test: true });
  expect([delivery?.status, delivery?.accepted]).toEqual([409, false]);
  expect((await getOrder(url, body.id as string)).status).toBe("new");
});

test("keeps its orders over a kill: the payment of an earlier life is booked", async () => {
  const first = await startShop();
  const { body } = await placeOrder(first.url);
  await stop(first.child, "SIGKILL");
  expect((await fake.pay({ url: body.paymentUrl as string })).delivery?.status).toBeUndefined();

  const second = await startShop();
  expect((await fake.redeliver("1"))?.accepted).toBe(true);
  expect((await getOrder(second.url, body.id as string)).status).toBe("paid");
  expect(await stop(second.child)).toBe(0);
});

test("a success link that was made up is refused, and the fail page cancels nothing", async () => {
  const { url } = await startShop();
  const { body } = await placeOrder(url);
  const madeUp = await fetch(`${url}/robokassa/success?OutSum=1000.00&InvId=1&SignatureValue=${"0".repeat(32)}`);
  expect(madeUp.status).toBe(400);
  expect((await fetch(`${url}/robokassa/fail?OutSum=1000.00&InvId=1`)).status).toBe(200);
  expect((await getOrder(url, body.id as string)).status).toBe("new");
});

test.each([
  ["no body", "", 400, "total"],
  ["a number as total", { total: 1000, description: "A" }, 400, "total"],
  ["no description", { total: "1000.00" }, 400, "description"],
])("refuses an order with %s and names the field", async (_case, body, status, field) => {
  const { url } = await startShop();
  expect(await placeOrder(url, body)).toMatchObject({ status, body: { field } });
  expect(await placeOrder(url, "{")).toEqual({ status: 400, body: { detail: "The body is not JSON" } });
  expect((await fetch(`${url}/orders/unknown`)).status).toBe(404);
});

describe("does not start, and says which variable to mend", () => {
  test.each([
    ["a missing password", { ROBOKASSA_PASSWORD2: "" }, "ROBOKASSA_PASSWORD2 is missing"],
    [
      "the placeholder of .env.example",
      { ROBOKASSA_LOGIN: "replace-me" },
      "ROBOKASSA_LOGIN still holds the placeholder",
    ],
    [
      "password 1 equal to password 2",
      { ROBOKASSA_PASSWORD2: shop.password1 },
      "ROBOKASSA_PASSWORD2 equals ROBOKASSA_PASSWORD1",
    ],
    [
      "a live password equal to a test one",
      { ROBOKASSA_TEST_PASSWORD2: shop.password2 },
      "ROBOKASSA_TEST_PASSWORD2 equals ROBOKASSA_PASSWORD2",
    ],
    [
      "test mode without test passwords",
      { ROBOKASSA_TEST: "1", ROBOKASSA_TEST_PASSWORD1: "", ROBOKASSA_TEST_PASSWORD2: "" },
      "ROBOKASSA_TEST_PASSWORD1 is missing; ROBOKASSA_TEST=1 needs it",
    ],
    [
      "certificates that are none",
      { ROBOKASSA_RESULT2_CERTS: "/nowhere.pem" },
      "ROBOKASSA_RESULT2_CERTS is neither PEM",
    ],
    ["an unknown algorithm", { ROBOKASSA_ALGORITHM: "sha3" }, "ROBOKASSA_ALGORITHM must be md5 or"],
  ])("with %s", async (_case, change, text) => {
    const { code, said } = await failedStart({ ...shopVariables, ...change });
    expect(code).toBe(1);
    expect(said).toContain(text);
    expect(said).not.toMatch(/\n\s+at /);
  });
});

test("notifications that are older than 90 days leave the log by themselves", async () => {
  const database = await openDatabase(`sqlite:${join(folder, "shop.db")}`);
  const storage = createRobokassaStorage(database);
  try {
    await storage.migrate();
    const entry = { source: "result", signature: undefined, shpNames: [], verdict: "paid", fit: undefined } as const;
    const sold = { ...entry, outSum: "1000.00", status: 200 };
    const day = 86_400_000;
    for (const [index, ageDays] of [91, 89].entries()) {
      await storage.callbacks.record({ ...sold, invId: String(index), at: new Date(Date.now() - ageDays * day) });
    }
    await startShop();
    await expect
      .poll(async () => (await storage.callbacks.list({ limit: 9 })).map(({ invId }) => invId), { timeout: 10_000 })
      .toEqual(["1"]);
  } finally {
    await database.close();
  }
});
