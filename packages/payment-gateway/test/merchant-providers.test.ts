import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PaymentGateway, PaymentProvider } from "../src/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { callApi, createWorld, otherToken, passTime, type World } from "./gateway-harness.ts";
import { stores } from "./stores.ts";

interface Account {
  readonly provider: PaymentProvider;
  /** What was asked of it, with the payment. */
  readonly calls: (readonly [ability: string, payment: string])[];
}

/** A way to pay as a user writes one; every account of it gives its transfers the same numbers. */
function createAccount(): Account {
  const calls: (readonly [string, string])[] = [];
  const provider: PaymentProvider = {
    name: "bank",
    currencies: { KZT: { stepMinor: 1n } },
    payerStep: () => ({ kind: "notice", notice: "delayed", actions: [] }),
    async start({ id }) {
      calls.push(["start", id]);
      return { session: id, askAfterMs: 5_000 };
    },
    async state({ id }) {
      calls.push(["state", id]);
      return { state: "waiting", askAgainMs: 600_000 };
    },
    async cancel({ id }) {
      calls.push(["cancel", id]);
      return { state: "ended" };
    },
    async refund({ payment: { id } }) {
      calls.push(["refund", id]);
      return "succeeded";
    },
    async callback({ path, context }) {
      calls.push(["callback", path]);
      const money = { transactionId: "transfer-1", amountMinor: 50_000n, currency: "KZT" } as const;
      const { state } = await context.book(path, money);
      return new Response(state);
    },
  };
  return { provider, calls };
}

describe.each(stores.filter(({ skipped }) => !skipped))(
  "merchants with accounts of their own, on $name",
  ({ open }) => {
    let close: () => Promise<void>;
    let world: World;
    let gateway: PaymentGateway;
    let own: Account;
    let others: Account;
    beforeEach(async () => {
      const store = await open();
      [own, others] = [createAccount(), createAccount()];
      world = await createWorld((worldClock) => store.storageFor(worldClock), {
        providers: [
          createSandboxProvider(),
          { ...own.provider, name: "bank-shop" },
          { ...others.provider, name: "bank-other" },
          { ...createSandboxProvider(), name: "sandbox-other" },
        ],
        providersOf: (merchant) => ({ shop: ["bank-shop"], other: ["bank-other", "sandbox-other"] })[merchant] ?? [],
      });
      gateway = world.gateway;
      close = store.close;
    });
    afterEach(async () => {
      await world.close();
      await close();
    });

    const init = (body: object, headers?: Readonly<Record<string, string>>) =>
      callApi(gateway.handle, "POST", "/api/payment/init", { amount: 500, ...body }, headers);
    const callBack = async (account: string, id: string) =>
      (await gateway.handle(new Request(`https://pay.example/providers/${account}/${id}`, { method: "POST" }))).text();
    const foreign = { "x-api-token": otherToken };

    test("each payment is created, asked about, paid, refunded and cancelled at the account of its merchant only", async () => {
      const idOf = async (headers?: Readonly<Record<string, string>>): Promise<string> =>
        (await init({}, headers)).body.data.transaction_id;
      const [shopPaid, shopCancelled] = [await idOf(), await idOf()];
      const [otherPaid, otherCancelled] = [await idOf(foreign), await idOf(foreign)];
      await passTime(world, 10_000);
      // A callback of the other account books nothing; the same number of a transfer at both is two transfers.
      expect(await callBack("bank-other", shopPaid)).toBe("not_found");
      expect([await callBack("bank-shop", shopPaid), await callBack("bank-other", otherPaid)]).toEqual([
        "booked",
        "booked",
      ]);
      for (const [merchant, paid, cancelled] of [
        ["shop", shopPaid, shopCancelled],
        ["other", otherPaid, otherCancelled],
      ] as const) {
        await gateway.payments.refund({ merchant, id: paid });
        await gateway.payments.cancel(merchant, cancelled);
        expect((await gateway.payments.get(merchant, paid))?.status).toBe("refunded");
        expect((await gateway.payments.get(merchant, cancelled))?.status).toBe("cancelled");
      }
      for (const [{ calls }, paid, cancelled, strangers] of [
        [own, shopPaid, shopCancelled, []],
        [others, otherPaid, otherCancelled, [`callback ${shopPaid}`]],
      ] as const) {
        const expected = [
          ...["start", "state", "callback", "refund"].map((ability) => `${ability} ${paid}`),
          ...["start", "state", "cancel"].map((ability) => `${ability} ${cancelled}`),
          ...strangers,
        ];
        expect(calls.map(([ability, id]) => `${ability} ${id}`).sort()).toEqual(expected.sort());
      }
    });

    test("a provider of another merchant is refused by name, one that was renamed works, and a merchant without any can create nothing", async () => {
      const refused = await init({ provider: "bank-other" });
      expect([refused.status, refused.body.detail]).toEqual([400, "provider is not one of bank-shop"]);
      expect((await init({ provider: "sandbox" })).status).toBe(400);
      const sandbox = (await init({ provider: "sandbox-other" }, foreign)).body.data.transaction_id;
      const pressed = await gateway.handle(
        new Request(`https://pay.example/providers/sandbox-other/${sandbox}`, {
          method: "POST",
          body: new URLSearchParams({ action: "pay" }),
        }),
      );
      expect(pressed.status).toBe(303);
      expect((await gateway.payments.get("other", sandbox))?.status).toBe("paid");
      await expect(gateway.payments.create({ merchant: "third", amountMinor: 100n })).rejects.toThrow(
        "has no provider",
      );
      expect([own.calls, others.calls]).toEqual([[], []]);
    });
  },
);
