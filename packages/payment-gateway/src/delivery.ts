import { type Clock, type Logger, readRetryAfter } from "@orderbridge/core";
import { createWebhookSigner, signHmac } from "@orderbridge/core/signature";
import { memoize } from "./memoize.ts";
import type { SendResult as PostResult, Sender } from "./sender.ts";
import {
  type BreakerRule,
  type ClaimedDelivery,
  type DeliveryAttempt,
  type DeliveryVerdict,
  type FinishedDelivery,
  type GatewayStorage,
  originOf,
} from "./storage.ts";

/** `no_secret`: the secret is not there, cannot be decrypted or cannot sign, so nothing was sent. */
type SendResult = PostResult | { readonly kind: "no_secret" };

/** 5 s, 1 min, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: eleven tries in a little more than three days. */
export const defaultRetryDelaysMs: readonly number[] = [
  5_000, 60_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000,
];

/** Ten failures in a row; 30 s, then twice as long each time, up to five minutes. */
export const defaultBreaker: BreakerRule = { failures: 10, pauseMs: 30_000, maxPauseMs: 300_000 };

export interface DeliveryOptions {
  readonly storage: Pick<GatewayStorage, "claimDeliveries" | "finishDeliveries" | "releaseDeliveries">;
  readonly sender: Pick<Sender, "post">;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly retryDelaysMs: readonly number[];
  /** Tries at the same time. */
  readonly concurrency: number;
  /** Of these, at one receiver. */
  readonly concurrencyPerReceiver: number;
  readonly breaker: BreakerRule;
  /** Longer than the sender's deadline. */
  readonly claimMs: number;
  readonly seedHeaders: boolean;
  /** Uniform in [0, 1): for the jitter. */
  readonly random: () => number;
}

export interface Deliverer {
  /**
   * Claims what is due, as much as there is room for, and starts it. Each promise resolves when its try is stored, with
   * the pause in milliseconds before the next one, if there is one; none rejects.
   */
  start(): Promise<readonly Promise<number | undefined>[]>;
}

/** Tries stored in one transaction. */
const storedAtOnce = 500;
/** Between two attempts to store how tries went, while the storage does not answer. */
const storePauseMs = 250;
/** Between two looks at the late lane when nothing was due there: what waits in it waits for minutes and hours. */
const lateLookMs = 1_000;
/** Claims last longer by so much at most while claiming is slow. */
const maxSlackMs = 300_000;

/** Sends stored events: signs the stored bytes anew for each try, and stores how it went. */
export function createDeliverer(options: DeliveryOptions): Deliverer {
  const { storage, sender, clock, logger, retryDelaysMs, concurrency, concurrencyPerReceiver, breaker } = options;
  const { claimMs, seedHeaders, random } = options;
  /** Tries of the late lane get a quarter of the places, so that a crowd of them leaves room for new events. */
  const lateConcurrency = Math.max(1, Math.floor(concurrency / 4));
  /** Tries under way by origin, so that a receiver that does not answer cannot hold up the others. */
  const running = new Map<string, number>();
  const lanes = { prompt: 0, late: 0 };
  /** Tries under way, and those whose outcome is not stored yet: of these no more than there are places. */
  let open = 0;
  let turns = 0;
  let nextLateLookMs = Number.NEGATIVE_INFINITY;
  /** What the last claim took, when that was so long that tries may have had no time left. */
  let slackMs = 0;
  const count = (origin: string, change: 1 | -1): void => {
    const next = (running.get(origin) ?? 0) + change;
    if (next === 0) running.delete(origin);
    else running.set(origin, next);
  };

  interface Waiting {
    readonly finished: FinishedDelivery;
    /** In monotonic time: then the claim is over, and another worker repeats the try. */
    readonly untilMs: number;
    readonly settle: (stored: Promise<boolean>) => void;
  }
  let waiting: Waiting[] = [];
  let isStoring = false;

  /** Tries that end while others are being stored are stored together afterwards. */
  async function storeAll(): Promise<void> {
    if (isStoring) return;
    isStoring = true;
    while (waiting.length > 0) {
      const part = waiting.slice(0, storedAtOnce);
      waiting = waiting.slice(storedAtOnce);
      try {
        const stored = await storage.finishDeliveries(
          part.map(({ finished }) => finished),
          breaker,
        );
        for (const [index, { settle }] of part.entries()) settle(Promise.resolve(stored[index] === true));
      } catch (error) {
        const now = clock.monotonicMs();
        for (const { untilMs, settle } of part) if (untilMs <= now) settle(Promise.reject(error));
        const again = part.filter(({ untilMs }) => untilMs > now);
        // The outcome is known: nobody need repeat the try as long as its claim holds.
        waiting = [...again, ...waiting];
        if (again.length > 0) await clock.sleep(storePauseMs);
      }
    }
    isStoring = false;
  }

  const store = (finished: FinishedDelivery, untilMs: number): Promise<boolean> =>
    new Promise((resolve) => {
      waiting.push({ finished, untilMs, settle: resolve });
      void storeAll();
    });

  /** Nothing goes out unsigned: without a secret that signs the try fails, and the next one may find it. */
  function sign(delivery: ClaimedDelivery, at: Date): Readonly<Record<string, string>> | undefined {
    if (delivery.secrets.length === 0) return undefined;
    try {
      return signedHeaders(delivery, at, seedHeaders);
    } catch (error) {
      logger.error("webhook cannot be signed", { event: delivery.eventId, error });
      return undefined;
    }
  }

  /** @param untilMs When its claim is over, in monotonic time. */
  async function deliver(
    delivery: ClaimedDelivery,
    untilMs: number,
    onAnswer: () => void,
  ): Promise<number | undefined> {
    const startedAt = clock.now();
    const startedMs = clock.monotonicMs();
    const headers = sign(delivery, startedAt);
    const posting = headers
      ? sender.post(delivery.url, headers, delivery.body)
      : Promise.resolve<SendResult>({ kind: "no_secret" });
    const result: SendResult = await posting.finally(onAnswer);
    const attempt: DeliveryAttempt = {
      attempt: delivery.attempt,
      startedAt,
      durationMs: Math.round(clock.monotonicMs() - startedMs),
      ...describe(result),
    };
    const verdict = judge({
      result,
      attempt: delivery.scheduleAttempt,
      retryDelaysMs,
      now: clock.now(),
      random,
    });
    const stored = await store({ delivery, attempt, verdict }, untilMs);
    const fields = { event: delivery.eventId, attempt: delivery.attempt, outcome: attempt.outcome };
    if (!stored) logger.warn("webhook was sent, but another worker has taken it over", fields);
    else if (verdict.state === "exhausted" && verdict.gone && delivery.endpointId !== "") {
      logger.error("an endpoint answered 410 and was switched off", { ...fields, endpoint: delivery.endpointId });
    } else if (verdict.state === "exhausted") logger.error("webhook was given up: see the payment's log", fields);
    else if (verdict.state === "pending") logger.info("webhook failed and will be repeated", fields);
    return stored && verdict.state === "pending" ? verdict.delayMs : undefined;
  }

  /** What was not begun is no failed try of its schedule. */
  async function release(claimed: readonly ClaimedDelivery[]): Promise<void> {
    try {
      await storage.releaseDeliveries(claimed);
    } catch (error) {
      logger.warn("claims could not be given back; they end by themselves", { error });
    }
  }

  async function startLane(lane: "prompt" | "late", limit: number): Promise<readonly Promise<number | undefined>[]> {
    if (limit <= 0) return [];
    const receivers = { limit: concurrencyPerReceiver, running };
    const ttlMs = claimMs + slackMs;
    const askedMs = clock.monotonicMs(); // the claim began no earlier
    const claimed = await storage.claimDeliveries({ limit, ttlMs, lane, receivers });
    if (claimed.length === 0) return [];
    const tookMs = clock.monotonicMs() - askedMs;
    slackMs = tookMs > (claimMs * 2) / 3 ? Math.min(tookMs, maxSlackMs) : 0;
    if (tookMs > ttlMs - claimMs / 3) {
      // This process stood still, or the storage did: another process may be at it, or has been.
      logger.warn("webhooks were not sent: their claims are nearly over", { count: claimed.length });
      await release(claimed);
      return [];
    }
    lanes[lane] += claimed.length;
    open += claimed.length;
    for (const { url } of claimed) count(originOf(url), 1);
    return claimed.map((delivery) => {
      const leave = () => {
        lanes[lane]--;
        count(originOf(delivery.url), -1);
      };
      // A try whose outcome cannot be stored is repeated once its claim ends: same id, same bytes.
      return deliver(delivery, askedMs + ttlMs, leave)
        .catch((error: unknown) => {
          logger.error("outcome of a webhook could not be stored", {
            event: delivery.eventId,
            error: error instanceof Error ? error.message : String(error),
          });
          return undefined;
        })
        .finally(() => {
          open--;
        });
    });
  }

  return {
    async start() {
      const free = () => Math.min(concurrency - lanes.prompt - lanes.late, concurrency * 2 - open);
      const wanted = free();
      const prompt = await startLane("prompt", wanted);
      // While there is more to send than places, the late lane has its turn now and then.
      if (prompt.length === wanted && ++turns % 8 !== 0) return prompt;
      if (clock.monotonicMs() < nextLateLookMs) return prompt;
      try {
        const places = Math.min(free(), lateConcurrency - lanes.late);
        const late = await startLane("late", places);
        if (places > 0 && late.length === 0) nextLateLookMs = clock.monotonicMs() + lateLookMs;
        return [...prompt, ...late];
      } catch (error) {
        if (prompt.length === 0) throw error;
        // These are under way, so the caller needs them; the next look meets the error again.
        logger.warn("webhooks of the late lane could not be claimed", { error });
        return prompt;
      }
    },
  };
}

/** Secrets change seldom: what is prepared for signing with them is kept. */
const signerOf = memoize(100, (secrets) => createWebhookSigner({ secrets: JSON.parse(secrets) }));

/** Headers of one try: Standard Webhooks, and those that the first generation of receivers checks. */
function signedHeaders(
  { eventId, eventName, body, secrets }: Pick<ClaimedDelivery, "eventId" | "eventName" | "body" | "secrets">,
  at: Date,
  seedHeaders: boolean,
): Readonly<Record<string, string>> {
  const standard = signerOf(JSON.stringify(secrets))({ id: eventId, timestamp: at, body });
  if (!seedHeaders) return { ...standard };
  return {
    ...standard,
    "x-webhook-event": eventName,
    "x-webhook-timestamp": standard["webhook-timestamp"],
    "x-webhook-signature": signHmac({ secret: secrets[0] ?? "", body }),
  };
}

function describe(result: SendResult): Pick<DeliveryAttempt, "outcome" | "status" | "answer"> {
  if (result.kind === "answer")
    return { outcome: `http_${result.status}`, status: result.status, answer: result.answer };
  if (result.kind === "no_answer") return { outcome: result.reason === "timeout" ? "timeout" : "no_answer" };
  return { outcome: result.kind };
}

/** Any 2xx is a delivery; 410 asks never to be called again; everything else is repeated by the schedule. */
function judge(request: {
  readonly result: SendResult;
  readonly attempt: number;
  readonly retryDelaysMs: readonly number[];
  readonly now: Date;
  readonly random: () => number;
}): DeliveryVerdict {
  const { result, attempt, retryDelaysMs, now, random } = request;
  const status = result.kind === "answer" ? result.status : 0;
  if (status >= 200 && status < 300) return { state: "delivered" };
  const plannedMs = retryDelaysMs[attempt - 1];
  if (status === 410) return { state: "exhausted", gone: true };
  if (plannedMs === undefined) return { state: "exhausted" };
  const jitteredMs = Math.round(plannedMs * (0.8 + 0.4 * random()));
  // A receiver may ask for more patience, up to twice the plan; never for less, and never for fewer tries.
  const askedMs = result.kind === "answer" ? readRetryAfter(result.retryAfter, now) : undefined;
  return { state: "pending", delayMs: Math.max(jitteredMs, Math.min(askedMs ?? 0, plannedMs * 2)) };
}
