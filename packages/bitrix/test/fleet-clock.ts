import { type Clock, systemClock } from "@orderbridge/core";

/** `speed` times as fast as the machine's, from the same moment in every process that is given the same `startedAt`. */
export function createFleetClock({ startedAt, speed }: { readonly startedAt: number; readonly speed: number }): Clock {
  const nowMs = () => startedAt + (Date.now() - startedAt) * speed;
  return {
    now: () => new Date(nowMs()),
    monotonicMs: nowMs,
    sleep: (ms, signal) => systemClock.sleep(ms / speed, signal),
  };
}
