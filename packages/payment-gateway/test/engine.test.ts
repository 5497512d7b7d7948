// What the engine must hold whatever comes in between, on fake time and on every storage.
import { silentLogger } from "@orderbridge/core";
import { createWebhookVerifier } from "@orderbridge/core/signature";
import { createFakeClock, type FakeClock, type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import {
  createPaymentGateway,
  type Payment,
  type PaymentGateway,
  type PaymentGatewayOptions,
  type PaymentProvider,
  type ProviderContext,
} from "../src/index.ts";
import type { GatewayStorage } from "../src/storage.ts";
import { createFakeReceiver, type FakeReceiver } from "../src/testing/index.ts";
import { type Bank, createBank, createBankProvider } from "./bank.ts";
import { type Store, stores } from "./stores.ts";

const isProof = process.env.PROOF === "1";
const hour = 3_600_000;
const day = 24 * hour;

describe.each(stores)("the engine on $name", ({ name, skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let store: Awaited<ReturnType<Store["open"]>>;
    let clock: FakeClock;
    let storage: GatewayStorage;
    let bank: Bank;
    let banking: Listening;
    let receiver: FakeReceiver;
    let receiving: Listening;
    const gateways: PaymentGateway[] = [];
    beforeEach(async () => {
      store = await open();
      clock = createFakeClock();
      storage = await store.storageFor(clock);
      bank = createBank();
      receiver = createFakeReceiver({ secrets: ["test_secret_key"], now: () => clock.now().getTime() });
      [banking, receiving] = await Promise.all([listen((r) => bank.handle(r)), listen((r) => receiver.handle(r))]);
    });
    afterEach(async () => {
      await Promise.all(gateways.splice(0).map((gateway) => gateway.close()));
      await Promise.all([banking.close(), receiving.close()]);
      await store.close();
    });

    /** A process of the fleet. */
    function start(options: Partial<PaymentGatewayOptions> = {}): PaymentGateway {
      const gateway = createPaymentGateway({
        storage,
        providers: [createBankProvider(banking.url)],
        publicUrl: "https://pay.example",
        webhooks: { allowAddresses: ["127.0.0.1"] },
        expiryHoldMs: 0,
        clock,
        logger: silentLogger,
        random: () => 0.5,
        ...options,
      });
      gateways.push(gateway);
      return gateway;
    }
    const create = async (gateway: PaymentGateway, amountMinor = 10_000n): Promise<string> => {
      const { payment } = await gateway.payments.create({
        merchant: "shop",
        amountMinor,
        webhookUrl: `${receiving.url}/hook`,
        webhookSecret: "test_secret_key",
        metadata: '{"имя":"Әлия"}',
        description: "Шай",
      });
      return payment.id;
    };
    const transfer = (gateway: PaymentGateway, id: string, transactionId = `t-${id}`, amountMinor = 10_000n) =>
      gateway.handle(
        new Request("https://pay.example/providers/bank/", {
          method: "POST",
          body: JSON.stringify({ id, transactionId, amountMinor: String(amountMinor) }),
        }),
      );
    const told = (id: string) =>
      receiver.accepted
        .map(({ body }) => JSON.parse(body))
        .filter(({ transaction_id }) => transaction_id === id)
        .map(({ event, late }) => (late ? `late ${event}` : event));
    /** Runs `interrupt` before the n-th call of the storage, counted over all its methods. */
    function interrupted(
      at: number,
      interrupt: () => Promise<unknown>,
    ): { storage: GatewayStorage; calls: () => number } {
      let calls = 0;
      const wrapped = new Proxy(storage, {
        get(target, property) {
          const value = Reflect.get(target, property);
          if (typeof value !== "function") return value;
          return async (...args: unknown[]) => {
            if (++calls === at) await interrupt();
            return value.apply(target, args);
          };
        },
      });
      return { storage: wrapped, calls: () => calls };
    }

    test("money that arrives at any point of an expiry is never called expired without being told late", async () => {
      const other = start();
      let points = 1;
      for (let point = 0; point <= points; point++) {
        const id = await create(other);
        clock.advance(3_600_000);
        const between = interrupted(point, () => transfer(other, id));
        const expiring = start({ storage: between.storage });
        await expiring.work();
        if (point === 0) points = between.calls();
        else if (point <= between.calls()) {
          await other.work();
          const payment = await storage.getPayment(id);
          expect([payment?.status, payment?.paidMinor], `point ${point}`).toEqual(["paid", 10_000n]);
          expect([["paid"], ["expired", "late paid"]], `point ${point}`).toContainEqual(told(id));
        }
      }
      expect(points).toBeGreaterThan(5);
    });

    test("money that the bank has when it is asked a last time is booked, and a bank that cannot tell lets nothing expire", async () => {
      const gateway = start();
      const [paid, unpaid] = [await create(gateway), await create(gateway)];
      bank.transfers.set(paid, { transactionId: "t1", amountMinor: 10_000n });
      clock.advance(3_600_000);
      const blind = start({ providers: [createBankProvider("http://127.0.0.1:9")] });
      await blind.work();
      expect((await storage.getPayment(unpaid))?.status).toBe("pending");
      clock.advance(30_000);
      await gateway.work();
      expect([told(paid), told(unpaid)]).toEqual([["paid"], ["expired"]]);
    });

    test("a bank that is away for hours is asked ever more rarely about what cannot end, and ends it once it tells", async () => {
      let asked = 0;
      let isAway = true;
      const gateway = start({
        providers: [
          {
            name: "bank",
            currencies: { KZT: { stepMinor: 1n } },
            payerStep: () => ({ kind: "account", account: "1" }),
            state: async () => {
              asked++;
              return { state: isAway ? "unknown" : "waiting" };
            },
          },
        ],
      });
      const id = await create(gateway);
      const read = async () => (await storage.getPayment(id)) as Payment;
      const endsAt = (await read()).expiresAt.getTime();
      const workFrom = async (fromMs: number, toMs: number, stepMs: number) => {
        for (let ms = fromMs; ms < toMs; ms += stepMs) {
          await clock.advance(endsAt + ms - clock.now().getTime());
          await gateway.work();
        }
      };
      await workFrom(0, 600_000, 15_000);
      expect([(await read()).status, asked]).toEqual(["pending", 20]); // every half minute
      await workFrom(5 * hour, 6 * hour, 60_000);
      expect([(await read()).status, asked]).toEqual(["pending", 26]); // every ten minutes
      isAway = false;
      await workFrom(6 * hour, 6 * hour + 600_000, 60_000);
      expect((await read()).status).toBe("expired");
    });

    test("a holder that stopped for three leases and resumes has no double effect", async () => {
      const { promise: resumed, resolve: resume } = Promise.withResolvers<void>();
      const provider = createBankProvider(banking.url);
      const first = start({
        clock: { ...clock, sleep: () => new Promise(() => undefined) }, // nor does its own deadline wake it
        providers: [
          {
            ...provider,
            async state(payment, context) {
              const seen = await (provider.state as NonNullable<typeof provider.state>)(payment, context);
              await resumed; // frozen with the answer "not paid" in its hands
              return seen;
            },
          },
        ],
      });
      const ids = [await create(first), await create(first)] as [string, string];
      clock.advance(3_600_000);
      let asked = 0;
      bank.onStateAsked = () => asked++;
      const frozen = first.work();
      await expect.poll(() => asked).toBe(2);
      clock.advance(60_001);
      bank.transfers.set(ids[0], { transactionId: "t1", amountMinor: 10_000n });
      const second = start();
      await second.work();
      expect([told(ids[0]), told(ids[1])]).toEqual([["paid"], ["expired"]]);
      resume();
      await frozen;
      clock.advance(60_001);
      await second.work();
      expect([told(ids[0]), told(ids[1])]).toEqual([["paid"], ["expired"]]);
      expect((await storage.historyOf(ids[0])).bookings).toHaveLength(1);
    });

    test("a creation that was taken over and goes on later changes neither account nor session, nor frees the work of others", async () => {
      const accounts: (string | undefined)[] = [];
      const gates = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
      let begun = 0;
      /** Takes a number, then stands still until its gate opens. */
      const slow = () =>
        start({
          clock: { ...clock, sleep: () => new Promise(() => undefined) },
          providers: [
            {
              ...createBankProvider(banking.url),
              async start(_payment, { nextNumber }) {
                const number = await nextNumber();
                await gates[begun++]?.promise;
                if (number === 3) throw new Error("the bank is gone");
                return { account: `10${number}` };
              },
            },
          ],
        });
      const request = { merchant: "shop", amountMinor: 100n, idempotency: { key: "k", fingerprint: "f" } };
      const ask = async () => accounts.push((await slow().payments.create(request)).payment.account);
      const first = ask();
      await expect.poll(() => begun).toBe(1);
      clock.advance(60_001);
      const second = ask();
      await expect.poll(() => begun).toBe(2);
      gates[1]?.resolve();
      await second;
      gates[0]?.resolve();
      await first;
      await ask();
      expect(accounts).toEqual(["102", "102", "102"]);
      const found = await storage.findByAccount("bank", "102");
      expect([found?.account, await storage.findByAccount("bank", "101")]).toEqual(["102", undefined]);

      const other = { ...request, idempotency: { key: "k2", fingerprint: "f" } };
      const failing = slow().payments.create(other); // number 3
      await expect.poll(() => begun).toBe(3);
      clock.advance(60_001);
      const held = slow().payments.create(other);
      await expect.poll(() => begun).toBe(4);
      gates[2]?.resolve();
      await expect(failing).rejects.toMatchObject({ code: "provider_failed" });
      await expect(slow().payments.create(other)).rejects.toMatchObject({ code: "in_flight" });
      gates[3]?.resolve();
      expect((await held).payment.account).toBe("104");
    });

    test("a creation that is taken over goes on at the provider of its payment, whatever is first by now", async () => {
      let isDown = true;
      const started: string[] = [];
      const createOne = (name: string, more: Partial<PaymentProvider> = {}): PaymentProvider => ({
        ...createBankProvider(banking.url),
        name,
        async start({ id }) {
          if (name === "first" && isDown) throw new Error("the bank is away");
          started.push(name);
          return { session: `${name}-${id}` };
        },
        ...more,
      });
      const [first, second] = [createOne("first"), createOne("second")];
      const { start: _start, ...unstarted } = createOne("second");
      const ask = (key: string, ...providers: PaymentProvider[]) =>
        start({ providers }).payments.create({
          merchant: "shop",
          amountMinor: 100n,
          idempotency: { key, fingerprint: "f" },
        });
      for (const key of ["k1", "k2", "k3"]) {
        await expect(ask(key, first, second)).rejects.toMatchObject({ code: "provider_failed" });
      }
      await expect(ask("k1", second)).rejects.toMatchObject({ code: "conflict" });
      isDown = false;
      const { payment } = await ask("k1", second, first);
      expect([payment.provider, payment.session, started]).toEqual(["first", `first-${payment.id}`, ["first"]]);
      expect((await ask("k1", second, first)).payment).toEqual(payment);
      const other = await ask("k2", unstarted, first);
      expect(other.payment.session).toBe(`first-${other.payment.id}`);
      expect((await ask("k2", unstarted, first)).payment).toEqual(other.payment);
      expect(started).toEqual(["first", "first"]);

      clock.advance(3_600_000);
      await start({ providers: [first] }).work();
      const late = await ask("k3", second, first); // nothing is prepared for a payment that has ended
      expect([late.payment.status, late.payment.session, started.length]).toEqual(["expired", undefined, 2]);
      expect((await ask("k3", second, first)).payment).toEqual(late.payment);
    });

    test("who loses `remember` to another does not move the time that the winner wants", async () => {
      let asked = 0;
      let context: ProviderContext | undefined;
      const gateway = start({
        providers: [
          {
            ...createBankProvider(banking.url),
            async state() {
              asked++;
              return { state: "waiting" };
            },
            async callback(request) {
              ({ context } = request);
              return new Response();
            },
          },
        ],
      });
      const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100n });
      await gateway.handle(new Request("https://pay.example/providers/bank/"));
      expect(await context?.remember(payment, { session: "qr", askAgainMs: 2_000 })).toMatchObject({ session: "qr" });
      expect(await context?.remember(payment, { session: "no qr", askAgainMs: 1_800_000 })).toBe(undefined);
      clock.advance(2_000);
      await gateway.work();
      expect(asked).toBe(1);
    });

    test("a process that ends right after a cancellation leaves no question unasked", async () => {
      const cancel = async () => ({ state: "waiting", askAgainMs: 7_200_000 }) as const;
      const providers = [{ ...createBankProvider(banking.url), cancel }];
      const gateway = start({ providers });
      const id = await create(gateway);
      let isGone = false;
      const dying = new Proxy(storage, {
        get(target, property) {
          const value = Reflect.get(target, property);
          if (typeof value !== "function") return value;
          return async (...args: unknown[]) => {
            if (isGone) throw new Error("the process has ended");
            isGone = property === "change";
            return value.apply(target, args);
          };
        },
      });
      const cancelled = await start({ providers, storage: dying }).payments.cancel("shop", id);
      expect(cancelled.status).toBe("cancelled");
      bank.transfers.set(id, { transactionId: "t1", amountMinor: 10_000n });
      clock.advance(7_200_000);
      await gateway.work();
      await gateway.work();
      expect(told(id)).toEqual(["cancelled", "late paid"]);
    });

    test("a provider that takes almost as long as it may is asked once, also by other processes", async () => {
      const { promise: answered, resolve: answer } = Promise.withResolvers<void>();
      let asked = 0;
      const provider: PaymentProvider = {
        ...createBankProvider(banking.url),
        async state() {
          asked++;
          await answered;
          return { state: "waiting", askAgainMs: 600_000 };
        },
      };
      const [first, second] = [start({ providers: [provider] }), start({ providers: [provider] })];
      const ids = await Promise.all(Array.from({ length: 9 }, () => create(first)));
      for (const id of ids) await storage.scheduleCheck(id, { delayMs: 0 });
      const asking = first.work();
      await expect.poll(() => asked).toBe(8);
      clock.advance(29_000);
      await second.work(); // else the test runs out of time
      expect(asked).toBe(8);
      answer();
      await asking;
      expect(asked).toBe(8); // the ninth was taken too long ago: its answer would come after its claim
      await second.work();
      expect(asked).toBe(9);
      clock.advance(599_999);
      await first.work();
      expect(asked).toBe(9);
    });

    test("a refund whose provider takes longer than half a minute is asked for once at a time", async () => {
      const { promise: answered, resolve: answer } = Promise.withResolvers<void>();
      let [asked, isOpen] = [0, true];
      const provider: PaymentProvider = {
        ...createBankProvider(banking.url),
        async refund() {
          asked++;
          await answered;
          return isOpen ? "pending" : "succeeded";
        },
      };
      const process = () => start({ providers: [provider], providerTimeoutMs: 50_000 });
      const [first, second] = [process(), process()];
      const id = await create(first);
      await transfer(first, id);
      const asking = first.payments.refund({ merchant: "shop", id });
      await expect.poll(() => asked).toBe(1);
      clock.advance(30_000);
      await second.work(); // else the test runs out of time
      expect(asked).toBe(1);
      answer();
      expect((await asking).refund.status).toBe("pending");
      isOpen = false;
      clock.advance(49_999);
      await second.work();
      expect(asked).toBe(1);
      clock.advance(1);
      await second.work();
      expect([asked, (await storage.getPayment(id))?.status]).toEqual([2, "refunded"]);
    });

    test.each([
      ["in another currency", "RUB", "came in RUB"],
      ["of another payment", "KZT", "was booked for the payment "],
    ] as const)(
      "money %s is not booked: a person is called, the payment is not cancelled, and the provider is asked once an hour",
      async (_, currency, reason) => {
        let asked = 0;
        let isMistaken = true;
        const gateway = start({
          providers: [
            {
              ...createBankProvider(banking.url),
              async state({ id }) {
                asked++;
                const [transactionId, told] = isMistaken ? ["t1", currency] : [`t-${id}`, "KZT" as const];
                return { state: "paid", money: { transactionId, amountMinor: 10_000n, currency: told } };
              },
            },
          ],
        });
        await transfer(gateway, await create(gateway), "t1");
        const ids = await Promise.all(Array.from({ length: 40 }, () => create(gateway)));
        const [id = ""] = ids;
        await expect(gateway.payments.cancel("shop", id)).rejects.toMatchObject({ code: "conflict" });
        asked = 0;
        clock.advance(3_600_000);
        await gateway.work();
        expect(asked).toBe(40);
        const stored = await storage.getPayment(id);
        expect(stored).toMatchObject({
          status: "pending",
          needsAttention: expect.stringContaining(`t1 was not booked: it ${reason}`),
        });
        clock.advance(3_599_000);
        await gateway.work();
        expect(asked).toBe(40);
        isMistaken = false; // the options were put right
        clock.advance(1_000);
        await gateway.work();
        expect([(await storage.getPayment(id))?.status, asked]).toEqual(["paid", 80]);
      },
    );

    test("a payer who begins while the provider is asked is neither cancelled nor expired under", async () => {
      let meanwhile: (() => Promise<unknown>) | undefined;
      const provider: PaymentProvider = {
        ...createBankProvider(banking.url),
        async state(payment, context) {
          const hasBegun = payment.session === "begun";
          await meanwhile?.();
          meanwhile = undefined;
          const current = await context.find(payment.id);
          if (hasBegun) return { state: "processing", askAgainMs: 5_000 };
          expect(current?.status).toBe("processing");
          return { state: "ended" };
        },
        async callback({ path, context }) {
          const payment = await context.find(path);
          if (payment) await context.remember(payment, { session: "begun", processing: true, askAgainMs: 60_000 });
          return new Response();
        },
      };
      const gateway = start({ providers: [provider] });
      const press = (id: string) => () => gateway.handle(new Request(`https://pay.example/providers/bank/${id}`));
      const first = await create(gateway);
      meanwhile = press(first);
      await expect(gateway.payments.cancel("shop", first)).rejects.toMatchObject({ code: "conflict" });
      expect((await storage.getPayment(first))?.status).toBe("processing");

      const second = await create(gateway);
      await storage.scheduleCheck(first, { delayMs: 7_200_000 });
      clock.advance(3_600_000);
      await storage.scheduleCheck(first, { delayMs: 7_200_000 });
      meanwhile = press(second);
      await gateway.work();
      expect((await storage.getPayment(second))?.status).toBe("processing");
    });

    test("a process without the provider of a payment or refund leaves them to those that have it", async () => {
      const able = start({
        providers: [{ ...createBankProvider(banking.url, { askAfterMs: 5_000 }), refund: async () => "pending" }],
      });
      const [paid, unpaid] = [await create(able), await create(able)];
      const lacking = start({ providers: [{ ...createBankProvider(banking.url), name: "another" }] });
      bank.transfers.set(paid, { transactionId: "t1", amountMinor: 10_000n });
      clock.advance(5_000);
      await lacking.work();
      await expect(lacking.payments.cancel("shop", paid)).rejects.toMatchObject({ code: "conflict" });
      await able.work();
      expect(told(paid)).toEqual(["paid"]);
      await able.payments.refund({ merchant: "shop", id: paid });
      clock.advance(3_600_000);
      await lacking.work();
      expect((await storage.getPayment(unpaid))?.status).toBe("pending");
      await start().work(); // its bank says at once how the refund ended
      expect([told(paid), told(unpaid)]).toEqual([["paid", "refunded"], ["expired"]]);
    });

    test("money whose report was lost is found when the payment is cancelled", async () => {
      const gateway = start();
      const id = await create(gateway);
      bank.transfers.set(id, { transactionId: "t1", amountMinor: 10_000n });
      await expect(gateway.payments.cancel("shop", id)).rejects.toMatchObject({ code: "conflict" });
      await gateway.work();
      expect(told(id)).toEqual(["paid"]);
    });

    test("a correction of the wall clock lets nothing expire for a while, and no webhook say another time than it was sent at", async () => {
      const gateway = start({ expiryHoldMs: 120_000 });
      clock.advance(120_000);
      const id = await create(gateway);
      clock.jump(day);
      await gateway.work();
      expect((await storage.getPayment(id))?.status).toBe("pending");
      clock.jump(-day); // put right again within the two minutes
      clock.advance(119_000);
      await gateway.work();
      await transfer(gateway, id);
      await gateway.work();
      expect(told(id)).toEqual(["paid"]);
      clock.jump(-2 * day); // claims and due times lie in the future now, and the past comes first
      const second = await create(gateway);
      await transfer(gateway, second);
      await gateway.work();
      expect(told(second)).toEqual(["paid"]);
      const payment = await storage.getPayment(second);
      expect(payment && payment.updatedAt >= payment.createdAt).toBe(true);
    });

    const refundCount = isProof ? 1_000 : 40;
    test(`a bank that times out on half of ${refundCount} partial refunds: never above what was paid, and all are resolved`, {
      timeout: 120_000,
    }, async () => {
      const gateways = [start(), start()] as const;
      const paidMinor = BigInt(refundCount) * 60n;
      const id = await create(gateways[0], paidMinor);
      await transfer(gateways[0], id, "t1", paidMinor);
      let asked = 0;
      bank.loseRefundAnswer = () => ++asked % 2 === 0;
      let accepted = 0;
      const waiting = Array.from({ length: refundCount }, (_, index) => index);
      const worker = async () => {
        for (let index = waiting.shift(); index !== undefined; index = waiting.shift()) {
          const gateway = gateways[index % 2] as PaymentGateway;
          try {
            await gateway.payments.refund({ merchant: "shop", id, amountMinor: 100n });
            accepted++;
          } catch (error) {
            expect((error as Error).message).toMatch(/^no more than \d+\.\d\d can be refunded$/);
          }
          const { paidMinor: paid, refundedMinor, refundingMinor } = (await storage.getPayment(id)) ?? {};
          expect((refundedMinor ?? 0n) + (refundingMinor ?? 0n) <= (paid ?? -1n)).toBe(true);
        }
      };
      await Promise.all([worker(), worker(), worker(), worker()]);
      expect(accepted).toBe(Math.floor((refundCount * 60) / 100));
      for (let round = 0; round < 40 && (await storage.health()).openRefunds > 0; round++) {
        clock.advance(30_000 * 2 ** Math.min(round, 6));
        await Promise.all(gateways.map((gateway) => gateway.work()));
      }
      const given = [...bank.refunds.values()].reduce((sum, amount) => sum + amount, 0n);
      const payment = await storage.getPayment(id);
      expect([payment?.refundingMinor, payment?.refundedMinor]).toEqual([0n, given]);
      expect(bank.refunds.size).toBe(accepted);
      recordProof(`gateway-refunds-${name.toLowerCase()}`, { requests: refundCount, accepted, openAfterwards: 0 });
    });

    test("money on a tombstone is booked and told to the same address; metadata stays gone", async () => {
      const gateway = start();
      const id = await create(gateway);
      clock.advance(3_600_000);
      await gateway.work();
      clock.advance(7 * day);
      await gateway.work();
      expect(await storage.getPayment(id)).toMatchObject({ status: "expired", metadata: "{}", description: "" });
      await transfer(gateway, id);
      await gateway.work();
      expect(told(id)).toEqual(["expired", "late paid"]);
      const { body } = receiver.accepted.at(-1) ?? {};
      expect(JSON.parse(body ?? "{}")).toMatchObject({ sequence: 2, paid_amount: "100.00", metadata: {}, late: true });
    });

    test("money that arrives at any point of the clean-up finds the payment whole or its tombstone", async () => {
      const other = start();
      for (let point = 1; point <= 4; point++) {
        const id = await create(other);
        clock.advance(3_600_000);
        await other.work();
        clock.advance(7 * day - 1);
        const between = interrupted(point, () => transfer(other, id));
        clock.advance(1);
        await start({ storage: between.storage }).work();
        if (between.calls() < point) await transfer(other, id);
        await other.work();
        expect(told(id), `point ${point}`).toEqual(["expired", "late paid"]);
        expect((await storage.getPayment(id))?.paidMinor).toBe(10_000n);
      }
    });

    test("a receiver that fails again and again is left alone, and gets everything once it answers", async () => {
      const gateway = start({ breaker: { failures: 3, pauseMs: 60_000 }, retryDelaysMs: Array(20).fill(1_000) });
      receiver.failNext(100);
      const ids: string[] = [];
      for (let index = 0; index < 6; index++) {
        ids.push(await create(gateway));
        await transfer(gateway, ids[index] as string);
      }
      await gateway.work();
      const before = receiver.requests.length;
      for (let second = 0; second < 59; second++) {
        clock.advance(1_000);
        await gateway.work();
      }
      expect(receiver.requests.length).toBe(before);
      expect((await storage.health()).pausedReceivers).toHaveLength(1);
      receiver.failNext(0);
      clock.advance(1_000);
      await gateway.work();
      await gateway.work();
      expect(ids.map(told)).toEqual(ids.map(() => ["paid"]));
      expect((await storage.health()).pausedReceivers).toEqual([]);
    });

    test("what waits for a receiver that failed every try for days is given up; a gateway that stood still gives up nothing", async () => {
      const hour = 3_600_000;
      const breaker = { failures: 1, pauseMs: 6 * hour, maxPauseMs: 6 * hour };
      const options = { breaker, retryDelaysMs: Array(5).fill(6 * hour), expiryHoldMs: 0 }; // 30 hours, so five pauses
      const gateway = start(options);
      receiver.failNext(1_000);
      const book = async (): Promise<string> => {
        const id = await create(gateway);
        await transfer(gateway, id);
        return id;
      };
      const early: string[] = [];
      for (let index = 0; index < 15; index++) early.push(await book());
      await gateway.work();
      clock.advance(40 * hour); // nothing ran meanwhile
      const again = start(options);
      await again.work();
      expect((await storage.health()).exhausted).toBe(0);
      for (let pause = 0; pause < 9; pause++) {
        clock.advance(6 * hour);
        await again.work();
      }
      const late = await book();
      const rows = (await Promise.all(early.map((id) => storage.deliveriesOf(id)))).flat();
      const waited = rows
        .filter(({ state }) => state === "pending")
        .map(({ dueAt }) => clock.now().getTime() - dueAt.getTime());
      // Every try moves the due time of its webhook; the rest ends after 30 hours, at the next daily look.
      expect(Math.max(...waited)).toBeLessThan(54 * hour);
      expect(rows.filter(({ state, log }) => state === "exhausted" && log.length < 6).length).toBeGreaterThanOrEqual(5);
      expect((await storage.deliveriesOf(late)).map(({ state }) => state)).toEqual(["pending"]);
      receiver.failNext(0);
      clock.advance(6 * hour);
      await again.work();
      expect(told(late)).toEqual(["paid"]);
    });

    test("an endpoint that answers 410 is switched off, a payment's own address is given up for that event only", async () => {
      const gateway = start();
      await gateway.endpoints.add({ merchant: "shop", url: `${receiving.url}/all`, secret: "test_secret_key" });
      const id = await create(gateway);
      receiver.failNext(2, 410);
      await transfer(gateway, id, "t1", 4_000n);
      await gateway.work();
      expect((await gateway.endpoints.list("shop")).map(({ state }) => state)).toEqual(["gone"]);
      await transfer(gateway, id, "t2", 6_000n);
      await gateway.work();
      expect(told(id)).toEqual(["paid"]); // at its own address
      expect(receiver.requests).toHaveLength(3);
    });

    test("during the overlap a webhook carries signatures of both secrets, afterwards only of the new one", async () => {
      const gateway = start();
      const { endpoint } = await gateway.endpoints.add({
        merchant: "shop",
        url: `${receiving.url}/all`,
        secret: "old_secret_key",
      });
      await gateway.endpoints.rotate({ merchant: "shop", id: endpoint.id, secret: "test_secret_key", overlapMs: day });
      const id = await create(gateway);
      await transfer(gateway, id, "t1", 4_000n);
      await gateway.work();
      clock.advance(day);
      await transfer(gateway, id, "t2", 6_000n);
      await gateway.work();
      const verify = createWebhookVerifier({
        secrets: ["old_secret_key"],
        toleranceMs: 10 * day,
        bodySignature: false,
        now: () => clock.now().getTime(),
      });
      const all = receiver.requests.filter(({ headers }) => headers["webhook-signature"] !== undefined);
      const byOld = all.map(({ headers, body }) => verify({ headers, body }).ok);
      expect(all.every(({ verification }) => verification.ok)).toBe(true);
      expect(all.map(({ headers }) => headers["webhook-signature"]?.split(" ").length).sort()).toEqual([1, 1, 1, 2]);
      expect(byOld.filter(Boolean)).toHaveLength(1);
    });
  });
});
