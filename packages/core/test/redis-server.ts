import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { Redis } from "ioredis";

export const redisUrl = process.env.REDIS_URL ?? "redis://127.0.0.1:6379";
const hasRedis = await answers(redisUrl);

/** For `describe.skipIf(redisService.skipped)(redisService.name, …)`. */
export const redisService = {
  name: hasRedis ? "Redis" : "Redis (does not answer)",
  skipped: !hasRedis && process.env.REQUIRE_SERVICES !== "1",
} as const;

const hasProgram = (process.env.PATH ?? "").split(delimiter).some((folder) => existsSync(join(folder, "redis-server")));

/** The same for servers that a test starts by {@link startRedisServer}. */
export const redisProgram = {
  name: hasProgram ? "redis-server" : "redis-server (not found)",
  skipped: !hasProgram && process.env.REQUIRE_SERVICES !== "1",
} as const;

let opened = 0;

/** A connection to the shared server, and a prefix whose keys disappear with `close()`. */
export function openRedis() {
  const redis = new Redis(redisUrl);
  const prefix = `orderbridge-test-${process.pid}-${opened++}:`;
  const empty = async (): Promise<void> => {
    for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1000 })) {
      if (keys.length > 0) await redis.del(keys);
    }
  };
  return {
    redis,
    prefix,
    /** What FLUSHALL does, for this prefix only. */
    empty,
    async close(): Promise<void> {
      await empty();
      await redis.quit();
    },
  };
}

/** A server of one's own, which a test may empty, stop and start again with what it had saved. */
export async function startRedisServer() {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-redis-"));
  const port = await freePort();
  let server: ChildProcess;
  const start = async (): Promise<void> => {
    server = spawn("redis-server", ["--port", `${port}`, "--dir", folder, "--save", "", "--bind", "127.0.0.1"], {
      stdio: "ignore",
    });
    while (!(await answers(`redis://127.0.0.1:${port}`))) {
      if (server.exitCode !== null) throw new Error(`redis-server ended with ${server.exitCode}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const kill = async (): Promise<void> => {
    const ended = once(server, "exit");
    server.kill("SIGKILL");
    await ended;
  };
  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    start,
    kill,
    /** Takes connections and answers nothing, until `resume`. */
    freeze: () => server.kill("SIGSTOP"),
    resume: () => server.kill("SIGCONT"),
    async remove(): Promise<void> {
      if (server.exitCode === null && server.signalCode === null) await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

function answers(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port || 6379), timeout: 2000 });
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
  });
}
