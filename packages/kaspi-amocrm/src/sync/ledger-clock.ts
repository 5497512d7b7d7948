import type { Clock } from "@orderbridge/core";
import type { OrderLedger } from "../ledger.ts";

/** The time of the ledger's rows. */
export interface LedgerClock extends Clock {
  /** Sets it by the storage's clock; until the next time it goes by what has passed here. */
  align(): Promise<void>;
}

/** Machines whose clocks differ agree by it when a write has settled, and when a pause has ended. */
export function createLedgerClock({
  orders,
  clock,
}: {
  readonly orders: Pick<OrderLedger, "now">;
  readonly clock: Clock;
}): LedgerClock {
  let aligned: { readonly now: number; readonly monotonicMs: number } | undefined;
  return {
    now: () => (aligned ? new Date(aligned.now + clock.monotonicMs() - aligned.monotonicMs) : clock.now()),
    monotonicMs: clock.monotonicMs,
    sleep: clock.sleep,
    async align() {
      const now = await orders.now?.();
      if (now) aligned = { now: now.getTime(), monotonicMs: clock.monotonicMs() };
    },
  };
}
