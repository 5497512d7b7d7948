// The counts that the client promises, each against the fake portal. Those that need several processes are in oauth.test.ts.
import { BlockedError } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createBitrix } from "../src/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

const bucket = { perSecond: 100_000, capacity: 1_000_000 };
const costs = { "crm.item.add": 0, "crm.item.list": 0, "crm.item.get": 0, profile: 0 };
const plan = { intervalMs: 0.001, capacity: 1_000 };

/** A slice daily, all of them in the proof. */
const creates = process.env.PROOF === "1" ? 1_000 : 250;

/** Does the work for each number, so many at a time. */
async function inLanes(count: number, lanes: number, work: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

test(`${creates} creates with 2 % of the replies lost: none doubled, none lost`, { timeout: 60_000 }, async () => {
  const fake = createFakeBitrix({ bucket, costs });
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl("https://fake.bitrix24.kz"),
    fetch: fetchFrom(fake.handle),
    plan,
  });
  let adds = 0;
  fake.faults.add({
    fault: { kind: "dropReplyAfterExecuting" },
    times: creates,
    match: (request) => request.url.endsWith("/crm.item.add") && ++adds % 50 === 0,
  });
  const given = new Set<string>();
  await inLanes(creates, 8, async (index) => {
    const deal = await bitrix.deals.add({
      originatorId: "shop",
      originId: `order-${index}`,
      fields: { title: `Тапсырыс ${index}` },
    });
    given.add(deal.id);
  });
  expect(fake.faults.hits).toBe(creates / 50);
  expect(fake.deals).toHaveLength(creates);
  expect(new Set(fake.deals.map(({ fields }) => fields.originId)).size).toBe(creates);
  recordProof("bitrix-creates", { creates, repliesLost: fake.faults.hits, deals: fake.deals.length });
  expect(given).toEqual(new Set(fake.deals.map(({ id }) => String(id))));
});

test("a portal that is renamed in mid-run loses no call, and its secret goes to no other host", async () => {
  const fake = createFakeBitrix({ bucket, costs });
  const { id } = fake.addDeal({});
  const hosts = new Map<string, number>();
  let oldIsRenamed = false;
  const portal = fetchFrom(fake.handle);
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl("https://old.bitrix24.kz"),
    plan,
    async fetch(input, init) {
      const url = new URL(input instanceof Request ? input.url : String(input));
      hosts.set(url.host, (hosts.get(url.host) ?? 0) + 1);
      if (url.host !== "old.bitrix24.kz" || !oldIsRenamed) return portal(input, init);
      const location = `https://new.bitrix24.kz${url.pathname}`;
      return new Response(null, { status: 302, headers: { location } });
    },
  });
  let done = 0;
  await inLanes(300, 10, async (index) => {
    if (index === 100) oldIsRenamed = true;
    await bitrix.call("crm.deal.update", { id, fields: { COMMENTS: `№ ${index}` } });
    done++;
  });
  expect(done).toBe(300);
  expect(fake.writes).toHaveLength(300);
  expect(new Set(fake.writes.map(({ fields }) => fields.COMMENTS)).size).toBe(300);
  expect([...hosts.keys()].sort()).toEqual(["new.bitrix24.kz", "old.bitrix24.kz"]);
});

test("a redirect to a stranger's host ends the call: neither parameters nor secret go there", async () => {
  const fake = createFakeBitrix({ bucket, costs });
  const hosts: string[] = [];
  const bitrix = createBitrix({
    webhookUrl: fake.webhookUrl("https://old.bitrix24.kz"),
    plan,
    async fetch(input) {
      const url = new URL(input instanceof Request ? input.url : String(input));
      hosts.push(url.host);
      return new Response(null, { status: 302, headers: { location: `https://evil.example${url.pathname}` } });
    },
  });
  await expect(bitrix.call("profile")).rejects.toMatchObject({ vendorCode: "REDIRECT", outcome: "not-executed" });
  expect(hosts).toEqual(["old.bitrix24.kz"]);
});

test("after a block is stored no call begins, in any client on the storage", async () => {
  const fake = createFakeBitrix({ bucket, costs });
  const storage = createMemoryStorage();
  let begun = 0;
  let storedAfter: number | undefined;
  const portal = fetchFrom(fake.handle);
  const clients = [1, 2].map(() =>
    createBitrix({
      webhookUrl: fake.webhookUrl("https://fake.bitrix24.kz"),
      plan,
      storage: {
        ...storage,
        rateLimits: {
          ...storage.rateLimits,
          async block(account, code) {
            await storage.rateLimits.block(account, code);
            storedAfter ??= begun;
          },
        },
      },
      async fetch(input, init) {
        begun++;
        return portal(input, init);
      },
    }),
  );
  let refused = 0;
  await inLanes(400, 20, async (index) => {
    if (index === 200) fake.faults.add({ fault: { kind: "block" } });
    const call = clients[index % 2]?.call("profile") as Promise<unknown>;
    await call.catch((error) => {
      expect(error).toBeInstanceOf(BlockedError);
      refused++;
    });
  });
  expect(refused).toBeGreaterThan(150);
  expect(storedAfter).toBeDefined();
  // A call that had its slot already may still begin: one for each client.
  expect(begun - (storedAfter ?? 0)).toBeLessThanOrEqual(clients.length);
});
