import { type Clock, SdkError, systemClock } from "@orderbridge/core";
import { randomId } from "../ids.ts";
import { type Payment, sums } from "../payment.ts";
import type { PaymentProvider, ProviderAttempt, ProviderContext, ProviderState, ReportedMoney } from "../provider.ts";
import { attentionAfter, type CallingRefund } from "./refund-calls.ts";

/** One try of a payer at a provider: a QR, an invoice, a run of a terminal. */
export interface Attempt {
  readonly id: string;
  /** Milliseconds since 1970, as all instants here. */
  readonly startedAt: number;
  /** Minor units. */
  readonly amountMinor: string;
  readonly state: ProviderAttempt["state"];
  /** The provider is not asked before this instant, */
  readonly askAt: number;
  /** which lies so long after that one at which it was set. */
  readonly pauseMs?: number;
  /** When it was asked last. */
  readonly askedAt?: number;
  /**
   * How long it has lived for certain. Of the time between two questions no more counts than twice the interval, unless
   * this process has asked before and its monotonic clock knows better: a clock that was set, or that of another machine,
   * makes it live longer and never shorter.
   */
  readonly livedMs?: number;
  /** Only a person's wish, and the end of the payment, lead to a question. */
  readonly onDemand?: boolean;
  readonly reason?: string;
  /** Once it is paid. */
  readonly transactionId?: string;
  readonly paidMinor?: string;
  /** The provider's own ids and times. */
  readonly facts: Readonly<Record<string, string>>;
}

/** One refund at a provider that does not know our keys. */
export interface RefundEntry extends CallingRefund {
  /**
   * `preparing`: nothing was sent that gives money back. `asking`: it was sent, or may have been. `open`: the provider
   * is at it.
   */
  readonly state: "preparing" | "asking" | "open" | "succeeded" | "failed";
  readonly attemptId: string;
  readonly amountMinor: string;
  readonly at: number;
  readonly facts: Readonly<Record<string, string>>;
}

/** What is in `payment.session` of a provider with attempts. */
export interface AttemptSession {
  readonly attempts: readonly Attempt[];
  readonly refunds: Readonly<Record<string, RefundEntry>>;
}

/** What was found out about an attempt. */
export type Finding =
  | {
      readonly state: "open";
      readonly askAgainMs: number;
      readonly onDemand?: boolean;
      readonly facts?: Attempt["facts"];
    }
  /** Final: no money of this attempt. The payer may try again. */
  | { readonly state: "failed"; readonly reason: string }
  /** Final: the remote invoice was cancelled, which ends the payment. */
  | { readonly state: "cancelled"; readonly reason: string }
  | {
      readonly state: "paid";
      readonly transactionId: string;
      readonly amountMinor: bigint;
      readonly facts?: Attempt["facts"];
    }
  /** Nobody can tell. `attention` is for a person; without one the provider only does not answer now. */
  | {
      readonly state: "unknown";
      readonly askAgainMs: number;
      readonly attention?: string;
      readonly facts?: Attempt["facts"];
    };

export interface AttemptDriver {
  readonly clock?: Pick<Clock, "now" | "monotonicMs">;
  /** What is known before `begin`, for {@link lost}. @defaultValue nothing */
  plan?(form: URLSearchParams): Attempt["facts"];
  /** Begins at the provider; called once for an attempt. What it throws with an unknown outcome goes to {@link lost}. */
  begin(request: {
    readonly payment: Payment;
    readonly attempt: Attempt;
    readonly form: URLSearchParams;
  }): Promise<Finding>;
  /** Nobody knows whether `begin` reached the provider: its answer was lost, or the process ended. */
  lost(attempt: Attempt): Finding;
  look(request: { readonly payment: Payment; readonly attempt: Attempt }): Promise<Finding>;
  /** How to end it at the provider, and to find out whether that was in time; `undefined` where nothing does. */
  cancel?(attempt: Attempt): (() => Promise<Finding>) | undefined;
  /** Pause after a question, in milliseconds. */
  intervalMs(attempt: Attempt): number;
}

export interface Attempts
  extends Required<Pick<PaymentProvider, "state" | "attempts" | "giveUpAttempt" | "recordMoney">> {
  /** Begins an attempt unless one is open. `failed`: the provider said no. `busy`: one is open, or none may begin. */
  begin(payment: Payment, context: ProviderContext, form: URLSearchParams): Promise<"begun" | "failed" | "busy">;
  /** Asks now, also on an attempt that is asked on demand only, unless it was asked a moment ago. */
  ask(payment: Payment, context: ProviderContext): Promise<ProviderState>;
  /** The provider told that the open attempt failed. */
  fail(payment: Payment, context: ProviderContext, reason: string): Promise<boolean>;
  /** Ends the open attempt where the provider can, else only asks. */
  cancel(payment: Payment, context: ProviderContext): Promise<ProviderState>;
}

/** After so long an attempt whose beginning was never heard of again counts as lost. Longer than any call may take. */
const beginMs = 60_000;
const maxAttempts = 50;
const byPerson = "settled by a person";
/** Facts that a person looks for at the provider. */
const idFacts: readonly string[] = ["id", "process", "transaction", "refundId", "method"];
/** Pause between questions that nobody wanted, on attempts that are asked on demand only. */
const undemandedMs = 3_600_000;
const dayMs = 24 * 3_600_000;
/** Of so many attempts a process knows when it saw them first. */
const maxSeen = 50_000;

/** Attempts that are written down before the provider hears of them, so that no two are open and none is forgotten. */
export function createAttempts(driver: AttemptDriver): Attempts {
  const clock = driver.clock ?? systemClock;
  const nowMs = (): number => clock.now().getTime();
  /** How long attempts had lived, and the monotonic clock, when this process asked about them first. */
  const seen = new Map<string, { readonly livedMs: number; readonly atMs: number }>();

  function livedMs(attempt: Attempt): number {
    const { id, askedAt, startedAt, livedMs: before = 0 } = attempt;
    const sinceMs = Math.max(0, nowMs() - (askedAt ?? startedAt));
    const toldMs = before + Math.min(sinceMs, 2 * driver.intervalMs(attempt));
    const first = seen.get(id);
    if (first) return Math.max(toldMs, first.livedMs + clock.monotonicMs() - first.atMs);
    for (const [oldest] of seen) if (seen.size >= maxSeen) seen.delete(oldest);
    seen.set(id, { livedMs: toldMs, atMs: clock.monotonicMs() });
    return toldMs;
  }

  /** Stores what was found, and says it to the engine. */
  async function conclude(
    payment: Payment,
    context: ProviderContext,
    attempt: Attempt,
    found: Finding,
    isBeginning = false,
  ): Promise<ProviderState> {
    const { finding, isBooked } =
      found.state === "paid" ? await checkOwner(payment, context, found) : { finding: found, isBooked: false };
    const next = after(attempt, finding, nowMs());
    if (!isOpen(next)) seen.delete(next.id);
    const isSame = timeless(next) === timeless(attempt);
    if (!isSame && !(await store(payment, context, attempt, next, finding, isBooked, isBeginning))) {
      return { state: "unknown", askAgainMs: 1_000 }; // what was found will be found again
    }
    return say(next, payment, finding);
  }

  /**
   * Also when another part of the session was written meanwhile, as a refund is: an id that the provider gave at the
   * beginning is told once. What somebody else wrote of this attempt stays, but for what was written of a beginning that
   * took too long.
   */
  async function store(
    payment: Payment,
    context: ProviderContext,
    attempt: Attempt,
    next: Attempt,
    finding: Finding,
    isBooked: boolean,
    isBeginning: boolean,
  ): Promise<boolean> {
    const before = JSON.stringify(attempt);
    const lost = after(attempt, driver.lost(attempt), 0);
    const isLost = ({ state, reason }: Attempt) => isBeginning && state === lost.state && reason === lost.reason;
    let current: Payment | undefined = payment;
    for (let tries = 0; current && tries < 5; tries++) {
      const session = readSession(current);
      const stored = session.attempts.find(({ id }) => id === attempt.id);
      const isLast = stored === session.attempts.at(-1);
      if (!stored || !(JSON.stringify(stored) === before || (isLast && isLost(stored)))) return false;
      const written = await context.remember(current, {
        session: writeSession(withAttempt(session, next)),
        ...attentionOf(current, stored, finding),
        ...(next.state === "paid"
          ? isBooked
            ? {}
            : { money: moneyOf(next, current) }
          : { processing: isOpen(next), ...lookAgain(next, current) }),
      });
      if (written) return true;
      current = await context.find(payment.id);
    }
    return false;
  }

  /** Money that another payment has already is no money of this one, and a person must see how that could be. */
  async function checkOwner(
    payment: Payment,
    context: ProviderContext,
    finding: Extract<Finding, { readonly state: "paid" }>,
  ): Promise<{ readonly finding: Finding; readonly isBooked: boolean }> {
    const booked = await context.findBooking(finding.transactionId);
    if (!booked || booked.paymentId === payment.id) return { finding, isBooked: booked !== undefined };
    const attention = `transaction ${finding.transactionId} was booked for the payment ${booked.paymentId}`;
    return { finding: { state: "unknown", askAgainMs: undemandedMs, attention }, isBooked: false };
  }

  /** What is asked on demand only is asked by itself when its time is over; the end of an unpaid payment asks anyway. */
  function lookAgain(attempt: Attempt, payment: Payment): { readonly askAgainMs?: number } {
    const endsAt = endOf(payment, attempt);
    if (!attempt.onDemand || attempt.state !== "open" || nowMs() >= endsAt) {
      return { askAgainMs: Math.max(0, attempt.askAt - nowMs()) };
    }
    return isUnpaid(payment) ? {} : { askAgainMs: endsAt - nowMs() };
  }

  function say(attempt: Attempt, payment: Payment, finding?: Finding): ProviderState {
    switch (attempt.state) {
      case "paid":
        return { state: "paid", money: moneyOf(attempt, payment) };
      case "failed":
        return finding?.state === "cancelled" ? { state: "cancelled" } : { state: "ended" };
      case "unknown":
        return {
          state: "unknown",
          askAgainMs: Math.max(0, attempt.askAt - nowMs()),
          ...(attempt.reason === undefined ? {} : { reason: attempt.reason }),
        };
      default:
        return { state: "processing", ...lookAgain(attempt, payment) };
    }
  }

  async function state(
    payment: Payment,
    context: ProviderContext,
    why: "due" | "wanted" | "cancel",
  ): Promise<ProviderState> {
    const session = readSession(payment);
    const attempt = session.attempts.at(-1);
    if (!attempt) return { state: "waiting" };
    if (attempt.state === "failed") return { state: "ended" };
    if (attempt.state === "paid") {
      // Its money was booked in the same transaction; an earlier version stored it first.
      const isBooked = (await context.findBooking(moneyOf(attempt, payment).transactionId)) !== undefined;
      return isBooked ? { state: "waiting" } : say(attempt, payment);
    }
    const isEnd = nowMs() >= endOf(payment, attempt);
    const cancel = why === "cancel" && attempt.state !== "starting" ? driver.cancel?.(attempt) : undefined;
    if (!cancel && (!isDue(attempt, nowMs()) || (attempt.onDemand && why !== "wanted" && !isEnd))) {
      return say(attempt, payment);
    }
    if (attempt.state === "starting") return conclude(payment, context, attempt, driver.lost(attempt));
    const pauseMs = attempt.onDemand && why === "due" ? undemandedMs : driver.intervalMs(attempt);
    // Written down first: whoever comes meanwhile, from this process or another, does not ask as well.
    const asked = {
      ...attempt,
      ...askIn(pauseMs, nowMs()),
      askedAt: nowMs(),
      livedMs: livedMs(attempt),
    };
    const claimed = await context.remember(payment, { session: writeSession(withAttempt(session, asked)) });
    if (!claimed) return { state: "unknown", askAgainMs: 1_000 };
    let finding: Finding;
    try {
      finding = await (cancel ? cancel() : driver.look({ payment: claimed, attempt: asked }));
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      return { state: "unknown", askAgainMs: pauseMs, reason: error.message };
    }
    return conclude(claimed, context, asked, finding);
  }

  return {
    async begin(payment, context, form) {
      const session = readSession(payment);
      if (!mayBegin(payment, nowMs())) return "busy";
      const { remainingMinor } = sums(payment);
      const attempt: Attempt = {
        id: randomId("att_"),
        startedAt: nowMs(),
        amountMinor: String(remainingMinor),
        state: "starting",
        ...askIn(beginMs, nowMs()),
        facts: driver.plan?.(form) ?? {},
      };
      const begun = await context.remember(payment, {
        session: writeSession({ ...session, attempts: [...session.attempts, attempt] }),
        processing: true,
        askAgainMs: beginMs,
      });
      if (!begun) return "busy";
      if (!waitsForMoney(begun)) {
        await conclude(begun, context, attempt, { state: "failed", reason: "the payment ended before it began" });
        return "busy";
      }
      let finding: Finding;
      try {
        finding = await driver.begin({ payment: begun, attempt, form });
      } catch (error) {
        if (!SdkError.isInstance(error)) throw error; // it stays `starting` and counts as lost in a minute
        const happened = error.outcome === "unknown" || error.outcome === "executed";
        finding = happened ? driver.lost(attempt) : { state: "failed", reason: error.message };
      }
      await conclude(begun, context, attempt, finding, true);
      return finding.state === "failed" ? "failed" : "begun";
    },

    state: (payment, context) => state(payment, context, "due"),
    ask: (payment, context) => state(payment, context, "wanted"),
    cancel: (payment, context) => state(payment, context, "cancel"),

    attempts: (payment) =>
      readSession(payment).attempts.map((attempt) => ({
        startedAt: new Date(attempt.startedAt),
        state: attempt.state,
        amountMinor: BigInt(attempt.amountMinor),
        ids: [attempt.transactionId, ...idFacts.map((name) => attempt.facts[name])].filter((id) => id !== undefined),
        ...(attempt.reason === undefined ? {} : { reason: attempt.reason }),
      })),

    giveUpAttempt: async (payment, context) =>
      openAttempt(payment)?.state === "unknown" && end(payment, context, byPerson),

    recordMoney: async (payment, context, money) =>
      openAttempt(payment)?.state === "unknown" && end(payment, context, byPerson, money),

    fail: (payment, context, reason) => end(payment, context, reason),
  };

  async function end(
    payment: Payment,
    context: ProviderContext,
    reason: string,
    money?: ReportedMoney,
  ): Promise<boolean> {
    const attempt = openAttempt(payment);
    if (!attempt) return false;
    const stored = await context.remember(payment, {
      session: writeSession(withAttempt(readSession(payment), { ...attempt, state: "failed", reason })),
      processing: false,
      ...(payment.needsAttention === attempt.reason ? { attention: null } : {}),
      askAgainMs: 0,
      ...(money ? { money } : {}),
    });
    return stored !== undefined;
  }
}

/** Says why a person must look, and takes back what was said of the same attempt before. */
function attentionOf(payment: Payment, before: Attempt, finding: Finding): { readonly attention?: string | null } {
  if (finding.state === "unknown") return finding.attention === undefined ? {} : { attention: finding.attention };
  return payment.needsAttention !== undefined && payment.needsAttention === before.reason ? { attention: null } : {};
}

/** Such a payment is looked at when it expires. */
const isUnpaid = ({ status }: Payment): boolean => status === "pending" || status === "processing";
const waitsForMoney = (payment: Payment): boolean => isUnpaid(payment) || payment.status === "partially_paid";

const isOpen = ({ state }: Attempt): boolean => state !== "paid" && state !== "failed";

/** Whether the payer may begin: the payment waits for money, and nothing is open. */
export function mayBegin(payment: Payment, nowMs: number): boolean {
  const { attempts } = readSession(payment);
  const last = attempts.at(-1);
  if ((last && isOpen(last)) || attempts.length >= maxAttempts) return false;
  if (payment.status === "partially_paid") return true;
  return isUnpaid(payment) && nowMs < payment.expiresAt.getTime();
}

/** When an attempt that waits for the payer is over. One that pays the rest of a payment may begin after its life. */
export const endOf = (payment: Payment, attempt: Attempt): number =>
  payment.status === "partially_paid"
    ? Math.max(payment.expiresAt.getTime(), attempt.startedAt + dayMs)
    : payment.expiresAt.getTime();

/** An instant that lies further ahead than it was ever set was written before the clock was set back, or by another clock. */
const isDue = ({ askAt, pauseMs, state }: Attempt, nowMs: number): boolean =>
  askAt <= nowMs || (state !== "starting" && pauseMs !== undefined && askAt - nowMs > pauseMs);

const askIn = (pauseMs: number, nowMs: number) => ({ askAt: nowMs + pauseMs, pauseMs });

/** An attempt without the times of its questions. */
const timeless = (attempt: Attempt): string => JSON.stringify({ ...attempt, askAt: 0, pauseMs: 0 });

const moneyOf = (attempt: Attempt, { currency }: Payment): ReportedMoney => ({
  transactionId: attempt.transactionId ?? attempt.id,
  amountMinor: BigInt(attempt.paidMinor ?? attempt.amountMinor),
  currency,
});

/** The attempt that the payer is at, if there is one. */
export function openAttempt(payment: Payment): Attempt | undefined {
  const attempt = readSession(payment).attempts.at(-1);
  return attempt && isOpen(attempt) ? attempt : undefined;
}

/** What an attempt becomes by a finding. Money that was found stays found. */
function after(attempt: Attempt, finding: Finding, nowMs: number): Attempt {
  const { reason: before, ...rest } = attempt;
  const reason = (finding.state === "unknown" ? finding.attention : undefined) ?? before;
  const facts = { ...attempt.facts, ...("facts" in finding ? finding.facts : {}) };
  switch (finding.state) {
    case "open":
      return {
        ...rest,
        state: "open",
        facts,
        ...askIn(finding.askAgainMs, nowMs),
        ...(finding.onDemand ? { onDemand: true } : {}),
      };
    case "paid":
      return {
        ...rest,
        state: "paid",
        facts,
        transactionId: finding.transactionId,
        paidMinor: String(finding.amountMinor),
      };
    case "unknown":
      return {
        ...rest,
        state: finding.attention === undefined ? attempt.state : "unknown",
        facts,
        ...askIn(finding.askAgainMs, nowMs),
        ...(reason === undefined ? {} : { reason }),
      };
    default:
      return { ...rest, state: "failed", reason: finding.reason };
  }
}

/** Reads `payment.session`; a payment without one has had no attempt. */
export function readSession({ session }: Pick<Payment, "session">): AttemptSession {
  return session === undefined ? { attempts: [], refunds: {} } : (JSON.parse(session) as AttemptSession);
}

const writeSession = (session: AttemptSession): string => JSON.stringify(session);

const withAttempt = (session: AttemptSession, changed: Attempt): AttemptSession => ({
  ...session,
  attempts: session.attempts.map((attempt) => (attempt.id === changed.id ? changed : attempt)),
});

/**
 * The paid attempt that a refund is taken from: one whose money, less what its other refunds took or may take, is
 * enough. Providers refund transactions, so a sum that only two of them hold together finds none.
 */
export function refundableAttempt(session: AttemptSession, key: string, amountMinor: bigint): Attempt | undefined {
  return session.attempts.find((attempt) => {
    if (attempt.state !== "paid") return false;
    const taken = Object.entries(session.refunds)
      .filter(([other, { attemptId, state }]) => other !== key && attemptId === attempt.id && state !== "failed")
      .reduce((sum, [, refund]) => sum + BigInt(refund.amountMinor), 0n);
    return BigInt(attempt.paidMinor ?? "0") - taken >= amountMinor;
  });
}

/** A person says how a refund ended that somebody was called for. */
export const settleRefund: NonNullable<PaymentProvider["settleRefund"]> = async ({
  payment,
  key,
  outcome,
  context,
}) => {
  const entry = readSession(payment).refunds[key];
  if (entry?.call === undefined) return false;
  return (await rememberRefund(payment, context, key, { ...entry, state: outcome })) !== undefined;
};

/** Writes one refund down, provided that it still is as `payment` holds it. Without `call` nobody is called for it any more. */
export function rememberRefund(
  payment: Payment,
  context: ProviderContext,
  key: string,
  { call: _before, ...entry }: RefundEntry,
  call?: string,
): Promise<Payment | undefined> {
  const session = readSession(payment);
  const next: RefundEntry = { ...entry, ...(call === undefined ? {} : { call }) };
  return context.remember(payment, {
    session: writeSession({ ...session, refunds: { ...session.refunds, [key]: next } }),
    ...attentionAfter(payment, session.refunds, key, call),
  });
}

/**
 * Writes down what became of a refund that was sent, also when another one was written meanwhile. What a person has said
 * of it meanwhile stays.
 */
export async function concludeRefund(
  payment: Payment,
  context: ProviderContext,
  key: string,
  entry: RefundEntry,
): Promise<RefundEntry["state"]> {
  let current: Payment | undefined = payment;
  for (let tries = 0; current && tries < 5; tries++) {
    const stored = readSession(current).refunds[key];
    if (stored && stored.state !== "asking") return stored.state;
    if (await rememberRefund(current, context, key, entry)) break;
    current = await context.find(payment.id);
  }
  return entry.state;
}
