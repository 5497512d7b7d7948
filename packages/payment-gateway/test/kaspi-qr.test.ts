import type { Clock } from "@orderbridge/core";
import type { FakeClock } from "@orderbridge/core/testing";
import { afterEach, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { bookMoney } from "../src/decisions.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createKaspiQrProvider, type KaspiQrOptions, kaspiQrCodes } from "../src/providers/kaspi-qr.ts";
import { shopSecret } from "./gateway-harness.ts";
import { openQr, pressButton, type QrWorld, steadyClock } from "./provider-worlds.ts";

let qr: QrWorld;
let opened: QrWorld | undefined;
afterEach(async () => {
  await opened?.world.close();
  opened = undefined;
});
const start = async (options: Parameters<typeof openQr>[0] = {}): Promise<QrWorld> => {
  qr = await openQr(options);
  opened = qr;
  return qr;
};

const create = async (amountMinor = 1_598_055n, lifeMs = 3_600_000) =>
  (
    await qr.world.gateway.payments.create({
      merchant: "shop",
      amountMinor,
      lifeMs,
      description: "Чайник «Ақ» & <чашки>",
      webhookUrl: qr.world.receiverUrl,
      webhookSecret: shopSecret,
    })
  ).payment;
const get = async (id: string) => {
  const payment = await qr.world.gateway.payments.get("shop", id);
  if (!payment) throw new Error("there is no such payment");
  return payment;
};
const press = (id: string, fields: Readonly<Record<string, string>> = { action: "pay" }) =>
  pressButton(qr.world, "kaspi-qr", id, fields);
/** Money that came by another way. */
const bookByHand = (id: string, amountMinor: bigint) =>
  qr.world.storage.change(id, (payment) =>
    bookMoney(payment, { transactionId: `by-hand-${id}`, amountMinor, currency: "KZT" }, qr.world.clock.now()),
  );
const attempts = async (id: string) => qr.provider.attempts?.(await get(id)) ?? [];
const statusCalls = () => qr.fake.journal.count("/payment/status/");
const events = () =>
  qr.world.receiver.accepted.map(({ body }) => {
    const { event, late } = JSON.parse(body);
    return { event, late };
  });

describe("a QR or link", () => {
  test("is not created before the payer presses the button; then the page leads to it", async () => {
    const { fake, remote, world } = await start();
    const { id } = await create();
    expect(fake.journal.entries).toEqual([]);
    const answer = await press(id);
    expect([answer.status, answer.headers.get("location")]).toEqual([303, `https://pay.example/pay/${id}`]);
    expect(remote({ id })).toMatchObject({ externalId: id, amountMinor: 1_598_055n, status: "QrTokenCreated" });
    const page = await (await world.gateway.handle(new Request(`https://pay.example/pay/${id}`))).text();
    expect(page).toContain(`href="${remote({ id }).opens}"`);
    expect((await get(id)).status).toBe("processing");
  });

  test("with `show: qr` the page leads to the token's address, and draws the one for scanning", async () => {
    const { provider, remote } = await start({ options: { show: "qr" } });
    const { id } = await create();
    await press(id);
    expect(provider.payerStep(await get(id))).toEqual({
      kind: "link",
      url: `https://pay.kaspi.kz/pay/${remote({ id }).opens}`,
      scan: `https://qr.kaspi.kz/${remote({ id }).opens}`,
    });
  });

  test.each([1n, 10n, 100n, 1_598_055n, 99_999_999_999_999n, 100_000_000_000_000n])(
    "%i tiyn arrive at Kaspi, and come back, to the tiyn",
    async (amountMinor) => {
      const { context, remote } = await start({ readings: { status: "long" } });
      const payment = await create(amountMinor);
      await context.pay(payment);
      expect(remote(payment).amountMinor).toBe(amountMinor);
      expect(await get(payment.id)).toMatchObject({ status: "paid", paidMinor: amountMinor });
    },
  );

  test("is asked about every interval of its answer, by two processes too, and no more once it is final", async () => {
    const { fake, pass, world, remote } = await start({ seconds: { polling: 9 } });
    const { id } = await create();
    const other = world.another();
    await press(id);
    for (let passed = 0; passed < 90_000; passed += 500) {
      world.clock.advance(500);
      await Promise.all([world.gateway.work(), other.work()]);
    }
    expect(statusCalls()).toBe(10);
    fake.pay(remote({ id }).id);
    await pass(9_000, 500);
    expect((await get(id)).status).toBe("paid");
    const asked = statusCalls();
    await pass(3_600_000, 60_000);
    expect([statusCalls(), fake.violations]).toEqual([asked, []]);
  });

  test("a status call that fails is not repeated before its interval", async () => {
    const { fake, pass } = await start();
    await press((await create()).id);
    fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 2 });
    fake.faults.add({ fault: { kind: "rateLimit" } });
    await pass(4_999);
    expect(fake.faults.hits).toBe(0);
    await pass(1);
    expect(fake.faults.hits).toBe(1);
    await pass(4_999);
    expect(fake.faults.hits).toBe(1);
    await pass(10_001, 1_000);
    expect(fake.faults.hits).toBe(3);
  });

  test("that nobody scanned ends only by a question after the last possible moment; the payer may then try again", async () => {
    const { fake, pass, context, remote } = await start();
    const payment = await create();
    const { id } = payment;
    await press(id);
    await pass(245_000, 5_000);
    expect((await get(id)).status).toBe("processing");
    // Past every timeout, but Kaspi does not answer: nothing follows from the clock alone.
    fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 1_000 });
    await pass(600_000, 5_000);
    expect((await get(id)).status).toBe("processing");
    fake.faults.clear();
    await pass(5_000);
    expect([(await get(id)).status, (await attempts(id))[0]]).toMatchObject([
      "pending",
      { state: "failed", reason: "not scanned in time" },
    ]);
    const first = remote(payment).id;
    await press(id);
    expect(remote(payment).id).not.toBe(first);
    fake.pay(remote(payment).id);
    await pass(5_000);
    expect((await get(id)).status).toBe("paid");
    expect(context.begunAtProvider?.(payment)).toBe(2);
  });

  test("that was cancelled by the buyer leaves the payment open, without an event, and keeps the reason", async () => {
    const { fake, pass, remote } = await start();
    const { id } = await create();
    await press(id);
    fake.scan(remote({ id }).id);
    await pass(5_000);
    fake.fail(remote({ id }).id);
    await pass(5_000);
    expect([(await get(id)).status, (await get(id)).sequence]).toEqual(["pending", 0]);
    expect((await attempts(id))[0]).toMatchObject({ state: "failed", reason: "cancelled by the buyer, or failed" });
  });

  test("Error after Processed takes nothing back", async () => {
    const { context, fake, pass, remote } = await start({ readings: { afterProcessed: "error" } });
    const payment = await create();
    await context.pay(payment);
    expect(remote(payment).status).toBe("Error"); // what Kaspi would say now
    await pass(3_600_000, 600_000);
    expect(await get(payment.id)).toMatchObject({ status: "paid", paidMinor: 1_598_055n });
    expect(fake.violations).toEqual([]);
  });

  test("a status that nobody knows stays open and calls for a person; money that comes of it is booked and the call taken back", async () => {
    const { fake, pass, remote } = await start();
    const { id } = await create(50_000n, 300_000);
    await press(id);
    fake.setStatus(remote({ id }).id, "PaymentConfirmation");
    await pass(3_600_000, 60_000);
    const payment = await get(id);
    expect(payment.status).toBe("processing");
    expect(payment.needsAttention).toContain("PaymentConfirmation");
    fake.pay(remote({ id }).id);
    await pass(60_000);
    const paid = await get(id);
    expect([paid.status, paid.needsAttention]).toEqual(["paid", undefined]);
  });

  test("a payment does not expire while the payer is at it; after that it does", async () => {
    const { fake, pass, remote } = await start();
    const { id } = await create(50_000n, 200_000);
    await pass(130_000); // after a start nothing expires for two minutes
    await press(id);
    fake.scan(remote({ id }).id);
    await pass(60_000, 5_000);
    expect((await get(id)).status).toBe("processing");
    await pass(30_000, 5_000);
    expect((await get(id)).status).toBe("expired");
  });

  test("a payment that is cancelled while its QR lives is asked about to the end: late money is booked and told", async () => {
    const { fake, pass, world, remote } = await start();
    const { id } = await create();
    await press(id);
    expect((await world.gateway.payments.cancel("shop", id)).status).toBe("cancelled");
    await pass(60_000, 5_000);
    fake.pay(remote({ id }).id);
    await pass(5_000);
    expect(await get(id)).toMatchObject({ status: "paid", late: true, paidMinor: 1_598_055n });
    expect(events()).toEqual([
      { event: "cancelled", late: false },
      { event: "paid", late: true },
    ]);
    expect(fake.violations).toEqual([]);
  });

  test("a payment that Kaspi says is paid cannot be cancelled: money wins", async () => {
    const { fake, pass, world, remote } = await start();
    const { id } = await create();
    await press(id);
    await pass(1);
    fake.pay(remote({ id }).id);
    world.clock.advance(5_000);
    // Two processes look at the same moment, and neither asks twice.
    const [cancelled] = await Promise.allSettled([world.gateway.payments.cancel("shop", id), world.another().work()]);
    expect(cancelled.status).toBe("rejected");
    await pass(5_000);
    expect((await get(id)).status).toBe("paid");
    expect(fake.violations).toEqual([]);
  });

  test("an answer to creating that is lost leaves a QR that nobody has seen; the next one is the only one shown", async () => {
    const { fake, remote, provider } = await start();
    const { id } = await create();
    fake.faults.add({
      fault: { kind: "dropReplyAfterExecuting" },
      match: ({ url }) => url.endsWith("/qr/create-link"),
    });
    expect((await press(id)).headers.get("location")).toContain("?problem=attempt");
    expect([(await get(id)).status, fake.payments.length]).toEqual(["pending", 1]);
    await press(id);
    expect(fake.payments).toHaveLength(2);
    expect(provider.payerStep(await get(id))).toEqual({
      kind: "link",
      url: remote({ id }).opens,
      scan: remote({ id }).opens,
    });
  });

  describe("a process that ends between hearing of the money and booking it", () => {
    let ends = true;
    const openKilled = async () => {
      ends = true;
      const world = await start({
        storageFor: async (clock) => {
          const storage = createPaymentGatewayMemoryStorage({ clock });
          const change: typeof storage.change = (id, decide, key) =>
            storage.change(
              id,
              (payment) => {
                const decision = decide(payment);
                if (decision?.booking && ends) throw new Error("the process ends here");
                return decision;
              },
              key,
            );
          return { ...storage, change };
        },
      });
      const { id } = await create();
      await press(id);
      world.fake.pay(world.remote({ id }).id);
      await world.pass(5_000);
      expect((await get(id)).paidMinor).toBe(0n);
      return { ...world, id };
    };

    test("loses nothing", async () => {
      const { id, pass } = await openKilled();
      ends = false;
      await pass(120_000, 5_000);
      expect(await get(id)).toMatchObject({ status: "paid", paidMinor: 1_598_055n });
    });

    test("loses nothing although the payer presses the button meanwhile: there is no second QR", async () => {
      const { id, pass, fake } = await openKilled();
      await press(id);
      ends = false;
      await pass(120_000, 5_000);
      expect(await get(id)).toMatchObject({ status: "paid", paidMinor: 1_598_055n });
      expect(fake.payments).toHaveLength(1);
    });

    test("cannot be cancelled: money wins", async () => {
      const { id, world, pass } = await openKilled();
      ends = false;
      world.clock.advance(5_000);
      await expect(world.gateway.payments.cancel("shop", id)).rejects.toThrow();
      await pass(5_000);
      expect(events()).toEqual([{ event: "paid", late: false }]);
    });
  });

  describe("a session that an earlier version wrote", () => {
    const rewrite = (id: string, change: (attempt: Record<string, unknown>) => object) =>
      qr.world.storage.change(id, (payment) => {
        const session = JSON.parse(payment.session ?? "");
        return {
          payment: { ...payment, session: JSON.stringify({ ...session, attempts: session.attempts.map(change) }) },
        };
      });

    test("as paid before it booked the money: the money is booked", async () => {
      const { fake, pass, remote } = await start();
      const { id } = await create(50_000n);
      await press(id);
      fake.pay(remote({ id }).id);
      await rewrite(id, (attempt) => ({
        ...attempt,
        state: "paid",
        transactionId: remote({ id }).id,
        paidMinor: "50000",
      }));
      await pass(7_200_000, 600_000);
      expect(await get(id)).toMatchObject({ status: "paid", paidMinor: 50_000n, late: false });
    });

    test("with the last moment of a QR ends that QR", async () => {
      const { pass } = await start();
      const { id } = await create(50_000n, 86_400_000);
      await press(id);
      await rewrite(id, ({ pauseMs, ...attempt }) => {
        const { lifeMs, ...facts } = attempt.facts as Record<string, string>;
        return { ...attempt, facts: { ...facts, lastMoment: String(Number(attempt.startedAt) + Number(lifeMs)) } };
      });
      await pass(300_000, 5_000);
      expect((await get(id)).status).toBe("pending");
    });
  });

  test("only a payment that may be paid shows a button, and a press on an old page begins nothing", async () => {
    const { fake, provider, world, pass } = await start({ options: { remoteInvoices: true } });
    const buttons = async (id: string) => {
      const step = provider.payerStep(await get(id));
      return step.kind === "actions" ? step.actions.map(({ action }) => action) : step.kind;
    };
    const [paid, cancelled, expired, part] = [await create(), await create(), await create(), await create()];
    expect(await buttons(paid.id)).toEqual(["pay", "invoice"]);
    await qr.context.pay(paid);
    await world.gateway.payments.cancel("shop", cancelled.id);
    await bookByHand(part.id, 100n);
    await pass(3_900_000, 60_000);
    expect((await get(expired.id)).status).toBe("expired");
    const begun = fake.payments.length;
    for (const { id } of [paid, cancelled, expired]) {
      expect(await buttons(id)).toEqual([]);
      expect(await (await world.gateway.handle(new Request(`https://pay.example/pay/${id}`))).text()).not.toContain(
        "<form",
      );
      await press(id);
    }
    expect(fake.payments).toHaveLength(begun);
    expect(await buttons(part.id)).toEqual(["pay", "invoice"]);
  });

  describe("clocks", () => {
    const steady = async (clock: FakeClock) => createPaymentGatewayMemoryStorage({ clock: steadyClock(clock) });

    test.each([300_000, 86_400_000, -3_600_000])(
      "one that is set by %i ms ends no QR that lives, and its money is told within 5 s",
      async (jump) => {
        const { fake, pass, remote, world } = await start({ storageFor: steady });
        await pass(200_000, 10_000);
        const { id } = await create(50_000n, 7_200_000);
        await press(id);
        await pass(5_000);
        world.clock.jump(jump);
        await world.gateway.work();
        await pass(170_000, 5_000);
        expect([(await get(id)).status, await attempts(id)]).toMatchObject(["processing", [{ state: "open" }]]);
        fake.pay(remote({ id }).id);
        await pass(5_000, 1_000);
        expect((await get(id)).status).toBe("paid");
        expect(fake.violations).toEqual([]);
      },
    );

    test.each([
      [40_000, 1],
      [40_000, 2],
      [160_000, 1],
    ])(
      "a dead QR that is asked about every %i ms, as under load, by %i processes, ends in twice its life",
      async (everyMs, processes) => {
        const { world, options } = await start({ storageFor: steady });
        const { id } = await create(50_000n, 86_400_000);
        await press(id);
        const gateways = [
          world.gateway,
          ...Array.from({ length: processes - 1 }, () =>
            world.another({ providers: [createKaspiQrProvider(options)] }),
          ),
        ];
        let passed = 0;
        for (let turn = 0; (await get(id)).status === "processing" && passed < 3_600_000; turn++) {
          world.clock.advance(everyMs);
          passed += everyMs;
          await gateways[turn % processes]?.work();
        }
        expect([passed > 245_000, passed <= 490_000]).toEqual([true, true]);
      },
    );

    test.each([300_000, -300_000])(
      "a second machine whose clock differs by %i ms ends no QR that lives, and one that is dead ends all the same",
      async (skew) => {
        const { fake, remote, world, options } = await start({ storageFor: steady });
        const skewed: Clock = { ...world.clock, now: () => new Date(world.clock.now().getTime() + skew) };
        const other = world.another({
          clock: skewed,
          providers: [createKaspiQrProvider({ ...options, clock: skewed })],
        });
        const both = async (ms: number) => {
          for (let passed = 0; passed < ms; passed += 5_000) {
            world.clock.advance(5_000);
            await [world.gateway, other][(passed / 5_000) % 2]?.work();
          }
        };
        const [late, unseen] = [await create(), await create()];
        await press(late.id);
        await press(unseen.id);
        await both(230_000);
        expect([(await get(late.id)).status, (await get(unseen.id)).status]).toEqual(["processing", "processing"]);
        fake.pay(remote(late).id);
        await both(60_000);
        expect([(await get(late.id)).status, (await get(unseen.id)).status]).toEqual(["paid", "pending"]);
      },
    );
  });

  test("a transaction that another payment has is no money of this one", async () => {
    const { fake, pass, remote, world } = await start();
    const { id } = await create();
    await press(id);
    const other = await create();
    await press(other.id);
    const otherId = remote(other).id;
    fake.pay(otherId);
    await pass(5_000);
    // As if the vendor answered the first payment with the id of the second.
    const payment = await get(id);
    const session = (payment.session ?? "").replaceAll(remote({ id }).id, otherId);
    const context = {
      find: get,
      findByAccount: async () => undefined,
      findBooking: async () => ({ paymentId: other.id, amountMinor: 1n }),
      book: () => Promise.reject(new Error("must not be booked")),
      cancelled: async () => undefined,
      failed: async () => undefined,
      payUrl: (one: string) => one,
      remember: async (before: typeof payment, state: { session: string; attention?: string | null }) => ({
        ...before,
        session: state.session,
        needsAttention: state.attention ?? "",
      }),
    };
    world.clock.advance(10_000);
    expect(await qr.provider.state?.({ ...payment, session }, context)).toMatchObject({ state: "unknown" });
  });
});

test.each<readonly [Partial<KaspiQrOptions>, boolean]>([
  [{ origin: "https://mtokentest.kaspi.kz:8545" }, true],
  [{ origin: "https://mtokentest.kaspi.kz:8543", test: false }, false],
  [{ origin: "https://pay.kaspi.test" }, false],
  [{ origin: "https://pay.kaspi.test", test: true }, true],
  [{ origin: "https://pay.kaspi.test", scheme: "r1", apiKey: "test_0123456789" }, true],
  [{ origin: "https://pay.kaspi.test", scheme: "r1", apiKey: "prod_0123456789" }, false],
])("payments of %j say `test: %s` to the shop", async (options, isTest) => {
  const { world, fake, remote, pass } = await start({ options: { ...options, apiKey: options.apiKey ?? "prod_1" } });
  const payment = await create();
  expect(payment.test).toBe(isTest);
  if (options.scheme) return; // the fake knows another key
  await press(payment.id);
  fake.pay(remote(payment).id);
  await pass(5_000);
  expect(JSON.parse(world.receiver.accepted[0]?.body ?? "")).toMatchObject({ event: "paid", test: isTest });
});

describe("the device", () => {
  test("is registered once, and again when Kaspi has forgotten it; every request has an id of its own", async () => {
    const { fake, context } = await start();
    await context.pay(await create());
    await context.pay(await create());
    expect(fake.journal.count("/device/register")).toBe(1);
    fake.forgetDevice();
    const payment = await create();
    await context.pay(payment);
    expect([(await get(payment.id)).status, fake.journal.count("/device/register")]).toEqual(["paid", 2]);
    expect(fake.violations).toEqual([]);
  });

  test("a call without the client certificate is refused, and says so in the attempt", async () => {
    const { fake } = await start({
      options: { fetch: async (input, init) => qr.fake.handle(new Request(input, init)) },
    });
    const { id } = await create();
    await press(id);
    expect(fake.payments).toHaveLength(0);
    expect((await attempts(id))[0]).toMatchObject({ state: "failed", reason: expect.stringContaining("-10000") });
  });
});

describe("StatusCode", () => {
  test.each(Object.entries(kaspiQrCodes).filter(([code]) => code !== "-1501" && code !== "-1502"))(
    "%s (%o): the attempt fails, the payment stays open",
    async (code) => {
      const { fake } = await start();
      const { id } = await create();
      fake.refuseNext("/qr/create-link", Number(code));
      await press(id);
      const [attempt] = await attempts(id);
      expect([(await get(id)).status, attempt?.state]).toEqual(["pending", "failed"]);
      expect(fake.journal.count("/qr/create-link")).toBe(1);
    },
  );

  test("a code that no table has counts as unknown: an invoice may be out, so no second one is sent", async () => {
    const { fake } = await start({ options: { remoteInvoices: true } });
    const { id } = await create();
    fake.refuseNext("/remote/create", -424_242);
    await press(id, { action: "invoice", phone: "+7 707 123-45-67" });
    expect((await get(id)).needsAttention).toContain("invoice");
    await press(id, { action: "invoice", phone: "+7 707 123-45-67" });
    await press(id);
    expect(fake.journal.count("POST /r3/v01/remote/create")).toBe(1);
    expect(fake.payments).toHaveLength(0);
  });

  test("a purchase that Kaspi does not find any more calls for a person and ends nothing", async () => {
    const { fake, pass } = await start();
    const { id } = await create();
    await press(id);
    fake.refuseNext("", -1601);
    await pass(5_000);
    expect([(await get(id)).status, (await get(id)).needsAttention]).toEqual([
      "processing",
      expect.stringContaining("-1601"),
    ]);
  });
});

describe("a remote invoice", () => {
  const openInvoices = () => start({ options: { remoteInvoices: true } });
  const invoice = (id: string, phone = "87071234567") => press(id, { action: "invoice", phone });

  test.each(["87071234567", "+7 (707) 123-45-67", "7071234567", "77071234567"])("goes to %s", async (phone) => {
    const { fake } = await openInvoices();
    await invoice((await create()).id, phone);
    expect(fake.payments.map((one) => one.phone)).toEqual(["87071234567"]);
  });

  test.each(["", "123", "+44 20 7946 0958", "<script>"])("%j is no phone: nothing is sent", async (phone) => {
    const { fake } = await openInvoices();
    const answer = await invoice((await create()).id, phone);
    expect([answer.headers.get("location")?.endsWith("?problem=phone"), fake.payments]).toEqual([true, []]);
  });

  test("for the rest of a payment whose life is over lives a day, and is then asked about once more", async () => {
    const { fake, pass } = await openInvoices();
    const rest = async () => {
      const { id } = await create(50_000n);
      await bookByHand(id, 20_000n);
      return id;
    };
    const [paid, left] = [await rest(), await rest()];
    await pass(7_200_000, 600_000);
    await invoice(paid);
    await invoice(left);
    await pass(80_000_000, 600_000);
    await press(paid, { action: "check" });
    expect(fake.payments.map(({ status }) => status)).toEqual(["RemotePaymentCreated", "RemotePaymentCreated"]);
    expect(statusCalls()).toBe(1);
    fake.pay(fake.payments[0]?.id ?? "");
    await pass(10_000);
    await press(paid, { action: "check" });
    await pass(6_000_000, 600_000);
    expect([(await get(paid)).paidMinor, (await get(left)).paidMinor]).toEqual([50_000n, 20_000n]);
    expect(fake.payments[1]?.status).toBe("RemotePaymentExpired");
    expect((await attempts(left))[0]?.state).toBe("failed");
    expect(fake.violations).toEqual([]);
  });

  test("for the rest of a payment with days of life left is asked about at the end of the payment", async () => {
    const { fake, pass } = await openInvoices();
    const { id } = await create(50_000n, 3 * 86_400_000);
    await bookByHand(id, 20_000n);
    await invoice(id);
    fake.pay(fake.payments[0]?.id ?? "");
    await pass(2.5 * 86_400_000, 3_600_000);
    expect([(await get(id)).paidMinor, statusCalls()]).toEqual([20_000n, 0]);
    await pass(86_400_000, 3_600_000);
    expect([(await get(id)).paidMinor, statusCalls(), fake.violations]).toEqual([50_000n, 1, []]);
  });

  test("is never asked about by a timer; the payer's button asks, at most every ten seconds", async () => {
    const { fake, pass } = await openInvoices();
    const { id } = await create(1_598_055n, 86_000_000);
    await invoice(id);
    await pass(82_800_000, 60_000);
    expect(statusCalls()).toBe(0);
    for (let presses = 0; presses < 20; presses++) await press(id, { action: "check" });
    expect(statusCalls()).toBe(1);
    await pass(10_000);
    await press(id, { action: "check" });
    expect([statusCalls(), fake.violations]).toEqual([2, []]);
  });

  test.each(["Processed", "RemotePaymentPaid"] as const)("%s: the button finds the money", async (paidInvoice) => {
    const { fake, pass } = await start({ options: { remoteInvoices: true }, readings: { paidInvoice } });
    const { id } = await create();
    await invoice(id);
    fake.pay(fake.payments[0]?.id ?? "");
    await pass(10_000);
    await press(id, { action: "check" });
    expect((await get(id)).status).toBe("paid");
  });

  test("the payer says no: the payment is cancelled, and told", async () => {
    const { fake, pass } = await openInvoices();
    const { id } = await create();
    await invoice(id);
    fake.reject(fake.payments[0]?.id ?? "");
    await pass(10_000);
    await press(id, { action: "check" });
    await pass(1);
    expect([(await get(id)).status, events()]).toEqual(["cancelled", [{ event: "cancelled", late: false }]]);
  });

  test("cancelling the payment cancels the invoice; when the money was faster it wins", async () => {
    const { fake, world } = await openInvoices();
    const [first, second] = [await create(), await create()];
    await invoice(first.id);
    await world.gateway.payments.cancel("shop", first.id);
    expect(fake.payments[0]?.status).toBe("RemotePaymentCanceled");
    await invoice(second.id);
    fake.pay(fake.payments[1]?.id ?? "");
    await expect(world.gateway.payments.cancel("shop", second.id)).rejects.toThrow("has money");
    expect((await get(second.id)).status).toBe("paid");
  });

  test("at the end of the payment the invoice is cancelled, so that it expires; while that is open it is asked hourly", async () => {
    const { fake, pass } = await openInvoices();
    const { id } = await create(50_000n, 600_000);
    await invoice(id);
    fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 4 });
    await pass(600_000, 60_000);
    await pass(3_500_000, 100_000);
    expect([(await get(id)).status, fake.faults.hits]).toEqual(["processing", 2]);
    fake.faults.clear();
    await pass(200_000, 100_000);
    expect([fake.payments[0]?.status, (await get(id)).status]).toEqual(["RemotePaymentCanceled", "expired"]);
  });

  test("an answer that is lost: no second invoice until a person has looked, then the payer may try again", async () => {
    const { fake, pass, provider, world } = await openInvoices();
    const { id } = await create(50_000n, 600_000);
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.endsWith("/remote/create") });
    await invoice(id);
    await pass(7_200_000, 600_000);
    await invoice(id);
    expect([fake.payments.length, (await get(id)).status]).toEqual([1, "processing"]);
    expect(provider.payerStep(await get(id))).toEqual({ kind: "notice", notice: "unknown", actions: [] });
    expect((await world.gateway.payments.get("shop", id))?.needsAttention).toContain("invoice");
  });

  test("one without an id is not asked about, and a person goes on being told what is not known", async () => {
    const { fake, pass } = await openInvoices();
    const { id } = await create(50_000n, 7_200_000);
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.endsWith("/remote/create") });
    await invoice(id);
    const calls = fake.journal.entries.length;
    await pass(30 * 3_600_000, 600_000);
    expect(fake.journal.entries.length).toBe(calls);
    expect((await get(id)).needsAttention).toContain("whether the invoice reached the payer is not known");
  });

  test("the phone is sent and kept nowhere", async () => {
    const { pass } = await openInvoices();
    const { id } = await create();
    await invoice(id);
    await pass(1);
    expect(
      JSON.stringify(await get(id), (_key, value) => (typeof value === "bigint" ? String(value) : value)),
    ).not.toContain("7071234567");
  });

  test("needs r3", () => {
    const options = { origin: "https://kaspi.test", deviceId: "t", tradePointId: "1", remoteInvoices: true, fetch };
    expect(() => createKaspiQrProvider({ ...options, scheme: "r2" })).toThrow("r3");
  });
});

describe("refunds", () => {
  const refund = (id: string, amountMinor?: bigint) =>
    qr.world.gateway.payments.refund({ merchant: "shop", id, amountMinor });

  test("r3: several parts, to the tiyn, until nothing is left", async () => {
    const { context, remote } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    for (const amountMinor of [1n, 33_333n, undefined]) {
      expect((await refund(payment.id, amountMinor)).refund.status).toBe("succeeded");
    }
    expect([(await get(payment.id)).status, remote(payment).returnedMinor]).toEqual(["refunded", 100_000n]);
  });

  test("r2: waits for the buyer, and says what he must scan", async () => {
    const { context, provider, fake, pass, remote } = await start({ scheme: "r2" });
    const payment = await create(100_000n);
    await context.pay(payment);
    const { refund: open } = await refund(payment.id, 40_000n);
    expect(provider.refundNotice?.(await get(payment.id), open.id)).toMatch(
      /^the buyer scans https:\/\/qr\.kaspi\.kz\//,
    );
    await pass(120_000, 10_000);
    expect([remote(payment).returnedMinor, (await get(payment.id)).refundingMinor]).toEqual([0n, 40_000n]);
    fake.scanReturns();
    await pass(120_000, 10_000);
    expect([remote(payment).returnedMinor, (await get(payment.id)).refundedMinor]).toEqual([40_000n, 40_000n]);
    expect(provider.refundNotice?.(await get(payment.id), open.id)).toBeUndefined();
  });

  test("r2: a buyer who comes hours later finds a refund QR that lives, and is heard of within a minute", async () => {
    const { context, provider, fake, pass } = await start({ scheme: "r2" });
    const payment = await create();
    await context.pay(payment);
    const { refund } = await qr.world.gateway.payments.refund({
      merchant: "shop",
      id: payment.id,
      amountMinor: 98_055n,
    });
    await pass(4 * 3_600_000, 30_000);
    const notice = async () => provider.refundNotice?.(await get(payment.id), refund.id);
    const before = await notice();
    fake.expireReturns();
    await pass(30_000, 1_000);
    expect(await notice()).not.toBe(before);
    fake.scanReturns();
    await pass(30_000, 1_000);
    expect(await get(payment.id)).toMatchObject({ refundedMinor: 98_055n, refundingMinor: 0n });
    expect(fake.journal.count("/payment/return")).toBe(1);
  });

  test("r2: a buyer who does not come for a day gets nothing, and the sum is free again", async () => {
    const { context, pass, remote } = await start({ scheme: "r2" });
    const payment = await create(100_000n);
    await context.pay(payment);
    await refund(payment.id);
    await pass(40 * 3_600_000, 3_600_000);
    expect([remote(payment).returnedMinor, (await get(payment.id)).refundingMinor]).toEqual([0n, 0n]);
  });

  test.each([-99_000_005, -99_000_011, -99_000_020, -99_000_003])("%i ends the refund as failed", async (code) => {
    const { context, fake, remote } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    fake.refuseNext("/payment/return", code);
    expect((await refund(payment.id)).refund.status).toBe("failed");
    expect([(await get(payment.id)).refundingMinor, remote(payment).returnedMinor]).toEqual([0n, 0n]);
  });

  test.each([-99_000_003, -99_000_001])(
    "%i to what can be given back, before anything was sent, ends the refund as failed",
    async (code) => {
      const { context, fake, remote } = await start();
      const payment = await create(100_000n);
      await context.pay(payment);
      fake.refuseNext("/payment/details", code);
      expect((await refund(payment.id)).refund.status).toBe("failed");
      expect([(await get(payment.id)).refundingMinor, remote(payment).returnedMinor]).toEqual([0n, 0n]);
    },
  );

  test("a lost refund that can no longer be looked up calls a person and is not repeated", async () => {
    const { context, fake, pass } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    context.loseRefundReply?.();
    await refund(payment.id, 60_000n);
    for (let times = 0; times < 50; times++) fake.refuseNext("/payment/details", -99_000_003);
    await pass(600_000, 60_000);
    expect(fake.journal.count("/payment/return")).toBe(1);
    expect(await get(payment.id)).toMatchObject({
      refundingMinor: 60_000n,
      needsAttention: expect.stringContaining("look into the cabinet"),
    });
  });

  test("a first refund that lands while the second try is refused is booked, not called failed", async () => {
    const { context, fake, pass, remote } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    const isReturn = ({ url }: Request) => url.endsWith("/payment/return");
    fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 504 }, match: isReturn }); // it lies in a queue there
    await refund(payment.id);
    fake.faults.add({
      fault: { kind: "slow", ms: 0 },
      match: (request) => {
        if (isReturn(request)) fake.refundByHand(remote(payment).id, 100_000n); // and is carried out now
        return false;
      },
    });
    await pass(600_000, 30_000);
    const { status, refundedMinor } = await get(payment.id);
    expect([status, refundedMinor, remote(payment).returnedMinor]).toEqual(["refunded", 100_000n, 100_000n]);
  });

  test("-99000006: looked up, tried again, and after the third time a person is called", async () => {
    const { context, fake, pass } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    for (let tries = 0; tries < 9; tries++) fake.refuseNext("/payment/return", -99_000_006);
    await refund(payment.id, 60_000n);
    await pass(7_200_000, 60_000);
    expect(fake.journal.count("/payment/return")).toBe(3);
    expect(await get(payment.id)).toMatchObject({
      refundingMinor: 60_000n,
      needsAttention: expect.stringContaining("ask the bank"),
    });
  });

  test("a second refund waits until it is known what became of the first one", async () => {
    const { context, fake, pass, remote } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    context.loseRefundReply?.();
    await refund(payment.id, 60_000n);
    expect((await refund(payment.id, 10_000n)).refund.status).toBe("pending");
    expect(fake.journal.count("/payment/return")).toBe(1);
    await pass(600_000, 30_000);
    const { refundedMinor, refundingMinor, needsAttention } = await get(payment.id);
    expect([refundedMinor, refundingMinor, needsAttention, remote(payment).returnedMinor]).toEqual([
      70_000n,
      0n,
      undefined,
      70_000n,
    ]);
  });

  test("somebody refunds by hand while an answer is lost: a person is called, nothing is repeated", async () => {
    const { context, fake, pass, remote } = await start();
    const payment = await create(100_000n);
    await context.pay(payment);
    context.loseRefundReply?.();
    await refund(payment.id, 60_000n);
    fake.refundByHand(remote(payment).id, 10_000n);
    await pass(600_000, 60_000);
    expect(fake.journal.count("/payment/return")).toBe(1);
    expect((await get(payment.id)).needsAttention).toContain("cabinet");
    const [refundId = ""] = Object.keys(JSON.parse((await get(payment.id)).session ?? "").refunds);
    await qr.world.gateway.payments.settleRefund("shop", payment.id, refundId, "succeeded");
    const { refundedMinor, refundingMinor, needsAttention } = await get(payment.id);
    expect([refundedMinor, refundingMinor, needsAttention]).toEqual([60_000n, 0n, undefined]);
  });

  test("half of all answers to partial refunds are lost, before or after: never above what was paid, all resolved", {
    timeout: 240_000,
  }, async () => {
    const { context, fake, pass, remote, world } = await start();
    const payment = await create(1_000_000n);
    await context.pay(payment);
    const count = process.env.PROOF === "1" ? 1_000 : 60;
    const amountMinor = 1_000_000n / BigInt(count);
    const other = world.another();
    let lost = 0;
    for (let index = 0; index < count; index++) {
      const isReturn = ({ url }: Request) => url.endsWith("/payment/return");
      if (index % 4 === 1) fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: isReturn });
      if (index % 4 === 3) fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 504 }, match: isReturn });
      if (index % 2 === 1) lost++;
      await Promise.all([refund(payment.id, amountMinor), other.work()]);
      expect(remote(payment).returnedMinor).toBeLessThanOrEqual(1_000_000n);
      await pass(31_000);
      await pass(31_000);
      await pass(31_000);
    }
    for (let round = 0; round < 40 && (await get(payment.id)).refundingMinor > 0n; round++) await pass(300_000);
    const { refundedMinor, refundingMinor, status } = await get(payment.id);
    expect([refundedMinor, refundingMinor, remote(payment).returnedMinor, status]).toEqual([
      1_000_000n - (1_000_000n % BigInt(count)),
      0n,
      refundedMinor,
      1_000_000n % BigInt(count) === 0n ? "refunded" : "paid",
    ]);
    recordProof("gateway-kaspi-qr-refunds", { refunds: count, lost, refundedTwice: 0 });
  });

  test("r1 has none", async () => {
    const { provider } = await start({ scheme: "r1" });
    expect(provider.refund).toBeUndefined();
  });
});

test.each([
  [{ scheme: "r1" }, "apiKey"],
  [{ scheme: "r2" }, "fetch"],
  [{ scheme: "r3", fetch }, "organizationBin"],
  [{ scheme: "r3", fetch, organizationBin: "12" }, "organizationBin"],
  [{ scheme: "r2", fetch, deviceId: "касса 1" }, "deviceId"],
  [{ scheme: "r2", fetch, tradePointId: "" }, "tradePointId"],
] as const)("%j is refused at creation, naming %s", (options, name) => {
  const base = { origin: "https://kaspi.test", deviceId: "till-1", tradePointId: "1001" };
  expect(() => createKaspiQrProvider({ ...base, ...options })).toThrow(name);
});
