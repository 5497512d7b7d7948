import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { signTestWebhook } from "@orderbridge/payment-gateway/webhooks";
import { afterAll, afterEach, expect, test } from "vitest";

// The programs of robokassa and kaspi-amocrm need their fakes beside them and are run in their own packages.
const root = join(import.meta.dirname, "..");
const work = join(root, ".tmp", "programs");
const children: ChildProcess[] = [];

const blocksOf = (path: string): string[] =>
  [...readFileSync(join(root, path), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1] as string);
const packages = readdirSync(join(root, "packages"));
const firstOf = (name: string): string => blocksOf(`packages/${name}/README.md`)[0] ?? "";

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null) continue;
    await new Promise((resolve) => {
      child.once("exit", resolve);
      child.kill("SIGKILL");
    });
  }
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Runs a program in an empty folder until it prints what is wanted; gives a way to read on. */
function start(name: string, code: string, wanted: RegExp): Promise<() => string> {
  const folder = join(work, name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "program.ts"), code);
  const child = spawn(process.execPath, ["program.ts"], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  return new Promise((resolve, reject) => {
    let output = "";
    const collect = (chunk: Buffer) => {
      output += chunk;
      if (wanted.test(output)) resolve(() => output);
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.once("exit", () => (wanted.test(output) ? resolve(() => output) : reject(new Error(output))));
  });
}

/** The same program on a free port of the loopback interface, saying when it listens. */
const onPort = (code: string, port: number): string =>
  code.replace(/\.listen\(\d+(, "127\.0\.0\.1")?\)/, `.listen(${port}, "127.0.0.1", () => console.log("ready"))`);

test.each(["README.md", "README.ru.md"])(
  "%s shows the first program of every package as its own README does",
  (path) => {
    const shown = blocksOf(path);
    for (const name of packages) expect(shown, name).toContain(firstOf(name));
  },
);

test("the program of core delivers its message", async () => {
  const output = await start("core", firstOf("core"), /delivering/);
  expect(output()).toContain('delivering order-7 paid, attempt 1: {"paid":true}');
});

test("the program of bitrix moves the deal in the fake", async () => {
  const output = await start("bitrix", firstOf("bitrix"), /done|failed/);
  expect(output()).toBe("done WON\n");
});

test("the program of payment-gateway takes a payment through the sandbox", async () => {
  const port = await freePort();
  await start("gateway", onPort(firstOf("payment-gateway"), port), /ready/);
  const origin = `http://127.0.0.1:${port}`;
  const headers = { "content-type": "application/json", "x-api-token": "try-me-0123456789" };
  const created = await fetch(`${origin}/api/payment/init`, {
    method: "POST",
    headers,
    body: JSON.stringify({ amount: 500, currency: "KZT", description: "Test" }),
  });
  const { data } = (await created.json()) as { data: { transaction_id: string } };
  await fetch(`${origin}/providers/sandbox/${data.transaction_id}`, {
    method: "POST",
    body: new URLSearchParams({ action: "pay" }),
    redirect: "manual",
  });
  const paid = await fetch(`${origin}/api/payment/${data.transaction_id}`, { headers });
  expect(await paid.json()).toMatchObject({ success: true, data: { status: "paid", amount: "500.00" } });
});

test("the program that only verifies webhooks accepts a signed one and refuses a forged one", async () => {
  const port = await freePort();
  const output = await start("receiver", onPort(blocksOf("README.md")[0] ?? "", port), /ready/);
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const { headers, body } = signTestWebhook({ secret, webhook: { event: "paid", transaction_id: "t-1" } });
  const send = (text: string) => fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers, body: text });
  expect((await send(body)).status).toBe(204);
  expect(output()).toContain("paid: t-1");
  const forged = await send(body.replace("t-1", "t-2"));
  expect([forged.status, await forged.text()]).toEqual([400, "mismatch"]);
});
