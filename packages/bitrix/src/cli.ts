#!/usr/bin/env node
import { parseArgs } from "node:util";
import { ApiError, ConfigError, createStatusMapper, SdkError } from "@orderbridge/core";
import { createKyselyStorage, type KyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { type Bitrix, createBitrix } from "./bitrix.ts";
import { createDealSide } from "./deal-side.ts";
import { createBitrixStorage } from "./kysely/index.ts";
import { orderTopic } from "./orders.ts";
import type { Parameters } from "./parameters.ts";
import { accountOf, parseWebhookUrl } from "./rest-address.ts";
import type { BitrixStorage } from "./storage.ts";
import { createFakeBitrix } from "./testing/index.ts";

const help = `usage: bitrix <command> [options]

  doctor                          checks rights, stages, the link field and the stage map; names what to mend
  call <method> [parameters]      one call; parameters are JSON. Prints the result
  list <method> [parameters]      every row as a line of JSON, progress on standard error
       [--after <id>]             goes on after this id
  sync status [--sync order-deal] pairs that are lost or stand still, and work that was set aside
  sync repair [--dry-run]         has the workers look again at what sync status lists; --dry-run only prints it
  unblock                         clears a stored block, once Bitrix24 has lifted it
  fake [--port 4200] [--event-url <url>]   a Bitrix24 portal on this machine

Variables: BITRIX_WEBHOOK_URL, DATABASE_URL (default sqlite:./bitrix-sync.db); for doctor BITRIX_STAGE_MAP, BITRIX_CATEGORY_ID,
BITRIX_PAID_STAGE_ID, BITRIX_LINK_FIELD.

Exit codes: 0 all is well, 1 something must be mended, 4 the command could not run.
`;

const exitUnusable = 4;

class UsageError extends Error {}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

interface Tools {
  readonly webhookUrl: string;
  readonly bitrix: Bitrix;
  readonly core: KyselyStorage;
  readonly storage: BitrixStorage;
}

/** The client shares budget, block and address with the servers on the same database. */
async function withTools(work: (tools: Tools) => Promise<number>): Promise<number> {
  const webhookUrl = process.env.BITRIX_WEBHOOK_URL ?? "";
  if (webhookUrl === "") throw new UsageError("BITRIX_WEBHOOK_URL is missing");
  const database = await openDatabase(process.env.DATABASE_URL || "sqlite:./bitrix-sync.db");
  try {
    const core = createKyselyStorage(database);
    const storage = createBitrixStorage(database);
    await core.migrate();
    await storage.migrate();
    return await work({ webhookUrl, bitrix: createBitrix({ webhookUrl, storage: core }), core, storage });
  } finally {
    await database.close();
  }
}

function readParameters(text: string | undefined): Parameters {
  if (text === undefined) return {};
  try {
    const value = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // told below
  }
  throw new UsageError(`parameters must be a JSON object, e.g. '{"id": 1}'`);
}

const isStageMap = (value: unknown): value is Readonly<Record<string, string>> =>
  typeof value === "object" && value !== null && Object.values(value).every((stage) => typeof stage === "string");

async function runDoctor({ bitrix }: Tools): Promise<number> {
  const { BITRIX_STAGE_MAP: stageMap, BITRIX_PAID_STAGE_ID: paidStageId } = process.env;
  const categoryId = process.env.BITRIX_CATEGORY_ID || "0";
  const linkField = process.env.BITRIX_LINK_FIELD || "UF_CRM_ORDER_ID";
  let problems = 0;
  async function check(name: string, look: () => Promise<string>): Promise<void> {
    try {
      print(`ok    ${name}: ${await look()}`);
    } catch (error) {
      if (!(error instanceof UsageError) && !SdkError.isInstance(error)) throw error;
      problems++;
      print(`MEND  ${name}: ${error.message}`);
    }
  }

  await check("rights", async () => {
    const scopes = await bitrix.call<readonly string[]>("scope");
    if (!scopes.includes("crm")) throw new UsageError("the webhook lacks crm; tick it where the webhook was created");
    return scopes.join(", ");
  });
  await check("funnel", async () => {
    const stages = await bitrix.deals.stages(categoryId);
    if (stages.length === 0) throw new UsageError(`there is no funnel ${categoryId}; set BITRIX_CATEGORY_ID`);
    return stages.map(({ id }) => id).join(", ");
  });
  await check("stage map", async () => {
    if (!stageMap) throw new UsageError("BITRIX_STAGE_MAP is missing");
    const stages = readParameters(stageMap);
    if (!isStageMap(stages)) throw new UsageError("BITRIX_STAGE_MAP must map statuses to stage ids");
    createStatusMapper<[string, string][]>({ pairs: Object.entries(stages).map(([status, stage]) => [stage, status]) });
    const side = createDealSide({ bitrix, stages, categoryId, ...(paidStageId ? { paidStageId } : {}) });
    const { unmappedStages } = await side.check();
    return unmappedStages.length === 0 ? "complete" : `deals at ${unmappedStages.join(", ")} move no order`;
  });
  await check("link field", async () => {
    const fields = await bitrix.call<Readonly<Record<string, unknown>>>("crm.deal.fields");
    if (!(linkField in fields)) throw new UsageError(`deals have no field ${linkField}; create it, as text`);
    return linkField;
  });
  print("      events: a webhook may not read its own bindings; the portal must call /bitrix/events");
  return problems > 0 ? 1 : 0;
}

async function runList({ bitrix }: Tools, method: string, parameters: Parameters, after: string | undefined) {
  let count = 0;
  for await (const row of bitrix.list(method, parameters, after === undefined ? {} : { after })) {
    print(JSON.stringify(row));
    if (++count % 2_500 === 0) process.stderr.write(`${count} rows, at id ${String(row.ID ?? row.id)}\n`);
  }
  process.stderr.write(`${count} rows\n`);
  return 0;
}

/** Pairs that are lost or stand still, and how many pairs there are. */
async function findTroubledPairs(storage: BitrixStorage, sync: string) {
  const troubled: { readonly leftId: string; readonly rightId: string; readonly trouble: string }[] = [];
  let total = 0;
  let after: string | undefined;
  for (;;) {
    const links = await storage.links.list(sync, after === undefined ? { limit: 500 } : { after, limit: 500 });
    for (const { leftId, rightId, state, note } of links) {
      if (state !== "active" || note !== undefined) troubled.push({ leftId, rightId, trouble: note ?? state });
    }
    total += links.length;
    after = links.at(-1)?.leftId;
    if (links.length < 500) return { troubled, total };
  }
}

async function runSyncStatus({ storage }: Tools, sync: string): Promise<number> {
  const { troubled, total } = await findTroubledPairs(storage, sync);
  for (const { leftId, rightId, trouble } of troubled) print(`${leftId} <-> ${rightId}: ${trouble}`);
  const parked = await storage.work.parked({ limit: 1_000 });
  for (const { topic, key, attempts, lastError } of parked) {
    print(`${topic} ${key}: set aside after ${attempts} attempts: ${lastError}`);
  }
  print(`${total} pairs, ${troubled.length} not in step, ${parked.length} set aside`);
  return troubled.length + parked.length > 0 ? 1 : 0;
}

/** Makes what `sync status` lists due again; the workers on the same database look at it. */
async function runSyncRepair({ storage }: Tools, sync: string, { dryRun }: { readonly dryRun: boolean }) {
  const { troubled } = await findTroubledPairs(storage, sync);
  const parked = await storage.work.parked({ limit: 1_000 });
  const due = new Map(
    [...troubled.map(({ leftId }) => ({ topic: orderTopic, key: leftId })), ...parked].map(({ topic, key }) => [
      `${topic} ${key}`,
      { topic, key },
    ]),
  );
  for (const [name, { topic, key }] of due) {
    if (!dryRun) await storage.work.mark(topic, key);
    print(`${name}: ${dryRun ? "would be" : "is"} looked at again`);
  }
  print(dryRun ? `${due.size} would be looked at, nothing was changed` : `${due.size} are due for the workers`);
  return 0;
}

async function runFake(port: number, eventUrl: string | undefined): Promise<number> {
  const fake = createFakeBitrix(eventUrl === undefined ? {} : { eventUrl });
  fake.addDeal({ title: "Заказ 1" });
  const server = await listen(fake.handle, { port });
  print(`listening on ${server.url}`);
  print(`BITRIX_WEBHOOK_URL=${fake.webhookUrl(server.url)}`);
  const stop = () => void server.close();
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  return 0;
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        after: { type: "string" },
        sync: { type: "string", default: "order-deal" },
        port: { type: "string", default: "4200" },
        "event-url": { type: "string" },
        "dry-run": { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

async function main(): Promise<number> {
  const { values, positionals } = readArguments();
  const [command, first, second] = positionals;
  if (values.help) {
    print(help);
    return 0;
  }
  const method = (): string => {
    if (first === undefined) throw new UsageError(`${command} needs a method, e.g. crm.item.list`);
    return first;
  };
  switch (command) {
    case "doctor":
      return withTools(runDoctor);
    case "call":
      return withTools(async ({ bitrix }) => {
        print(JSON.stringify(await bitrix.call(method(), readParameters(second)), null, 2));
        return 0;
      });
    case "list":
      return withTools((tools) => runList(tools, method(), readParameters(second), values.after));
    case "sync":
      if (first === "status") return withTools((tools) => runSyncStatus(tools, values.sync));
      if (first !== "repair") throw new UsageError("sync has the commands status and repair");
      return withTools((tools) => runSyncRepair(tools, values.sync, { dryRun: values["dry-run"] }));
    case "unblock":
      return withTools(async ({ webhookUrl, core }) => {
        const cleared = await core.rateLimits.unblock(accountOf(parseWebhookUrl(webhookUrl)));
        print(cleared ? "the block is cleared; calls go on" : "there is no block");
        return 0;
      });
    case "fake":
      if (!/^\d{1,5}$/.test(values.port)) throw new UsageError("--port must be a number");
      return runFake(Number(values.port), values["event-url"]);
    default:
      throw new UsageError(command ? `there is no command ${command}` : "a command is needed");
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  const { message, code } = error as { message: string; code?: string };
  if (error instanceof UsageError) process.stderr.write(`${message}\n\n${help}`);
  else
    process.stderr.write(`cannot run: ${ConfigError.isInstance(error) ? message : message || code || String(error)}\n`);
  process.exitCode = error instanceof ApiError ? 1 : exitUnusable;
}
