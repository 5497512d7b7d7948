import type { Clock } from "@orderbridge/core";
import { createClientAddress, withRemoteAddress } from "@orderbridge/core/node";
import { type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import { createRobokassa, type OperationState } from "@orderbridge/robokassa";
import { createFakeRobokassa } from "@orderbridge/robokassa/testing";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import type { Payment, PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createKaspiBillerProvider } from "../src/providers/kaspi-biller.ts";
import { createRobokassaProvider } from "../src/providers/robokassa.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { type ProviderCaseContext, providerCases } from "../src/testing/index.ts";
import { createWorld, passTime, type World } from "./gateway-harness.ts";
import { openQr, openSmartpos, pressButton, silence } from "./provider-worlds.ts";

let world: World;
afterEach(() => world.close());

const open = async (provider: PaymentProvider): Promise<World> => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), { providers: [provider] });
  return world;
};
/** Sends a request now and, by `repeat`, again. */
function sender(): { send(request: Request): Promise<Response>; repeat(): Promise<Response> } {
  let last: Request | undefined;
  return {
    send(request) {
      last = request.clone();
      return world.gateway.handle(request);
    },
    repeat: () => world.gateway.handle((last as Request).clone()),
  };
}

async function sandbox(provider: PaymentProvider = createSandboxProvider()): Promise<ProviderCaseContext> {
  const { gateway } = await open(provider);
  const { send, repeat } = sender();
  const body = new URLSearchParams({ action: "pay" });
  return {
    gateway,
    provider,
    merchant: "shop",
    pay: ({ id }) => send(new Request(`https://pay.example/providers/sandbox/${id}`, { method: "POST", body })),
    repeat,
    pass: (ms) => passTime(world, ms),
  };
}

async function kaspiBiller(): Promise<ProviderCaseContext> {
  const provider = createKaspiBillerProvider({ clientAddress: createClientAddress({ trustedProxies: [] }) });
  const { gateway } = await open(provider);
  const { send, repeat } = sender();
  let txnId = 123_456_789_012_345_600n;
  const call = (account: string | undefined, address: string): Request =>
    withRemoteAddress(
      new Request(
        `https://pay.example/providers/kaspi-biller?command=pay&txn_id=${++txnId}&account=${account}&sum=15980.00&txn_date=20261101050000`,
      ),
      address,
    );
  return {
    gateway,
    provider,
    merchant: "shop",
    pay: ({ account }) => send(call(account, "194.187.247.152")),
    repeat,
    pass: (ms) => passTime(world, ms),
    forge: ({ account }) => world.gateway.handle(call(account, "194.187.247.153")),
  };
}

const passwords = { password1: "live-one", password2: "live-two", testPassword1: "try-one", testPassword2: "try-two" };
const resultUrl = "https://pay.example/providers/robokassa/result";

async function openRobokassa({
  method = "POST",
  test = false,
  refunds = false,
  password2 = passwords.password2,
  reading = (answer: OperationState) => answer,
}: {
  method?: "POST" | "GET";
  test?: boolean;
  refunds?: boolean;
  /** What the gateway believes it to be. */
  password2?: string;
  /** How an answer of OpStateExt is read. */
  reading?: (answer: OperationState) => OperationState;
} = {}) {
  const third = refunds ? { password3: "live-three" } : {};
  const shop = { login: "demo-shop", ...passwords, ...third, resultUrl, resultMethod: method };
  const memory = { isLost: false };
  let last: Request | undefined;
  let lastAnswer = new Response();
  const deliver = async (request: Request): Promise<Response> => {
    last = request.clone();
    lastAnswer = await world.gateway.handle(request);
    return lastAnswer.clone();
  };
  const clock: Clock = {
    now: () => world.clock.now(),
    monotonicMs: () => world.clock.monotonicMs(),
    sleep: (ms, signal) => world.clock.sleep(ms, signal),
  };
  const fake = createFakeRobokassa({ ...shop, deliver, clock, retryDelaysMs: [] });
  const robokassa = createRobokassa({
    login: "demo-shop",
    ...passwords,
    ...third,
    password2,
    test,
    // Robokassa answers by what it knows of another id, once it has forgotten this one.
    fetch: fetchFrom((request) =>
      fake.handle(memory.isLost && request.url.includes("/GetState?") ? new Request(`${request.url}-other`) : request),
    ),
  });
  const provider = createRobokassaProvider({
    robokassa: { ...robokassa, operationState: async (invId) => reading(await robokassa.operationState(invId)) },
    currency: "RUB",
    firstInvId: 3_000_000_000n,
    refunds,
    clock,
  });
  const { gateway } = await open(provider);
  const context: ProviderCaseContext = {
    gateway,
    provider,
    merchant: "shop",
    async pay(payment) {
      const step = provider.payerStep(payment);
      const { errorCode } = await fake.pay({ url: step.kind === "link" ? step.url : "" });
      expect(errorCode).toBeUndefined();
      return lastAnswer;
    },
    repeat: () => world.gateway.handle((last as Request).clone()),
    pass: (ms) => passTime(world, ms),
    // Its books know no test payments, so those are never asked about.
    ...(test
      ? {}
      : {
          async payUntold(payment) {
            fake.configure({ resultUrl: "" });
            const step = provider.payerStep(payment);
            await fake.pay({ url: step.kind === "link" ? step.url : "" });
          },
          silence: () => silence(fake),
        }),
    async settleRefunds() {
      for (let round = 0; round < 4; round++) {
        world.clock.advance(61_000);
        await world.gateway.work();
        for (const { requestId, label } of fake.refunds)
          if (label === "processing") fake.endRefund(requestId, "finished");
      }
    },
    refundedAtProvider: () =>
      fake.refunds.reduce((sum, { amount, label }) => {
        const [whole = "0", part = ""] = amount.split(".");
        return label === "finished" ? sum + BigInt(whole) * 100n + BigInt(part.padEnd(2, "0").slice(0, 2)) : sum;
      }, 0n),
    loseRefundReply: () =>
      fake.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        match: ({ url }) => url.includes("/Refund/Create"),
      }),
    async forge({ id, session = "" }) {
      const body = new URLSearchParams({
        OutSum: "15980.000000",
        InvId: session,
        SignatureValue: "0".repeat(32),
        Shp_payment: id,
      });
      return world.gateway.handle(new Request(resultUrl, { method: "POST", body }));
    },
  };
  return { ...context, fake, memory };
}

describe.each([
  ["sandbox", () => sandbox()],
  ["kaspi-biller", kaspiBiller],
  ["robokassa, notified by POST", () => openRobokassa()],
  ["robokassa, notified by GET", () => openRobokassa({ method: "GET" })],
  ["robokassa with password 3", () => openRobokassa({ refunds: true })],
  ["robokassa in test mode", () => openRobokassa({ test: true })],
])("%s", (_name, setUp) => {
  test.each(providerCases)("$name", async ({ run }) => run(await setUp()));
});

const opened = async <Opened extends { readonly world: World; readonly context: ProviderCaseContext }>(
  opening: Promise<Opened>,
): Promise<ProviderCaseContext> => {
  const result = await opening;
  world = result.world;
  return result.context;
};

describe.each<readonly [string, Parameters<typeof openQr>[0]]>([
  ["r1, with a key", { scheme: "r1" }],
  ["r2, refunds with the buyer", { scheme: "r2" }],
  ["r3", {}],
  ["r3, QR instead of a link", { options: { show: "qr" } }],
  ["newer answers", { readings: { status: "long" } }],
  ["ids as text", { readings: { ids: "text" } }],
  ["refusals by HTTP 400", { readings: { refusals: "400" } }],
  ["dates without an offset", { readings: { dates: "lenient" } }],
  ["Error after its timeouts", { readings: { afterTimeout: "error" } }],
  ["Error after Processed", { readings: { afterProcessed: "error" } }],
])("kaspi-qr: %s", (_name, options) => {
  test.each(providerCases)("$name", async ({ run }) => run(await opened(openQr(options))));
});

describe.each<readonly [string, Parameters<typeof openSmartpos>[0]]>([
  ["QR", {}],
  ["a card", { method: "card" }],
  ["alaqan", { method: "alaqan" }],
  ["the sum in data", { readings: { amount: "data" } }],
  ["the sum in both places", { readings: { amount: "both" } }],
  ["the sum as a double", { readings: { amount: "double" } }],
  ["a receipt of 0", { readings: { amount: "zero-cheque" } }],
  ["no-break spaces", { readings: { spaces: "no-break" } }],
  ["narrow spaces", { readings: { spaces: "narrow" } }],
  ["plain spaces", { readings: { spaces: "plain" } }],
  ["no remote cancel", { readings: { cancel: "absent" } }],
  ["a cancel that lies", { readings: { cancel: "lies" } }],
  ["codes as text", { readings: { codes: "text" } }],
  ["a refused token by 403", { readings: { token: "403" } }],
  ["a refused token by code", { readings: { token: "code" } }],
])("kaspi-smartpos: %s", (_name, options) => {
  test.each(providerCases)("$name", async ({ run }) => run(await opened(openSmartpos(options))));
});

describe.each(testDatabases())(
  "providers with attempts on $name",
  { timeout: 30_000 },
  ({ skipped, open: openDatabase }) => {
    let database: TestDatabase;
    beforeAll(async () => {
      if (skipped) return;
      database = await openDatabase();
      await createPaymentGatewayStorage(database).migrate();
    });
    afterAll(() => database?.close());
    const storageFor = async (clock: FakeClock) => createPaymentGatewayStorage({ ...database, clock });
    test.skipIf(skipped).each(providerCases)("kaspi-qr: $name", async ({ run }) =>
      run(await opened(openQr({ storageFor }))),
    );
    test.skipIf(skipped).each(["kaspi-qr", "kaspi-smartpos"] as const)(
      "%s: money that cannot be booked is not written down either, and a press meanwhile begins nothing",
      async (name) => {
        let isBroken = true;
        const brokenFor = async (clock: FakeClock) => {
          const storage = await storageFor(clock);
          const change: typeof storage.change = (id, decide, key) =>
            storage.change(
              id,
              (payment) => {
                const decision = decide(payment);
                if (decision?.booking && isBroken) throw new Error("the process ends here");
                return decision;
              },
              key,
            );
          return { ...storage, change };
        };
        const worldOptions = { storageFor: brokenFor };
        const context =
          name === "kaspi-qr" ? await opened(openQr(worldOptions)) : await opened(openSmartpos(worldOptions));
        const { payment } = await context.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
        const get = async () => (await context.gateway.payments.get("shop", payment.id)) as Payment;
        await context.payUntold?.(payment);
        await context.pass(10_000);
        await pressButton(world, name, payment.id, { action: "pay" });
        expect([(await get()).paidMinor, context.provider.attempts?.(await get()).map(({ state }) => state)]).toEqual([
          0n,
          ["open"],
        ]);
        isBroken = false;
        await context.pass(60_000);
        expect(await get()).toMatchObject({ status: "paid", paidMinor: 50_000n });
        expect(context.begunAtProvider?.(payment)).toBe(1);
      },
    );
    test.skipIf(skipped)(
      "four processes, and payers who press meanwhile, ask Kaspi no earlier than its interval",
      async () => {
        const qr = await openQr({ storageFor });
        world = qr.world;
        const processes = [world.gateway, world.another(), world.another(), world.another()];
        const payments = await Promise.all(
          Array.from({ length: 6 }, () => world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n })),
        );
        const press = ({ payment }: (typeof payments)[number]) =>
          pressButton(world, "kaspi-qr", payment.id, { action: "pay" });
        await Promise.all(payments.flatMap((one) => [press(one), press(one)]));
        for (let seconds = 0; seconds < 15; seconds++) {
          world.clock.advance(1_000);
          await Promise.all([...processes.map((one) => one.work()), ...payments.map(press)]);
        }
        expect([qr.fake.payments.length, qr.fake.violations]).toEqual([6, []]);
        const asked = qr.fake.journal.count("/payment/status/");
        expect(asked).toBeGreaterThanOrEqual(12);
        expect(asked).toBeLessThanOrEqual(18);
      },
    );
    test.skipIf(skipped).each(providerCases)("kaspi-smartpos: $name", async ({ run }) =>
      run(await opened(openSmartpos({ storageFor }))),
    );
  },
);

test.each<readonly [string, NonNullable<PaymentProvider["state"]>, string]>([
  [
    "says that everything is paid",
    async ({ id }) => ({ state: "paid", money: { transactionId: id, amountMinor: 1_598_000n, currency: "KZT" } }),
    "never takes an unpaid payment for paid, from the first look to those after its end",
  ],
  ["never knows", async () => ({ state: "unknown" }), "lets a payment expire that nobody began"],
])("the cases turn red on a provider that %s", async (_name, lie, caseName) => {
  const honest = createSandboxProvider();
  const run = providerCases.find(({ name }) => name === caseName)?.run;
  const context = await sandbox({ ...honest, state: lie });
  await expect(run?.(context)).rejects.toThrow(/strictly (deep-)?equal/);
});

const create = (merchant = "shop") =>
  world.gateway.payments.create({ merchant, amountMinor: 50_000n, currency: "RUB" });
const state = async (id: string) => (await world.gateway.payments.get("shop", id))?.status;

describe("robokassa", () => {
  test("answers exactly OK and the number, which begins where the shop says", async () => {
    const { pay } = await openRobokassa();
    const { payment } = await create();
    expect(await (await pay(payment)).text()).toBe("OK3000000000");
  });

  test.each(["succeeded", "failed"] as const)(
    "a refund whose answer is lost is never asked for again; a person is called, the sum stays reserved until he says that it %s",
    async (outcome) => {
      const { fake, pay, loseRefundReply, settleRefunds, gateway } = await openRobokassa({ refunds: true });
      const { payment } = await create();
      await pay(payment);
      loseRefundReply?.();
      const { refund } = await gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 20_000n });
      await settleRefunds?.();
      const { refundingMinor, needsAttention } = (await gateway.payments.get("shop", payment.id)) ?? {};
      expect([fake.refunds.length, refundingMinor, needsAttention]).toEqual([
        1,
        20_000n,
        expect.stringContaining("look into the cabinet"),
      ]);
      // A notification that comes again still finds its payment.
      expect((await fake.redeliver("3000000000"))?.accepted).toBe(true);
      // Once a person has looked into the cabinet, the sum is booked or free.
      const settled = await gateway.payments.settleRefund("shop", payment.id, refund.id, outcome);
      expect([settled.refund.status, settled.payment.refundingMinor, settled.payment.needsAttention]).toEqual([
        outcome,
        0n,
        undefined,
      ]);
      expect(settled.payment.refundedMinor).toBe(outcome === "succeeded" ? 20_000n : 0n);
    },
  );

  test("a test payment never pays a live one, and live money not a test one", async () => {
    for (const live of [true, false]) {
      const { fake } = await openRobokassa({ test: !live });
      const { payment } = await create();
      const { delivery } = await fake.pay({
        invId: payment.session ?? "",
        outSum: "500.00",
        test: live,
        shp: { Shp_payment: payment.id },
      });
      expect([delivery?.status, await state(payment.id)]).toEqual([409, "pending"]);
      await world.close();
    }
    await openRobokassa();
  });

  test("live money that cannot be booked on its payment calls a person", async () => {
    const { fake, gateway } = await openRobokassa({ test: true });
    const { payment } = await create();
    await fake.pay({
      invId: payment.session ?? "",
      outSum: "500.00",
      test: false,
      shp: { Shp_payment: payment.id },
    });
    expect((await gateway.payments.get("shop", payment.id))?.needsAttention).toMatch(/^robokassa: live money/);
  });

  test("a genuine notification of another system on the same shop is refused: another number, or no payment of ours", async () => {
    const { fake } = await openRobokassa();
    const { payment } = await create();
    const foreign = await fake.pay({ invId: "17", outSum: "500.00", shp: { Shp_payment: payment.id } });
    const without = await fake.pay({ invId: payment.session ?? "", outSum: "500.00" });
    expect([foreign.delivery?.status, without.delivery?.status, await state(payment.id)]).toEqual([
      404,
      404,
      "pending",
    ]);
  });

  test("another sum than asked for is booked as what it is", async () => {
    const { fake } = await openRobokassa();
    const { payment } = await create();
    await fake.pay({ invId: payment.session ?? "", outSum: "499.00", shp: { Shp_payment: payment.id } });
    expect(await state(payment.id)).toBe("partially_paid");
  });

  test("before a payment expires Robokassa is asked: a lost notification is booked, an unopened link expires, while money is on its way nothing does", async () => {
    const { fake, provider } = await openRobokassa();
    const [lost, unopened, crediting] = [await create(), await create(), await create()];
    const linkOf = ({ payment }: Awaited<ReturnType<typeof create>>) => {
      const step = provider.payerStep(payment);
      return { url: step.kind === "link" ? step.url : "" };
    };
    fake.configure({ resultUrl: "" });
    await fake.pay(linkOf(lost));
    await fake.pay(linkOf(crediting));
    fake.setState(crediting.payment.session ?? "", 50);
    world.clock.advance(3_700_000);
    await world.gateway.work();
    expect([await state(lost.payment.id), await state(unopened.payment.id), await state(crediting.payment.id)]).toEqual(
      ["paid", "expired", "pending"],
    );
    // The notification that arrives after all changes nothing: the same transfer.
    fake.configure({ resultUrl });
    expect((await fake.redeliver(lost.payment.session ?? ""))?.accepted).toBe(true);
    expect((await world.gateway.payments.get("shop", lost.payment.id))?.paidMinor).toBe(50_000n);
  });

  const get = async (id: string) => {
    const payment = await world.gateway.payments.get("shop", id);
    if (!payment) throw new Error("there is no such payment");
    return payment;
  };
  const urlOf = (provider: PaymentProvider, payment: Payment) => {
    const step = provider.payerStep(payment);
    return { url: step.kind === "link" ? step.url : "" };
  };
  const pass = async (ms: number, stepMs: number) => {
    for (let passed = 0; passed < ms; passed += stepMs) {
      world.clock.advance(stepMs);
      await world.gateway.work();
    }
  };
  const day = 86_400_000;

  test.each([
    [20, /20.*held/],
    [50, /50.*20 minutes/],
    [80, /80.*stopped/],
  ] as const)(
    "state %i calls a person, is asked ever more rarely, and money that comes after all takes the call back",
    async (code, why) => {
      const { fake, provider } = await openRobokassa();
      const { payment } = await create();
      fake.configure({ resultUrl: "" });
      await fake.pay(urlOf(provider, payment));
      fake.setState(payment.session ?? "", code);
      await pass(2 * day, 600_000);
      expect(await get(payment.id)).toMatchObject({ status: "pending", needsAttention: expect.stringMatching(why) });
      expect(fake.journal.count("OpStateExt")).toBeLessThan(40);
      fake.setState(payment.session ?? "", 100);
      await pass(day, 600_000);
      expect(await get(payment.id)).toMatchObject({ status: "paid", paidMinor: 50_000n });
      expect((await get(payment.id)).needsAttention).toBeUndefined();
    },
  );

  test("money on its way for less than 20 minutes calls nobody", async () => {
    const { fake, provider } = await openRobokassa();
    const { payment } = await create();
    await pass(3_300_000, 300_000);
    fake.configure({ resultUrl: "" });
    await fake.pay(urlOf(provider, payment));
    fake.setState(payment.session ?? "", 50);
    await pass(600_000, 60_000);
    expect(await get(payment.id)).toMatchObject({ status: "pending" });
    expect((await get(payment.id)).needsAttention).toBeUndefined();
  });

  test("a test under the same number calls a person; the payment does not expire", async () => {
    const { fake, provider } = await openRobokassa();
    const { payment } = await create();
    fake.configure({ resultUrl: "" });
    await fake.pay(urlOf(provider, payment));
    await fake.pay({ invId: payment.session ?? "", outSum: "1.00", test: true });
    await pass(2 * day, 600_000);
    expect(await get(payment.id)).toMatchObject({
      status: "pending",
      needsAttention: expect.stringMatching(/answers 4 for the number 3000000000.*test/),
    });
  });

  test.each<readonly [string, Parameters<typeof openRobokassa>[0], boolean]>([
    ["a wrong password 2", { password2: "wrong" }, true],
    ["a shop that is not active", {}, false],
  ])("%s is counted as an error with its reason, and asked about ever more rarely", async (_name, options, active) => {
    const { fake } = await openRobokassa(options);
    const { payment } = await create();
    fake.configure({ active });
    await pass(day, 300_000);
    const [errors] = await world.storage.providerErrors(new Date(0));
    expect([(await get(payment.id)).status, errors?.last.message]).toEqual([
      "pending",
      expect.stringMatching(/OpStateExt answers [12]: /),
    ]);
    expect(fake.journal.count("OpStateExt")).toBeLessThan(40);
  });

  test.each<readonly [string, (answer: OperationState) => OperationState]>([
    ["with the Shp fields in the answer", (answer) => answer],
    ["without them", (answer) => ("shp" in answer ? { ...answer, shp: {} } : answer)],
  ])("a former payment of another system under the same number is no money of this one, %s", async (_name, reading) => {
    const { fake } = await openRobokassa({ reading });
    await fake.pay({ invId: "3000000000", outSum: "250.00", shp: { Shp_payment: "another-systems-id" } });
    await pass(30 * day, day);
    const { payment } = await create();
    expect(payment.session).toBe("3000000000");
    await pass(2 * day, 600_000);
    expect(await get(payment.id)).toMatchObject({
      status: "expired",
      paidMinor: 0n,
      needsAttention: expect.stringContaining("firstInvId"),
    });
  });

  test("an operation that may be this payment's, in an answer without Shp fields, is for a person: neither booked nor expired", async () => {
    const { fake, provider } = await openRobokassa({
      reading: (answer) => ("shp" in answer ? { ...answer, shp: {} } : answer),
    });
    const { payment } = await create();
    fake.configure({ resultUrl: "" });
    await fake.pay(urlOf(provider, payment));
    await pass(2 * day, 600_000);
    expect(await get(payment.id)).toMatchObject({
      status: "pending",
      paidMinor: 0n,
      needsAttention: expect.stringContaining("without Shp_payment"),
    });
    // Robokassa's own notification, signed with the field, settles it.
    fake.configure({ resultUrl });
    await fake.redeliver(payment.session ?? "");
    expect(await get(payment.id)).toMatchObject({ status: "paid", paidMinor: 50_000n });
    expect((await get(payment.id)).needsAttention).toBeUndefined();
  });

  test("a payment that was paid, though nobody told us, cannot be cancelled: it is booked", async () => {
    const { fake, provider, gateway } = await openRobokassa();
    const { payment } = await create();
    fake.configure({ resultUrl: "" });
    await fake.pay(urlOf(provider, payment));
    await expect(gateway.payments.cancel("shop", payment.id)).rejects.toThrow("has money");
    expect(await get(payment.id)).toMatchObject({ status: "paid", paidMinor: 50_000n, late: false });
  });

  test.each(["cancelled", "expired"] as const)(
    "a buyer who is at his bank when the payment is %s, and whose notification is lost, is found within a day",
    async (end) => {
      const { fake, provider, gateway } = await openRobokassa();
      const { payment } = await create();
      fake.configure({ resultUrl: "" });
      if (end === "expired") await pass(3_500_000, 500_000);
      await fake.confirm(urlOf(provider, payment));
      if (end === "cancelled") await gateway.payments.cancel("shop", payment.id);
      await pass(2_400_000, 300_000);
      // For an hour past its life the payment waits for the buyer.
      expect((await get(payment.id)).status).toBe(end === "cancelled" ? "cancelled" : "processing");
      await pass(5_400_000, 300_000);
      expect((await get(payment.id)).status).toBe(end);
      fake.setState(payment.session ?? "", 100);
      await pass(day, 600_000);
      expect(await get(payment.id)).toMatchObject({ status: "paid", late: true, paidMinor: 50_000n });
    },
  );

  test("a link that nobody opened is asked about three times in all", async () => {
    const { fake } = await openRobokassa();
    const { payment } = await create();
    await pass(10 * day, 600_000);
    expect([(await get(payment.id)).status, fake.journal.count("OpStateExt")]).toEqual(["expired", 3]);
  });

  test.each<
    readonly [
      string,
      Partial<Extract<OperationState, { found: true }>> | { found: false; reason: "ambiguous"; code: "4" },
    ]
  >([
    ["two operations have its number", { found: false, reason: "ambiguous", code: "4" }],
    ["its operation has no OpKey", { opKey: undefined }],
    ["its number is another's", { shp: { Shp_payment: "another-systems-id" } }],
  ])("a refund that cannot be asked for, because %s, calls a person, who ends it", async (_name, change) => {
    let isTroubled = true;
    const { fake, pay, gateway, settleRefunds } = await openRobokassa({
      refunds: true,
      reading: (answer) => (isTroubled ? ({ ...answer, ...change } as OperationState) : answer),
    });
    const { payment } = await create();
    await pay(payment);
    const refundOf = (amountMinor: bigint) =>
      gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor });
    const [given, kept, sent] = [await refundOf(10_000n), await refundOf(5_000n), await refundOf(7_000n)];
    await settleRefunds?.();
    expect(await get(payment.id)).toMatchObject({
      refundingMinor: 22_000n,
      needsAttention: expect.stringContaining("refund"),
    });
    await gateway.payments.settleRefund("shop", payment.id, given.refund.id, "succeeded");
    await pass(600_000, 60_000);
    await gateway.payments.settleRefund("shop", payment.id, kept.refund.id, "failed");
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 10_000n, refundingMinor: 7_000n });
    expect(fake.refunds).toEqual([]);
    // Once Robokassa tells its operation the third one goes out.
    isTroubled = false;
    for (let rounds = 0; rounds < 20; rounds++) await settleRefunds?.();
    expect((await gateway.payments.get("shop", payment.id))?.refundedMinor).toBe(17_000n);
    expect([fake.refunds.length, sent.refund.amountMinor, (await get(payment.id)).needsAttention]).toEqual([
      1,
      7_000n,
      undefined,
    ]);
  });

  test("a refund whose request Robokassa has forgotten calls a person, who ends it", async () => {
    const { memory, pay, gateway } = await openRobokassa({ refunds: true });
    const { payment } = await create();
    await pay(payment);
    const { refund } = await gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 20_000n });
    memory.isLost = true;
    await pass(day, 600_000);
    const { needsAttention, refundingMinor } = await get(payment.id);
    expect([refundingMinor, needsAttention]).toEqual([20_000n, expect.stringContaining("refund")]);
    await gateway.payments.settleRefund("shop", payment.id, refund.id, "succeeded");
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 20_000n, refundingMinor: 0n });
  });

  test("refunds that an earlier version wrote as text are followed, and none is asked for again", async () => {
    const { fake, pay, gateway } = await openRobokassa({ refunds: true });
    const { payment } = await create();
    await pay(payment);
    for (const amountMinor of [20_000n, 10_000n]) {
      await gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor });
    }
    const [running, lost] = await gateway.payments.refunds("shop", payment.id);
    const [{ requestId } = { requestId: "" }] = fake.refunds;
    const refunds = { [running?.id ?? ""]: requestId, [lost?.id ?? ""]: "asking" };
    await world.storage.change(payment.id, (current) => ({
      payment: { ...current, session: `3000000000 ${JSON.stringify(refunds)}` },
    }));
    fake.endRefund(requestId, "finished");
    await pass(300_000, 60_000);
    expect(await get(payment.id)).toMatchObject({
      refundedMinor: 20_000n,
      refundingMinor: 10_000n,
      needsAttention: expect.stringContaining("whether a refund was taken is not known"),
    });
    expect(fake.refunds).toHaveLength(2);
  });

  test("a refund that Robokassa is at cannot be ended by a person who was called for another one; each is ended on its own", async () => {
    const { fake, pay, loseRefundReply, gateway } = await openRobokassa({ refunds: true });
    const { payment } = await create();
    await pay(payment);
    const refundOf = async (amountMinor: bigint) =>
      (await gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor })).refund;
    const settle = (id: string) => gateway.payments.settleRefund("shop", payment.id, id, "failed");
    const running = await refundOf(20_000n);
    const lost: Awaited<ReturnType<typeof refundOf>>[] = [];
    for (const amountMinor of [10_000n, 5_000n]) {
      loseRefundReply?.();
      lost.push(await refundOf(amountMinor));
    }
    await pass(300_000, 60_000);
    const called = (await get(payment.id)).needsAttention;
    expect(called).toContain("whether a refund was taken is not known");
    await expect(settle(running.id)).rejects.toThrow("not waiting for a person");
    expect((await settle(lost[0]?.id ?? "")).refund.status).toBe("failed");
    expect((await get(payment.id)).needsAttention).toBe(called); // the other one still waits
    expect((await settle(lost[1]?.id ?? "")).refund.status).toBe("failed");
    expect((await get(payment.id)).needsAttention).toBeUndefined();
    fake.endRefund(fake.refunds[0]?.requestId ?? "", "finished");
    await pass(3_600_000, 600_000);
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 20_000n, refundingMinor: 0n });
  });

  test("a refund that is answered slowly calls nobody, and one whose answer comes later still takes the call back", async () => {
    const { fake, pay, gateway } = await openRobokassa({ refunds: true });
    const { payment } = await create();
    await pay(payment);
    const fault = (path: string, ms: number) =>
      fake.faults.add({ fault: { kind: "slow", ms }, match: ({ url }) => url.includes(path) });
    const ask = async (createMs: number) => {
      fault("OpStateExt", 5_000);
      fault("/Refund/Create", createMs);
      const asking = gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 20_000n });
      const calls: (string | undefined)[] = [undefined];
      for (let seconds = 0; seconds < createMs / 1_000 + 10; seconds++) {
        world.clock.advance(1_000);
        for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
        await gateway.work();
        const { needsAttention } = await get(payment.id);
        if (needsAttention !== calls.at(-1)) calls.push(needsAttention);
      }
      await asking;
      return calls;
    };
    expect(await ask(28_000)).toEqual([undefined]);
    expect(await ask(200_000)).toEqual([undefined, expect.stringContaining("whether a refund was taken"), undefined]);
    for (const { requestId } of fake.refunds) fake.endRefund(requestId, "finished");
    await pass(3_600_000, 600_000);
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 40_000n, refundingMinor: 0n });
  });

  test.each([
    ["/providers/robokassa/other", "POST", 404],
    ["/providers/robokassa", "POST", 404],
    ["/providers/robokassa/result", "PUT", 405],
    ["/providers/robokassa/result", "POST", 400],
  ])("%s by %s without a notification is %i", async (path, method, status) => {
    await openRobokassa();
    expect((await world.gateway.handle(new Request(`https://pay.example${path}`, { method }))).status).toBe(status);
  });
});
