import type { Job, JobEngine } from "@orderbridge/core";
import type { Deliverer } from "./delivery.ts";
import type { DueWork } from "./due-work.ts";
import type { Engine } from "./engine.ts";
import type { CleanUpRule } from "./gateway.ts";
import type { GivingUpRule } from "./storage.ts";

const dayMs = 86_400_000;
/** Rows of each kind in one go of the clean-up. */
const cleanUpBatch = 200;

export interface WorkLoop {
  /** There is something to send: do not wait for the next look. */
  wake(): void;
  work(): Promise<void>;
  run(signal: AbortSignal): Promise<void>;
}

/** Repeats what a gateway does by itself: sending webhooks, and the chores. */
export function createWorkLoop({
  engine,
  deliverer,
  dueWork,
  pollIntervalMs,
  givingUp,
  cleanUp,
  jobs: shareJobs,
}: {
  readonly engine: Engine;
  readonly deliverer: Deliverer;
  /** Each keeps its own pace, so that a slow provider holds up no other. */
  readonly dueWork: readonly DueWork[];
  readonly pollIntervalMs: number;
  readonly givingUp: GivingUpRule;
  readonly cleanUp: CleanUpRule | undefined;
  readonly jobs: ((jobs: readonly Job[]) => Pick<JobEngine, "run">) | undefined;
}): WorkLoop {
  const { storage, clock, logger } = engine;
  let wake: () => void = () => undefined;

  async function runCleanUp(signal?: AbortSignal): Promise<void> {
    for (let isMore = true; isMore && !signal?.aborted; ) {
      const webhooks = await storage.giveUpWaiting({ ...givingUp, limit: cleanUpBatch });
      if (webhooks > 0) logger.error("webhooks were given up: their receivers failed for days", { webhooks });
      isMore = webhooks > 0;
    }
    if (!cleanUp) return;
    for (let isMore = true; isMore && !signal?.aborted; ) {
      const { payments, keys } = await storage.cleanUp({ ...cleanUp, limit: cleanUpBatch });
      if (payments > 0 || keys > 0) logger.info("clean-up", { payments, keys });
      isMore = payments === cleanUpBatch || keys === cleanUpBatch;
    }
  }

  /** Each keeps its own pace, and may run in several processes: claims in the storage keep them apart. */
  const jobs: readonly Job[] = [
    ...dueWork.map(({ name, start }): Job => ({ name, everyMs: pollIntervalMs, run: ({ signal }) => start(signal) })),
    { name: "gateway clean-up", everyMs: dayMs, run: ({ signal }) => runCleanUp(signal) },
  ];

  async function attempt(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      logger.error(`${what} failed and will be repeated`, { error });
    }
  }

  async function deliverUntil(signal: AbortSignal): Promise<void> {
    const inFlight = new Set<Promise<unknown>>();
    // When a try of this process is to be repeated, in monotonic time: the loop need not wait for its next look.
    let repeatAtMs = Number.POSITIVE_INFINITY;
    const deliverDue = async (): Promise<void> => {
      while (!signal.aborted) {
        const started = await deliverer.start();
        if (started.length === 0) return;
        for (const delivery of started) {
          const done = delivery.then((delayMs) => {
            inFlight.delete(done);
            if (delayMs !== undefined) repeatAtMs = Math.min(repeatAtMs, clock.monotonicMs() + delayMs);
            wake(); // the next event of the payment may be waiting behind this one
          });
          inFlight.add(done);
        }
      }
    };
    while (!signal.aborted) {
      const { promise: woken, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      if (clock.monotonicMs() >= repeatAtMs) repeatAtMs = Number.POSITIVE_INFINITY;
      await attempt("delivering webhooks", deliverDue);
      await nap(Math.max(1, Math.min(pollIntervalMs, repeatAtMs - clock.monotonicMs())), signal, woken);
    }
    await Promise.all(inFlight);
  }

  /** Resolves after so long, when woken, or when stopped. */
  async function nap(ms: number, signal: AbortSignal, woken?: Promise<void>): Promise<void> {
    const ended = new AbortController();
    const stop = () => ended.abort();
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    const sleep = clock.sleep(ms, ended.signal).catch(() => undefined);
    await (woken ? Promise.race([woken, sleep]) : sleep);
    signal.removeEventListener("abort", stop);
    ended.abort();
  }

  /** Starts a job each time that it is due, also while its former run waits for a slow provider. */
  async function repeat({ name, everyMs, run }: Job, signal: AbortSignal): Promise<void> {
    const underWay = new Set<Promise<void>>();
    while (!signal.aborted) {
      // No lease is held here, so there is none to lose: claims in the storage keep processes apart.
      const job = { signal, fencingToken: 0, assertHeld: () => signal.throwIfAborted(), progress: () => undefined };
      const current = attempt(name, () => run(job));
      const done: Promise<void> = current.then(() => void underWay.delete(done));
      underWay.add(done);
      await nap(everyMs, signal);
    }
    await Promise.all(underWay);
  }

  let nextCleanUpMs = Number.NEGATIVE_INFINITY;

  return {
    wake: () => wake(),
    async work() {
      await Promise.all(
        dueWork.map(async ({ name, start, ended }) => {
          await attempt(name, start);
          await ended();
        }),
      );
      if (clock.monotonicMs() >= nextCleanUpMs) {
        nextCleanUpMs = clock.monotonicMs() + dayMs;
        await attempt("clean-up", () => runCleanUp());
      }
      for (;;) {
        const started = await deliverer.start();
        if (started.length === 0) return;
        await Promise.all(started);
      }
    },
    async run(signal) {
      const stopHints = storage.hints?.listen(() => wake());
      const chores = shareJobs ? [shareJobs(jobs).run(signal)] : jobs.map((job) => repeat(job, signal));
      await Promise.all([deliverUntil(signal), ...chores]);
      await Promise.all(dueWork.map(({ ended }) => ended()));
      await stopHints?.();
    },
  };
}
