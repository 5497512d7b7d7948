import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";

export interface RunningServer {
  /** Origin, e.g. `http://127.0.0.1:40123`. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Starts a reference server in its own process, on a free port, and waits until it listens. */
export function startServer(name: string, variables: Readonly<Record<string, string>>): Promise<RunningServer> {
  const child = spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, "..", name),
    // Only what is named: a variable of the user's shell must not point the demo at a real account.
    env: { PATH: process.env.PATH, PORT: "0", LOG_LEVEL: "warn", ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  return new Promise((resolve, reject) => {
    let output = "";
    child.stderr.on("data", (chunk: Buffer) => {
      output = (output + chunk).slice(-4_000);
    });
    let head = "";
    child.stdout.on("data", (chunk: Buffer) => {
      head += chunk;
      const url = /listening on (\S+)/.exec(head)?.[1];
      if (url) resolve({ url, stop: () => stop(child) });
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${name} ended with ${code} before it listened\n${output}`)));
  });
}

function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
    child.once("exit", () => {
      clearTimeout(timer);
      resolve();
    });
    child.kill("SIGTERM");
  });
}
