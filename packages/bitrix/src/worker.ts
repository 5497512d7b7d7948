import {
  ApiError,
  BlockedError,
  type Clock,
  ConfigError,
  type Logger,
  NeedsReauthError,
  RateLimitStoreError,
  RequestError,
  redactingLogger,
  redactText,
  systemClock,
} from "@orderbridge/core";
import type { BitrixStorage, ClaimedWork } from "./storage.ts";

export interface WorkerOptions {
  readonly storage: Pick<BitrixStorage, "work">;
  /**
   * What to do with an entity, by topic. It must read the entity anew and be safe to repeat. `signal` is aborted after two
   * thirds of `claimMs`: another worker may soon have the entity, so nothing may be written any more.
   */
  readonly handlers: Readonly<Record<string, (key: string, signal: AbortSignal) => Promise<void>>>;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
  /** Pause when nothing is due, in milliseconds. @defaultValue 200 */
  readonly pollMs?: number;
  /** Entities at work at the same time. @defaultValue 8 */
  readonly concurrency?: number;
  /** After this long another worker may take an entity over, in milliseconds. @defaultValue 300_000 */
  readonly claimMs?: number;
  /** First pause after a failure, and in an outage; doubles up to ten minutes. @defaultValue 1_000 */
  readonly retryMs?: number;
  /**
   * An entity that failed this often is set aside until something marks it again; a system that does not answer, is blocked
   * or wants to be called later is no failure of the entity. @defaultValue 12
   */
  readonly maxAttempts?: number;
}

export interface Worker {
  /** Works until the signal is aborted; what has begun is ended first. Several processes may run one each. */
  run(signal: AbortSignal): Promise<void>;
  /** Does what is due now and resolves to the number of entities; for tests and for a cron call. */
  drain(): Promise<number>;
}

const maxRetryMs = 600_000;

/** Many refusals of Bitrix24 have an empty code: only its words tell one from another. */
function inWords(error: unknown): string {
  if (error instanceof ApiError && error.description) return `${error.message}: ${error.description}`;
  return error instanceof Error ? error.message : String(error);
}

/** What ends when a system is back, or when a person acts, however long that takes: it is not the entity's fault. */
function isOutage(error: unknown): boolean {
  if (error instanceof ApiError) {
    // The web server in front of it answered in its place.
    const isFront = [502, 503, 504].includes(error.status) || (error.status >= 500 && error.vendorCode === "NOT_JSON");
    // Rights of one entity are its own matter, those of the whole connection are not.
    const isShutOut = error.status === 401 || (error.status === 403 && error.vendorCode !== "ACCESS_DENIED");
    return error.outcome === "not-executed" || isFront || isShutOut;
  }
  return [RequestError, BlockedError, NeedsReauthError, RateLimitStoreError].some((outage) => error instanceof outage);
}

/**
 * Looks after entities that are due: one worker at a time for each, again after a failure, never lost by a crash.
 *
 * @throws {ConfigError} for options that cannot work.
 */
export function createWorker(options: WorkerOptions): Worker {
  const {
    storage: { work },
    handlers,
    clock = systemClock,
    pollMs = 200,
    concurrency = 8,
    claimMs = 300_000,
    retryMs = 1_000,
    maxAttempts = 12,
  } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1) throw new ConfigError("concurrency must be 1 or more");
  if (!Number.isInteger(maxAttempts) || maxAttempts < 1) throw new ConfigError("maxAttempts must be 1 or more");
  for (const [name, value] of Object.entries({ pollMs, claimMs })) {
    if (!(value > 0)) throw new ConfigError(`${name} must be positive`);
  }
  if (!(retryMs >= 0)) throw new ConfigError("retryMs must not be negative");
  const logger = redactingLogger(options.logger ?? console);
  const topics = Object.keys(handlers);

  /** Runs the handler while the claim is surely ours, by this machine's own time. */
  async function look({ topic, key }: ClaimedWork): Promise<void> {
    const ending = new AbortController();
    const over = new AbortController();
    clock.sleep((claimMs * 2) / 3, over.signal).then(
      () => {
        const message = `bitrix: ${topic} took too long; another worker may have it soon`;
        ending.abort(new RequestError(message, { vendor: "bitrix", code: "aborted", outcome: "not-executed" }));
      },
      () => undefined, // the handler ended first
    );
    try {
      await handlers[topic]?.(key, ending.signal);
    } finally {
      over.abort();
    }
  }

  async function handle(claimed: ClaimedWork): Promise<void> {
    const { topic, key, attempt } = claimed;
    try {
      await look(claimed);
      await work.finish(claimed);
    } catch (error) {
      const text = redactText(inWords(error)).slice(0, 1_000);
      const message = text.replaceAll("\0", "").toWellFormed(); // what every database stores
      const isOut = isOutage(error);
      const failures = claimed.failures + (isOut ? 0 : 1);
      if (failures >= maxAttempts && !isOut) {
        logger.error(`bitrix: ${topic} set aside after ${failures} failures`, { key, error: message });
        await work.park(claimed, message);
        return;
      }
      const inARow = isOut ? attempt - failures : failures;
      const delayMs = Math.min(retryMs * 2 ** Math.min(inARow - 1, 20), maxRetryMs);
      logger.warn(`bitrix: ${topic} failed, again in ${delayMs} ms`, { key, attempt, error: message });
      await work.retry(claimed, { delayMs, error: message, isOutage: isOut });
    }
  }

  async function drain(): Promise<number> {
    let count = 0;
    for (;;) {
      const claimed = await work.claim({ topics, limit: concurrency, ttlMs: claimMs });
      if (claimed.length === 0) return count;
      count += claimed.length;
      await Promise.all(claimed.map(handle));
    }
  }

  return {
    drain,
    async run(signal) {
      const active = new Set<Promise<void>>();
      while (!signal.aborted) {
        let claimed: readonly ClaimedWork[] = [];
        try {
          const limit = concurrency - active.size;
          if (limit > 0) claimed = await work.claim({ topics, limit, ttlMs: claimMs });
        } catch (error) {
          logger.error("bitrix: the worker could not read its work", {
            error: error instanceof Error ? error.message : String(error),
          });
        }
        for (const item of claimed) {
          const task: Promise<void> = handle(item)
            .catch((error) => logger.error("bitrix: the worker could not store its result", { error }))
            .finally(() => active.delete(task));
          active.add(task);
        }
        if (claimed.length > 0) continue;
        await clock.sleep(pollMs, signal).catch(() => undefined);
      }
      await Promise.all(active);
    },
  };
}
