import type { Clock } from "@orderbridge/core";
import * as v from "valibot";

const timeSchema = v.object({
  operating: v.optional(v.number()),
  operating_reset_at: v.optional(v.number()),
});

export interface OperatingTime {
  /** Waits while the method's budget of the last ten minutes is used up. */
  wait(method: string, signal?: AbortSignal): Promise<void>;
  /** Takes what an answer says about its method. */
  record(method: string, time: unknown): void;
  /** Bitrix24 refused the method with `OPERATION_TIME_LIMIT`: it rests until its oldest minute leaves the sum. */
  exhaust(method: string): void;
}

const bucketMs = 60_000;

/**
 * Bitrix24 counts the time that a method ran over ten minutes, per webhook, and refuses the next call when it exceeds the
 * limit. Answers tell the sum; some do not, then the last one holds.
 *
 * @see apidocs.bitrix24.ru, "REST API limits", resource intensity (read 2026-08)
 */
export function createOperatingTime({
  limitSeconds,
  clock,
}: {
  readonly limitSeconds: number;
  readonly clock: Clock;
}): OperatingTime {
  const methods = new Map<string, { readonly seconds: number; readonly resetAt: number }>();
  return {
    async wait(method, signal) {
      const used = methods.get(method);
      if (!used || used.seconds < limitSeconds) return;
      await clock.sleep(Math.max(0, used.resetAt - clock.now().getTime()), signal);
      methods.delete(method); // the next answer tells the new sum
    },
    record(method, time) {
      const { operating, operating_reset_at: resetAt } = v.parse(v.fallback(timeSchema, {}), time);
      if (operating === undefined) return;
      methods.set(method, {
        seconds: operating,
        resetAt: resetAt === undefined ? clock.now().getTime() + bucketMs : resetAt * 1000,
      });
    },
    exhaust(method) {
      const known = methods.get(method)?.resetAt ?? 0;
      const now = clock.now().getTime();
      methods.set(method, { seconds: limitSeconds, resetAt: known > now ? known : now + bucketMs });
    },
  };
}
