import { parseArgs } from "node:util";
import { ConfigError, type FetchHandler, redactText, silentLogger, systemClock } from "@orderbridge/core";
import { createCipher, openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { createWebhookEndpoints } from "./endpoints.ts";
import { createEngine } from "./engine.ts";
import { createPaymentGatewayStorage } from "./kysely/index.ts";
import { createMerchantSecrets } from "./merchant-secrets.ts";
import { formatAmount } from "./money.ts";
import type { Payment } from "./payment.ts";
import { reportProviderHealth, shownDays } from "./provider-health.ts";
import { Refusal } from "./refusal.ts";
import { createSender } from "./sender.ts";
import type { GatewayStorage, PaymentFilter } from "./storage.ts";
import { createFakeKaspiQr, createFakeKaspiSmartpos, createFakeReceiver } from "./testing/index.ts";
import { type ApiScope, apiScopes, createTokenRegistry } from "./tokens.ts";

const help = `usage: payment-gateway <command> [options]

  doctor                                  what waits, what was given up, which receivers fail; 1 when a person must act
  migrate                                 makes the database, or brings its tables up to date
  reencrypt                               stores every webhook secret under the first key of ENCRYPTION_KEYS
  payment <id>                            one payment: money, events, every try of every webhook
  resend <event id>                       sends a webhook again, same id and bytes
  resend --given-up [--merchant <name>]   the same for all that were given up
  dismiss <event id>                      a webhook that was given up and that nobody needs: it is counted no more
  unblock --merchant <name> --origin <https://…>   closes the breaker of a receiver
  token create --merchant <name> [--scopes create,read,refund,admin]   shows the token once
  token list | token revoke <id>
  endpoint add --merchant <name> --url <https://…> [--secret <text>]    shows the secret once
  endpoint list --merchant <name>
  endpoint rotate <id> --merchant <name> [--overlap-hours 24] [--secret <text>]   shows the new secret once
  endpoint enable|disable|remove <id> --merchant <name>
  secret rotate --merchant <name> [--overlap-hours 24] [--secret <text>]   a new own secret of the merchant, shown once
  prune [--days 7] [--keys-days 30]       what the daily clean-up does, now
  erase --payment <id>                    deletes description, metadata, events and answers; money records stay
  erase --phone <phone>                   the same for every payment whose metadata or description holds the phone
  receive --secret <text> [--port 4300]   a receiver on this machine that verifies webhooks and prints them
  fake kaspi-qr|kaspi-smartpos [--port 4200]   the provider's side on this machine

Variables: DATABASE_URL, ENCRYPTION_KEYS, WEBHOOK_ALLOW_ADDRESSES: those of the server.

Exit codes: 0 done, 1 something must be done or there is none of that name, 2 the command could not run.
`;

/** Wrong arguments or variables. */
class UsageError extends Error {}

export interface CommandLine {
  readonly variables: Readonly<Record<string, string | undefined>>;
  /** Takes one line, or several. */
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Ends `receive` and `fake`. */
  readonly signal: AbortSignal;
}

const options = {
  merchant: { type: "string" },
  scopes: { type: "string" },
  origin: { type: "string" },
  url: { type: "string" },
  "overlap-hours": { type: "string", default: "24" },
  days: { type: "string", default: "7" },
  "keys-days": { type: "string", default: "30" },
  payment: { type: "string" },
  phone: { type: "string" },
  secret: { type: "string" },
  "given-up": { type: "boolean", default: false },
  port: { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** What each command takes beside `--help`. */
const taken: Readonly<Record<string, readonly (keyof typeof options)[]>> = {
  resend: ["given-up", "merchant"],
  unblock: ["merchant", "origin"],
  "token create": ["merchant", "scopes"],
  "endpoint add": ["merchant", "url", "secret"],
  "endpoint list": ["merchant"],
  "endpoint rotate": ["merchant", "overlap-hours", "secret"],
  "endpoint enable": ["merchant"],
  "endpoint disable": ["merchant"],
  "endpoint remove": ["merchant"],
  "secret rotate": ["merchant", "overlap-hours", "secret"],
  prune: ["days", "keys-days"],
  erase: ["payment", "phone"],
  receive: ["secret", "port"],
  fake: ["port"],
};

interface Input {
  readonly words: readonly string[];
  readonly values: ReturnType<typeof read>["values"];
  readonly line: CommandLine;
}

const dayMs = 86_400_000;

function read(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], allowPositionals: true, tokens: true, options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Words of a command line, of those commands that take more than their name. */
const mostWords: Readonly<Record<string, number>> = {
  ...{ payment: 2, resend: 2, dismiss: 2, secret: 2, fake: 2 },
  ...{ token: 3, endpoint: 3 },
};

/** @throws {UsageError} for an option or a word that this command would leave unread. */
function refuseForeign({ positionals, tokens }: ReturnType<typeof read>): void {
  const [name = "", action = ""] = positionals;
  const unread = positionals[mostWords[name] ?? 1];
  if (unread !== undefined) throw new UsageError(`${name} does not take ${unread}; give one at a time`);
  const command = Object.hasOwn(taken, `${name} ${action}`) ? `${name} ${action}` : name;
  const allowed: readonly string[] = taken[command] ?? [];
  const foreign = tokens.find((one) => one.kind === "option" && one.name !== "help" && !allowed.includes(one.name));
  if (foreign?.kind === "option") throw new UsageError(`${command} does not take --${foreign.name}`);
}

function required(value: string | undefined, what: string): string {
  if (value === undefined || value === "") throw new UsageError(`${what} is needed`);
  return value;
}

function wholeNumber(value: string, name: string): number {
  if (!/^\d{1,5}$/.test(value)) throw new UsageError(`--${name} must be a whole number`);
  return Number(value);
}

type Command = (input: Input, storage: Opened) => Promise<number>;
type Opened = Awaited<ReturnType<typeof openStorage>>["storage"];

async function openStorage({ variables }: CommandLine, options: { readonly mustExist: boolean }) {
  const { DATABASE_URL: url, ENCRYPTION_KEYS: keys } = variables;
  if (!url) throw new UsageError("DATABASE_URL is missing; set it to the database of the server");
  const database = await openDatabase(url, options);
  const storage = createPaymentGatewayStorage({
    ...database,
    ...(keys?.trim() ? { cipher: createCipher({ keys: keys.trim() }) } : {}),
  });
  return { storage, close: () => database.close() };
}

const instant = (date: Date): string => date.toISOString();

const doctor: Command = async ({ line: { out } }, storage) => {
  await storage.ping();
  const health = await storage.health();
  const problems: string[] = [];
  out(`webhooks that wait: ${health.pending}, of these due now: ${health.due}`);
  out(`the oldest one that is due has waited: ${Math.round(health.lagMs / 1000)} s`);
  out(`refunds without an outcome: ${health.openRefunds}`);
  if (health.lagMs > 60_000) problems.push("webhooks are late: does a server run with this database?");
  if (health.exhausted > 0) {
    problems.push(
      `${health.exhausted} webhooks were given up: mend the receiver, then resend <event id>, or resend --given-up; dismiss <event id> what nobody needs`,
    );
    for (const payment of await storage.listPayments({ givenUp: true }, shownGivenUp)) {
      for (const { eventId, endpointId, log } of await givenUpOf(storage, payment)) {
        const target = endpointId === "" ? `${hostOf(payment.webhookUrl)} of ${payment.merchant}` : endpointId;
        out(`given up: ${eventId} of payment ${payment.id}, to ${target}: ${log.at(-1)?.outcome ?? "not tried"}`);
      }
    }
  }
  for (const { merchant, origin, failures, until } of health.pausedReceivers) {
    problems.push(
      `${origin} of ${merchant} failed ${failures} times in a row and is left alone until ${instant(until)}; once it is mended: unblock --merchant ${merchant} --origin ${origin}`,
    );
  }
  if (health.goneEndpoints > 0) {
    problems.push(`${health.goneEndpoints} endpoints answered 410 and are switched off: endpoint enable, or remove`);
  }
  for (const { provider, payments, lagMs } of health.lateChecks) {
    problems.push(
      `${payments} payments of ${provider} have waited for a check for up to ${Math.round(lagMs / 60_000)} min: does a server run that has this provider, and does it answer?`,
    );
  }
  for (const { url, deliveries } of health.failingReceivers) {
    out(`to be repeated: ${deliveries} at ${hostOf(url)}`);
  }
  for (const { provider, today, recent, last } of await reportProviderHealth(storage, [], systemClock.now())) {
    const latest = last ? `; the last one at ${instant(last.at)}, ${last.call}: ${last.message}` : "";
    out(`failed calls to ${provider}: ${today} today, ${recent} in ${shownDays} days${latest}`);
  }
  for await (const { id, needsAttention } of everyPayment(storage, { needsAttention: true })) {
    problems.push(`payment ${id}: ${needsAttention}`);
  }
  for (const problem of problems) out(`! ${problem}`);
  if (problems.length === 0) out("nothing needs a person");
  return problems.length === 0 ? 0 : 1;
};

/** Payments whose given up webhooks doctor names. */
const shownGivenUp = 20;

const hostOf = (url = ""): string => (URL.canParse(url) ? new URL(url).host : "an address that cannot be read");

const givenUpOf = async (storage: Pick<GatewayStorage, "deliveriesOf">, { id }: Payment) =>
  (await storage.deliveriesOf(id)).filter(({ state }) => state === "exhausted");

/** Payments that fit and are more than a tombstone, the newest first. */
async function* everyPayment(
  storage: Pick<GatewayStorage, "listPayments">,
  filter: PaymentFilter = {},
): AsyncGenerator<Payment> {
  let after: Payment | undefined;
  for (;;) {
    const page = await storage.listPayments(after ? { ...filter, after } : filter, 500);
    yield* page;
    after = page.at(-1);
    if (after === undefined) return;
  }
}

const showPayment: Command = async ({ words: [, id], line: { out } }, storage) => {
  const payment = await storage.getPayment(required(id, "the id of a payment"));
  if (!payment) {
    out("there is no such payment");
    return 1;
  }
  const { events, bookings, refunds } = await storage.historyOf(payment.id);
  out(`${payment.id}: ${payment.status}${payment.late ? ", late" : ""}${payment.test ? ", test" : ""}`);
  out(
    `${formatAmount(payment.paidMinor)} of ${formatAmount(payment.amountMinor)} ${payment.currency} by ${payment.provider}, given back ${formatAmount(payment.refundedMinor)}`,
  );
  out(`created ${instant(payment.createdAt)}, expires ${instant(payment.expiresAt)}`);
  if (payment.needsAttention !== undefined) out(`! ${payment.needsAttention}`);
  for (const { transactionId, amountMinor, paidAt } of bookings) {
    out(`money ${formatAmount(amountMinor)} as ${transactionId} at ${instant(paidAt)}`);
  }
  for (const { id: refundId, amountMinor, status } of refunds) {
    out(`refund ${refundId}: ${formatAmount(amountMinor)} ${status}`);
  }
  const deliveries = await storage.deliveriesOf(payment.id);
  for (const event of events) {
    out(`event ${event.id}: ${event.name} at ${instant(event.createdAt)}`);
    for (const { eventId, endpointId, state, log, dueAt } of deliveries) {
      if (eventId !== event.id) continue;
      const target = endpointId === "" ? "its own address" : endpointId;
      out(`  to ${target}: ${state}${state === "pending" ? `, next try ${instant(dueAt)}` : ""}`);
      for (const { attempt, startedAt, outcome } of log) out(`    try ${attempt} at ${instant(startedAt)}: ${outcome}`);
    }
  }
  return 0;
};

const token: Command = async ({ words: [, action, id], values, line: { out } }, storage) => {
  const tokens = createTokenRegistry({ storage, clock: systemClock, tokens: [] });
  switch (action) {
    case "create": {
      const merchant = required(values.merchant, "--merchant");
      const scopes = (values.scopes ?? "create,read,refund").split(",").map((scope) => scope.trim());
      const unknown = scopes.filter((scope) => !apiScopes.includes(scope as ApiScope));
      if (unknown.length > 0)
        throw new UsageError(`--scopes: there is no "${unknown[0]}"; use ${apiScopes.join(", ")}`);
      const created = await tokens.create({ merchant, scopes: scopes as ApiScope[] });
      out(`${created.id}: ${created.token}`);
      return 0;
    }
    case "list":
      for (const { id: known, merchant, scopes, createdAt } of await tokens.list()) {
        out(`${known} of ${merchant}, ${scopes.join(" ")}, made ${instant(createdAt)}`);
      }
      return 0;
    case "revoke":
      return (await tokens.revoke(required(id, "the id of a token"))) ? 0 : 1;
    default:
      throw new UsageError("token create, list or revoke");
  }
};

const endpoint: Command = async ({ words: [, action, id], values, line: { out, variables } }, storage) => {
  const merchant = required(values.merchant, "--merchant");
  const allowAddresses = (variables.WEBHOOK_ALLOW_ADDRESSES ?? "")
    .split(",")
    .map((address) => address.trim())
    .filter((address) => address !== "");
  const engine = createEngine({
    storage,
    clock: systemClock,
    logger: silentLogger,
    providers: new Map(),
    wake: () => undefined,
  });
  const sender = createSender({ allowAddresses });
  const endpoints = createWebhookEndpoints(engine, sender);
  const known = () => required(id, "the id of an endpoint");
  try {
    switch (action) {
      case "add": {
        const added = await endpoints.add({ merchant, url: required(values.url, "--url"), secret: values.secret });
        out(`${added.endpoint.id}: ${added.secret}`);
        return 0;
      }
      case "list":
        for (const one of await endpoints.list(merchant)) out(`${one.id}: ${one.state}, ${one.url}`);
        return 0;
      case "rotate": {
        const overlapMs = wholeNumber(values["overlap-hours"], "overlap-hours") * 3_600_000;
        out((await endpoints.rotate({ merchant, id: known(), overlapMs, secret: values.secret })).secret);
        return 0;
      }
      case "enable":
      case "disable":
      case "remove":
        await endpoints[action](merchant, known());
        return 0;
      default:
        throw new UsageError("endpoint add, list, rotate, enable, disable or remove");
    }
  } finally {
    await sender.close();
  }
};

const secret: Command = async ({ words: [, action], values, line: { out } }, storage) => {
  if (action !== "rotate") throw new UsageError("secret rotate");
  const merchant = required(values.merchant, "--merchant");
  const overlapMs = wholeNumber(values["overlap-hours"], "overlap-hours") * 3_600_000;
  const rotated = await createMerchantSecrets({ storage }).rotate({ merchant, overlapMs, secret: values.secret });
  out(rotated.secret);
  return 0;
};

const prune: Command = async ({ values, line: { out } }, storage) => {
  const days = wholeNumber(values.days, "days");
  const keysForMs = wholeNumber(values["keys-days"], "keys-days") * dayMs;
  const limit = 500;
  let [payments, keys] = [0, 0];
  for (;;) {
    const done = await storage.cleanUp({ expiredForMs: days * dayMs, exhaustedForMs: 30 * dayMs, keysForMs, limit });
    payments += done.payments;
    keys += done.keys;
    if (done.payments < limit && done.keys < limit) break;
  }
  out(`payments of which a tombstone is left: ${payments}, idempotency keys deleted: ${keys}`);
  return 0;
};

const erase: Command = async ({ values, line: { out } }, storage) => {
  const ids: string[] = [];
  if (values.payment !== undefined && values.phone !== undefined)
    throw new UsageError("--payment or --phone, not both");
  if (values.payment !== undefined) ids.push(values.payment);
  else {
    // However it is written: 8 701…, +7 (701)…, 7701…
    const digits = required(values.phone, "--payment or --phone").replace(/\D/g, "").slice(-10);
    if (digits.length < 10) throw new UsageError("--phone must have at least ten digits");
    for await (const { id, description, metadata } of everyPayment(storage)) {
      const isHis = [description, ...textsOf(JSON.parse(metadata))].some((text) =>
        text.replace(/[^\p{L}\p{N}]/gu, "").includes(digits),
      );
      if (isHis) ids.push(id);
    }
  }
  let waiting = 0;
  for (const id of ids) {
    const state = await storage.erasePayment(id);
    if (state === "waiting") waiting++;
    out(
      state === "waiting"
        ? `payment ${id}: a webhook of it waits; come back when it was taken or given up`
        : `payment ${id}: ${state === "erased" ? "erased" : "there is none of that id"}`,
    );
    if (state === "not_found") return 1;
  }
  if (ids.length === 0) out("no payment holds this phone");
  return waiting > 0 || ids.length === 0 ? 1 : 0;
};

/** Every text and number of a JSON value. */
function textsOf(value: unknown): readonly string[] {
  if (typeof value === "string" || typeof value === "number") return [String(value)];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [key, ...textsOf(inner)]);
}

async function resendGivenUp(storage: Opened, merchant: string | undefined, out: CommandLine["out"]): Promise<number> {
  let [sent, unsent] = [0, 0];
  for await (const payment of everyPayment(storage, {
    givenUp: true,
    ...(merchant === undefined ? {} : { merchant }),
  })) {
    for (const eventId of new Set((await givenUpOf(storage, payment)).map((delivery) => delivery.eventId))) {
      const count = await storage.redeliver(eventId, { only: "exhausted" });
      sent += count;
      if (count === 0) unsent++;
    }
  }
  out(`due at once: ${sent}`);
  if (unsent > 0) out(`! events whose endpoints answered 410: ${unsent}; endpoint enable, or remove`);
  return sent === 0 || unsent > 0 ? 1 : 0;
}

const commands: Readonly<Record<string, Command>> = {
  doctor,
  payment: showPayment,
  token,
  endpoint,
  secret,
  prune,
  erase,
  async migrate(_input, storage) {
    await storage.migrate();
    return 0;
  },
  async reencrypt({ line: { out, variables } }, storage) {
    if (!variables.ENCRYPTION_KEYS?.trim()) {
      throw new UsageError("ENCRYPTION_KEYS is missing; give the new key first, then the older ones");
    }
    const { changed, unreadable, problem } = await storage.reencrypt();
    out(`webhook secrets encrypted anew: ${changed}`);
    if (unreadable > 0) {
      out(`! ${unreadable} secrets do not open, so older keys must stay: ${problem}`);
      return 1;
    }
    // What a server with an older key in front stores after this run would be lost with that key.
    out(
      "older keys may go if every server had the new one in front before this run; else restart them and run this again",
    );
    out("tokens of createKyselyStorage are not among these: npx orderbridge reencrypt");
    return 0;
  },
  async resend({ words: [, id], values, line: { out } }, storage) {
    if (values["given-up"]) {
      if (id !== undefined) throw new UsageError("the id of an event or --given-up, not both");
      return resendGivenUp(storage, values.merchant, out);
    }
    if (values.merchant !== undefined) throw new UsageError("--merchant is for resend --given-up");
    const count = await storage.redeliver(required(id, "the id of an event"));
    out(count === 0 ? "there is no such event, or nobody to send it to" : `due at once: ${count}`);
    return count === 0 ? 1 : 0;
  },
  async dismiss({ words: [, id], line: { out } }, storage) {
    const count = await storage.dismiss(required(id, "the id of an event"));
    out(count === 0 ? "no webhook of such an event was given up" : `dismissed: ${count}`);
    return count === 0 ? 1 : 0;
  },
  async unblock({ values, line: { out } }, storage) {
    const merchant = required(values.merchant, "--merchant");
    const isDone = await storage.unblockReceiver(merchant, required(values.origin, "--origin").replace(/\/$/, ""));
    out(isDone ? "unblocked" : "no breaker of that receiver has counted anything");
    return isDone ? 0 : 1;
  },
};

async function serve(handle: FetchHandler, port: number, { out, signal }: CommandLine): Promise<number> {
  const listening = await listen(handle, { port });
  out(`listening on ${listening.url}`);
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  await listening.close();
  return 0;
}

function receive({ values, line }: Input): Promise<number> {
  const receiver = createFakeReceiver({ secrets: [required(values.secret, "--secret")] });
  const handle: FetchHandler = async (request) => {
    const response = await receiver.handle(request);
    const last = receiver.requests.at(-1);
    if (last) line.out(`${last.verification.ok ? "verified" : `refused, ${last.verification.reason}`}: ${last.body}`);
    return response;
  };
  return serve(handle, wholeNumber(values.port ?? "4300", "port"), line);
}

function fake({ words: [, name], values, line }: Input): Promise<number> {
  const port = wholeNumber(values.port ?? "4200", "port");
  if (name === "kaspi-qr") return serve(createFakeKaspiQr({ scheme: "r1", apiKey: "fake" }).handle, port, line);
  if (name === "kaspi-smartpos") return serve(createFakeKaspiSmartpos().handle, port, line);
  throw new UsageError("fake kaspi-qr or kaspi-smartpos; the sandbox provider needs no fake");
}

/** Runs one command and resolves to its exit code. */
export async function runCommandLine(args: readonly string[], line: CommandLine): Promise<number> {
  try {
    const parsed = read(args);
    const { values, positionals: words } = parsed;
    const [name = ""] = words;
    if (values.help) {
      line.out(help);
      return 0;
    }
    const isCommand = ["receive", "fake"].includes(name) || Object.hasOwn(commands, name);
    if (!isCommand) throw new UsageError(name === "" ? "a command is needed" : `there is no command ${name}`);
    refuseForeign(parsed);
    const input: Input = { words, values, line };
    if (name === "receive") return await receive(input);
    if (name === "fake") return await fake(input);
    const command = commands[name] as Command;
    const { storage, close } = await openStorage(line, { mustExist: name !== "migrate" });
    try {
      return await command(input, storage);
    } finally {
      await close();
    }
  } catch (error) {
    if (error instanceof UsageError) line.err(`${error.message}\n\n${help}`);
    else {
      const { message, code } = error as { readonly message?: string; readonly code?: string };
      const isOurs = error instanceof Refusal || ConfigError.isInstance(error);
      line.err(`cannot run: ${isOurs ? message : redactText(message || code || String(error))}`);
    }
    return error instanceof Refusal ? 1 : 2;
  }
}
