import { expect, test } from "vitest";
import type { Payment, PaymentProvider, ProviderContext } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createAttempts, type Finding, openAttempt, readSession, rememberRefund } from "../src/providers/attempts.ts";
import { createWorld, type World } from "./gateway-harness.ts";
import { pressButton } from "./provider-worlds.ts";

/** A provider whose side does what the test wants when an attempt begins. */
async function open(begin: (payment: Payment, context: ProviderContext) => Promise<Finding>): Promise<World> {
  let known: ProviderContext | undefined;
  let world: World | undefined;
  const attempts = createAttempts({
    clock: { now: () => (world as World).clock.now() },
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
