import { randomUUID } from "node:crypto";
import {
  type Clock,
  ConfigError,
  holdLease,
  type LeaseStore,
  type Logger,
  silentLogger,
  systemClock,
  type WatermarkStore,
} from "@orderbridge/core";
import type { Kaspi } from "./client.ts";
import { type KaspiOrder, type KaspiState, kaspiStates } from "./order.ts";
import { cutWindows, type TimeWindow } from "./windows.ts";

export interface OrderFeedOptions {
  readonly kaspi: Pick<Kaspi, "shop" | "orders">;
  readonly watermarks: WatermarkStore;
  readonly leases: LeaseStore;
  /** Where the first run begins. @defaultValue 24 hours ago */
  readonly startAt?: Date;
  /**
   * How far behind the watermark each run starts again, in milliseconds: orders become visible only after the bank's
   * approval, seconds after their creation date, and clocks differ. @defaultValue 1_800_000
   */
  readonly overlapMs?: number;
  /** How often a folder is read again when rows moved between its pages. @defaultValue 3 */
  readonly rereads?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

export interface FeedPage {
  readonly orders: readonly KaspiOrder[];
  readonly window: TimeWindow;
  readonly state: KaspiState;
  /**
   * Says that the orders of this page are safe. The watermark moves over a window when every page of it was read and
   * committed; a page left uncommitted holds it back, and the next run brings the window again.
   */
  commit(): Promise<void>;
}

export interface OrderFeed {
  /**
   * The pages since the watermark, at least once, up to a bound fixed at the start. Empty when another process reads the
   * same shop. The shop is this reader's until the loop ends, `break` included; who calls `next()` by hand ends with
   * `return()`.
   */
  pages(options?: { readonly signal?: AbortSignal }): AsyncIterable<FeedPage>;
  /** Everything created before it is safe; `undefined` before the first complete window. */
  watermark(): Promise<Date | undefined>;
}

/** Reads a shop's orders in order of creation without losing any. Useful without amoCRM. */
export function createOrderFeed({
  kaspi,
  watermarks,
  leases,
  startAt,
  overlapMs = 1_800_000,
  rereads = 3,
  clock = systemClock,
  logger = silentLogger,
}: OrderFeedOptions): OrderFeed {
  if (!(overlapMs >= 0)) throw new ConfigError("feed: overlapMs must not be negative");
  const key = `kaspi-feed:${kaspi.shop}`;

  /** Gives the pages of a folder until one reading of it was complete in itself. Resolves to whether one was. */
  async function* folder(window: TimeWindow, state: KaspiState, signal: AbortSignal | undefined) {
    for (let reading = 0; reading <= rereads; reading++) {
      const codes = new Set<string>();
      const totals = new Set<number | undefined>();
      for await (const page of kaspi.orders.pages({
        createdFrom: window.from,
        createdTo: window.to,
        state,
        ...(signal && { signal }),
      })) {
        for (const order of page.orders) codes.add(order.code);
        totals.add(page.totalCount);
        yield page.orders;
      }
      const [total] = totals;
      if (totals.size <= 1 && (total === undefined || total === codes.size)) return true;
      logger.info("kaspi feed: rows moved between pages, reading again", { shop: kaspi.shop, state, reading });
    }
    return false;
  }

  return {
    async watermark() {
      const position = await watermarks.get(key);
      return position === undefined ? undefined : new Date(Number(position));
    },
    async *pages({ signal } = {}) {
      const lease = await holdLease({ leases, name: key, holder: randomUUID(), ttlMs: 180_000, clock });
      if (!lease) return;
      try {
        let position = await watermarks.get(key);
        const to = clock.now();
        const since =
          position === undefined ? (startAt?.getTime() ?? to.getTime() - 86_400_000) : Number(position) - overlapMs;
        for (const window of cutWindows(new Date(Math.min(since, to.getTime())), to)) {
          let uncommitted = 0;
          let complete = true;
          for (const state of kaspiStates) {
            const reading = folder(window, state, signal);
            for (let step = await reading.next(); ; step = await reading.next()) {
              if (step.done) {
                complete = step.value && complete;
                break;
              }
              lease.assertHeld();
              uncommitted++;
              let committed = false;
              yield {
                orders: step.value,
                window,
                state,
                async commit() {
                  if (!committed) uncommitted--;
                  committed = true;
                },
              };
            }
          }
          if (!complete) {
            logger.warn("kaspi feed: a window kept changing while it was read; the watermark waits", {
              shop: kaspi.shop,
            });
            return;
          }
          if (uncommitted > 0) return; // later windows must not move the watermark over this one
          lease.assertHeld();
          const next = String(Math.max(window.to.getTime(), Number(position ?? 0)));
          if (next !== position && !(await watermarks.advance(key, position, next))) return; // somebody else moved it
          position = next;
        }
      } finally {
        await lease.release();
      }
    },
  };
}
