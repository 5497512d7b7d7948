import { beginAttempt, endPayment, failAttempt } from "./decisions.ts";
import { createDueWork, type DueWork } from "./due-work.ts";
import type { Engine } from "./engine.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider, ProviderContext, ProviderState } from "./provider.ts";
import type { DueCheck, PaymentChange } from "./storage.ts";

/** After an answer that says nothing, and no wish of the provider's. */
const unknownPauseMs = 30_000;
/** A correction of the wall clock by more than this holds the expiry up, as a start does. */
const clockJumpMs = 5_000;

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
}: {
  readonly engine: Engine;
  readonly contextOf: (provider: PaymentProvider) => ProviderContext;
  readonly expiryHoldMs: number;
  /** How long nobody else takes a payment that is being asked about. */
  readonly claimMs: number;
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

  async function apply(id: string, decide: (payment: Payment) => PaymentChange | undefined): Promise<void> {
    const result = await storage.change(id, decide);
    if (result.state === "changed") wake();
  }

  async function check(provider: PaymentProvider, { payment, isOver, claim }: DueCheck): Promise<void> {
    const { id } = payment;
    const later = (delayMs: number | undefined) =>
      storage.scheduleCheck(id, delayMs === undefined ? { claim } : { delayMs, claim });
    const hold = isOver ? holdMs() : 0;
    if (hold > 0 && !provider.state) return later(hold);

    const remote = await ask(provider, payment);
    if (remote?.state === "paid") {
      await contextOf(provider).book(id, remote.money);
      return later(undefined);
    }
    if (remote?.state === "cancelled") {
      await apply(id, (current) => endPayment(current, "cancelled", clock.now()));
      return later(undefined);
    }
    if (remote?.state === "processing") {
      await apply(id, (current) => beginAttempt(current, clock.now()));
      return later(remote.askAgainMs ?? (isOver ? unknownPauseMs : undefined));
    }
    if (remote?.state === "unknown") return later(remote.askAgainMs ?? unknownPauseMs);
    if (isOver) {
      if (hold > 0) return later(Math.min(hold, remote?.askAgainMs ?? hold));
      await apply(id, (current) => endPayment(current, "expired", clock.now()));
      return later(remote?.askAgainMs); // its QR may live on: money that comes late is booked
    }
    if (remote?.state === "ended") await apply(id, (current) => failAttempt(current, clock.now()));
    return later(remote?.askAgainMs);
  }

  return [...providers.values()].map((provider) =>
    createDueWork<DueCheck>(engine, {
      name: `gateway checks ${provider.name}`,
      claim: (limit) => storage.claimChecks({ provider: provider.name, limit, ttlMs: claimMs }),
      claimMs,
      work: (due) => check(provider, due),
      giveBack: ({ payment, claim }) => storage.scheduleCheck(payment.id, { delayMs: 0, claim }),
    }),
  );
}
