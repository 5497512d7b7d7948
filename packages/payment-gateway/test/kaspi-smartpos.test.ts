import { silentLogger } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { afterEach, describe, expect, test } from "vitest";
import { createKaspiSmartposProvider, readTenge, registerKaspiSmartpos } from "../src/providers/kaspi-smartpos.ts";
import { openSmartpos, pressButton, type SmartposWorld } from "./provider-worlds.ts";

let pos: SmartposWorld;
let opened: SmartposWorld | undefined;
afterEach(async () => {
  await opened?.world.close();
  opened = undefined;
});
const start = async (options: Parameters<typeof openSmartpos>[0] = {}): Promise<SmartposWorld> => {
  pos = await openSmartpos(options);
  opened = pos;
  return pos;
};

const create = async (amountMinor = 123_456_700n) =>
  (await pos.world.gateway.payments.create({ merchant: "shop", amountMinor, description: "Чай «Ақ»" })).payment;
const get = async (id: string) => {
  const payment = await pos.world.gateway.payments.get("shop", id);
  if (!payment) throw new Error("there is no such payment");
  return payment;
};
const press = (id: string) => pressButton(pos.world, "kaspi-smartpos", id, { action: "pay" });
const calls = (name: string) => pos.fake.journal.count(`GET /v2/${name}?`);
const refund = (id: string, amountMinor?: bigint) =>
  pos.world.gateway.payments.refund({ merchant: "shop", id, amountMinor });

describe("reading the receipt", () => {
  // Spellings of the reference: with the sign, with no-break and narrow spaces between thousands.
  test.each([
    ["505 ₸", 50_500n],
    ["1 234 567 ₸", 123_456_700n],
    ["1\u00a0234\u00a0567\u00a0₸", 123_456_700n],
    ["1\u202f234\u202f567\u00a0₸", 123_456_700n],
    ["505", 50_500n],
    ["505,00 ₸", 50_500n],
    ["505.50₸", 50_550n],
    ["15980.0", 1_598_000n],
    ["15 980,5 ₸", 1_598_050n],
    ["0", 0n],
  ])("%j is %i tiyn", (text, amountMinor) => {
    expect(readTenge(text)).toBe(amountMinor);
  });

  test.each([undefined, "", "₸", "-505 ₸", "1,234,567 ₸", "5e3", "505 USD", "505 ₸ 20", "1.234"])(
    "%j is nothing",
    (text) => {
      expect(readTenge(text)).toBeUndefined();
    },
  );
});

test.each([true, false])("payments at a terminal with `test: %s` say so", async (isTest) => {
  await start({ options: { test: isTest } });
  expect((await get((await create()).id)).test).toBe(isTest);
});

describe("a payment", () => {
  test("starts the terminal with whole tenge once the payer presses, and is asked each second until it is final", async () => {
    const { fake, pass, world } = await start({ readings: { spaces: "no-break" } });
    const { id } = await create();
    expect(calls("payment")).toBe(0);
    await press(id);
    expect(fake.current).toEqual({ kind: "payment", amount: 1_234_567n });
    const other = world.another();
    for (let passed = 0; passed < 20_000; passed += 250) {
      world.clock.advance(250);
      await Promise.all([world.gateway.work(), other.work()]);
    }
    expect(calls("status")).toBe(20);
    fake.confirm();
    await pass(1_000);
    expect(await get(id)).toMatchObject({ status: "paid", paidMinor: 123_456_700n });
    await pass(3_600_000, 60_000);
    expect([calls("status"), fake.violations]).toEqual([21, []]);
  });

  test("amounts that are not whole tenge are refused at creation", async () => {
    await start();
    await expect(create(50_050n)).rejects.toThrow("multiple of 1.00");
  });

  test("fails: the payment is open again, with the reason, and the payer may try again", async () => {
    const { fake, pass, provider } = await start();
    const { id } = await create();
    await press(id);
    fake.fail("ProcessCancelled");
    await pass(1_000);
    expect([(await get(id)).status, provider.attempts?.(await get(id))]).toMatchObject([
      "pending",
      [{ state: "failed", reason: "ProcessCancelled" }],
    ]);
    await press(id);
    fake.confirm();
    await pass(1_000);
    expect((await get(id)).status).toBe("paid");
  });

  test("107: one operation at a time; the second payer is told to try again", async () => {
    const { fake, provider } = await start();
    const [first, second] = [await create(), await create()];
    await press(first.id);
    expect((await press(second.id)).headers.get("location")).toContain("?problem=attempt");
    expect([(await get(first.id)).status, (await get(second.id)).status]).toEqual(["processing", "pending"]);
    expect(provider.attempts?.(await get(second.id))).toMatchObject([
      { state: "failed", reason: expect.stringContaining("107") },
    ]);
    expect(fake.current?.amount).toBe(1_234_567n);
  });

  test.each(["success", "fail"] as const)(
    "unknown: nothing else begins, actualize is asked every ten seconds, a person is called; it was %s",
    async (truth) => {
      const { fake, pass, provider } = await start();
      const { id } = await create();
      await press(id);
      fake.lose(truth);
      await pass(60_000, 1_000);
      expect([calls("actualize"), fake.violations]).toEqual([5, []]);
      expect((await get(id)).needsAttention).toContain("money may have been taken");
      await press(id);
      expect(calls("payment")).toBe(1);
      expect(provider.payerStep(await get(id))).toMatchObject({ notice: "unknown" });
      await pass(7_200_000, 600_000); // far beyond its life
      expect((await get(id)).status).toBe("processing");
      fake.heal();
      await pass(10_000);
      const payment = await get(id);
      expect([payment.status, payment.needsAttention]).toEqual([truth === "success" ? "paid" : "expired", undefined]);
    },
  );

  test("a terminal that forgot the process may have taken the money: it stays unknown", async () => {
    const { fake, pass } = await start();
    const { id } = await create();
    await press(id);
    fake.forgetProcesses();
    await pass(60_000, 1_000);
    expect([(await get(id)).status, fake.violations]).toEqual(["processing", []]);
    expect((await get(id)).needsAttention).toContain("look at the terminal");
  });

  test("an answer to the start that is lost: never started again; a person looks at the terminal and gives it up", async () => {
    const { fake, pass, provider } = await start();
    const { id } = await create();
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("/v2/payment") });
    await press(id);
    await pass(3_600_000 * 30, 3_600_000);
    await press(id);
    expect([calls("payment"), (await get(id)).status]).toEqual([1, "processing"]);
    expect((await get(id)).needsAttention).toContain("look at the terminal");
    expect(provider.attempts?.(await get(id))).toMatchObject([{ state: "unknown" }]);
  });

  test("answers that cannot be read change nothing", async () => {
    const { fake, pass } = await start();
    const { id } = await create();
    await press(id);
    fake.confirm();
    fake.faults.add({ fault: { kind: "htmlAnswer" }, times: 2 });
    fake.faults.add({ fault: { kind: "truncate" } });
    await pass(3_000, 1_000);
    expect((await get(id)).status).toBe("processing");
    await pass(1_000);
    expect((await get(id)).status).toBe("paid");
  });

  test("a receipt whose sum cannot be read calls for a person instead of a guess", async () => {
    const { fake, pass } = await start({ readings: { amount: "unreadable" } });
    const { id } = await create();
    await press(id);
    fake.confirm();
    await pass(60_000, 1_000);
    expect(await get(id)).toMatchObject({
      status: "processing",
      paidMinor: 0n,
      needsAttention: expect.stringContaining("cannot be read"),
    });
    expect([calls("actualize"), fake.violations]).toEqual([0, []]);
  });
});

describe("cancelling", () => {
  test("tries the terminal's own cancel and believes only the status", async () => {
    const { fake, world } = await start();
    const { id } = await create();
    await press(id);
    expect((await world.gateway.payments.cancel("shop", id)).status).toBe("cancelled");
    expect([fake.current, calls("cancel")]).toEqual([undefined, 1]);
  });

  test.each(["lies", "absent"] as const)("a cancel that is %s is no proof: the payment stays", async (cancel) => {
    const { fake, world, pass } = await start({ readings: { cancel } });
    const { id } = await create();
    await press(id);
    await expect(world.gateway.payments.cancel("shop", id)).rejects.toThrow("does not say");
    fake.confirm();
    await pass(2_000, 1_000);
    expect([(await get(id)).status, fake.violations]).toEqual(["paid", []]);
  });

  test("while the payer presses the button: either it is refused, or the terminal is not at the payment", async () => {
    const { fake, world } = await start();
    const outcomes: string[] = [];
    for (let round = 0; round < 5; round++) {
      const payment = await create();
      await Promise.all([press(payment.id), world.gateway.payments.cancel("shop", payment.id).catch(() => undefined)]);
      const { status } = await get(payment.id);
      outcomes.push(`${status}, terminal ${fake.current === undefined ? "idle" : "at it"}`);
      if (fake.current) fake.fail();
    }
    expect(["cancelled, terminal idle", "processing, terminal at it"]).toEqual(expect.arrayContaining(outcomes));
  });

  test("is not tried where it is switched off", async () => {
    const { world } = await start({ options: { remoteCancel: false } });
    const { id } = await create();
    await press(id);
    await expect(world.gateway.payments.cancel("shop", id)).rejects.toThrow("does not say");
    expect(calls("cancel")).toBe(0);
  });

  test("money that came first wins", async () => {
    const { fake, world } = await start();
    const { id } = await create();
    await press(id);
    fake.confirm();
    await expect(world.gateway.payments.cancel("shop", id)).rejects.toThrow("has money");
    expect((await get(id)).status).toBe("paid");
  });
});

describe("refunds", () => {
  test.each([["qr"], ["card"], ["alaqan"]] as const)(
    "%s: by the method of the payment and its number, confirmed at the terminal",
    async (method) => {
      const { fake, context, pass } = await start({ method });
      const payment = await create();
      await context.pay(payment);
      const { refund: open } = await refund(payment.id, 123_400n);
      expect([open.status, fake.current]).toEqual(["pending", { kind: "refund", amount: 1_234n }]);
      const [transaction] = fake.transactions;
      expect(fake.journal.entries.at(-1)?.path).toBe(
        `/v2/refund?method=${method}&amount=1234&transactionId=${transaction?.transactionId}`,
      );
      fake.confirm();
      await pass(31_000);
      expect((await get(payment.id)).refundedMinor).toBe(123_400n);
    },
  );

  test("while the terminal is busy a refund waits, and is asked for again", async () => {
    const { fake, context, pass } = await start();
    const payment = await create();
    await context.pay(payment);
    const other = await create();
    await press(other.id);
    expect((await refund(payment.id)).refund.status).toBe("pending");
    fake.fail();
    await pass(31_000);
    expect(fake.current).toEqual({ kind: "refund", amount: 1_234_567n });
    fake.confirm();
    await pass(31_000);
    expect((await get(payment.id)).status).toBe("refunded");
  });

  test("an answer that is lost is never asked for again: the sum stays reserved and a person is called", async () => {
    const { fake, context, pass } = await start();
    const payment = await create();
    await context.pay(payment);
    context.loseRefundReply?.();
    await refund(payment.id, 100_000n);
    fake.confirm();
    await pass(7_200_000, 600_000);
    expect(calls("refund")).toBe(1);
    expect(await get(payment.id)).toMatchObject({
      refundingMinor: 100_000n,
      needsAttention: expect.stringContaining("look at the terminal"),
    });
  });

  test.each(["succeeded", "failed"] as const)(
    "a person who has looked at the terminal says that it %s: booked so, once, and the next refund goes on",
    async (outcome) => {
      const { fake, context, pass, world } = await start();
      const payment = await create();
      await context.pay(payment);
      context.loseRefundReply?.();
      const { refund: lost } = await refund(payment.id, 100_000n);
      const settle = () => world.gateway.payments.settleRefund("shop", payment.id, lost.id, outcome);
      await expect(settle()).rejects.toThrow("not waiting for a person"); // nobody was called yet
      if (outcome === "succeeded") fake.confirm();
      else fake.fail();
      await pass(120_000, 30_000);
      await expect(world.gateway.payments.settleRefund("other", payment.id, lost.id, outcome)).rejects.toThrow();
      expect((await settle()).refund.status).toBe(outcome);
      await expect(settle()).rejects.toThrow("not waiting for a person");
      const given = outcome === "succeeded" ? 100_000n : 0n;
      expect(await get(payment.id)).toMatchObject({ refundedMinor: given, refundingMinor: 0n });
      expect((await get(payment.id)).needsAttention).toBeUndefined();
      await refund(payment.id);
      fake.confirm();
      await pass(31_000);
      expect([(await get(payment.id)).status, fake.transactions[0]?.refunded]).toEqual(["refunded", 1_234_567n]);
    },
  );

  test("a sum that is not whole tenge is refused, names the field, and reserves nothing", async () => {
    const { context, world } = await start();
    const payment = await create();
    await context.pay(payment);
    const { status, body } = await world.api("POST", `/api/payment/${payment.id}/refund`, { amount: "10.50" });
    expect([status, body.errors?.[0]]).toMatchObject([
      400,
      { pointer: "#/amount", detail: expect.stringContaining("a multiple of 1.00") },
    ]);
    expect([(await get(payment.id)).refundingMinor, calls("refund")]).toEqual([0n, 0]);
  });

  test("the buyer does not confirm: failed, the sum is free again", async () => {
    const { fake, context, pass } = await start();
    const payment = await create();
    await context.pay(payment);
    await refund(payment.id, 100_000n);
    fake.fail();
    await pass(31_000);
    expect((await get(payment.id)).refundingMinor).toBe(0n);
  });

  test("a terminal that forgot the refund: nothing is asked for again, the sum stays reserved and a person is called", async () => {
    const { fake, context, pass } = await start();
    const payment = await create();
    await context.pay(payment);
    await refund(payment.id, 100_000n);
    fake.forgetProcesses();
    await pass(600_000, 60_000);
    expect(calls("refund")).toBe(1);
    expect(await get(payment.id)).toMatchObject({
      refundingMinor: 100_000n,
      needsAttention: expect.stringContaining("look at the terminal"),
    });
  });

  test("one that the terminal answers while another is asked for is followed all the same", async () => {
    const { fake, context, pass, world } = await start({ method: "card" });
    const payment = await create();
    await context.pay(payment);
    fake.faults.add({ fault: { kind: "slow", ms: 3_000 }, match: ({ url }) => url.includes("/v2/refund") });
    const settled = async () => {
      for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
    };
    const first = refund(payment.id, 100_000n);
    await settled();
    const second = refund(payment.id, 200_000n);
    await settled();
    world.clock.advance(3_000);
    await Promise.all([first, second]);
    for (let rounds = 0; rounds < 8; rounds++) {
      if (fake.current?.kind === "refund") fake.confirm();
      await pass(61_000);
    }
    const { refundedMinor, refundingMinor, needsAttention } = await get(payment.id);
    expect([refundedMinor, refundingMinor, needsAttention]).toEqual([300_000n, 0n, undefined]);
    expect(fake.transactions[0]?.refunded).toBe(3_000n);
  });

  test("one that the terminal is at cannot be ended by a person who was called for another one", async () => {
    const { fake, context, pass, world } = await start({ method: "card" });
    const payment = await create();
    await context.pay(payment);
    context.loseRefundReply?.();
    const { refund: lost } = await refund(payment.id, 100_000n);
    fake.fail();
    const { refund: running } = await refund(payment.id, 200_000n);
    await pass(180_000, 30_000);
    const settle = (id: string) => world.gateway.payments.settleRefund("shop", payment.id, id, "failed");
    expect((await get(payment.id)).needsAttention).toContain("whether a refund began");
    await expect(settle(running.id)).rejects.toThrow("not waiting for a person");
    expect((await settle(lost.id)).payment.needsAttention).toBeUndefined();
    fake.confirm();
    await pass(300_000, 60_000);
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 200_000n, refundingMinor: 0n });
  });

  test("a receipt of alaqan that has an RRN in place of an order number is given back by it", async () => {
    const { fake, context } = await start({ method: "alaqan", readings: { alaqan: "rrn" } });
    const payment = await create();
    await context.pay(payment);
    await refund(payment.id, 100_000n);
    expect(fake.current).toEqual({ kind: "refund", amount: 1_000n });
    expect(fake.journal.entries.at(-1)?.path).toContain(`&transactionId=${fake.transactions[0]?.transactionId}`);
  });

  test("unknown: actualize finds out, not more often than every ten seconds", async () => {
    const { fake, context, pass } = await start();
    const payment = await create();
    await context.pay(payment);
    await refund(payment.id, 100_000n);
    fake.lose("success");
    await pass(300_000, 1_000);
    fake.heal();
    await pass(300_000, 1_000);
    const { refundedMinor, needsAttention } = await get(payment.id);
    expect([refundedMinor, needsAttention, fake.violations]).toEqual([100_000n, undefined, []]);
  });
});

describe("tokens", () => {
  test.each(["401", "403", "code"] as const)(
    "are renewed before they end, also when %s is how they are refused",
    async (token) => {
      const { fake, pass, context } = await start({ readings: { token } });
      await pass(23.5 * 3_600_000);
      await context.pay(await create());
      expect(calls("revoke")).toBe(1);
      await pass(26 * 3_600_000, 3_600_000);
      const late = await create();
      await context.pay(late);
      expect([(await get(late.id)).status, calls("revoke"), calls("register")]).toEqual(["paid", 2, 1]);
      expect(fake.violations).toEqual([]);
    },
  );

  test("a terminal that refuses the token between two renewals gets a new one, and the payment starts once", async () => {
    const { fake, context, options } = await start();
    const payment = await create();
    // Another till renewed the pair: ours is worth nothing from now on, and its refresh token too.
    fake.forgetName(options.name);
    await press(payment.id);
    expect((await get(payment.id)).status).toBe("pending");
    await registerKaspiSmartpos(options);
    await context.pay(payment);
    expect((await get(payment.id)).status).toBe("paid");
  });

  test("without registering nothing is started, and the attempt says what to do", async () => {
    const { provider } = await start({ registered: false });
    const { id } = await create();
    await press(id);
    expect([calls("payment"), (await get(id)).status]).toEqual([0, "pending"]);
    expect(provider.attempts?.(await get(id))).toMatchObject([{ reason: expect.stringContaining("token") }]);
  });

  test("that cannot be read from the storage: nothing is started, and the payer may try again", async () => {
    const tokens = createMemoryStorage({});
    let isBroken = false;
    const errors: string[] = [];
    await start({
      options: {
        logger: { ...silentLogger, error: (message) => errors.push(message) },
        storage: {
          leases: tokens.leases,
          tokens: {
            ...tokens.tokens,
            get: (key) => (isBroken ? Promise.reject(new Error("encrypted with the key a")) : tokens.tokens.get(key)),
          },
        },
      },
    });
    const payment = await create();
    isBroken = true;
    expect((await press(payment.id)).headers.get("location")).toContain("problem=attempt");
    expect(calls("payment")).toBe(0);
    const { status, needsAttention } = await get(payment.id);
    expect([status, needsAttention, errors]).toEqual([
      "pending",
      undefined,
      ["kaspi-smartpos: the token could not be read or stored"],
    ]);
  });

  test("105: a name that is registered already is refused with its code", async () => {
    const { options } = await start();
    expect(await registerKaspiSmartpos(options)).toBe("known");
    const empty = { ...options, storage: createMemoryStorage({}) };
    await expect(registerKaspiSmartpos(empty)).rejects.toMatchObject({ vendorCode: "105" });
  });
});

test.each([
  [{ origin: "till-1" }, "origin"],
  [{ name: "" }, "name"],
  [{ name: "касса" }, "name"],
])("%j is refused at creation, naming %s", async (change, name) => {
  const { options } = await start();
  expect(() => createKaspiSmartposProvider({ ...options, ...change })).toThrow(name);
});
