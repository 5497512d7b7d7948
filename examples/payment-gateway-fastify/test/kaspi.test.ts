import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listen } from "@orderbridge/core/testing";
import { createFakeKaspiQr, createFakeKaspiSmartpos } from "@orderbridge/payment-gateway/testing";
import { afterAll, expect, test, vi } from "vitest";

vi.setConfig({ testTimeout: 60_000 }); // each starts a server

const folder = mkdtempSync(join(tmpdir(), "orderbridge-gateway-kaspi-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const token = "shop-token-0123456789abcdef";
const qr = {
  KASPI_QR_API_URL: "http://127.0.0.1:9",
  KASPI_QR_API_KEY: "test_0123456789",
  KASPI_QR_DEVICE_ID: "till-1",
  KASPI_QR_TRADE_POINT_ID: "1001",
};
const run = (variables: Readonly<Record<string, string>>) =>
  spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, ".."),
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: `sqlite:${join(folder, "gateway.db")}`,
      API_TOKENS: `shop=${token}`,
      ADMIN_PASSWORD: "demo-password-0001",
      SESSION_SECRET: "demo-session-secret-of-enough-length",
      PUBLIC_URL: "http://127.0.0.1:1",
      PORT: "0",
      LOG_LEVEL: "error",
      ...variables,
    },
  });

test("a payment by a Kaspi link and one at a terminal, from variables alone", async () => {
  const bank = createFakeKaspiQr({ scheme: "r1", apiKey: qr.KASPI_QR_API_KEY, seconds: { polling: 1 } });
  const terminal = createFakeKaspiSmartpos();
  const [bankAt, terminalAt] = [await listen(bank.handle), await listen(terminal.handle)];
  const child = run({
    PROVIDERS: "kaspi-qr,kaspi-smartpos",
    ...qr,
    KASPI_QR_API_URL: bankAt.url,
    KASPI_SMARTPOS_API_URL: terminalAt.url,
    KASPI_SMARTPOS_NAME: "till-1",
  });
  try {
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    await expect.poll(() => /listening on (\S+)/.exec(output)?.[1], { timeout: 30_000 }).toBeDefined();
    const url = /listening on (\S+)/.exec(output)?.[1] ?? "";
    const begin = async (provider: string): Promise<string> => {
      const created = await fetch(`${url}/api/payment/init`, {
        method: "POST",
        headers: { "x-api-token": token, "content-type": "application/json" },
        body: JSON.stringify({ amount: 505, provider }),
      });
      const id = ((await created.json()) as { data: { transaction_id: string } }).data.transaction_id;
      const pressed = await fetch(`${url}/providers/${provider}/${id}`, {
        method: "POST",
        body: new URLSearchParams({ action: "pay" }),
        redirect: "manual",
      });
      expect(pressed.headers.get("location")).toMatch(new RegExp(`/pay/${id}$`));
      return id;
    };
    const status = async (id: string) => {
      const answer = await fetch(`${url}/api/payment/${id}`, { headers: { "x-api-token": token } });
      return ((await answer.json()) as { data: { status: string } }).data.status;
    };
    const byLink = await begin("kaspi-qr");
    await expect.poll(() => terminal.journal.count("/v2/register"), { timeout: 15_000 }).toBe(1);
    const atTerminal = await begin("kaspi-smartpos");
    bank.pay(bank.payments[0]?.id ?? "");
    terminal.confirm();
    for (const id of [byLink, atTerminal]) await expect.poll(() => status(id), { timeout: 20_000 }).toBe("paid");
  } finally {
    child.kill("SIGTERM");
    await once(child, "close");
    await bankAt.close();
    await terminalAt.close();
  }
});

test.each([
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_API_KEY: "" }, "KASPI_QR_API_KEY"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_API_URL: "kaspi" }, "KASPI_QR_API_URL"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_DEVICE_ID: "касса" }, "KASPI_QR_DEVICE_ID"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_TRADE_POINT_ID: "replace-me" }, "KASPI_QR_TRADE_POINT_ID"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_SCHEME: "r2", KASPI_QR_PFX: "./nothing.pfx" }, "KASPI_QR_PFX"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_SCHEME: "r3" }, "KASPI_QR_ORGANIZATION_BIN"],
  [{ PROVIDERS: "kaspi-qr", ...qr, KASPI_QR_INVOICES: "1" }, "KASPI_QR_INVOICES"],
  [{ PROVIDERS: "kaspi-smartpos", KASPI_SMARTPOS_NAME: "till-1" }, "KASPI_SMARTPOS_API_URL"],
])("%j does not start, naming %s", async (variables, name) => {
  const child = run(variables);
  let output = "";
  child.stderr.on("data", (chunk) => {
    output += chunk;
  });
  const [code] = await once(child, "close");
  expect([code, output]).toEqual([1, expect.stringContaining(name)]);
});
