// What one merchant, or a secret, must never reach: another merchant, a log, an error, a page, a row in clear.
import type { Logger } from "@orderbridge/core";
import { createCipher } from "@orderbridge/core/kysely";
import { createFakeClock, type Listening, listen } from "@orderbridge/core/testing";
import { sql } from "kysely";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway, type PaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeReceiver } from "../src/testing/index.ts";
import { type Answer, callApi } from "./gateway-harness.ts";

const planted = {
  token: "planted-token-of-shop-0123456789",
  otherToken: "planted-token-of-other-0123456789",
  webhookSecret: "planted-webhook-secret",
  endpointSecret: "planted-endpoint-secret",
  nextSecret: "planted-rotated-secret",
  ownSecret: "planted-own-secret",
  nextOwnSecret: "planted-own-secret-rotated",
  password: "planted-admin-password",
  sessionSecret: "planted-session-secret-of-32-characters",
};

describe.each(testDatabases())("merchants on $name", ({ skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let database: TestDatabase;
    let gateway: PaymentGateway;
    let receiving: Listening;
    const clock = createFakeClock();
    const receiver = createFakeReceiver({ secrets: [planted.webhookSecret], now: () => clock.now().getTime() });
    const log: string[] = [];
    const write = (message: string, fields?: object) => log.push(JSON.stringify({ message, fields }));
    const logger: Logger = { debug: write, info: write, warn: write, error: write };
    let shop: string;
    let other: string;
    const call = (token: string, method: string, path: string, body?: unknown): Promise<Answer> =>
      callApi(gateway.handle, method, path, body, { "x-api-token": token });
    beforeEach(async () => {
      log.length = 0;
      database = await open();
      receiving = await listen(receiver.handle);
      const storage = createPaymentGatewayStorage({
        ...database,
        clock,
        cipher: createCipher({ keys: `a:${Buffer.alloc(32, 1).toString("base64")}` }),
      });
      await storage.migrate();
      gateway = createPaymentGateway({
        storage,
        providers: [createSandboxProvider()],
        publicUrl: "https://pay.example",
        tokens: [
          { merchant: "shop", token: planted.token },
          { merchant: "other", token: planted.otherToken },
        ],
        admin: { password: planted.password, sessionSecret: planted.sessionSecret },
        webhooks: { allowAddresses: ["127.0.0.1"] },
        retryDelaysMs: [],
        clock,
        logger,
      });
      const admin = async (merchant: string) =>
        (await gateway.tokens.create({ merchant, scopes: ["create", "read", "refund", "admin"] })).token;
      [shop, other] = [await admin("shop"), await admin("other")];
    });
    afterEach(async () => {
      await gateway.close();
      await receiving.close();
      await database.close();
    });

    /** One of everything that has an id, of the first merchant. */
    async function makeThings() {
      const created = await call(shop, "POST", "/api/payment/init", {
        amount: 500,
        webhook_url: `${receiving.url}/hook`,
        webhook_secret: planted.webhookSecret,
        description: "of the shop",
        metadata: { order: "of the shop" },
      });
      const payment = created.body.data.transaction_id as string;
      const endpoint = (
        await call(shop, "POST", "/api/webhook-endpoints", {
          url: `${receiving.url}/all`,
          secret: planted.endpointSecret,
        })
      ).body.data.id as string;
      await gateway.handle(
        new Request(`https://pay.example/providers/sandbox/${payment}`, {
          method: "POST",
          body: new URLSearchParams({ action: "pay" }),
        }),
      );
      const event = (await call(shop, "GET", "/api/events")).body.data.events[0].id as string;
      return { payment, endpoint, event };
    }

    test("with two merchants no route of the API crosses: not by id, not in a list", async () => {
      const { payment, endpoint, event } = await makeThings();
      const { paths } = (await call(shop, "GET", "/openapi.json")).body as {
        readonly paths: Readonly<Record<string, object>>;
      };
      let byId = 0;
      for (const [path, operations] of Object.entries(paths)) {
        for (const method of Object.keys(operations)) {
          if (!path.includes("{id}")) continue;
          byId++;
          const id = path.includes("webhook-endpoints") ? endpoint : path.includes("/events/") ? event : payment;
          const answer = await call(
            other,
            method.toUpperCase(),
            path.replace("{id}", id),
            method === "get" ? undefined : {},
          );
          expect([answer.status, answer.body.code], `${method} ${path}`).toEqual([404, "not_found"]);
        }
      }
      expect(byId).toBeGreaterThanOrEqual(8);
      for (const path of [
        "/api/payments",
        "/api/events",
        "/api/webhook-endpoints",
        "/api/payments?search=of the shop",
      ]) {
        const { data } = (await call(other, "GET", path)).body;
        expect(data.payments ?? data.events ?? data.endpoints, path).toEqual([]);
      }
      // What the other one tried has changed nothing.
      expect((await call(shop, "GET", `/api/payment/${payment}`)).body.data.status).toBe("paid");
      expect((await call(shop, "GET", "/api/webhook-endpoints")).body.data.endpoints).toMatchObject([
        { state: "enabled" },
      ]);
      const ownSecret = async (token: string) =>
        (await call(token, "POST", "/api/payment/init", { amount: 1, webhook_url: receiving.url })).body.data
          .webhook_secret;
      const before = await ownSecret(shop);
      const { data: rotated } = (await call(other, "POST", "/api/webhook-secret/rotate", {})).body;
      expect([await ownSecret(shop), await ownSecret(other)]).toEqual([before, rotated.secret]);
      // An event of one goes to no endpoint of the other.
      await call(other, "POST", "/api/webhook-endpoints", {
        url: `${receiving.url}/other`,
        secret: planted.endpointSecret,
      });
      await call(shop, "POST", `/api/payment/${payment}/refund`, {});
      expect(await gateway.payments.deliveries("shop", payment)).toHaveLength(4); // two events, two targets of the shop
    });

    test("a search for characters that no database stores is answered", async () => {
      await makeThings();
      expect((await call(shop, "GET", "/api/payments?search=%00")).body.errors[0].pointer).toBe("#/search");
      const login = await gateway.handle(
        new Request("https://pay.example/admin/login", {
          method: "POST",
          body: new URLSearchParams({ password: planted.password }),
        }),
      );
      const cookie = login.headers.get("set-cookie")?.split(";")[0] ?? "";
      for (const query of ["q=%00", "q=%00of+the+shop", "merchant=shop%00"]) {
        const page = await gateway.handle(new Request(`https://pay.example/admin?${query}`, { headers: { cookie } }));
        expect([page.status, (await page.text()).includes("of the shop")], query).toEqual([200, true]);
      }
    });

    test("planted secrets are in no log, no answer, no page and no row in clear", async () => {
      const { payment, endpoint, event } = await makeThings();
      receiver.failNext(100);
      await gateway.work(); // failures are logged
      await call(shop, "POST", `/api/webhook-endpoints/${endpoint}/rotate`, { secret: planted.nextSecret });
      for (const secret of [planted.ownSecret, planted.nextOwnSecret]) {
        await call(shop, "POST", "/api/webhook-secret/rotate", { secret });
      }
      const answers = [
        await call("planted-token-that-is-wrong", "GET", "/api/payments"),
        await call(shop, "GET", `/api/payment/${payment}`),
        await call(shop, "GET", "/api/payments"),
        await call(shop, "GET", "/api/events"),
        await call(shop, "GET", "/api/webhook-endpoints"),
        await call(shop, "POST", `/api/events/${event}/resend`),
        await call(shop, "POST", "/api/payment/init", {
          amount: 1,
          webhook_url: "no",
          webhook_secret: planted.webhookSecret,
        }),
        await call(shop, "POST", "/api/payment/init", `{"webhook_secret": "${planted.webhookSecret}", `),
      ];
      const login = await gateway.handle(
        new Request("https://pay.example/admin/login", {
          method: "POST",
          headers: { "content-type": "application/x-www-form-urlencoded", origin: "https://pay.example" },
          body: new URLSearchParams({ password: planted.password }),
        }),
      );
      const cookie = login.headers.get("set-cookie")?.split(";")[0] ?? "";
      const pages = await Promise.all(
        [`/pay/${payment}`, "/docs", "/openapi.json", "/admin", `/admin/payments/${payment}`, "/admin/health"].map(
          async (path) =>
            (await gateway.handle(new Request(`https://pay.example${path}`, { headers: { cookie } }))).text(),
        ),
      );
      expect(pages[4]).toContain(payment); // the detail was shown, not the login
      // A storage that fails says so without what it was asked to store.
      await sql`drop table gateway_event`.execute(database.db);
      answers.push(await call(shop, "POST", `/api/payment/${payment}/refund`, {}));
      expect(answers.at(-1)?.status).toBe(500);
      const tables = [
        "payment",
        "merchant",
        "endpoint",
        "endpoint_secret",
        "token",
        "delivery",
        "delivery_attempt",
        "idempotency",
      ];
      const rows = await Promise.all(
        tables.map((table) => database.db.selectFrom(`gateway_${table}`).selectAll().execute()),
      );
      expect(rows.flat().length).toBeGreaterThan(5);
      const [merchant] = rows[tables.indexOf("merchant")] ?? [];
      expect([merchant?.webhook_secret, JSON.parse(merchant?.former_secrets)[0].secret]).toEqual([
        expect.stringMatching(/^enc1\./),
        expect.stringMatching(/^enc1\./),
      ]);
      const everything = [...log, ...answers.map(({ text }) => text), ...pages, JSON.stringify(rows)].join("\n");
      expect(log.length).toBeGreaterThan(0);
      for (const secret of [...Object.values(planted), shop, other]) {
        expect(everything.includes(secret), secret.slice(0, 24)).toBe(false);
        // Nor in the form that Standard Webhooks libraries take.
        expect(everything.includes(Buffer.from(secret).toString("base64").replace(/=+$/, ""))).toBe(false);
      }
    });
  });
});
