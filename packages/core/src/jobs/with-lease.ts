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
}

export type WithLeaseResult<T> = { readonly state: "done"; readonly value: T } | { readonly state: "busy" };

/** Runs `work` while holding a lease, or answers `busy` when somebody holds it. */
export async function withLease<T>(
  { leases, name, holder, ttlMs, clock, signal }: WithLeaseOptions,
  work: (held: HeldLease) => Promise<T>,
): Promise<WithLeaseResult<T>> {
  // The lease's life begins at some moment after we asked, so counting from here errs on the safe side.
  let provenAt = clock.monotonicMs();
  const lease = await leases.acquire(name, { holder, ttlMs });
  if (!lease) return { state: "busy" };

  const ended = new AbortController();
  const lost = new AbortController();
  const lose = () => lost.abort(new LeaseLostError(name));

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
      const leftMs = provenAt + (ttlMs * 2) / 3 - clock.monotonicMs();
      if (leftMs <= 0) return lose();
      if (!(await sleptUntil(leftMs, clock, ended.signal))) return;
    }
  }

  void renew();
  void watch();
  try {
    const both = signal ? AbortSignal.any([signal, lost.signal]) : lost.signal;
    return { state: "done", value: await work({ signal: both, fencingToken: lease.fencingToken }) };
  } finally {
    ended.abort();
    await leases.release(lease).catch(() => undefined); // it expires by itself
  }
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
