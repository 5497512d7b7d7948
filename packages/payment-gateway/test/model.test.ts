import { silentLogger } from "@orderbridge/core";
import { createFakeClock, type FakeClock } from "@orderbridge/core/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
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
  | { readonly kind: "work" }
  /** A process that does `step` dies at its n-th call of the storage, before it is made or after. */
  | { readonly kind: "crash"; readonly at: number; readonly after: boolean; readonly step: Step };

const livingStep: fc.Arbitrary<Step> = fc.oneof(
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

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: livingStep },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("crash" as const),
      at: fc.integer({ min: 1, max: 8 }),
      after: fc.boolean(),
      step: livingStep,
    }),
  },
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
      const query = new URL(request.url).searchParams;
      const id = query.get("id") ?? "";
      if (query.has("fail")) await context.failed(id);
      else {
        const amountMinor = BigInt(query.get("amount") ?? 0) * 100n;
        await context.book(id, { transactionId: `t${query.get("transaction")}`, amountMinor, currency: "KZT" });
      }
      return new Response();
    },
  };
  const start = (own: GatewayStorage = storage): PaymentGateway =>
    createPaymentGateway({
      storage: own,
      providers: [provider],
      publicUrl: "https://pay.example",
      clock,
      logger: silentLogger,
    });
  const gateways = [start(), start()];
  const callback = async (gateway: PaymentGateway, query: string): Promise<void> => {
    const answer = await gateway.handle(new Request(`https://pay.example/providers/sandbox/x?id=${id}&${query}`));
    if (answer.status !== 200) throw new Crash();
  };
  const { payment } = await (gateways[0] as PaymentGateway).payments.create({ merchant: "shop", amountMinor: 10_000n });
  const { id } = payment;

  async function take(one: Step, gateway: PaymentGateway): Promise<void> {
    switch (one.kind) {
      case "money":
        // One transfer has one amount, however often it is told.
        if (!bank.paid.has(one.transactionId)) bank.paid.set(one.transactionId, one.amount);
        await callback(gateway, `transaction=${one.transactionId}&amount=${bank.paid.get(one.transactionId)}`);
        return;
      case "cancel":
        await gateway.payments.cancel("shop", id).catch(refusalOnly);
        return;
      case "fail":
        await callback(gateway, "fail=1");
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
        return;
      case "crash": {
        const dying = start(createDying(storage, one.at, one.after));
        await take(one.step, dying).catch(crashOnly);
        await dying.close();
        // The bank repeats what nobody has taken.
        if (one.step.kind === "money") await take(one.step, gateway);
      }
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
  // In the end every open refund is settled by what the bank did, also one that it is asked about for the first time.
  nextOutcome = "succeeded";
  clock.advance(20 * 3_600_000); // longer than a quarter of any refund's age
  await (gateways[0] as PaymentGateway).work();
  const settled = (await storage.getPayment(id)) as Payment;
  const given = [...bank.refunds.values()].reduce(
    (sum, { amount, outcome }) => (outcome === "succeeded" ? sum + amount : sum),
    0n,
  );
  expect([settled.refundingMinor, settled.refundedMinor]).toEqual([0n, given]);
  await Promise.all(gateways.map((gateway) => gateway.close()));
}

/** What a process that has died does next: nothing. */
class Crash extends Error {
  override readonly name = "Crash";
}

/** A storage whose caller dies at its n-th call: before the call is made, or after, so that its outcome is unknown. */
function createDying(storage: GatewayStorage, at: number, after: boolean): GatewayStorage {
  let calls = 0;
  return new Proxy(storage, {
    get(target, property) {
      const value = Reflect.get(target, property);
      if (typeof value !== "function") return value;
      return async (...args: unknown[]) => {
        const call = ++calls;
        if (call > at || (call === at && !after)) throw new Crash();
        const result = await value.apply(target, args);
        if (call === at) throw new Crash();
        return result;
      };
    },
  });
}

/** `Refusal`: a provider or state said no before the process died; the rest of the work loop logs its own. */
function crashOnly(error: unknown): void {
  if (!["Crash", "Refusal"].includes((error as Error).name)) throw error;
}

function refusalOnly(error: unknown): void {
  if ((error as Error).name !== "Refusal") throw error;
}

const proof = process.env.PROOF === "1";

test("whatever happens in whatever order, crashes included: states move along the table, money is counted once, refunds never exceed it", {
  timeout: 120_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(story, async (groups) => {
      const clock = createFakeClock();
      await play(groups, createPaymentGatewayMemoryStorage({ clock }), clock);
    }),
    { seed: 7, numRuns: proof ? 2_000 : 200 },
  );
});

describe.each(testDatabases())("the same on $name", ({ skipped, open, name }) => {
  test.skipIf(skipped)("holds", { timeout: 1_800_000 }, async () => {
    const runs = name === "SQLite" ? [40, 20_000] : [8, 300];
    const database: TestDatabase = await open();
    try {
      await createPaymentGatewayStorage(database).migrate();
      await fc.assert(
        fc.asyncProperty(story, async (groups) => {
          const clock = createFakeClock();
          for (const table of ["payment", "booking", "event", "delivery", "refund", "receiver"]) {
            await database.db.deleteFrom(`gateway_${table}`).execute();
          }
          await database.db.updateTable("gateway_counter").set({ value: 0 }).execute();
          await play(groups, createPaymentGatewayStorage({ ...database, clock }), clock);
        }),
        { seed: 7, numRuns: runs[proof ? 1 : 0] ?? 1 },
      );
      recordProof(`gateway-model-${name.toLowerCase()}`, { runs: runs[proof ? 1 : 0] ?? 1, violations: 0 });
    } finally {
      await database.close();
    }
  });
});
