import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { openDatabase } from "../src/kysely/index.ts";
import { type TestDatabase, testDatabases } from "./databases.ts";

/** A program of this folder in a process of its own. Its lines arrive one by one. */
export function startProgram(file: string, ...options: readonly string[]) {
  const child = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    join(import.meta.dirname, file),
    ...options,
  ]);
  const lines: string[] = [];
  /** The exit code, or the signal that ended it. */
  const ended = new Promise<number | string | null>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal)),
  );
  const said = (line: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => lines.includes(line) && resolve();
      child.stdout.on("data", look);
      void ended.then(() =>
        lines.includes(line) ? resolve() : reject(new Error(`it ended with: ${lines.join("; ")}`)),
      );
      look();
    });
  let rest = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  child.stderr.on("data", (chunk: Buffer) => lines.push(`error: ${chunk}`));
  return {
    lines,
    ended,
    said,
    async kill() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** As `testDatabases`, but SQLite in a file, so that processes can share it. */
export function sharedTestDatabases() {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return testDatabases().map((entry) =>
    entry.name === "SQLite"
      ? {
          ...entry,
          async open(): Promise<TestDatabase> {
            const url = `sqlite:${join(folder, `${process.hrtime.bigint()}.db`)}`;
            return { ...(await openDatabase(url)), url };
          },
        }
      : entry,
  );
}
