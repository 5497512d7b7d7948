// Builds every package, packs it as it would be published, and checks the tarballs: publint, types, sizes, and
// consumers that install them from outside the workspace.
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const bin = (name: string): string => join(root, "node_modules", ".bin", name);
const work = join(tmpdir(), `orderbridge-packages-${process.pid}`);
const problems: string[] = [];

interface Manifest {
  readonly name: string;
  readonly packageManager: string;
  readonly exports: Readonly<Record<string, string>>;
  readonly bin?: Readonly<Record<string, string>>;
}
const readManifest = (folder: string): Manifest => JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
const { packageManager } = readManifest(root);
const packages = readdirSync(join(root, "packages")).map((folder) => ({
  folder: join(root, "packages", folder),
  ...readManifest(join(root, "packages", folder)),
}));

/** Runs a program; a failure is written down with its whole output, and the others go on. */
async function attempt(what: string, command: string, args: readonly string[], cwd: string): Promise<boolean> {
  try {
    await run(command, args, { cwd, maxBuffer: 64 * 1024 * 1024 });
    return true;
  } catch (error) {
    const { stdout = "", stderr = "", message = "" } = error as { stdout?: string; stderr?: string; message?: string };
    problems.push(`${what}\n${stdout + stderr || message}`);
    return false;
  }
}

async function pack({ folder, name }: (typeof packages)[number]): Promise<string | undefined> {
  if (!(await attempt(`${name}: build`, bin("tsup"), [], folder))) return undefined;
  const tarball = join(work, `${name.replace("@", "").replace("/", "-")}.tgz`);
  const packed = await attempt(`${name}: pack`, "npx", ["--yes", packageManager, "pack", "--out", tarball], folder);
  if (!packed) return undefined;
  await attempt(`${name}: publint`, bin("publint"), ["run", tarball, "--strict"], root);
  await attempt(`${name}: types`, bin("attw"), [tarball, "--profile", "esm-only", "--no-emoji"], root);
  return tarball;
}

/** Minified and gzipped size of each entry as a consumer would bundle it, without its dependencies. */
async function checkSizes(): Promise<void> {
  const budgets = JSON.parse(readFileSync(join(root, "scripts/size-budgets.json"), "utf8")) as Record<string, number>;
  const sizes: Record<string, number> = {};
  for (const { folder, name, exports } of packages) {
    for (const [subpath, source] of Object.entries(exports)) {
      if (!source.endsWith(".ts")) continue;
      const { outputFiles } = await build({
        entryPoints: [join(folder, source.replace("./src/", "dist/").replace(/\.ts$/, ".js"))],
        bundle: true,
        minify: true,
        write: false,
        format: "esm",
        platform: "node",
        packages: "external",
        logLevel: "silent",
      });
      const entry = subpath === "." ? name : `${name}${subpath.slice(1)}`;
      sizes[entry] = gzipSync(outputFiles[0]?.contents ?? "", { level: 9 }).length;
      const budget = budgets[entry];
      if (budget === undefined)
        problems.push(`${entry}: no budget in scripts/size-budgets.json (now ${sizes[entry]} bytes)`);
      else if (sizes[entry] > budget) problems.push(`${entry}: ${sizes[entry]} bytes gzipped, budget ${budget}`);
    }
  }
  for (const entry of Object.keys(budgets))
    if (!(entry in sizes)) problems.push(`${entry}: has a budget but does not exist`);
  process.stdout.write(
    `${Object.entries(sizes)
      .map(([entry, size]) => `${String(size).padStart(7)} ${entry}`)
      .join("\n")}\n`,
  );
}

const nameOf = (tarball: string): string =>
  tarball
    .slice(tarball.lastIndexOf("/") + 1)
    .replace("orderbridge-", "@orderbridge/")
    .replace(".tgz", "");

/** Installs what the gateway's README says and nothing more, loads what its first program imports, and starts the command. */
async function checkNewcomer(tarballs: readonly string[]): Promise<void> {
  const folder = join(work, "newcomer");
  mkdirSync(folder);
  const readme = readFileSync(join(root, "packages/payment-gateway/README.md"), "utf8");
  const [, names = ""] = /^npm install (.+)$/m.exec(readme) ?? [];
  const [, program = ""] = /^```ts\n([\s\S]*?)^```$/m.exec(readme) ?? [];
  const imports = program.split("\n").filter((line) => line.startsWith("import "));
  if (names === "" || imports.length === 0) problems.push("newcomer: the README has no install line, or no program");
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "newcomer", private: true, type: "module" }));
  writeFileSync(join(folder, "program.js"), imports.join("\n"));
  const wanted = names.split(" ").map((name) => tarballs.find((tarball) => nameOf(tarball) === name) ?? name);
  const args = ["install", "--no-audit", "--no-fund", "--loglevel=error", ...wanted];
  if (!(await attempt("newcomer: npm install", "npm", args, folder))) return;
  await attempt("newcomer: the first program of the README", process.execPath, ["program.js"], folder);
  await attempt("newcomer: the command", "npx", ["--no-install", "payment-gateway", "--help"], folder);
}

/** Installs the tarballs with npm, as a stranger would, and runs what `test/consumers` holds. */
async function checkConsumers(tarballs: readonly string[]): Promise<void> {
  const folder = join(work, "consumer");
  cpSync(join(root, "test/consumers"), folder, { recursive: true });
  const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  for (const tarball of tarballs) {
    manifest.dependencies[nameOf(tarball)] = `file:${tarball}`;
  }
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest, null, 2));
  const installed = await attempt(
    "consumers: npm install",
    "npm",
    ["install", "--no-audit", "--no-fund", "--loglevel=error"],
    folder,
  );
  if (!installed) return;
  const programs = packages.flatMap(({ bin: programsOf }) => Object.keys(programsOf ?? {}));
  await Promise.all([
    ...programs.map((program) =>
      attempt(`consumer, ${program} --help`, join(folder, "node_modules/.bin", program), ["--help"], folder),
    ),
    attempt("consumer, ESM TypeScript: types", bin("tsc"), ["-p", folder], folder),
    attempt("consumer, ESM TypeScript: run", process.execPath, ["esm.ts"], folder),
    attempt("consumer, CommonJS require", process.execPath, ["commonjs.cjs"], folder),
    attempt(
      "consumer, bundler",
      process.execPath,
      ["bundle.mjs", join(root, "node_modules/esbuild/lib/main.js")],
      folder,
    ),
  ]);
}

try {
  mkdirSync(work, { recursive: true });
  const tarballs: string[] = [];
  for (let next = 0; next < packages.length; next += 2) {
    const packed = await Promise.all(packages.slice(next, next + 2).map(pack));
    tarballs.push(...packed.filter((tarball) => tarball !== undefined));
  }
  if (tarballs.length === packages.length) {
    await checkSizes();
    await checkConsumers(tarballs);
    await checkNewcomer(tarballs);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}

for (const problem of problems) process.stderr.write(`${problem}\n`);
process.exitCode = problems.length > 0 ? 1 : 0;
