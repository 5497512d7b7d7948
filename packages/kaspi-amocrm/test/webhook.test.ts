import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createAmocrm, createAmocrmWebhookHandler, type EventInbox, handleAmocrmEvents } from "../src/amocrm/index.ts";
import { createKaspiAmocrmStorage } from "../src/kysely/index.ts";
import { createKaspiAmocrmMemoryStorage } from "../src/memory/index.ts";
import { createFakeAmocrm, fakeAccount } from "../src/testing/index.ts";
import { createKiller } from "./killer.ts";
import { createSetting } from "./setting.ts";
import { type OpenStorage, testStorages } from "./storages.ts";

const secret = "unguessable-path";
const address = `https://worker.example/amocrm/webhook/${secret}`;
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
/** The handler's clock stands still: how fast this machine is does not matter. */
const still = { secret, clock: createFakeClock(), logger: silent };
const { stageIds } = fakeAccount;

const post = (body: string | URLSearchParams, url = address): Request =>
  new Request(url, {
    method: "POST",
    body: String(body),
    headers: { "content-type": "application/x-www-form-urlencoded" },
  });

/** What amoCRM sends of leads that changed: several in one body, names of the old API. */
function bodyOf(leadIds: readonly (number | string)[], changedAt = 1_763_000_000): URLSearchParams {
  const form = new URLSearchParams();
  for (const [index, id] of leadIds.entries()) {
    form.set(`leads[update][${index}][id]`, String(id));
    form.set(`leads[update][${index}][last_modified]`, String(changedAt + index));
    form.set(`leads[update][${index}][name]`, "Заказ Kaspi");
  }
  form.set("account[subdomain]", "demo");
  form.set("account[id]", String(fakeAccount.accountId));
  return form;
}

const listsOfLeads = /^GET \/api\/v4\/leads\?/;
const named = async (events: EventInbox) =>
  (await events.waiting()).map(({ entity, id }) => `${entity} ${id ?? "more"}`).sort();

for (const { name: storageName, skipped, open } of testStorages()) {
  describe.skipIf(skipped)(storageName, () => {
    let opened: OpenStorage;
    beforeAll(async () => {
      opened = await open();
    });
    afterAll(() => opened?.close());

    /** Orders that became leads, without the calls that made them; the webhook's handler on their storage. */
    async function createScene(orderCount = 3, maxWaiting?: number) {
      const setting = createSetting(await opened.clear());
      const { storage, amocrm, clock } = setting;
      const codes = Array.from({ length: orderCount }, (_, index) => String(700_000_000 + index));
      const observed = { orderedAt: clock.now(), state: "NEW", status: "APPROVED_BY_BANK", isFinal: false };
      await storage.orders.observe(
        "default",
        codes.map((code) => ({ ...observed, code })),
        clock.now(),
      );
      const stageId = String(stageIds.new);
      const rows = codes.map((code) => {
        const leadId = String(amocrm.addLead({ name: `Kaspi ${code}`, orderCode: code }).id);
        return { shop: "default", code, phase: "done" as const, leadId, stageId, seenStageId: stageId };
      });
      await storage.orders.save(rows, 1);
      const writes: number[] = [];
      const events: EventInbox = {
        ...storage.events,
        async add(told, options) {
          writes.push(told.length);
          await storage.events.add(told, options);
        },
      };
      const options = { ...still, events, ...(maxWaiting !== undefined && { maxWaiting }) };
      const handle = createAmocrmWebhookHandler(options);
      const leadIds = amocrm.leads.map(({ id }) => id);
      const looks = () => amocrm.journal.count(listsOfLeads);
      const seenStage = async (leadId: number) => (await storage.orders.byLead([String(leadId)]))[0]?.seenStageId;
      return { ...setting, handle, writes, leadIds, looks, seenStage, events: storage.events };
    }

    test("all events of a body are stored before it is answered, and only under the secret path", async () => {
      const { handle, events } = await createScene(0);
      const body =
        "leads[status][0][id]=1&leads[status][0][status_id]=142&leads[status][3][id]=2&leads[delete][0][id]=3" +
        "&leads[update][0][id]=1&contacts[add][0][id]=4&contacts[add][0][type]=contact&unsorted[add][0][uid]=a1b2" +
        "&account[id]=31000001&strange[add][0][id]=9";
      for (const url of [address.replace(secret, "wrong"), `${address}x`, address.replace(secret, "%E0%A4")]) {
        expect((await handle(post(body, url))).status).toBe(404);
      }
      expect((await handle(post("leads[__proto__][x][id]=1"))).status).toBe(400);
      expect(await named(events)).toEqual([]);
      expect((await handle(post(body))).status).toBe(200);
      expect(await named(events)).toEqual(["contacts 4", "leads 1", "leads 2", "leads 3", "unsorted a1b2"]);
    });

    test("what a webhook told of is read from the API: a lead that a person moved is known at once", async () => {
      const { amocrm, handle, leadIds, sync, seenStage, events, looks } = await createScene();
      const [moved, other] = leadIds as [number, number];
      amocrm.moveLead(moved, stageIds.delivery);
      expect((await handle(post(bodyOf([moved])))).status).toBe(200);
      const before = looks();
      expect(await sync.handleEvents()).toEqual({ events: 1 });
      expect([await seenStage(moved), await seenStage(other)]).toEqual([
        String(stageIds.delivery),
        String(stageIds.new),
      ]);
      expect([looks() - before, await named(events)]).toEqual([1, []]);
      expect(await sync.handleEvents()).toBeUndefined();
      expect(looks() - before).toBe(1); // nothing waits: nothing is asked
    });

    test("the same event again and again, in any order, changes nothing more", async () => {
      const { amocrm, handle, leadIds, sync, seenStage } = await createScene();
      const [moved] = leadIds as [number];
      amocrm.moveLead(moved, stageIds.accepted);
      const old = bodyOf([moved]);
      amocrm.moveLead(moved, stageIds.delivery);
      for (const body of [bodyOf([moved], 1_763_000_100), old, old]) await handle(post(body));
      expect(await sync.handleEvents()).toEqual({ events: 1 });
      await handle(post(old)); // a repetition that comes late
      const writesBefore = amocrm.journal.count(/^(POST|PATCH)/);
      await sync.handleEvents();
      expect(await seenStage(moved)).toBe(String(stageIds.delivery));
      expect(amocrm.journal.count(/^(POST|PATCH)/)).toBe(writesBefore);
    });

    test("a flood of 10 000 events, half of them of one lead, is answered, needs a row per lead and few writes, and is one look", async () => {
      const { amocrm, handle, leadIds, sync, seenStage, events, writes, looks } = await createScene();
      const [busy] = leadIds as [number];
      amocrm.moveLead(busy, stageIds.delivery);
      const perBody = process.env.PROOF === "1" ? 2 : 20;
      const bodies = Array.from({ length: 10_000 / perBody }, (_, body) =>
        bodyOf(
          Array.from({ length: perBody }, (_, index) => (index % 2 === 0 ? busy : 500_000 + body * perBody + index)),
        ),
      );
      const answers = await Promise.all(bodies.map((body) => handle(post(body))));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      expect(await events.waiting()).toHaveLength(5_001);
      expect(writes.length).toBeLessThan(bodies.length / 10);
      const before = looks();
      expect(await sync.handleEvents()).toEqual({ events: 5_001 });
      expect([looks() - before, await seenStage(busy), await named(events)]).toEqual([
        1,
        String(stageIds.delivery),
        [],
      ]);
    });

    test("more entities than may wait: still 200, a bound number of rows, and the look finds those too", async () => {
      const { amocrm, handle, leadIds, sync, seenStage, events } = await createScene(3, 50);
      const late = leadIds.at(-1) as number;
      amocrm.moveLead(late, stageIds.delivery);
      for (let round = 0; round < 4; round++) {
        const strangers = Array.from({ length: 100 }, (_, index) => 500_000 + round * 100 + index);
        expect((await handle(post(bodyOf([...strangers, ...(round === 3 ? [late] : [])])))).status).toBe(200);
      }
      const waiting = await named(events);
      expect([waiting.length <= 51, waiting.includes("leads more"), waiting.includes(`leads ${late}`)]).toEqual([
        true,
        true,
        false,
      ]);
      await sync.handleEvents();
      expect([await seenStage(late), await named(events)]).toEqual([String(stageIds.delivery), []]);
    });

    test("an event that comes during the look is looked at again", async () => {
      const { amocrm, handle, leadIds, createWorker, seenStage, events } = await createScene();
      const [moved] = leadIds as [number];
      await handle(post(bodyOf([moved])));
      let isFirst = true;
      const worker = createWorker({
        guardFetch: (send) => async (input, init) => {
          const answer = await send(input, init);
          if (isFirst) {
            isFirst = false;
            amocrm.moveLead(moved, stageIds.delivery); // after it was read
            await handle(post(bodyOf([moved])));
          }
          return answer;
        },
      });
      await worker.handleEvents();
      expect(await named(events)).toEqual([`leads ${moved}`]);
      await worker.handleEvents();
      expect([await seenStage(moved), await named(events)]).toEqual([String(stageIds.delivery), []]);
    });

    test("a look that fails, or cannot begin, leaves the events waiting", async () => {
      const { amocrm, handle, leadIds, sync, storage, seenStage, events } = await createScene();
      const [moved] = leadIds as [number];
      amocrm.moveLead(moved, stageIds.delivery);
      await handle(post(bodyOf([moved])));
      amocrm.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 50 });
      await expect(sync.handleEvents()).rejects.toMatchObject({ status: 503 });
      amocrm.faults.clear();
      expect(await named(events)).toEqual([`leads ${moved}`]);
      const busy = await storage.leases.acquire("kaspi-amocrm:writer", { holder: "another", ttlMs: 600_000 });
      expect(await sync.handleEvents()).toBeUndefined();
      expect(await named(events)).toEqual([`leads ${moved}`]);
      if (busy) await storage.leases.release(busy);
      expect(await sync.handleEvents()).toEqual({ events: 1 });
      expect(await seenStage(moved)).toBe(String(stageIds.delivery));
    });

    test("two processes look once", async () => {
      const { handle, leadIds, createWorker, looks } = await createScene();
      await handle(post(bodyOf(leadIds)));
      const before = looks();
      const reports = await Promise.all([createWorker().handleEvents(), createWorker().handleEvents()]);
      expect(reports.filter((report) => report !== undefined)).toEqual([{ events: leadIds.length }]);
      expect(looks() - before).toBe(1);
    });

    test("a process killed at any point between the request and the end of the look loses no event", {
      timeout: 120_000,
    }, async () => {
      // Servers are slow to set up anew: every third point behind the answer, unless the proof asks for all.
      const step = process.env.PROOF === "1" || ["memory", "SQLite"].includes(storageName) ? 1 : 3;
      /** Answers, dies, is started again; what was not answered is sent again, as amoCRM does. */
      async function play(point: number) {
        const { amocrm, clock, createWorker, leadIds, seenStage, events, storage, sync } = await createScene(2);
        const killer = createKiller(point);
        const guarded = opened.through?.(killer.plugin, clock) ?? {
          ...storage,
          watermarks: killer.guardAll(storage.watermarks),
          leases: killer.guardAll(storage.leases),
          orders: killer.guardAll(storage.orders),
          events: killer.guardAll(storage.events),
        };
        const worker = createWorker({
          storage: guarded,
          workerClock: killer.clockOf(clock),
          guardFetch: (send) => killer.guard(send as () => Promise<Response>) as typeof fetch,
        });
        for (const id of leadIds) amocrm.moveLead(id, stageIds.delivery);
        const body = bodyOf(leadIds);
        const mortal = createAmocrmWebhookHandler({ ...still, events: guarded.events });
        const answer = await Promise.race([mortal(post(body)), killer.dead]);
        const isAnswered = answer !== "killed" && answer.status === 200;
        const end = isAnswered && (await Promise.race([worker.handleEvents().catch(() => "failed"), killer.dead]));
        const passed = killer.passed();

        clock.advance(601_000); // leases end
        if (!isAnswered) {
          const again = createAmocrmWebhookHandler({ ...still, events: storage.events });
          expect((await again(post(body))).status).toBe(200);
        }
        await sync.handleEvents();
        const seen = [];
        for (const id of leadIds) seen.push(await seenStage(id));
        return { passed, isAnswered, end, outcome: [...seen, ...(await named(events))] };
      }

      const clean = await play(Number.POSITIVE_INFINITY);
      expect(clean).toMatchObject({
        isAnswered: true,
        end: { events: 2 },
        outcome: Array(2).fill(String(stageIds.delivery)),
      });
      const ends = { unanswered: 0, answered: 0 };
      for (let point = 0; point < clean.passed; point += point < 10 ? 1 : step) {
        const { isAnswered, end, outcome } = await play(point);
        expect(outcome, `killed at point ${point} of ${clean.passed}`).toEqual(clean.outcome);
        expect(isAnswered ? end : "killed", `point ${point}`).toBe("killed");
        ends[isAnswered ? "answered" : "unanswered"]++;
      }
      expect(ends.unanswered, "before the answer").toBeGreaterThanOrEqual(2);
      expect(ends.answered, "after the answer").toBeGreaterThanOrEqual(10);
      recordProof(`kaspi-amocrm-webhook-kill-points-${storageName.toLowerCase()}`, {
        points: clean.passed,
        killed: ends.unanswered + ends.answered,
        "same outcome": ends.unanswered + ends.answered,
      });
    });
  });
}

for (const { name: storageName, skipped, open } of testStorages().filter(({ name }) => name !== "memory")) {
  test.skipIf(skipped)(
    `a ${storageName} that does not answer is told by a 503, so that amoCRM sends it again`,
    async () => {
      const opened = await open();
      const { stores } = await opened.clear();
      await opened.close();
      const errors: string[] = [];
      const logger = { ...silent, error: (text: string) => void errors.push(text) };
      const handle = createAmocrmWebhookHandler({ secret, events: stores(createFakeClock()).events, logger });
      const answers = await Promise.all([handle(post(bodyOf([1]))), handle(post(bodyOf([2])))]);
      expect(answers.map(({ status }) => status)).toEqual([503, 503]);
      expect(errors[0]).toMatch("webhooks could not be stored; amoCRM sends them again");
    },
  );
}

test.each(["postgres", "mysql"])(
  "a %s server that takes connections and says nothing, and one that refuses them, are told by a 503",
  async (scheme) => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => void sockets.push(socket));
    await once(server.listen(0, "127.0.0.1"), "listening");
    const { port } = server.address() as AddressInfo;
    const database = await openDatabase(`${scheme}://nobody@127.0.0.1:${port}/test`);
    const clock = createFakeClock();
    const handle = createAmocrmWebhookHandler({
      secret,
      events: createKaspiAmocrmStorage(database).events,
      clock,
      logger: silent,
    });
    const answer = handle(post(bodyOf([1])));
    await expect.poll(() => sockets.length, { timeout: 5_000 }).toBe(1);
    clock.advance(1_500);
    expect((await answer).status).toBe(503);

    for (const socket of sockets) socket.destroy();
    server.close();
    await expect.poll(async () => (await handle(post(bodyOf([1])))).status, { timeout: 5_000 }).toBe(503); // refused
    await database.close();
  },
);

test("the sync's own loop looks every ten seconds", async () => {
  const { kaspi, amocrm, sync, clock, storage } = createSetting();
  kaspi.addOrder({ code: "700000001", entries: [{ sku: "LAMP", basePrice: 7990 }] });
  const patient = { timeout: 10_000 };
  const stopping = new AbortController();
  const running = sync.run(stopping.signal);
  await expect.poll(async () => (await storage.orders.counts()).done, patient).toBe(1);
  await expect.poll(() => clock.sleepers, patient).toBeGreaterThanOrEqual(3);
  const lead = amocrm.leadOf("700000001");
  amocrm.moveLead(lead?.id as number, stageIds.delivery);
  const handle = createAmocrmWebhookHandler({ ...still, events: storage.events });
  await handle(post(bodyOf([lead?.id as number])));
  clock.advance(10_000);
  await expect
    .poll(async () => (await storage.orders.get({ shop: "default", code: "700000001" }))?.seenStageId, patient)
    .toBe(String(stageIds.delivery));
  expect(await named(storage.events)).toEqual([]);
  stopping.abort();
  await running;
});

test("a storage that hangs is not waited for longer than amoCRM waits, and takes events again once it answers", async () => {
  const clock = createFakeClock();
  const { events } = createKaspiAmocrmMemoryStorage();
  const hang = Promise.withResolvers<void>();
  const sizes: number[] = [];
  const add: EventInbox["add"] = async (told, options) => {
    sizes.push(told.length);
    await hang.promise;
    await events.add(told, options);
  };
  const handle = createAmocrmWebhookHandler({ secret, events: { add }, clock, logger: silent, maxWaiting: 10 });
  const first = handle(post(bodyOf([1])));
  await expect.poll(() => clock.sleepers).toBe(1);
  const flood = Promise.all(Array.from({ length: 200 }, (_, index) => handle(post(bodyOf([2 + index])))));
  await expect.poll(() => clock.sleepers).toBe(201);
  clock.advance(1_500);
  expect(new Set([await first, ...(await flood)].map(({ status }) => status))).toEqual(new Set([503]));
  hang.resolve();
  expect((await handle(post(bodyOf([3])))).status).toBe(200);
  expect(sizes.every((size) => size <= 11)).toBe(true); // what gathers meanwhile is bounded
  expect(await named(events)).toContain("leads 1");
});

test("without the sync: events are handed on together, again after a failure, and only what was handled is forgotten", async () => {
  const setting = createSetting();
  const { events, leases } = setting.storage;
  const handle = createAmocrmWebhookHandler({ secret, events, logger: silent });
  await handle(post(bodyOf([1, 2])));
  const calls: (readonly string[])[] = [];
  const work = (result: () => boolean) =>
    handleAmocrmEvents({
      events,
      leases,
      clock: setting.clock,
      onEvents: async (told) => {
        calls.push(told.map(({ entity, id }) => `${entity} ${id}`));
        return result();
      },
    });
  const failing = () => {
    throw new Error("not now");
  };
  await expect(work(failing)).rejects.toThrow("not now");
  expect(await work(() => false)).toBe(0);
  expect(await work(() => true)).toBe(2);
  expect(await work(() => true)).toBe(0);
  expect(calls).toEqual(Array(3).fill(["leads 1", "leads 2"]));
});

test("the fake's own webhooks reach the handler: several events in a body, repeated after a failure, switched off in the end", async () => {
  const clock = createFakeClock("2026-11-20T06:00:00.000Z");
  const { events } = createKaspiAmocrmMemoryStorage();
  let status = 500;
  const handle = createAmocrmWebhookHandler({ secret, events, clock });
  const fake = createFakeAmocrm({
    clock,
    ratePerSecond: 50,
    deliver: async (request) => (status === 200 ? handle(request) : new Response(null, { status })),
  });
  const fetch = fetchFrom(fake.handle);
  const amocrm = createAmocrm({ host: fakeAccount.host, token: "amo-token", ratePerSecond: 50, fetch });
  await amocrm.webhooks.subscribe(address, ["add_lead"]);
  await amocrm.webhooks.subscribe(address, ["add_lead", "status_lead"]);
  expect(await amocrm.webhooks.list()).toEqual([
    { destination: address, events: ["add_lead", "status_lead"], isDisabled: false },
  ]);
  const lead = fake.addLead({ name: "Первая" });
  const other = fake.addLead({ name: "Вторая" });
  fake.moveLead(lead.id, stageIds.accepted);
  expect(await fake.hooks.deliver()).toEqual([500]);
  clock.advance(4 * 60_000);
  expect(await fake.hooks.deliver()).toEqual([]); // the second attempt comes after five minutes
  clock.advance(60_000);
  status = 200;
  expect(await fake.hooks.deliver()).toEqual([200]);
  expect(await named(events)).toEqual([`leads ${lead.id}`, `leads ${other.id}`].sort());

  status = 404;
  for (let round = 0; round < 101; round++) {
    fake.moveLead(lead.id, stageIds.delivery - (round % 2));
    await fake.hooks.deliver();
  }
  expect(await amocrm.webhooks.list()).toMatchObject([{ isDisabled: true }]);
  expect([await amocrm.webhooks.unsubscribe(address), await amocrm.webhooks.unsubscribe(address)]).toEqual([
    true,
    false,
  ]);
});
