import { silentLogger } from "@orderbridge/core";
import { createFakeClock, type FakeClock } from "@orderbridge/core/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway, type PaymentGateway, type PaymentProvider, paymentMoves } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import type { Payment } from "../src/payment.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import type { GatewayStorage } from "../src/storage.ts";

/** A step of the world; amounts are whole units. */
type Step =
  | { readonly kind: "money"; readonly transactionId: number; readonly amount: number }
  | { readonly kind: "cancel" }
  | { readonly kind: "fail" }
  | { readonly kind: "refund"; readonly amount: number; readonly outcome: "succeeded" | "failed" | "lost" }
  | { readonly kind: "pass"; readonly seconds: number }
  | { readonly kind: "work" };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant("money" as const),
    transactionId: fc.integer({ min: 1, max: 4 }),
    amount: fc.integer({ min: 1, max: 120 }),
  }),
  fc.constant({ kind: "cancel" as const }),
  fc.constant({ kind: "fail" as const }),
  fc.record({
    kind: fc.constant("refund" as const),
    amount: fc.integer({ min: 1, max: 120 }),
    outcome: fc.constantFrom("succeeded" as const, "failed" as const, "lost" as const),
  }),
  fc.record({ kind: fc.constant("pass" as const), seconds: fc.constantFrom(1, 40, 3_600) }),
  fc.constant({ kind: "work" as const }),
);

/** Steps of a row happen one after the other, those of a group at the same time and in two processes. */
const story = fc.array(fc.array(step, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 10 });

/** The provider's truth: what the bank paid out, by key. */
interface Bank {
  readonly paid: Map<number, number>;
  readonly refunds: Map<string, { readonly amount: bigint; readonly outcome: "succeeded" | "failed" }>;
}

async function play(groups: readonly (readonly Step[])[], storage: GatewayStorage, clock: FakeClock): Promise<void> {
  const bank: Bank = { paid: new Map(), refunds: new Map() };
  let nextOutcome: "succeeded" | "failed" | "lost" = "succeeded";
  let book: ((id: string, transactionId: number, amount: number) => Promise<void>) | undefined;
  const provider: PaymentProvider = {
    ...createSandboxProvider(),
    async refund({ amountMinor, key }) {
      const known = bank.refunds.get(key);
      if (known) {
        expect(known.amount).toBe(amountMinor);
        return known.outcome;
      }
      const outcome = nextOutcome === "failed" ? "failed" : "succeeded";
      bank.refunds.set(key, { amount: amountMinor, outcome });
      if (nextOutcome === "lost") throw new Error("the answer was lost");
      return outcome;
    },
    async callback({ request, context }) {
      book = async (id, transactionId, amount) => {
        await context.book(id, {
          transactionId: `t${transactionId}`,
          amountMinor: BigInt(amount) * 100n,
          currency: "KZT",
        });
      };
      const id = new URL(request.url).searchParams.get("fail");
      if (id) await context.failed(id);
      return new Response();
    },
  };
  const start = (): PaymentGateway =>
    createPaymentGateway({
      storage,
      providers: [provider],
      publicUrl: "https://pay.example",
      clock,
      logger: silentLogger,
    });
  const gateways = [start(), start()];
  const callback = (query = "") => gateways[0]?.handle(new Request(`https://pay.example/providers/sandbox/x${query}`));
  await callback();
  const { payment } = await (gateways[0] as PaymentGateway).payments.create({ merchant: "shop", amountMinor: 10_000n });
  const { id } = payment;

  async function take(one: Step, gateway: PaymentGateway): Promise<void> {
    switch (one.kind) {
      case "money":
        // One transfer has one amount, however often it is told.
        if (!bank.paid.has(one.transactionId)) bank.paid.set(one.transactionId, one.amount);
        await book?.(id, one.transactionId, bank.paid.get(one.transactionId) ?? 0);
        return;
      case "cancel":
        await gateway.payments.cancel("shop", id).catch(refusalOnly);
        return;
      case "fail":
        await callback(`?fail=${id}`);
        return;
      case "refund":
        nextOutcome = one.outcome;
        await gateway.payments
          .refund({ merchant: "shop", id, amountMinor: BigInt(one.amount) * 100n })
          .catch(refusalOnly);
        return;
      case "pass":
        clock.advance(one.seconds * 1000);
        return;
      case "work":
        await gateway.work();
    }
  }

  let before = payment;
  for (const group of groups) {
    await Promise.all(group.map((one, index) => take(one, gateways[index % 2] as PaymentGateway)));
    const after = (await storage.getPayment(id)) as Payment;
    const told = (await storage.eventsAfter("shop", 0, 1_000)).map(({ body }) => JSON.parse(body));
    // Money: what the bank took is what is booked; what it gave back is never more, and never counted twice.
    const paid = [...bank.paid.values()].reduce((sum, amount) => sum + amount, 0);
    expect(after.paidMinor).toBe(BigInt(paid) * 100n);
    const given = [...bank.refunds.values()].reduce(
      (sum, { amount, outcome }) => (outcome === "succeeded" ? sum + amount : sum),
      0n,
    );
    expect(after.refundedMinor <= given && given <= after.paidMinor).toBe(true);
    expect(given <= after.refundedMinor + after.refundingMinor).toBe(true);
    // Events: numbered without a gap, and the last one tells the present state.
    expect(told.map(({ sequence }) => sequence)).toEqual(
      Array.from({ length: after.sequence }, (_, index) => index + 1),
    );
    const path = [before.status, ...told.slice(before.sequence).map(({ status }) => status)];
    for (const [index, status] of path.entries()) {
      const previous = path[index - 1];
      if (previous !== undefined && previous !== status)
        expect(paymentMoves[previous as Payment["status"]]).toContain(status);
    }
    if (told.length > 0) expect(told.at(-1).status).toBe(after.status);
    // Nothing with money is called cancelled or expired.
    if (after.paidMinor > 0n) expect(["partially_paid", "paid", "refunded"]).toContain(after.status);
    before = after;
  }
  // In the end every open refund is settled by what the bank did.
  clock.advance(60_000);
  await (gateways[0] as PaymentGateway).work();
  const settled = (await storage.getPayment(id)) as Payment;
  const given = [...bank.refunds.values()].reduce(
    (sum, { amount, outcome }) => (outcome === "succeeded" ? sum + amount : sum),
    0n,
  );
  expect([settled.refundingMinor, settled.refundedMinor]).toEqual([0n, given]);
  await Promise.all(gateways.map((gateway) => gateway.close()));
}

function refusalOnly(error: unknown): void {
  if ((error as Error).name !== "Refusal") throw error;
}

const proof = process.env.PROOF === "1";

test("whatever happens in whatever order: states move along the table, money is counted once, refunds never exceed it", async () => {
  await fc.assert(
    fc.asyncProperty(story, async (groups) => {
      const clock = createFakeClock();
      await play(groups, createPaymentGatewayMemoryStorage({ clock }), clock);
    }),
    { seed: 7, numRuns: proof ? 20_000 : 500 },
  );
});

describe.each(testDatabases())("the same on $name", ({ skipped, open, name }) => {
  test.skipIf(skipped)("holds", { timeout: 300_000 }, async () => {
    const runs = name === "SQLite" ? [60, 20_000] : [8, 300];
    const database: TestDatabase = await open();
    try {
      await createPaymentGatewayStorage(database).migrate();
      await fc.assert(
        fc.asyncProperty(story, async (groups) => {
          const clock = createFakeClock();
          for (const table of ["payment", "booking", "event", "delivery", "refund"]) {
            await database.db.deleteFrom(`gateway_${table}`).execute();
          }
          await database.db.updateTable("gateway_counter").set({ value: 0 }).execute();
          await play(groups, createPaymentGatewayStorage({ ...database, clock }), clock);
        }),
        { seed: 7, numRuns: runs[proof ? 1 : 0] ?? 1 },
      );
    } finally {
      await database.close();
    }
  });
});
