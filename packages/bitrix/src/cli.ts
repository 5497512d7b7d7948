#!/usr/bin/env node
import { parseArgs } from "node:util";
import { ApiError, ConfigError, createStatusMapper, SdkError } from "@orderbridge/core";
import { createKyselyStorage, type KyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createRedisRateLimits, openRedis } from "@orderbridge/core/redis";
import { listen } from "@orderbridge/core/testing";
import { type Bitrix, createBitrix } from "./bitrix.ts";
import { createBitrixConnection } from "./connection.ts";
import { createDealSide } from "./deal-side.ts";
import { dealEvents } from "./event-handler.ts";
import { erasePhone } from "./kysely/erase-phone.ts";
import { createBitrixStorage } from "./kysely/index.ts";
import type { ListOptions, ListProgress } from "./list.ts";
import { bitrixOrderStatuses } from "./order-statuses.ts";
import { orderTopic } from "./orders.ts";
import type { Parameters } from "./parameters.ts";
import { accountOf, parseWebhookUrl } from "./rest-address.ts";
import type { BitrixStorage, SyncLink } from "./storage.ts";
import { createFakeBitrix } from "./testing/index.ts";

const help = `usage: bitrix <command> [options]

  doctor                          checks rights, funnel, stage map, link field, event bindings and blocks; says how to mend each
  call <method> [parameters]      one call; parameters are JSON. Prints the result
  list <method> [parameters]      every row as a line of JSON, progress on standard error
       [--after <id>]             goes on after this id
       [--id-field <name>]        field of the id in a row, e.g. ID, where the method's is another than usual
       [--filter-field <name>]    name of the id in the filter, where it is another one than in the row
  sync status [--sync order-deal] pairs that are lost or not in step, with the reason, and work that was set aside
  sync repair [--dry-run]         has the workers look again at what sync status lists, and follow what could not be followed; --dry-run only prints it
  erase --phone <phone>           takes a phone out of stored texts, and names the portal's contacts that have it
  unblock                         clears a stored block, once Bitrix24 has lifted it
  migrate                         makes the database, or brings its tables up to date, as a server does at its start
  fake [--port 4200] [--event-url <url>]   a Bitrix24 portal on this machine

Variables: BITRIX_WEBHOOK_URL, or for an application BITRIX_PORTAL_URL, BITRIX_MEMBER_ID, BITRIX_CLIENT_ID and
BITRIX_CLIENT_SECRET, whose tokens are in the database; DATABASE_URL (default sqlite:./bitrix-sync.db); REDIS_URL when the servers have it
(needs the package ioredis); for doctor BITRIX_STAGE_MAP, BITRIX_CATEGORY_ID, BITRIX_PAID_STAGE_ID, BITRIX_LINK_FIELD.

Exit codes: 0 all is well, 1 something must be mended, 4 the command could not run.
`;

const exitUnusable = 4;
/** Words of a command line, of those commands that take more than their name. */
const mostWords: Readonly<Record<string, number>> = { call: 3, list: 3, sync: 2 };
/** More than any backlog that a person would look through. */
const mostParked = 100_000;

class UsageError extends Error {}

const inWords = (error: Error): string =>
  error instanceof ApiError && error.description ? `${error.message}: ${error.description}` : error.message;

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

interface Tools {
  /** Whether an application calls: a webhook may not ask for event bindings. */
  readonly isApplication: boolean;
  /** Name under which budget and block are stored. */
  readonly account: string;
  readonly bitrix: Bitrix;
  readonly core: KyselyStorage;
  readonly storage: BitrixStorage;
  readonly database: OpenDatabase;
}

type OpenDatabase = Awaited<ReturnType<typeof openDatabase>>;

type Budgets = Pick<KyselyStorage, "rateLimits" | "tokens" | "leases" | "watermarks">;

function connect(core: Budgets): Pick<Tools, "account" | "bitrix" | "isApplication"> {
  const { BITRIX_CLIENT_ID: clientId, BITRIX_WEBHOOK_URL: webhookUrl = "" } = process.env;
  if (clientId) {
    const variable = (name: string): string => {
      const value = process.env[name];
      if (!value) throw new UsageError(`${name} is missing; an application needs it beside BITRIX_CLIENT_ID`);
      return value;
    };
    const connection = createBitrixConnection({
      portalUrl: variable("BITRIX_PORTAL_URL"),
      memberId: variable("BITRIX_MEMBER_ID"),
      clientId,
      clientSecret: variable("BITRIX_CLIENT_SECRET"),
      storage: core,
    });
    const bitrix = createBitrix({ oauth: connection, storage: core });
    return { account: accountOf(connection.address), bitrix, isApplication: true };
  }
  if (webhookUrl === "") throw new UsageError("BITRIX_WEBHOOK_URL is missing");
  const account = accountOf(parseWebhookUrl(webhookUrl));
  return { account, bitrix: createBitrix({ webhookUrl, storage: core }), isApplication: false };
}

/** Only `migrate` makes a file: an empty database at a mistyped path would look as if all were well. */
const openServersDatabase = (options = { mustExist: true }): Promise<OpenDatabase> =>
  openDatabase(process.env.DATABASE_URL || "sqlite:./bitrix-sync.db", options);

async function runMigrate(): Promise<number> {
  const database = await openServersDatabase({ mustExist: false });
  try {
    await createKyselyStorage(database).migrate();
    await createBitrixStorage(database).migrate();
  } finally {
    await database.close();
  }
  return 0;
}

/** The client shares budget, block and address with the servers on the same database and Redis. */
async function withTools(work: (tools: Tools) => Promise<number>, open = openServersDatabase): Promise<number> {
  const redisUrl = process.env.REDIS_URL?.trim();
  const database = await open();
  let redis: Awaited<ReturnType<typeof openRedis>> | undefined;
  try {
    const note = (text: string) => void process.stderr.write(`note: ${text}\n`);
    if (redisUrl) redis = await openRedis(redisUrl, { purpose: "slots", logger: { warn: note, info: note } });
    const core = createKyselyStorage(database);
    const storage = createBitrixStorage(database);
    await core.migrate();
    await storage.migrate();
    const rateLimits = redis ? createRedisRateLimits({ redis, durable: core.rateLimits }) : core.rateLimits;
    return await work({ ...connect({ ...core, rateLimits }), core, storage, database });
  } finally {
    redis?.disconnect();
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

const optionalScopes: Readonly<Record<string, string>> = {
  sale: "orders of the store",
  catalog: "products and prices",
};

async function runDoctor(): Promise<number> {
  let isMissing = false;
  const open = async () => {
    try {
      return await openServersDatabase();
    } catch (error) {
      if (!ConfigError.isInstance(error)) throw error;
      isMissing = true;
      print(`MEND  database: ${error.message}; before the first start: bitrix migrate`);
      return openDatabase("sqlite::memory:"); // the rest is looked at all the same
    }
  };
  return withTools(async (tools) => ((await lookAtPortal(tools)) > 0 || isMissing ? 1 : 0), open);
}

/** Prints what is well and what is to be mended; resolves to how much the latter is. */
async function lookAtPortal({ bitrix, isApplication, storage }: Tools): Promise<number> {
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
      print(`MEND  ${name}: ${inWords(error)}`);
    }
  }

  await check("rights", async () => {
    const scopes = await bitrix.call<readonly string[]>("scope");
    if (!scopes.includes("crm")) {
      throw new UsageError("crm is missing; tick it where the webhook was created, or in the application's settings");
    }
    const lacking = Object.entries(optionalScopes).filter(([scope]) => !scopes.includes(scope));
    return [scopes.join(", "), ...lacking.map(([scope, use]) => `without ${scope}: no ${use}`)].join("; ");
  });
  await check("funnel", async () => {
    const stages = await bitrix.deals.stages(categoryId);
    if (stages.length === 0) {
      const funnels = (await bitrix.categories.list()).map(({ id, name }) => `${id} (${name})`);
      throw new UsageError(`there is no funnel ${categoryId}; set BITRIX_CATEGORY_ID to one of ${funnels.join(", ")}`);
    }
    return stages.map(({ id }) => id).join(", ");
  });
  await check("stage map", async () => {
    if (!stageMap) {
      throw new UsageError(
        `BITRIX_STAGE_MAP is missing; give each status its stage, e.g. '{"new": "NEW", "delivered": "WON"}'`,
      );
    }
    const stages = readParameters(stageMap);
    if (!isStageMap(stages)) throw new UsageError("BITRIX_STAGE_MAP must map statuses to stage ids");
    createStatusMapper<[string, string][]>({ pairs: Object.entries(stages).map(([status, stage]) => [stage, status]) });
    const side = createDealSide({ bitrix, stages, categoryId, ...(paidStageId ? { paidStageId } : {}) });
    const { unmappedStages } = await side.check();
    const missing = [...bitrixOrderStatuses.statuses].filter((status) => !(status in stages));
    return [
      unmappedStages.length === 0 ? "every stage has a status" : `deals at ${unmappedStages.join(", ")} move no order`,
      ...(missing.length === 0 ? [] : [`orders that are ${missing.join(", ")} move no deal`]),
    ].join("; ");
  });
  await check("link field", async () => {
    const fields =
      await bitrix.call<Readonly<Record<string, { readonly type?: string; readonly isMultiple?: boolean }>>>(
        "crm.deal.fields",
      );
    const field = fields[linkField];
    if (!field) {
      const creation = {
        fields: { FIELD_NAME: linkField.replace(/^UF_CRM_/, ""), USER_TYPE_ID: "string", LABEL: "Order" },
      };
      throw new UsageError(
        `deals have no field ${linkField}; create it: bitrix call crm.deal.userfield.add '${JSON.stringify(creation)}'`,
      );
    }
    const kind = `${field.type ?? "string"}${field.isMultiple ? ", with many values" : ""}`;
    if (field.isMultiple || !["string", "integer", "double", undefined].includes(field.type)) {
      throw new UsageError(
        `${linkField} holds no single text (${kind}): the id of an order would not come back from it; set BITRIX_LINK_FIELD to a field of the type string`,
      );
    }
    return kind === "string" ? linkField : `${linkField} (${kind}: for ids that are whole numbers, as the store's)`;
  });
  if (isApplication) {
    await check("event bindings", async () => {
      const answer = await bitrix.call("event.get");
      const bound = Array.isArray(answer) ? answer.map((row) => String(row?.event ?? "").toUpperCase()) : [];
      const missing = [...Object.keys(dealEvents), "ONCRMDEALMOVETOCATEGORY"].filter(
        (event, index, all) => all.indexOf(event) === index && !bound.includes(event),
      );
      if (missing.length > 0) {
        throw new UsageError(
          `nothing is told of ${missing.join(", ")}; for each: bitrix call event.bind '{"event": "${missing[0]}", "handler": "https://…/bitrix/events"}'`,
        );
      }
      return bound.join(", ");
    });
  } else {
    print(
      "      event bindings: a webhook may not read them; see in the portal that an outgoing webhook calls /bitrix/events for " +
        "ONCRMDEALADD, ONCRMDEALUPDATE, ONCRMDEALDELETE. No webhook tells of a move to another funnel: run the sweep",
    );
  }
  await check("work", async () => {
    const parked = await storage.work.parked({ limit: mostParked });
    if (parked.length > 0)
      throw new UsageError(`${parked.length} set aside; see bitrix sync status, then bitrix sync repair`);
    return "nothing is set aside";
  });
  return problems;
}

async function runList({ bitrix }: Tools, method: string, parameters: Parameters, options: ListOptions) {
  let count = 0;
  let told = 0;
  const onProgress = ({ rows, after: at, lastId }: ListProgress): void => {
    if (rows - told < 2_500) return;
    told = rows;
    process.stderr.write(`${rows} rows, at id ${at}${lastId === undefined ? "" : ` of ${lastId}`}\n`);
  };
  for await (const row of bitrix.list(method, parameters, { onProgress, ...options })) {
    print(JSON.stringify(row));
    count++;
  }
  process.stderr.write(`${count} rows\n`);
  return 0;
}

/** Pairs that are lost or stand still, and how many pairs there are. */
async function findTroubledPairs(storage: BitrixStorage, sync: string) {
  const troubled: SyncLink[] = [];
  let total = 0;
  let after: string | undefined;
  for (;;) {
    const links = await storage.links.list(sync, after === undefined ? { limit: 500 } : { after, limit: 500 });
    troubled.push(...links.filter(({ state, note, unfollowed }) => state !== "active" || note || unfollowed));
    total += links.length;
    after = links.at(-1)?.leftId;
    if (links.length < 500) return { troubled, total };
  }
}

async function runSyncStatus({ storage }: Tools, sync: string): Promise<number> {
  const { troubled, total } = await findTroubledPairs(storage, sync);
  for (const { leftId, rightId, state, note } of troubled) {
    print(`${leftId} <-> ${rightId}: ${note ?? (state === "active" ? "due, to be followed again" : state)}`);
  }
  const parked = await storage.work.parked({ limit: mostParked });
  for (const { topic, key, attempts, lastError } of parked) {
    print(`${topic} ${key}: set aside after ${attempts} attempts: ${lastError}`);
  }
  print(`${total} pairs, ${troubled.length} not in step, ${parked.length} set aside`);
  return troubled.length + parked.length > 0 ? 1 : 0;
}

/**
 * Makes what `sync status` lists due again; the workers on the same database look at it. A side that could not be followed
 * (no mapping, or the other side put it back) is followed then, if that works by now; a pair that only differs stays so.
 */
async function runSyncRepair({ storage }: Tools, sync: string, { dryRun }: { readonly dryRun: boolean }) {
  const { troubled } = await findTroubledPairs(storage, sync);
  const parked = await storage.work.parked({ limit: mostParked });
  const due = new Map(
    [...troubled.map(({ leftId }) => ({ topic: orderTopic, key: leftId })), ...parked].map(({ topic, key }) => [
      `${topic} ${key}`,
      { topic, key },
    ]),
  );
  if (!dryRun) {
    for (const link of troubled) {
      if (link.state !== "active" || !link.unfollowed) continue;
      // Not stored when a worker was quicker: then it has just looked.
      await storage.links.put({ ...link, note: undefined, version: link.version + 1 });
    }
  }
  for (const [name, { topic, key }] of due) {
    if (!dryRun) await storage.work.mark(topic, key);
    print(`${name}: ${dryRun ? "would be" : "is"} looked at again`);
  }
  print(dryRun ? `${due.size} would be looked at, nothing was changed` : `${due.size} are due for the workers`);
  return 0;
}

/** Forms under which a portal may hold a number of Kazakhstan or Russia, or the number as it was given. */
function phoneForms(phone: string): { readonly national: string; readonly forms: readonly string[] } {
  const digits = phone.replace(/[\s().+-]/g, "");
  if (!/^\d{10,15}$/.test(digits)) throw new UsageError("--phone must be a phone number of 10 to 15 digits");
  const national = digits.slice(-10);
  const isLocal = digits.length === 10 || /^[78]\d{10}$/.test(digits);
  return {
    national,
    forms: isLocal ? [`+7${national}`, `7${national}`, `8${national}`, national] : [`+${digits}`, digits],
  };
}

/** Orders here hold no phone; texts of errors should hold none either. The buyer's data is in the portal, for a person. */
async function runErase({ bitrix, database }: Tools, phone: string): Promise<number> {
  const { national, forms } = phoneForms(phone);
  for (const { column, texts } of await erasePhone(database.db, national)) {
    print(`${column}: ${texts === 0 ? "does not hold it" : `erased in ${texts} texts`}`);
  }
  print("orders, products and links: hold no phones by their nature");
  const found = new Set<string>();
  for (const form of forms) for (const { id } of await bitrix.contacts.find({ phone: form })) found.add(id);
  print(
    found.size === 0
      ? "the portal: no contact has it in a usual form"
      : `the portal: contacts ${[...found].join(", ")} have it; erase it there`,
  );
  return 0;
}

async function runFake(port: number, eventUrl: string | undefined): Promise<number> {
  const fake = createFakeBitrix({ fetch, ...(eventUrl === undefined ? {} : { eventUrl }) });
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
        "id-field": { type: "string" },
        "filter-field": { type: "string" },
        sync: { type: "string", default: "order-deal" },
        phone: { type: "string" },
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
  const unread = positionals[mostWords[command ?? ""] ?? 1];
  if (unread !== undefined) throw new UsageError(`${command} does not take ${unread}`);
  const method = (): string => {
    if (first === undefined) throw new UsageError(`${command} needs a method, e.g. crm.item.list`);
    return first;
  };
  switch (command) {
    case "doctor":
      return runDoctor();
    case "call":
      return withTools(async ({ bitrix }) => {
        print(JSON.stringify(await bitrix.call(method(), readParameters(second)), null, 2));
        return 0;
      });
    case "list":
      return withTools((tools) =>
        runList(tools, method(), readParameters(second), {
          ...(values.after === undefined ? {} : { after: values.after }),
          ...(values["id-field"] === undefined ? {} : { idField: values["id-field"] }),
          ...(values["filter-field"] === undefined ? {} : { filterField: values["filter-field"] }),
        }),
      );
    case "sync":
      if (first === "status") return withTools((tools) => runSyncStatus(tools, values.sync));
      if (first !== "repair") throw new UsageError("sync has the commands status and repair");
      return withTools((tools) => runSyncRepair(tools, values.sync, { dryRun: values["dry-run"] }));
    case "erase": {
      const { phone } = values;
      if (phone === undefined) throw new UsageError("erase needs --phone <phone>");
      return withTools((tools) => runErase(tools, phone));
    }
    case "unblock":
      return withTools(async ({ account, core }) => {
        const cleared = await core.rateLimits.unblock(account);
        print(cleared ? "the block is cleared; calls go on" : "there is no block");
        return 0;
      });
    case "migrate":
      return runMigrate();
    case "fake":
      if (!/^\d{1,5}$/.test(values.port)) throw new UsageError("--port must be a number");
      return runFake(Number(values.port), values["event-url"]);
    default:
      throw new UsageError(command ? `there is no command ${command}` : "a command is needed");
  }
}

// Whoever reads has seen enough, as `bitrix list … | head` does. What other commands are at goes on to its end.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  if (process.argv.includes("list")) process.exit(0);
});

try {
  process.exitCode = await main();
} catch (error) {
  const { code } = error as { code?: string };
  const message = inWords(error as Error);
  if (error instanceof UsageError) process.stderr.write(`${message}\n\n${help}`);
  else
    process.stderr.write(`cannot run: ${ConfigError.isInstance(error) ? message : message || code || String(error)}\n`);
  process.exitCode = error instanceof ApiError ? 1 : exitUnusable;
}
