import { ApiError, BlockedError, ConfigError } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test, vi } from "vitest";
import { createBitrix, createDealSweep, createWorker, InputError, type ListProgress, reference } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";

const origin = "https://fake.bitrix24.kz";
/** Fast enough that no test waits for a slot. */
const budget = { intervalMs: 0.001, capacity: 1 };

function setUp(options: FakeBitrixOptions = {}) {
  const fake = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 }, ...options });
  const storage = createMemoryStorage();
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl(origin),
    fetch: fetchFrom(fake.handle),
    storage,
    plan: budget,
    minDelayMs: 1,
    retries: 2,
    operatingLimitSeconds: typeof options.operatingLimitSeconds === "number" ? options.operatingLimitSeconds : 450,
  });
  return { fake, bitrix, storage };
}

describe("the address", () => {
  test.each([
    ["no secret", "https://example.bitrix24.kz/rest/1/"],
    ["plain HTTP", "http://example.bitrix24.kz/rest/1/s3cretvalue/"],
    ["a method at the end", "https://example.bitrix24.kz/rest/1/s3cretvalue/crm.deal.list"],
    ["no address", "s3cretvalue"],
  ])("is refused with %s, without being repeated in the message", (_case, webhookUrl) => {
    const create = () => createBitrix({ webhookUrl });
    expect(create).toThrow(ConfigError);
    expect(create).not.toThrow(/s3cretvalue/);
  });
});

describe("call", () => {
  test("gives the result of a method", async () => {
    const { fake, bitrix } = setUp();
    const { id } = fake.addDeal({ title: "Гүлдер + 1 & 100%" });
    expect(await bitrix.call("crm.deal.get", { id })).toMatchObject({ ID: String(id), TITLE: "Гүлдер + 1 & 100%" });
  });

  test.each([
    ["an empty code", "crm.deal.get", ""],
    ["the code 0 as a number", "catalog.product.update", "0"],
    ["a long number", "sale.order.get", "200540400001"],
  ])("fails by the presence of an error: %s", async (_case, method, vendorCode) => {
    const { bitrix } = setUp();
    await expect(bitrix.call(method, { id: 1 })).rejects.toMatchObject({ vendorCode, outcome: "refused" });
  });

  test("repeats what was refused for the rate, whatever the method", async () => {
    const { fake, bitrix } = setUp();
    fake.faults.add({ fault: { kind: "rateLimit" }, times: 2 });
    await bitrix.call("crm.deal.add", { fields: { TITLE: "Роза" } });
    expect(fake.deals).toHaveLength(1);
  });

  test("repeats a read after a lost reply, but not a write", async () => {
    const { fake, bitrix } = setUp();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    expect(await bitrix.call("crm.category.list", { entityTypeId: 2 })).toBeDefined();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await expect(bitrix.call("crm.deal.add", { fields: {} })).rejects.toMatchObject({ outcome: "unknown" });
    fake.faults.add({ fault: { kind: "failAfterExecuting", status: 502 } });
    await expect(bitrix.call("crm.deal.add", { fields: {} })).rejects.toMatchObject({ outcome: "unknown" });
    expect(fake.deals).toHaveLength(2);
  });

  test("does not repeat event.offline.get after a lost reply: what it hands out leaves the queue", async () => {
    const { fake, bitrix } = setUp();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await expect(bitrix.call("event.offline.get")).rejects.toMatchObject({ outcome: "unknown" });
    expect(fake.journal.entries).toHaveLength(1);
  });

  test("stops everything after OVERLOAD_LIMIT until a person acts", async () => {
    const { fake, bitrix, storage } = setUp();
    fake.faults.add({ fault: { kind: "block" } });
    await expect(bitrix.call("profile")).rejects.toBeInstanceOf(BlockedError);
    fake.faults.clear();
    await expect(bitrix.call("profile")).rejects.toBeInstanceOf(BlockedError);
    expect(fake.journal.count("/profile")).toBe(1);
    await storage.rateLimits.unblock("bitrix:fake.bitrix24.kz");
    expect(await bitrix.call("profile")).toMatchObject({ ID: "1" });
  });

  test("never shows the webhook's secret in an error", async () => {
    const { fake, bitrix } = setUp();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    const error: Error = await bitrix.call("crm.deal.add", { fields: {} }).then(
      () => expect.unreachable(),
      (thrown) => thrown,
    );
    expect(JSON.stringify([error.message, error.stack, error])).not.toContain("fake-webhook-secret");
  });

  test("lets a method rest when its operating time is used up, and no other", async () => {
    const clock = createFakeClock();
    const fake = createFakeBitrix({ clock, operatingLimitSeconds: 5, costs: { "crm.item.update": 3 } });
    const { id } = fake.addDeal({});
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      fetch: fetchFrom(fake.handle),
      plan: budget,
      operatingLimitSeconds: 5,
      clock,
    });
    await drive(clock, bitrix.deals.update(String(id), { title: "1" }));
    await drive(clock, bitrix.deals.update(String(id), { title: "2" }));
    const before = clock.now().getTime();
    const third = bitrix.deals.update(String(id), { title: "3" });
    expect(await drive(clock, bitrix.deals.get(String(id)))).toMatchObject({ title: "2" });
    expect(await drive(clock, third, 5_000)).toMatchObject({ title: "3" });
    expect(clock.now().getTime() - before).toBeGreaterThan(500_000);
    expect(fake.refusals.operating).toBe(0);
  });
});

test("two processes on one address stay within the portal's limit together", async () => {
  const clock = createFakeClock();
  const storage = createMemoryStorage({ clock });
  const fake = createFakeBitrix({ clock });
  const [first, second] = [1, 2].map(() =>
    createBitrix({ webhookUrl: fake.webhookUrl(origin), fetch: fetchFrom(fake.handle), storage, clock }),
  );
  const calls = Array.from({ length: 120 }, (_, index) => (index % 2 ? first : second)?.call("profile"));
  const startedAt = clock.now().getTime();
  await drive(clock, Promise.all(calls), 50);
  expect(fake.refusals.rate).toBe(0);
  // 120 calls at 2 per second; the fake clock also runs on while a busy machine is between two calls.
  expect(clock.now().getTime() - startedAt).toBeLessThan(90_000);
});

/** Moves the clock until the work is done. */
async function drive<Value>(
  clock: ReturnType<typeof createFakeClock>,
  work: Promise<Value>,
  stepMs = 10,
): Promise<Value> {
  let done = false;
  const watched = work.finally(() => {
    done = true;
  });
  watched.catch(() => undefined);
  while (!done) {
    for (let turn = 0; turn < 50 && !done; turn++) await new Promise((resolve) => setImmediate(resolve));
    if (!done && clock.sleepers > 0) clock.advance(stepMs);
  }
  return watched;
}

describe("a renamed portal", () => {
  test("is followed with the same call, and remembered", async () => {
    const { fake, storage } = setUp();
    const moved: Request[] = [];
    const hosts = fetchFrom(async (request) => {
      if (new URL(request.url).host === "new-name.bitrix24.kz") {
        moved.push(request.clone());
        fake.redirectTo(undefined);
      } else fake.redirectTo("https://new-name.bitrix24.kz");
      return fake.handle(request);
    });
    const client = createBitrix({ webhookUrl: fake.webhookUrl(origin), fetch: hosts, storage, plan: budget });
    await client.call("crm.deal.add", { fields: { TITLE: "Роза" } });
    expect(moved.map(({ method }) => method)).toEqual(["POST"]);
    expect(fake.deals.map(({ title }) => title)).toEqual(["Роза"]);
    const another = createBitrix({ webhookUrl: fake.webhookUrl(origin), fetch: hosts, storage, plan: budget });
    await another.call("profile");
    expect(moved).toHaveLength(2);
  });

  test.each(["https://evil.example", "https://other.bitrix24.ru", "http://new.bitrix24.kz"])(
    "is not followed to %s: the address holds the secret",
    async (target) => {
      const { fake, bitrix } = setUp();
      fake.redirectTo(target);
      const error: unknown = await bitrix.call("profile").catch((thrown) => thrown);
      expect(error).toBeInstanceOf(ApiError);
      expect((error as ApiError).message).not.toContain("fake-webhook-secret");
      expect(fake.journal.entries).toHaveLength(1);
    },
  );
});

describe("batch", () => {
  test("tells of each command what became of it", async () => {
    const { fake, bitrix } = setUp();
    const { id } = fake.addDeal({ title: "Роза" });
    const items = await bitrix.batch({
      good: { method: "crm.deal.update", parameters: { id, fields: { TITLE: "Тюльпан #1 & 2" } } },
      bad: { method: "crm.deal.update", parameters: { id: 1, fields: { TITLE: "x" } } },
      missing: { method: "crm.nothing" },
    });
    expect(items.good).toMatchObject({ state: "done", result: true });
    expect(items.bad).toMatchObject({ state: "failed", code: "", description: "Not found", outcome: "refused" });
    expect(items.missing).toMatchObject({ state: "failed", code: "ERROR_METHOD_NOT_FOUND" });
    expect(fake.deal(id)?.title).toBe("Тюльпан #1 & 2");
  });

  test("reads maps that PHP wrote as lists: numeric keys, and none at all", async () => {
    const { bitrix } = setUp();
    expect(await bitrix.batch({ 0: { method: "profile" }, 1: { method: "scope" } })).toMatchObject({
      0: { state: "done" },
      1: { state: "done", result: ["crm", "sale", "catalog"] },
    });
    expect(await bitrix.batch({ 0: { method: "crm.nothing" }, 1: { method: "scope" } })).toMatchObject({
      0: { state: "failed" },
      1: { state: "done" },
    });
    expect(await bitrix.batch([{ method: "crm.nothing" }])).toMatchObject([{ state: "failed" }]);
    expect(await bitrix.batch([])).toEqual([]);
  });

  test("names 25 bad ids of 500 updates and carries out the rest", async () => {
    const { fake, bitrix } = setUp({ operatingLimitSeconds: 100_000 });
    const commands = Array.from({ length: 500 }, (_, index) => {
      const id = index % 20 === 0 ? 999_000 + index : fake.addDeal({ title: "old" }).id;
      return { method: "crm.deal.update", parameters: { id, fields: { TITLE: "new" } } };
    });
    const items = await bitrix.batch(commands);
    const failed = items.flatMap((item, index) => (item.state === "failed" ? [index] : []));
    expect(failed).toEqual(Array.from({ length: 25 }, (_, index) => index * 20));
    expect(items.filter(({ state }) => state === "done")).toHaveLength(475);
    expect(fake.deals.filter(({ title }) => title === "new")).toHaveLength(475);
    // 14 at first, then 33 of 1.34 s: none comes near the 60 s at which the portal ends a request.
    expect(fake.journal.count("/batch")).toBe(21);
  });

  test.each([
    ["crm.item.update", 3.19],
    ["crm.deal.update", 1.34],
  ])("no request runs into the 60 seconds of the portal: 50 of %s", async (method, cost) => {
    const { fake, bitrix } = setUp({ operatingLimitSeconds: 100_000, costs: { [method]: cost } });
    const commands = Array.from({ length: 50 }, () => {
      const { id } = fake.addDeal({ title: "old" });
      const fields = method === "crm.item.update" ? { title: "new" } : { TITLE: "new" };
      return { method, parameters: { id, fields, ...(method === "crm.item.update" && { entityTypeId: 2 }) } };
    });
    const items = await bitrix.batch(commands);
    expect(items.filter(({ state }) => state !== "done")).toEqual([]);
    expect(fake.deals.filter(({ title }) => title === "new")).toHaveLength(50);
  });

  test("commands that refer to each other stay in one request, however long they may take", async () => {
    const { fake, bitrix } = setUp({ operatingLimitSeconds: 100_000, costs: { "crm.deal.add": 0.5 } });
    const add = { method: "crm.deal.add", parameters: { fields: { TITLE: "x" } } };
    const items = await bitrix.batch([
      ...Array.from({ length: 29 }, () => add),
      { method: "crm.deal.update", parameters: { id: reference("c0"), fields: { TITLE: "renamed" } } },
    ]);
    expect(items.filter(({ state }) => state !== "done")).toEqual([]);
    expect(fake.journal.count("/batch")).toBe(1);
  });

  test("leaves the commands after a failure not run under halt, in later requests too", async () => {
    const { fake, bitrix } = setUp();
    const add = { method: "crm.deal.add", parameters: { fields: { TITLE: "x" } } };
    const items = await bitrix.batch([add, { method: "crm.nothing" }, ...Array.from({ length: 60 }, () => add)], {
      halt: true,
    });
    expect(items[0]?.state).toBe("done");
    expect(items[1]?.state).toBe("failed");
    expect(new Set(items.slice(2).map(({ state }) => state))).toEqual(new Set(["not-run"]));
    expect(fake.deals).toHaveLength(1);
  });

  test("says unknown for writes whose reply was lost, and not-run when nothing was sent", async () => {
    const { fake, bitrix } = setUp();
    const add = { method: "crm.deal.add", parameters: { fields: { TITLE: "x" } } };
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    expect((await bitrix.batch([add, add])).map(({ state }) => state)).toEqual(["unknown", "unknown"]);
    fake.faults.add({ fault: { kind: "block" } });
    expect((await bitrix.batch([add])).map(({ state }) => state)).toEqual(["not-run"]);
    expect(fake.deals).toHaveLength(2);
  });

  test("takes a value from an earlier command", async () => {
    const { fake, bitrix } = setUp();
    await bitrix.batch({
      deal: { method: "crm.deal.add", parameters: { fields: { TITLE: "Роза" } } },
      move: { method: "crm.deal.update", parameters: { id: reference("deal"), fields: { STAGE_ID: "WON" } } },
    });
    expect(fake.deals[0]).toMatchObject({ title: "Роза", stageId: "WON" });
  });

  test.each([
    ["text that looks like a reference", { title: "$result[deal]" }],
    ["null", { title: null }],
    ["an empty list", { title: [] }],
  ])("refuses %s, which a batch cannot carry", async (_case, fields) => {
    const { fake, bitrix } = setUp();
    await expect(bitrix.batch([{ method: "crm.deal.add", parameters: { fields } }])).rejects.toBeInstanceOf(InputError);
    expect(fake.journal.entries).toEqual([]);
  });

  test("refuses a reference to a command that is not earlier in the same request", async () => {
    const { bitrix } = setUp();
    const fill = Array.from({ length: 50 }, () => ({ method: "profile" }));
    const late = { method: "crm.deal.get", parameters: { id: reference("c0") } };
    await expect(bitrix.batch([...fill, late])).rejects.toBeInstanceOf(ConfigError);
  });
});

describe("list", () => {
  test.each(["crm.deal.list", "crm.item.list"])("gives every row of %s once while rows come and go", async (method) => {
    const { fake, bitrix } = setUp();
    const first = Array.from({ length: 120 }, () => fake.addDeal({ title: "keep" }).id);
    const seen: number[] = [];
    const parameters = method === "crm.item.list" ? { entityTypeId: 2 } : {};
    for await (const row of bitrix.list<Record<string, unknown>>(method, parameters)) {
      seen.push(Number(row.ID ?? row.id));
      if (seen.length === 20) {
        for (const id of first.slice(0, 10)) fake.deleteDeal(id);
        fake.addDeal({ title: "late" });
      }
    }
    expect(seen.slice(0, 120)).toEqual(first);
    expect(new Set(seen).size).toBe(121);
  });

  test("brings 2 500 rows in a request once it has begun, each once", async () => {
    const { fake, bitrix } = setUp({ operatingLimitSeconds: 1_000_000 });
    const ids = Array.from({ length: 7_777 }, () => fake.addDeal({ title: "Роза & co #1" }).id);
    const seen: number[] = [];
    const options = { parallel: 1 };
    for await (const { id } of bitrix.deals.list({ filter: { "=title": "Роза & co #1" } }, options))
      seen.push(Number(id));
    expect(seen).toEqual(ids);
    expect(fake.journal.entries.map(({ path }) => path)).toEqual(Array(7).fill("/batch"));
  });

  test.each([
    [50, 2], // a full page may be followed by another
    [49, 1],
    [120, 2],
    [25_000, 11],
  ])("%i rows take %i requests: a page and the last id, then 2 500 in each", async (rows, requests) => {
    const { fake, bitrix } = setUp({ operatingLimitSeconds: 1_000_000, costs: { "crm.item.list": 0 } });
    const ids = Array.from({ length: rows }, () => fake.addDeal({}).id);
    const seen: number[] = [];
    for await (const { id } of bitrix.deals.list()) seen.push(Number(id));
    expect(seen).toEqual(ids);
    expect(fake.journal.entries).toHaveLength(requests);
  });

  test("asks for the last id again when the method had to rest meanwhile, and stays quick in sparse ids", async () => {
    const { fake, bitrix } = setUp({ costs: {} });
    const ids = Array.from({ length: 40_000 }, () => fake.addDeal({}).id);
    for (const [index, id] of ids.entries()) if (index >= 200 && index % 400 !== 0) fake.deleteDeal(id);
    let looks = 0;
    fake.setBeforeCommand((_method, { order }) => {
      const isLook = (order as Record<string, string> | undefined)?.id === "DESC";
      return isLook && ++looks === 1 ? { status: 429, error: "OPERATION_TIME_LIMIT" } : undefined;
    });
    const stop = new AbortController();
    const seen: number[] = [];
    // The method rests for a minute: what came before it is handed out.
    const read = async (): Promise<void> => {
      for await (const { id } of bitrix.deals.list({}, { signal: stop.signal })) {
        if (seen.push(Number(id)) === 50) stop.abort();
      }
    };
    await expect(read()).rejects.toThrow();
    expect([seen, looks]).toEqual([ids.slice(0, 50), 1]);
    seen.length = 0;
    const fresh = createBitrix({ webhookUrl: fake.webhookUrl(origin), fetch: fetchFrom(fake.handle), plan: budget });
    const before = fake.journal.entries.length;
    for await (const { id } of fresh.deals.list()) seen.push(Number(id));
    expect(seen).toEqual(fake.deals.map(({ id }) => id));
    // 40 000 ids at first sight, of which 1 in 400 is left: the ranges grow with what they find.
    expect(fake.journal.entries.length - before).toBeLessThan(16);
  });

  test("reads ranges of ids side by side, hands rows out in order, and tells of its progress", async () => {
    const clock = createFakeClock();
    const fake = createFakeBitrix({ clock, takesTime: true, operatingLimitSeconds: 1_000_000 });
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      fetch: fetchFrom(fake.handle),
      plan: budget,
      operatingLimitSeconds: 1_000_000,
      clock,
    });
    const ids = Array.from({ length: 6_000 }, () => fake.addDeal({}).id);
    // Ids lie close in one half and far apart in the other.
    for (const id of ids.slice(3_000)) if (id % 7 !== 0) fake.deleteDeal(id);
    const left = fake.deals.map(({ id }) => id);
    const progress: ListProgress[] = [];
    const read = async (parallel: number) => {
      const seen: number[] = [];
      const startedAt = clock.now().getTime();
      for await (const { id } of bitrix.deals.list({}, { parallel, onProgress: (now) => progress.push(now) }))
        seen.push(Number(id));
      return { seen, seconds: (clock.now().getTime() - startedAt) / 1000 };
    };
    const sideBySide = await drive(clock, read(8), 10);
    expect(sideBySide.seen).toEqual(left);
    expect(progress.at(-1)).toEqual({ rows: left.length, after: String(left.at(-1)), lastId: String(left.at(-1)) });
    expect((await drive(clock, read(1), 10)).seconds).toBeGreaterThan(sideBySide.seconds * 2);
  });

  test("loses and doubles no row while 20 are added and 20 deleted in each second", async () => {
    const clock = createFakeClock();
    const fake = createFakeBitrix({ clock, takesTime: true, costs: { "crm.item.list": 0.069 } });
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      fetch: fetchFrom(fake.handle),
      clock,
      plan: budget,
    });
    const all = Array.from({ length: 5_000 }, () => fake.addDeal({}).id);
    const doomed = all.filter((_, index) => index % 5 === 3).reverse();
    const kept = all.filter((_, index) => index % 5 !== 3);
    const stop = new AbortController();
    let edits = 0;
    const edit = async () => {
      while (!stop.signal.aborted) {
        fake.addDeal({ title: "жаңа" });
        const id = doomed.splice((edits * 37) % doomed.length, 1)[0];
        if (id !== undefined) fake.deleteDeal(id);
        edits++;
        await clock.sleep(50, stop.signal).catch(() => undefined);
      }
    };
    const editing = edit();
    const seen: number[] = [];
    const read = async () => {
      for await (const { id } of bitrix.deals.list()) seen.push(Number(id));
    };
    await drive(clock, read(), 10);
    stop.abort();
    await editing;
    expect(edits).toBeGreaterThan(20);
    expect(new Set(seen).size).toBe(seen.length);
    expect(kept.filter((id) => !new Set(seen).has(id))).toEqual([]);
  });

  test("a rest that one process was told of holds for the others on its storage", async () => {
    const clock = createFakeClock();
    const storage = createMemoryStorage({ clock });
    const fake = createFakeBitrix({ clock, operatingLimitSeconds: 5, costs: { "crm.item.update": 3 } });
    const { id } = fake.addDeal({});
    const [first, second] = [1, 2].map(() =>
      createBitrix({
        webhookUrl: fake.webhookUrl(origin),
        fetch: fetchFrom(fake.handle),
        plan: budget,
        operatingLimitSeconds: 100, // expects too much: only the refusal tells
        storage,
        clock,
      }),
    );
    for (const title of ["1", "2"]) {
      await drive(clock, first?.deals.update(String(id), { title }) as Promise<unknown>);
    }
    const again = first?.deals.update(String(id), { title: "3" }) as Promise<unknown>;
    await drive(
      clock,
      vi.waitFor(() => expect(fake.refusals.operating).toBe(1)),
      1,
    );
    const other = second?.deals.update(String(id), { title: "4" }) as Promise<unknown>;
    await drive(clock, Promise.all([again, other]), 5_000);
    expect(fake.refusals.operating).toBe(1);
  });

  test("goes on page by page when a filter cannot travel in a batch", async () => {
    const { fake, bitrix } = setUp();
    const ids = Array.from({ length: 120 }, () => fake.addDeal({ title: "$result[p0]" }).id);
    const seen: number[] = [];
    for await (const { id } of bitrix.deals.list({ filter: { "=title": "$result[p0]" } })) seen.push(Number(id));
    expect(seen).toEqual(ids);
    expect(fake.journal.count("/batch")).toBe(0);
  });

  test("rests with the method and then goes on where it was", async () => {
    const clock = createFakeClock();
    const fake = createFakeBitrix({ clock, operatingLimitSeconds: 3, costs: { "crm.item.list": 0.3 } });
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      fetch: fetchFrom(fake.handle),
      plan: budget,
      operatingLimitSeconds: 100, // expects too much: the portal's own refusal has to do
      minDelayMs: 1,
      clock,
    });
    const ids = Array.from({ length: 1_000 }, () => fake.addDeal({}).id);
    const read = async () => {
      const seen: number[] = [];
      for await (const { id } of bitrix.deals.list({}, { parallel: 1 })) seen.push(Number(id));
      return seen;
    };
    expect(await drive(clock, read(), 5_000)).toEqual(ids);
    expect(fake.refusals.operating).toBeGreaterThan(0);
  });

  test("keeps the caller's filter and continues after an id", async () => {
    const { fake, bitrix } = setUp();
    const ids = Array.from({ length: 6 }, (_, index) => fake.addDeal({ title: index % 2 ? "odd" : "even" }).id);
    const seen: string[] = [];
    for await (const { id } of bitrix.deals.list({ filter: { "=title": "odd" } }, { after: String(ids[1]) }))
      seen.push(id);
    expect(seen).toEqual([String(ids[3]), String(ids[5])]);
  });

  test("a page that the portal could not answer is asked for again, a few times in a row", async () => {
    const { fake, bitrix } = setUp();
    for (let index = 0; index < 400; index++) fake.addDeal({ title: "Гүл" });
    const internal = { status: 500, error: "INTERNAL_SERVER_ERROR" };
    let calls = 0;
    fake.setBeforeCommand(() => (++calls === 4 ? internal : undefined));
    const ids: string[] = [];
    for await (const { ID } of bitrix.list<{ ID: string }>("crm.deal.list")) ids.push(ID);
    expect(ids).toEqual(fake.deals.map(({ id }) => String(id)));

    calls = 0;
    fake.setBeforeCommand(() => (++calls > 3 ? internal : undefined));
    const read = async () => {
      for await (const _row of bitrix.list("crm.deal.list"));
    };
    await expect(read()).rejects.toMatchObject({ vendorCode: "INTERNAL_SERVER_ERROR", outcome: "unknown" });
  });

  test("a select leaves the typed lists what their rows are made of", async () => {
    const { fake, bitrix } = setUp();
    fake.addCategory(9, "Опт", [{ id: "C9:NEW", name: "Жаңа", sort: 10, semantics: "process" }]);
    fake.moveToCategory(fake.addDeal({ title: "Гүл" }).id, 9, "C9:NEW");
    const deals = bitrix.deals.list({ select: ["title", "stageId"] });
    expect((await deals.next()).value).toMatchObject({ title: "Гүл", stageId: "C9:NEW", categoryId: "9" });
    fake.addShopOrder({ id: 146, statusId: "P", payed: "Y" });
    const orders = bitrix.orders.list({ select: ["id"] });
    expect((await orders.next()).value).toMatchObject({ id: "146", statusId: "P", paid: true });
    const items = bitrix.items(2).list({ select: ["id", "opportunity"] });
    expect((await items.next()).value).toMatchObject({ title: "Гүл", stageId: "C9:NEW", categoryId: "9" });
    await bitrix.contacts.add({
      originatorId: "shop",
      originId: "buyer-5",
      fields: { NAME: "Айгүл" },
      phones: [{ value: "+77010000001" }],
    });
    const contacts = bitrix.contacts.list({ select: ["ID", "DATE_CREATE"] });
    expect((await contacts.next()).value).toMatchObject({
      name: "Айгүл",
      phones: [{ value: "+77010000001" }],
      originId: "buyer-5",
    });
  });

  test.each(["FILTER", "ORDER", "SELECT", "START"])(
    "refuses %s in capitals, and says how to write it",
    async (name) => {
      const { bitrix } = setUp();
      const rows = bitrix.list("crm.deal.list", { [name]: { ">OPPORTUNITY": 5 } });
      await expect(rows.next()).rejects.toThrow(`write ${name} in lower case: ${name.toLowerCase()}`);
    },
  );

  test("names the option for a method with another field of the id, and takes a select with the filter's name of it", async () => {
    const { fake, bitrix } = setUp();
    fake.moveDeal(fake.addDeal({}).id, "WON");
    await expect(bitrix.list("crm.stagehistory.list", { entityTypeId: 2 }).next()).rejects.toThrow(
      "answered rows without id; set idField, e.g. to ID",
    );
    const rows = bitrix.list("crm.stagehistory.list", { entityTypeId: 2 }, { idField: "ID" });
    expect((await rows.next()).value).toMatchObject({ STAGE_ID: expect.any(String) });
    // Not known to the fake: the portal answers, so the parameters were sent.
    const tasks = bitrix.list("tasks.task.list", { select: ["ID", "TITLE"] }, { filterField: "ID" });
    await expect(tasks.next()).rejects.toBeInstanceOf(ApiError);
  });

  test("stops with an error when the method ignores the cursor", async () => {
    const rows = Array.from({ length: 50 }, (_, index) => ({ ID: String(index + 1) }));
    const bitrix = createBitrix({
      webhookUrl: `${origin}/rest/1/secret-secret/`,
      fetch: async (input) =>
        Response.json({
          result: String(input).endsWith("/batch") ? { result: { r0p0: rows }, result_error: [] } : rows,
        }),
      plan: budget,
    });
    const read = async () => {
      for await (const _row of bitrix.list("crm.deal.list"));
    };
    await expect(read()).rejects.toThrow(/order of ID/);
  });
});

describe("deals", () => {
  test("creates a deal once although every tenth reply is lost", async () => {
    const { fake, bitrix } = setUp();
    let adds = 0;
    fake.faults.add({
      fault: { kind: "dropReplyAfterExecuting" },
      times: 1000,
      match: (request) => request.url.endsWith("crm.item.add") && ++adds % 10 === 0,
    });
    for (let index = 0; index < 100; index++) {
      await bitrix.deals.add({ originatorId: "shop", originId: `order-${index}`, fields: { title: "Роза" } });
    }
    expect(new Set(fake.deals.map(({ fields }) => fields.originId)).size).toBe(100);
    expect(fake.deals).toHaveLength(100);
    expect(fake.faults.hits).toBe(10);
  });

  test("reads the stages of a funnel in their order, with what they mean", async () => {
    const { bitrix } = setUp();
    const stages = await bitrix.deals.stages("0");
    expect(stages.map(({ id }) => id).slice(0, 3)).toEqual(["NEW", "PREPARATION", "PREPAYMENT_INVOICE"]);
    expect(stages.filter(({ semantics }) => semantics !== "process").map(({ id }) => id)).toEqual([
      "WON",
      "LOSE",
      "APOLOGY",
    ]);
  });
});

describe("options that cannot work are refused at creation, by name", () => {
  const webhookUrl = `${origin}/rest/1/secret-secret/`;
  test.each([
    ["plan", { plan: "pro" as "other" }],
    ["retries", { retries: -1 }],
    ["timeoutMs", { timeoutMs: 0 }],
    ["minDelayMs", { minDelayMs: Number.NaN }],
  ])("%s of the client", (name, options) => {
    const create = () => createBitrix({ webhookUrl, ...options });
    expect(create).toThrow(ConfigError);
    expect(create).toThrow(name);
  });

  test.each([
    ["concurrency", { concurrency: 0 }],
    ["pollMs", { pollMs: 0 }],
    ["claimMs", { claimMs: Number.NaN }],
    ["maxAttempts", { maxAttempts: 0 }],
  ])("%s of the worker", (name, options) => {
    const create = () => createWorker({ storage: createBitrixMemoryStorage(), handlers: {}, ...options });
    expect(create).toThrow(ConfigError);
    expect(create).toThrow(name);
  });

  test("intervalMs of a sweep", () => {
    const storage = createBitrixMemoryStorage();
    const bitrix = createBitrix({ webhookUrl });
    const options = { bitrix, storage, core: createMemoryStorage(), sync: "order-deal", intervalMs: 0 };
    expect(() => createDealSweep(options)).toThrow(new ConfigError("intervalMs must be positive"));
  });
});
