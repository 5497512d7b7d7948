// npm run example -- <name>: starts one reference server with the variables of the environment and of its `.env`.
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "..", "examples");
const names = readdirSync(folder).filter((name) => existsSync(join(folder, name, "server.ts")));
const name = process.argv[2] ?? "";
if (!names.includes(name)) {
  process.stderr.write(`usage: npm run example -- <name>\n\nexamples: ${names.join(", ")}\n`);
  process.exit(1);
}

const child = spawn(process.execPath, ["--env-file-if-exists=.env", "server.ts", ...process.argv.slice(3)], {
  cwd: join(folder, name),
  stdio: "inherit",
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
