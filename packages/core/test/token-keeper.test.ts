import { expect, test } from "vitest";
import {
  ApiError,
  createTokenKeeper,
  NeedsReauthError,
  RequestError,
  type StoredToken,
  type TokenKeeperOptions,
  type TokenPair,
} from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock } from "../src/testing/index.ts";
import { settle } from "./settle.ts";

const answered = (status: number) =>
  new ApiError(`amocrm: token answered ${status}`, {
    vendor: "amocrm",
    status,
    outcome: status === 429 ? "not-executed" : status >= 500 ? "unknown" : "refused",
  });
const noAnswer = () =>
  new RequestError("amocrm: token got no answer", { vendor: "amocrm", code: "network", outcome: "unknown" });

/** A vendor whose refresh tokens work once. */
function createVendor() {
  let serial = 1;
  const valid = { access: "access-1", refresh: "refresh-1" };
  const vendor = {
    requests: [] as string[],
    /** What happens to the coming answers, in order. */
    trouble: [] as ("drop" | "fail" | "hold")[],
    release: () => undefined as unknown,
    async refresh({ refreshToken }: { readonly refreshToken: string }): Promise<TokenPair> {
      vendor.requests.push(refreshToken);
      const trouble = vendor.trouble.shift();
      if (trouble === "fail") throw answered(502);
      if (trouble === "hold") {
        const { promise, resolve } = Promise.withResolvers<void>();
        vendor.release = resolve;
        await promise;
      }
      if (refreshToken !== valid.refresh) throw answered(401);
      serial++;
      valid.access = `access-${serial}`;
      valid.refresh = `refresh-${serial}`;
      if (trouble === "drop") throw noAnswer();
      return { accessToken: valid.access, refreshToken: valid.refresh };
    },
    async call(token: StoredToken): Promise<string> {
      if (token.accessToken !== valid.access) throw answered(401);
      return "deals";
    },
    expireAccess() {
      valid.access = "nobody has this one";
    },
  };
  return vendor;
}

async function setUp(options: Partial<TokenKeeperOptions> & { readonly pair?: TokenPair } = {}) {
  const clock = createFakeClock("2026-11-01T00:00:00Z");
  const storage = createMemoryStorage({ clock });
  const vendor = createVendor();
  const { pair = { accessToken: "access-1", refreshToken: "refresh-1" }, ...rest } = options;
  await storage.tokens.save("amocrm", pair, undefined);
  let alerts = 0;
  const keeper = () =>
    createTokenKeeper({
      vendor: "amocrm",
      key: "amocrm",
      storage,
      refresh: vendor.refresh,
      onNeedsReauth: () => void alerts++,
      clock,
      ...rest,
    });
  /** Lets time pass until the promise has settled. */
  const pass = async <T>(promise: Promise<T>, stepMs = 200): Promise<T> => {
    let isSettled = false;
    promise.then(
      () => {
        isSettled = true;
      },
      () => {
        isSettled = true;
      },
    );
    for (;;) {
      await settle();
      if (isSettled) return promise;
      clock.advance(stepMs);
    }
  };
  return { clock, storage, vendor, keeper, pass, alerts: () => alerts };
}

test("leaves a token that works alone", async () => {
  const { vendor, keeper } = await setUp();
  expect(await keeper().use(vendor.call)).toBe("deals");
  expect(vendor.requests).toEqual([]);
});

test("refreshes once after a 401, stores the pair and calls again", async () => {
  const { vendor, keeper, storage } = await setUp();
  vendor.expireAccess();
  expect(await keeper().use(vendor.call)).toBe("deals");
  expect(vendor.requests).toEqual(["refresh-1"]);
  expect(await storage.tokens.get("amocrm")).toMatchObject({ refreshToken: "refresh-2", version: 2, state: "active" });
});

test("never calls a third time", async () => {
  const { vendor, keeper } = await setUp();
  let calls = 0;
  const stubborn = keeper().use(async () => {
    calls++;
    throw answered(401);
  });
  await expect(stubborn).rejects.toThrow("401");
  expect([calls, vendor.requests.length]).toEqual([2, 1]);
});

test.each([402, 403, 429, 500])("does not touch the tokens after an answer %d to a call", async (status) => {
  const { vendor, keeper } = await setUp();
  const failing = keeper().use(async () => {
    throw answered(status);
  });
  await expect(failing).rejects.toThrow(String(status));
  expect(vendor.requests).toEqual([]);
});

test("refreshes once for twenty callers in a process", async () => {
  const { vendor, keeper } = await setUp();
  vendor.expireAccess();
  const { use } = keeper();
  const results = await Promise.all(Array.from({ length: 20 }, () => use(vendor.call)));
  expect(results).toEqual(Array(20).fill("deals"));
  expect(vendor.requests).toEqual(["refresh-1"]);
});

test("refreshes once for twenty callers in four processes", async () => {
  const { vendor, keeper, pass } = await setUp();
  vendor.expireAccess();
  vendor.trouble = ["hold"];
  const keepers = Array.from({ length: 4 }, keeper);
  const calls = Promise.all(Array.from({ length: 20 }, (_, index) => keepers[index % 4]?.use(vendor.call)));
  await settle();
  vendor.release();
  expect(await pass(calls)).toEqual(Array(20).fill("deals"));
  expect(vendor.requests).toEqual(["refresh-1"]);
});

test("takes the pair that another process stored instead of refreshing", async () => {
  const { vendor, keeper, storage } = await setUp();
  const old = await keeper().current();
  const pair = await vendor.refresh({ refreshToken: "refresh-1" });
  await storage.tokens.save("amocrm", pair, 1);
  expect((await keeper().replace(old)).accessToken).toBe("access-2");
  expect(vendor.requests).toHaveLength(1);
});

test("looks again inside the lease: another process may have refreshed between the look and the lease", async () => {
  const { vendor, storage, clock } = await setUp();
  vendor.expireAccess();
  const acquire: typeof storage.leases.acquire = async (...request) => {
    if (vendor.requests.length === 0) {
      await storage.tokens.save("amocrm", await vendor.refresh({ refreshToken: "refresh-1" }), 1);
    }
    return storage.leases.acquire(...request);
  };
  const { use } = createTokenKeeper({
    vendor: "amocrm",
    key: "amocrm",
    storage: { tokens: storage.tokens, leases: { ...storage.leases, acquire } },
    refresh: vendor.refresh,
    clock,
  });
  expect(await use(vendor.call)).toBe("deals");
  expect(vendor.requests).toEqual(["refresh-1"]);
});

test("waits out the lease of a process that was killed inside the refresh", async () => {
  const { vendor, keeper, storage, pass, clock } = await setUp();
  vendor.expireAccess();
  await storage.leases.acquire("token amocrm", { holder: "killed", ttlMs: 60_000 });
  expect(await pass(keeper().use(vendor.call))).toBe("deals");
  expect(clock.monotonicMs()).toBe(60_000);
});

test("gives up waiting for another process after a while, having changed nothing", async () => {
  const { vendor, keeper, storage, pass } = await setUp({ waitMs: 5000 });
  vendor.expireAccess();
  await storage.leases.acquire("token amocrm", { holder: "slow", ttlMs: 60_000 });
  await expect(pass(keeper().use(vendor.call))).rejects.toMatchObject({ code: "timeout", outcome: "not-executed" });
  expect(vendor.requests).toEqual([]);
});

test("asks once more with the same token when the vendor failed before executing", async () => {
  const { vendor, keeper } = await setUp();
  vendor.expireAccess();
  vendor.trouble = ["fail"];
  expect(await keeper().use(vendor.call)).toBe("deals");
  expect(vendor.requests).toEqual(["refresh-1", "refresh-1"]);
});

test("marks the connection when a lost answer had consumed the refresh token, and tells once", async () => {
  const { vendor, keeper, storage, alerts } = await setUp();
  vendor.expireAccess();
  vendor.trouble = ["drop"];
  const { use, current } = keeper();
  await expect(use(vendor.call)).rejects.toThrow(NeedsReauthError);
  expect(vendor.requests).toEqual(["refresh-1", "refresh-1"]);
  expect(await storage.tokens.get("amocrm")).toMatchObject({ accessToken: "access-1", state: "needs_reauth" });
  await expect(use(vendor.call)).rejects.toThrow(NeedsReauthError);
  expect(vendor.requests).toHaveLength(2);
  expect(alerts()).toBe(1);
  expect((await current()).accessToken).toBe("access-1"); // may still be accepted for a while
});

test("changes nothing when the vendor does not answer at all", async () => {
  const { vendor, keeper, storage, alerts } = await setUp();
  vendor.expireAccess();
  vendor.trouble = ["fail", "fail"];
  const { use } = keeper();
  await expect(use(vendor.call)).rejects.toThrow("502");
  expect(await storage.tokens.get("amocrm")).toMatchObject({ state: "active", version: 1 });
  expect(alerts()).toBe(0);
  expect(await use(vendor.call)).toBe("deals");
});

test.each([402, 403, 429])("does not mark the connection when the refresh is answered %d", async (status) => {
  const { keeper, storage } = await setUp({ refresh: () => Promise.reject(answered(status)) });
  await expect(keeper().replace(await keeper().current())).rejects.toThrow(String(status));
  expect((await storage.tokens.get("amocrm"))?.state).toBe("active");
});

test("works again after a person has connected the account anew", async () => {
  const { vendor, keeper, storage } = await setUp({ pair: { accessToken: "old", refreshToken: "revoked" } });
  const { use } = keeper();
  await expect(use(vendor.call)).rejects.toThrow(NeedsReauthError);
  await storage.tokens.save("amocrm", { accessToken: "access-1", refreshToken: "refresh-1" }, 1);
  expect(await use(vendor.call)).toBe("deals");
});

test("keeps the consent that was given while the old refresh token was being refused", async () => {
  const consented = { accessToken: "access-1", refreshToken: "refresh-1" };
  const { keeper, storage, alerts, vendor } = await setUp({
    pair: { accessToken: "old", refreshToken: "revoked" },
    refresh: async () => {
      await storage.tokens.save("amocrm", consented, 1);
      throw answered(400);
    },
  });
  expect(await keeper().use(vendor.call)).toBe("deals");
  expect(await storage.tokens.get("amocrm")).toMatchObject({ ...consented, state: "active", version: 2 });
  expect(alerts()).toBe(0);
});

test("does not lose the new pair when the store fails while it is saved", async () => {
  const { vendor, keeper: _keeper, storage, pass, clock } = await setUp();
  vendor.expireAccess();
  let failures = 6;
  const tokens = {
    ...storage.tokens,
    save: (...request: Parameters<typeof storage.tokens.save>) =>
      failures-- > 0 ? Promise.reject(new Error("connection lost")) : storage.tokens.save(...request),
  };
  const { use } = createTokenKeeper({
    vendor: "amocrm",
    key: "amocrm",
    storage: { tokens, leases: storage.leases },
    refresh: vendor.refresh,
    clock,
  });
  await expect(pass(use(vendor.call))).rejects.toThrow("connection lost");
  expect(await pass(use(vendor.call))).toBe("deals");
  expect(vendor.requests).toEqual(["refresh-1"]);
});

test("fails with a clear error before the account was ever connected", async () => {
  const { storage, vendor, clock } = await setUp();
  const { use } = createTokenKeeper({ vendor: "amocrm", key: "other", storage, refresh: vendor.refresh, clock });
  await expect(use(vendor.call)).rejects.toThrow("a person must connect the account again");
});

test("does not try to refresh a long-lived token", async () => {
  const { keeper, vendor } = await setUp({ pair: { accessToken: "revoked long-lived token" } });
  await expect(keeper().use(vendor.call)).rejects.toThrow(NeedsReauthError);
  expect(vendor.requests).toEqual([]);
});

const hour = 3_600_000;
const expiring = {
  accessToken: "access-1",
  refreshToken: "refresh-1",
  expiresAt: new Date("2026-11-01T01:00:00Z"),
};

test("refreshes ahead of time only when asked to", async () => {
  const reactive = await setUp({ pair: expiring });
  reactive.clock.advance(2 * hour);
  expect((await reactive.keeper().current()).accessToken).toBe("access-1");
  const ahead = await setUp({ pair: expiring, refreshAheadMs: hour / 4 });
  expect((await ahead.keeper().current()).accessToken).toBe("access-1");
  ahead.clock.advance((hour * 3) / 4);
  expect((await ahead.keeper().current()).accessToken).toBe("access-2");
});

test("goes on with a token that still works when refreshing ahead fails or is under way elsewhere", async () => {
  const { keeper, vendor, clock, storage } = await setUp({ pair: expiring, refreshAheadMs: hour / 4 });
  clock.advance((hour * 3) / 4);
  vendor.trouble = ["fail", "fail"];
  expect((await keeper().current()).accessToken).toBe("access-1");
  await storage.leases.acquire("token amocrm", { holder: "other process", ttlMs: 60_000 });
  expect((await keeper().current()).accessToken).toBe("access-1");
});

test("while the token endpoint is ill, calls with a token that works do not each ask for another one", async () => {
  const pair = { ...expiring, expiresAt: new Date(new Date("2026-11-01T00:00:00Z").getTime() + 10 * hour) };
  const { keeper, vendor, clock } = await setUp({ pair, refreshAheadMs: 10 * hour });
  vendor.trouble = Array.from({ length: 100 }, () => "fail" as const);
  const one = keeper();
  const askedAfter: number[] = [];
  for (const waitMs of [0, 59_000, 1_000, 119_000, 1_000, 239_000, 1_000]) {
    clock.advance(waitMs);
    for (let call = 0; call < 10; call++) expect(await one.use(vendor.call)).toBe("deals");
    askedAfter.push(vendor.requests.length);
  }
  expect(askedAfter).toEqual([1, 1, 2, 2, 3, 3, 4]);
  vendor.trouble = [];
  clock.advance(480_000);
  expect((await one.current()).accessToken).toBe("access-2");
});

test("near its end a token is refreshed ahead again without a long pause", async () => {
  const { keeper, vendor, clock } = await setUp({ pair: expiring, refreshAheadMs: hour });
  const one = keeper();
  clock.advance(hour - 100_000);
  vendor.trouble = ["fail"];
  expect((await one.current()).accessToken).toBe("access-1");
  clock.advance(10_000);
  expect((await one.current()).accessToken).toBe("access-2");
});

test("waits for the refresh elsewhere once the token has ended", async () => {
  const { keeper, pass, clock, storage } = await setUp({ pair: expiring, refreshAheadMs: hour / 4 });
  clock.advance(hour);
  await storage.leases.acquire("token amocrm", { holder: "killed", ttlMs: 60_000 });
  expect((await pass(keeper().current())).accessToken).toBe("access-2");
});
