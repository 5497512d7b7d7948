import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createRedisRateLimits, openRedis } from "@orderbridge/core/redis";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { redisProgram, startRedisServer } from "../../core/test/redis-server.ts";
import { createBitrix, createBitrixConnection } from "../src/index.ts";
import { createBitrixStorage } from "../src/kysely/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";
import { createBackendAndPortal, stages } from "./backend-and-portal.ts";

// Each command is a process of its own that loads all sources: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const portal = createFakeBitrix();
let server: Listening;
let folder: string;

beforeAll(async () => {
  server = await listen(portal.handle);
  folder = await mkdtemp(join(tmpdir(), "bitrix-cli-"));
  expect(await cli(["migrate"])).toEqual({ code: 0, output: "", errors: "" });
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

const program = join(import.meta.dirname, "../src/cli.ts");

function cli(args: readonly string[], variables: Readonly<Record<string, string>> = {}) {
  const child = spawn(process.execPath, [program, ...args], {
    env: {
      PATH: process.env.PATH,
      BITRIX_WEBHOOK_URL: portal.webhookUrl(server.url),
      DATABASE_URL: `sqlite:${join(folder, "cli.db")}`,
      ...variables,
    },
  });
  let output = "";
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    errors += chunk;
  });
  return new Promise<{ code: number | null; output: string; errors: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, output, errors })),
  );
}

test("doctor names what has to be mended", async () => {
  const good = await cli(["doctor"], { BITRIX_STAGE_MAP: '{"new": "NEW", "delivered": "WON"}' });
  expect([good.code, good.output]).toEqual([0, expect.stringContaining("deals at PREPARATION")]);
  const bad = await cli(["doctor"], { BITRIX_STAGE_MAP: '{"new": "C9:NEW"}', BITRIX_LINK_FIELD: "UF_CRM_NONE" });
  expect([bad.code, bad.output]).toEqual([1, expect.stringMatching(/has no C9:NEW[\s\S]*no field UF_CRM_NONE/)]);
});

test("a mistyped path is told and makes no file; only migrate makes a database, and doctor looks at the rest without one", async () => {
  const path = join(folder, "mistyped.db");
  const variables = { DATABASE_URL: `sqlite:${path}`, BITRIX_STAGE_MAP: '{"new": "NEW"}' };
  const refused = await Promise.all(
    [
      ["call", "scope"],
      ["sync", "status"],
    ].map((command) => cli(command, variables)),
  );
  for (const ended of refused) {
    expect(ended).toEqual({
      code: 4,
      output: "",
      errors: `cannot run: there is no database file ${path}; check DATABASE_URL\n`,
    });
  }
  const doctor = await cli(["doctor"], variables);
  expect([doctor.code, doctor.output]).toEqual([
    1,
    expect.stringMatching(
      /MEND {2}database: there is no database file [^;]+; check DATABASE_URL; before the first start: bitrix migrate\nok {4}rights/,
    ),
  ]);
  expect([doctor.output.match(/MEND/g)?.length, existsSync(path)]).toEqual([1, false]);
  expect((await cli(["migrate"], variables)).code).toBe(0);
  expect((await cli(["doctor"], variables)).code).toBe(0);
});

test("a call that the portal refuses is told with the portal's words", async () => {
  expect(await cli(["call", "catalog.product.add", '{"fields": {"iblockId": 1}}'])).toEqual({
    code: 1,
    output: "",
    errors: "cannot run: bitrix: catalog.product.add answered 400 0: Required fields: name\n",
  });
});

test("doctor says how each thing is mended, and names the funnels there are", async () => {
  portal.addCategory(9, "Доставка", [{ id: "C9:NEW", name: "Жаңа", sort: 10, semantics: "process" }]);
  const bad = await cli(["doctor"], { BITRIX_CATEGORY_ID: "4", BITRIX_LINK_FIELD: "UF_CRM_WAYBILL" });
  expect(bad.code).toBe(1);
  for (const part of [
    "set BITRIX_CATEGORY_ID to one of 0 (Общая), 9 (Доставка)",
    "BITRIX_STAGE_MAP is missing",
    "outgoing webhook calls /bitrix/events",
  ]) {
    expect(bad.output).toContain(part);
  }
  // The line that it prints works as it stands.
  const parameters = /crm\.deal\.userfield\.add '([^']+)'/.exec(bad.output)?.[1] ?? "";
  expect((await cli(["call", "crm.deal.userfield.add", parameters])).code).toBe(0);
  const mended = await cli(["doctor"], { BITRIX_STAGE_MAP: '{"new": "NEW"}', BITRIX_LINK_FIELD: "UF_CRM_WAYBILL" });
  expect([mended.code, mended.output]).toEqual([0, expect.stringContaining("orders that are paid, accepted")]);
});

test("doctor refuses a link field from which no id would come back, and says for which ids a number will do", async () => {
  const doctorWith = (field: string) =>
    cli(["doctor"], { BITRIX_STAGE_MAP: '{"new": "NEW"}', BITRIX_LINK_FIELD: `UF_CRM_${field}` });
  const add = (FIELD_NAME: string, field: Readonly<Record<string, unknown>>) =>
    cli(["call", "crm.deal.userfield.add", JSON.stringify({ fields: { FIELD_NAME, ...field } })]);
  await add("CHOICE", { USER_TYPE_ID: "enumeration", LIST: [{ VALUE: "1" }] });
  await add("MANY", { USER_TYPE_ID: "string", MULTIPLE: "Y" });
  await add("NUMBER", { USER_TYPE_ID: "integer" });
  const choice = await doctorWith("CHOICE");
  expect([choice.code, choice.output]).toEqual([1, expect.stringContaining("no single text (enumeration)")]);
  const many = await doctorWith("MANY");
  expect([many.code, many.output]).toEqual([1, expect.stringContaining("no single text (string, with many values)")]);
  const number = await doctorWith("NUMBER");
  expect([number.code, number.output]).toEqual([0, expect.stringContaining("UF_CRM_NUMBER (integer: for ids that")]);
});

test("doctor asks an application's portal for the event bindings", async () => {
  const memberId = "a223c6b3710f85df22e9377d6c4f7553";
  const application = { BITRIX_PORTAL_URL: server.url, BITRIX_MEMBER_ID: memberId, BITRIX_CLIENT_ID: "local.fake" };
  const incomplete = await cli(["doctor"], application);
  expect([incomplete.code, incomplete.errors]).toEqual([4, expect.stringContaining("BITRIX_CLIENT_SECRET is missing")]);

  const database = await openDatabase(`sqlite:${join(folder, "application.db")}`);
  try {
    const core = createKyselyStorage(database);
    await core.migrate();
    const connection = createBitrixConnection({
      portalUrl: server.url,
      memberId,
      clientId: "local.fake",
      clientSecret: "fake-client-secret",
      authorizationServer: server.url,
      storage: core,
    });
    await connection.connect(portal.consent());
    const variables = {
      ...application,
      BITRIX_CLIENT_SECRET: "fake-client-secret",
      BITRIX_STAGE_MAP: '{"new": "NEW"}',
      DATABASE_URL: `sqlite:${join(folder, "application.db")}`,
    };
    const bitrix = createBitrix({ oauth: connection, plan: { intervalMs: 0.001, capacity: 1 } });
    const bind = (event: string) =>
      bitrix.call("event.bind", { event, handler: "https://backend.example/bitrix/events" });
    for (const event of ["ONCRMDEALADD", "ONCRMDEALUPDATE", "ONCRMDEALDELETE"]) await bind(event);
    const unbound = await cli(["doctor"], variables);
    expect([unbound.code, unbound.output]).toEqual([
      1,
      expect.stringContaining("MEND  event bindings: nothing is told of ONCRMDEALMOVETOCATEGORY"),
    ]);
    await bind("ONCRMDEALMOVETOCATEGORY");
    expect((await cli(["doctor"], variables)).output).toContain("ok    event bindings: ONCRMDEALADD, ");
  } finally {
    await database.close();
  }
});

test("erase takes a phone out of stored errors and names the portal's contacts", async () => {
  const database = await openDatabase(`sqlite:${join(folder, "erase.db")}`);
  try {
    const storage = createBitrixStorage(database);
    await storage.migrate();
    for (const [key, error] of [
      ["1", "buyer +7 (701) 123-45-67 refused"],
      ["2", "answered 422"],
    ] as const) {
      await storage.work.mark("product", key);
      const [work] = await storage.work.claim({ topics: ["product"], limit: 1, ttlMs: 60_000 });
      if (work) await storage.work.park(work, error);
    }
    const added = await cli([
      "call",
      "crm.contact.add",
      '{"fields": {"NAME": "Айгүл", "PHONE": [{"VALUE": "+77011234567"}]}}',
    ]);
    const variables = { DATABASE_URL: `sqlite:${join(folder, "erase.db")}` };
    const erased = await cli(["erase", "--phone", "8 701 123 45 67"], variables);
    expect([erased.code, erased.output]).toEqual([
      0,
      expect.stringContaining("bitrix_work.last_error: erased in 1 texts"),
    ]);
    expect(erased.output).toContain(`contacts ${added.output.trim()} have it`);
    expect((await storage.work.parked({ limit: 10 })).map(({ lastError }) => lastError)).toEqual([
      "(erased)",
      "answered 422",
    ]);
    expect((await cli(["erase"])).errors).toContain("erase needs --phone");
    expect((await cli(["erase", "--phone", "12"])).errors).toContain("10 to 15 digits");
  } finally {
    await database.close();
  }
});

test("call and list print JSON", async () => {
  const { id } = portal.addDeal({ title: "Роза" });
  const call = await cli(["call", "crm.deal.get", JSON.stringify({ id })]);
  expect(JSON.parse(call.output)).toMatchObject({ TITLE: "Роза" });
  const list = await cli(["list", "crm.item.list", '{"entityTypeId": 2}']);
  expect(
    list.output
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).id),
  ).toEqual([id]);
});

test("list goes on after an id, and tells on standard error how far it is", async () => {
  const many = createFakeBitrix();
  const ids = Array.from({ length: 2_600 }, (_, index) => many.addDeal({ title: `Заказ ${index}` }).id);
  const manyServer = await listen(many.handle);
  try {
    const variables = {
      BITRIX_WEBHOOK_URL: many.webhookUrl(manyServer.url),
      DATABASE_URL: `sqlite:${join(folder, "list.db")}`,
    };
    const parameters = '{"entityTypeId": 2, "select": ["id"]}';
    await cli(["migrate"], variables);
    const all = await cli(["list", "crm.item.list", parameters], variables);
    expect(all.output.trim().split("\n")).toEqual(ids.map((id) => JSON.stringify({ id })));
    expect(all.errors).toMatch(/^2\d{3} rows, at id \d+[\s\S]*2600 rows\n$/);
    // A reader that has seen enough is no trouble.
    const reader = spawn(
      "sh",
      ["-c", `"${process.execPath}" "${program}" list crm.item.list '${parameters}' | head -n 1`],
      {
        env: { PATH: process.env.PATH, ...variables },
      },
    );
    let complaint = "";
    reader.stderr.on("data", (chunk: Buffer) => {
      complaint += chunk;
    });
    await new Promise((resolve) => reader.once("close", resolve));
    expect(complaint).not.toContain("Error");
    const rest = await cli(["list", "crm.item.list", parameters, "--after", String(ids[2_597])], variables);
    expect([rest.output.trim().split("\n").length, rest.errors]).toEqual([2, "2 rows\n"]);
  } finally {
    await manyServer.close();
  }
});

test("fake serves a portal that raises its events, until it is asked to stop", async () => {
  const received: string[] = [];
  const receiver = await listen(async (request) => {
    received.push(new URLSearchParams(await request.text()).get("event") ?? "");
    return new Response();
  });
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, "../src/cli.ts"), "fake", "--port", "0", "--event-url", receiver.url],
    { env: { PATH: process.env.PATH } },
  );
  try {
    const address = await new Promise<string>((resolve, reject) => {
      let output = "";
      child.once("exit", () => reject(new Error(`the fake ended: ${output}`)));
      child.stdout.on("data", (chunk: Buffer) => {
        output += chunk;
        const found = /^BITRIX_WEBHOOK_URL=(.+)$/m.exec(output)?.[1];
        if (found) resolve(found);
      });
    });
    const bitrix = createBitrix({ webhookUrl: address });
    const deal = await bitrix.deals.add({ originatorId: "shop", originId: "17", fields: { title: "Роза" } });
    expect((await bitrix.deals.update(deal.id, { stageId: "WON" })).stageId).toBe("WON");
    await expect.poll(() => received).toEqual(["ONCRMDEALADD", "ONCRMDEALADD", "ONCRMDEALUPDATE"]);
  } finally {
    const closed = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGTERM");
    expect(await closed).toBe(0);
    await receiver.close();
  }
});

test("unblock clears a block that an earlier process stored", async () => {
  portal.faults.add({ fault: { kind: "block" } });
  expect((await cli(["call", "profile"])).code).toBe(4);
  portal.faults.clear();
  const blocked = await cli(["call", "profile"]);
  expect([blocked.code, blocked.errors]).toEqual([4, expect.stringContaining("OVERLOAD_LIMIT")]);
  expect((await cli(["unblock"])).output).toContain("cleared");
  expect((await cli(["call", "profile"])).code).toBe(0);
  expect((await cli(["sync", "status"])).output).toContain("0 pairs");
});

test("sync repair has what stands still looked at again; --dry-run only says what", async () => {
  const database = await openDatabase(`sqlite:${join(folder, "repair.db")}`);
  try {
    const storage = createBitrixStorage(database);
    await storage.migrate();
    await storage.links.put({
      sync: "order-deal",
      leftId: "order-1",
      rightId: "7001",
      agreed: { left: { code: "new", paid: false }, right: { code: "C9:NEW", paid: false } },
      expectedEcho: undefined,
      echoes: 0,
      nearMisses: 0,
      state: "active",
      note: "unmapped C9:NEW",
      unfollowed: { side: "right", status: undefined },
      version: 1,
    });
    await storage.work.mark("product", "668826");
    const [work] = await storage.work.claim({ topics: ["product"], limit: 1, ttlMs: 60_000 });
    if (work) await storage.work.park(work, "answered 422");
    const variables = { DATABASE_URL: `sqlite:${join(folder, "repair.db")}` };
    const dry = await cli(["sync", "repair", "--dry-run"], variables);
    expect([dry.code, dry.output]).toEqual([0, expect.stringContaining("2 would be looked at, nothing was changed")]);
    expect(await storage.work.parked({ limit: 10 })).toHaveLength(1);
    expect((await storage.links.getByLeft("order-deal", "order-1"))?.note).toBe("unmapped C9:NEW");
    expect((await cli(["sync", "repair"], variables)).output).toContain("2 are due");
    const due = await storage.work.claim({ topics: ["order", "product"], limit: 10, ttlMs: 60_000 });
    expect(due.map(({ key }) => key).sort()).toEqual(["668826", "order-1"]);
    // What it stands at may have a mapping by now.
    expect(await storage.links.getByLeft("order-deal", "order-1")).toMatchObject({
      note: undefined,
      unfollowed: { side: "right" },
      version: 2,
    });
    expect((await cli(["sync", "status"], variables)).output).toContain("order-1 <-> 7001: due, to be followed again");
  } finally {
    await database.close();
  }
});

test("sync repair makes no order paid whose payment was withdrawn", async () => {
  const database = await openDatabase(`sqlite:${join(folder, "refund.db")}`);
  try {
    const storage = createBitrixStorage(database);
    await storage.migrate();
    await createKyselyStorage(database).migrate();
    const variables = { DATABASE_URL: `sqlite:${join(folder, "refund.db")}` };
    const scene = createBackendAndPortal({
      conflict: "left",
      storage,
      stages: { ...stages, paid: "PREPAYMENT_INVOICE" },
    });
    const { dealId, orderId } = await scene.pair();
    await scene.orders.change(orderId, { paid: true }, { changedBy: "robokassa" });
    await scene.settle();
    await scene.orders.change(orderId, { paid: false }, { changedBy: "robokassa" });
    await scene.settle();
    const status = await cli(["sync", "status"], variables);
    expect([status.code, status.output]).toEqual([
      1,
      expect.stringContaining("backend stands at new, bitrix24 at PREPAYMENT_INVOICE"),
    ]);
    expect((await cli(["sync", "repair"], variables)).output).toContain("1 are due");
    await scene.settle();
    expect(await scene.orders.get(orderId)).toMatchObject({ status: "new", paidAt: undefined });
    expect(scene.portal.deal(dealId)?.stageId).toBe("PREPAYMENT_INVOICE");
    expect((await cli(["sync", "status"], variables)).output).toContain("1 not in step");
  } finally {
    await database.close();
  }
});

test("never prints the webhook's secret, and says what is wrong with the arguments", async () => {
  const wrong = await cli(["call", "profile"], { BITRIX_WEBHOOK_URL: "https://fake.bitrix24.kz/rest/s3cret" });
  expect([wrong.code, wrong.errors.includes("s3cret")]).toEqual([4, false]);
  expect((await cli(["call", "profile", "{"])).errors).toContain("parameters must be a JSON object");
  expect((await cli([])).errors).toContain("a command is needed");
  expect((await cli(["sync", "repair", "order-1"])).errors).toContain("sync does not take order-1");
});

test.skipIf(redisProgram.skipped)(
  `with REDIS_URL the calls take slots of the servers' budget (${redisProgram.name})`,
  async () => {
    const redisServer = await startRedisServer();
    onTestFinished(() => redisServer.remove());
    const redis = await openRedis(redisServer.url, { purpose: "slots" });
    onTestFinished(() => redis.disconnect());
    expect(await cli(["call", "profile"], { REDIS_URL: redisServer.url })).toMatchObject({ code: 0, errors: "" });
    const account = `bitrix:${new URL(server.url).host}`;
    expect(await redis.keys("*")).toEqual([`orderbridge:rate:${account}`]);
    // An unknown account would begin with a full bucket and its first slot would be a whole interval away.
    const servers = createRedisRateLimits({ redis, durable: createMemoryStorage().rateLimits });
    const slot = await servers.reserve(account, { intervalMs: 3_600_000 });
    expect(slot.state === "reserved" ? slot.waitMs / 3_600_000 : undefined).toBeLessThan(0.5);
  },
);
