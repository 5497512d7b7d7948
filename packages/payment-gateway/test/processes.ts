import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { WorkerSettings } from "./gateway.worker.ts";

export const workerToken = "shop-token-0123456789abcdef";

export interface WorkerProcess {
  readonly url: string;
  readonly child: ChildProcess;
  /** What it wrote on standard error. */
  readonly errors: () => string;
  /** Resolves when it is gone. */
  signal(signal: NodeJS.Signals): Promise<{ readonly code: number | null }>;
}

/** Starts `gateway.worker.ts`; resolves when it listens. */
export async function startWorker(settings: WorkerSettings): Promise<WorkerProcess> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "gateway.worker.ts"), JSON.stringify(settings)], {
    env: { PATH: process.env.PATH },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  child.stderr?.on("data", (chunk) => {
    errors += chunk;
  });
  const exited = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout?.once("data", (chunk) => resolve(String(chunk).trim()));
    exited.then(([code]) => reject(new Error(`the worker ended with ${code}: ${errors}`)));
  });
  return {
    url,
    child,
    errors: () => errors,
    async signal(signal) {
      child.kill(signal);
      const [code] = await exited;
      return { code };
    },
  };
}

/** A generator of the same numbers in [0, 1) on each run. */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
