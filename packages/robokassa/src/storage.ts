import { ConfigError } from "@orderbridge/core";
import type { SignatureFit } from "./explain.ts";
import { maxInvId } from "./inv-id.ts";

/** What an order is worth knowing about. `paidAt` is set with the payment and stays after a refund. */
export type OrderStatus = "new" | "held" | "paid" | "refunded";

export interface Order {
  /** The shop's own id. */
  readonly id: string;
  /** The number that Robokassa knows the payment by; unique, text because it exceeds 2^53. */
  readonly invId: string;
  /** Started with the test passwords; a live payment never books it, nor a test payment a live order. */
  readonly test: boolean;
  /** Decimal text with two decimals. */
  readonly total: string;
  /** Currency of `total` when it is not the shop's own. */
  readonly currency: string | undefined;
  readonly description: string;
  readonly status: OrderStatus;
  readonly paidAt: Date | undefined;
  /** Robokassa's id of the operation, once known; refunds need it. */
  readonly opKey: string | undefined;
  /** Decimal text: how much of a hold was asked for, when it may be less than `total`. The payment has this sum then. */
  readonly captured: string | undefined;
  /** Decimal text: refunds that are made or under way. */
  readonly refunded: string;
  /** The text that the newest link's signature covers, without secrets; see {@link OrderStore.keepLink}. */
  readonly link: string | undefined;
  readonly createdAt: Date;
}

export interface NewOrder {
  readonly id: string;
  readonly test: boolean;
  readonly total: string;
  readonly currency?: string | undefined;
  readonly description: string;
}

/** What a payment of this order must bring. */
export const payable = ({ captured, total }: Pick<Order, "captured" | "total">): string => captured ?? total;

/** Who told us of a payment. */
export type PaymentSource = "result" | "result2" | "reconcile";

export interface PaymentBooking {
  readonly invId: string;
  readonly source: PaymentSource;
  readonly paidAt: Date;
  readonly opKey?: string | undefined;
  /** {@link payable} of the order that the sum was compared with; left out: not looked at. */
  readonly payable?: string | undefined;
}

export type BookingResult =
  /** This call moved the order to `paid`. */
  | { readonly state: "booked"; readonly order: Order }
  /** It was paid before; nothing changed. */
  | { readonly state: "repeated"; readonly order: Order }
  | { readonly state: "unknown" };

/** One refund, kept before it is asked for, so that the sum of all never exceeds the payment. */
export interface Refund {
  /** Chosen by the shop; the same id is never refunded twice. */
  readonly id: string;
  readonly invId: string;
  /** Decimal text with two decimals. */
  readonly amount: string;
  /**
   * `asking`: the request may have reached Robokassa or not. `processing`, `finished`, `canceled`: as Robokassa says.
   * `refused`: it said no, and the amount is free again; so is a canceled one.
   */
  readonly state: "asking" | "processing" | "finished" | "canceled" | "refused";
  /** Robokassa's id of the request, once known. */
  readonly requestId: string | undefined;
  readonly createdAt: Date;
}

export interface RefundStore {
  /**
   * Keeps a refund as `asking`. `exceeds` when it is more than what is left of the payment, `not_paid` when there is
   * none; `known` with the stored one for a known id, whatever its amount. A refused one of the same order is begun
   * anew, with this amount: nothing happened. Of several callers one begins it.
   */
  begin(refund: {
    readonly id: string;
    readonly invId: string;
    readonly amount: string;
  }): Promise<
    | { readonly state: "begun" | "known"; readonly refund: Refund }
    | { readonly state: "exceeds" | "not_paid" | "unknown" }
  >;
  /** Stores what Robokassa said. When the finished refunds reach what was paid it becomes `refunded`. */
  settle(
    id: string,
    result: { readonly state: Refund["state"]; readonly requestId?: string | undefined },
  ): Promise<Refund | undefined>;
  get(id: string): Promise<Refund | undefined>;
  /** Refunds whose end is not known yet, or those in one state, the oldest first; go on with the last one as `after`. */
  open(
    limit: number,
    state?: "asking" | "processing",
    after?: Pick<Refund, "id" | "createdAt">,
  ): Promise<readonly Refund[]>;
}

/** An order that waits for its next state query. */
export interface DueCheck {
  readonly order: Order;
  /** Queries made so far. */
  readonly checks: number;
}

/** Orders and their InvIds. */
export interface OrderStore<Transaction> {
  /**
   * Stores an order as `new` under the next InvId of its range: live numbers grow from `firstLiveInvId`, test numbers
   * from `firstTestInvId`, and each is given once. The same order again gives the stored one, with its InvId; another
   * order under a known id gives `undefined`.
   */
  create(order: NewOrder): Promise<Order | undefined>;
  /**
   * Keeps what the newest link was signed over, as `Robokassa.traceLink` gives it: a diagnosis compares with it. `false`
   * for an unknown id.
   */
  keepLink(id: string, link: string): Promise<boolean>;
  /** `undefined` for an unknown id. */
  get(id: string): Promise<Order | undefined>;
  /** `undefined` for an unknown number. The text is compared as it is: `0146` is not `146`. */
  getByInvId(invId: string): Promise<Order | undefined>;
  /**
   * Moves a `new` or `held` order to `paid`, once: of many callers one sees `booked`. A later one may still bring the
   * `opKey`. When something else than `payable` is to be paid by now, nothing is booked: `changed`.
   *
   * `work` runs inside the same transaction, for the caller that books. When it throws, nothing is booked and the error
   * is passed on. It may run again when the database asks to repeat the transaction.
   */
  bookPayment(
    payment: PaymentBooking,
    work?: (order: Order, transaction: Transaction) => Promise<void>,
  ): Promise<BookingResult | { readonly state: "changed"; readonly order: Order }>;
  /** Moves a `new` order to `held`, unless a message of the same time or newer was applied before. */
  bookHold(hold: {
    readonly invId: string;
    readonly opKey: string | undefined;
    readonly sentAt: Date;
  }): Promise<BookingResult>;
  /**
   * Keeps how much of a `held` order is about to be captured, before Robokassa is asked. `false`, changing nothing, when
   * the order is not held, `amount` is more than its total, or `captured` of the order is not `was` any more.
   */
  keepCapture(invId: string, amount: string, was: Order["captured"]): Promise<boolean>;
  /**
   * Moves a `held` order back to `new`: the reserved money went back to the buyer. With `told`, what Robokassa's books
   * say of an operation, only when it is the one that is held; where a key is missing, when it was `at` no earlier time
   * than the hold.
   */
  bookRelease(invId: string, told?: { readonly opKey: string | undefined; readonly at: Date }): Promise<BookingResult>;
  /** `new` and `held` live orders whose next state query is due: those asked about least often first, then the longest due. */
  dueChecks(now: Date, limit: number): Promise<readonly DueCheck[]>;
  /**
   * Counts a state query and sets the next one; `undefined` ends them. Changes nothing when somebody else counted one
   * since (`checks` differs): of many processes one asks.
   */
  scheduleCheck(
    invId: string,
    change: { readonly checks: number; readonly nextAt: Date | undefined },
  ): Promise<boolean>;
  /** Makes the next state query of a `new` or `held` live order due now, as if none had been made. `false` for any other. */
  checkSoon(invId: string): Promise<boolean>;
  /** Takes the description and the link's text away: the rest holds no personal data. `false` for an unknown id. */
  erase(id: string): Promise<boolean>;
  /** Erases every order created before this, except a held one; gives the number of those that had something to erase. */
  prune(before: Date): Promise<number>;
}

/** One request that reached us, without personal data. */
export interface CallbackEntry {
  readonly source: "result" | "result2";
  readonly at: Date;
  /** As received, when it was digits. */
  readonly invId: string | undefined;
  /** As received, when it was a number. */
  readonly outSum: string | undefined;
  /** Digest as received, for a replay; holds no secret. */
  readonly signature: string | undefined;
  /** Names of the `Shp_` fields; their values are not stored. */
  readonly shpNames: readonly string[];
  /** `paid`, `repeated`, why it was refused, e.g. `bad_signature`, or `error` when we failed. */
  readonly verdict: string;
  /** How a bad signature was made after all, found when it came: values of `Shp_` fields are not kept for later. */
  readonly fit: SignatureFit | undefined;
  /** HTTP status of our answer. */
  readonly status: number;
}

/** Whether anybody can have sent it: no signature fitted, or it could not be read. Only such entries are limited in number. */
export const isUnproven = ({ status }: CallbackEntry): boolean => status === 400;

/** What reached us and what we answered: the first thing to look at when an order is not paid. */
export interface CallbackLog {
  /**
   * Entries with status 400, of which no signature fitted, are dropped beyond the newest `maxRefusedCallbacks`: strangers
   * can send any number. What Robokassa signed stays until it is pruned, whatever we answered.
   */
  record(entry: CallbackEntry): Promise<void>;
  /** Newest first. */
  list(filter: { readonly invId?: string; readonly limit: number }): Promise<readonly CallbackEntry[]>;
  /** Drops entries older than this; gives their number. */
  prune(before: Date): Promise<number>;
}

export interface RobokassaStorage<Transaction = unknown> {
  readonly orders: OrderStore<Transaction>;
  readonly refunds: RefundStore;
  readonly callbacks: CallbackLog;
  /** Rejects when the storage does not answer. */
  ping(): Promise<void>;
}

export interface InvIdRanges {
  /** Raise it when other systems already use numbers of this shop. @defaultValue "1" */
  readonly firstLiveInvId?: string;
  /**
   * Test numbers live apart: a test and a live payment under one number make Robokassa's state query answer 4. Live
   * numbers never reach it. @defaultValue "1000000000"
   */
  readonly firstTestInvId?: string;
}

export interface CallbackLogOptions {
  /** Requests answered 400, without a signature that fits, that the log keeps. @defaultValue 500 */
  readonly maxRefusedCallbacks?: number;
}

/** @throws {ConfigError} */
export function checkRanges({ firstLiveInvId = "1", firstTestInvId = "1000000000" }: InvIdRanges): {
  readonly live: bigint;
  readonly test: bigint;
} {
  const read = (name: string, text: string): bigint => {
    if (!/^[1-9]\d{0,18}$/.test(text) || BigInt(text) > maxInvId) {
      throw new ConfigError(`robokassa: ${name} must be digits as text, from 1 to ${maxInvId}`);
    }
    return BigInt(text);
  };
  const live = read("firstLiveInvId", firstLiveInvId);
  const test = read("firstTestInvId", firstTestInvId);
  if (live === test) throw new ConfigError("robokassa: firstLiveInvId and firstTestInvId must differ");
  return { live, test };
}

/**
 * The number after `last`, or the range's first.
 *
 * @throws {RangeError} when the range is used up: it met the other range, or 2^63.
 */
export function nextInvId(
  ranges: { readonly live: bigint; readonly test: bigint },
  test: boolean,
  last: bigint | undefined,
): bigint {
  const [first, other] = test ? [ranges.test, ranges.live] : [ranges.live, ranges.test];
  const next = last === undefined || last < first ? first : last + 1n;
  const end = other > first ? other : maxInvId + 1n;
  if (next >= end) {
    throw new RangeError(
      `robokassa: the ${test ? "test" : "live"} InvIds are used up; choose other ranges for the storage`,
    );
  }
  return next;
}

/** Refunds in these states count against the payment. */
export const countedRefunds: readonly Refund["state"][] = ["asking", "processing", "finished"];

/** Pause between placing an order and its first state query, in milliseconds: notifications usually come first. */
export const firstCheckDelayMs = 60_000;

/** Whether `create` may hand out the stored order again. An erased description fits any; an empty one is never placed. */
export function isSameOrder(stored: Order, order: NewOrder): boolean {
  return (
    stored.test === order.test &&
    stored.total === order.total &&
    stored.currency === order.currency &&
    (stored.description === order.description || stored.description === "")
  );
}
