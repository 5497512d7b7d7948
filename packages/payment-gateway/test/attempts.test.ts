import { describe, expect, test } from "vitest";
import { endPayment } from "../src/decisions.ts";
import type { Payment, PaymentProvider, ProviderContext } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createAttempts, type Finding, openAttempt, readSession, rememberRefund } from "../src/providers/attempts.ts";
import type { FakeKaspiQr } from "../src/testing/index.ts";
import { createWorld, type World } from "./gateway-harness.ts";
import { openQr, pressButton } from "./provider-worlds.ts";
import { stores } from "./stores.ts";

/** A provider whose side does what the test wants when an attempt begins. */
async function open(
  begin: (payment: Payment, context: ProviderContext) => Promise<Finding>,
  /** What happens between a press and its being written down. */
  meanwhile: (world: World, payment: Payment) => Promise<unknown> = async () => undefined,
): Promise<World> {
  let known: ProviderContext | undefined;
  let world: World | undefined;
  const attempts = createAttempts({
    clock: {
      now: () => (world as World).clock.now(),
      monotonicMs: () => (world as World).clock.monotonicMs(),
    },
    begin: ({ payment }) => begin(payment, known as ProviderContext),
    lost: () => ({ state: "unknown", askAgainMs: 60_000, attention: "look at the till" }),
    look: async () => ({ state: "open", askAgainMs: 1_000 }),
    intervalMs: () => 1_000,
  });
  const provider: PaymentProvider = {
    name: "till",
    currencies: { KZT: { stepMinor: 1n } },
    payerStep: () => ({ kind: "actions", actions: [] }),
    state: attempts.state,
    async callback({ path, context }) {
      known = context;
      const payment = await context.find(path);
      if (payment) await meanwhile(world as World, payment);
      return new Response(payment ? await attempts.begin(payment, context, new URLSearchParams()) : null);
    },
  };
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), { providers: [provider] });
  return world;
}

const started: Finding = { state: "open", askAgainMs: 1_000, facts: { process: "9007199254740993" } };
const refund = { state: "asking", attemptId: "att_0", amountMinor: "100", at: 0, facts: {} } as const;

test("what began at the provider is not forgotten when a refund of the payment is written at the same moment", async () => {
  const world = await open(async (payment, context) => {
    const now = (await context.find(payment.id)) as Payment;
    await rememberRefund(now, context, "re_1", refund);
    return started;
  });
  const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
  expect(await (await pressButton(world, "till", payment.id, {})).text()).toBe("begun");
  const after = (await world.gateway.payments.get("shop", payment.id)) as Payment;
  expect(openAttempt(after)).toMatchObject({ state: "open", facts: { process: "9007199254740993" } });
  expect(readSession(after).refunds).toEqual({ re_1: refund });
  await world.close();
});

test("what another process found out about the same attempt meanwhile stays", async () => {
  const world = await open(async (payment, context) => {
    const now = (await context.find(payment.id)) as Payment;
    const session = readSession(now);
    const [attempt] = session.attempts;
    await context.remember(now, {
      session: JSON.stringify({
        ...session,
        attempts: [{ ...attempt, state: "failed", reason: "settled by a person" }],
      }),
    });
    return started;
  });
  const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
  await pressButton(world, "till", payment.id, {});
  const after = (await world.gateway.payments.get("shop", payment.id)) as Payment;
  expect(readSession(after).attempts).toMatchObject([{ state: "failed", reason: "settled by a person" }]);
  await world.close();
});

test("a beginning that takes longer than its attempt is waited for is heard all the same, and calls nobody any more", async () => {
  let called: string | undefined;
  const world = await open(async ({ id }) => {
    world.clock.advance(65_000);
    await world.gateway.work();
    called = (await world.gateway.payments.get("shop", id))?.needsAttention;
    return started;
  });
  const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
  expect(await (await pressButton(world, "till", payment.id, {})).text()).toBe("begun");
  expect(called).toBe("look at the till");
  const after = (await world.gateway.payments.get("shop", payment.id)) as Payment;
  expect(readSession(after).attempts).toMatchObject([{ state: "open", facts: { process: "9007199254740993" } }]);
  expect([openAttempt(after)?.reason, after.needsAttention]).toEqual([undefined, undefined]);
  await world.close();
});

test("a press on a payment that is cancelled at the same moment begins nothing at the provider", async () => {
  let begun = 0;
  const world = await open(
    async () => {
      begun++;
      return started;
    },
    ({ gateway }, { id }) => gateway.payments.cancel("shop", id),
  );
  const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
  expect(await (await pressButton(world, "till", payment.id, {})).text()).toBe("busy");
  const after = (await world.gateway.payments.get("shop", payment.id)) as Payment;
  expect([begun, after.status]).toEqual([0, "cancelled"]);
  expect(readSession(after).attempts).toMatchObject([{ state: "failed", reason: "the payment ended before it began" }]);
  await world.close();
});

describe.each(stores)("on $name", ({ skipped, open: openStore }) => {
  test.skipIf(skipped).each(["invoice", "pay"])(
    "%s pressed while the merchant cancels: what began all the same is asked about, and its money is told",
    { timeout: 60_000 },
    async (action) => {
      const store = await openStore();
      const qr = await openQr({ storageFor: store.storageFor, options: { remoteInvoices: true } });
      const { gateway, storage, clock } = qr.world;
      /** Whatever began at Kaspi while both happened. */
      const begun: { readonly id: string; readonly remote: FakeKaspiQr["payments"][number] }[] = [];
      const during = async (both: (id: string, press: () => Promise<unknown>) => Promise<unknown>): Promise<void> => {
        const before = qr.fake.payments.length;
        const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
        const { id } = payment;
        await both(id, () => pressButton(qr.world, "kaspi-qr", id, { action, phone: "87012223344" }));
        begun.push(...qr.fake.payments.slice(before).map((remote) => ({ id, remote })));
      };
      const cancel = (id: string) => gateway.payments.cancel("shop", id).catch(() => "refused");
      for (let round = 0; round < 5; round++) await during((id, press) => Promise.all([press(), cancel(id)]));
      // However the two meet, an invoice of a payment that was cancelled may be out.
      await during(async (id, press) => {
        await press();
        await storage.change(id, (current) => endPayment(current, "cancelled", clock.now()));
      });
      // A cancellation that came last has withdrawn its invoice.
      const open = begun.filter(({ remote }) => remote.status !== "RemotePaymentCanceled");
      for (const { remote } of open) qr.fake.pay(remote.id);
      await qr.pass(300_000, 5_000);
      await qr.pass(7_200_000, 600_000);
      for (const { id } of open) {
        expect(await gateway.payments.get("shop", id)).toMatchObject({ status: "paid", paidMinor: 50_000n });
      }
      expect(await gateway.payments.get("shop", open.at(-1)?.id ?? "")).toMatchObject({ late: true });
      await qr.world.close();
      await store.close();
    },
  );
});
