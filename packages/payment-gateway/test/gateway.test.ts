import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PaymentProvider } from "../src/index.ts";
import type { GatewayStorage } from "../src/storage.ts";
import { callApi, createWorld, otherToken, shopSecret, type World } from "./gateway-harness.ts";
import { type Store, stores } from "./stores.ts";

describe.each(stores)("the gateway on $name", ({ skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let store: Awaited<ReturnType<Store["open"]>>;
    let world: World;
    beforeEach(async () => {
      store = await open();
      world = await createWorld(store.storageFor);
    });
    afterEach(async () => {
      await world.close();
      await store.close();
    });

    const init = async (fields: object = {}): Promise<string> => {
      const { receiverUrl } = world;
      const answer = await world.api("POST", "/api/payment/init", {
        amount: 500,
        webhook_url: receiverUrl,
        webhook_secret: shopSecret,
        ...fields,
      });
      expect(answer.status).toBe(200);
      return answer.body.data.transaction_id;
    };
    const accepted = () => world.receiver.accepted.map(({ body }) => JSON.parse(body));

    test("a payment made through the sandbox reaches the receiver as one verified webhook, although it answered 500 twice", async () => {
      world.receiver.failNext(2);
      const created = await world.api("POST", "/api/payment/init", {
        amount: 500,
        currency: "KZT",
        description: "Тестовый платеж",
        webhook_url: world.receiverUrl,
        webhook_secret: shopSecret,
        metadata: { user_id: "12345", order_id: "TEST-001" },
      });
      const { transaction_id: id } = created.body.data;
      expect(created.body).toEqual({
        success: true,
        data: {
          transaction_id: expect.stringMatching(/^[A-Za-z0-9_-]{22,}$/),
          status: "pending",
          amount: "500.00",
          currency: "KZT",
          payment_url: `https://pay.example/pay/${id}`,
          expires_at: "2026-11-01T01:00:00.000Z",
          metadata: { user_id: "12345", order_id: "TEST-001" },
          webhook_secret: "whsec_dGVzdF9zZWNyZXRfa2V5", // printf test_secret_key | base64
        },
      });
      const pressed = await world.press(id, "pay");
      expect([pressed.status, pressed.headers.get("location")]).toEqual([303, `https://pay.example/pay/${id}`]);

      await world.gateway.work();
      world.clock.advance(5_000);
      await world.gateway.work();
      expect(world.receiver.accepted).toEqual([]);
      world.clock.advance(59_999);
      await world.gateway.work();
      expect(world.receiver.requests).toHaveLength(2);
      world.clock.advance(1);
      await world.gateway.work();

      expect(accepted()).toEqual([
        {
          event: "paid",
          id: expect.stringMatching(/^evt_[A-Za-z0-9_-]+$/),
          sequence: 1,
          transaction_id: id,
          amount: "500.00",
          paid_amount: "500.00",
          refunded_amount: "0.00",
          remaining_amount: "0.00",
          overpaid_amount: "0.00",
          currency: "KZT",
          status: "paid",
          late: false,
          test: true,
          metadata: { user_id: "12345", order_id: "TEST-001" },
          created_at: "2026-11-01T00:00:00.000Z",
          timestamp: "2026-11-01T00:00:00.000Z",
        },
      ]);
      const { requests } = world.receiver;
      expect(requests.map(({ status }) => status)).toEqual([500, 500, 204]);
      expect(new Set(requests.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
      expect(new Set(requests.map(({ body }) => body)).size).toBe(1);
      expect(requests.map(({ headers }) => headers["x-webhook-event"])).toEqual(["paid", "paid", "paid"]);

      const [record] = await world.gateway.payments.deliveries("shop", id);
      expect(record).toMatchObject({ state: "delivered", attempts: 3 });
      expect(record?.log.map(({ attempt, outcome }) => [attempt, outcome])).toEqual([
        [1, "http_500"],
        [2, "http_500"],
        [3, "http_204"],
      ]);
    });

    test("a process that ends between commit and delivery loses nothing: another one delivers", async () => {
      const id = await init();
      await world.press(id, "pay");
      await world.another().work();
      expect(accepted().map(({ event }) => event)).toEqual(["paid"]);
    });

    test("two workers that look at the same time deliver each webhook once", async () => {
      const other = world.another();
      for (let count = 0; count < 10; count++) await world.press(await init(), "pay");
      await Promise.all([world.gateway.work(), other.work()]);
      expect(world.receiver.requests).toHaveLength(10);
      expect(accepted()).toHaveLength(10);
    });

    test("fifty identical creations with one key make one payment and one answer", async () => {
      const body = { amount: "10.10", webhook_url: world.receiverUrl };
      const other = world.another();
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, index) =>
          callApi(index % 2 ? world.gateway.handle : other.handle, "POST", "/api/payment/init", body, {
            "idempotency-key": index % 3 ? "order-7" : '"order-7"',
          }),
        ),
      );
      expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
      expect(answers[0]?.status).toBe(200);
      const changed = await world.api(
        "POST",
        "/api/payment/init",
        { ...body, amount: 11 },
        { "idempotency-key": "order-7" },
      );
      expect([changed.status, changed.body.code]).toEqual([422, "key_reused"]);
      const otherMerchant = await world.api("POST", "/api/payment/init", body, {
        "idempotency-key": "order-7",
        "x-api-token": otherToken,
      });
      expect(otherMerchant.status).toBe(200);
      expect(otherMerchant.text).not.toBe(answers[0]?.text);
    });

    test.each([
      [15_000, 45_000],
      [40_000, 120_000],
    ])(
      "a try with a deadline of %i ms that begins after two thirds of its claim ends within it",
      async (timeoutMs, ttlMs) => {
        const claims: number[] = [];
        const storage: GatewayStorage = {
          ...world.storage,
          async claimDeliveries(options) {
            claims.push(options.ttlMs);
            return world.storage.claimDeliveries(options);
          },
        };
        await world.another({ storage, webhooks: { timeoutMs } }).work();
        expect(new Set(claims)).toEqual(new Set([ttlMs]));
      },
    );

    test.each([
      ["lifeMs", { lifeMs: 0 }],
      ["lifeMs", { lifeMs: 1.5 }],
      ["lifeMs", { lifeMs: 2_592_000_001 }],
      ["checkClaimMs", { checkClaimMs: 30_000 }],
      ["checkClaimMs", { checkClaimMs: 50_000, providerTimeoutMs: 50_000 }],
    ])("refuses at creation a %s with which nothing would work: %o", (name, options) => {
      expect(() => world.another(options)).toThrow(name);
    });

    test.each([
      ["merchant", { merchant: "x".repeat(101) }],
      ["amount", { amountMinor: 10n ** 17n + 1n }],
      ["metadata", { metadata: "order 7" }],
      ["metadata", { metadata: '["order 7"]' }],
      ["metadata", { metadata: JSON.stringify({ note: "x".repeat(8_200) }) }],
      ["description", { description: "Шай\u0000" }],
      ["description", { description: "x".repeat(501) }],
      ["return_url", { returnUrl: "javascript:alert(1)" }],
      ["expires_in", { lifeMs: Number.NaN }],
      ["expires_in", { lifeMs: 2_592_000_001 }],
      ["Idempotency-Key", { idempotency: { key: "x".repeat(300), fingerprint: "f" } }],
    ])("payments.create refuses what the API refuses, naming %s, and stores nothing", async (field, wrong) => {
      const create = world.gateway.payments.create({ merchant: "shop", amountMinor: 100n, ...wrong });
      await expect(create).rejects.toMatchObject({ name: "Refusal", code: "invalid", field });
      expect(await world.storage.listPayments({}, 10)).toEqual([]);
    });

    test("metadata that code gives comes back in the webhook, digit for digit", async () => {
      const { payment } = await world.gateway.payments.create({
        merchant: "shop",
        amountMinor: 100n,
        webhookUrl: world.receiverUrl,
        webhookSecret: shopSecret,
        metadata: '{ "сумма": 1.10 }',
      });
      await world.press(payment.id, "pay");
      await world.gateway.work();
      expect(world.receiver.accepted[0]?.body).toContain('"metadata":{"сумма":1.10}');
    });

    test("while a provider starts a payment the same key waits with 409; after a crash another process goes on with the same payment", async () => {
      const started: string[] = [];
      const { promise: answer, resolve } = Promise.withResolvers<{ account: string }>();
      const slow = (reply: () => Promise<{ account: string }>): PaymentProvider => ({
        name: "slow",
        currencies: { KZT: { stepMinor: 1n } },
        payerStep: () => ({ kind: "account", account: "" }),
        start: ({ id }) => {
          started.push(id);
          return reply();
        },
      });
      const first = world.another({
        providers: [slow(() => answer)],
        clock: { ...world.clock, sleep: () => new Promise(() => undefined) }, // stands still: its deadlines pass unseen
      });
      const second = world.another({ providers: [slow(async () => ({ account: "700000017" }))] });
      const key = { "idempotency-key": "k1" };
      const call = (gateway: typeof first) => callApi(gateway.handle, "POST", "/api/payment/init", { amount: 1 }, key);
      const pending = call(first);
      while (started.length === 0) await Promise.resolve(new Promise((next) => setImmediate(next)));
      const busy = await call(second);
      expect([busy.status, busy.body.code, busy.headers.get("retry-after")]).toEqual([409, "in_flight", "1"]);
      world.clock.advance(60_000);
      const resumed = await call(second);
      expect(resumed.body.data).toMatchObject({ status: "pending", account: "700000017" });
      expect(new Set(started).size).toBe(1);
      resolve({ account: "700000017" });
      expect((await pending).text).toBe(resumed.text);
      expect((await call(first)).text).toBe(resumed.text);
    });

    test("parts add up to paid, and money beyond the amount is told as overpaid", async () => {
      const id = await init({ amount: "100.00" });
      await world.press(id, "pay_part", "40,5");
      await world.press(id, "pay_part", "59.50");
      await world.press(id, "pay_part", "10");
      await world.gateway.work();
      expect(
        accepted().map((body) => [
          body.sequence,
          body.event,
          body.paid_amount,
          body.remaining_amount,
          body.overpaid_amount,
        ]),
      ).toEqual([
        [1, "partially_paid", "40.50", "59.50", "0.00"],
        [2, "paid", "100.00", "0.00", "0.00"],
        [3, "paid", "110.00", "0.00", "10.00"],
      ]);
    });

    test("fifty identical callbacks of a provider book the money once", async () => {
      const id = await init();
      await Promise.all(Array.from({ length: 50 }, () => world.press(id, "pay")));
      await world.gateway.work();
      const { body } = await world.api("GET", `/api/payment/${id}`);
      expect(body.data).toMatchObject({ status: "paid", paid_amount: "500.00", overpaid_amount: "0.00" });
      expect(accepted()).toHaveLength(1);
    });

    test("an unpaid payment expires once, not before two minutes after a start; money that comes later is booked and told", async () => {
      const id = await init({ expires_in: 60 });
      const partly = await init({ expires_in: 60 });
      await world.press(partly, "pay_part", "1");
      world.clock.advance(119_999);
      await world.gateway.work();
      expect(accepted().map(({ event }) => event)).toEqual(["partially_paid"]);
      world.clock.advance(1);
      await world.gateway.work();
      await world.gateway.work();
      await world.press(id, "pay_part", "500.00");
      await world.gateway.work();
      const own = accepted().filter(({ transaction_id }) => transaction_id === id);
      expect(own.map(({ event, status, late }) => [event, status, late])).toEqual([
        ["expired", "expired", false],
        ["paid", "paid", true],
      ]);
      expect(accepted().filter(({ transaction_id }) => transaction_id === partly)).toHaveLength(1);
    });

    test("a payment is cancelled once; with money it is not", async () => {
      const id = await init();
      expect((await world.api("POST", `/api/payment/${id}/cancel`)).body.data.status).toBe("cancelled");
      expect((await world.api("POST", `/api/payment/${id}/cancel`)).status).toBe(200);
      const paid = await init();
      await world.press(paid, "pay");
      const refused = await world.api("POST", `/api/payment/${paid}/cancel`);
      expect([refused.status, refused.body.detail]).toEqual([409, "the payment has money: refund it instead"]);
      await world.gateway.work();
      expect(
        accepted()
          .map(({ event }) => event)
          .sort(),
      ).toEqual(["cancelled", "paid"]);
    });

    test("of twenty parallel refunds of 60 % one succeeds; the rest may go later; nothing exceeds what was paid", async () => {
      const id = await init({ amount: 100 });
      await world.press(id, "pay");
      const other = world.another();
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          callApi(index % 2 ? world.gateway.handle : other.handle, "POST", `/api/payment/${id}/refund`, { amount: 60 }),
        ),
      );
      expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array(19).fill(409)]);
      expect(answers.find(({ status }) => status === 200)?.body.data).toMatchObject({
        status: "paid",
        refunded_amount: "60.00",
        refund: { amount: "60.00", status: "succeeded" },
      });
      const rest = await world.api("POST", `/api/payment/${id}/refund`, undefined, { "idempotency-key": "r2" });
      const again = await world.api("POST", `/api/payment/${id}/refund`, undefined, { "idempotency-key": "r2" });
      expect([rest.status, rest.body.data.status, rest.body.data.refund.amount]).toEqual([200, "refunded", "40.00"]);
      expect(again.body.data.refund).toEqual(rest.body.data.refund);
      await world.gateway.work();
      expect(
        accepted().map(({ event, refund_amount, refunded_amount, status }) => [
          event,
          refund_amount,
          refunded_amount,
          status,
        ]),
      ).toEqual([
        ["paid", undefined, "0.00", "paid"],
        ["refunded", "60.00", "60.00", "paid"],
        ["refunded", "40.00", "100.00", "refunded"],
      ]);
    });

    test("a refund whose provider does not answer stays reserved and is settled later, once", async () => {
      const answers: ("pending" | "succeeded")[] = ["pending", "succeeded", "succeeded"];
      const keys: string[] = [];
      const id = await init();
      await world.press(id, "pay");
      const { createSandboxProvider } = await import("../src/providers/sandbox.ts");
      const gateway = world.another({
        providers: [
          {
            ...createSandboxProvider(),
            async refund({ key }) {
              keys.push(key);
              const answer = answers.shift();
              if (answer === "pending") throw new Error("timeout");
              return answer ?? "failed";
            },
          },
        ],
      });
      const open = await callApi(gateway.handle, "POST", `/api/payment/${id}/refund`, {});
      expect(open.body.data.refund.status).toBe("pending");
      expect((await callApi(gateway.handle, "POST", `/api/payment/${id}/refund`, {})).status).toBe(409);
      world.clock.advance(30_000);
      await Promise.all([gateway.work(), gateway.work()]);
      const { body } = await world.api("GET", `/api/payment/${id}`);
      expect(body.data).toMatchObject({ status: "refunded", refunded_amount: "500.00" });
      expect(new Set(keys)).toEqual(new Set([open.body.data.refund.id]));
      await gateway.work();
      expect(accepted().map(({ event }) => event)).toEqual(["paid", "refunded"]);
    });

    test("later events wait for the head; after three failed tries they pass it; a new event triggers the head at once", async () => {
      const id = await init({ amount: 100 });
      world.receiver.failNext(3);
      await world.press(id, "pay_part", "10");
      await world.gateway.work();
      expect(world.receiver.requests).toHaveLength(1);
      await world.press(id, "pay_part", "20");
      await world.gateway.work();
      expect(world.receiver.requests).toHaveLength(2); // the head again, at once; the new one waits
      world.clock.advance(60_000);
      await world.gateway.work();
      expect(world.receiver.requests).toHaveLength(4);
      expect(accepted().map(({ sequence }) => sequence)).toEqual([2]);
      world.clock.advance(300_000);
      await world.gateway.work();
      expect(accepted().map(({ sequence }) => sequence)).toEqual([2, 1]);
    });

    test("a webhook that nobody takes is given up after the schedule, and a person may send it again", async () => {
      const gateway = world.another({ retryDelaysMs: [1_000] });
      const id = await init();
      world.receiver.failNext(2, 404);
      await world.press(id, "pay");
      await gateway.work();
      world.clock.advance(1_000);
      await gateway.work();
      world.clock.advance(1_000_000);
      await gateway.work();
      const [record] = await gateway.payments.deliveries("shop", id);
      expect([record?.state, record?.attempts]).toEqual(["exhausted", 2]);
      const eventId = record?.eventId ?? "";
      expect(
        (await world.api("POST", `/api/events/${eventId}/resend`, undefined, { "x-api-token": otherToken })).status,
      ).toBe(404);
      expect((await world.api("POST", `/api/events/${eventId}/resend`)).status).toBe(200);
      await gateway.work();
      expect(accepted().map((body) => body.id)).toEqual([eventId]);
    });

    test("GET /api/events gives every event once, in order, to its own merchant, with the bytes of the webhook", async () => {
      const ids = [await init(), await init(), await init()];
      for (const id of ids) {
        await world.press(id, "pay");
        world.clock.advance(1);
      }
      await world.api("POST", `/api/payment/${await init()}/cancel`);
      const first = await world.api("GET", "/api/events?after=");
      expect(first.body.data.events.map(({ event }: { event: string }) => event)).toEqual([
        "paid",
        "paid",
        "paid",
        "cancelled",
      ]);
      await world.gateway.work();
      for (const { body } of world.receiver.accepted) expect(first.text).toContain(body);
      const nothing = await world.api("GET", `/api/events?after=${first.body.data.next}`);
      expect(nothing.body.data).toEqual({ events: [], next: first.body.data.next });
      await world.press(await init(), "pay");
      expect((await world.api("GET", `/api/events?after=${first.body.data.next}`)).body.data.events).toHaveLength(1);
      const foreign = await world.api("GET", "/api/events", undefined, { "x-api-token": otherToken });
      expect(foreign.body.data.events).toEqual([]);
    });

    test("another merchant's payment does not exist", async () => {
      const id = await init();
      const headers = { "x-api-token": otherToken };
      const answers = await Promise.all([
        world.api("GET", `/api/payment/${id}`, undefined, headers),
        world.api("POST", `/api/payment/${id}/cancel`, undefined, headers),
        world.api("POST", `/api/payment/${id}/refund`, {}, headers),
      ]);
      expect(answers.map(({ status }) => status)).toEqual([404, 404, 404]);
    });

    test("without a secret of its own a payment is signed with the merchant's, which init tells", async () => {
      const first = await world.api("POST", "/api/payment/init", { amount: 1, webhook_url: world.receiverUrl });
      const second = await world.api("POST", "/api/payment/init", { amount: 1, webhook_url: world.receiverUrl });
      expect(first.body.data.webhook_secret).toMatch(/^whsec_[A-Za-z0-9+/]{32,}=*$/);
      expect(second.body.data.webhook_secret).toBe(first.body.data.webhook_secret);
      await world.press(first.body.data.transaction_id, "pay");
      await world.gateway.work();
      const [request] = world.receiver.requests;
      const { Webhook } = await import("standardwebhooks");
      expect(request?.headers["webhook-timestamp"]).toBe(String(Date.parse("2026-11-01T00:00:00Z") / 1000));
      const expected = new Webhook(first.body.data.webhook_secret).sign(
        request?.headers["webhook-id"] ?? "",
        new Date("2026-11-01T00:00:00Z"),
        request?.body ?? "",
      );
      expect(request?.headers["webhook-signature"]).toBe(expected);
    });

    test("a token is stored as a digest, works within its scopes and is refused once revoked", async () => {
      const { id, token } = await world.gateway.tokens.create({ merchant: "shop", scopes: ["read"] });
      const headers = { "x-api-token": token };
      expect((await world.api("GET", "/api/events", undefined, headers)).status).toBe(200);
      const refused = await world.api("POST", "/api/payment/init", { amount: 1 }, headers);
      expect([refused.status, refused.body.code]).toEqual([403, "forbidden"]);
      expect(await world.gateway.tokens.revoke(id)).toBe(true);
      expect((await world.api("GET", "/api/events", undefined, headers)).status).toBe(401);
    });
  });
});
