import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readVitestReport } from "../scripts/vitest-report.ts";

const root = join(import.meta.dirname, "..");
let folder: string;
beforeEach(() => {
  mkdirSync(join(root, ".tmp"), { recursive: true });
  folder = mkdtempSync(join(root, ".tmp", "vitest-report-")); // inside the workspace, so that vitest is found
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Runs vitest on these files and reads its report. */
function runOn(files: Readonly<Record<string, string>>) {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  writeFileSync(join(folder, "vitest.config.mjs"), "export default {}");
  const file = join(folder, "report.json");
  const vitest = join(root, "node_modules/vitest/vitest.mjs");
  const { status } = spawnSync(
    process.execPath,
    [vitest, "run", "--root", folder, "--reporter=json", `--outputFile.json=${file}`],
    { encoding: "utf8" },
  );
  return { status, counts: readVitestReport(file, status ?? 1) };
}

const passing = 'import { test } from "vitest"; test("a", () => {}); test.skip("b", () => {}); test.todo("c");';

test.each([
  ["passed and skipped tests", {}, 0, { passed: 1, failed: 0, skipped: 2 }],
  [
    "a failed test",
    { "b.test.mjs": 'import { test } from "vitest"; test("x", () => { throw 1; });' },
    1,
    { failed: 1 },
  ],
  ["a file that does not load", { "b.test.mjs": 'throw new Error("no");' }, 1, { passed: 1, failed: 1 }],
  [
    "an error outside the tests",
    { "b.test.mjs": 'import { test } from "vitest"; test("x", () => { void Promise.reject(new Error("no")); });' },
    1,
    { passed: 2, failed: 1, problem: "an error outside the tests" },
  ],
])("counts %s", { timeout: 60_000 }, (_case, files, status, counts) => {
  const result = runOn({ "a.test.mjs": passing, ...files });
  expect(result.status).toBe(status);
  expect(result.counts).toMatchObject(counts);
});

test("a run that left no report, or half of one, has failed, whatever its exit code", () => {
  const file = join(folder, "report.json");
  expect(readVitestReport(file, 0)).toMatchObject({ passed: 0, failed: 1 });
  writeFileSync(file, '{"numPassedTests":');
  expect(readVitestReport(file, 0)).toMatchObject({ passed: 0, failed: 1 });
});

test("a run in which nothing passed has failed", () => {
  const file = join(folder, "report.json");
  const none = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 3, numTodoTests: 0, numFailedTestSuites: 0 };
  writeFileSync(file, JSON.stringify(none));
  expect(readVitestReport(file, 0)).toEqual({ passed: 0, failed: 1, skipped: 3, problem: "no test ran" });
});
