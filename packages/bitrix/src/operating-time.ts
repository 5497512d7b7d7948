import type { Clock, Logger, WatermarkStore } from "@orderbridge/core";
import * as v from "valibot";

const timeSchema = v.object({
  operating: v.optional(v.number()),
  operating_reset_at: v.optional(v.number()),
  processing: v.optional(v.number()),
  start: v.fallback(v.optional(v.number()), undefined),
  finish: v.fallback(v.optional(v.number()), undefined),
});

export interface OperatingTime {
  /**
   * Waits until so many calls of the method fit into its budget of the last ten minutes, those under way counted in.
   * Call what it gives when their answer is there.
   */
  reserve(method: string, calls: number, signal?: AbortSignal): Promise<() => void>;
  /** Takes what an answer says about its method. */
  record(method: string, time: unknown): void;
  /** Bitrix24 refused the method with `OPERATION_TIME_LIMIT`: it rests until its oldest minute leaves the sum. */
  exhaust(method: string): Promise<void>;
  /** Seconds that a call of the method lately took; 0 before the first one. */
  costOf(method: string): number;
}

interface Use {
  /** Sum that the portal told last; `undefined` after a rest, until the next answer. */
  seconds: number | undefined;
  /** By this machine's monotonic clock, which nobody sets. */
  resetAt: number;
  /** The same by the portal's: names the window that `seconds` belongs to. */
  window: number | undefined;
  /** Seconds that calls under way are expected to take, and their number. */
  reserved: number;
  underWay: number;
  cost: number;
  waiting: (() => void)[];
  sharedReadAt: number;
  /** The rest, by `resetAt`, that the log was told of. */
  toldOf: number;
}

const bucketMs = 60_000;
/** Bitrix24 sums over this long, so nothing rests for longer. */
const windowMs = 600_000;
/** Other processes' rests are looked up at most this often. */
const sharedMs = 1_000;

/**
 * Bitrix24 counts the time that a method ran over ten minutes, per webhook, and refuses the next call when it exceeds the
 * limit. Answers tell the sum, that of other processes with the same webhook included; some do not, then the last one
 * holds. When a method has to rest, all processes with the same storage are told.
 *
 * @see apidocs.bitrix24.ru, "REST API limits", resource intensity (read 2026-08)
 */
export function createOperatingTime({
  limitSeconds,
  clock,
  watermarks,
  account,
  logger,
}: {
  readonly limitSeconds: number;
  readonly clock: Clock;
  readonly watermarks: WatermarkStore;
  readonly account: string;
  readonly logger: Pick<Logger, "warn">;
}): OperatingTime {
  const methods = new Map<string, Use>();
  const keyOf = (method: string) => `bitrix-rest:${account}:${method.toLowerCase()}`.slice(0, 191);

  function useOf(method: string): Use {
    const known = methods.get(method);
    if (known) return known;
    const use: Use = {
      seconds: 0,
      resetAt: 0,
      window: undefined,
      reserved: 0,
      underWay: 0,
      cost: 0,
      waiting: [],
      sharedReadAt: Number.NEGATIVE_INFINITY,
      toldOf: Number.NEGATIVE_INFINITY,
    };
    methods.set(method, use);
    return use;
  }

  /** Ends of rests are shared by wall clock; one that is further away than any rest comes from a wrong clock. */
  const isEndOfRest = (until: number, now: number): boolean => until > now && until <= now + windowMs;

  async function share(method: string, resetAt: number): Promise<void> {
    const key = keyOf(method);
    const now = clock.now().getTime();
    const until = Math.round(now + resetAt - clock.monotonicMs());
    const stored = await watermarks.get(key);
    const known = Number(stored ?? 0);
    // Another process may be quicker, with the same news.
    if (until > known || !isEndOfRest(known, now)) await watermarks.advance(key, stored, String(until));
  }

  /** Takes over a rest that another process was told of. */
  async function readShared(method: string, use: Use): Promise<void> {
    const now = clock.monotonicMs();
    if (now - use.sharedReadAt < sharedMs) return;
    use.sharedReadAt = now;
    const until = Number((await watermarks.get(keyOf(method))) ?? 0);
    const wallMs = clock.now().getTime();
    if (isEndOfRest(until, wallMs) && (use.seconds ?? 0) < limitSeconds) {
      use.seconds = limitSeconds;
      use.resetAt = clock.monotonicMs() + until - wallMs;
      use.window = undefined;
    }
  }

  return {
    costOf: (method) => methods.get(method)?.cost ?? 0,
    async reserve(method, calls, signal) {
      const use = useOf(method);
      for (;;) {
        await readShared(method, use);
        signal?.throwIfAborted();
        const expected = calls * use.cost;
        // Bitrix24 looks before each call, so the last one may cross the limit. After a rest nobody knows how much became free: one request finds out.
        const fits =
          use.seconds === undefined
            ? use.underWay === 0
            : use.seconds + use.reserved + Math.max(0, calls - 1) * use.cost < limitSeconds;
        if (fits || (use.seconds === 0 && use.underWay === 0)) {
          use.reserved += expected;
          use.underWay++;
          return () => {
            use.reserved = use.underWay === 1 ? 0 : Math.max(0, use.reserved - expected);
            use.underWay--;
            for (const wake of use.waiting.splice(0)) wake();
          };
        }
        if (use.underWay > 0) {
          await new Promise<void>((resolve) => {
            const goOn = () => {
              signal?.removeEventListener("abort", goOn);
              resolve();
            };
            use.waiting.push(goOn);
            signal?.addEventListener("abort", goOn);
          });
          continue;
        }
        await share(method, use.resetAt);
        const restMs = use.resetAt - clock.monotonicMs();
        if (restMs > 0 && use.toldOf !== use.resetAt) {
          use.toldOf = use.resetAt;
          logger.warn(`bitrix: ${method} has used up its running time and rests for ${Math.ceil(restMs / 1000)} s`);
        }
        if (restMs > 0) await clock.sleep(restMs, signal);
        if (use.resetAt <= clock.monotonicMs()) use.seconds = undefined;
      }
    },
    record(method, time) {
      const { operating, operating_reset_at: resetAt, ...told } = v.parse(v.fallback(timeSchema, {}), time);
      const { processing, finish = told.start } = told;
      const use = useOf(method);
      if (processing !== undefined) use.cost = use.cost === 0 ? processing : use.cost * 0.8 + processing * 0.2;
      if (operating === undefined) {
        use.seconds ??= 0;
        return;
      }
      // Answers of requests side by side come in any order; the sum of one window only grows.
      const isSameWindow = resetAt !== undefined && use.window === resetAt;
      use.seconds = isSameWindow ? Math.max(use.seconds ?? 0, operating) : operating;
      if (isSameWindow) return;
      // The portal's clock may be another than ours: only the time until then counts.
      const now = clock.now().getTime();
      const restMs = resetAt === undefined ? bucketMs : resetAt * 1000 - (finish === undefined ? now : finish * 1000);
      use.window = resetAt;
      use.resetAt = clock.monotonicMs() + Math.min(Math.max(restMs, 0), windowMs);
    },
    async exhaust(method) {
      const use = useOf(method);
      const now = clock.monotonicMs();
      use.seconds = limitSeconds;
      use.resetAt = use.resetAt > now ? use.resetAt : now + bucketMs;
      // What others are told is a help to them; that it failed must not hide what this call's answer says.
      await share(method, use.resetAt).catch((error) => {
        logger.warn("bitrix: other processes could not be told that a method rests", { method, error });
      });
    },
  };
}
