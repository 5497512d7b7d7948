import { execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createReconciler, createResultHandler, createRobokassa, type Order, placeOrder } from "../src/index.ts";
import { createRobokassaStorage } from "../src/kysely/index.ts";
import { createFakeRobokassa, type FakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

let folder: string;
let fake: FakeRobokassa;
let server: Listening;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-robokassa-"));
  fake = createFakeRobokassa(demoShop);
  server = await listen(fake.handle);
  const { db, dialect, close } = await openDatabase(variables().DATABASE_URL);
  const storage = createRobokassaStorage({ db, dialect, firstLiveInvId: "146" });
  await storage.migrate();
  const robokassa = createRobokassa(demoShop);
  await placeOrder({ robokassa, storage, id: "order-146", total: "1000.00", description: "Қалам" });
  await close();
});
afterEach(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

const variables = () => ({
  PATH: process.env.PATH ?? "",
  DATABASE_URL: `sqlite:${join(folder, "shop.db")}`,
  ROBOKASSA_LOGIN: demoShop.login,
  ROBOKASSA_PASSWORD1: demoShop.password1,
  ROBOKASSA_PASSWORD2: demoShop.password2,
  ROBOKASSA_API_URL: server?.url ?? "",
});

function run(args: readonly string[], change: Readonly<Record<string, string>> = {}) {
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const cli = join(import.meta.dirname, "../src/cli.ts");
    const child = execFile(
      process.execPath,
      [cli, ...args],
      { env: { ...variables(), ...change } },
      (_error, stdout, stderr) => resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

test("diagnose says why order 146 is not paid; reconcile leaves the booking to the server, whose onPaid runs", async () => {
  await fake.pay({ invId: "146", outSum: "1000.00" });
  const found = await run(["diagnose", "--order", "146"]);
  expect(found.code).toBe(1);
  expect(found.stdout.split("\n")[0]).toBe(
    "Robokassa has the money, but no notification reached this server. [no_notification]",
  );
  expect(found.stdout).toContain("Next: Open the Result URL");
  expect(found.stdout).not.toContain("live-two");

  expect(await run(["reconcile", "--order", "146"])).toMatchObject({
    code: 0,
    stdout: "InvId 146: Robokassa says paid; the shop's own reconciler asks at its next run\n",
  });
  const { db, dialect, close } = await openDatabase(variables().DATABASE_URL);
  const storage = createRobokassaStorage({ db, dialect });
  const robokassa = createRobokassa({ ...demoShop, apiUrl: server.url });
  const told: string[] = [];
  const onPaid = async ({ id }: Order) => void told.push(id);
  const reconciler = createReconciler({ robokassa, storage, onPaid, logger: silentLogger });
  expect(await reconciler.runOnce()).toMatchObject({ checked: 1, paid: 1 });
  await close();
  expect(told).toEqual(["order-146"]);
  expect(await run(["reconcile", "--order", "146"])).toMatchObject({ code: 0, stdout: "InvId 146: paid\n" });
  const paid = await run(["diagnose", "--order", "order-146", "--json"]);
  expect([paid.code, JSON.parse(paid.stdout).code]).toEqual([0, "paid"]);
});

test("diagnose calls the Result URL with a probe, and says what it answers", async () => {
  await fake.pay({ invId: "146", outSum: "1000.00" });
  const found = await run(["diagnose", "--order", "146", "--result-url", `${server.url}/nowhere`]);
  expect([found.code, found.stdout.split("\n")[0]]).toEqual([
    1,
    "The server at the Result URL knows no such address, or takes no POST there. [result_url_not_found]",
  ]);
  expect(found.stdout).toContain("Hashed text of the link: demo-shop:1000.00:146:[password1]");
});

test.each(["mistyped.db", "missing/shop.db"])(
  "diagnose names the missing database file %s and creates none",
  async (name) => {
    const path = join(folder, name);
    const found = await run(["diagnose", "--order", "146"], { DATABASE_URL: `sqlite:${path}` });
    expect(found).toMatchObject({ code: 4, stdout: "" });
    expect(found.stderr).toContain(`there is no database file ${path}; check DATABASE_URL`);
    expect(existsSync(path)).toBe(false);
  },
);

test("erase takes what is personal away, and prune drops old notifications", async () => {
  const { db, dialect, close } = await openDatabase(variables().DATABASE_URL);
  const storage = createRobokassaStorage({ db, dialect });
  const handle = createResultHandler({ robokassa: createRobokassa(demoShop), storage, logger: silentLogger });
  await handle(new Request("http://localhost/result", { method: "POST", body: "InvId=146" }));
  expect(await run(["prune"])).toMatchObject({ code: 0, stdout: "dropped 0, and the texts of 0 orders\n" });
  expect(await run(["prune", "--days", "0"])).toMatchObject({
    code: 0,
    stdout: "dropped 1, and the texts of 1 orders\n",
  });
  await storage.orders.keepLink("order-146", "a text");
  expect(await run(["erase", "--order", "146"])).toMatchObject({ code: 0, stdout: "InvId 146: erased\n" });
  expect(await storage.orders.get("order-146")).toMatchObject({ description: "", link: undefined, total: "1000.00" });
  await close();
});

test("reconcile books here when the shop has no onPaid, and says so", async () => {
  await fake.pay({ invId: "146", outSum: "1000.00" });
  const booked = await run(["reconcile", "--order", "146", "--without-on-paid"]);
  expect(booked).toMatchObject({ code: 0, stdout: "InvId 146: paid\n" });
  expect(await run(["reconcile", "--without-on-paid", "--json"])).toMatchObject({
    code: 0,
    stdout: '{"checked":0,"paid":0,"held":0,"closed":0,"pending":0,"failed":0}\n',
  });
});

test("fake serves the shop of the variables, whatever its algorithm, and says what the shop answered", async () => {
  const cli = join(import.meta.dirname, "../src/cli.ts");
  const shop = await listen(async (request) => {
    const { searchParams } = new URL(request.url);
    return new Response(`OK${searchParams.get("InvId") ?? new URLSearchParams(await request.text()).get("InvId")}`);
  });
  const child = spawn(process.execPath, [cli, "fake", "--port", "0", "--result-url", `${shop.url}/result`], {
    env: { ...variables(), ROBOKASSA_ALGORITHM: "sha256", ROBOKASSA_TEST_PASSWORD1: "try-one" },
  });
  try {
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    await expect.poll(() => output, { timeout: 20_000 }).toContain("start the shop with ROBOKASSA_API_URL=");
    const url = /listening on (\S+)/.exec(output)?.[1] as string;
    const robokassa = createRobokassa({ ...demoShop, algorithm: "sha256", apiUrl: url });
    const link = robokassa.paymentUrl({ invId: "146", outSum: "1000.00", description: "Қалам", hold: true });
    expect(await (await fetch(link)).text()).toContain("Reserve");
    const paid = robokassa.paymentUrl({ invId: "147", outSum: "1000.00", description: "Қалам" });
    await fetch(`${url}/fake/pay`, { method: "POST", body: JSON.stringify({ url: paid }) });
    await expect.poll(() => output).toContain(`POST ${shop.url}/result: answered 200`);
    expect(output).not.toContain(demoShop.password2);
  } finally {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill();
    await ended;
    await shop.close();
  }
});

test.each([
  ["no command", [], {}, "a command is needed"],
  ["an unknown command", ["repair"], {}, "there is no command repair"],
  ["an unknown option", ["diagnose", "--id", "1"], {}, "--id"],
  ["no order", ["diagnose"], {}, "--order"],
  ["no order to reconcile", ["reconcile"], {}, "--without-on-paid when the shop has no onPaid"],
  [
    "an order without its option",
    ["reconcile", "147"],
    {},
    "reconcile does not take 147; an order is named by --order",
  ],
  ["no address", ["diagnose", "--order", "1", "--result-url", "shop"], {}, "--result-url must be an http(s) address"],
  ["an unknown order to erase", ["erase", "--order", "147"], {}, "no order has the id or InvId 147"],
  ["a port that is none", ["fake", "--port", "65536"], {}, "--port must be a number up to 65535"],
  ["an unknown algorithm for the fake", ["fake"], { ROBOKASSA_ALGORITHM: "sha3" }, '"sha3" is unknown'],
  ["an unreadable number of days", ["prune", "--days", "x"], {}, "--days must be a number"],
  ["a missing variable", ["diagnose", "--order", "1"], { ROBOKASSA_PASSWORD2: "" }, "ROBOKASSA_PASSWORD2 is missing"],
  [
    "equal passwords",
    ["diagnose", "--order", "1"],
    { ROBOKASSA_PASSWORD2: demoShop.password1 },
    "ROBOKASSA_PASSWORD1 and ROBOKASSA_PASSWORD2 are equal",
  ],
])("exits with 4 for %s, and says what to mend", async (_case, args, change, text) => {
  const { code, stderr } = await run(args, change);
  expect([code, stderr]).toEqual([4, expect.stringContaining(text)]);
  expect(stderr).not.toMatch(/\n\s+at /);
});
