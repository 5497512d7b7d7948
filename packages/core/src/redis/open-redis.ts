import type { Redis } from "ioredis";
import { systemClock } from "../clock.ts";
import { ConfigError } from "../errors.ts";
import type { Logger } from "../ports.ts";

export interface OpenRedisOptions {
  /**
   * `slots` for `createRedisRateLimits`: nothing that is asked during an outage is kept for later. `jobs` for
   * `createBullmqJobEngine`, which wants its own connection: requests wait until Redis answers again.
   */
  readonly purpose: "slots" | "jobs";
  /** Told once per outage and once when it is over. */
  readonly logger?: Pick<Logger, "info" | "warn">;
}

/**
 * Connects to the Redis of an address, `redis://…` or `rediss://…` (needs the package `ioredis`). Resolves once Redis
 * answered, the first attempt failed, or two seconds passed: an absent server is no reason not to start, and the
 * connection is tried again for as long as it is not ended.
 *
 * `disconnect()` on the result ends it.
 *
 * @throws {ConfigError} for another address, or when `ioredis` is not installed.
 */
export async function openRedis(url: string, { purpose, logger }: OpenRedisOptions): Promise<Redis> {
  if (!/^rediss?:\/\/[^/]/.test(url)) throw new ConfigError("the Redis address must start with redis:// or rediss://");
  const { Redis } = await loadClient();
  const redis = new Redis(url, {
    lazyConnect: true,
    ...(purpose === "jobs" ? { maxRetriesPerRequest: null } : { enableOfflineQueue: false, maxRetriesPerRequest: 1 }),
  });
  let isReachable = true;
  const tell = (error?: unknown) => {
    if (isReachable) logger?.warn("Redis does not answer", { purpose, ...(error instanceof Error && { error }) });
    isReachable = false;
  };
  redis.on("error", tell);
  redis.on("reconnecting", () => tell()); // a server that ends its connections causes no error
  redis.on("ready", () => {
    if (!isReachable) logger?.info("Redis answers again", { purpose });
    isReachable = true;
  });
  const connected = new AbortController();
  const waiting = systemClock.sleep(2000, connected.signal).catch(() => undefined);
  await Promise.race([redis.connect().catch(() => undefined), waiting]); // failures are told by the listener
  connected.abort();
  return redis;
}

async function loadClient() {
  try {
    return await import("ioredis");
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new ConfigError("REDIS_URL needs the package ioredis: npm install ioredis");
  }
}
