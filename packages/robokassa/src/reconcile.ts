import { type Clock, ConfigError, type Logger, redactingLogger, SdkError, systemClock } from "@orderbridge/core";
import { type Booking, bookHold, bookPayment, type OnPaid } from "./booking.ts";
import type { OperationState } from "./operation-state.ts";
import type { Robokassa } from "./robokassa.ts";
import type { Order, RobokassaStorage } from "./storage.ts";

export interface ReconcilerOptions<Transaction> {
  readonly robokassa: Pick<Robokassa, "operationState">;
  readonly storage: Pick<RobokassaStorage<Transaction>, "orders">;
  /**
   * The same as for the result handler: whoever books a payment runs it, and nobody else does. A reconciler without it
   * takes the payments that it finds away from the handlers'. @defaultValue nothing
   */
  readonly onPaid?: OnPaid<Transaction>;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
  /** Orders that are read from the storage at once. @defaultValue 50 */
  readonly batchSize?: number;
  /** Longest pause between two queries about an order, in milliseconds; they start at a minute and double. @defaultValue 21_600_000 */
  readonly maxDelayMs?: number;
  /** An order older than this is not asked about any more, in milliseconds. @defaultValue 1_209_600_000 (14 days) */
  readonly giveUpAfterMs?: number;
}

/** What a query changed, or why it changed nothing. */
export type CheckOutcome =
  | "paid"
  | "held"
  /** The order had this state before. */
  | "unchanged"
  /** Not paid yet; asked again later. */
  | "pending"
  /** Cancelled, or the money went back. The link can be paid once more, so it is asked again later. */
  | "closed"
  /** Paid, but not as the order says; a person must look. */
  | Extract<Booking, { state: "refused" }>["reason"]
  /** Robokassa could not say, see the log. */
  | "no_answer";

export interface ReconcileCounts {
  readonly checked: number;
  readonly paid: number;
  readonly held: number;
  readonly closed: number;
  readonly pending: number;
  /** Refused or without an answer. */
  readonly failed: number;
}

export interface Reconciler {
  /** Asks about one order now. */
  check(order: Order): Promise<{ readonly outcome: CheckOutcome; readonly state: OperationState | undefined }>;
  /**
   * Asks about every order whose query is due, batch after batch; new orders come before those that were asked about
   * often. Several processes may run it: each order is asked about by one.
   */
  runOnce(signal?: AbortSignal): Promise<ReconcileCounts>;
  /** Runs every `intervalMs` until the signal aborts. */
  run(signal: AbortSignal, options?: { readonly intervalMs?: number }): Promise<void>;
}

/** Finds payments whose notification was lost: asks Robokassa about every order that waits, with growing pauses. */
export function createReconciler<Transaction>(options: ReconcilerOptions<Transaction>): Reconciler {
  const {
    robokassa,
    storage,
    onPaid,
    clock = systemClock,
    batchSize = 50,
    maxDelayMs = 21_600_000,
    giveUpAfterMs = 1_209_600_000,
  } = options;
  if (!(batchSize >= 1)) throw new ConfigError("robokassa: batchSize must be at least 1");
  const logger = redactingLogger(options.logger ?? console);
  const context = { storage, onPaid, clock, logger };

  async function apply(order: Order, state: OperationState, askedAt: Date): Promise<CheckOutcome> {
    const { invId } = order;
    if (!state.found) {
      if (state.reason === "not_found") return "pending";
      logger.warn(`robokassa: no state: ${state.reason}`, { invId, result: state.code });
      return "no_answer";
    }
    switch (state.state) {
      case "paid": {
        const { outSum, opKey, stateAt } = state;
        if (outSum === undefined) return "amount_differs";
        const payment = { invId, outSum, opKey, happenedAt: stateAt, test: false, source: "reconcile" } as const;
        const booking = await bookPayment(context, payment);
        if (booking.state !== "refused") return booking.state === "booked" ? "paid" : "unchanged";
        logger.warn(`robokassa: paid, but ${booking.reason}`, { invId });
        return booking.reason;
      }
      case "held": {
        const sentAt = state.stateAt ?? clock.now();
        const booking = await bookHold(context, { invId, opKey: state.opKey, sentAt });
        if (booking.state !== "refused") return booking.state === "booked" ? "held" : "unchanged";
        logger.warn(`robokassa: held, but ${booking.reason}`, { invId });
        return booking.reason;
      }
      case "cancelled":
      case "returned": {
        const { opKey, stateAt = askedAt } = state;
        const release = await storage.orders.bookRelease(invId, { opKey, at: stateAt });
        // The buyer may have paid again meanwhile: then this was another operation than the one that is held now.
        return release.state === "repeated" && release.order.status === "held" ? "unchanged" : "closed";
      }
      default:
        return "pending";
    }
  }

  const check: Reconciler["check"] = async (order) => {
    if (order.test) return { outcome: "pending", state: undefined }; // its books hold no test payments
    const askedAt = clock.now();
    const state = await robokassa.operationState(order.invId);
    return { outcome: await apply(order, state, askedAt), state };
  };

  function nextCheck(order: Order, checks: number): Date | undefined {
    const now = clock.now().getTime();
    if (now - order.createdAt.getTime() > giveUpAfterMs) return undefined;
    return new Date(now + Math.min(60_000 * 2 ** Math.min(checks, 20), maxDelayMs));
  }

  const runOnce: Reconciler["runOnce"] = async (signal) => {
    const counts = { checked: 0, paid: 0, held: 0, closed: 0, pending: 0, failed: 0 };
    let before: number;
    let read: number;
    do {
      before = counts.checked;
      read = await runBatch(counts, signal);
      // A batch of which every order was asked about by somebody else leaves the rest to them.
    } while (read === batchSize && counts.checked > before);
    return counts;
  };

  /** Gives the number of orders that were due, at most `batchSize`. */
  async function runBatch(
    counts: { -readonly [Name in keyof ReconcileCounts]: number },
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const due = await storage.orders.dueChecks(clock.now(), batchSize);
    for (const { order, checks } of due) {
      signal?.throwIfAborted();
      // The next query is set first: a crash in between costs a pause, not the order.
      if (!(await storage.orders.scheduleCheck(order.invId, { checks, nextAt: nextCheck(order, checks) }))) continue;
      counts.checked++;
      let outcome: CheckOutcome;
      try {
        ({ outcome } = await check(order));
      } catch (error) {
        logger.warn("robokassa: a state query failed", {
          invId: order.invId,
          error: SdkError.isInstance(error) ? error.message : String(error),
        });
        outcome = "no_answer";
      }
      if (outcome === "paid" || outcome === "held" || outcome === "closed") counts[outcome]++;
      else if (outcome === "pending" || outcome === "unchanged") counts.pending++;
      else counts.failed++;
    }
    return due.length;
  }

  return {
    check,
    runOnce,
    async run(signal, { intervalMs = 60_000 } = {}) {
      while (!signal.aborted) {
        try {
          const counts = await runOnce(signal);
          if (counts.checked > 0) logger.info("robokassa: reconciled", { ...counts });
        } catch (error) {
          if (!signal.aborted) logger.error("robokassa: reconcile failed", { error: String(error) });
        }
        await clock.sleep(intervalMs, signal).catch(() => undefined); // aborted: the loop ends
      }
    },
  };
}
