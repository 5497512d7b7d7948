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
});
