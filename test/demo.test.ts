import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { afterEach, describe, expect, test } from "vitest";
import { findChromium } from "../scripts/services.ts";
import { run } from "./run.ts";

const root = join(import.meta.dirname, "..");
const main = join(root, "examples/demo/main.ts");
const artefacts = join(root, "test-artifacts");

const children: ChildProcess[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null) continue;
    await new Promise((resolve) => {
      child.once("exit", resolve);
      child.kill("SIGTERM");
    });
  }
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts the demo and waits until the given text is printed. */
function startDemo(
  port: number,
  until: RegExp,
): Promise<{ readonly output: () => string; readonly child: ChildProcess }> {
  const child = spawn(process.execPath, [main], {
    cwd: root,
    env: { ...process.env, PORT: String(port) },
    stdio: "pipe",
  });
  children.push(child);
  return new Promise((resolve, reject) => {
    let output = "";
    const collect = (chunk: Buffer) => {
      output += chunk;
      if (until.test(output)) resolve({ output: () => output, child });
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.once("exit", (code) => reject(new Error(`the demo ended with ${code}\n${output}`)));
  });
}

describe("npm start -- --once", () => {
  test("passes all six flows and exits with 0", { timeout: 90_000 }, async () => {
    const { code, output } = await run(process.execPath, [main, "--once"], { cwd: root, timeoutMs: 85_000 });
    expect({ code, last: output.trimEnd().split("\n").at(-1), output }).toEqual({
      code: 0,
      last: "6 passed, 0 failed",
      output,
    });
    for (let flow = 1; flow <= 6; flow++) expect(output).toMatch(new RegExp(`^ok {3}${flow} `, "m"));
  });

  test("refuses an argument that it does not know", async () => {
    const { code, output } = await run(process.execPath, [main, "--twice"], { cwd: root });
    expect({ code, output }).toEqual({ code: 1, output: "unknown argument --twice; there is --once\n" });
  });
});

describe("npm start", () => {
  test("names a port that is taken and the way to another one", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const { code, output } = await run(process.execPath, [main], { cwd: root, env: { PORT: String(port) } });
      expect({ code, output }).toEqual({
        code: 1,
        output: `port ${port} is taken; choose another one, e.g. PORT=${port + 1} npm start\n`,
      });
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  const executablePath = findChromium();
  test.skipIf(!executablePath)(
    "shows the six flows in a browser, passed, and in motion",
    { timeout: 120_000 },
    async () => {
      const port = await freePort();
      const demo = await startDemo(port, /open http/);
      const browser = await chromium.launch({
        executablePath: executablePath as string,
        args: [
          "--no-sandbox",
          "--disable-gpu",
          "--disable-background-networking",
          "--disable-component-update",
          "--disable-sync",
          "--no-first-run",
        ],
      });
      try {
        const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
        const problems: string[] = [];
        page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
        page.on("pageerror", (error) => problems.push(error.message));
        await page.goto(`http://127.0.0.1:${port}/`);
        expect(await page.locator("section").count()).toBe(6);
        // The page changes by itself: no reload happens between here and the end.
        await expect.poll(demo.output, { timeout: 80_000 }).toMatch(/^\d passed, \d failed$/m);
        expect(demo.output()).toContain("6 passed, 0 failed");
        await page.locator("section[data-state=passed]").nth(5).waitFor({ timeout: 10_000 });
        expect(await page.locator("section[data-state=passed]").count()).toBe(6);
        expect(await page.locator("section dd").count()).toBeGreaterThan(6);
        const logs = async () => (await page.locator("ol").allInnerTexts()).join("|");
        const before = await logs();
        await expect.poll(logs, { timeout: 15_000 }).not.toBe(before);
        mkdirSync(artefacts, { recursive: true });
        await page.screenshot({ path: join(artefacts, "demo.png"), fullPage: true });
        await page.setViewportSize({ width: 390, height: 844 });
        expect(await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")).toBeLessThanOrEqual(0);
        expect(problems).toEqual([]);
      } finally {
        await browser.close();
      }
    },
  );
});
