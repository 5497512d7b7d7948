import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listen } from "@orderbridge/core/testing";
import { findServices } from "../scripts/services.ts";
import type { BenchResult, Target } from "./harness.ts";

const calls = 40;
const limit = 7;

interface Run {
  readonly seconds: number;
  /** Most requests in any sliding second, counted where they arrive. */
  readonly mostInOneSecond: number;
  readonly requests: number;
  readonly refused: number;
  readonly failed: number;
}

interface Setting {
  readonly name: string;
  readonly processes: number;
  readonly cpuLoad?: boolean;
  /** Every fifth answer is a 502. */
  readonly badGateways?: boolean;
  /** Slots come from Redis (`REDIS_URL`, else the local one), blocks and pauses from SQLite. */
  readonly redis?: boolean;
}

const settings: readonly Setting[] = [
  { name: "1 process", processes: 1 },
  { name: "2 processes", processes: 2 },
  { name: "4 processes", processes: 4 },
  { name: "4 processes, CPU load", processes: 4, cpuLoad: true },
  { name: "2 processes, 20 % 502", processes: 2, badGateways: true },
  { name: "4 processes, Redis", processes: 4, redis: true },
];

const until = (child: ChildProcess, message: string): Promise<void> =>
  new Promise((resolve, reject) => {
    child.on("message", (received) => received === message && resolve());
    child.once("exit", (code) => reject(new Error(`a worker ended with ${code}`)));
  });

async function runOnce({ processes, cpuLoad = false, badGateways = false, redis = false }: Setting): Promise<Run> {
  const arrivals: number[] = [];
  let refused = 0;
  let failed = 0;
  const server = await listen(async () => {
    const now = performance.now();
    // The vendor's own rule: no sliding second holds more than the limit.
    if (arrivals.filter((at) => now - at < 1_000).length >= limit) {
      refused++;
      return new Response("slow down", { status: 429 });
    }
    arrivals.push(now);
    if (badGateways && arrivals.length % 5 === 0) {
      failed++;
      return new Response("bad gateway", { status: 502 });
    }
    return Response.json({ ok: true });
  });
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-bench-"));
  const worker = join(import.meta.dirname, "p3-worker.ts");
  const share = (index: number) => Math.floor(calls / processes) + (index < calls % processes ? 1 : 0);
  const children = Array.from({ length: processes }, (_, index) =>
    fork(worker, [
      server.url,
      `sqlite:${join(folder, "limits.db")}`,
      String(share(index)),
      ...(redis ? [process.env.REDIS_URL ?? "redis://127.0.0.1:6379", `bench:${folder}:`] : []),
    ]),
  );
  const burners = cpuLoad ? [0, 1].map(() => fork(worker, ["burn"])) : [];
  try {
    await Promise.all(children.map((child) => until(child, "ready")));
    const ends = children.map((child) => until(child, "done"));
    const startedAt = performance.now();
    for (const child of children) child.send("start");
    await Promise.all(ends);
    const seconds = (performance.now() - startedAt) / 1000;
    const mostInOneSecond = Math.max(
      ...arrivals.map((start) => arrivals.filter((at) => at >= start && at - start < 1_000).length),
    );
    return { seconds, mostInOneSecond, requests: arrivals.length, refused, failed };
  } finally {
    for (const child of [...children, ...burners]) child.kill("SIGKILL");
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] as number;

/** 40 parallel calls at 7 per second through one shared budget. */
export async function benchRateLimit(): Promise<BenchResult> {
  const rounds = 5;
  const table: string[][] = [["", "seconds", "most in 1 s", "requests", "429", "502"]];
  const targets: Target[] = [];
  const hasRedis = (await findServices()).some(({ name, available }) => name === "Redis" && available);
  for (const setting of settings) {
    if (setting.redis && !hasRedis) {
      table.push([`${setting.name}: left out, Redis does not answer`, "", "", "", "", ""]);
      continue;
    }
    const runs: Run[] = [];
    for (let round = 0; round < rounds; round++) runs.push(await runOnce(setting));
    const seconds = median(runs.map((run) => run.seconds));
    const most = Math.max(...runs.map((run) => run.mostInOneSecond));
    const refused = runs.reduce((sum, run) => sum + run.refused, 0);
    table.push([
      setting.name,
      seconds.toFixed(2),
      String(most),
      String(median(runs.map((run) => run.requests))),
      String(refused),
      String(median(runs.map((run) => run.failed))),
    ]);
    targets.push({
      text: `${setting.name}: never more than ${limit} in a sliding second (${most})`,
      met: most <= limit,
    });
    targets.push({ text: `${setting.name}: no 429 (${refused})`, met: refused === 0 });
    // Repeated calls take slots of their own, so only the runs without failures have a time limit.
    if (!setting.badGateways)
      targets.push({ text: `${setting.name}: at most 6.6 s (${seconds.toFixed(2)})`, met: seconds <= 6.6 });
  }
  return {
    id: "P3",
    title: `${calls} parallel calls at ${limit} per second, median of ${rounds}; floor 5.0 s`,
    table,
    targets,
  };
}
