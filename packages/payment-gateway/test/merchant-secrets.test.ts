import { createHmac } from "node:crypto";
import { listen } from "@orderbridge/core/testing";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { callApi, createWorld, shopSecret, type World } from "./gateway-harness.ts";
import { stores } from "./stores.ts";

describe.each(stores)("a merchant's own secret on $name", ({ skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let world: World;
    let admin: Readonly<Record<string, string>>;
    let close: () => Promise<void>;
    /** What arrived, and how many answers are to be held back. */
    const arrived: { readonly headers: Headers; readonly body: string }[] = [];
    let hold: Promise<void> | undefined;
    let url: string;
    beforeEach(async () => {
      arrived.length = 0;
      hold = undefined;
      const store = await open();
      world = await createWorld(store.storageFor);
      const receiving = await listen(async (request) => {
        arrived.push({ headers: request.headers, body: await request.text() });
        await hold;
        return new Response(null, { status: arrived.length === 1 ? 500 : 204 });
      });
      url = `${receiving.url}/hook`;
      admin = { "x-api-token": (await world.gateway.tokens.create({ merchant: "shop", scopes: ["admin"] })).token };
      close = async () => {
        await world.close();
        await receiving.close();
        await store.close();
      };
    });
    afterEach(() => close());

    const create = async (fields: object = {}, headers: Readonly<Record<string, string>> = {}) =>
      (await world.api("POST", "/api/payment/init", { amount: 5, webhook_url: url, ...fields }, headers)).body.data;
    const rotate = (body: object, handle = world.gateway.handle) =>
      callApi(handle, "POST", "/api/webhook-secret/rotate", body, admin);

    /** The signatures of the last one that arrived are those that another library makes with these secrets, in order. */
    function expectSignedBy(...secrets: readonly string[]): void {
      const { headers, body } = arrived.at(-1) as (typeof arrived)[number];
      const [id = "", timestamp = ""] = ["webhook-id", "webhook-timestamp"].map((name) => headers.get(name) ?? "");
      const expected = secrets.map((secret) => new Webhook(secret).sign(id, new Date(Number(timestamp) * 1000), body));
      expect(headers.get("webhook-signature")?.split(" ")).toEqual(expected);
    }

    test("is replaced with an overlap: both sign, also a repeated try of an older event; the former one ends at its time", async () => {
      const key = { "idempotency-key": "order-1" };
      const { transaction_id: id, webhook_secret: former } = await create({}, key);
      await world.press(id, "pay_part", "1");
      await world.gateway.work(); // answered 500
      expectSignedBy(former);

      const text = "Құпия сөз + 100%";
      const { status, body } = await rotate({ secret: text, overlap: 3_600 });
      const { secret: next, overlap } = body.data;
      expect([status, overlap, next]).toEqual([200, 3_600, `whsec_${Buffer.from(text).toString("base64")}`]);
      expect(arrived).toHaveLength(1);
      world.clock.advance(5_000);
      await world.gateway.work();
      expectSignedBy(next, former);
      expect(arrived[1]?.body).toBe(arrived[0]?.body);
      expect(arrived[1]?.headers.get("webhook-id")).toBe(arrived[0]?.headers.get("webhook-id"));
      // The older header holds one signature, of the new secret's text.
      const older = createHmac("sha256", text)
        .update(arrived[1]?.body ?? "")
        .digest("hex");
      expect(arrived[1]?.headers.get("x-webhook-signature")).toBe(older);
      // New payments are told the new one, and so is whoever repeats the creation of an old one.
      expect((await create()).webhook_secret).toBe(next);
      expect(await create({}, key)).toMatchObject({ transaction_id: id, webhook_secret: next });

      world.clock.advance(3_595_000 - 1);
      await world.press(id, "pay_part", "1");
      await world.gateway.work();
      expectSignedBy(next, former);
      world.clock.advance(1);
      await world.press(id, "pay_part", "1");
      await world.gateway.work();
      expectSignedBy(next);
    });

    test("while a try is under way it ends as it began, and is not repeated", async () => {
      arrived.push({ headers: new Headers(), body: "" }); // so that 204 is answered
      const { transaction_id: id, webhook_secret: former } = await create();
      await world.press(id, "pay");
      const { promise, resolve } = Promise.withResolvers<void>();
      hold = promise;
      const working = world.gateway.work();
      await expect.poll(() => arrived.length).toBe(2);
      const { body } = await rotate({});
      resolve();
      await working;
      expectSignedBy(former);
      await world.api("POST", `/api/payment/${id}/refund`, {});
      await world.gateway.work();
      expect(arrived).toHaveLength(3);
      expectSignedBy(body.data.secret, former);
    });

    test("ends at once with overlap 0; payments and endpoints with secrets of their own keep these", async () => {
      arrived.push({ headers: new Headers(), body: "" });
      const { transaction_id: id } = await create();
      const own = await create({ webhook_secret: shopSecret });
      const leaked = (await rotate({})).body.data.secret;
      const { body } = await rotate({ overlap: 0 });
      expect(body.data.secret).not.toBe(leaked);
      await world.press(id, "pay");
      await world.gateway.work();
      expectSignedBy(body.data.secret);
      await world.press(own.transaction_id, "pay");
      await world.gateway.work();
      expectSignedBy(`whsec_${Buffer.from(shopSecret).toString("base64")}`);
    });

    test("eight replacements from two processes at once, with webhooks between them: each one that was answered signs", async () => {
      arrived.push({ headers: new Headers(), body: "" });
      const first = (await create()).webhook_secret;
      const other = world.another();
      const ids: string[] = [];
      for (let index = 0; index < 6; index++) ids.push((await create()).transaction_id);
      const answers = await Promise.all([
        ...Array.from({ length: 8 }, (_, index) => rotate({}, index % 2 ? other.handle : world.gateway.handle)),
        ...ids.map((id) => world.press(id, "pay")),
        world.gateway.work(),
        other.work(),
      ]);
      const secrets = answers
        .slice(0, 8)
        .map((answer) => (answer as Awaited<ReturnType<typeof rotate>>).body.data.secret);
      await world.gateway.work();
      // None went out unsigned, or signed by what was never a secret.
      const known = [first, ...secrets];
      expect(arrived.slice(1)).toHaveLength(ids.length);
      for (const { headers, body } of arrived.slice(1)) {
        const at = new Date(Number(headers.get("webhook-timestamp")) * 1000);
        const possible = known.map((secret) => new Webhook(secret).sign(headers.get("webhook-id") ?? "", at, body));
        const signatures = headers.get("webhook-signature")?.split(" ") ?? [];
        expect(signatures.length).toBeGreaterThan(0);
        expect(signatures.every((signature) => possible.includes(signature))).toBe(true);
      }
      const { transaction_id: last, webhook_secret: newest } = await create();
      await world.press(last, "pay");
      await world.gateway.work();
      const { headers, body } = arrived.at(-1) as (typeof arrived)[number];
      const at = new Date(Number(headers.get("webhook-timestamp")) * 1000);
      const signatures = headers.get("webhook-signature")?.split(" ") ?? [];
      const sign = (secret: string) => new Webhook(secret).sign(headers.get("webhook-id") ?? "", at, body);
      expect(signatures.toSorted()).toEqual(known.map(sign).sort());
      expect(signatures[0]).toBe(sign(newest));
      expect(secrets).toContain(newest);
      // With one more there are ten; the next must wait, and the answer says for what.
      expect((await rotate({})).status).toBe(200);
      const refused = await rotate({});
      expect([refused.status, refused.body.detail]).toEqual([409, expect.stringMatching(/^ten secrets are in force/)]);
    });
  });
});
