import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { robokassaVariables } from "@orderbridge/example-support";
import { createFakeKaspiBiller, createFakeReceiver } from "@orderbridge/payment-gateway/testing";
import { createFakeRobokassa } from "@orderbridge/robokassa/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findServices, serviceAddresses } from "../../../scripts/services.ts";

const folder = mkdtempSync(join(tmpdir(), "orderbridge-gateway-"));
const token = "shop-token-0123456789abcdef";
const shop = { login: "demo-shop", password1: "live-one", password2: "live-two" };
const settings = {
  API_TOKENS: `shop=${token}`,
  ADMIN_PASSWORD: "demo-password-0001",
  SESSION_SECRET: "demo-session-secret-of-enough-length",
  PUBLIC_URL: "http://127.0.0.1:1",
  PROVIDERS: "sandbox,kaspi-biller,robokassa",
  ROBOKASSA_LOGIN: shop.login,
  ROBOKASSA_PASSWORD1: shop.password1,
  ROBOKASSA_PASSWORD2: shop.password2,
  KASPI_BILLER_ADDRESSES: "127.0.0.1",
  WEBHOOK_ALLOW_ADDRESSES: "127.0.0.1",
  WEBHOOK_RETRY_DELAYS: "0.05,0.05,0.05",
  ENCRYPTION_KEYS: `a:${Buffer.alloc(32, 1).toString("base64")}`,
  PORT: "0",
  LOG_LEVEL: "error",
};

interface Ended {
  readonly code: number | null;
  readonly output: string;
}
interface Server {
  readonly url: string;
  stop(): Promise<Ended>;
}

const run = (variables: Readonly<Record<string, string>>): ChildProcess =>
  spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, ".."),
    env: { PATH: process.env.PATH, DATABASE_URL: `sqlite:${join(folder, "gateway.db")}`, ...variables },
  });

function ended(child: ChildProcess): Promise<Ended> {
  let output = "";
  child.stderr?.on("data", (chunk) => {
    output += chunk;
  });
  return new Promise((resolve) => child.once("exit", (code) => resolve({ code, output })));
}

function start(variables: Readonly<Record<string, string>> = settings): Promise<Server> {
  const child = run(variables);
  const end = ended(child);
  return new Promise((resolve, reject) => {
    child.stdout?.on("data", (chunk) => {
      const url = /listening on (\S+)/.exec(String(chunk))?.[1];
      if (url === undefined) return;
      resolve({
        url,
        stop() {
          child.kill("SIGTERM");
          return end;
        },
      });
    });
    void end.then(({ output }) => reject(new Error(output)));
  });
}

let server: Server;
beforeAll(async () => {
  server = await start();
});
afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function init(fields: object) {
  const response = await fetch(`${server.url}/api/payment/init`, {
    method: "POST",
    headers: { "x-api-token": token, "content-type": "application/json" },
    body: JSON.stringify({ amount: "500.00", webhook_secret: "test_secret_key", ...fields }),
  });
  const answer = (await response.json()) as {
    readonly data: { readonly transaction_id: string; readonly account?: string };
  };
  return answer.data;
}

test("a payment is paid in the sandbox; its receiver gets one verified webhook although it answered 500 twice, also over a restart", async () => {
  const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
  receiver.failNext(2);
  const listening = await listen(receiver.handle);
  try {
    const { transaction_id: id } = await init({ webhook_url: `${listening.url}/hook` });
    const page = await fetch(`${server.url}/pay/${id}`);
    expect([page.status, (await page.text()).includes("Ожидает оплаты")]).toEqual([200, true]);
    const body = new URLSearchParams({ action: "pay" });
    await fetch(`${server.url}/providers/sandbox/${id}`, { method: "POST", body, redirect: "manual" });
    expect((await server.stop()).code).toBe(0);
    server = await start();
    await expect.poll(() => receiver.accepted.length, { timeout: 10_000 }).toBe(1);
    expect(receiver.requests.map(({ status }) => status)).toEqual([500, 500, 204]);
    expect(receiver.accepted[0]?.headers["x-webhook-event"]).toBe("paid");
  } finally {
    await listening.close();
  }
});

test("the bank's calls are answered and booked", async () => {
  const { account = "" } = await init({ provider: "kaspi-biller" });
  const bank = createFakeKaspiBiller({ deliver: fetch, url: `${server.url}/providers/kaspi-biller` });
  expect((await bank.check(account)).result).toBe(0);
  expect((await bank.pay({ account, sum: "500.00" })).result).toBe(0);
  expect((await bank.check(account)).result).toBe(3);
});

test("a payment made at Robokassa is booked by its notification", async () => {
  const { transaction_id: id } = await init({ provider: "robokassa", currency: "RUB" });
  const page = await (await fetch(`${server.url}/pay/${id}`)).text();
  const url = (/href="(https:[^"]+Index\.aspx[^"]+)"/.exec(page)?.[1] ?? "").replaceAll("&amp;", "&");
  const fake = createFakeRobokassa({ ...shop, resultUrl: `${server.url}/providers/robokassa/result` });
  const { delivery } = await fake.pay({ url });
  expect(delivery?.accepted).toBe(true);
  expect(await (await fetch(`${server.url}/pay/${id}?lang=en`)).text()).toContain("Paid. Thank you!");
});

test("GET /healthz answers 200 while the database answers", async () => {
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
});

test("GET /docs shows the API, GET /openapi.json is the same for tools", async () => {
  expect(await (await fetch(`${server.url}/docs`)).text()).toContain("docs/examples/create.php");
  expect((await fetch(`${server.url}/docs/examples/create.php`)).status).toBe(200);
  expect(await (await fetch(`${server.url}/openapi.json`)).json()).toMatchObject({ openapi: "3.1.0" });
});

test("/admin opens with its password only", async () => {
  const logIn = (password: string) =>
    fetch(`${server.url}/admin/login`, { method: "POST", body: new URLSearchParams({ password }), redirect: "manual" });
  expect((await logIn("wrong")).status).toBe(403);
  const cookie = (await logIn(settings.ADMIN_PASSWORD)).headers.get("set-cookie")?.split(";")[0] ?? "";
  const page = await fetch(`${server.url}/admin`, { headers: { cookie } });
  expect([page.status, (await page.text()).includes("<h1>Payments</h1>")]).toEqual([200, true]);
});

test("an unknown route is 404", async () => {
  expect((await fetch(`${server.url}/api/nothing`)).status).toBe(404);
});

const wrongSettings: readonly (readonly [string, string])[] = [
  ["API_TOKENS", ""],
  ["API_TOKENS", "replace-me"],
  ["API_TOKENS", "shop"],
  ["API_TOKENS", "shop=short"],
  ["ADMIN_PASSWORD", "replace-me"],
  ["ADMIN_PASSWORD", "short"],
  ["SESSION_SECRET", ""],
  ["PUBLIC_URL", ""],
  ["PUBLIC_URL", "pay.example"],
  ["PROVIDERS", ""],
  ["PROVIDERS", "visa"],
  ["WEBHOOK_ALLOW_ADDRESSES", "localhost"],
  ["WEBHOOK_RETRY_DELAYS", "soon"],
  ["KASPI_BILLER_FORMAT", "csv"],
  ["KASPI_BILLER_ADDRESSES", "bank"],
  ["ROBOKASSA_LOGIN", ""],
  ["ROBOKASSA_PASSWORD2", shop.password1],
  ["TRUSTED_PROXIES", "10.0.0.0/99"],
];

// Each is a process of its own: a few of them in the daily run, all with `PROOF=1`.
test.concurrent.each(wrongSettings.filter((_, index) => process.env.PROOF === "1" || index % 4 === 0))(
  "does not start with %s=%s: names it, exit code 1, no stack trace",
  async (name, value) => {
    const { code, output } = await ended(run({ ...settings, [name]: value }));
    expect(code).toBe(1);
    expect(output).toContain(name);
    expect(output).not.toMatch(/^\s+at /m);
  },
);

test("a provider that is named needs its variables", async () => {
  const { code, output } = await ended(run({ ...settings, PROVIDERS: "kaspi-qr,kaspi-smartpos" }));
  expect([code, output]).toEqual([1, expect.stringContaining("KASPI_QR_API_URL is missing")]);
});

const hasRedis = (await findServices()).some(({ name, available }) => name === "Redis" && available);
test.skipIf(process.env.REQUIRE_SERVICES !== "1" && !hasRedis)(
  "with REDIS_URL BullMQ runs every chore, and the server stops cleanly",
  async () => {
    const url = `sqlite:${join(folder, "fleet.db")}`;
    const fleet = await start({ ...settings, DATABASE_URL: url, REDIS_URL: serviceAddresses.redis });
    const health = await fetch(`${fleet.url}/healthz`);
    const database = await openDatabase(url);
    const leases = () => database.db.selectFrom("orderbridge_lease").select("name").execute();
    // The engine has run each chore at least once: its interval is leased.
    await expect
      .poll(
        async () =>
          (await leases())
            .map(({ name }) => name)
            .filter((name) => name.endsWith(" interval"))
            .sort(),
        {
          timeout: 15_000,
        },
      )
      .toEqual([
        "job gateway checks kaspi-biller interval",
        "job gateway checks robokassa interval",
        "job gateway checks sandbox interval",
        "job gateway clean-up interval",
        "job gateway refunds sandbox interval",
      ]);
    await database.close();
    expect([health.status, (await fleet.stop()).code]).toEqual([200, 0]);
  },
);

test("every variable of .env.example is one that the server reads", () => {
  const example = readFileSync(join(import.meta.dirname, "../.env.example"), "utf8");
  const source = ["server.ts", "providers.ts"]
    .map((file) => readFileSync(join(import.meta.dirname, "..", file), "utf8"))
    .join("");
  const common = ["PORT", "DATABASE_URL", "LOG_LEVEL", "TRUSTED_PROXIES", "ENCRYPTION_KEYS", "REDIS_URL"];
  for (const [, name = ""] of example.matchAll(/^#? ?([A-Z][A-Z0-9_]+)=/gm)) {
    expect(name in robokassaVariables || common.includes(name) || source.includes(`${name}:`), name).toBe(true);
  }
});
