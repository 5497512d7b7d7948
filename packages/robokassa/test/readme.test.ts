import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { createFakeRobokassa } from "../src/testing/index.ts";

const folder = join(import.meta.dirname, "..", ".tmp");
const blocks = [
  ...readFileSync(join(import.meta.dirname, "../README.md"), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm),
].map((match) => match[1] as string);
let child: ChildProcess | undefined;
afterEach(async () => {
  if (child && child.exitCode === null) {
    const ended = new Promise((resolve) => child?.once("exit", resolve));
    child.kill();
    await ended;
  }
  rmSync(folder, { recursive: true, force: true });
});

/** Runs a program of the README and resolves once it printed what `wanted` matches. */
function run(code: string, wanted: RegExp): Promise<RegExpExecArray> {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "program.ts");
  writeFileSync(file, code);
  child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "pipe"] });
  return new Promise((resolve, reject) => {
    let output = "";
    const collect = (chunk: Buffer) => {
      output += chunk;
      const found = wanted.exec(output);
      if (found) resolve(found);
    };
    child?.stdout?.on("data", collect);
    child?.stderr?.on("data", collect);
    child?.once("exit", () => reject(new Error(output)));
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test("the first program of the README sells an order to the fake", async () => {
  const port = await freePort();
  const code = (blocks[0] as string).replace(
    ".listen(3000)",
    `.listen(${port}, "127.0.0.1", () => console.log("ready"))`,
  );
  const [, url] = await run(code, /order A-17 is InvId 1: (\S+)[\s\S]*ready/);
  const fake = createFakeRobokassa({
    login: "demo-shop",
    password1: "live-one",
    password2: "live-two",
    resultUrl: `http://127.0.0.1:${port}/`,
  });
  expect((await fake.pay({ url: url as string })).delivery).toMatchObject({ status: 200, answer: "OK1" });
});

test("the test program of the README prints what it says", async () => {
  expect(await run(blocks.at(-1) as string, /^OK1$/m)).not.toBeNull();
});
