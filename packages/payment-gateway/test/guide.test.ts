import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import { afterEach, describe, expect, test } from "vitest";
import type { Payment, PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { type ProviderCaseContext, providerCases } from "../src/testing/index.ts";
import { createWorld, passTime, type World } from "./gateway-harness.ts";
import { createExampleBankProvider } from "./guide-provider.ts";

const signingKey = "the bank's own key";
let world: World;
afterEach(() => world.close());

/** The bank of the guide, as small as it can be. */
function createExampleBank() {
  const sessions = new Map<string, { amount: string; status: "open" | "paid" }>();
  const refunds = new Map<string, { readonly session: string; readonly amount: string }>();
  let lost = 0;
  return {
    isAway: false,
    /** Questions for a state. */
    asked: 0,
    sessions,
    refunds,
    loseNext: () => {
      lost = 1;
    },
    async handle(request: Request): Promise<Response> {
      const [, group = "", id = ""] = new URL(request.url).pathname.split("/");
      if (this.isAway) return new Response("<html>", { status: 400 });
      if (request.headers.get("authorization") !== "Bearer bank-key") return new Response(null, { status: 401 });
      if (group === "refunds") {
        if (!refunds.has(id)) refunds.set(id, JSON.parse(await request.text()));
        if (lost-- > 0) return new Response(null, { status: 502 });
        return Response.json({ status: "done" });
      }
      if (request.method === "PUT" && !sessions.has(id)) {
        sessions.set(id, { amount: JSON.parse(await request.text()).amount, status: "open" });
      }
      const session = sessions.get(id);
      if (!session) return new Response(null, { status: 404 });
      if (request.method === "GET") this.asked++;
      if (request.method === "PUT") return Response.json({ url: `https://bank.example/pay/${id}` });
      const { status, amount } = session;
      return Response.json({ status, ...(status === "paid" ? { transfer: { id: `t-${id}`, amount } } : {}) });
    },
  };
}

async function open(): Promise<ProviderCaseContext & { readonly bank: ReturnType<typeof createExampleBank> }> {
  const bank = createExampleBank();
  const provider = createExampleBankProvider({
    origin: "https://bank.example",
    apiKey: "bank-key",
    signingKey,
    fetch: fetchFrom((request) => bank.handle(request)),
  });
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }), { providers: [provider] });
  const tell = (payment: string, key: string): Promise<Response> => {
    const transfer = { id: `t-${payment}`, amount: bank.sessions.get(payment)?.amount ?? "" };
    const body = JSON.stringify({ payment, transfer });
    const signature = createHmac("sha256", key).update(body).digest("hex");
    return world.gateway.handle(
      new Request("https://pay.example/providers/example-bank", {
        method: "POST",
        body,
        headers: { "x-signature": signature },
      }),
    );
  };
  let last = "";
  return {
    bank,
    gateway: world.gateway,
    provider,
    merchant: "shop",
    pay({ id }: Payment) {
      last = id;
      const session = bank.sessions.get(id);
      if (session) session.status = "paid";
      return tell(id, signingKey);
    },
    repeat: () => tell(last, signingKey),
    pass: (ms) => passTime(world, ms),
    async payUntold({ id }) {
      const session = bank.sessions.get(id);
      if (session) session.status = "paid";
    },
    silence() {
      bank.isAway = true;
      return () => {
        bank.isAway = false;
      };
    },
    forge: ({ id }) => tell(id, "a guess"),
    async settleRefunds() {
      for (let round = 0; round < 3; round++) {
        world.clock.advance(61_000);
        await world.gateway.work();
      }
    },
    refundedAtProvider: ({ id }) =>
      [...bank.refunds.values()]
        .filter(({ session }) => session === id)
        .reduce((sum, { amount }) => sum + BigInt(amount.replace(".", "")), 0n),
    loseRefundReply: bank.loseNext,
  };
}

describe("the provider of the guide", () => {
  test.each(providerCases)("$name", async ({ run }) => run(await open()));

  test("has no `cancel`, so its state is asked before a payment is cancelled: money wins", async () => {
    const { gateway, payUntold } = await open();
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    await payUntold?.(payment);
    await expect(gateway.payments.cancel("shop", payment.id)).rejects.toThrow("has money");
    expect(await gateway.payments.get("shop", payment.id)).toMatchObject({ status: "paid", late: false });
  });

  test("finds by asking what the bank did not tell", async () => {
    const { bank, gateway } = await open();
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    const session = bank.sessions.get(payment.id);
    if (session) session.status = "paid";
    world.clock.advance(60_000);
    await gateway.work();
    expect((await gateway.payments.get("shop", payment.id))?.status).toBe("paid");
  });
});

describe("questions after the end of a payment", () => {
  test("of the guide's provider: one more", async () => {
    const { bank, gateway } = await open();
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    const minutes = async (count: number): Promise<number> => {
      const before = bank.asked;
      for (let minute = 0; minute < count; minute++) {
        world.clock.advance(60_000);
        await gateway.work();
      }
      return bank.asked - before;
    };
    expect(await minutes(60)).toBe(60);
    expect((await gateway.payments.get("shop", payment.id))?.status).toBe("expired");
    expect(await minutes(24 * 60)).toBe(1);
  });

  test("whatever the provider wishes, they become rarer from an hour on, at last one a day", async () => {
    const asked: number[] = [];
    const insatiable: PaymentProvider = {
      name: "insatiable",
      currencies: { KZT: { stepMinor: 1n } },
      payerStep: () => ({ kind: "actions", actions: [] }),
      async state() {
        asked.push((world.clock.now().getTime() - endsAt) / 60_000);
        return { state: "waiting", askAgainMs: 60_000 };
      },
    };
    const storageFor = async (clock: FakeClock) => createPaymentGatewayMemoryStorage({ clock });
    world = await createWorld(storageFor, { providers: [insatiable], expiryHoldMs: 0 });
    const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    const endsAt = payment.expiresAt.getTime();
    world.clock.advance(3_600_000);
    for (let minute = 0; minute < 10 * 1_440; minute++) {
      await world.gateway.work();
      world.clock.advance(60_000);
    }
    const pauses = asked.map((at, index) => at - (asked[index - 1] ?? at));
    expect(asked.filter((at) => at <= 60)).toHaveLength(61); // as wished
    expect(Math.max(...pauses)).toBe(1_440);
    expect(asked.length).toBeLessThan(110);
  });
});

test("the guide shows this provider, to the letter", () => {
  world = { close: async () => undefined } as World;
  const guide = readFileSync(join(import.meta.dirname, "../../../docs/writing-a-provider.md"), "utf8");
  const [, shown] = /```ts\n([\s\S]*?)```/.exec(guide) ?? [];
  expect(shown).toBe(readFileSync(join(import.meta.dirname, "guide-provider.ts"), "utf8"));
});
