import { expect, test } from "vitest";
import { type HeldLease, holdLease, type Lease, LeaseLostError, type LeaseStore, withLease } from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock } from "../src/testing/index.ts";
import { settle } from "./settle.ts";

function setUp() {
  const clock = createFakeClock();
  const { leases } = createMemoryStorage({ clock });
  const started = Promise.withResolvers<AbortSignal>();
  const finish = Promise.withResolvers<string>();
  const options = { leases, name: "import", holder: "a", ttlMs: 30_000, clock };
  const work = async ({ signal }: { readonly signal: AbortSignal }) => {
    started.resolve(signal);
    return finish.promise;
  };
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 500) {
      clock.advance(500);
      await settle();
    }
  };
  return { clock, leases, options, work, started: started.promise, finish: finish.resolve, pass };
}

test("gives the work's result and frees the name", async () => {
  const { options, work, finish, leases } = setUp();
  finish("imported");
  expect(await withLease(options, work)).toEqual({ state: "done", value: "imported" });
  expect(await leases.acquire("import", { holder: "b", ttlMs: 1 })).toBeDefined();
});

test("frees the name when the work fails, and passes the error on", async () => {
  const { options, leases } = setUp();
  await expect(withLease(options, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await leases.acquire("import", { holder: "b", ttlMs: 1 })).toBeDefined();
});

test("answers busy while somebody works", async () => {
  const { options, work, started, finish } = setUp();
  const first = withLease(options, work);
  await started;
  expect(await withLease({ ...options, holder: "b" }, work)).toEqual({ state: "busy" });
  finish("imported");
  await first;
});

test("renews the lease for as long as the work lasts", async () => {
  const { options, work, started, finish, pass, leases } = setUp();
  const running = withLease(options, work);
  const signal = await started;
  await pass(300_000);
  expect(await leases.acquire("import", { holder: "b", ttlMs: 1 })).toBeUndefined();
  expect(signal.aborted).toBe(false);
  finish("imported");
  await running;
});

test("stops the work at two thirds of the lease's life when the store does not answer", async () => {
  const { options, work, started, finish, pass, leases } = setUp();
  const silent: LeaseStore = { ...leases, renew: () => Promise.reject(new Error("connection lost")) };
  const running = withLease({ ...options, leases: silent }, work);
  const signal = await started;
  await pass(19_500);
  expect(signal.aborted).toBe(false);
  await pass(500);
  expect(signal.reason).toBeInstanceOf(LeaseLostError);
  finish("");
  await running;
});

test("stops the work in time also when a renewal never answers", async () => {
  const { options, work, started, finish, pass, leases } = setUp();
  const hanging: LeaseStore = { ...leases, renew: () => new Promise<Lease>(() => undefined) };
  const running = withLease({ ...options, leases: hanging }, work);
  const signal = await started;
  await pass(20_000);
  expect(signal.reason).toBeInstanceOf(LeaseLostError);
  finish("");
  await running;
});

test("goes on after a renewal that failed once", async () => {
  const { options, work, started, finish, pass, leases } = setUp();
  let failures = 1;
  const shaky: LeaseStore = {
    ...leases,
    renew: async (lease, ttlMs) => {
      if (failures-- > 0) throw new Error("connection lost");
      return leases.renew(lease, ttlMs);
    },
  };
  const running = withLease({ ...options, leases: shaky }, work);
  const signal = await started;
  await pass(60_000);
  expect(signal.aborted).toBe(false);
  finish("");
  await running;
});

test("stops the work as soon as the lease has changed hands", async () => {
  const { clock, options, work, started, finish, pass, leases } = setUp();
  const running = withLease(options, work);
  const signal = await started;
  clock.jump(30_000); // the store's time ran ahead, so that it let another holder in
  expect(await leases.acquire("import", { holder: "b", ttlMs: 60_000 })).toBeDefined();
  await pass(10_000);
  expect(signal.reason).toBeInstanceOf(LeaseLostError);
  finish("");
  await running;
  expect(await leases.acquire("import", { holder: "c", ttlMs: 1 })).toBeUndefined();
});

test("passes the caller's stop on", async () => {
  const { options, work, started, finish } = setUp();
  const stop = new AbortController();
  const running = withLease({ ...options, signal: stop.signal }, work);
  const signal = await started;
  stop.abort(new Error("SIGTERM"));
  expect(signal.reason).toEqual(new Error("SIGTERM"));
  finish("");
  await running;
});

test("a process that stood still past two thirds of the lease's life is told before its timers run", async () => {
  const { clock, options } = setUp();
  await withLease(options, async (held: HeldLease) => {
    clock.advance(19_999);
    held.assertHeld();
    clock.advance(1);
    expect(held.signal.aborted).toBe(false); // nothing has run since the time moved
    expect(() => held.assertHeld()).toThrow(LeaseLostError);
    expect(held.signal.reason).toBeInstanceOf(LeaseLostError);
  });
});

test("the check passes while renewals succeed, and fails with the caller's reason once it stops", async () => {
  const { options, pass } = setUp();
  const stop = new AbortController();
  await withLease({ ...options, signal: stop.signal }, async (held: HeldLease) => {
    await pass(300_000);
    held.assertHeld();
    stop.abort(new Error("SIGTERM"));
    expect(() => held.assertHeld()).toThrow("SIGTERM");
  });
});

test("a lease that is held without a function keeps others out until its release", async () => {
  const { clock, options, pass } = setUp();
  const held = await holdLease(options);
  await pass(300_000);
  held?.assertHeld();
  expect(await holdLease({ ...options, holder: "b" })).toBeUndefined();
  await held?.release();
  await pass(0);
  expect(clock.sleepers).toBe(0);
  const next = await holdLease({ ...options, holder: "b" });
  expect(next?.fencingToken).toBe(2);
  await next?.release();
});
