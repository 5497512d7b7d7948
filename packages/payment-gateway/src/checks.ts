import { bookAnswer } from "./booking.ts";
import { beginAttempt, endPayment, failAttempt, hasBegun } from "./decisions.ts";
import { createDueWork, type DueWork } from "./due-work.ts";
import type { Engine } from "./engine.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext, ProviderState } from "./provider.ts";
import type { DueCheck } from "./storage.ts";

const hourMs = 3_600_000;
/**
 * After an answer that says nothing, and no wish of the provider's: a provider that is away for hours leaves ever more
 * payments that cannot end, so these are asked about ever more rarely.
 */
const unknownPauseMs = ({ expiresAt }: Payment, now: Date): number =>
  Math.min(600_000, Math.max(30_000, (now.getTime() - expiresAt.getTime()) / 20));
/** After money that cannot be booked: it stays so until a person has acted. */
const unbookedPauseMs = hourMs;
/** When the payer began while the provider was asked. */
const begunPauseMs = 1_000;
/** A correction of the wall clock by more than this holds the expiry up, as a start does. */
const clockJumpMs = 5_000;

/** How close two looks at a payment may be: once it has ended without money ever less, at last once a day. */
const leastPauseMs = ({ status, expiresAt }: Payment, now: Date): number =>
  status === "expired" || status === "cancelled"
    ? Math.min(24 * hourMs, Math.max(0, now.getTime() - expiresAt.getTime() - hourMs) / 4)
    : 0;

/**
 * Looks at payments when their time has come: asks the provider, and ends those that nobody paid. Each provider's on
 * their own, and those of the providers of this process only: one that it does not know may be known to others.
 *
 * Before a payment expires its provider is asked once more. While the provider does not know, or says that the payer is
 * at it, nothing expires.
 */
export function createChecks({
  engine,
  contextOf,
  expiryHoldMs,
  claimMs,
  timeoutMs,
}: {
  readonly engine: Engine;
  readonly contextOf: (provider: PaymentProvider) => ProviderContext;
  readonly expiryHoldMs: number;
  /** How long nobody else takes a payment that is being asked about. */
  readonly claimMs: number;
  /** How long a question may take; less than `claimMs`. */
  readonly timeoutMs: number;
}): readonly DueWork[] {
  const { storage, clock, logger, providers, wake } = engine;
  const offset = (): number => clock.now().getTime() - clock.monotonicMs();
  let holdEndsMs = clock.monotonicMs() + expiryHoldMs;
  let lastOffset = offset();

  /** How long nothing may expire yet, because providers may have called while we were down or time has jumped. */
  function holdMs(): number {
    if (Math.abs(offset() - lastOffset) > clockJumpMs) {
      logger.warn("the clock was changed; nothing expires for a while", { byMs: offset() - lastOffset });
      holdEndsMs = clock.monotonicMs() + expiryHoldMs;
    }
    lastOffset = offset();
    return Math.max(0, holdEndsMs - clock.monotonicMs());
  }

  async function ask(provider: PaymentProvider, payment: Payment): Promise<ProviderState | undefined> {
    try {
      return await provider.state?.(payment, contextOf(provider));
    } catch (error) {
      logger.warn("the provider did not tell the state of a payment", {
        payment: payment.id,
        provider: payment.provider,
        error,
      });
      return { state: "unknown" };
    }
  }

  /** Resolves to `false`, changing nothing, when the payer has begun since the provider was asked. */
  async function end(provider: PaymentProvider, asked: Payment, status: "cancelled" | "expired"): Promise<boolean> {
    const result = await storage.change(asked.id, (current) =>
      hasBegun(provider, asked, current) ? undefined : endPayment(current, status, clock.now()),
    );
    if (result.state === "changed") wake();
    return result.state !== "unchanged" || !hasBegun(provider, asked, result.payment);
  }

  async function check(provider: PaymentProvider, { payment, isOver, claim }: DueCheck): Promise<void> {
    const { id } = payment;
    const later = (delayMs: number | undefined) =>
      storage.scheduleCheck(
        id,
        delayMs === undefined ? { claim } : { delayMs: Math.max(delayMs, leastPauseMs(payment, clock.now())), claim },
      );
    const hold = isOver ? holdMs() : 0;
    if (hold > 0 && !provider.state) return later(hold);

    const remote = await ask(provider, payment);
    if (remote?.state === "paid") {
      const isBooked = await bookAnswer(engine, contextOf(provider), payment, remote.money);
      return later(isBooked ? undefined : unbookedPauseMs);
    }
    if (remote?.state === "cancelled") {
      return later((await end(provider, payment, "cancelled")) ? undefined : begunPauseMs);
    }
    if (remote?.state === "processing") {
      await storage.change(id, (current) => beginAttempt(current, clock.now()));
      return later(remote.askAgainMs ?? (isOver ? unknownPauseMs(payment, clock.now()) : undefined));
    }
    if (remote?.state === "unknown") return later(remote.askAgainMs ?? unknownPauseMs(payment, clock.now()));
    if (isOver) {
      if (hold > 0) return later(Math.min(hold, remote?.askAgainMs ?? hold));
      const hasEnded = await end(provider, payment, "expired");
      return later(hasEnded ? remote?.askAgainMs : begunPauseMs); // its QR may live on: money that comes late is booked
    }
    if (remote?.state === "ended") {
      await storage.change(id, (current) =>
        hasBegun(provider, payment, current) ? undefined : failAttempt(current, clock.now()),
      );
    }
    return later(remote?.askAgainMs);
  }

  return [...providers.values()].map((provider) =>
    createDueWork<DueCheck>(engine, {
      name: `gateway checks ${provider.name}`,
      claim: (limit) => storage.claimChecks({ provider: provider.name, limit, ttlMs: claimMs }),
      // The answer must come before the claim ends, and leave time to store it.
      beginMs: (claimMs - timeoutMs) / 2,
      id: ({ payment }) => payment.id,
      work: (due) => check(provider, due),
      giveBack: ({ payment, claim }) => storage.scheduleCheck(payment.id, { delayMs: 0, claim }),
    }),
  );
}
