import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createFakeBitrix } from "../src/testing/index.ts";

const portal = createFakeBitrix();
let server: Listening;
let folder: string;

beforeAll(async () => {
  server = await listen(portal.handle);
  folder = await mkdtemp(join(tmpdir(), "bitrix-cli-"));
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

function cli(args: readonly string[], variables: Readonly<Record<string, string>> = {}) {
  const child = spawn(process.execPath, [join(import.meta.dirname, "../src/cli.ts"), ...args], {
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

test("never prints the webhook's secret, and says what is wrong with the arguments", async () => {
  const wrong = await cli(["call", "profile"], { BITRIX_WEBHOOK_URL: "https://fake.bitrix24.kz/rest/s3cret" });
  expect([wrong.code, wrong.errors.includes("s3cret")]).toEqual([4, false]);
  expect((await cli(["call", "profile", "{"])).errors).toContain("parameters must be a JSON object");
  expect((await cli([])).errors).toContain("a command is needed");
});
