import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { type Listening, listen } from "@orderbridge/core/testing";
import { chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findChromium, findProgram } from "../../../scripts/services.ts";
import { createPaymentGateway, type PaymentGateway } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { signTestWebhook } from "../src/webhooks/index.ts";

// The programs of the page judge the age of a webhook by the machine's clock, so this gateway runs on it too.
const merchants = ["curl", "php", "javascript", "python", "browser"] as const;
const tokenOf = (merchant: string): string => `${merchant}-token-0123456789`;
const artefacts = join(import.meta.dirname, "../../../test-artifacts");

let handle: FetchHandler = async () => new Response(null, { status: 503 });
let gateway: PaymentGateway;
let listening: Listening;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-docs-"));
  listening = await listen((request) => handle(request));
  gateway = createPaymentGateway({
    storage: createPaymentGatewayMemoryStorage(),
    providers: [createSandboxProvider()],
    publicUrl: listening.url,
    tokens: merchants.map((merchant) => ({ merchant, token: tokenOf(merchant) })),
    webhooks: { allowAddresses: ["127.0.0.1"] },
    logger: silentLogger,
  });
  handle = gateway.handle;
});
afterAll(async () => {
  await gateway.close();
  await listening.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Takes a program from where the page links to it. */
async function download(file: string): Promise<string> {
  const response = await fetch(`${listening.url}/docs/examples/${file}`);
  expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
  const path = join(folder, file);
  writeFileSync(path, await response.text());
  return path;
}

/** What is not installed is skipped by name; with REQUIRE_SERVICES=1 it fails when it is started. */
const isMissing = (program: string): boolean =>
  process.env.REQUIRE_SERVICES !== "1" && program !== process.execPath && findProgram(program) === undefined;

async function runProgram(program: string, args: readonly string[], env: Readonly<Record<string, string>>) {
  const child = spawn(program, args, { env: { PATH: process.env.PATH, ...env } });
  let output = "";
  child.stdout.on("data", (chunk) => {
    output += chunk;
  });
  const [code] = await once(child, "close");
  return { code, output };
}

describe("the programs that create a payment", () => {
  test.for([
    ["curl", "sh", "create.sh"],
    ["php", "php", "create.php"],
    ["javascript", process.execPath, "create.mjs"],
    ["python", "python3", "create.py"],
  ])("%s", async ([merchant = "", program = "", file = ""], context) => {
    if (isMissing(program)) context.skip();
    const path = await download(file);
    const first = await runProgram(program, [path], { API_TOKEN: tokenOf(merchant) });
    const id = /\/pay\/([\w-]+)/.exec(first.output)?.[1] ?? "";
    expect(first.code).toBe(0);
    const payment = await gateway.payments.get(merchant, id);
    expect(payment).toMatchObject({ amountMinor: 500_000n, currency: "KZT", metadata: '{"order_id":"A-17"}' });
    // Run again, it finds the same payment.
    expect((await runProgram(program, [path], { API_TOKEN: tokenOf(merchant) })).output).toContain(id);
    expect((await runProgram(program, [path], { API_TOKEN: "wrong" })).code).not.toBe(0);
  });
});

describe("the programs that verify a webhook", () => {
  const children: ChildProcess[] = [];
  afterAll(() => {
    for (const child of children) child.kill("SIGKILL");
  });

  async function freePort(): Promise<number> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, "close");
    return port;
  }

  const accepts = (port: number): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });

  test.for([
    ["PHP", "php", (path: string, port: number) => ["-S", `127.0.0.1:${port}`, path], "verify.php"],
    ["JavaScript", process.execPath, (path: string) => [path], "verify.mjs"],
    ["Python", "python3", (path: string) => [path], "verify.py"],
  ] as const)(
    "%s takes a delivered webhook, and neither a changed nor an old one",
    async ([_name, program, args, file], context) => {
      if (isMissing(program)) context.skip();
      const path = await download(file);
      const port = await freePort();
      const url = `http://127.0.0.1:${port}/`;
      const { payment, webhookSecret = "" } = await gateway.payments.create({
        merchant: "browser",
        amountMinor: 500_000n,
        webhookUrl: url,
        webhookSecret: "Құпия сөз + 100%",
        metadata: '{"имя":"Әлия"}',
      });
      const env = { PATH: process.env.PATH, WEBHOOK_SECRET: webhookSecret, PORT: String(port) };
      children.push(spawn(program, args(path, port), { env, stdio: "ignore" }));
      await expect.poll(() => accepts(port), { timeout: 10_000 }).toBe(true);

      await gateway.handle(
        new Request(`${listening.url}/providers/sandbox/${payment.id}`, {
          method: "POST",
          body: new URLSearchParams({ action: "pay" }),
        }),
      );
      await gateway.work();
      const [delivery] = await gateway.payments.deliveries("browser", payment.id);
      expect(delivery).toMatchObject({ state: "delivered", log: [{ outcome: "http_204" }] });

      const post = async (ageMs: number, change = "", other = ""): Promise<number> => {
        const { headers, body } = signTestWebhook({ secret: webhookSecret, now: () => Date.now() - ageMs });
        const signature = `${other}${headers["webhook-signature"]}`;
        const sent = { method: "POST", headers: { ...headers, "webhook-signature": signature }, body: body + change };
        return (await fetch(url, sent)).status;
      };
      expect([await post(0), await post(0, " "), await post(600_000)]).toEqual([204, 400, 400]);
      // While a secret is replaced the new one's signature stands before that of the one that the receiver knows.
      const newer = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,x ";
      expect([await post(0, "", newer), await post(0, " ", newer)]).toEqual([204, 400]);
    },
  );

  test("curl: the shell program tells genuine from changed and old", async () => {
    const path = await download("verify.sh");
    const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const verify = (ageMs: number, change = "") => {
      const { headers, body } = signTestWebhook({
        secret,
        webhook: { metadata: { имя: "Әлия" } },
        now: () => Date.now() - ageMs,
      });
      const env = {
        PATH: process.env.PATH,
        WEBHOOK_SECRET: secret,
        ID: headers["webhook-id"],
        TIMESTAMP: headers["webhook-timestamp"],
        SIGNATURE: `v1,AAAA ${headers["webhook-signature"]}`,
      };
      return spawnSync("sh", [path], { env, input: body + change }).status;
    };
    expect([verify(0), verify(0, " "), verify(600_000)]).toEqual([0, 1, 1]);
  });
});

test("nothing inline and nothing foreign may run on the page", async () => {
  const response = await fetch(`${listening.url}/docs`);
  const policy = response.headers.get("content-security-policy") ?? "";
  expect(policy).toContain("default-src 'none'");
  expect(policy).not.toContain("unsafe");
  const text = await response.text();
  expect(text).not.toMatch(/ style=| on[a-z]+="|<script>|<style>/);
  for (const [, address] of text.matchAll(/(?:src|href)="([^"#]+)"/g)) {
    expect(new URL(address ?? "", `${listening.url}/docs`).origin).toBe(listening.url);
    expect((await fetch(new URL(address ?? "", `${listening.url}/docs`))).status, address).toBe(200);
  }
});

const executablePath = findChromium();
test.skipIf(!executablePath)("in a browser a payment is created from the page, under its policy", async () => {
  const browser = await chromium.launch({
    executablePath: executablePath as string,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1000, height: 900 } });
    const problems: string[] = [];
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(error.message));
    await page.goto(`${listening.url}/docs`);
    const form = page.getByRole("form", { name: "Try createPayment" });
    await page.getByLabel("API token").fill(tokenOf("browser"));
    await form.getByRole("button", { name: "Send" }).click();
    await form.locator("output").filter({ hasText: /^200/ }).waitFor();
    const id = /"transaction_id": "([\w-]+)"/.exec((await form.locator("output").textContent()) ?? "")?.[1] ?? "";
    expect((await gateway.payments.get("browser", id))?.amountMinor).toBe(50_000n);
    const read = page.getByRole("form", { name: "Try getPayment" });
    await read.getByLabel("id").fill(id);
    await read.getByRole("button", { name: "Send" }).click();
    await read.locator("output").filter({ hasText: '"status": "pending"' }).waitFor();
    mkdirSync(artefacts, { recursive: true });
    await page.screenshot({ path: join(artefacts, "gateway-docs.png") });
    expect(problems).toEqual([]);
  } finally {
    await browser.close();
  }
});
