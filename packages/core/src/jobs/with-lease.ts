import type { Clock, Lease, LeaseStore } from "../ports.ts";

/** Reason of the abort when a lease can no longer be relied on: somebody else may already be working. */
export class LeaseLostError extends Error {
  override readonly name = "LeaseLostError";
  constructor(leaseName: string) {
    super(`the lease ${leaseName} was lost; the work that it guarded must stop`);
  }
}

export interface WithLeaseOptions {
  readonly leases: LeaseStore;
  readonly name: string;
  readonly holder: string;
  /** Life of the lease; renewed at each third of it. After a crash the name stays taken for this long. */
  readonly ttlMs: number;
  readonly clock: Clock;
  /** Stops the work; it is passed on. */
  readonly signal?: AbortSignal;
}

export interface HeldLease {
  /**
   * Aborted when the caller stops, and with a {@link LeaseLostError} when the lease changed hands or could not be
   * renewed for two thirds of its life, by monotonic time. Check it before each external write.
   */
  readonly signal: AbortSignal;
  readonly fencingToken: number;
  /**
   * The check for a write that must not come late: unlike `signal`, which a timer aborts, it also notices when the whole
   * process stood still and goes on in the middle of its work.
   * @throws the reason of `signal`; {@link LeaseLostError} when two thirds of the lease's life passed without a renewal
   */
  assertHeld(): void;
}

export type WithLeaseResult<T> = { readonly state: "done"; readonly value: T } | { readonly state: "busy" };

/** Runs `work` while holding a lease, or answers `busy` when somebody holds it. */
export async function withLease<T>(
  options: WithLeaseOptions,
  work: (held: HeldLease) => Promise<T>,
): Promise<WithLeaseResult<T>> {
  const lease = await holdLease(options);
  if (!lease) return { state: "busy" };
  try {
    return { state: "done", value: await work(lease) };
  } finally {
    await lease.release();
  }
}

/**
 * `withLease` for work that is no function, a generator for one: the caller releases, else the lease lasts as long as the
 * process. `undefined` when somebody holds it.
 */
export async function holdLease({
  leases,
  name,
  holder,
  ttlMs,
  clock,
  signal,
}: WithLeaseOptions): Promise<(HeldLease & { release(): Promise<void> }) | undefined> {
  // The lease's life begins at some moment after we asked, so counting from here errs on the safe side.
  let provenAt = clock.monotonicMs();
  const lease = await leases.acquire(name, { holder, ttlMs });
  if (!lease) return undefined;

  const ended = new AbortController();
  const lost = new AbortController();
  const both = signal ? AbortSignal.any([signal, lost.signal]) : lost.signal;
  const lose = () => lost.abort(new LeaseLostError(name));
  const leftMs = () => provenAt + (ttlMs * 2) / 3 - clock.monotonicMs();

  async function renew(): Promise<void> {
    for (let pauseMs = ttlMs / 3; await sleptUntil(pauseMs, clock, ended.signal); ) {
      const askedAt = clock.monotonicMs();
      try {
        if (!(await leases.renew(lease as Lease, ttlMs))) return lose();
        provenAt = askedAt;
        pauseMs = ttlMs / 3;
      } catch {
        pauseMs = ttlMs / 12; // the store does not answer; the watch decides how long that may last
      }
    }
  }

  async function watch(): Promise<void> {
    for (;;) {
      const left = leftMs();
      if (left <= 0) return lose();
      if (!(await sleptUntil(left, clock, ended.signal))) return;
    }
  }

  void renew();
  void watch();
  return {
    signal: both,
    fencingToken: lease.fencingToken,
    assertHeld() {
      if (leftMs() <= 0) lose();
      both.throwIfAborted();
    },
    async release() {
      ended.abort();
      await leases.release(lease).catch(() => undefined); // it expires by itself
    },
  };
}

/** `false` when the signal came first. */
async function sleptUntil(ms: number, clock: Clock, signal: AbortSignal): Promise<boolean> {
  try {
    await clock.sleep(ms, signal);
    return !signal.aborted;
  } catch {
    return false;
  }
}
