import { createClientAddress, withRemoteAddress } from "@orderbridge/core/node";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { accountOf, createKaspiBillerProvider, type KaspiBillerOptions } from "../src/providers/kaspi-biller.ts";
import { createFakeKaspiBiller, type FakeKaspiBiller } from "../src/testing/index.ts";
import { createWorld, shopSecret, type World } from "./gateway-harness.ts";

const url = "https://pay.example/providers/kaspi-biller";
const provider = (options: Partial<KaspiBillerOptions> = {}) =>
  createKaspiBillerProvider({ clientAddress: createClientAddress({ trustedProxies: [] }), ...options });

let world: World;
let bank: FakeKaspiBiller;
beforeEach(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), { providers: [provider()] });
  bank = createFakeKaspiBiller({ deliver: world.gateway.handle, url });
});
afterEach(() => world.close());

const init = async (fields: object = {}) => {
  const { body } = await world.api("POST", "/api/payment/init", {
    amount: "15980.00",
    description: "Чайник «Ақ» & <чашки>",
    webhook_url: world.receiverUrl,
    webhook_secret: shopSecret,
    ...fields,
  });
  return body.data as { readonly transaction_id: string; readonly account: string };
};
const state = async (id: string) => (await world.api("GET", `/api/payment/${id}`)).body.data;

test("init tells the digits that the payer types; check shows what is left, pay books it, the receiver hears of it", async () => {
  const { transaction_id: id, account } = await init();
  expect(account).toMatch(/^\d{7,}$/);
  const checked = await bank.check(account);
  expect([checked.result, checked.sum]).toEqual([0, "15980.00"]);
  expect((await state(id)).status).toBe("pending");
  const paid = await bank.pay({ account, sum: "15980.00" });
  expect([paid.result, paid.sum, paid.calls]).toEqual([0, "15980.00", 1]);
  expect(await state(id)).toMatchObject({ status: "paid", paid_amount: "15980.00", test: false });
  expect((await bank.check(account)).result).toBe(3);
  await world.gateway.work();
  expect(world.receiver.accepted).toHaveLength(1);
});

test("accounts are numbers with a check digit by Luhn", () => {
  // 7992739871 with check digit 3 is the published example; ours begin at 100001.
  expect(accountOf(7_992_739_871 - 100_000)).toBe("79927398713");
  expect(accountOf(1)).toBe("1000017");
});

test("a pay with the same txn_id gives the same answer and books once, also fifty at a time", async () => {
  const { transaction_id: id, account } = await init();
  const pay = { account, sum: "15980.00", txnId: "123456789012345678" };
  const replies = await Promise.all(Array.from({ length: 50 }, () => bank.pay(pay)));
  expect(new Set(replies.map(({ text }) => text)).size).toBe(1);
  expect(replies[0]?.result).toBe(0);
  expect((await state(id)).paid_amount).toBe("15980.00");
});

test("txn_ids that differ only beyond 2^53 are different transfers", async () => {
  const { transaction_id: id, account } = await init();
  await bank.pay({ account, sum: "1.00", txnId: "123456789012345678" });
  await bank.pay({ account, sum: "1.00", txnId: "123456789012345679" });
  expect((await state(id)).paid_amount).toBe("2.00");
});

test("the same txn_id with another sum or account is an error, not a success", async () => {
  const { account } = await init();
  const other = await init();
  await bank.pay({ account, sum: "100.00", txnId: "77" });
  expect((await bank.pay({ account, sum: "200.00", txnId: "77" })).result).toBe(5);
  expect((await bank.pay({ account: other.account, sum: "100.00", txnId: "77" })).result).toBe(5);
  expect((await state(other.transaction_id)).paid_amount).toBe("0.00");
});

test("a payer may pay less, more, and after the end: everything is booked", async () => {
  const { transaction_id: id, account } = await init({ expires_in: 60 });
  expect((await bank.pay({ account, sum: "5980.00" })).result).toBe(0);
  expect((await bank.check(account)).sum).toBe("10000.00");
  await bank.pay({ account, sum: "10000.50" });
  expect(await state(id)).toMatchObject({ status: "paid", overpaid_amount: "0.50" });

  const late = await init({ expires_in: 60 });
  world.clock.advance(120_000);
  await world.gateway.work();
  expect((await bank.check(late.account)).result).toBe(2);
  expect((await bank.pay({ account: late.account, sum: "15980.00" })).result).toBe(0);
  expect(await state(late.transaction_id)).toMatchObject({ status: "paid", late: true });
});

test("money for a payment that the clean-up has taken is booked and told, and its check says no", async () => {
  const { transaction_id: id, account } = await init({ expires_in: 60 });
  world.clock.advance(180_000);
  await world.gateway.work();
  for (let day = 0; day < 9; day++) {
    world.clock.advance(86_400_000);
    await world.gateway.work();
  }
  expect((await world.gateway.payments.get("shop", id))?.description).toBe(""); // only the tombstone is left
  expect((await bank.check(account)).result).toBe(2);
  expect((await bank.pay({ account, sum: "15980.00" })).result).toBe(0);
  expect(await state(id)).toMatchObject({ status: "paid", late: true, paid_amount: "15980.00" });
  await world.gateway.work();
  expect(world.receiver.accepted.map(({ body }) => JSON.parse(body).event)).toEqual(["expired", "paid"]);
});

test("an unknown account, a typo and text are not found", async () => {
  const { account } = await init();
  const typo = account.replace(/\d$/, (digit) => String((Number(digit) + 1) % 10));
  for (const unknown of [typo, "1", "заказ 7", "' or 1=1", "9".repeat(30)]) {
    expect((await bank.check(unknown)).result).toBe(1);
    expect((await bank.pay({ account: unknown, sum: "1.00" })).result).toBe(1);
  }
});

test.each([
  ["sum", { sum: "1e3" }],
  ["sum", { sum: "0.00" }],
  ["sum", { sum: "-1.00" }],
  ["sum", { sum: "1.001" }],
  ["txn_id", { txnId: "12a" }],
  ["txn_id", { txnId: "1234567890123456789" }],
  ["txn_date", { txnDate: "2026-11-01" }],
  ["txn_date", { txnDate: "20261301050000" }],
])("a pay with a bad %s (%j) books nothing and is answered 5", async (_name, change) => {
  const { transaction_id: id, account } = await init();
  expect((await bank.pay({ account, sum: "1.00", ...change })).result).toBe(5);
  expect((await state(id)).paid_amount).toBe("0.00");
});

test("a parameter that comes twice is an error", async () => {
  const { account } = await init();
  const response = await world.gateway.handle(
    withRemoteAddress(
      new Request(`${url}?command=pay&txn_id=5&account=${account}&sum=1.00&sum=9.00&txn_date=20261101050000`),
      "194.187.247.152",
    ),
  );
  expect([response.status, await response.json()]).toMatchObject([200, { result: 5 }]);
});

test("nobody but the bank is heard: another address, and one that only claims to be forwarded", async () => {
  const { transaction_id: id, account } = await init();
  const stranger = createFakeKaspiBiller({ deliver: world.gateway.handle, url, address: "203.0.113.9" });
  expect((await stranger.pay({ account, sum: "15980.00" })).result).toBeUndefined();
  const forged = new Request(`${url}?command=pay&txn_id=5&account=${account}&sum=15980.00&txn_date=20261101050000`, {
    headers: { "x-orderbridge-remote-address": "194.187.247.152", "x-forwarded-for": "194.187.247.152" },
  });
  expect((await world.gateway.handle(withRemoteAddress(forged, "203.0.113.9"))).status).toBe(403);
  // as Hono, Next, Bun and Deno hand it over, and from a Unix socket or a connection that is gone
  expect((await world.gateway.handle(forged)).status).toBe(403);
  expect((await world.gateway.handle(withRemoteAddress(forged, undefined))).status).toBe(403);
  expect((await state(id)).status).toBe("pending");
});

test.each([
  ["the bank through our proxy", "10.0.0.5", "194.187.247.152", 200],
  ["the bank, whose own header our proxy went on with", "10.0.0.5", "203.0.113.9, 194.187.247.152", 200],
  ["a stranger who claims to be forwarded for the bank", "10.0.0.5", "194.187.247.152, 203.0.113.9", 403],
  ["a stranger through two of our proxies", "10.0.0.5", "194.187.247.152, 203.0.113.9, 10.0.0.6", 403],
  ["a stranger beside our proxy", "203.0.113.9", "194.187.247.152", 403],
  ["our proxy without a header", "10.0.0.5", "", 403],
])("behind a proxy: %s", async (_name, remote, forwarded, status) => {
  const clientAddress = createClientAddress({ trustedProxies: ["10.0.0.0/8"] });
  const gateway = world.another({ providers: [provider({ clientAddress })] });
  const { transaction_id: id, account } = await init();
  const answer = await gateway.handle(
    withRemoteAddress(
      new Request(`${url}?command=pay&txn_id=5&account=${account}&sum=15980.00&txn_date=20261101050000`, {
        headers: forwarded === "" ? {} : { "x-forwarded-for": forwarded },
      }),
      remote,
    ),
  );
  expect([answer.status, (await state(id)).status]).toEqual([status, status === 200 ? "paid" : "pending"]);
});

test("in XML the answer has the document's names, and what the merchant wrote is escaped", async () => {
  const gateway = world.another({ providers: [provider({ format: "xml" })] });
  const { account } = await init();
  const xmlBank = createFakeKaspiBiller({ deliver: gateway.handle, url });
  const checked = await xmlBank.check(account);
  expect(checked.text).toBe(
    `<?xml version="1.0" encoding="UTF-8"?>\n<response><txn_id>123456789012345601</txn_id><sum>15980.00</sum><result>0</result>` +
      `<fields><field1 name="Заказ">Чайник «Ақ» &amp; &lt;чашки&gt;</field1></fields><comment>OK</comment></response>`,
  );
  const paid = await xmlBank.pay({ account, sum: "15980.00", txnId: "42" });
  expect([paid.result, paid.prvTxnId]).toEqual([0, expect.stringMatching(/^\d+$/)]);
});

test("characters that XML forbids do not make the answer unreadable", async () => {
  const gateway = world.another({ providers: [provider({ format: "xml" })] });
  const { payment } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 100n,
    description: "Чай \uFFFE\uFFFF😀 ]]>", // control characters are refused before
  });
  const { text } = await createFakeKaspiBiller({ deliver: gateway.handle, url }).check(payment.account ?? "");
  expect(text).toContain('<field1 name="Заказ">Чай 😀 ]]&gt;</field1>');
});

test("a storage that takes longer than the bank waits: the bank is answered in time, calls again, and the money is booked once", async () => {
  const storage = createPaymentGatewayMemoryStorage({ clock: world.clock });
  const slow = Promise.withResolvers<void>();
  const { gateway } = await createWorld(
    async () => ({
      ...storage,
      change: async (...parameters: Parameters<typeof storage.change>) => {
        if (isSlow) await slow.promise;
        return storage.change(...parameters);
      },
    }),
    { providers: [provider({ clock: world.clock })], clock: world.clock },
  );
  let isSlow = false;
  const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 1_598_000n });
  isSlow = true;
  const statuses: number[] = [];
  const slowBank = createFakeKaspiBiller({
    url,
    async deliver(request) {
      const answer = gateway.handle(request);
      await new Promise((resolve) => setImmediate(resolve));
      if (statuses.length < 2) world.clock.advance(14_999);
      else slow.resolve();
      const response = await answer;
      statuses.push(response.status);
      return response;
    },
  });
  const paid = await slowBank.pay({ account: payment.account ?? "", sum: "15980.00" });
  expect([statuses, paid.result]).toEqual([[503, 503, 200], 0]);
  expect(await storage.getPayment(payment.id)).toMatchObject({ status: "paid", paidMinor: 1_598_000n, sequence: 1 });
  await gateway.close();
});

test("when the storage is away the bank gets no answer of the protocol and calls again", async () => {
  const { transaction_id: id, account } = await init();
  let failures = 2;
  const flaky = createFakeKaspiBiller({
    url,
    deliver: async (request) => (failures-- > 0 ? new Response(null, { status: 500 }) : world.gateway.handle(request)),
  });
  expect(await flaky.pay({ account, sum: "15980.00" })).toMatchObject({ result: 0, calls: 3 });
  expect((await state(id)).paid_amount).toBe("15980.00");
});

test("the pay page shows the number to type", async () => {
  const { transaction_id: id, account } = await init();
  const response = await world.gateway.handle(new Request(`https://pay.example/pay/${id}`));
  expect(await response.text()).toContain(`<strong>${account}</strong>`);
});

test("in JSON our id is repeated as prv_txn where the bank asks for that", async () => {
  await world.close();
  for (const prvTxn of [false, true]) {
    world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), {
      providers: [provider({ prvTxn })],
    });
    bank = createFakeKaspiBiller({ deliver: world.gateway.handle, url });
    const { account } = await init();
    const body = JSON.parse((await bank.pay({ account, sum: "1.00", txnId: "77" })).text);
    expect(body.prv_txn_id).toMatch(/^\d+$/);
    expect(body.prv_txn).toBe(prvTxn ? body.prv_txn_id : undefined);
    if (!prvTxn) await world.close();
  }
});

test("under the bank's acceptance test payments say that no real money moves", async () => {
  await world.close();
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), {
    providers: [provider({ test: true })],
  });
  bank = createFakeKaspiBiller({ deliver: world.gateway.handle, url });
  const { account } = await init();
  await bank.pay({ account, sum: "15980.00" });
  await world.gateway.work();
  expect(JSON.parse(world.receiver.accepted[0]?.body ?? "")).toMatchObject({ event: "paid", test: true });
});
