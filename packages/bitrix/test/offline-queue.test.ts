import { silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createBitrix, createBitrixConnection, createOfflineQueue, type OfflineQueueOptions } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";

const origin = "https://fake.bitrix24.kz";

async function setUp(
  options: FakeBitrixOptions = {},
  queueOptions: Partial<OfflineQueueOptions> = {},
  client: { readonly connector?: string } = {},
) {
  const portal = createFakeBitrix({ bucket: { perSecond: 1000, capacity: 100_000 }, ...options });
  const core = createMemoryStorage();
  const oauth = createBitrixConnection({
    portalUrl: origin,
    memberId: "a223c6b3710f85df22e9377d6c4f7553",
    clientId: "local.fake",
    clientSecret: "fake-client-secret",
    storage: core,
    fetch: fetchFrom(portal.handle),
  });
  await oauth.connect(portal.consent());
  const bitrix = createBitrix({
    oauth,
    fetch: fetchFrom(portal.handle),
    plan: { intervalMs: 0.001 },
    retries: 0,
    ...client,
  });
  const storage = createBitrixMemoryStorage({ clock: createFakeClock() });
  const create = () => createOfflineQueue({ bitrix, storage, logger: silentLogger, ...queueOptions });
  const due = async (limit = 1_000) =>
    (await storage.work.claim({ topics: ["deal"], limit, ttlMs: 1 })).map(({ key }) => Number(key));
  return { portal, bitrix, storage, create, queue: create(), due };
}

test("binds what is missing, once, and makes changed deals due, funnel moves included", async () => {
  const { portal, queue, due } = await setUp();
  portal.addCategory(9, "Опт", [{ id: "C9:NEW", name: "Жаңа", sort: 10, semantics: "process" }]);
  expect(await queue.bind()).toContain("ONCRMDEALMOVETOCATEGORY");
  expect(await queue.bind()).toEqual([]);
  const [first, second] = [portal.addDeal({ title: "Гүл" }), portal.addDeal({ title: "Роза" })];
  portal.moveToCategory(second.id, 9, "C9:NEW");
  expect(await queue.drain()).toBe(3);
  expect(await due()).toEqual([first.id, second.id]);
  expect(portal.offline).toEqual([]);
});

test.each([
  ["set", undefined, "shop"],
  ["taken away", "shop", undefined],
])("a connector that is %s later is bound anew, and the other queue is told of", async (_case, before, after) => {
  const warnings: unknown[] = [];
  const logger = { ...silentLogger, warn: (...line: unknown[]) => void warnings.push(line) };
  const options = (connector: string | undefined) => (connector === undefined ? {} : { connector });
  const { portal, bitrix, storage, queue } = await setUp({}, options(before), options(before));
  await queue.bind();
  const next = createOfflineQueue({ bitrix, storage, logger, ...options(after) });
  expect(await next.bind()).toContain("ONCRMDEALUPDATE");
  expect(await next.bind()).toEqual([]);
  expect(warnings[0]).toMatchObject([expect.stringContaining("another connector"), { connectors: [before ?? ""] }]);
  portal.addDeal({});
  expect(await next.drain()).toBe(1);
});

test("a hundred changes of a deal are one row of the queue", async () => {
  const { portal, queue } = await setUp();
  await queue.bind();
  const { id } = portal.addDeal({});
  for (let turn = 0; turn < 50; turn++) for (const stage of ["EXECUTING", "NEW"]) portal.moveDeal(id, stage);
  expect(await queue.drain()).toBe(2); // added, changed
});

test("events that were reserved for a reply that was lost are done at the next turn", async () => {
  const { portal, queue, due } = await setUp();
  await queue.bind();
  const ids = Array.from({ length: 120 }, () => portal.addDeal({}).id);
  portal.faults.add({
    fault: { kind: "dropReplyAfterExecuting" },
    match: (request) => request.url.endsWith("event.offline.get"),
  });
  await expect(queue.drain()).rejects.toMatchObject({ outcome: "unknown" });
  expect(portal.offline.filter(({ PROCESS_ID }) => PROCESS_ID !== "")).toHaveLength(50);
  await queue.drain();
  expect((await due()).sort((left, right) => left - right)).toEqual(ids);
  expect(portal.offline).toEqual([]);
});

test("a process that died between reserving and clearing leaves nothing undone: the next one does it", async () => {
  const { portal, storage, create, due } = await setUp();
  const dying = create();
  await dying.bind();
  const { id } = portal.addDeal({});
  portal.faults.add({
    fault: { kind: "failBeforeExecuting", status: 500 },
    match: (request) => request.url.endsWith("event.offline.clear"),
  });
  await expect(dying.drain()).rejects.toThrow();
  expect(portal.offline).toHaveLength(1);
  const [claimed] = await storage.work.claim({ topics: ["deal"], limit: 1, ttlMs: 1_000 });
  if (claimed) await storage.work.finish(claimed);
  await create().drain();
  expect(await due()).toEqual([id]);
  expect(portal.offline).toEqual([]);
});

test("parallel readers share the queue, and each deal is due", async () => {
  const { portal, create, due } = await setUp();
  const queues = [create(), create(), create()];
  await queues[0]?.bind();
  const ids = Array.from({ length: 400 }, () => portal.addDeal({}).id);
  await Promise.all(queues.map((queue) => queue.drain()));
  expect((await due()).sort((left, right) => left - right)).toEqual(ids);
  expect(portal.offline).toEqual([]);
});

test("a row that cannot be read is marked as failed and does not stop the others", async () => {
  const { portal, queue, due } = await setUp({}, { topics: { ONCRMDEALADD: "deal", ONAPPTEST: "deal" } });
  await queue.bind();
  portal.raise("ONAPPTEST", { QUERY: "жоқ" });
  const { id } = portal.addDeal({});
  await queue.drain();
  expect(await due()).toEqual([id]);
  expect(portal.offline).toMatchObject([{ EVENT_NAME: "ONAPPTEST", ERROR: 1 }]);
});

test("on a plan that reserves nothing, events are deleted as they are read", async () => {
  const { portal, queue, due } = await setUp({ offlineExtended: false });
  await queue.bind();
  const { id } = portal.addDeal({});
  expect(await queue.drain()).toBe(1);
  expect(await due()).toEqual([id]);
  expect(portal.offline).toEqual([]);
});

// The documents and the portal's source differ on what becomes of the application's own changes.
describe.each(["documents", "source"] as const)("own changes as by the %s", (ownChanges) => {
  test("a manager's change is always heard", async () => {
    const { portal, bitrix, queue, due } = await setUp({ ownChanges });
    const { id } = portal.addDeal({});
    await queue.bind();
    await bitrix.deals.update(String(id), { title: "біздікі" });
    await queue.drain();
    const heardOwn = (await due()).length;
    expect(heardOwn).toBe(ownChanges === "source" ? 0 : 1);
    portal.moveDeal(id, "EXECUTING");
    await queue.drain();
    expect(portal.offline).toEqual([]);
    expect(await queue.drain()).toBe(0);
  });

  test("what this client writes with its connector stays out, single and in a batch; what others write comes in", async () => {
    const connector = "orderbridge";
    const { portal, bitrix, queue } = await setUp({ ownChanges }, { connector }, { connector });
    const { id } = portal.addDeal({});
    await queue.bind();
    await bitrix.deals.update(String(id), { title: "бір" });
    await bitrix.batch([{ method: "crm.deal.update", parameters: { id, fields: { TITLE: "екі" } } }]);
    expect(portal.deal(id)?.title).toBe("екі");
    expect(await queue.drain()).toBe(0);
    portal.moveDeal(id, "EXECUTING");
    expect(await queue.drain()).toBe(1);
  });
});

test("a webhook may not read the queue, and is told so", async () => {
  const { portal } = await setUp();
  const bitrix = createBitrix({ webhookUrl: portal.webhookUrl(origin), fetch: fetchFrom(portal.handle) });
  await expect(bitrix.call("event.offline.list")).rejects.toMatchObject({ vendorCode: "WRONG_AUTH_TYPE" });
});

test("rows that stay reserved after they were marked as failed are not looked up without end", async () => {
  const lookUps: unknown[] = [];
  const rows = Array.from({ length: 50 }, (_, index) => ({
    MESSAGE_ID: `m${index}`,
    EVENT_NAME: "ONCRMDEALUPDATE",
    EVENT_DATA: [],
    PROCESS_ID: "p1",
  }));
  const call = async (method: string, parameters?: unknown): Promise<unknown> => {
    if (method === "event.offline.get") return { process_id: "p2", events: [] };
    if (method !== "event.offline.list") return true;
    lookUps.push(parameters);
    if (lookUps.length > 3) throw new Error("looked up again and again");
    return rows;
  };
  const storage = createBitrixMemoryStorage({ clock: createFakeClock() });
  const queue = createOfflineQueue({ bitrix: { call: call as never }, storage, logger: silentLogger });
  expect(await queue.drain()).toBe(50);
  expect(lookUps).toHaveLength(1);
});
