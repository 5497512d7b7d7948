import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { signTestWebhook, type WebhookBody } from "../src/webhooks/index.ts";

const root = join(import.meta.dirname, "../../..");
const folder = join(import.meta.dirname, "../.tmp/recipes");
const former = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const secret = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";

/** The programs of the document by heading. */
const recipes: Readonly<Record<string, string>> = Object.fromEntries(
  [
    ...readFileSync(join(root, "docs/receiving-webhooks.md"), "utf8").matchAll(
      /^## (.+)\n(?:(?!^## )[\s\S])*?^```ts\n([\s\S]*?)^```$/gm,
    ),
  ].map(([, heading = "", code = ""]) => [heading, code]),
);

/** What Next does with a route file: it calls the export named after the method, with a Request class of its own. */
const likeNext = `import { createServer } from "node:http";
import { toNodeListener } from "@orderbridge/core/node";
import { POST } from "./next.ts";
class NextLikeRequest extends Request {}
const handle = async (incoming: Request) => {
  const request = new NextLikeRequest(incoming);
  return POST(request);
};
createServer(toNodeListener(handle)).listen(Number(process.env.PORT));
`;

interface Platform {
  readonly file: string;
  readonly code: string;
  /** The same program with something that reads the body first; none where that cannot be done. */
  readonly misplaced?: readonly [from: string, to: string];
  readonly hasOwnRoute?: boolean;
}

const recipe = (name: string): string => {
  const code = recipes[name];
  if (code === undefined) throw new Error(`docs/receiving-webhooks.md has no program for ${name}`);
  return code;
};

const platforms: Readonly<Record<string, Platform>> = {
  Express: {
    file: "express.ts",
    code: recipe("Express"),
    misplaced: ["const app = express();", "const app = express();\napp.use(express.json());"],
    hasOwnRoute: true,
  },
  // The plugin's scope has no parsers but its own, wherever it is registered.
  Fastify: { file: "fastify.ts", code: recipe("Fastify"), hasOwnRoute: true },
  Hono: {
    file: "hono.ts",
    code: recipe("Hono"),
    misplaced: [
      "const app = new Hono();",
      "const app = new Hono();\napp.use(async (context, next) => { await context.req.json(); await next(); });",
    ],
    hasOwnRoute: true,
  },
  Koa: {
    file: "koa.ts",
    code: recipe("Koa"),
    // What every body parser does.
    misplaced: [
      "const app = new Koa();",
      "const app = new Koa();\napp.use(async ({ req }, next) => { for await (const _ of req); await next(); });",
    ],
  },
  Nest: {
    file: "nest.ts",
    code: recipe("Nest"),
    misplaced: ['app.use("/webhooks', 'app.useBodyParser("json");\napp.use("/webhooks'],
  },
  "Next (route handlers, without Next)": {
    file: "next-server.ts",
    code: likeNext,
    misplaced: ["return POST", "await request.json().catch(() => undefined);\n  return POST"],
  },
};

const children: ChildProcess[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
  }
});

beforeAll(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "webhook.ts"), recipe("The receiver"));
  writeFileSync(join(folder, "receiver.test.ts"), recipe("Testing your receiver"));
  writeFileSync(join(folder, "next.ts"), recipe("Next"));
  for (const { file, code, misplaced } of Object.values(platforms)) {
    writeFileSync(join(folder, file), code);
    if (!misplaced) continue;
    expect(code.split(misplaced[0]).length, file).toBe(2);
    writeFileSync(join(folder, `misplaced-${file}`), code.replace(misplaced[0], misplaced[1]));
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

interface Running {
  readonly url: string;
  readonly output: () => string;
  stop(): Promise<unknown>;
}

/** Resolves when the port answers. */
async function start(file: string, database: string, more: Readonly<Record<string, string>> = {}): Promise<Running> {
  const port = await freePort();
  const child = spawn(process.execPath, [file], {
    cwd: folder,
    env: { PORT: String(port), WEBHOOK_SECRETS: `${secret},${former}`, SHOP_DATABASE: database, ...more },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  const url = `http://127.0.0.1:${port}`;
  await expect
    .poll(
      async () => {
        if (child.exitCode !== null) throw new Error(output);
        return fetch(url).then(
          () => true,
          () => false,
        );
      },
      { timeout: 20_000 },
    )
    .toBe(true);
  return {
    url,
    output: () => output,
    stop: () => {
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      return gone;
    },
  };
}

/** What the receiver printed; Nest prints of itself. */
const booked = ({ output }: Running): readonly string[] => output().match(/^paid .*$/gm) ?? [];

async function send(
  { url }: Running,
  {
    key = secret,
    webhook = {},
    change = (text) => text,
    agoMs = 0,
  }: {
    readonly key?: string;
    readonly webhook?: Partial<WebhookBody>;
    readonly change?: (body: string) => string;
    readonly agoMs?: number;
  } = {},
): Promise<readonly [number, string]> {
  const { headers, body } = signTestWebhook({
    secret: key,
    webhook: { test: false, ...webhook },
    now: () => Date.now() - agoMs,
  });
  const answer = await fetch(`${url}/webhooks/payments`, { method: "POST", headers, body: change(body) });
  return [answer.status, await answer.text()];
}

test("the document has a program for each framework of the list", () => {
  expect(Object.keys(recipes)).toEqual([
    "The receiver",
    "Express",
    "Fastify",
    "Hono",
    "Koa",
    "Nest",
    "Next",
    "Testing your receiver",
  ]);
});

test("every program compiles", { timeout: 120_000 }, () => {
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({ extends: "../../../../tsconfig.base.json", include: ["*.ts"], exclude: ["misplaced-*"] }),
  );
  const { status, stdout } = spawnSync(join(root, "node_modules/.bin/tsc"), ["-p", folder, "--noEmit"], {
    encoding: "utf8",
  });
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
});

test("the test of a receiver passes, and fails when the receiver books nothing", { timeout: 60_000 }, () => {
  const run = () =>
    spawnSync(process.execPath, ["--test", "receiver.test.ts"], {
      cwd: folder,
      env: { WEBHOOK_SECRETS: secret, SHOP_DATABASE: ":memory:" },
      encoding: "utf8",
    });
  const good = run();
  expect(good.stdout).toContain("pass 4");
  expect(good.stdout.match(/paid 7/g)).toHaveLength(1);
  writeFileSync(join(folder, "webhook.ts"), recipe("The receiver").replace("if (!result.ok)", "if (result.ok)"));
  expect(run().status).toBe(1);
  writeFileSync(join(folder, "webhook.ts"), recipe("The receiver").replace("if (test ", "if (!test "));
  expect(run().stdout).toMatch(/not ok \d+ - a test payment|✖ a test payment/);
  // State kept by order, as if sequence counted within one.
  writeFileSync(
    join(folder, "webhook.ts"),
    recipe("The receiver").replace("run(transaction_id,", "run(String(metadata.order_id),"),
  );
  expect(run().stdout).toMatch(/not ok \d+ - an order is paid|✖ an order is paid/);
  writeFileSync(join(folder, "webhook.ts"), recipe("The receiver"));
});

describe.each(Object.entries(platforms))("on %s", (_name, { file, misplaced, hasOwnRoute = false }) => {
  test("a signed webhook is booked once, and whatever else arrives is refused", { timeout: 60_000 }, async () => {
    const database = join(folder, `${file}.db`);
    const running = await start(file, database);
    const webhook = { id: "evt_1", metadata: { order_id: "Заказ 7 «Ақ» + 100%" } };
    expect(await send(running, { webhook })).toEqual([204, ""]);
    expect(await send(running, { webhook })).toEqual([204, ""]);
    expect(await send(running, { webhook, change: (body) => body.replace("500.00", "500.01") })).toEqual([
      400,
      "mismatch",
    ]);
    expect(await send(running, { webhook, change: (body) => ` ${body}` })).toEqual([400, "mismatch"]);
    expect(await send(running, { webhook, agoMs: 301_500 })).toEqual([400, "too_old"]);
    expect(await send(running, { webhook: { id: "evt_2", metadata: { order_id: "8" } }, key: former })).toEqual([
      204,
      "",
    ]);
    expect(await send(running, { key: "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" })).toEqual([400, "mismatch"]);
    expect((await fetch(`${running.url}/webhooks/payments`, { method: "POST", body: "{}" })).status).toBe(400);
    const unbooked = { id: "evt_3", transaction_id: "other" };
    expect(await send(running, { webhook: { ...unbooked, test: true, metadata: { order_id: "9" } } })).toEqual([
      204,
      "",
    ]);
    expect(await send(running, { webhook: unbooked })).toEqual([422, "order_id"]);
    expect(booked(running)).toEqual(["paid Заказ 7 «Ақ» + 100%", "paid 8"]);
    if (hasOwnRoute) {
      const headers = { "content-type": "application/json" };
      const own = await fetch(`${running.url}/own`, { method: "POST", headers, body: '{"a":1}' });
      expect(await own.json()).toEqual({ a: 1 });
    }
    await running.stop();
    const again = await start(file, database, { TAKE_TEST_PAYMENTS: "yes" });
    expect(await send(again, { webhook })).toEqual([204, ""]);
    expect(booked(again)).toEqual([]);
    const tried = { ...unbooked, test: true, metadata: { order_id: "9" } };
    expect(await send(again, { webhook: tried })).toEqual([204, ""]);
    await expect.poll(() => booked(again)).toEqual(["paid 9"]);
  });

  if (!misplaced) return;
  test("a body parser before it is told, with what to do", { timeout: 60_000 }, async () => {
    const running = await start(`misplaced-${file}`, ":memory:");
    expect(await send(running)).toEqual([500, ""]);
    expect(running.output()).toContain("the request body was already read: mount this handler before body parsers");
    expect(booked(running)).toEqual([]);
  });
});
