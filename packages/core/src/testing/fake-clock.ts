import type { Clock } from "../ports.ts";

export interface FakeClock extends Clock {
  /** Moves time and wakes who slept until then, in order. */
  advance(ms: number): void;
  /** Jumps the wall clock without touching the monotonic one, as a time correction does. */
  jump(ms: number): void;
  /** How many sleepers wait. */
  readonly sleepers: number;
}

/** A clock that stands still until a test moves it. */
export function createFakeClock(start: Date | string = "2026-11-01T00:00:00.000Z"): FakeClock {
  let wall = new Date(start).getTime();
  let monotonic = 0;
  let waiting: { readonly at: number; readonly wake: () => void }[] = [];
  return {
    now: () => new Date(wall),
    monotonicMs: () => monotonic,
    async sleep(ms, signal) {
      signal?.throwIfAborted();
      if (ms <= 0) return;
      await new Promise<void>((resolve, reject) => {
        const onAbort = () => {
          waiting = waiting.filter((other) => other !== sleeper);
          reject(signal?.reason);
        };
        const sleeper = {
          at: monotonic + ms,
          wake: () => {
            signal?.removeEventListener("abort", onAbort);
            resolve();
          },
        };
        waiting.push(sleeper);
        signal?.addEventListener("abort", onAbort, { once: true });
      });
    },
    advance(ms) {
      wall += ms;
      monotonic += ms;
      const due = waiting.filter((sleeper) => sleeper.at <= monotonic).sort((a, b) => a.at - b.at);
      waiting = waiting.filter((sleeper) => sleeper.at > monotonic);
      for (const sleeper of due) sleeper.wake();
    },
    jump(ms) {
      wall += ms;
    },
    get sleepers() {
      return waiting.length;
    },
  };
}
