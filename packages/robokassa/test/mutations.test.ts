import { createHash } from "node:crypto";
import { silentLogger } from "@orderbridge/core";
import { createFakeClock, fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { type Algorithm, createResultHandler, createRobokassa, diagnose, placeOrder } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

/** A genuine notification of order 146, as Robokassa sends it. */
interface Genuine {
  readonly algorithm: Algorithm;
  readonly test: boolean;
  /** As hashed and sent, in their order. */
  readonly shp: readonly (readonly [string, string])[];
}

const someShp = [
  ["Shp_cart", "77"],
  ["Shp_name", "%D0%90%20%2B%201"],
] as const;

const genuine: readonly Genuine[] = [
  { algorithm: "md5", test: false, shp: [] },
  { algorithm: "md5", test: false, shp: someShp },
  { algorithm: "sha256", test: false, shp: [] },
  { algorithm: "sha512", test: false, shp: someShp },
  { algorithm: "ripemd160", test: false, shp: someShp },
  { algorithm: "md5", test: true, shp: [] },
  { algorithm: "sha1", test: true, shp: someShp },
  { algorithm: "sha384", test: true, shp: [] },
];

const password = ({ test }: Genuine, number: 1 | 2): string =>
  demoShop[`${test ? "testPassword" : "password"}${number}`];
const sumOf = ({ test }: Genuine, whole = "1000"): string => `${whole}.${test ? "00" : "000000"}`;

/** The form, signed over other things where `change` says so. */
function form(
  one: Genuine,
  change: { secret?: string; algorithm?: Algorithm; outSum?: string; invId?: string } = {},
): URLSearchParams {
  const { secret = password(one, 2), algorithm = one.algorithm, outSum = sumOf(one), invId = "146" } = change;
  const base = [outSum, invId, secret, ...one.shp.map((pair) => pair.join("="))].join(":");
  const signature = createHash(algorithm).update(base).digest("hex").toUpperCase();
  return new URLSearchParams([
    ["out_summ", outSum],
    ["OutSum", outSum],
    ["inv_id", invId],
    ["InvId", invId],
    ["crc", signature],
    ["SignatureValue", signature],
    ["EMail", "buyer@example.com"],
    ...one.shp.map(([name, value]): [string, string] => [name, value]),
  ]);
}

const signatureOf = (one: Genuine): string => form(one).get("SignatureValue") as string;

function set(one: Genuine, values: Readonly<Record<string, string | undefined>>): URLSearchParams {
  const changed = form(one);
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) changed.delete(name);
    else changed.set(name, value);
  }
  return changed;
}

/** One change on the way or at the sender, and the cause that must be named. */
const mutations: readonly (readonly [
  string,
  (one: Genuine) => URLSearchParams,
  string | ((one: Genuine) => string),
])[] = [
  [
    "one digit of the signature changed",
    (one) => {
      const bad = signatureOf(one).replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
      return set(one, { crc: bad, SignatureValue: bad });
    },
    "signature_unknown",
  ],
  [
    "the sum in the other number of decimals",
    (one) => {
      const sum = one.test ? "1000.000000" : "1000.00";
      return set(one, { out_summ: sum, OutSum: sum });
    },
    "sum_rewritten",
  ],
  ["the sum as a whole number", (one) => set(one, { out_summ: "1000", OutSum: "1000" }), "sum_rewritten"],
  ["another sum", (one) => set(one, { out_summ: "900.00", OutSum: "900.00" }), "sum_rewritten"],
  ["two sums", (one) => set(one, { OutSum: "1.00" }), "notification_malformed"],
  ["a sum with a comma", (one) => set(one, { out_summ: "1000,00", OutSum: "1000,00" }), "notification_malformed"],
  ["no sum", (one) => set(one, { out_summ: undefined, OutSum: undefined }), "notification_malformed"],
  ["another InvId", (one) => set(one, { inv_id: "147", InvId: "147" }), "inv_id_rewritten"],
  ["two InvIds", (one) => set(one, { inv_id: "147" }), "notification_malformed"],
  ["no InvId", (one) => set(one, { inv_id: undefined, InvId: undefined }), "notification_malformed"],
  ["no signature", (one) => set(one, { crc: undefined, SignatureValue: undefined }), "notification_malformed"],
  [
    "half a signature",
    (one) => {
      const half = signatureOf(one).slice(0, 20);
      return set(one, { crc: half, SignatureValue: half });
    },
    "notification_malformed",
  ],
  ["signed with password 1", (one) => form(one, { secret: password(one, 1) }), "password1_used"],
  [
    "signed with the other pair",
    (one) => form(one, { secret: password({ ...one, test: !one.test }, 2) }),
    ({ test }) => (test ? "live_payment" : "test_payment"),
  ],
  [
    "signed with another algorithm",
    (one) => form(one, { algorithm: one.algorithm === "sha256" ? "md5" : "sha256" }),
    "algorithm_differs",
  ],
  ["signed over another sum", (one) => form(one, { outSum: sumOf(one, "900") }), "amount_differs"],
  [
    "a Shp_ field more",
    (one) => set(one, { Shp_zebra: "1" }),
    ({ shp }) => (shp.length === 0 ? "shp_dropped" : "shp_rewritten"),
  ],
  ["a currency", (one) => set(one, { OutSumCurrency: "USD" }), "currency_differs"],
  [
    "a body that is JSON",
    (one) => new URLSearchParams(JSON.stringify(Object.fromEntries(form(one)))),
    "notification_malformed",
  ],
  ["an empty body", () => new URLSearchParams(), "notification_malformed"],
];

const shpMutations: typeof mutations = [
  ["all Shp_ fields lost", (one) => set(one, { Shp_cart: undefined, Shp_name: undefined }), "shp_rewritten"],
  ["one Shp_ field lost", (one) => set(one, { Shp_cart: undefined }), "shp_rewritten"],
  ["a Shp_ value changed", (one) => set(one, { Shp_cart: "78" }), "shp_rewritten"],
  ["a Shp_ value decoded once more", (one) => set(one, { Shp_name: "А + 1" }), "shp_encoding"],
  ["a Shp_ value encoded once more", (one) => set(one, { Shp_name: "%25D0%2590%2520%252B%25201" }), "shp_encoding"],
];

/** Delivers the form to the shop's handler, then asks why order 146 is not paid. */
async function diagnoseAfter(one: Genuine, body: URLSearchParams) {
  const clock = createFakeClock("2026-11-01T10:00:00.000Z");
  const { algorithm } = one;
  const fake = createFakeRobokassa({ ...demoShop, algorithm, clock });
  const robokassa = createRobokassa({ ...demoShop, algorithm, clock, fetch: fetchFrom(fake.handle) });
  const ranges = one.test ? { firstTestInvId: "146" } : { firstLiveInvId: "146" };
  const storage = createRobokassaMemoryStorage({ clock, ...ranges });
  const shp = Object.fromEntries(one.shp.map(([name, value]) => [name, decodeURIComponent(value)]));
  await placeOrder({ robokassa, storage, id: "A", total: "1000.00", description: "Қалам", test: one.test, shp });
  await fake.pay({ invId: "146", outSum: "1000.00", test: one.test }); // nobody is called: no Result URL is set
  const handle = createResultHandler({ robokassa, storage, clock, logger: silentLogger });
  const answer = await handle(new Request("https://shop.example/result", { method: "POST", body: body.toString() }));
  const order = await storage.orders.get("A");
  return {
    status: answer.status,
    paid: order?.status,
    diagnosis: await diagnose({ robokassa, storage, clock, order: "146" }),
  };
}

describe.each(genuine)("a notification with $algorithm, test $test, fields $shp", (one) => {
  test("is accepted as it is", async () => {
    expect(await diagnoseAfter(one, form(one))).toMatchObject({
      status: 200,
      paid: "paid",
      diagnosis: { code: "paid" },
    });
  });

  test.each([...mutations, ...(one.shp.length > 0 ? shpMutations : [])])(
    "changed to %s, is refused for the named cause",
    async (_name, mutate, expected) => {
      const { status, paid, diagnosis } = await diagnoseAfter(one, mutate(one));
      expect([diagnosis.code, diagnosis.exitCode]).toEqual([
        typeof expected === "string" ? expected : expected(one),
        1,
      ]);
      expect([status >= 400, paid]).toEqual([true, "new"]);
      for (const secret of Object.values(demoShop).slice(1)) expect(JSON.stringify(diagnosis)).not.toContain(secret);
    },
  );
});
