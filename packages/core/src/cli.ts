#!/usr/bin/env node
import { parseArgs } from "node:util";
import { redactText } from "./http/redact.ts";
import { createCipher, createKyselyStorage, type KyselyStorage, openDatabase } from "./kysely/index.ts";

const help = `usage: orderbridge <command>

  reencrypt              stores every token under the first key of ENCRYPTION_KEYS; older keys may go if every server
                         had it in front before
  prune [--days 30]      deletes messages and idempotency keys that ended so long ago
  redeliver <message id> makes a delivered or buried message due again
  unblock <account>      lifts the block of a vendor account, once the vendor has lifted it, and ends its pause

Variables: DATABASE_URL (sqlite:./orders.db, postgres://…, mysql://…), ENCRYPTION_KEYS (id:base64 of 32 bytes, newest first).

Exit codes: 0 done, 1 there was nothing of that name, 2 the command could not run.
`;

/** Wrong arguments or variables. */
class UsageError extends Error {}

const commands: Readonly<Record<string, (storage: KyselyStorage, input: Input) => Promise<string | undefined>>> = {
  async reencrypt(storage, { hasKeys }) {
    if (!hasKeys) throw new UsageError("ENCRYPTION_KEYS is missing; make a key with: openssl rand -base64 32");
    return `pairs of tokens encrypted anew: ${await storage.reencrypt()}`;
  },
  async prune(storage, { days }) {
    if (!/^\d{1,4}$/.test(days)) throw new UsageError("--days must be a whole number of days");
    const { outbox, idempotency } = await storage.prune({ olderThanMs: Number(days) * 86_400_000 });
    return `deleted messages: ${outbox}, idempotency keys: ${idempotency}`;
  },
  async redeliver(storage, { name }) {
    const id = required(name, "the id of a message");
    return (await storage.outbox.redeliver(id)) ? "due at once" : undefined;
  },
  async unblock(storage, { name }) {
    const account = required(name, "an account, e.g. amocrm:example.amocrm.ru:client-id");
    return (await storage.rateLimits.unblock(account)) ? "unblocked" : undefined;
  },
};

interface Input {
  readonly name: string | undefined;
  readonly days: string;
  readonly hasKeys: boolean;
}

function required(value: string | undefined, what: string): string {
  if (value === undefined) throw new UsageError(`give ${what}`);
  return value;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { days: { type: "string", default: "30" }, help: { type: "boolean", short: "h", default: false } },
  });
  const [command = "", name] = positionals;
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  if (!Object.hasOwn(commands, command)) throw new UsageError("unknown command; see orderbridge --help");
  const { DATABASE_URL: databaseUrl, ENCRYPTION_KEYS: keys } = process.env;
  if (!databaseUrl) throw new UsageError("DATABASE_URL is missing; set it to the database of the server");
  const cipher = keys ? { cipher: createCipher({ keys }) } : {};
  const database = await openDatabase(databaseUrl, { mustExist: true });
  try {
    const storage = createKyselyStorage({ ...database, ...cipher });
    const done = await commands[command]?.(storage, { name, days: values.days, hasKeys: Boolean(keys) });
    process.stdout.write(`${done ?? "there is none of that name, or nothing to do"}\n`);
    return done === undefined ? 1 : 0;
  } finally {
    await database.close();
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  const { message, code } = error as { message?: string; code?: string };
  process.stderr.write(`${redactText(message || code || String(error))}\n`);
  process.exitCode = 2;
}
