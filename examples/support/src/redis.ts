import {
  createJobEngine,
  type Job,
  type JobEngine,
  type JobEngineOptions,
  type Logger,
  type RateLimitStore,
  type Storage,
} from "@orderbridge/core";

/** What the processes of one program share. */
export interface Fleet {
  /** Budgets of the vendors' accounts. */
  readonly rateLimits: RateLimitStore;
  /** Repeats the jobs, each at most once at a time over all processes. */
  createJobEngine(options: Pick<JobEngineOptions, "jobs">): JobEngine;
  /** To be called when the engines have ended. */
  close(): void;
}

export interface FleetOptions {
  /** Of the program: processes of one name share their jobs' queue. */
  readonly name: string;
  /** Left out: budgets are kept in the database, and each process asks it for due jobs. */
  readonly redisUrl: string | undefined;
  readonly storage: Pick<Storage, "leases" | "rateLimits">;
  readonly logger: Logger;
}

/**
 * With `REDIS_URL` slots of the budgets come from Redis and BullMQ spreads the jobs. Leases, pauses and blocks stay in the
 * database, which decides in either case, so that Redis may be emptied at any moment.
 */
export async function connectFleet({ name, redisUrl, storage, logger }: FleetOptions): Promise<Fleet> {
  const { leases, rateLimits } = storage;
  if (redisUrl === undefined) {
    return {
      rateLimits,
      createJobEngine: ({ jobs }) => createJobEngine({ jobs, leases, logger }),
      close: () => undefined,
    };
  }
  // Loaded only here: servers without Redis start sooner.
  const [{ createBullmqJobEngine }, { createRedisRateLimits, openRedis }] = await Promise.all([
    import("@orderbridge/core/bullmq"),
    import("@orderbridge/core/redis"),
  ]);
  const [slots, queue] = await Promise.all([
    openRedis(redisUrl, { purpose: "slots", logger }),
    openRedis(redisUrl, { purpose: "jobs", logger }),
  ]);
  return {
    rateLimits: createRedisRateLimits({ redis: slots, durable: rateLimits }),
    createJobEngine: ({ jobs }) => createBullmqJobEngine({ jobs, leases, redis: queue, prefix: `{${name}}`, logger }),
    close() {
      slots.disconnect();
      queue.disconnect();
    },
  };
}

/** Deletes daily what is older than its retention. `program` is in the name: servers may share a database. */
export const dailyPrune = (program: string, prune: (signal: AbortSignal) => Promise<unknown>): Job => ({
  name: `${program} prune`,
  everyMs: 86_400_000,
  run: async ({ signal }) => void (await prune(signal)),
});
