import type { Redis } from "ioredis";
import { systemClock } from "../clock.ts";
import { ConfigError } from "../errors.ts";
import type { Clock, RateLimitStore } from "../ports.ts";
import { checkKey } from "../stored-text.ts";
import { forgetScript, generationScript, penalizeScript, reserveScript } from "./scripts.ts";

export { type OpenRedisOptions, openRedis } from "./open-redis.ts";

export interface RedisRateLimitsOptions {
  /**
   * A connection to the primary, of {@link openRedis} or `new Redis(url, { enableOfflineQueue: false,
   * maxRetriesPerRequest: 1 })`: nothing asked during an outage may be reserved after it. Closing it is yours.
   */
  readonly redis: Pick<Redis, "eval">;
  /** The rate limits of the SQL storage: the vendor's blocks and pauses must survive an emptied Redis. */
  readonly durable: Omit<RateLimitStore, "reserve">;
  /** Before the account in each key. @defaultValue "orderbridge:rate:" */
  readonly prefix?: string;
  /** How long Redis may take to answer, in milliseconds. @defaultValue 2000 */
  readonly timeoutMs?: number;
  /** Replaces the server's own time: for tests. */
  readonly clock?: Clock;
}

/**
 * Rate budgets in Redis: one script per slot instead of one transaction, on the time of the Redis server.
 *
 * Redis may be emptied, restarted from an old snapshot or replaced by a replica at any moment: then the account starts
 * with a full bucket, and slots that were handed out before and not yet used are void (`generation`). Blocks and pauses
 * are read from `durable` before each slot. When Redis or `durable` does not answer, no slot is given.
 *
 * An account costs one key, which disappears a day after its last slot.
 *
 * @throws {ConfigError} for a `timeoutMs` that is not positive.
 */
export function createRedisRateLimits(options: RedisRateLimitsOptions): RateLimitStore {
  const { redis, durable, prefix = "orderbridge:rate:", timeoutMs = 2000, clock } = options;
  if (!(timeoutMs > 0)) throw new ConfigError("timeoutMs must be positive");

  /** Runs a script on the account's key. The script comes along each time: a restarted server knows none. */
  async function run(script: string, account: string, values: readonly (string | number)[] = []): Promise<unknown> {
    const now = clock ? clock.now().getTime() : "";
    const answered = new AbortController();
    const expired = systemClock.sleep(timeoutMs, answered.signal).then(() => {
      throw new Error(`Redis did not answer within ${timeoutMs} ms`);
    });
    try {
      return await Promise.race([redis.eval(script, 1, `${prefix}${account}`, now, ...values), expired]);
    } finally {
      expired.catch(() => undefined); // aborted, since Redis answered
      answered.abort();
    }
  }

  return {
    async reserve(account, { intervalMs, capacity = 1 }) {
      checkKey("rate limit account", account);
      const { pauseMs, block } = await durable.status(account);
      if (block) return { state: "blocked", block };
      const interval = Math.ceil(intervalMs); // whole milliseconds, rounded to the slower side
      const values = [interval, interval * capacity, pauseMs, crypto.randomUUID()];
      const [waitMs, generation] = (await run(reserveScript, account, values)) as [number, string];
      return { state: "reserved", waitMs, generation };
    },
    async penalize(account, pauseMs) {
      await durable.penalize(account, pauseMs);
      await run(penalizeScript, account, [Math.ceil(pauseMs)]);
    },
    async status(account, slot) {
      const status = await durable.status(account);
      if (status.block || slot?.generation === undefined) return status;
      const generation = await run(generationScript, account);
      return generation === slot.generation ? status : { ...status, isVoid: true };
    },
    block: (account, code) => durable.block(account, code),
    async unblock(account) {
      const wasStopped = await durable.unblock(account);
      // Also when it was not: the command line, or a call that Redis did not answer, lifted it in SQL before.
      await run(forgetScript, account);
      return wasStopped;
    },
  };
}
