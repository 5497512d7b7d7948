import { silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { sql } from "kysely";
import { describe, expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import {
  createReconciler,
  createResult2Handler,
  createResultHandler,
  createRobokassa,
  placeOrder,
} from "../src/index.ts";
import { createRobokassaStorage } from "../src/kysely/index.ts";
import { createFakeCertificate, createFakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

describe.each(testDatabases())("on $name", ({ open, skipped }) => {
  test.skipIf(skipped)(
    "ResultURL, ResultUrl2 and reconcile that race book a payment once, with the shop's own row, and all are answered OK",
    { timeout: 60_000 },
    async () => {
      const { db, dialect, close } = await open();
      try {
        const clock = createFakeClock("2026-11-01T10:00:00.000Z");
        const storage = createRobokassaStorage({ db, dialect, clock });
        await storage.migrate();
        await db.schema.createTable("parcels").addColumn("inv_id", "varchar(64)").execute();
        const certificate = createFakeCertificate({
          validFrom: new Date("2026-06-16T00:00:00.000Z"),
          validTo: new Date("2027-06-16T00:00:00.000Z"),
        });
        const fake = createFakeRobokassa({ ...demoShop, clock, retryDelaysMs: [], certificate });
        const robokassa = createRobokassa({ ...demoShop, clock, fetch: fetchFrom(fake.handle) });
        const parts = {
          robokassa,
          storage,
          clock,
          logger: silentLogger,
          // Two bookings of one payment would leave two rows.
          onPaid: async ({ invId }: { readonly invId: string }, trx: unknown) => {
            await sql`insert into parcels (inv_id) values (${invId})`.execute(trx as typeof db);
          },
        };
        const result = createResultHandler(parts);
        const result2 = createResult2Handler({ ...parts, certificates: fake.certificate });
        const reconciler = createReconciler(parts);

        for (let round = 1; round <= 5; round++) {
          const { order, paymentUrl } = await placeOrder({
            robokassa,
            storage,
            id: `order-${round}`,
            total: "1000.00",
            description: "Қалам",
            resultUrl2: "https://shop.example/result2",
          });
          // The messages are caught on their way, so that all of them can be sent at one moment.
          const caught = new Map<string, string>();
          const sender = createFakeRobokassa({
            ...demoShop,
            clock,
            retryDelaysMs: [],
            resultUrl: "https://shop.example/result",
            deliver: async (request) => {
              caught.set(new URL(request.url).pathname, await request.text());
              return new Response(null, { status: 503 });
            },
            certificate,
          });
          await sender.pay({ url: paymentUrl });
          // Reconcile asks a Robokassa that called nobody.
          await fake.pay({ invId: order.invId, outSum: "1000.00" });
          const post = (path: string): Request =>
            new Request(`https://shop.example${path}`, { method: "POST", body: caught.get(path) as string });
          const answers = await Promise.all([
            result(post("/result")),
            result2(post("/result2")),
            reconciler.check(order),
            result(post("/result")),
            result2(post("/result2")),
            reconciler.check(order),
          ]);
          const told = await Promise.all(
            answers.map((answer) => (answer instanceof Response ? answer.text() : answer.outcome)),
          );
          expect(told.filter((text) => text !== "paid" && text !== "unchanged")).toEqual(
            Array(4).fill(`OK${order.invId}`),
          );
          expect(await storage.orders.get(order.id)).toMatchObject({ status: "paid", opKey: expect.any(String) });
        }
        const rows = await sql<{ inv_id: string }>`select inv_id from parcels order by inv_id`.execute(db);
        expect(rows.rows.map(({ inv_id }) => inv_id)).toEqual(["1", "2", "3", "4", "5"]);
      } finally {
        await close();
      }
    },
  );
});
