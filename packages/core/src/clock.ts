import { setTimeout as wait } from "node:timers/promises";
import type { Clock } from "./ports.ts";

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => new Date(),
  monotonicMs: () => performance.now(),
  async sleep(ms, signal) {
    signal?.throwIfAborted();
    // Node caps a timer at 2^31-1 ms and would fire at once beyond it.
    for (let left = ms; left > 0; left -= 0x7fffffff) {
      try {
        await wait(Math.min(left, 0x7fffffff), undefined, signal ? { signal } : {});
      } catch (error) {
        throw signal?.aborted ? signal.reason : error;
      }
    }
  },
};
