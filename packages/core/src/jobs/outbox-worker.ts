import { systemClock } from "../clock.ts";
import { ConfigError } from "../errors.ts";
import { redactingLogger, silentLogger } from "../http/logger.ts";
import { redactText } from "../http/redact.ts";
import { silentTelemetry } from "../http/telemetry.ts";
import type { ClaimedMessage, Clock, Logger, OutboxStore, Telemetry } from "../ports.ts";

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;

export type Delivery =
  | { readonly state: "done" }
  /** Later again. `delayMs` replaces the schedule's pause; the schedule still says after how many attempts to stop. */
  | { readonly state: "retry"; readonly error: string; readonly delayMs?: number }
  /** Never again. */
  | { readonly state: "bury"; readonly error: string };

export interface OutboxWorkerOptions {
  readonly outbox: OutboxStore;
  readonly topic: string;
  /**
   * Delivers one message: at least once, so the receiver must know the `id`. What it throws counts as `retry`.
   * The signal is aborted at two thirds of `claimTtlMs`, before anybody else may deliver the same message.
   */
  readonly deliver: (message: ClaimedMessage, signal: AbortSignal) => Promise<Delivery>;
  /**
   * Pauses after the first, second, … failed attempt; after the last one the message is buried.
   * @defaultValue 5 s, 1 min, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h
   */
  readonly retryDelaysMs?: readonly number[];
  /** Part of a pause that is added or left out at random, so that failures spread. @defaultValue 0.2 */
  readonly jitter?: number;
  /** Messages in delivery at the same time. @defaultValue 10 */
  readonly concurrency?: number;
  /**
   * Of these, to one `destination`, over all workers: a receiver that answers slowly must not take every place. Set it
   * lower than `concurrency`. @defaultValue no limit
   */
  readonly maxPerDestination?: number;
  /** Must exceed the longest delivery; a crash delays its messages by this. @defaultValue 60_000 */
  readonly claimTtlMs?: number;
  /** How often other processes' messages are looked for. @defaultValue 1000 */
  readonly pollMs?: number;
  /** From 0 to 1, for the jitter. @defaultValue Math.random */
  readonly random?: () => number;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** Hears of every delivery. Left out: nothing is measured. */
  readonly telemetry?: Telemetry;
}

export interface OutboxWorker {
  /** Delivers until the signal; then resolves once the deliveries under way have ended. */
  run(signal: AbortSignal): Promise<void>;
  /** Says that something was enqueued, so that it leaves at once. */
  poke(): void;
  /** Delivers one batch of what is due. Resolves to its size. */
  deliverDue(): Promise<number>;
}

/** Takes messages of one topic out of the outbox and hands them to `deliver`. Any number of workers may run. */
export function createOutboxWorker(options: OutboxWorkerOptions): OutboxWorker {
  const {
    outbox,
    topic,
    deliver,
    retryDelaysMs = [
      5 * second,
      minute,
      5 * minute,
      30 * minute,
      2 * hour,
      5 * hour,
      10 * hour,
      14 * hour,
      20 * hour,
      24 * hour,
    ],
    jitter = 0.2,
    concurrency = 10,
    maxPerDestination,
    claimTtlMs = 60_000,
    pollMs = 1000,
    random = Math.random,
    clock = systemClock,
    telemetry = silentTelemetry,
  } = options;
  if (!(concurrency >= 1)) throw new ConfigError("concurrency must be at least 1");
  if (maxPerDestination !== undefined && !(maxPerDestination >= 1)) {
    throw new ConfigError("maxPerDestination must be at least 1");
  }
  if (!(claimTtlMs > 0)) throw new ConfigError("claimTtlMs must be positive");
  if (!(pollMs > 0)) throw new ConfigError("pollMs must be positive");
  if (!(jitter >= 0 && jitter <= 1)) throw new ConfigError("jitter must be between 0 and 1");
  const logger = redactingLogger(options.logger ?? silentLogger);
  const underWay = new Set<Promise<void>>();
  let wake = new AbortController();
  const ended: { message: ClaimedMessage; resolve(kept: boolean): void; reject(error: unknown): void }[] = [];
  let isTelling = false;

  async function tryDeliver(message: ClaimedMessage, claimedAt: number): Promise<Delivery> {
    const expiry = new AbortController();
    const ended = new AbortController();
    const leftMs = claimedAt + (claimTtlMs * 2) / 3 - clock.monotonicMs();
    clock.sleep(leftMs, ended.signal).then(
      () => expiry.abort(new Error("the delivery took longer than two thirds of its claim")),
      () => undefined, // it ended first
    );
    try {
      return buryIfLast(message, await deliver(message, expiry.signal));
    } catch (error) {
      return buryIfLast(message, { state: "retry", error: error instanceof Error ? error.message : String(error) });
    } finally {
      ended.abort();
    }
  }

  function buryIfLast({ attempt }: ClaimedMessage, delivery: Delivery): Delivery {
    const isLast = delivery.state === "retry" && attempt > retryDelaysMs.length;
    return isLast ? { state: "bury", error: delivery.error } : delivery;
  }

  async function handle(message: ClaimedMessage, claimedAt: number): Promise<void> {
    const delivery = await telemetry.operation(
      { kind: "delivery", name: topic, attributes: { topic } },
      async (note) => {
        const tried = await tryDeliver(message, claimedAt);
        note({ outcome: tried.state });
        return tried;
      },
    );
    const about = { topic, id: message.id, attempt: message.attempt };
    const kept = await keepVerdict(message, delivery, about);
    if (!kept) logger.warn("delivery ended after its claim was lost; the message may be delivered twice", about);
  }

  function keepVerdict(message: ClaimedMessage, delivery: Delivery, about: object): Promise<boolean> {
    if (delivery.state === "done") return complete(message);
    const error = redactText(delivery.error);
    if (delivery.state === "bury") {
      logger.error("delivery given up", { ...about, error });
      return outbox.bury(message, error);
    }
    const pauseMs = retryDelaysMs[message.attempt - 1] as number; // there is one, else it would have been the last
    const delayMs = Math.round(delivery.delayMs ?? pauseMs * (1 + jitter * (2 * random() - 1)));
    logger.warn("delivery failed", { ...about, error, delayMs });
    return outbox.retry(message, { delayMs, error });
  }

  /** Deliveries that end while others are being told of are told together, in one go. */
  function complete(message: ClaimedMessage): Promise<boolean> {
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    ended.push({ message, resolve, reject });
    if (ended.length === 1 && !isTelling) void tellEnds();
    return promise;
  }

  async function tellEnds(): Promise<void> {
    isTelling = true;
    while (ended.length > 0) {
      await Promise.resolve(); // those of the same turn come along
      const batch = ended.splice(0);
      try {
        const kept = await outbox.completeAll(batch.map(({ message }) => message));
        for (const [index, { resolve }] of batch.entries()) resolve(kept[index] === true);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    isTelling = false;
  }

  async function startBatch(): Promise<number> {
    const limit = concurrency - underWay.size;
    if (limit <= 0) return 0;
    const claimedAt = clock.monotonicMs();
    const perDestination = maxPerDestination === undefined ? {} : { maxPerDestination };
    const messages = await outbox.claim({ topic, limit, ttlMs: claimTtlMs, ...perDestination });
    for (const message of messages) {
      const delivery = handle(message, claimedAt)
        .catch((error: unknown) => logger.error("delivery's end could not be stored", { topic, id: message.id, error }))
        .finally(() => {
          underWay.delete(delivery);
          wake.abort(); // a place is free, and perhaps the next message of the key
        });
      underWay.add(delivery);
    }
    return messages.length;
  }

  /** Milliseconds until it is worth to look again. */
  async function idleMs(): Promise<number> {
    if (underWay.size >= concurrency) return pollMs;
    const next = await outbox.nextDueAt(topic);
    if (!next) return pollMs;
    const leftMs = next.getTime() - clock.now().getTime();
    if (leftMs > 0) return Math.min(pollMs, leftMs);
    // Due and yet not claimed: its destination has enough, another worker was faster, or the database's clock is behind.
    return maxPerDestination === undefined ? Math.min(pollMs, 20) : pollMs;
  }

  return {
    async run(signal) {
      while (!signal.aborted) {
        let waitMs = pollMs;
        wake = new AbortController(); // before looking, so that a poke during the look counts
        try {
          if ((await startBatch()) > 0) continue;
          waitMs = await idleMs();
        } catch (error) {
          logger.error("outbox does not answer", { topic, error });
        }
        await clock.sleep(waitMs, AbortSignal.any([signal, wake.signal])).catch(() => undefined); // woken or stopped
      }
      await Promise.all(underWay);
    },
    poke() {
      wake.abort();
    },
    async deliverDue() {
      const started = await startBatch();
      await Promise.all(underWay);
      return started;
    },
  };
}
