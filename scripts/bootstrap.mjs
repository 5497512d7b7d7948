// Runs a script of this repository on a bare machine: any Node >= 18 with npm, nothing else. It installs what the
// lock file names with the pinned pnpm, and then hands over to the pinned Node (the dev dependency `node`), so that
// everything runs on the same version everywhere. Plain JavaScript without dependencies, on purpose.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const scripts = { start: "examples/demo/main.ts", test: "scripts/test.ts", example: "scripts/example.ts" };
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const windows = process.platform === "win32";

function stop(message) {
  console.error(message);
  process.exit(1);
}

if (Number(process.versions.node.split(".")[0]) < 18) {
  stop(`Node ${process.versions.node} is too old to start the installation; install Node 18 or newer.`);
}

const [name, ...args] = process.argv.slice(2);
const script = scripts[name];
if (!script) stop(`usage: node scripts/bootstrap.mjs ${Object.keys(scripts).join(" | ")}`);

/** Changes whenever an install could give another result. */
function installKey() {
  const files = [
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "package.json",
    "bench/package.json",
    "test/foreign-clients/package.json",
  ];
  for (const group of ["packages", "examples"]) {
    for (const folder of readdirSync(join(root, group))) files.push(`${group}/${folder}/package.json`);
  }
  const hash = createHash("sha256");
  for (const file of files) if (existsSync(join(root, file))) hash.update(readFileSync(join(root, file)));
  return hash.digest("hex");
}

const pinnedNode = join(root, "node_modules", "node", "bin", windows ? "node.exe" : "node");
const stamp = join(root, "node_modules", ".orderbridge-installed");
const key = installKey();

if (!existsSync(pinnedNode) || !existsSync(stamp) || readFileSync(stamp, "utf8") !== key) {
  // Corepack may be absent or fail to verify pnpm, so npx fetches the pinned version.
  console.error(`installing with ${manifest.packageManager} …`);
  const install = spawnSync("npx", ["--yes", manifest.packageManager, "install", "--frozen-lockfile"], {
    cwd: root,
    stdio: ["ignore", 2, 2],
    shell: windows,
    env: { ...process.env, CI: "true", npm_config_loglevel: "error" },
  });
  if (install.status !== 0) stop("the installation failed; its own message stands above");
  if (!existsSync(pinnedNode))
    stop("the pinned Node was not installed: is its build still allowed in pnpm-workspace.yaml?");
  writeFileSync(stamp, key);
}

const wanted = `v${manifest.devDependencies.node}`;
const found = spawnSync(pinnedNode, ["--version"], { encoding: "utf8" }).stdout?.trim();
if (found !== wanted)
  stop(`the pinned Node is ${found || "unusable"}, not ${wanted}; delete node_modules and start again`);

const path = [dirname(pinnedNode), join(root, "node_modules", ".bin"), process.env.PATH].join(delimiter);
const child = spawn(pinnedNode, [join(root, script), ...args], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, PATH: path },
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
