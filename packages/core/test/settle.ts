import type { FakeClock } from "../src/testing/index.ts";

/** Lets everything that is ready run: promises, and callbacks of sockets and databases that have answered. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits until so many sleep on a fake clock. Queues that use the machine's timers need more than {@link settle}. */
export async function untilSleeping(clock: FakeClock, sleepers: number): Promise<void> {
  while (clock.sleepers < sleepers) await new Promise((resolve) => setTimeout(resolve, 1));
}
