import { equal, ok, rejects } from "node:assert/strict";
import type { Lease } from "../../ports.ts";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { longestKey, refusedKeys, similarKeys } from "./texts.ts";

const year = 365 * 86_400_000;
const minute = { ttlMs: 60_000 };

export const leaseCases: readonly ConformanceCase<StorageContext>[] = [
  {
    name: "leases: refuse a second holder until the lease expires",
    async run({ storage: { leases }, clock }) {
      const first = await leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 });
      equal(first?.fencingToken, 1);
      clock.advance(999);
      equal(await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1000 }), undefined);
      clock.advance(1);
      const second = await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1000 });
      equal(second?.fencingToken, 2);
    },
  },
  {
    name: "leases: tell the holder what it holds",
    async run({ storage: { leases } }) {
      const lease = await leases.acquire("kaspi-poll", { holder: "a", ...minute });
      equal(lease?.name, "kaspi-poll");
      equal(lease?.holder, "a");
      equal(lease?.ttlMs, 60_000);
    },
  },
  {
    name: "leases: refuse the same holder as well",
    async run({ storage: { leases } }) {
      ok(await leases.acquire("kaspi-poll", { holder: "a", ...minute }));
      equal(await leases.acquire("kaspi-poll", { holder: "a", ...minute }), undefined);
    },
  },
  {
    name: "leases: of different names do not hinder each other",
    async run({ storage: { leases } }) {
      for (const name of similarKeys) ok(await leases.acquire(name, { holder: "a", ...minute }));
      for (const name of similarKeys) equal(await leases.acquire(name, { holder: "b", ...minute }), undefined);
    },
  },
  {
    name: "leases: live on from the moment of renewing, for the same holder with the same token",
    async run({ storage: { leases }, clock }) {
      const lease = await acquired(leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 }));
      clock.advance(600);
      const renewed = await acquired(leases.renew(lease, 2000));
      equal(renewed.fencingToken, lease.fencingToken);
      equal(renewed.ttlMs, 2000);
      clock.advance(1999);
      equal(await leases.acquire("kaspi-poll", { holder: "b", ...minute }), undefined);
      ok(await leases.renew(renewed, 1000));
    },
  },
  {
    name: "leases: cannot be renewed once they expired, even while nobody took them",
    async run({ storage: { leases }, clock }) {
      const lease = await acquired(leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 }));
      clock.advance(1000);
      equal(await leases.renew(lease, 1000), undefined);
      ok(await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1000 }));
    },
  },
  {
    name: "leases: that changed hands can be neither renewed nor released by the former holder",
    async run({ storage: { leases }, clock }) {
      const former = await acquired(leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 }));
      clock.advance(1000);
      ok(await leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 })); // the name of a holder proves nothing
      equal(await leases.renew(former, 1000), undefined);
      await leases.release(former);
      equal(await leases.acquire("kaspi-poll", { holder: "c", ttlMs: 1000 }), undefined);
    },
  },
  {
    name: "leases: are free at once after release, and the token still grows",
    async run({ storage: { leases } }) {
      const first = await acquired(leases.acquire("kaspi-poll", { holder: "a", ...minute }));
      await leases.release(first);
      await leases.release(first); // a second time does nothing
      const second = await acquired(leases.acquire("kaspi-poll", { holder: "b", ...minute }));
      equal(second.fencingToken, 2);
      await leases.release(first);
      equal(await leases.acquire("kaspi-poll", { holder: "c", ...minute }), undefined);
    },
  },
  {
    name: "leases: keep others out for no longer than a whole life after the clock was set back by a year",
    async run({ storage: { leases }, clock }) {
      const lease = await acquired(leases.acquire("kaspi-poll", { holder: "a", ttlMs: 1000 }));
      clock.jump(-year);
      const renewed = await acquired(leases.renew(lease, 2000));
      clock.jump(-year);
      equal(await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1 }), undefined); // the holder may be alive
      clock.advance(1999);
      equal(await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1 }), undefined);
      clock.advance(1);
      equal(await leases.renew(renewed, 1000), undefined);
      ok(await leases.acquire("kaspi-poll", { holder: "b", ttlMs: 1000 }));
    },
  },
  {
    name: "leases: go to one of twenty contenders, for a new name and for an expired one",
    async run({ storage: { leases }, clock }) {
      for (const fencingToken of [1, 2, 3]) {
        const results = await Promise.all(
          Array.from({ length: 20 }, (_, index) => leases.acquire("race", { holder: `h${index}`, ttlMs: 1000 })),
        );
        const winners = results.filter((lease) => lease !== undefined);
        equal(winners.length, 1);
        equal(winners[0]?.fencingToken, fencingToken);
        equal(winners[0]?.holder, `h${results.indexOf(winners[0])}`);
        clock.advance(1000);
      }
    },
  },
  {
    name: "leases: take the longest name and refuse what cannot be stored",
    async run({ storage: { leases } }) {
      ok(await leases.acquire(longestKey, { holder: "a", ...minute }));
      for (const name of refusedKeys) {
        await rejects(leases.acquire(name, { holder: "a", ...minute }), {
          name: "RangeError",
          message: /^lease name /,
        });
      }
      await rejects(leases.acquire("x", { holder: "\0", ...minute }), {
        name: "RangeError",
        message: /^lease holder /,
      });
    },
  },
];

async function acquired(lease: Promise<Lease | undefined>): Promise<Lease> {
  const result = await lease;
  ok(result);
  return result;
}
