#!/usr/bin/env node
import { parseArgs } from "node:util";
import { ConfigError, silentLogger, systemClock } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { type Diagnosis, diagnose } from "./diagnose.ts";
import { readEnvironment } from "./environment.ts";
import { createRobokassaStorage } from "./kysely/index.ts";
import { createReconciler } from "./reconcile.ts";
import { checkAlgorithm } from "./signature.ts";
import type { Order, RobokassaStorage } from "./storage.ts";
import { createFakeRobokassa } from "./testing/index.ts";

const help = `usage: robokassa <command> [options]

  diagnose --order <id or InvId>   why is this order not paid? One cause, one thing to do
           [--callback <text>]     replays a refused notification, as a query or form
           [--result-url <url>]    calls the shop's own Result URL with a probe that pays nothing
           [--json]
  reconcile --order <id or InvId>  says what Robokassa knows of a waiting order, and lets the shop's own reconciler ask
           [--json]                at its next run, which books the payment with the shop's onPaid
  reconcile --without-on-paid      asks about every waiting order that is due, or about one, and books here, without
           [--order …] [--json]    onPaid: only for a shop that has none, since a payment is booked once
  erase --order <id or InvId>      takes the description and the link's text away; sums and states stay
  prune [--days 90]                drops older notifications from the log, and the texts of older orders
  fake [--port 4100]               a Robokassa on this machine, with a payment page; takes the variables below, or
                                   demo-shop with live-password-1, live-password-2, test-password-1, …
           [--result-url <url>] [--success-url <url>] [--fail-url <url>]

Variables: ROBOKASSA_LOGIN, ROBOKASSA_PASSWORD1, _PASSWORD2, _PASSWORD3, the test pair ROBOKASSA_TEST_PASSWORD1 and
ROBOKASSA_TEST_PASSWORD2, ROBOKASSA_ALGORITHM, ROBOKASSA_COUNTRY, ROBOKASSA_RESULT2_CERTS, ROBOKASSA_API_URL, DATABASE_URL.

Exit codes of diagnose: 0 paid, 1 something must be mended, 2 wait, 3 unknown order. 4: the command could not run.
`;

/** The command could not run: wrong arguments or variables. */
const exitUnusable = 4;

class UsageError extends Error {}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

function format({ code, cause, evidence, next, trace, link }: Diagnosis): string {
  return [
    `${cause} [${code}]`,
    ...(evidence.length > 0 ? ["", "Seen:", ...evidence.map((line) => `  ${line}`)] : []),
    ...(trace === undefined ? [] : ["", `Hashed text: ${trace}`]),
    ...(link === undefined ? [] : ["", `Hashed text of the link: ${link}`]),
    "",
    `Next: ${next}`,
  ].join("\n");
}

async function withShop(work: (shop: ReturnType<typeof open>) => Promise<number>): Promise<number> {
  const environment = readEnvironment(process.env);
  const database = await openDatabase(environment.databaseUrl, { mustExist: true });
  try {
    const shop = open(environment, database);
    await shop.storage.migrate();
    return await work(shop);
  } finally {
    await database.close();
  }
}

const open = (
  { robokassa, certificates }: ReturnType<typeof readEnvironment>,
  { db, dialect }: Awaited<ReturnType<typeof openDatabase>>,
) => ({ robokassa, certificates, storage: createRobokassaStorage({ db, dialect }) });

function runDiagnose({
  order,
  callback,
  resultUrl,
  json,
}: {
  readonly order: string;
  readonly callback: string | undefined;
  readonly resultUrl: string | undefined;
  readonly json: boolean;
}): Promise<number> {
  if (resultUrl !== undefined && !/^https?:$/.test(URL.parse(resultUrl)?.protocol ?? "")) {
    throw new UsageError("--result-url must be an http(s) address");
  }
  return withShop(async ({ robokassa, storage, certificates }) => {
    const diagnosis = await diagnose({
      robokassa,
      storage,
      order,
      ...(callback === undefined ? {} : { callback }),
      ...(certificates === undefined ? {} : { certificates }),
      ...(resultUrl === undefined ? {} : { resultUrl }),
    });
    print(json ? JSON.stringify(diagnosis, null, 2) : format(diagnosis));
    return diagnosis.exitCode;
  });
}

/** The shop's `onPaid` runs in its server alone, and with the one booking: so the server books unless it has none. */
function runReconcile({
  order: id,
  withoutOnPaid,
  json,
}: {
  readonly order: string | undefined;
  readonly withoutOnPaid: boolean;
  readonly json: boolean;
}): Promise<number> {
  if (id === undefined && !withoutOnPaid) {
    throw new UsageError("reconcile needs --order <id or InvId>, or --without-on-paid when the shop has no onPaid");
  }
  return withShop(async ({ robokassa, storage }) => {
    if (id !== undefined && !withoutOnPaid) return hurry({ robokassa, storage }, await findOrder(storage, id), json);
    const reconciler = createReconciler({ robokassa, storage, logger: silentLogger });
    if (id === undefined) {
      const counts = await reconciler.runOnce();
      print(
        json
          ? JSON.stringify(counts)
          : Object.entries(counts)
              .map(([name, count]) => `${name} ${count}`)
              .join(", "),
      );
      return counts.failed > 0 ? 1 : 0;
    }
    const order = await findOrder(storage, id);
    const { outcome } = await reconciler.check(order);
    print(json ? JSON.stringify({ order: order.id, invId: order.invId, outcome }) : `InvId ${order.invId}: ${outcome}`);
    return outcome === "paid" || outcome === "unchanged" ? 0 : 1;
  });
}

/** Makes the order's query due for whoever reconciles in the shop, and tells what it will find. */
async function hurry(
  { robokassa, storage }: Pick<ReturnType<typeof open>, "robokassa" | "storage">,
  order: Order,
  json: boolean,
): Promise<number> {
  const { id, invId, status, test } = order;
  const due = await storage.orders.checkSoon(invId);
  const state = due ? await robokassa.operationState(invId) : undefined;
  const known = state && (state.found ? state.state : state.reason);
  if (json) print(JSON.stringify({ order: id, invId, status, due, robokassa: known ?? null }));
  else if (known) print(`InvId ${invId}: Robokassa says ${known}; the shop's own reconciler asks at its next run`);
  else print(`InvId ${invId}: ${test ? "a test order, which Robokassa's books do not hold" : status}`);
  return status === "paid" || known === "paid" ? 0 : 1;
}

function runErase(id: string): Promise<number> {
  return withShop(async ({ storage }) => {
    const order = await findOrder(storage, id);
    await storage.orders.erase(order.id);
    print(`InvId ${order.invId}: erased`);
    return 0;
  });
}

function runPrune(days: string): Promise<number> {
  if (!/^\d{1,5}$/.test(days)) throw new UsageError("--days must be a number");
  return withShop(async ({ storage }) => {
    const before = new Date(systemClock.now().getTime() - Number(days) * 86_400_000);
    const callbacks = await storage.callbacks.prune(before);
    print(`dropped ${callbacks}, and the texts of ${await storage.orders.prune(before)} orders`);
    return 0;
  });
}

async function findOrder({ orders }: Pick<RobokassaStorage, "orders">, id: string): Promise<Order> {
  const order = (await orders.get(id)) ?? (await orders.getByInvId(id));
  if (!order) throw new ConfigError(`no order has the id or InvId ${id}; check that DATABASE_URL is the shop's`);
  return order;
}

async function runFake(
  port: number,
  urls: { resultUrl?: string; successUrl?: string; failUrl?: string },
): Promise<void> {
  const variables = process.env;
  const { ROBOKASSA_PASSWORD3: password3, ROBOKASSA_ALGORITHM: algorithm } = variables;
  const fake = createFakeRobokassa({
    login: variables.ROBOKASSA_LOGIN ?? "demo-shop",
    password1: variables.ROBOKASSA_PASSWORD1 ?? "live-password-1",
    password2: variables.ROBOKASSA_PASSWORD2 ?? "live-password-2",
    testPassword1: variables.ROBOKASSA_TEST_PASSWORD1 ?? "test-password-1",
    testPassword2: variables.ROBOKASSA_TEST_PASSWORD2 ?? "test-password-2",
    password3: password3 || "live-password-3",
    ...(algorithm ? { algorithm: checkAlgorithm(algorithm) } : {}),
    // What the real one allows by agreement can be tried here at once.
    holdAllowed: true,
    recurringAllowed: true,
    splitAllowed: true,
    ...urls,
    fetch: async (url, init) => {
      const answer = await fetch(url, init).catch((error: Error) => error);
      const method = init?.method ?? "GET";
      const path = String(url).split("?", 1)[0];
      print(`${method} ${path}: ${answer instanceof Error ? "no answer" : `answered ${answer.status}`}`);
      if (answer instanceof Error) throw answer;
      return answer;
    },
  });
  const server = await listen(fake.handle, { port });
  print(`listening on ${server.url}`);
  print(`start the shop with ROBOKASSA_API_URL=${server.url}; ResultUrl2's certificate is at /media/files/jwtsign.cer`);
  const stop = (): void => {
    fake.close();
    void server.close();
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        order: { type: "string" },
        callback: { type: "string" },
        json: { type: "boolean", default: false },
        "without-on-paid": { type: "boolean", default: false },
        days: { type: "string", default: "90" },
        port: { type: "string", default: "4100" },
        "result-url": { type: "string" },
        "success-url": { type: "string" },
        "fail-url": { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

async function main(): Promise<number> {
  const { values, positionals } = readArguments();
  const [command, unread] = positionals;
  if (values.help) {
    print(help);
    return 0;
  }
  if (unread !== undefined) throw new UsageError(`${command} does not take ${unread}; an order is named by --order`);
  switch (command) {
    case "diagnose":
      if (!values.order) throw new UsageError("diagnose needs --order <id or InvId>");
      return runDiagnose({
        order: values.order,
        callback: values.callback,
        resultUrl: values["result-url"],
        json: values.json,
      });
    case "reconcile":
      return runReconcile({ order: values.order, withoutOnPaid: values["without-on-paid"], json: values.json });
    case "erase":
      if (!values.order) throw new UsageError("erase needs --order <id or InvId>");
      return runErase(values.order);
    case "prune":
      return runPrune(values.days);
    case "fake": {
      if (!/^\d{1,5}$/.test(values.port) || Number(values.port) > 65_535) {
        throw new UsageError("--port must be a number up to 65535");
      }
      const { "result-url": resultUrl, "success-url": successUrl, "fail-url": failUrl } = values;
      await runFake(Number(values.port), {
        ...(resultUrl ? { resultUrl } : {}),
        ...(successUrl ? { successUrl } : {}),
        ...(failUrl ? { failUrl } : {}),
      });
      return 0;
    }
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
  process.exitCode = exitUnusable;
}
