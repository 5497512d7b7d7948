import { ApiError, type Clock, silentLogger, systemClock } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, createWorker, InputError } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

const origin = "https://fake.bitrix24.kz";

function setUp() {
  const fake = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 } });
  const storage = createMemoryStorage();
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl(origin),
    fetch: fetchFrom(fake.handle),
    storage,
    plan: { intervalMs: 0.001, capacity: 1 },
    minDelayMs: 1,
    retries: 2,
  });
  return { fake, bitrix, storage };
}

/** A portal that gives one answer, whatever it is asked. */
function portalThatAnswers(body: unknown, status = 200) {
  const sent: unknown[] = [];
  const bitrix = createBitrix({
    webhookUrl: `${origin}/rest/1/s3cretvalue/`,
    plan: { intervalMs: 0.001, capacity: 1 },
    minDelayMs: 1,
    retries: 0,
    fetch: async (_url, init) => {
      sent.push(JSON.parse(String(init?.body)));
      return Response.json(body, { status });
    },
  });
  return { bitrix, sent };
}

const add = (title: unknown) => ({ method: "crm.deal.add", parameters: { fields: { TITLE: title as string } } });

describe("what the portal says in words", () => {
  test.each([
    ["Access denied", "Access denied"],
    ["Not found", "Not found"],
    ["Phone +7 701 000 00 01 is taken, write to buyer@shop.kz", "Phone [phone] is taken, write to [email]"],
  ])("%s: an error with an empty code has it, redacted and not in its message", async (said, description) => {
    const { bitrix } = portalThatAnswers({ error: "", error_description: said }, 400);
    const refused = bitrix.call("crm.deal.update", { id: 1 });
    await expect(refused).rejects.toMatchObject({
      vendorCode: "",
      description,
      message: "bitrix: crm.deal.update answered 400",
    });
  });

  test("tells with set-aside work which field the portal wants", async () => {
    const { bitrix } = portalThatAnswers({ error: 0, error_description: "Required fields: name" }, 400);
    const storage = createBitrixMemoryStorage();
    const handlers = { product: async () => void (await bitrix.call("catalog.product.add", { fields: {} })) };
    await storage.work.mark("product", "rose");
    await createWorker({ storage, handlers, maxAttempts: 1, logger: silentLogger }).drain();
    expect(await storage.work.parked({ limit: 1 })).toMatchObject([
      { lastError: "bitrix: catalog.product.add answered 400 0: Required fields: name" },
    ]);
  });
});

describe("a batch of more than one request", () => {
  test("runs nothing when a later command cannot be written", async () => {
    const { fake, bitrix } = setUp();
    const commands = [...Array.from({ length: 50 }, (_, index) => add(`Заказ ${index}`)), add(null)];
    await expect(bitrix.batch(commands)).rejects.toThrow(InputError);
    expect(fake.deals).toHaveLength(0);
  });

  test("still tells what was done when the caller gives up between its requests", async () => {
    const { fake, bitrix } = setUp();
    const stop = new AbortController();
    fake.faults.add({ fault: { kind: "slow", ms: 1 } });
    const items = await bitrix.batch(
      Array.from({ length: 60 }, (_, index) => add(`Заказ ${index}`)),
      {
        get signal() {
          // Read anew for each request: the first one has ended when the second is prepared.
          if (fake.deals.length > 0) stop.abort();
          return stop.signal;
        },
      },
    );
    expect(items.map(({ state }) => state)).toEqual([...Array(14).fill("done"), ...Array(46).fill("not-run")]);
  });

  test("still tells what was done when the shared storage stops answering", async () => {
    const { fake, bitrix, storage } = setUp();
    const { watermarks } = storage;
    const read = watermarks.get;
    storage.watermarks.get = async (key) => {
      if (fake.deals.length > 0 && key.includes("crm.deal.update")) throw new Error("connection lost");
      return read(key);
    };
    const commands = [
      ...Array.from({ length: 50 }, (_, index) => add(`Заказ ${index}`)),
      { method: "crm.deal.update", parameters: { id: 1, fields: { TITLE: "x" } } },
    ];
    const items = await bitrix.batch(commands);
    expect(items.map(({ state }) => state)).toEqual([...Array(50).fill("done"), "not-run"]);
  });
});

test("a command named length is no failure when PHP writes the empty map as a list", async () => {
  const answer = { result: { length: 17 }, result_error: [], result_total: [], result_next: [], result_time: [] };
  const { bitrix } = portalThatAnswers({ result: answer });
  expect(await bitrix.batch({ length: add("Роза") })).toEqual({
    length: { state: "done", result: 17, total: undefined, next: undefined },
  });
});

test("a failure of the database behind a command leaves open whether it ran", async () => {
  const errors = { c0: { error: "ERROR_CORE", error_description: "SQL query error" } };
  const { bitrix } = portalThatAnswers({ result: { result: [], result_error: errors } });
  expect(await bitrix.batch([add("Роза")])).toMatchObject([{ state: "failed", outcome: "unknown" }]);
});

test("a block that only a command of a batch is told of stops everything too", async () => {
  const errors = { c1: { error: "OVERLOAD_LIMIT", error_description: "REST API is blocked due to overload." } };
  const { bitrix, sent } = portalThatAnswers({ result: { result: { c0: 17 }, result_error: errors } });
  expect(await bitrix.batch([add("Роза"), add("Гүл")])).toMatchObject([
    { state: "done" },
    { state: "failed", code: "OVERLOAD_LIMIT", outcome: "not-executed" },
  ]);
  await expect(bitrix.call("crm.deal.get", { id: 17 })).rejects.toMatchObject({ name: "BlockedError" });
  expect(sent).toHaveLength(1);
});

test("an answer of 50 pages of long rows is read", async () => {
  const comments = "Открытка: ".repeat(300);
  const rows = Array.from({ length: 2_500 }, (_, index) => ({ ID: String(index + 1), COMMENTS: comments }));
  const { bitrix } = portalThatAnswers({ result: { result: { c0: rows } } });
  const [page] = await bitrix.batch([{ method: "crm.deal.list" }]);
  expect(page).toMatchObject({ state: "done", result: { length: 2_500 } });
});

describe("a listing whose first range does not come", () => {
  type Answer = { readonly result?: { readonly result?: Readonly<Record<string, { readonly items?: unknown[] }>> } };
  const rowsIn = ({ result }: Answer): number =>
    Object.entries(result?.result ?? {}).reduce(
      (sum, [key, { items = [] }]) => sum + (key === "end" ? 0 : items.length),
      0,
    );

  /** Until nothing more comes. */
  async function noMore(count: () => number): Promise<void> {
    for (let before = -1, quiet = 0; quiet < 200; quiet = count() === before ? quiet + 1 : 0) {
      before = count();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  test("reads no more ahead than twice 2 500 rows for each request side by side", async () => {
    const fake = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 }, costs: { "crm.item.list": 0 } });
    for (let index = 0; index < 25_000; index++) fake.addDeal({});
    const handle = fetchFrom(fake.handle);
    const { promise: gate, resolve: letGo } = Promise.withResolvers<void>();
    let requests = 0;
    let arrived = 0;
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      async fetch(...request) {
        const isFirstRange = ++requests === 2;
        const answer = await handle(...request);
        if (isFirstRange) await gate;
        arrived += rowsIn((await answer.clone().json()) as Answer);
        return answer;
      },
      plan: { intervalMs: 0.001, capacity: 1 },
    });
    let seen = 0;
    const read = async () => {
      for await (const _deal of bitrix.deals.list({}, { parallel: 2 })) seen++;
    };
    const reading = read();
    await noMore(() => requests);
    const waiting = arrived - seen;
    letGo();
    await reading;
    expect(seen).toBe(25_000);
    expect(waiting).toBeGreaterThan(2_500);
    expect(waiting).toBeLessThanOrEqual(2 * 2 * 2_500);
  });

  test("keeps the order of the ids when the last range stumbles meanwhile and is divided", async () => {
    const fake = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 }, costs: { "crm.item.list": 0 } });
    const ids = Array.from({ length: 1_850 }, () => fake.addDeal({}).id);
    let pagesOfLast = 0;
    fake.setBeforeCommand((_method, { filter = {} }) => {
      const { ">id": after, "<=id": to } = filter as Record<string, unknown>;
      if (to !== undefined || !(Number(after) > Number(ids[100])) || ++pagesOfLast !== 3) return undefined;
      return { status: 500, error: "INTERNAL_SERVER_ERROR", description: "" };
    });
    const handle = fetchFrom(fake.handle);
    const { promise: gate, resolve: letGo } = Promise.withResolvers<void>();
    let requests = 0;
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      async fetch(...request) {
        const isFirstRange = ++requests === 2;
        const answer = await handle(...request);
        if (isFirstRange) await gate;
        return answer;
      },
      plan: { intervalMs: 0.001, capacity: 1 },
      minDelayMs: 1,
    });
    const seen: number[] = [];
    const read = async () => {
      for await (const { id } of bitrix.deals.list({}, { parallel: 3 })) seen.push(Number(id));
    };
    const reading = read();
    await noMore(() => requests);
    letGo();
    await reading;
    expect(pagesOfLast).toBeGreaterThan(3);
    expect(seen).toEqual(ids);
  });

  test("is given up after its retries, whatever the other ranges bring", async () => {
    const fake = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 1000 }, costs: { "crm.item.list": 0 } });
    const ids = Array.from({ length: 25_000 }, () => fake.addDeal({}).id);
    let asked = 0;
    let requests = 0;
    fake.setBeforeCommand((_method, parameters) => {
      requests++;
      if ((parameters.filter as Record<string, unknown> | undefined)?.[">id"] !== String(ids[49])) return undefined;
      asked++;
      return { status: 500, error: "INTERNAL_SERVER_ERROR", description: "" };
    });
    const pauses: number[] = [];
    const ends: (() => void)[] = [];
    const clock: Clock = {
      ...systemClock,
      sleep(ms, signal) {
        if (ms < 1_000 || ms === 65_000) return systemClock.sleep(ms, signal); // slots, timeouts
        pauses.push(ms);
        return new Promise((resolve) => ends.push(resolve));
      },
    };
    const bitrix = createBitrix({
      webhookUrl: fake.webhookUrl(origin),
      fetch: fetchFrom(fake.handle),
      plan: { intervalMs: 0.001, capacity: 1 },
      clock,
      minDelayMs: 1_000,
      retries: 4,
    });
    let seen = 0;
    const read = async () => {
      for await (const _deal of bitrix.deals.list()) seen++;
    };
    const reading = expect(read()).rejects.toMatchObject({ vendorCode: "INTERNAL_SERVER_ERROR" });
    for (let time = 1; time <= 4; time++) {
      await noMore(() => requests);
      expect(asked).toBe(time);
      ends.shift()?.();
    }
    await reading;
    expect([seen, asked, pauses]).toEqual([50, 5, [1_000, 2_000, 4_000, 8_000]]);
  });
});

test("a storage that fails once does not spoil the client for ever", async () => {
  const { bitrix, storage } = setUp();
  const read = storage.watermarks.get;
  storage.watermarks.get = async (key) => {
    if (key.startsWith("bitrix-origin")) throw new Error("connection lost");
    return read(key);
  };
  await expect(bitrix.call("crm.category.list", { entityTypeId: 2 })).rejects.toThrow();
  storage.watermarks.get = read;
  expect(await bitrix.call("crm.category.list", { entityTypeId: 2 })).toBeDefined();
});

test.each([
  ["null", { total: null, next: null }],
  ["text", { total: "12", next: "50" }],
  ["nonsense", { total: [], next: {} }],
])("a write that ran is not called a failure for a %s beside its result", async (_case, extra) => {
  const { bitrix } = portalThatAnswers({ result: 17, ...extra });
  expect(await bitrix.call("crm.deal.add", { fields: { TITLE: "Роза" } })).toBe(17);
});

test.each([
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["a date that is none", new Date("x")],
])("%s is refused and named: JSON would carry it as null, which empties the field", async (_case, value) => {
  const { bitrix, sent } = portalThatAnswers({ result: true });
  const parameters = { id: 1, fields: { OPPORTUNITY: value } };
  await expect(bitrix.call("crm.deal.update", parameters)).rejects.toMatchObject({
    name: "InputError",
    field: expect.stringMatching(/OPPORTUNITY/),
  });
  await expect(bitrix.batch([{ method: "crm.deal.update", parameters }])).rejects.toMatchObject({
    name: "InputError",
    field: expect.stringMatching(/OPPORTUNITY/),
  });
  expect(sent).toEqual([]);
});

describe("the id of one's own system", () => {
  test.each([
    [
      "deals",
      (bitrix: ReturnType<typeof setUp>["bitrix"]) =>
        bitrix.deals.add({ originatorId: "shop", originId: "", fields: {} }),
    ],
    [
      "contacts",
      (bitrix: ReturnType<typeof setUp>["bitrix"]) => bitrix.contacts.add({ originatorId: "shop", originId: "" }),
    ],
    [
      "elements",
      (bitrix: ReturnType<typeof setUp>["bitrix"]) =>
        bitrix.items(2).add({ match: { originatorId: "shop", originId: undefined }, fields: {} }),
    ],
  ] as const)("must not be empty for %s: two of them would become one", async (_case, create) => {
    const { fake, bitrix } = setUp();
    await expect((async () => create(bitrix))()).rejects.toThrow(InputError);
    expect(fake.journal.entries).toEqual([]);
  });
});

test.each([
  ["hours ahead", 3 * 3_600],
  ["hours behind", -3 * 3_600],
])("a method rests until its window moves on, also when the portal's clock is %s", async (_case, skewSeconds) => {
  const clock = createFakeClock();
  const portalNow = () => clock.now().getTime() / 1000 + skewSeconds;
  let operating = 470;
  const resetAt = portalNow() + 120;
  const bitrix = createBitrix({
    webhookUrl: `${origin}/rest/1/s3cretvalue/`,
    plan: { intervalMs: 0.001, capacity: 1 },
    clock,
    storage: createMemoryStorage({ clock }),
    fetch: async () => {
      const time = { start: portalNow(), finish: portalNow(), operating, operating_reset_at: resetAt, processing: 1 };
      return Response.json({ result: true, time });
    },
  });
  /** How many seconds a call takes. */
  async function call(): Promise<number> {
    let isOver = false;
    const ended = bitrix.call("crm.deal.update", { id: 1 }).finally(() => {
      isOver = true;
    });
    let seconds = 0;
    for (; !isOver && seconds < 700; seconds++) {
      for (let turn = 0; turn < 100 && !isOver; turn++) await new Promise((resolve) => setImmediate(resolve));
      if (!isOver) clock.advance(1_000);
    }
    await ended;
    return seconds;
  }
  const first = await call();
  operating = 1;
  const both = first + (await call());
  expect(both).toBeGreaterThan(115);
  // The fake clock runs on while a busy machine is late; without the portal's time it would be 0, or 600 and more.
  expect(both).toBeLessThan(300);
});

test("a creation that may have run is never called one that did not, also when the look fails too", async () => {
  const { fake, bitrix } = setUp();
  const lookAgain = {
    fault: { kind: "block" },
    match: ({ url }: { url: string }) => url.endsWith("crm.item.list"),
  } as const;
  fake.faults.add({
    fault: { kind: "dropReplyAfterExecuting" },
    match: ({ url }) => {
      if (!url.endsWith("crm.item.add")) return false;
      fake.faults.add(lookAgain);
      return true;
    },
  });
  const create = () => bitrix.deals.add({ originatorId: "shop", originId: "17", fields: {} });
  await expect(create()).rejects.toMatchObject({ outcome: "unknown" });
  expect(fake.deals).toHaveLength(1);
});

test.each([
  ["payments", "sale.payment.add", { payment: { id: 1, orderId: 2, paid: "N", sum: 5, paySystemId: 3 } }],
  ["products", "catalog.product.add", { element: { id: 1, iblockId: 23, name: "Роза" } }],
] as const)(
  "%s that come back without your own id are told at once, before a second one is made",
  async (kind, method, answer) => {
    const added: unknown[] = [];
    const bitrix = createBitrix({
      webhookUrl: `${origin}/rest/1/s3cretvalue/`,
      plan: { intervalMs: 0.001, capacity: 1 },
      fetch: async (url, init) => {
        const nothing = { [kind]: [] };
        const { cmd } = JSON.parse(String(init?.body));
        const pages = Object.fromEntries(Object.keys(cmd ?? {}).map((key) => [key, nothing]));
        if (!String(url).endsWith(method)) return Response.json({ result: cmd ? { result: pages } : nothing });
        added.push(JSON.parse(String(init?.body)));
        return Response.json({ result: answer });
      },
    });
    const add =
      kind === "payments"
        ? bitrix.orders.payments.add({ orderId: "2", xmlId: "pay-1", paySystemId: "3" })
        : bitrix.products.add({ iblockId: 23, xmlId: "rose", name: "Роза" });
    await expect(add).rejects.toMatchObject({ name: "ResponseShapeError", paths: expect.arrayContaining(["xmlId"]) });
    expect(added).toHaveLength(1);
  },
);

test("sum of a payment that cannot be read is no silent zero", async () => {
  const { bitrix } = portalThatAnswers({ result: { payment: { id: 1, orderId: 2, paid: "N", paySystemId: 3 } } });
  await expect(bitrix.orders.payments.get("1")).rejects.toMatchObject({ name: "ResponseShapeError" });
});

test("an order that is answered as nothing is an answer that is not understood", async () => {
  const { bitrix } = portalThatAnswers({ result: null });
  await expect(bitrix.orders.get("1")).rejects.toMatchObject({ name: "ResponseShapeError" });
  await expect(bitrix.orders.update("1", { statusId: "P" })).rejects.not.toBeInstanceOf(ApiError);
  await expect(bitrix.orders.update("1", { statusId: "P" })).rejects.toMatchObject({ outcome: "executed" });
});
