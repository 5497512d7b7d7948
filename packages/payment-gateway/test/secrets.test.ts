import { silentLogger } from "@orderbridge/core";
import { createCipher } from "@orderbridge/core/kysely";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway, type PaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeReceiver } from "../src/testing/index.ts";

const keyOf = (id: string, fill: number) => `${id}:${Buffer.alloc(32, fill).toString("base64")}`;
const secret = "planted-secret-in-the-clear";

describe.each(testDatabases())("webhook secrets on $name", ({ skipped, open }) => {
  let database: TestDatabase;
  beforeEach(async (context) => {
    if (skipped) context.skip();
    database = await open();
  });
  afterEach(() => database?.close());

  const clock = createFakeClock();
  const start = async (keys: string | undefined): Promise<PaymentGateway> => {
    const storage = createPaymentGatewayStorage({
      ...database,
      clock,
      ...(keys === undefined ? {} : { cipher: createCipher({ keys }) }),
    });
    await storage.migrate();
    return createPaymentGateway({
      storage,
      providers: [createSandboxProvider()],
      publicUrl: "https://pay.example",
      webhooks: { allowAddresses: ["127.0.0.1"] },
      clock,
      logger: silentLogger,
      random: () => 0.5,
    });
  };

  test("with a cipher no secret is in a row in clear; webhooks are signed with it, also after a key was added in front", async () => {
    const receiver = createFakeReceiver({ secrets: [secret], now: () => clock.now().getTime() });
    const listening = await listen(receiver.handle);
    const first = await start(keyOf("a", 1));
    try {
      const { payment } = await first.payments.create({
        merchant: "shop",
        amountMinor: 100n,
        webhookUrl: listening.url,
        webhookSecret: secret,
      });
      const { webhookSecret } = await first.payments.create({
        merchant: "shop",
        amountMinor: 100n,
        webhookUrl: listening.url,
      });
      const rows = await Promise.all(
        ["gateway_payment", "gateway_merchant"].map((table) => database.db.selectFrom(table).selectAll().execute()),
      );
      expect(JSON.stringify(rows)).not.toContain(secret);
      expect(JSON.stringify(rows)).not.toContain(webhookSecret);

      await first.handle(
        new Request(`https://pay.example/providers/sandbox/${payment.id}`, {
          method: "POST",
          body: new URLSearchParams({ action: "pay" }),
        }),
      );
      // A process with other keys cannot sign, so it sends nothing; the next one with the right keys does.
      const wrong = await start(keyOf("x", 9));
      await wrong.work();
      expect(receiver.requests).toHaveLength(0);
      expect((await first.payments.deliveries("shop", payment.id))[0]?.log[0]?.outcome).toBe("no_secret");
      clock.advance(5_000);
      const rotated = await start(`${keyOf("b", 2)},${keyOf("a", 1)}`);
      await rotated.work();
      expect(receiver.accepted).toHaveLength(1);
      await Promise.all([first, wrong, rotated].map((gateway) => gateway.close()));
    } finally {
      await listening.close();
    }
  });

  const press = (gateway: PaymentGateway, id: string) =>
    gateway.handle(
      new Request(`https://pay.example/providers/sandbox/${id}`, {
        method: "POST",
        body: new URLSearchParams({ action: "pay" }),
      }),
    );

  test("a secret that no key opens holds up its own webhook only: lists, money and the payments beside it go on", async () => {
    const receiver = createFakeReceiver({ secrets: [secret], now: () => clock.now().getTime() });
    const listening = await listen(receiver.handle);
    const request = { merchant: "shop", amountMinor: 100n, webhookUrl: listening.url, webhookSecret: secret };
    const first = await start(keyOf("a", 1));
    const lost = [await first.payments.create(request), await first.payments.create(request)].map(
      ({ payment }) => payment.id,
    ) as [string, string];
    const gateway = await start(keyOf("b", 2));
    try {
      const { payment: healthy } = await gateway.payments.create(request);
      expect(await gateway.payments.list("shop")).toHaveLength(3);
      expect((await press(gateway, lost[0])).status).toBe(303);
      clock.advance(3_600_000);
      await gateway.work();
      const statuses = await Promise.all([...lost, healthy.id].map((id) => gateway.payments.get("shop", id)));
      expect(statuses.map((payment) => payment?.status)).toEqual(["paid", "expired", "expired"]);
      expect(receiver.accepted.map(({ body }) => JSON.parse(body).transaction_id)).toEqual([healthy.id]);
      expect((await gateway.payments.deliveries("shop", lost[0]))[0]?.log[0]?.outcome).toBe("no_secret");
      await Promise.all([first, gateway].map((one) => one.close()));
    } finally {
      await listening.close();
    }
  });

  test("after reencrypt the old key may go: webhooks of payments, merchants and endpoints are signed as before", async () => {
    const receiver = createFakeReceiver({ secrets: [secret], now: () => clock.now().getTime() });
    const listening = await listen(receiver.handle);
    const merchant = "shop";
    const first = await start(keyOf("a", 1));
    await first.secrets.rotate({ merchant, secret: "a former secret", overlapMs: 86_400_000 });
    await first.secrets.rotate({ merchant, secret, overlapMs: 86_400_000 });
    await first.endpoints.add({ merchant, url: `${listening.url}/all`, secret });
    const request = { merchant, amountMinor: 100n, webhookUrl: listening.url };
    const own = (await first.payments.create({ ...request, webhookSecret: secret })).payment.id;
    const shared = (await first.payments.create(request)).payment.id;
    const storageWith = (keys: string) =>
      createPaymentGatewayStorage({ ...database, clock, cipher: createCipher({ keys }) });
    const gateway = await start(keyOf("b", 2));
    try {
      const lost = await storageWith(keyOf("b", 2)).reencrypt();
      expect(lost).toMatchObject({ changed: 0, unreadable: 4, problem: expect.stringContaining('the key "a"') });
      const both = storageWith(`${keyOf("b", 2)},${keyOf("a", 1)}`);
      expect(await both.reencrypt()).toEqual({ changed: 4, unreadable: 0 });
      expect(await both.reencrypt()).toEqual({ changed: 0, unreadable: 0 });
      for (const id of [own, shared]) await press(gateway, id);
      await gateway.work();
      expect(receiver.requests.map(({ status }) => status)).toEqual([204, 204, 204, 204]); // addresses, and the endpoint
      const signatures = receiver.requests.map(({ headers }) => headers["webhook-signature"]?.split(" ").length);
      expect(signatures.sort()).toEqual([1, 1, 1, 2]);
      await expect(createPaymentGatewayStorage({ ...database, clock }).reencrypt()).rejects.toThrow("encryption keys");
      await Promise.all([first, gateway].map((one) => one.close()));
    } finally {
      await listening.close();
    }
  });
});
