// pnpm proof: the heavy suites in full, every planted defect, and the signatures under other runtimes. Writes docs/proof.json and
// docs/reliability.md.
import { execFile } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { proofFolder } from "../test/proof-report.ts";
import { writeReliabilityReport } from "./proof-report.ts";
import { findServices } from "./services.ts";
import { readVitestReport } from "./vitest-report.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const limits = { cwd: root, maxBuffer: 256 * 1024 * 1024 };

interface Ended {
  readonly code: number;
  readonly output: string;
}

/** Runs a program to its end, whether it goes well or not. */
async function execute(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  try {
    const { stdout } = await run(command, args, { ...limits, env: { ...process.env, ...env } });
    return { code: 0, output: stdout };
  } catch (error) {
    // No code: it could not be started, or a signal ended it.
    const {
      code,
      stdout = "",
      stderr = "",
      message = "",
    } = error as Partial<Record<"stdout" | "stderr" | "message", string>> & {
      code?: unknown;
    };
    return { code: typeof code === "number" ? code : 1, output: `${stdout}${stderr}` || message };
  }
}

/** The `N passed, N failed` that ends a program's output; one that failed without saying so has one failure. */
function counts({ code, output }: Ended): { readonly passed: number; readonly failed: number } {
  const found = [...output.matchAll(/(\d+) passed, (\d+) failed/g)].at(-1);
  const [passed, failed] = found ? [Number(found[1]), Number(found[2])] : [0, 1];
  return { passed, failed: code === 0 ? failed : Math.max(1, failed) };
}

const missing = (await findServices()).filter(({ available }) => !available);
if (missing.length > 0) {
  process.stderr.write(
    `a proof needs every service; missing: ${missing.map(({ name, hint }) => `${name} (${hint})`).join(", ")}\n`,
  );
  process.exit(1);
}

const startedAt = new Date();
rmSync(proofFolder, { recursive: true, force: true });
const { stdout: commit } = await run("git", ["rev-parse", "HEAD"], limits);
// What the tests run on: sources, and the settings and the lock file at the root. The report itself lies in docs.
const { stdout: changes } = await run("git", ["status", "--porcelain", "--", ".", ":!docs"], limits);

process.stdout.write("heavy suites in full …\n");
const reportFile = join(root, ".tmp", "proof-vitest.json");
rmSync(reportFile, { force: true });
const { code, output } = await execute(
  process.execPath,
  [
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--testTimeout=3600000",
    "--reporter=json",
    `--outputFile.json=${reportFile}`,
  ],
  { PROOF: "1", REQUIRE_SERVICES: "1" },
);
const { problem, ...tests } = readVitestReport(reportFile, code);
if (tests.failed > 0) process.stdout.write(`${output.slice(-5_000)}\n`);
if (problem) process.stdout.write(`failed: ${problem}\n`);
if (tests.skipped > 0) process.stdout.write(`failed: ${tests.skipped} tests were skipped, and a proof needs all\n`);

process.stdout.write("planted defects …\n");
const mutants = counts(await execute(process.execPath, [join(root, "scripts/mutants.ts")]));

process.stdout.write("signatures under Bun and Deno …\n");
const cases = join(root, "packages/core/test/signature.cases.ts");
const runtimes = {
  node: counts(await execute(process.execPath, [cases])),
  bun: counts(await execute("npx", ["--yes", "bun@1.4.5", cases])),
  deno: counts(await execute("npx", ["--yes", "deno@2.9.6", "run", "-A", cases])),
};

const suites = Object.fromEntries(
  readdirSync(proofFolder)
    .sort()
    .map((file) => [file.replace(/\.json$/, ""), JSON.parse(readFileSync(join(proofFolder, file), "utf8"))]),
);
const proof = {
  commit: commit.trim(),
  uncommittedChanges: changes !== "",
  node: process.version,
  startedAt: startedAt.toISOString(),
  seconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
  tests,
  suites,
  plantedDefects: { caught: mutants.passed, missed: mutants.failed },
  signatureSuite: runtimes,
};
writeFileSync(join(root, "docs/proof.json"), `${JSON.stringify(proof, null, 2)}\n`);
writeReliabilityReport(proof);
process.stdout.write(`${JSON.stringify(proof, null, 2)}\n`);
const failed =
  tests.failed + tests.skipped + mutants.failed + Object.values(runtimes).reduce((sum, one) => sum + one.failed, 0);
process.exitCode = failed > 0 ? 1 : 0;
