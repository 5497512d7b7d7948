import { parseArgs } from "node:util";
import { ConfigError, SdkError, systemClock } from "@orderbridge/core";
import { createCipher, createKyselyStorage, type KyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { toE164 } from "@orderbridge/core/phone";
import { createRedisRateLimits, openRedis } from "@orderbridge/core/redis";
import { listen } from "@orderbridge/core/testing";
import { type Finding, probeAmocrm, probeKaspi } from "./cli-probe.ts";
import {
  connectKaspiAmocrm,
  type KaspiAmocrmEnvironment,
  type KaspiAmocrmSetup,
  readKaspiAmocrmEnvironment,
} from "./environment.ts";
import { createKaspiAmocrmStorage } from "./kysely/index.ts";
import type { KaspiAmocrmStorage, LedgerRow } from "./ledger.ts";
import type { RunReport } from "./sync/options.ts";
import { createFakeAmocrm, createFakeKaspi, fakeAccount } from "./testing/index.ts";

const help = `usage: kaspi-amocrm <command> [options]

  doctor                          checks variables, tokens, ids, rights, fields and limits; says how to mend each
        [--create-field]          makes the lead's text field for the order code, and names its id
  probe                           finds out by reading what the vendors' documents leave open; shows nothing of a buyer
  order <code> [--shop <name>]    what is known of an order: ledger, Kaspi, amoCRM
        [--rerun]                 brings it up to date now, also when it is parked
  parked                          orders that are refused again and again, and why
  unblock                         clears stored blocks, once the vendor's support has lifted them
  backfill --from <day> --to <day>   imports the past; stopped, the same command goes on where it was
        [--dry-run]               only counts what would be done
  erase --phone <number>          forgets a buyer, and names the contacts that amoCRM still has
  migrate                         makes the database, or brings its tables up to date, as a server does at its start
  fake [--port 4300]              a Kaspi on this port and an amoCRM on the next, with a few orders

Days are 2026-11-01 (in Kazakhstan's time, +05:00, both included) or instants such as 2026-11-01T00:00:00+05:00.
Variables: those of the server in examples/kaspi-amocrm-worker, DATABASE_URL (default sqlite:./kaspi-amocrm.db), and
REDIS_URL when the servers have it (needs the package ioredis).

Exit codes: 0 all is well, 1 something must be mended, 4 the command could not run.
`;

const exitUnusable = 4;

class UsageError extends Error {}

/** Where a command runs. */
export interface Terminal {
  readonly variables: Readonly<Record<string, string | undefined>>;
  /** Takes results, with their line ends. */
  readonly out: (text: string) => void;
  /** Takes progress and problems, with their line ends. */
  readonly err: (text: string) => void;
  /** Whether `err` can go back to the beginning of its line. */
  readonly isInteractive: boolean;
  /** The person wants to stop. */
  readonly signal: AbortSignal;
}

interface Tools extends KaspiAmocrmSetup {
  readonly terminal: Terminal;
  readonly print: (text: string) => void;
  readonly environment: KaspiAmocrmEnvironment;
  readonly storage: KyselyStorage & KaspiAmocrmStorage;
}

const printTo =
  ({ out }: Terminal) =>
  (text: string): void =>
    out(`${text}\n`);

/** Only `migrate` makes a file: an empty ledger at a mistyped path would have a backfill import everything again. */
const openWorkersDatabase = ({ variables }: Terminal, options = { mustExist: true }) =>
  openDatabase(variables.DATABASE_URL || "sqlite:./kaspi-amocrm.db", options);

async function runMigrate(terminal: Terminal): Promise<number> {
  const database = await openWorkersDatabase(terminal, { mustExist: false });
  try {
    await createKyselyStorage(database).migrate();
    await createKaspiAmocrmStorage(database).migrate();
  } finally {
    await database.close();
  }
  return 0;
}

/** On the workers' database and Redis, so that budgets, blocks, leases and tokens are theirs. */
async function withTools(
  terminal: Terminal,
  work: (tools: Tools) => Promise<number>,
  open = openWorkersDatabase,
): Promise<number> {
  const environment = readKaspiAmocrmEnvironment(terminal.variables);
  const keys = terminal.variables.ENCRYPTION_KEYS?.trim();
  const database = await open(terminal);
  let redis: Awaited<ReturnType<typeof openRedis>> | undefined;
  try {
    const redisUrl = terminal.variables.REDIS_URL?.trim();
    const note = (text: string) => terminal.err(`note: ${text}\n`);
    if (redisUrl) redis = await openRedis(redisUrl, { purpose: "slots", logger: { warn: note, info: note } });
    const core = createKyselyStorage({ ...database, ...(keys && { cipher: createCipher({ keys }) }) });
    const own = createKaspiAmocrmStorage(database);
    await core.migrate();
    await own.migrate();
    const rateLimits = redis ? createRedisRateLimits({ redis, durable: core.rateLimits }) : core.rateLimits;
    const storage = { ...core, ...own, rateLimits };
    return await work({
      terminal,
      print: printTo(terminal),
      ...(await connectKaspiAmocrm({ environment, storage })),
      environment,
      storage,
    });
  } finally {
    redis?.disconnect();
    await database.close();
  }
}

async function runDoctor(terminal: Terminal): Promise<number> {
  const print = printTo(terminal);
  try {
    readKaspiAmocrmEnvironment(terminal.variables);
  } catch (error) {
    if (!ConfigError.isInstance(error)) throw error;
    for (const problem of error.message.split("\n")) print(`MEND  ${problem}`);
    return 1;
  }
  let problems = 0;
  /** Without the database the rest is looked at all the same. */
  const open = async () => {
    try {
      return await openWorkersDatabase(terminal);
    } catch (error) {
      if (!ConfigError.isInstance(error)) throw error;
      problems++;
      print(`MEND  database: ${error.message}; before the first start: kaspi-amocrm migrate`);
      return openDatabase("sqlite::memory:");
    }
  };
  const look = async ({ kaspi, amocrm, sync, accounts, environment, storage }: Tools): Promise<number> => {
    print(problems === 0 ? "ok    variables and database" : "ok    variables");
    async function check(name: string, find: () => Promise<readonly string[]>): Promise<void> {
      let found: readonly string[];
      try {
        found = await find();
      } catch (error) {
        if (!SdkError.isInstance(error)) throw error;
        found = [error.message];
      }
      for (const problem of found) print(`MEND  ${name}: ${problem}`);
      if (found.length === 0) print(`ok    ${name}`);
      problems += found.length;
    }

    for (const account of accounts) {
      await check(`limit of ${account}`, async () => {
        const { block } = await storage.rateLimits.status(account);
        return block
          ? [`blocked with ${block.code} since ${block.since.toISOString()}; write to the support, then unblock`]
          : [];
      });
    }
    for (const client of kaspi) {
      await check(`Kaspi shop ${client.shop}`, async () => {
        const now = systemClock.now();
        const span = { createdFrom: new Date(now.getTime() - 60_000), createdTo: now, state: "NEW" as const };
        for await (const _page of client.orders.pages(span)) break;
        return [];
      });
    }
    await check("amoCRM account", async () => {
      const { subdomain } = await amocrm.account();
      const [name] = amocrm.host.split(".");
      return subdomain && subdomain !== name
        ? [`the account is called ${subdomain} now; set AMO_ACCOUNT_HOST to its host`]
        : [];
    });
    await check("ids and fields", async () => (await sync.check()).map(nameVariables));
    const note = (text: string) => print(`note  ${text}`);
    if (!environment.orderCodeFieldId) {
      note(
        "AMO_LEAD_ORDER_CODE_FIELD_ID is not set: the code is in the lead's name and a tag; better a text field: doctor --create-field makes one",
      );
    }
    const { tokenEndsAt } = amocrm;
    if (tokenEndsAt) note(`AMO_ACCESS_TOKEN ends ${tokenEndsAt.toISOString()}; make a new one before, in the keys tab`);
    if (!environment.catalogId) note("AMO_CATALOG_ID is not set: goods are in the lead's note only");
    if (!environment.statusMap) note("AMO_STATUS_MAP is not set: no status moves a lead");
    for (const text of await describeWebhooks(amocrm)) note(text);
    const parked = (await storage.orders.counts()).parked ?? 0;
    if (parked > 0) note(`${parked} orders are parked; see: kaspi-amocrm parked`);
    return problems > 0 ? 1 : 0;
  };
  return withTools(terminal, look, open);
}

/**
 * Webhooks that amoCRM has switched off, by host: the path may hold the secret. Whose they are cannot be told, so none is
 * surely a problem of ours.
 */
async function describeWebhooks({ webhooks }: Tools["amocrm"]): Promise<readonly string[]> {
  try {
    const off = (await webhooks.list()).filter(({ isDisabled }) => isDisabled);
    const hosts = off.map(({ destination }) => (URL.canParse(destination) ? new URL(destination).host : "no address"));
    return hosts.map(
      (host) =>
        `amoCRM has switched off a webhook to ${host}, as it does after a hundred bad answers in two hours: subscribe the address again, which switches it on`,
    );
  } catch (error) {
    if (SdkError.isInstance(error)) return [`webhooks cannot be looked at: ${error.message}`];
    throw error;
  }
}

/** Makes the field that `doctor` asks for. */
async function createCodeField({ amocrm, environment, print }: Tools): Promise<number> {
  if (environment.orderCodeFieldId !== undefined) throw new UsageError("AMO_LEAD_ORDER_CODE_FIELD_ID is set already");
  const id = await amocrm.createLeadField("Код заказа Kaspi");
  print(`AMO_LEAD_ORDER_CODE_FIELD_ID=${id}`);
  return 0;
}

async function runProbe({ kaspi, amocrm, environment, print }: Tools): Promise<number> {
  const sources: [string, AsyncIterable<Finding>][] = [
    ...kaspi.map((client): [string, AsyncIterable<Finding>] => [`Kaspi ${client.shop}`, probeKaspi(client)]),
    ["amoCRM", probeAmocrm(amocrm, environment)],
  ];
  for (const [source, findings] of sources) {
    for await (const { question, answer } of findings) print(`${source}: ${question}: ${answer}`);
  }
  return 0;
}

const variableOf: Readonly<Record<string, string>> = {
  pipelineId: "AMO_PIPELINE_ID",
  statusId: "AMO_STATUS_ID",
  statusMap: "AMO_STATUS_MAP",
  responsibleUserId: "AMO_RESPONSIBLE_USER_ID",
  catalogId: "AMO_CATALOG_ID",
  orderCodeFieldId: "AMO_LEAD_ORDER_CODE_FIELD_ID",
};
/** The sync names options; here people set variables. */
const nameVariables = (problem: string): string => problem.replace(/^\w+/, (option) => variableOf[option] ?? option);

async function runOrder(
  { kaspi, amocrm, sync, storage, print }: Tools,
  code: string,
  { shop, rerun }: { readonly shop: string | undefined; readonly rerun: boolean },
): Promise<number> {
  const shops = shop === undefined ? kaspi : kaspi.filter((client) => client.shop === shop);
  if (shops.length === 0) throw new UsageError(`there is no shop ${shop}`);
  let isKnown = false;
  let isAnswered = true;
  /** When a vendor is down or blocks us is when people look here: the others are asked all the same. */
  async function ask(look: () => Promise<string>): Promise<string> {
    try {
      return await look();
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      isAnswered = false;
      return `cannot be asked: ${error.message}`;
    }
  }
  for (const client of shops) {
    const key = { shop: client.shop, code };
    const before = await storage.orders.get(key);
    if (rerun && before?.phase === "skipped") {
      print("re-run: the order is skipped, which nothing brings back; make its lead by hand if it needs one");
    } else if (rerun) {
      const told = await ask(async () => {
        const report = await sync.rerun(key);
        return report ? describe(report) : "";
      });
      if (told) print(`re-run: ${told}`);
    }
    const row = await storage.orders.get(key);
    if (row) {
      isKnown = true;
      print(`order ${code} of shop ${client.shop}`);
      for (const line of tell(row)) print(`  ledger: ${line}`);
    }
    const shown = await ask(async () => {
      const order = await client.orders.byCode(code);
      return order ? `${order.state}/${order.status}` : "";
    });
    if (!row && shown) {
      isKnown = true;
      print(`order ${code} of shop ${client.shop}`);
      print("  ledger: not imported");
    }
    if (row || shown) print(`  Kaspi:  ${shown || "does not know it"}`);
    const leadId = row?.leadId;
    if (leadId === undefined) continue;
    const inCrm = await ask(async () => {
      const lead = await amocrm.leads.get(leadId);
      return lead
        ? `lead ${lead.id} in stage ${lead.statusId}, price ${lead.exactPrice ?? lead.price}`
        : "the lead is deleted";
    });
    print(`  amoCRM: ${inCrm}`);
  }
  if (isKnown) return isAnswered ? 0 : 1;
  print(`no shop has an order ${code}`);
  return 1;
}

function tell(row: LedgerRow): readonly string[] {
  const isWaiting = row.phase !== "done" && row.phase !== "skipped";
  return [
    `${row.phase}, last seen ${row.state}/${row.status}, ordered ${row.orderedAt.toISOString()}`,
    ...(row.leadId === undefined ? [] : [`lead ${row.leadId}, stage ${row.stageId} set by us`]),
    ...(row.seenStageId !== row.stageId ? [`a person moved the lead to stage ${row.seenStageId}`] : []),
    ...(isWaiting ? [`${row.attempts} failed attempts, next try after ${row.dueAt.toISOString()}`] : []),
    ...(row.lastError === undefined ? [] : [row.lastError]),
  ];
}

const describe = (report: RunReport): string =>
  Object.entries(report)
    .map(([name, count]) => `${count} ${name}`)
    .join(", ");

async function runParked({ storage, print }: Tools): Promise<number> {
  const rows = await storage.orders.parked(1_000);
  for (const { shop, code, attempts, lastError } of rows) {
    print(`${shop} ${code}: ${attempts} attempts, ${lastError ?? "no reason is known"}`);
  }
  print(`${rows.length} parked`);
  return rows.length > 0 ? 1 : 0;
}

async function runUnblock({ storage, accounts, print }: Tools): Promise<number> {
  for (const account of accounts) {
    const cleared = await storage.rateLimits.unblock(account);
    print(
      `${account}: ${cleared ? "the block is cleared, or the pause ended; calls go on" : "there is neither a block nor a pause"}`,
    );
  }
  return 0;
}

async function runBackfill(
  { sync, print, terminal }: Tools,
  span: { readonly from: Date; readonly to: Date },
  dryRun: boolean,
): Promise<number> {
  const { err, isInteractive, signal } = terminal;
  const startedAt = systemClock.monotonicMs();
  try {
    const report = await sync.backfill({
      ...span,
      dryRun,
      signal,
      onProgress({ done, seen }) {
        const seconds = (systemClock.monotonicMs() - startedAt) / 1000;
        const bar = "#".repeat(Math.round(done * 20)).padEnd(20, ".");
        const left = Math.round((seconds / done) * (1 - done));
        const line = `[${bar}] ${seen} orders, ${Math.round(seen / Math.max(seconds, 0.001))}/s, ${left} s left`;
        err(isInteractive ? `\r${line}   ` : `${line}\n`);
      },
    });
    if (isInteractive) err("\n");
    print(`${dryRun ? "would be: " : ""}${describe(report)}`);
    return report.failed > 0 ? 1 : 0;
  } catch (error) {
    if (!signal.aborted) throw error;
    err("\nstopped; the same command goes on where it was\n");
    return 1;
  }
}

async function runErase({ sync, amocrm, environment, print }: Tools, given: string): Promise<number> {
  const phone = toE164(given, { country: environment.country });
  if (phone === undefined) throw new UsageError("--phone is no phone number of KZ or RU");
  const contacts = await sync.erase(phone);
  print(`${contacts.length} contacts are forgotten here; orders are kept without name, phone or address`);
  for (const id of contacts) print(`delete it in amoCRM too: https://${amocrm.host}/contacts/detail/${id}`);
  return 0;
}

async function runFake(terminal: Terminal, port: number): Promise<number> {
  const print = printTo(terminal);
  const kaspi = createFakeKaspi();
  const amocrm = createFakeAmocrm();
  const lamp = { sku: "LAMP", name: "Шам", basePrice: 7990 };
  for (const [index, cellPhone] of ["7010000001", "7010000002", "7010000001"].entries()) {
    kaspi.addOrder({ code: `70000000${index + 1}`, cellPhone, entries: [{ ...lamp, quantity: index + 1 }] });
  }
  const servers = [await listen(kaspi.handle, { port })];
  servers.push(await listen(amocrm.handle, { port: port === 0 ? 0 : port + 1 }));
  const statusMap = {
    ACCEPTED_BY_MERCHANT: fakeAccount.stageIds.accepted,
    COMPLETED: fakeAccount.stageIds.won,
    CANCELLED: { statusId: fakeAccount.stageIds.lost, lossReasonId: fakeAccount.lossReasonId },
  };
  for (const [name, value] of Object.entries({
    KASPI_API_URL: servers[0]?.url,
    KASPI_TOKEN: "kaspi-token",
    AMO_API_URL: servers[1]?.url,
    AMO_ACCOUNT_HOST: fakeAccount.host,
    AMO_ACCESS_TOKEN: "amo-token",
    AMO_PIPELINE_ID: fakeAccount.pipelineId,
    AMO_STATUS_ID: fakeAccount.stageIds.new,
    AMO_CATALOG_ID: fakeAccount.catalogId,
    AMO_LEAD_ORDER_CODE_FIELD_ID: fakeAccount.orderCodeFieldId,
    AMO_STATUS_MAP: JSON.stringify(statusMap),
  })) {
    print(`${name}=${value}`);
  }
  await new Promise<void>((resolve) => terminal.signal.addEventListener("abort", () => resolve(), { once: true }));
  await Promise.all(servers.map((server) => server.close()));
  return 0;
}

/** A day begins and ends in Kazakhstan's only zone. */
function readDay(name: string, text: string | undefined, time: string): Date {
  const instant = text !== undefined && /^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T${time}+05:00` : text;
  if (instant === undefined) throw new UsageError(`backfill needs ${name}`);
  if (!/^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$/.test(instant) || Number.isNaN(Date.parse(instant))) {
    throw new UsageError(`${name} must be a day such as 2026-11-01, or an instant with a zone`);
  }
  return new Date(instant);
}

function readArguments(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        shop: { type: "string" },
        "create-field": { type: "boolean", default: false },
        rerun: { type: "boolean", default: false },
        from: { type: "string" },
        to: { type: "string" },
        "dry-run": { type: "boolean", default: false },
        phone: { type: "string" },
        port: { type: "string", default: "4300" },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

async function runCommand(args: readonly string[], terminal: Terminal): Promise<number> {
  const { values, positionals } = readArguments(args);
  const [command, code] = positionals;
  if (values.help) {
    terminal.out(help);
    return 0;
  }
  const unread = positionals[command === "order" ? 2 : 1];
  if (unread !== undefined) throw new UsageError(`${command} does not take ${unread}`);
  switch (command) {
    case "doctor":
      return values["create-field"] ? withTools(terminal, createCodeField) : runDoctor(terminal);
    case "probe":
      return withTools(terminal, runProbe);
    case "order":
      if (code === undefined) throw new UsageError("order needs a code");
      return withTools(terminal, (tools) => runOrder(tools, code, { shop: values.shop, rerun: values.rerun }));
    case "parked":
      return withTools(terminal, runParked);
    case "unblock":
      return withTools(terminal, runUnblock);
    case "backfill": {
      const from = readDay("--from", values.from, "00:00:00");
      const to = readDay("--to", values.to, "23:59:59.999");
      return withTools(terminal, (tools) => runBackfill(tools, { from, to }, values["dry-run"]));
    }
    case "erase": {
      const { phone } = values;
      if (phone === undefined) throw new UsageError("erase needs --phone");
      return withTools(terminal, (tools) => runErase(tools, phone));
    }
    case "migrate":
      return runMigrate(terminal);
    case "fake":
      if (!/^\d{1,5}$/.test(values.port)) throw new UsageError("--port must be a number");
      return runFake(terminal, Number(values.port));
    default:
      throw new UsageError(command ? `there is no command ${command}` : "a command is needed");
  }
}

/** Runs one command; resolves to the exit code. Never rejects. */
export async function runCommandLine(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    return await runCommand(args, terminal);
  } catch (error) {
    const { message, code } = error as { message: string; code?: string };
    if (error instanceof UsageError) terminal.err(`${message}\n\n${help}`);
    else terminal.err(`cannot run: ${message || code || String(error)}\n`);
    return exitUnusable;
  }
}
