import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ApiScope, apiScopes } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { callApi, createWorld, otherToken, type World } from "./gateway-harness.ts";
import { stores } from "./stores.ts";

/** What each operation needs, as the README says it. */
const needed: Readonly<Record<string, ApiScope>> = {
  createPayment: "create",
  listPayments: "read",
  getPayment: "read",
  cancelPayment: "create",
  refundPayment: "refund",
  listEvents: "read",
  resendEvent: "create",
  listWebhookEndpoints: "admin",
  addWebhookEndpoint: "admin",
  removeWebhookEndpoint: "admin",
  rotateWebhookSecret: "admin",
  enableWebhookEndpoint: "admin",
  disableWebhookEndpoint: "admin",
  rotateOwnSecret: "admin",
};

interface Operation {
  readonly operationId: string;
  readonly security: readonly { readonly token: readonly string[] }[];
}

test("every route takes tokens with its scope or with admin, no others, and the document says which", async () => {
  const world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
  try {
    const { paths } = (await world.api("GET", "/openapi.json")).body as {
      readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
    };
    const operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })),
    );
    const documented = operations.map(({ operationId, security }) => [operationId, security[0]?.token[0]]);
    expect(Object.fromEntries(documented)).toEqual(needed);
    for (const scope of apiScopes) {
      const { token } = await world.gateway.tokens.create({ merchant: "shop", scopes: [scope] });
      for (const { path, method, operationId } of operations) {
        const answer = await world.api(
          method,
          path.replace("{id}", "unknown"),
          method === "POST" ? { amount: 1 } : undefined,
          { "x-api-token": token },
        );
        const isAllowed = scope === "admin" || needed[operationId] === scope;
        expect([answer.status === 403, answer.body.code === "forbidden"], `${operationId} with ${scope}`).toEqual([
          !isAllowed,
          !isAllowed,
        ]);
        if (!isAllowed) expect(answer.body.detail).toBe(`this token lacks the scope "${needed[operationId]}"`);
      }
    }
    // Tokens of the configuration may do everything but administer, unless it says otherwise.
    expect((await world.api("GET", "/api/webhook-endpoints")).status).toBe(403);
  } finally {
    await world.close();
  }
});

describe.each(stores)("a token on $name", ({ skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let world: World;
    let close: () => Promise<void>;
    beforeEach(async () => {
      const store = await open();
      world = await createWorld(store.storageFor);
      close = async () => {
        await world.close();
        await store.close();
      };
    });
    afterEach(() => close());

    test("is shown once and is refused by every process from the moment it is revoked", async () => {
      const other = world.another();
      const { id, token } = await world.gateway.tokens.create({ merchant: "shop", scopes: ["read"] });
      expect(token).toMatch(/^obk_[A-Za-z0-9_-]{22,}$/);
      expect(JSON.stringify([await world.gateway.tokens.list(), await other.tokens.list()])).not.toContain(token);
      const ask = async (gateway: World["gateway"]) =>
        (await callApi(gateway.handle, "GET", "/api/payments", undefined, { "x-api-token": token })).status;
      // Both have seen it, so one that remembered it would go on.
      expect([await ask(world.gateway), await ask(other)]).toEqual([200, 200]);
      expect(await world.gateway.tokens.revoke(id)).toBe(true);
      expect([await ask(world.gateway), await ask(other)]).toEqual([401, 401]);
      expect(await other.tokens.revoke(id)).toBe(false);
      expect((await world.gateway.tokens.list()).map((record) => record.id)).not.toContain(id);
    });

    test("refunds have keys too: the same body is one refund, also from two processes at once, and one answer once its outcome is known; another body is 422", async () => {
      const { body } = await world.api("POST", "/api/payment/init", { amount: 100 });
      const id = body.data.transaction_id;
      await world.press(id, "pay");
      const other = world.another();
      const refund = (amount: number, index = 0) =>
        callApi(
          (index % 2 ? other : world.gateway).handle,
          "POST",
          `/api/payment/${id}/refund`,
          { amount },
          {
            "idempotency-key": index % 3 ? "refund-1" : '"refund-1"',
          },
        );
      const answers = await Promise.all(Array.from({ length: 12 }, (_, index) => refund(10, index)));
      answers.push(await refund(10, 1));
      expect(new Set(answers.map(({ status, body }) => `${status} ${body.data.refund.id}`)).size).toBe(1);
      expect(answers[0]?.status).toBe(200);
      // Some were told that it is at work; all that were told the outcome got the same bytes.
      const final = answers.filter(({ body }) => body.data.refund.status !== "pending").map(({ text }) => text);
      expect(new Set(final).size).toBe(1);
      expect(final).toContain(answers.at(-1)?.text);
      // The payment changes, the answer does not.
      await world.api("POST", `/api/payment/${id}/refund`, { amount: 20 });
      expect((await refund(10)).text).toBe(final[0]);
      const changed = await refund(11);
      expect([changed.status, changed.body.code]).toEqual([422, "key_reused"]);
      expect((await world.api("GET", `/api/payment/${id}`)).body.data.refunded_amount).toBe("30.00");
    });

    test("a refund that fails after it was answered as pending is shown by its payment and told to who repeats the request", async () => {
      let outcome: "pending" | "failed" | "succeeded" = "pending";
      const gateway = world.another({ providers: [{ ...createSandboxProvider(), refund: async () => outcome }] });
      const { body } = await callApi(gateway.handle, "POST", "/api/payment/init", { amount: 500 });
      const id = body.data.transaction_id;
      await world.press(id, "pay");
      const key = { "idempotency-key": "refund-7" };
      const refund = async () => callApi(gateway.handle, "POST", `/api/payment/${id}/refund`, { amount: 100 }, key);
      const shown = async () => (await callApi(gateway.handle, "GET", `/api/payment/${id}`)).body.data;
      expect((await shown()).refunds).toEqual([]);
      const open = (await refund()).body.data;
      expect([open.refund.status, open.refunding_amount]).toEqual(["pending", "100.00"]);
      expect(await shown()).toMatchObject({ refunding_amount: "100.00", refunds: [open.refund] });
      expect((await refund()).body.data).toEqual(open);

      outcome = "failed";
      world.clock.advance(30_000);
      await gateway.work();
      const failed = { ...open.refund, status: "failed", updated_at: world.clock.now().toISOString() };
      expect(await shown()).toMatchObject({ status: "paid", refunding_amount: "0.00", refunds: [failed] });
      expect((await refund()).body.data.refund).toEqual(failed);

      outcome = "succeeded"; // a new attempt has a key of its own
      await callApi(gateway.handle, "POST", `/api/payment/${id}/refund`, {}, { "idempotency-key": "refund-8" });
      const { refunded_amount, refunds } = await shown();
      expect([refunded_amount, refunds.map(({ status }: { status: string }) => status)]).toEqual([
        "500.00",
        ["failed", "succeeded"],
      ]);
      expect((await refund()).body.data.refund).toEqual(failed);
      const foreign = { "x-api-token": otherToken };
      expect((await callApi(gateway.handle, "GET", `/api/payment/${id}`, undefined, foreign)).status).toBe(404);
      await expect(gateway.payments.refunds("other", id)).rejects.toThrow("no such payment");
    });
  });
});
