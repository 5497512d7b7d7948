import { randomUUID } from "node:crypto";
import { type Clock, LeaseLostError, type LeaseStore } from "@orderbridge/core";

export interface WorkLease {
  readonly fencingToken: number;
  /**
   * Call before each step that must not run twice: renews when a third of the life is over.
   * @throws {LeaseLostError} when the lease is gone, or two thirds of its life passed without a renewal.
   */
  keep(): Promise<void>;
  release(): Promise<void>;
}

/** Takes a lease and judges its life by monotonic time. `undefined` when somebody else holds it. */
export async function createWorkLease({
  leases,
  name,
  ttlMs,
  clock,
}: {
  readonly leases: LeaseStore;
  readonly name: string;
  readonly ttlMs: number;
  readonly clock: Clock;
}): Promise<WorkLease | undefined> {
  let askedAt = clock.monotonicMs();
  const first = await leases.acquire(name, { holder: randomUUID(), ttlMs });
  if (!first) return undefined;
  let lease = first;
  const lost = () => new LeaseLostError(name);
  return {
    fencingToken: lease.fencingToken,
    async keep() {
      const now = clock.monotonicMs();
      const age = now - askedAt;
      if (age < ttlMs / 3) return;
      if (age > (ttlMs * 2) / 3) throw lost();
      const renewed = await leases.renew(lease, ttlMs);
      if (!renewed) throw lost();
      lease = renewed;
      askedAt = now;
    },
    release: () => leases.release(lease),
  };
}
