import { type Clock, systemClock } from "@orderbridge/core";

/** A clock that runs `speed` times as fast as the machine's: both the portal and the client live by it. */
export function createFastClock(speed: number): Clock {
  if (speed === 1) return systemClock;
  const [startedAt, monotonicAt] = [Date.now(), performance.now()];
  const elapsed = () => (performance.now() - monotonicAt) * speed;
  return {
    now: () => new Date(startedAt + elapsed()),
    monotonicMs: () => monotonicAt + elapsed(),
    sleep: (ms, signal) => systemClock.sleep(ms / speed, signal),
  };
}
