// npm test: everything that must hold, one step after another, and one line with the sum at the end.
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { findServices } from "./services.ts";
import { readVitestReport } from "./vitest-report.ts";

const root = join(import.meta.dirname, "..");
const bin = (name: string): string => join(root, "node_modules", ".bin", name);
const total = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];

function execute(
  command: string,
  args: readonly string[],
): Promise<{ readonly code: number; readonly output: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, FORCE_COLOR: "0" },
    });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
    });
    child.stderr.on("data", (chunk: Buffer) => {
      output += chunk;
    });
    child.once("error", (error) => resolve({ code: 1, output: error.message }));
    child.once("close", (code) => resolve({ code: code ?? 1, output }));
  });
}

function report(name: string, passed: boolean, startedAt: number, output = ""): void {
  total[passed ? "passed" : "failed"]++;
  if (!passed) failures.push(name);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  process.stdout.write(`${passed ? "ok  " : "FAIL"} ${name} (${seconds} s)\n${passed ? "" : `${output}\n`}`);
}

async function check(name: string, command: string, args: readonly string[]): Promise<void> {
  const startedAt = performance.now();
  const { code, output } = await execute(command, args);
  report(name, code === 0, startedAt, output);
}

/** Runs vitest and adds its counts. A run without any test, or one that breaks outside a test, is a failure. */
async function runTests(): Promise<void> {
  const startedAt = performance.now();
  mkdirSync(join(root, ".tmp"), { recursive: true });
  const reportFile = join(root, ".tmp", "vitest.json");
  rmSync(reportFile, { force: true });
  const { code, output } = await execute(process.execPath, [
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${reportFile}`,
  ]);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  if (code === 0) process.stdout.write(`ok   tests (${seconds} s)\n`);
  else process.stdout.write(`FAIL tests (${seconds} s)\n${output}\n`);
  const { problem, ...counts } = readVitestReport(reportFile, code);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  if (counts.failed > 0) failures.push(problem ? `tests: ${problem}, see above` : "tests");
}

const startedAt = performance.now();
process.stdout.write(`node ${process.version}\n`);
if (!process.version.startsWith("v24.")) {
  process.stdout.write("the checks must run on the pinned Node: use npm test\n");
  process.exit(1);
}

for (const { name, available, hint } of await findServices()) {
  if (available) continue;
  const required = process.env.REQUIRE_SERVICES === "1";
  process.stdout.write(`${required ? "FAIL" : "skip"} ${name} does not answer (${hint})\n`);
  total[required ? "failed" : "skipped"]++;
  if (required) failures.push(name);
}

// The packages are built first of all and wait for the registry in between, so they go beside the static checks.
await Promise.all([
  check("packages: build, tarballs, types, sizes, consumers", process.execPath, [
    join(root, "scripts/check-packages.ts"),
  ]),
  check("format and lint", bin("biome"), ["ci", "--colors=off", "--error-on-warnings", "."]),
  check("types", bin("tsc"), ["-p", "tsconfig.json"]),
  check("no unused files, exports or dependencies", bin("knip"), []),
]);
await runTests();

process.stdout.write(`${((performance.now() - startedAt) / 1000).toFixed(0)} s\n`);
for (const failure of failures) process.stdout.write(`failed: ${failure}\n`);
process.stdout.write(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped\n`);
process.exitCode = total.failed > 0 ? 1 : 0;
