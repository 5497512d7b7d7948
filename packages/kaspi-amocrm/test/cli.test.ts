import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createRedisRateLimits, openRedis } from "@orderbridge/core/redis";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { redisProgram, startRedisServer } from "../../core/test/redis-server.ts";
import { runCommandLine } from "../src/cli-commands.ts";
import {
  createFakeAmocrm,
  createFakeKaspi,
  type FakeAmocrm,
  type FakeKaspi,
  fakeAccount,
} from "../src/testing/index.ts";

let kaspi: FakeKaspi;
let amocrm: FakeAmocrm;
let kaspiServer: Listening;
let amocrmServer: Listening;
let folder: string;
let number = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kaspi-amocrm-cli-"));
  kaspiServer = await listen((request) => kaspi.handle(request));
  amocrmServer = await listen((request) => amocrm.handle(request));
});
beforeEach(async () => {
  kaspi = createFakeKaspi();
  amocrm = createFakeAmocrm();
  number++;
  expect(await cli(["migrate"])).toEqual({ code: 0, output: "", errors: "" });
});
afterAll(async () => {
  await kaspiServer?.close();
  await amocrmServer?.close();
  await rm(folder, { recursive: true, force: true });
});

const variablesOf = (more: Readonly<Record<string, string>>) => ({
  DATABASE_URL: `sqlite:${join(folder, `${number}.db`)}`,
  KASPI_API_URL: kaspiServer.url,
  KASPI_TOKEN: "kaspi-token",
  AMO_API_URL: amocrmServer.url,
  AMO_ACCOUNT_HOST: fakeAccount.host,
  AMO_ACCESS_TOKEN: "amo-token",
  AMO_PIPELINE_ID: String(fakeAccount.pipelineId),
  AMO_STATUS_ID: String(fakeAccount.stageIds.new),
  AMO_CATALOG_ID: String(fakeAccount.catalogId),
  AMO_LEAD_ORDER_CODE_FIELD_ID: String(fakeAccount.orderCodeFieldId),
  AMO_STATUS_MAP: JSON.stringify({ ACCEPTED_BY_MERCHANT: fakeAccount.stageIds.accepted }),
  ...more,
});

async function cli(
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  onProgress: (stop: () => void) => void = () => undefined,
) {
  let output = "";
  let errors = "";
  const stopping = new AbortController();
  const code = await runCommandLine(args, {
    variables: variablesOf(variables),
    out: (text) => {
      output += text;
    },
    err: (text) => {
      errors += text;
      onProgress(() => stopping.abort());
    },
    isInteractive: false,
    signal: stopping.signal,
  });
  return { code, output, errors };
}

test("doctor is content with a good account, and says of each wrong variable, token, id and right how to mend it", async () => {
  const good = await cli(["doctor"]);
  expect([good.code, good.output]).toEqual([0, expect.not.stringContaining("MEND")]);

  const variables = await cli(["doctor"], { KASPI_TOKEN: "replace-me", AMO_STATUS_MAP: '{"COMPLETED": "won"}' });
  expect([variables.code, variables.output]).toEqual([
    1,
    expect.stringMatching(/MEND {2}KASPI_TOKEN still holds[\s\S]*MEND {2}AMO_STATUS_MAP is wrong at "COMPLETED"/),
  ]);

  const ids = await cli(["doctor"], {
    KASPI_TOKEN: "another-token",
    AMO_STATUS_ID: "5",
    AMO_CATALOG_ID: "6",
    AMO_LEAD_ORDER_CODE_FIELD_ID: "7",
    AMO_RESPONSIBLE_USER_ID: "8",
  });
  expect(ids.code).toBe(1);
  expect(ids.output).toMatch(/MEND {2}Kaspi shop default: /);
  for (const name of ["STATUS_ID 5", "CATALOG_ID 6", "LEAD_ORDER_CODE_FIELD_ID 7", "RESPONSIBLE_USER_ID 8"]) {
    expect(ids.output).toContain(`MEND  ids and fields: AMO_${name}`);
  }
  expect(ids.output).not.toContain("another-token");
  const token = await cli(["doctor"], { AMO_ACCESS_TOKEN: "expired-token" });
  expect([token.code, token.output]).toEqual([1, expect.stringMatching(/MEND {2}amoCRM account: .*401/)]);
});

test("doctor tells of a webhook that amoCRM has switched off, without the secret in its path", async () => {
  await fetch(`${amocrmServer.url}/api/v4/webhooks`, {
    method: "POST",
    headers: { authorization: "Bearer amo-token", "content-type": "application/json" },
    body: JSON.stringify({ destination: "https://shop.example/hooks/a-secret-of-the-path", settings: ["add_lead"] }),
  });
  const [hook] = amocrm.hooks.subscriptions;
  const on = await cli(["doctor"]);
  Object.assign(hook ?? {}, { isDisabled: true });
  const off = await cli(["doctor"]);
  expect([on.code, on.output]).toEqual([0, expect.not.stringContaining("webhook")]);
  expect([off.code, off.output]).toEqual([
    0,
    expect.stringContaining("note  amoCRM has switched off a webhook to shop.example, "),
  ]);
  expect(off.output).not.toContain("a-secret");
});

test("a mistyped path is told and makes no file; only migrate makes a database, and doctor looks at the rest without one", async () => {
  const path = join(folder, "mistyped.db");
  const variables = { DATABASE_URL: `sqlite:${path}` };
  const span = ["--from", "2026-02-25", "--to", "2026-03-05"];
  const commands = [
    ["probe"],
    ["order", "700000001"],
    ["parked"],
    ["unblock"],
    ["backfill", ...span],
    ["erase", "--phone", "87010000001"],
  ];
  for (const command of [...commands, ["backfill", ...span, "--dry-run"], ["doctor", "--create-field"]]) {
    expect(await cli(command, variables), command.join(" ")).toEqual({
      code: 4,
      output: "",
      errors: `cannot run: there is no database file ${path}; check DATABASE_URL\n`,
    });
  }
  const doctor = await cli(["doctor"], variables);
  expect([doctor.code, doctor.output]).toEqual([
    1,
    expect.stringMatching(
      /MEND {2}database: there is no database file [^;]+; check DATABASE_URL; before the first start: kaspi-amocrm migrate\nok {4}variables\n[\s\S]*ok {4}ids and fields/,
    ),
  ]);
  expect([kaspi.journal.count(/^GET/), existsSync(path)]).toEqual([1, false]);
  expect((await cli(["migrate"], variables)).code).toBe(0);
  expect((await cli(["doctor"], variables)).code).toBe(0);
  expect((await cli(["parked"], variables)).output).toBe("0 parked\n");
});

test("a dry backfill counts what the real one does, and an order tells its story", async () => {
  const at = Date.parse("2026-03-01T12:00:00+05:00");
  const entries = [{ sku: "LAMP", basePrice: 100 }];
  kaspi.addOrder({ code: "700000001", creationDate: at, cellPhone: "7010000001", entries });
  kaspi.addOrder({ code: "700000002", creationDate: at, state: "ARCHIVE", status: "CANCELLED", entries });
  kaspi.addOrder({ code: "700000003", creationDate: at, state: "SIGN_REQUIRED", signatureRequired: true, entries });
  kaspi.addOrder({ code: "700000004", creationDate: at, state: "PICKUP", status: "ACCEPTED_BY_MERCHANT", entries });
  const span = ["--from", "2026-02-25", "--to", "2026-03-05"];

  const dry = await cli(["backfill", ...span, "--dry-run"]);
  expect(amocrm.journal.entries).toEqual([]);
  const real = await cli(["backfill", ...span]);
  expect([real.code, real.output]).toEqual([0, expect.stringContaining("4 seen, 2 created")]);
  expect(dry.output).toBe(`would be: ${real.output}`);
  expect(real.errors).toMatch(/\[#{20}\] 4 orders, \d+\/s, 0 s left/);
  expect(amocrm.leads).toHaveLength(2);

  const story = await cli(["order", "700000004"]);
  expect(story.code).toBe(0);
  expect(story.output).toMatch(
    /ledger: done[\s\S]*Kaspi: {2}PICKUP\/ACCEPTED_BY_MERCHANT[\s\S]*amoCRM: lead \d+ in stage 70012, price 100/,
  );
  kaspi.changeOrder("700000004", { entries: [{ sku: "LAMP", basePrice: 300 }] });
  expect((await cli(["order", "700000004", "--rerun"])).output).toMatch(/1 updated[\s\S]*price 300/);
  expect((await cli(["order", "1"])).code).toBe(1);

  const skipped = await cli(["order", "700000002", "--rerun"]);
  expect([skipped.code, skipped.output]).toEqual([0, expect.stringContaining("re-run: the order is skipped")]);
});

test("an order tells its story, and why it stands still, when a vendor refuses or blocks us", async () => {
  kaspi.addOrder({ code: "700000001", entries: [{ sku: "LAMP", basePrice: 100 }] });
  await cli(["order", "700000001", "--rerun"]);
  const wrong = await cli(["order", "700000001", "--rerun"], { KASPI_TOKEN: "another-token" });
  expect([wrong.code, wrong.output]).toEqual([
    1,
    expect.stringMatching(/ledger: done[\s\S]*Kaspi: {2}cannot be asked: [\s\S]*amoCRM: lead \d+ in stage/),
  ]);
  amocrm.faults.add({ fault: { kind: "block" } });
  const blocked = await cli(["order", "700000001"]);
  expect([blocked.code, blocked.output]).toEqual([
    1,
    expect.stringMatching(/ledger: done[\s\S]*Kaspi: {2}NEW\/[\s\S]*amoCRM: cannot be asked: .*block/),
  ]);
});

test("a stored block is shown and lifted; parked orders are listed; a buyer is forgotten", async () => {
  kaspi.addOrder({ code: "700000001", cellPhone: "7010000001", entries: [{ sku: "LAMP", basePrice: 100 }] });
  amocrm.faults.add({ fault: { kind: "block" } });
  expect((await cli(["doctor"])).code).toBe(1);
  amocrm.faults.clear();
  expect((await cli(["doctor"])).output).toContain("MEND  limit of amocrm:demo.amocrm.ru:token: blocked with 403");
  expect((await cli(["unblock"])).output).toContain("amocrm:demo.amocrm.ru:token: the block is cleared");
  const parked = await cli(["parked"], { REDIS_URL: "redis://127.0.0.1:1" });
  expect([parked.output, parked.errors]).toEqual(["0 parked\n", "note: Redis does not answer\n"]);

  await cli(["order", "700000001", "--rerun"]);
  const [contact] = amocrm.contacts;
  const erased = await cli(["erase", "--phone", "8 701 000 00 01"]);
  expect([erased.code, erased.output]).toEqual([
    0,
    expect.stringMatching(new RegExp(`1 contacts are forgotten here[\\s\\S]*/contacts/detail/${contact?.id}\n`)),
  ]);
  expect((await cli(["erase", "--phone", "+77010000001"])).output).toContain("1 contacts"); // amoCRM still has it
  amocrm.deleteContact(contact?.id as number);
  expect((await cli(["erase", "--phone", "+77010000001"])).output).toContain("0 contacts");
});

test("wrong arguments and variables end with exit code 4 and say what to do, without a secret", async () => {
  expect((await cli([])).errors).toContain("a command is needed");
  expect((await cli(["unblock", "kaspi"])).errors).toContain("unblock does not take kaspi"); // it clears every block
  expect((await cli(["backfill", "--from", "yesterday", "--to", "2026-03-01"])).errors).toContain(
    "--from must be a day",
  );
  expect((await cli(["erase", "--phone", "12"])).code).toBe(4);
  const wrong = await cli(["parked"], { KASPI_TOKENS: "almaty=kaspi-token" });
  expect([wrong.code, wrong.errors]).toEqual([
    4,
    "cannot run: KASPI_TOKENS gives two shops the same token; a token belongs to one shop\n",
  ]);
});

test("a stopped backfill goes on behind the last complete span, and begins anew once it has ended", async () => {
  const entries = [{ sku: "LAMP", basePrice: 100 }];
  for (const [index, day] of ["2026-02-21", "2026-03-08"].entries()) {
    kaspi.addOrder({ code: `70000000${index}`, creationDate: Date.parse(`${day}T12:00:00+05:00`), entries });
  }
  const span = ["backfill", "--from", "2026-02-20", "--to", "2026-03-10"];
  const steps = () => kaspi.journal.entries.length;

  let lines = 0;
  const stopped = await cli(span, {}, (stop) => ++lines === 9 && stop()); // in the second of two spans
  expect([stopped.code, stopped.errors]).toEqual([1, expect.stringContaining("the same command goes on")]);
  const before = steps();
  const rest = await cli(span);
  expect([rest.output, steps() - before]).toEqual([expect.stringContaining("1 seen"), 6]);
  expect(amocrm.leads).toHaveLength(2);
  expect((await cli(span)).output).toContain("2 seen, 0 created");
  expect(amocrm.leads).toHaveLength(2);
});

test("the fake prints the variables for a worker, and every process stops cleanly", async () => {
  const child = spawn(process.execPath, [join(import.meta.dirname, "../src/cli.ts"), "fake", "--port", "0"]);
  onTestFinished(() => void child.kill("SIGTERM"));
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  let output = "";
  const variables = await new Promise<Record<string, string>>((resolve) =>
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
      if (!output.includes("AMO_STATUS_MAP=")) return;
      resolve(Object.fromEntries(output.split("\n").map((line) => line.split(/=(.*)/s).slice(0, 2))));
    }),
  );
  expect(await cli(["doctor"], variables)).toMatchObject({ code: 0 });
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

test.skipIf(redisProgram.skipped)(
  `with REDIS_URL the calls take slots of the workers' budget (${redisProgram.name})`,
  async () => {
    const server = await startRedisServer();
    onTestFinished(() => server.remove());
    const redis = await openRedis(server.url, { purpose: "slots" });
    onTestFinished(() => redis.disconnect());
    const workers = createRedisRateLimits({ redis, durable: createMemoryStorage().rateLimits });
    const waitOfWorker = async () => {
      const slot = await workers.reserve("kaspi:default", { intervalMs: 3_600_000 });
      return slot.state === "reserved" ? slot.waitMs / 3_600_000 : undefined;
    };
    expect(await cli(["doctor"], { REDIS_URL: server.url })).toMatchObject({ code: 0, errors: "" });
    // An unknown account would begin with a full bucket and its first slot would be a whole interval away.
    expect(await waitOfWorker()).toBeLessThan(0.5);
    expect((await redis.keys("*")).sort()).toEqual([
      "orderbridge:rate:amocrm:demo.amocrm.ru:token",
      "orderbridge:rate:kaspi:default",
    ]);
  },
);

test("without the package ioredis only a set REDIS_URL is refused, and the package is named", async () => {
  const hook = `data:text/javascript,${encodeURIComponent(`
    import { registerHooks } from "node:module";
    registerHooks({
      resolve(specifier, context, next) {
        if (specifier !== "ioredis") return next(specifier, context);
        throw Object.assign(new Error("not installed"), { code: "ERR_MODULE_NOT_FOUND" });
      },
    });
  `)}`;
  const parked = async (more: Readonly<Record<string, string>>) => {
    const program = join(import.meta.dirname, "../src/cli.ts");
    const child = spawn(process.execPath, ["--import", hook, program, "parked"], { env: variablesOf(more) });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk));
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return [code, output];
  };
  expect(await parked({})).toEqual([0, "0 parked\n"]);
  expect(await parked({ REDIS_URL: "redis://127.0.0.1:1" })).toEqual([
    4,
    "cannot run: REDIS_URL needs the package ioredis: npm install ioredis\n",
  ]);
});

test("probe answers the open points under both readings, writes nothing and shows nothing of a buyer", async () => {
  const at = Date.now() - 3_600_000;
  const entries = [{ sku: "LAMP", basePrice: 7990 }];
  for (const reading of ["first", "second"] as const) {
    const isFirst = reading === "first";
    kaspi = createFakeKaspi({ requiresState: isFirst, largePages: isFirst ? "refused" : "cut", order: "newest" });
    amocrm = createFakeAmocrm({ hasFilters: !isFirst, hasMinorUnits: !isFirst, hasCatalogs: !isFirst });
    kaspi.addOrder({ code: "700000001", creationDate: at, cellPhone: "7010000001", firstName: "Айгүл", entries });
    kaspi.addOrder({ code: "700000002", creationDate: at + 1, entries: [{ basePrice: 5 }] });
    amocrm.addLead({ name: "Kaspi 700000009", orderCode: "700000009" });
    const { code, output, errors } = await cli(["probe"]);
    expect([code, errors]).toEqual([0, ""]);
    expect(output).toContain(`list without a state: ${isFirst ? "refused (validation)" : "accepted, 2 rows, total 2"}`);
    expect(output).toContain(`page size 200: ${isFirst ? "refused (validation)" : "accepted, 0 rows"}`);
    expect(output).toContain("span of 15 days: refused (validation)");
    expect(output).toContain("order newest first; of 2 orders 2 with lines, 1 with every SKU, 1 with an open phone");
    expect(output).toContain(`paid filters: ${isFirst ? "no" : "yes"}`);
    expect(output).toContain(`fractional prices of leads: ${isFirst ? "no" : "yes"}`);
    expect(output).toContain(isFirst ? "lists of goods: refused" : "SKU: text, PRICE: price");
    expect(output).not.toMatch(/7000000|701000|Айгүл|Серікқызы|7990|LAMP/);
  }
  for (const { journal } of [kaspi, amocrm]) expect(journal.count(/^(POST|PUT|PATCH|DELETE)/)).toBe(0);
});

test("doctor makes the field for the order code when asked to, and tells when a long-lived token ends", async () => {
  const claims = Buffer.from(JSON.stringify({ exp: 1_900_000_000 })).toString("base64url");
  const token = `e30.${claims}.signature`;
  amocrm = createFakeAmocrm({ accessTokens: [token] });
  const without = { AMO_LEAD_ORDER_CODE_FIELD_ID: "", AMO_ACCESS_TOKEN: token };
  expect((await cli(["doctor"], without)).output).toMatch(/doctor --create-field[\s\S]*ends 2030-03-17T17:46:40.000Z/);
  const made = await cli(["doctor", "--create-field"], without);
  expect([made.code, made.output]).toEqual([0, expect.stringMatching(/^AMO_LEAD_ORDER_CODE_FIELD_ID=\d+\n$/)]);
  const id = made.output.trim().split("=")[1] as string;
  const after = await cli(["doctor"], { AMO_LEAD_ORDER_CODE_FIELD_ID: id, AMO_ACCESS_TOKEN: token });
  expect([after.code, after.output]).toEqual([0, expect.not.stringContaining("create-field")]);
});
