import Bottleneck from "bottleneck";
import { BlockedError, ConfigError, RateLimitStoreError } from "../errors.ts";
import type { Clock, RateBudget, RateLimitStore } from "../ports.ts";

export interface RateLimiter {
  /**
   * Resolves when the caller may send one request. Callers are served in turn.
   * @param onLongWait Told when the caller whose turn it is has to wait for a minute or longer.
   * @throws {BlockedError} while the vendor's block is stored; {@link RateLimitStoreError} when the store does not answer.
   */
  slot(signal?: AbortSignal, onLongWait?: (waitMs: number) => void): Promise<void>;
  /** After a 429: no process sends for `pauseMs`. */
  penalize(pauseMs: number): Promise<void>;
  /** The vendor shut us out: stored until a person unblocks. */
  block(code: string): Promise<void>;
}

export interface RateLimiterOptions {
  readonly vendor: string;
  /** Whose budget, e.g. `amocrm:example.amocrm.ru:client-id`. Never a token: it is stored. */
  readonly account: string;
  readonly budget: RateBudget;
  readonly store: RateLimitStore;
  readonly clock: Clock;
}

/**
 * The budget of a vendor that allows so many requests in any sliding second: plain spacing, wide enough that requests
 * which leave their slot up to `jitterMs` late (a new connection, a busy machine) still keep to it.
 *
 * @param jitterMs In milliseconds. With 90, 7 per second become one each 156 ms. @defaultValue 90
 */
export function budgetPerSecond(perSecond: number, jitterMs = 90): RateBudget {
  if (!(perSecond > 0)) throw new ConfigError("perSecond must be positive");
  return { intervalMs: Math.ceil((1_000 + jitterMs) / perSecond) };
}

/** A call that woke up later than this after its slot takes another one: it would come too close to the next calls. */
const spacedLagMs = 60;

/** Who waits longer than this looks now and then whether a person has ended the pause. */
const longWaitMs = 60_000;

/**
 * One budget over all processes: slots are reserved in the store, and inside a process callers queue one behind the
 * other, so that a pause or a block reaches everyone who still waits.
 */
export function createRateLimiter({ vendor, account, budget, store, clock }: RateLimiterOptions): RateLimiter {
  if (!(budget.intervalMs > 0)) throw new ConfigError("budget.intervalMs must be positive");
  const { capacity = 1 } = budget;
  if (!Number.isInteger(capacity) || capacity < 1)
    throw new ConfigError("budget.capacity must be a whole number from 1");
  // Where a burst is allowed two calls may come close: a late one is let go, as long as it is within its own interval.
  const maxLagMs = capacity > 1 ? Math.max(spacedLagMs, budget.intervalMs) : spacedLagMs;
  const queue = new Bottleneck({ maxConcurrent: 1 });
  const blocked = (block: { readonly since: Date; readonly code: string }) =>
    new BlockedError(
      `${vendor}: calls are stopped since ${block.since.toISOString()} (${block.code}); clear it with the unblock command once the vendor has lifted it`,
      { vendor, since: block.since, vendorCode: block.code },
    );

  /** Without the store nobody knows how many calls others make, so none is made. */
  async function ask<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof RangeError) throw error; // a wrong account name
      const code = (error as { code?: unknown } | undefined)?.code;
      const reason = typeof code === "string" && /^[A-Z0-9_]+$/.test(code) ? ` (${code})` : "";
      throw new RateLimitStoreError(`${vendor}: the store of the rate budget does not answer${reason}`, { vendor });
    }
  }

  async function takeSlot(signal: AbortSignal | undefined, onLongWait?: (waitMs: number) => void): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const slot = await ask(store.reserve(account, budget));
      if (slot.state === "blocked") throw blocked(slot.block);
      if (slot.waitMs <= 0) return;
      const slotAt = clock.monotonicMs() + slot.waitMs;
      if (slot.waitMs >= longWaitMs) {
        onLongWait?.(slot.waitMs);
        if (!(await sleptTo(slotAt - longWaitMs / 2, slot, signal))) continue;
      }
      await clock.sleep(slotAt - clock.monotonicMs(), signal);
      const isLate = clock.monotonicMs() - slotAt > maxLagMs;
      // While we slept another process may have been told to slow down or to stop, or the store may have been emptied.
      const { pauseMs, block, isVoid } = await ask(store.status(account, slot));
      if (block) throw blocked(block);
      if (pauseMs <= 0 && !isVoid && !isLate) return;
      // Another slot, behind the pause: else every process that slept would leave at its end together.
    }
  }

  /** Sleeps in pieces until near a slot that is far off; `false` when the pause before it was ended meanwhile. */
  async function sleptTo(
    until: number,
    slot: { readonly generation?: string },
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    for (let pauseEndsAt = Number.NEGATIVE_INFINITY; ; ) {
      const { pauseMs, block, isVoid } = await ask(store.status(account, slot));
      if (block) throw blocked(block);
      const now = clock.monotonicMs();
      if (isVoid || (pauseMs <= 0 && now < pauseEndsAt - spacedLagMs)) return false;
      if (now >= until) return true;
      pauseEndsAt = now + pauseMs;
      await clock.sleep(Math.min(until - now, longWaitMs / 2), signal);
    }
  }

  return {
    slot: (signal, onLongWait) => unlessAborted(queue.schedule(takeSlot, signal, onLongWait), signal),
    penalize: (pauseMs) => ask(store.penalize(account, pauseMs)),
    block: (code) => ask(store.block(account, code)),
  };
}

/** Does not let a caller that gave up wait for its turn; when the turn comes, it takes no slot. */
async function unlessAborted(turn: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return turn;
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([turn, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
