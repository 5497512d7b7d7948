import { silentLogger } from "@orderbridge/core";
import { withRemoteAddress } from "@orderbridge/core/node";
import { createFakeClock } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createResultHandler, createRobokassa, type OnPaid, robokassaAddresses } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { demoShop, liveResult, testResult } from "./shop-fixture.ts";

async function shopWithOrder146(
  options: { readonly total?: string; readonly test?: boolean; readonly onPaid?: OnPaid<undefined> } = {},
) {
  const { total = "1000.00", test = false, onPaid } = options;
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const storage = createRobokassaMemoryStorage({
    clock,
    firstLiveInvId: test ? "1" : "146",
    firstTestInvId: test ? "146" : "1000000000",
  });
  await storage.orders.create({ id: "order-146", test, total, description: "Қалам" });
  const warnings: string[] = [];
  const handler = createResultHandler({
    robokassa: createRobokassa(demoShop),
    storage,
    clock,
    logger: { ...silentLogger, warn: (message) => warnings.push(message) },
    ...(onPaid ? { onPaid } : {}),
  });
  return { storage, handler, clock, warnings, order: () => storage.orders.get("order-146") };
}

const post = (body: string): Request =>
  new Request("http://localhost/robokassa/result", {
    method: "POST",
    body,
    headers: { "content-type": "application/x-www-form-urlencoded" },
  });

test("answers exactly OK146 as plain text, and the order is paid", async () => {
  const { handler, order } = await shopWithOrder146();
  const answer = await handler(post(liveResult));
  expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "text/plain; charset=utf-8"]);
  expect(new Uint8Array(await answer.arrayBuffer())).toEqual(new Uint8Array([0x4f, 0x4b, 0x31, 0x34, 0x36]));
  expect(await order()).toMatchObject({ status: "paid", paidAt: new Date("2026-11-01T10:00:00.000Z") });
});

test("takes the same by GET", async () => {
  const { handler, order } = await shopWithOrder146();
  const answer = await handler(new Request(`http://localhost/robokassa/result?${liveResult}`));
  expect([answer.status, await answer.text()]).toEqual([200, "OK146"]);
  expect((await order())?.status).toBe("paid");
});

test.each([
  ["old names", "out_summ=1000.000000&inv_id=146&crc=F56D901DE60F49774AD1AC8F91458650"],
  ["names in lower case", "outsum=1000.000000&invid=146&signaturevalue=f56d901de60f49774ad1ac8f91458650"],
])("answers OK146 to %s alone", async (_case, body) => {
  const { handler } = await shopWithOrder146();
  expect(await (await handler(post(body))).text()).toBe("OK146");
});

test("does not book on HEAD, which could not be answered OK146", async () => {
  const { handler, order } = await shopWithOrder146();
  const answer = await handler(new Request(`http://localhost/robokassa/result?${liveResult}`, { method: "HEAD" }));
  expect(answer.status).toBe(405);
  expect((await order())?.status).toBe("new");
});

test("answers a repeated notification OK146 and books it once", async () => {
  let paid = 0;
  const { handler, order, clock } = await shopWithOrder146({
    onPaid: async () => {
      paid++;
    },
  });
  await handler(post(liveResult));
  clock.advance(60_000);
  expect(await (await handler(post(liveResult))).text()).toBe("OK146");
  expect(paid).toBe(1);
  expect((await order())?.paidAt).toEqual(new Date("2026-11-01T10:00:00.000Z"));
});

test("answers ten simultaneous notifications OK146 and books one", async () => {
  let paid = 0;
  const { handler } = await shopWithOrder146({
    onPaid: async () => {
      paid++;
    },
  });
  const answers = await Promise.all(Array.from({ length: 10 }, () => handler(post(liveResult))));
  expect(await Promise.all(answers.map((answer) => answer.text()))).toEqual(Array(10).fill("OK146"));
  expect(paid).toBe(1);
});

test.each([
  ["a forged signature", liveResult.replaceAll("F56D", "F56E"), {}, 400, "bad_signature"],
  ["an unreadable body", "\u0000%%%=&&&", {}, 400, "malformed"],
  ["a cheaper order's payment", liveResult, { total: "1000.01" }, 409, "amount_differs"],
  ["a test payment for a live order", testResult, {}, 409, "test_payment_for_live_order"],
  ["a live payment for a test order", liveResult, { test: true }, 409, "live_payment_for_test_order"],
] as const)("refuses %s without details and leaves the order alone", async (_case, body, options, status, reason) => {
  const { handler, order, warnings } = await shopWithOrder146(options);
  const before = await order();
  const answer = await handler(post(body));
  expect([answer.status, await answer.text()]).toEqual([status, ""]);
  expect(await order()).toEqual(before);
  expect(warnings).toEqual([`robokassa: result refused: ${reason}`]);
});

test("answers 404 to a number that nobody stored, so that the operator hears of it", async () => {
  const storage = createRobokassaMemoryStorage();
  const handler = createResultHandler({ robokassa: createRobokassa(demoShop), storage, logger: silentLogger });
  expect((await handler(post(liveResult))).status).toBe(404);
});

test("a test payment pays a test order", async () => {
  const { handler, order } = await shopWithOrder146({ test: true });
  expect(await (await handler(post(testResult))).text()).toBe("OK146");
  expect(await order()).toMatchObject({ status: "paid", test: true });
});

test("answers 500 when onPaid fails, books nothing, and succeeds when Robokassa calls again", async () => {
  let calls = 0;
  const { handler, order } = await shopWithOrder146({
    onPaid: async () => {
      if (++calls === 1) throw new Error("the warehouse is closed");
    },
  });
  expect((await handler(post(liveResult))).status).toBe(500);
  expect((await order())?.status).toBe("new");
  expect(await (await handler(post(liveResult))).text()).toBe("OK146");
  expect((await order())?.status).toBe("paid");
});

test("a crash after the booking and before the answer loses nothing and pays nothing twice", async () => {
  let paid = 0;
  const { storage, order } = await shopWithOrder146();
  let crashes = 1;
  const handler = createResultHandler({
    robokassa: createRobokassa(demoShop),
    storage: {
      ...storage,
      callbacks: {
        ...storage.callbacks,
        record: async (entry) => {
          if (crashes-- > 0) throw new Error("killed");
          await storage.callbacks.record(entry);
        },
      },
    },
    logger: silentLogger,
    onPaid: async () => {
      paid++;
    },
  });
  expect((await handler(post(liveResult))).status).toBe(500);
  expect((await order())?.status).toBe("paid");
  expect(await (await handler(post(liveResult))).text()).toBe("OK146");
  expect(paid).toBe(1);
});

test("keeps a log of what came and why it was refused, without the buyer's address", async () => {
  const { handler, storage } = await shopWithOrder146();
  await handler(post(`${liveResult}&Shp_email=buyer%40example.com`));
  await handler(post(liveResult));
  await handler(post("OutSum=1&OutSum=2"));
  const log = await storage.callbacks.list({ limit: 10 });
  expect(log.map(({ verdict, status, invId }) => [verdict, status, invId])).toEqual([
    ["conflicting_fields:OutSum", 400, undefined],
    ["paid", 200, "146"],
    ["bad_signature", 400, "146"],
  ]);
  expect(log[2]?.shpNames).toEqual(["Shp_email"]);
  expect(JSON.stringify(log)).not.toContain("example.com");
});

test("answers 413 to a body beyond the limit", async () => {
  const { handler } = await shopWithOrder146();
  expect((await handler(post("a".repeat(65_537)))).status).toBe(413);
});

test.each([
  ["lets Robokassa's own address in", "185.59.216.65", undefined, 200],
  ["keeps others out", "203.0.113.7", undefined, 403],
  ["believes a trusted proxy", "10.0.0.1", "185.59.217.65", 200],
  ["does not believe a stranger's claim", "203.0.113.7", "185.59.217.65", 403],
  ["keeps out what has no address", undefined, "185.59.216.65", 403],
])("an allow-list %s", async (_case, remote, forwarded, status) => {
  const { storage } = await shopWithOrder146();
  const handler = createResultHandler({
    robokassa: createRobokassa(demoShop),
    storage,
    logger: silentLogger,
    allowedAddresses: robokassaAddresses,
    trustedProxies: ["10.0.0.0/8"],
  });
  const request = withRemoteAddress(post(liveResult), remote);
  if (forwarded) request.headers.set("x-forwarded-for", forwarded);
  expect((await handler(request)).status).toBe(status);
});
