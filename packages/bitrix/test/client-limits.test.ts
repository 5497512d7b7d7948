// Our client against what the fake portal can do to it: every reading of the running time, storms of refusals, and rows
// that change between two pages of one request.
import { ApiError, silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, createBitrixConnection } from "../src/index.ts";
import { createFakeBitrix, type FakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";

const origin = "https://fake.bitrix24.kz";
const plan = { intervalMs: 0.001, capacity: 1_000 };

/** Moves the clock until the work is done, but only while no request comes to the portal. */
async function drive<Value>(
  { clock, fake }: { readonly clock: FakeClock; readonly fake: FakeBitrix },
  work: Promise<Value>,
  stepMs: number,
): Promise<Value> {
  let isDone = false;
  const watched = work.finally(() => {
    isDone = true;
  });
  watched.catch(() => undefined);
  while (!isDone) {
    const before = fake.journal.entries.length;
    // What the libraries below do by timers of their own takes real milliseconds.
    await Promise.race([watched.catch(() => undefined), new Promise((resolve) => setTimeout(resolve, 5))]);
    if (!isDone && clock.sleepers > 0 && fake.journal.entries.length === before) clock.advance(stepMs);
  }
  return watched;
}

function setUp(options: FakeBitrixOptions = {}) {
  const clock = createFakeClock();
  const fake = createFakeBitrix({ clock, bucket: { perSecond: 1_000, capacity: 100_000 }, ...options });
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl(origin),
    fetch: fetchFrom(fake.handle),
    operatingLimitSeconds: 28,
    plan,
    clock,
  });
  return { clock, fake, bitrix };
}

describe.each([
  ["methods", 3],
  ["batch", 1],
  ["no-credential", 2],
] as const)("running time counted by %s", (batchAccounting, least) => {
  test("batches and single calls share the budget, and every write is made once", async () => {
    const costs = { "crm.deal.update": 1, "crm.deal.get": 0.2 };
    const { clock, fake, bitrix } = setUp({ batchAccounting, costs, operatingLimitSeconds: 30 });
    const ids = Array.from({ length: 100 }, () => fake.addDeal({}).id);
    const update = (id: number) => ({ method: "crm.deal.update", parameters: { id, fields: { TITLE: "new" } } });
    const startedAt = clock.now().getTime();
    const work = async (): Promise<void> => {
      for (let at = 0; at < ids.length; at += 10) {
        let left = ids.slice(at, at + 9).map(update);
        while (left.length > 0) {
          const items = await bitrix.batch(left);
          // Only what did not run is asked again.
          left = left.filter((_, index) => items[index]?.state === "failed");
        }
        await bitrix.call("crm.deal.update", { id: ids[at + 9] as number, fields: { TITLE: "new" } });
      }
    };
    await drive({ clock, fake }, work(), 10_000);
    expect(fake.writes.map(({ id }) => id)).toEqual(ids);
    expect(fake.refusals.operating).toBe(0);
    // Of 100 s of work 90 are in batches; the portal lets 30 s and the call that crosses them run in ten minutes.
    const pauses = (clock.now().getTime() - startedAt) / 600_000;
    expect(pauses).toBeGreaterThanOrEqual(least);
    expect(pauses).toBeLessThan(least + 1.5);
  });
});

test("a process that comes to a method which others used up waits for its minutes to go by, and gives up after ten", async () => {
  const { clock, fake, bitrix } = setUp({ costs: { "crm.deal.update": 40 }, operatingLimitSeconds: 30 });
  const { id } = fake.addDeal({});
  const update = { id, fields: { TITLE: "new" } };
  await drive({ clock, fake }, bitrix.call("crm.deal.update", update), 100);
  const another = createBitrix({
    webhookUrl: fake.webhookUrl(origin),
    fetch: fetchFrom(fake.handle),
    plan,
    clock,
  });
  expect(await drive({ clock, fake }, another.call("crm.deal.update", update), 10_000)).toBe(true);
  expect(fake.refusals.operating).toBeLessThanOrEqual(10);
  const before = fake.refusals.operating;
  fake.setBeforeCommand(() => ({ status: 429, error: "OPERATION_TIME_LIMIT" }));
  const endless = another.call("crm.deal.get", { id });
  await expect(drive({ clock, fake }, endless, 10_000)).rejects.toMatchObject({ outcome: "not-executed" });
  expect([fake.refusals.operating, fake.journal.count("/crm.deal.get")]).toEqual([before, 11]);
});

test("a rest that a process with a wrong clock shared, days ahead, holds nobody back and is replaced by the next true one", async () => {
  const { clock, fake } = setUp({ costs: { "crm.deal.update": 40 }, operatingLimitSeconds: 30 });
  const { id } = fake.addDeal({});
  const storage = createMemoryStorage({ clock });
  const key = "bitrix-rest:fake.bitrix24.kz:1:crm.deal.update";
  const startedAt = clock.now().getTime();
  await storage.watermarks.advance(key, undefined, String(startedAt + 2 * 86_400_000));
  const warnings: string[] = [];
  const logger = { ...silentLogger, warn: (message: string) => void warnings.push(message) };
  const options = { webhookUrl: fake.webhookUrl(origin), fetch: fetchFrom(fake.handle), plan, clock, storage };
  const bitrix = createBitrix({ ...options, operatingLimitSeconds: 28, logger });
  const update = { id, fields: { TITLE: "new" } };
  await drive({ clock, fake }, bitrix.call("crm.deal.update", update), 1_000);
  expect(clock.now().getTime() - startedAt).toBeLessThan(60_000);
  await drive({ clock, fake }, bitrix.call("crm.deal.update", update), 10_000);
  const until = Number(await storage.watermarks.get(key));
  expect(until - startedAt).toBeLessThanOrEqual(660_000);
  expect(warnings).toContainEqual(
    expect.stringMatching(/^bitrix: crm\.deal\.update has used up its running time and rests for \d{1,3} s$/),
  );
});

test("a caller who waits for the answers of others to its method may give up", async () => {
  const { clock, fake } = setUp({ costs: { "crm.deal.update": 20 }, operatingLimitSeconds: 1_000 });
  const { id } = fake.addDeal({});
  let isHeld = false;
  let letGo = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl(origin),
    fetch: fetchFrom(async (request) => {
      if (isHeld) await held;
      return fake.handle(request);
    }),
    operatingLimitSeconds: 15,
    plan,
    clock,
  });
  const update = { id, fields: { TITLE: "new" } };
  await drive({ clock, fake }, bitrix.call("crm.deal.update", update), 30_000);
  isHeld = true;
  const first = bitrix.call("crm.deal.update", update);
  const leaving = new AbortController();
  const second = bitrix.call("crm.deal.update", update, { signal: leaving.signal });
  await new Promise((resolve) => setImmediate(resolve)); // by then it waits
  leaving.abort(new Error("the caller left"));
  await expect(second).rejects.toThrow();
  letGo();
  await drive({ clock, fake }, first, 30_000);
});

test("a portal without the limiter lets nothing rest", async () => {
  const { clock, fake, bitrix } = setUp({ operatingLimitSeconds: "off", costs: { "crm.deal.update": 100 } });
  const { id } = fake.addDeal({});
  const startedAt = clock.now().getTime();
  const work = async (): Promise<void> => {
    for (let index = 0; index < 20; index++)
      await bitrix.call("crm.deal.update", { id, fields: { TITLE: String(index) } });
  };
  await drive({ clock, fake }, work(), 1_000);
  expect(fake.deal(id)?.title).toBe("19");
  expect(clock.now().getTime() - startedAt).toBeLessThan(10_000);
});

describe("a storm of 401", () => {
  async function connected() {
    const clock = createFakeClock();
    const fake = createFakeBitrix({ clock, bucket: { perSecond: 1_000, capacity: 100_000 } });
    const storage = createMemoryStorage({ clock });
    const fetch = fetchFrom(fake.handle);
    const oauth = createBitrixConnection({
      portalUrl: origin,
      memberId: "a223c6b3710f85df22e9377d6c4f7553",
      clientId: "local.fake",
      clientSecret: "fake-client-secret",
      storage,
      fetch,
      clock,
    });
    await oauth.connect(fake.consent());
    return { clock, fake, bitrix: createBitrix({ oauth, storage, fetch, plan, clock }) };
  }
  const storm = { status: 401, error: "expired_token", description: "The access token provided has expired." };

  test("that refuses every token costs one refresh, however many calls are made in it", async () => {
    const { clock, fake, bitrix } = await connected();
    fake.setBeforeCommand(() => storm);
    const calls = async (): Promise<void> => {
      const together = await Promise.allSettled(Array.from({ length: 20 }, () => bitrix.call("profile")));
      expect(together.every(({ status }) => status === "rejected")).toBe(true);
      for (let index = 0; index < 20; index++) await expect(bitrix.call("profile")).rejects.toBeInstanceOf(ApiError);
    };
    await drive({ clock, fake }, calls(), 100);
    expect(fake.refreshes).toBe(1);
    fake.setBeforeCommand(undefined);
    expect(await drive({ clock, fake }, bitrix.call("profile"), 100)).toMatchObject({ ADMIN: true });
    expect(fake.refreshes).toBe(1);
  });

  test("does not keep the client from refreshing later, when a token ends as it should", async () => {
    const { clock, fake, bitrix } = await connected();
    fake.setBeforeCommand(() => storm);
    await expect(drive({ clock, fake }, bitrix.call("profile"), 100)).rejects.toBeInstanceOf(ApiError);
    fake.setBeforeCommand(undefined);
    clock.advance(3_600_000);
    expect(await drive({ clock, fake }, bitrix.call("profile"), 100)).toMatchObject({ ADMIN: true });
    expect(fake.refreshes).toBe(2);
  });

  test("inside a batch names each command as refused and not run", async () => {
    const { clock, fake, bitrix } = await connected();
    fake.setBeforeCommand((method) => (method === "crm.deal.add" ? storm : undefined));
    const add = { method: "crm.deal.add", parameters: { fields: { TITLE: "x" } } };
    const items = await drive({ clock, fake }, bitrix.batch([add, { method: "profile" }]), 100);
    expect(items).toMatchObject([{ state: "failed", code: "expired_token", outcome: "refused" }, { state: "done" }]);
    expect(fake.deals).toHaveLength(0);
  });
});

test.each([
  ["removed", (fake: FakeBitrix, ids: readonly number[]) => fake.deleteDeal(ids[10] as number)],
  ["added", (fake: FakeBitrix) => void fake.addDeal({ title: "late" })],
  ["moved up in the list", (fake: FakeBitrix, ids: readonly number[]) => fake.moveDeal(ids[400] as number, "WON")],
])(
  "a row that is %s between two pages of one request makes no other be missed or come twice",
  async (_case, change) => {
    const { clock, fake, bitrix } = setUp({ costs: {} });
    const ids = Array.from({ length: 600 }, () => fake.addDeal({}).id);
    let pages = 0;
    fake.setBeforeCommand((method) => {
      if (method === "crm.item.list" && ++pages === 4) change(fake, ids);
      return undefined;
    });
    const read = async (): Promise<number[]> => {
      const seen: number[] = [];
      for await (const { id } of bitrix.deals.list()) seen.push(Number(id));
      return seen;
    };
    const seen = await drive({ clock, fake }, read(), 1_000);
    const kept = ids.filter((id) => fake.deal(id) !== undefined);
    expect(seen.filter((id, index) => seen.indexOf(id) !== index)).toEqual([]);
    expect(kept.filter((id) => !seen.includes(id))).toEqual([]);
    expect(pages).toBeGreaterThan(4);
  },
);
