import { systemClock } from "../clock.ts";
import { ConfigError } from "../errors.ts";
import { redactingLogger, silentLogger } from "../http/logger.ts";
import { redactText } from "../http/redact.ts";
import { silentTelemetry } from "../http/telemetry.ts";
import type { Clock, Lease, LeaseStore, Logger, Telemetry } from "../ports.ts";
import { type HeldLease, withLease } from "./with-lease.ts";

/** What a running job gets. */
export interface JobRun extends HeldLease {
  /** How far it has come, e.g. `1200 of 5000 orders`: shown in the status, redacted, until the next run starts. */
  progress(text: string): void;
}

export interface Job {
  /** Unique in the fleet: also the name of its leases. At most 180 characters. */
  readonly name: string;
  /**
   * From the start of one run to the start of the next one, over the whole fleet, in milliseconds. A run whose process is
   * killed is not made up for, nor one of which the store took the turn and lost its reply: with a long interval let the
   * job be short, or go on where it was.
   */
  readonly everyMs: number;
  /** What it throws is logged and shown in the status; the next run comes in its time. */
  run(run: JobRun): Promise<void>;
}

export interface JobStatus {
  readonly name: string;
  readonly isRunning: boolean;
  /** Runs of this process; a job may also run in another one. */
  readonly lastStartedAt?: Date;
  readonly lastEndedAt?: Date;
  /** What the last run said of itself. */
  readonly progress?: string;
  /** Of the last run; absent when it went well. */
  readonly lastError?: string;
}

export interface JobEngine {
  /** Repeats the jobs until the signal; then resolves once the running ones have ended. */
  run(signal: AbortSignal): Promise<void>;
  /**
   * Runs a job now, whatever its interval, unless it runs somewhere. The scheduled run still comes in its time.
   * @throws what the job throws
   */
  runNow(name: string, signal?: AbortSignal): Promise<"done" | "busy">;
  /**
   * What `run` does at each look: runs a job whose interval has passed and that runs nowhere. For callers with a
   * schedule of their own. What the job throws is logged and shown in the status.
   * @returns after how many milliseconds to look again
   */
  runDue(name: string, signal?: AbortSignal): Promise<number>;
  status(): readonly JobStatus[];
}

export interface JobEngineOptions {
  readonly jobs: readonly Job[];
  readonly leases: LeaseStore;
  /** How long a job of a killed process keeps others out. @defaultValue 30_000 */
  readonly leaseTtlMs?: number;
  /** How often a process asks whether a job is due that another one ran last. @defaultValue 1000 */
  readonly pollMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** Hears of every run. Left out: nothing is measured. */
  readonly telemetry?: Telemetry;
}

/**
 * Repeats jobs, each at most once at a time over every process that shares the lease store.
 *
 * Two leases per job: `job <name>` is held while it runs; `job <name> interval` is taken at each scheduled start for
 * `everyMs` and left to expire, so that the fleet keeps one pace.
 *
 * @throws {ConfigError} for a name that is given twice or an interval that is not positive.
 */
export function createJobEngine(options: JobEngineOptions): JobEngine {
  const { leases, leaseTtlMs = 30_000, pollMs = 1000, clock = systemClock, telemetry = silentTelemetry } = options;
  const logger = redactingLogger(options.logger ?? silentLogger);
  const holder = crypto.randomUUID();
  const jobs = new Map<string, Job>();
  for (const job of options.jobs) {
    if (jobs.has(job.name)) throw new ConfigError(`jobs: the name "${job.name}" is given twice`);
    if (!(job.everyMs > 0)) throw new ConfigError(`jobs: everyMs of "${job.name}" must be positive`);
    jobs.set(job.name, job);
  }
  const statuses = new Map<string, JobStatus>(options.jobs.map(({ name }) => [name, { name, isRunning: false }]));

  async function runLeased(job: Job, signal: AbortSignal | undefined, onStart?: () => void): Promise<"done" | "busy"> {
    const { name } = job;
    const { state } = await withLease(
      { leases, name: `job ${name}`, holder, ttlMs: leaseTtlMs, clock, ...(signal ? { signal } : {}) },
      async (held) => {
        let started: Pick<JobStatus, "name" | "lastStartedAt" | "progress"> = { name, lastStartedAt: clock.now() };
        statuses.set(name, { ...started, isRunning: true });
        const progress = (text: string): void => {
          started = { ...started, progress: redactText(text) };
          statuses.set(name, { ...started, isRunning: true });
        };
        const run: JobRun = { ...held, progress };
        onStart?.();
        try {
          await telemetry.operation({ kind: "job", name, attributes: { job: name } }, () => job.run(run));
          statuses.set(name, { ...started, isRunning: false, lastEndedAt: clock.now() });
        } catch (error) {
          const lastError = redactText(error instanceof Error ? error.message : String(error));
          statuses.set(name, { ...started, isRunning: false, lastEndedAt: clock.now(), lastError });
          throw error;
        }
      },
    );
    return state;
  }

  async function runDue(job: Job, signal: AbortSignal | undefined): Promise<number> {
    let takenAt: number | undefined;
    let interval: Lease | undefined;
    let isStarted = false;
    const onStart = () => {
      isStarted = true;
    };
    try {
      interval = await leases.acquire(`job ${job.name} interval`, { holder, ttlMs: job.everyMs });
      if (interval) {
        takenAt = clock.monotonicMs(); // the interval began before the answer came, so it is over when we look again
        if ((await runLeased(job, signal, onStart)) === "busy")
          logger.warn("job still runs, this turn is left out", { job: job.name });
      }
    } catch (error) {
      if (!signal?.aborted) logger.error("job failed", { job: job.name, error });
      if (interval && !isStarted) {
        // The store failed in between: what did not begin has not used its turn. Its lease may have been taken all the
        // same, and nobody holds it then: the turn comes again when that has ended, for whoever looks first.
        await leases.renew(interval, Math.min(leaseTtlMs, job.everyMs)).catch(() => undefined);
        takenAt = undefined;
      }
    }
    if (takenAt === undefined) return Math.min(pollMs, job.everyMs);
    return Math.max(0, job.everyMs - (clock.monotonicMs() - takenAt));
  }

  async function repeat(job: Job, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const waitMs = await runDue(job, signal);
      await clock.sleep(waitMs, signal).catch(() => undefined); // stopped
    }
  }

  function find(name: string): Job {
    const job = jobs.get(name);
    if (!job) throw new ConfigError(`there is no job "${name}"; there are ${[...jobs.keys()].join(", ")}`);
    return job;
  }

  return {
    async run(signal) {
      await Promise.all(options.jobs.map((job) => repeat(job, signal)));
    },
    runNow: async (name, signal) => runLeased(find(name), signal),
    runDue: async (name, signal) => runDue(find(name), signal),
    status: () => [...statuses.values()],
  };
}
