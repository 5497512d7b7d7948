import { silentLogger } from "@orderbridge/core";
import fc from "fast-check";
import { expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { createResult2Handler, createResultHandler, createRobokassa } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeCertificate } from "../src/testing/index.ts";
import { demoShop, liveResult } from "./shop-fixture.ts";

// One fixed seed: the same inputs in every run; more of them for the proof.
const isProof = process.env.PROOF === "1";
const runs = { seed: 146, numRuns: isProof ? 50_000 : 500 };
/** A shop is made anew for each input of this one. */
const genuineRuns = { seed: 146, numRuns: isProof ? 10_000 : 500 };
const { certificate } = createFakeCertificate({
  validFrom: new Date("2020-01-01T00:00:00.000Z"),
  validTo: new Date("2049-01-01T00:00:00.000Z"),
});

async function shop() {
  const storage = createRobokassaMemoryStorage({ firstLiveInvId: "146" });
  await storage.orders.create({ id: "order-146", test: false, total: "1000.00", description: "Қалам" });
  const robokassa = createRobokassa(demoShop);
  const shared = { robokassa, storage, logger: silentLogger };
  return {
    robokassa,
    order: () => storage.orders.get("order-146"),
    result: createResultHandler(shared),
    result2: createResult2Handler({ ...shared, certificates: certificate }),
  };
}

const post = (body: Uint8Array<ArrayBuffer> | string): Request =>
  new Request("https://shop.example/result", { method: "POST", body });

test("no sequence of bytes makes a handler fail or pays an order", { timeout: 240_000 }, async () => {
  const { robokassa, result, result2, order } = await shop();
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), async (bytes) => {
      const body = new Uint8Array(bytes);
      expect(robokassa.verifyResult(body).ok).toBe(false);
      expect((await result(post(body))).status).toBe(400);
      expect((await result2(post(body))).status).toBe(400);
    }),
    runs,
  );
  expect((await order())?.status).toBe("new");
});

test("no set of fields under known and hostile names makes a handler fail or pays an order", {
  timeout: 240_000,
}, async () => {
  const { result, order } = await shop();
  const name = fc.constantFrom(
    ..."OutSum out_summ InvId inv_id SignatureValue crc IsTest Shp_a shp_A Shp___proto__ __proto__ constructor OutSum[] Fee".split(
      " ",
    ),
  );
  const value = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("1000.000000", "146", "0".repeat(32), "", "%", "\u0000"),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(name, value), { maxLength: 12 }), async (fields) => {
      const body = fields.map(([key, text]) => `${key}=${encodeURIComponent(text.toWellFormed())}`).join("&");
      expect((await result(post(body))).status).toBe(400);
    }),
    runs,
  );
  expect((await order())?.status).toBe("new");
});

test("one changed character of a genuine notification is refused, or does not concern the payment", {
  timeout: 240_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.nat(liveResult.length - 1),
      fc.constantFrom(..."0123456789ABCDEFabcdef&=+%._"),
      async (index, character) => {
        const { result, order } = await shop();
        const body = liveResult.slice(0, index) + character + liveResult.slice(index + 1);
        const answer = await result(post(body));
        const status = (await order())?.status;
        // Either nothing happened, or the order that was paid is the one that was signed.
        if (answer.status === 200) expect([await answer.text(), status]).toEqual(["OK146", "paid"]);
        else expect([answer.status, status]).toEqual([400, "new"]);
      },
    ),
    genuineRuns,
  );
  recordProof("robokassa-fuzz", {
    "byte sequences": runs.numRuns,
    "sets of fields": runs.numRuns,
    "changed notifications": genuineRuns.numRuns,
    exceptions: 0,
    "paid wrongly": 0,
  });
});
