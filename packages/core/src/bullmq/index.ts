import { DelayedError, type JobsOptions, Queue, Worker } from "bullmq";
import type { Cluster, Redis } from "ioredis";
import { systemClock } from "../clock.ts";
import { ConfigError } from "../errors.ts";
import { redactingLogger, silentLogger } from "../http/logger.ts";
import { createJobEngine, type JobEngine, type JobEngineOptions } from "../jobs/job-engine.ts";

export interface BullmqJobEngineOptions extends JobEngineOptions {
  /** A connection of its own, `new Redis(url, { maxRetriesPerRequest: null })`. Closing it is yours. */
  readonly redis: Redis | Cluster;
  /** Jobs that this process runs at the same time. @defaultValue 10 */
  readonly concurrency?: number;
  /**
   * How often a process puts missing jobs back into the queue, in milliseconds. While Redis does not answer it looks for
   * due jobs in the lease store that often instead. @defaultValue 5000
   */
  readonly refreshMs?: number;
  /** Before each key; one per program. In braces, so that a Redis Cluster keeps the keys together. @defaultValue "{orderbridge}" */
  readonly prefix?: string;
}

/**
 * Spreads jobs over a fleet through BullMQ: a due job goes to one process with a free place, and nobody polls. To spread
 * the shards of a work, make each one a job (`import shop-a`, `import shop-b`).
 *
 * The lease store decides as it does without Redis: a job runs when its interval has passed, and nowhere twice at the
 * same time, whatever the queue says; processes with and without Redis may be mixed. The queue holds one entry per
 * job, with the job's lease name as its id and without data. It is put back to be due again after each run.
 *
 * An emptied Redis delays jobs by at most `refreshMs`. While it does not answer, each process looks for due jobs itself.
 * A job of a killed process is handed out again after at most twice `leaseTtlMs`, and runs when its interval has passed.
 *
 * @throws {ConfigError} for jobs that `createJobEngine` refuses.
 */
export function createBullmqJobEngine(options: BullmqJobEngineOptions): JobEngine {
  const {
    jobs,
    redis,
    concurrency = 10,
    refreshMs = 5000,
    prefix = "{orderbridge}",
    leaseTtlMs = 30_000,
    pollMs = 1000,
    clock = systemClock,
  } = options;
  if (!(concurrency >= 1)) throw new ConfigError("concurrency must be at least 1");
  if (!(refreshMs > 0)) throw new ConfigError("refreshMs must be positive");
  const logger = redactingLogger(options.logger ?? silentLogger);
  const engine = createJobEngine(options);
  const names = new Set(jobs.map(({ name }) => name));
  const entries = jobs.map(({ name }) => ({
    name,
    data: {},
    opts: { jobId: entryId(name), removeOnComplete: true, removeOnFail: true } satisfies JobsOptions,
  }));
  const connection = { connection: redis, prefix } as const;

  async function run(signal: AbortSignal): Promise<void> {
    const underWay = new Map<string, Promise<number>>();
    const queue = new Queue("jobs", { ...connection, streams: { events: { maxLen: 100 } } });
    const worker = new Worker(
      "jobs",
      async (entry, token) => {
        if (!names.has(entry.name)) return; // of another version of the program, which will put it back
        const lookAgainInMs = await turn(entry.name);
        try {
          await entry.moveToDelayed(clock.now().getTime() + lookAgainInMs, token);
        } catch (error) {
          // Redis was emptied, or another process has the entry since ours seemed dead: both are put right by `refresh`.
          logger.debug("job could not be put back into the queue", { job: entry.name, error });
        }
        throw new DelayedError();
      },
      {
        ...connection,
        concurrency,
        lockDuration: leaseTtlMs,
        stalledInterval: leaseTtlMs,
        runRetryDelay: refreshMs, // how long it rests after a lost connection
        maxStalledCount: Number.MAX_SAFE_INTEGER, // the entry of a job lives on, however many processes die with it
      },
    );
    const onError = (error: Error) => logger.debug("BullMQ reports an error", { error });
    queue.on("error", onError);
    worker.on("error", onError);

    function turn(name: string): Promise<number> {
      const current = underWay.get(name);
      if (current || signal.aborted) return Promise.resolve(pollMs);
      const running = engine.runDue(name, signal).finally(() => underWay.delete(name));
      underWay.set(name, running);
      return running;
    }

    let isAwake = false;
    async function fillQueue(): Promise<void> {
      await queue.addBulk(entries);
      if (isAwake) return;
      // Entries of an earlier start may wait for an interval that has become shorter since.
      const waiting = await queue.getDelayed();
      await Promise.allSettled(waiting.map((entry) => entry.promote()));
      isAwake = true;
    }

    let filling: Promise<void> | undefined; // hangs while Redis does not answer, and is not begun anew meanwhile
    async function refresh(): Promise<void> {
      if (isDisconnected(redis)) throw new Error("the connection is lost");
      filling ??= fillQueue().finally(() => {
        filling = undefined;
      });
      if (!(await isDoneIn(refreshMs, filling))) throw new Error(`no answer within ${refreshMs} ms`);
    }

    async function isDoneIn(ms: number, work: Promise<unknown>): Promise<boolean> {
      const ended = new AbortController();
      const timer = clock.sleep(ms, ended.signal).then(
        () => false,
        () => true, // the work ended first
      );
      try {
        return await Promise.race([work.then(() => true), timer]);
      } finally {
        ended.abort();
      }
    }

    let isReachable = true;
    while (!signal.aborted) {
      const askedAt = clock.monotonicMs();
      try {
        await refresh();
        if (!isReachable) logger.info("Redis answers again, jobs are spread over the fleet");
        isReachable = true;
      } catch (error) {
        if (isReachable) logger.warn("Redis does not answer, this process looks for due jobs itself", { error });
        isReachable = false;
        for (const { name } of jobs) void turn(name);
      }
      const waitMs = refreshMs - (clock.monotonicMs() - askedAt);
      await clock.sleep(Math.max(0, waitMs), signal).catch(() => undefined); // stopped
    }

    const closed = worker.close(isDisconnected(redis)); // takes no more entries
    await Promise.allSettled(underWay.values());
    await isDoneIn(refreshMs, closed.then(() => queue.close()).catch(onError));
  }

  return { ...engine, run };
}

const isDisconnected = ({ status }: Redis | Cluster): boolean => ["close", "reconnecting", "end"].includes(status);

/** The name of the job's lease; BullMQ refuses colons in ids. */
function entryId(name: string): string {
  return `job ${name}`.replaceAll("%", "%25").replaceAll(":", "%3A");
}
