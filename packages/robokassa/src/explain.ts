import { verifyDigest } from "@orderbridge/core/signature";
import { type NotificationFields, type ReceivedFields, readFields } from "./notification.ts";
import type { Shop } from "./shop.ts";
import { decodeShpValue, type ShpPair, sortShp } from "./shp.ts";
import { type Algorithm, algorithms, signatureBase } from "./signature.ts";

/** How a refused signature was made after all: what differs from the rule says what is set up wrongly. */
export interface SignatureFit {
  readonly password: "password2" | "password1" | "testPassword2" | "testPassword1";
  readonly algorithm: Algorithm;
  /** `received` is right; the others fit only after the sum was rewritten. */
  readonly sum: "received" | "two_decimals" | "six_decimals" | "shortest";
  /** `received` is right; the others fit only after the `Shp_` fields were sorted, coded or dropped. */
  readonly shp: "received" | "other_order" | "arrival_order" | "decoded" | "encoded" | "dropped";
}

/** Vendor's limit for `Shp_` fields; longer ones are not replayed, so that a stranger cannot keep us hashing. */
const maxShpLength = 2048;

/**
 * Tries a notification against every password, algorithm, form of the sum and treatment of `Shp_` fields, the smallest
 * deviation from the rule first. `undefined` when nothing fits: password 2 is another one, or the sender is.
 */
export function explainResult(shop: Shop, input: NotificationFields): SignatureFit | undefined {
  const received = readFields(input);
  return received.ok ? explainFields(shop, received) : undefined;
}

function explainFields(shop: Shop, { values, shp }: ReceivedFields): SignatureFit | undefined {
  if (shp.reduce((length, [name, value]) => length + name.length + value.length, 0) > maxShpLength) return undefined;
  const outSum = values.get("OutSum") ?? "";
  const invId = values.get("InvId") ?? "";
  const digest = values.get("SignatureValue");
  const passwords = passwordChoices(shop);
  const sums = sumChoices(outSum);
  const shps = shpChoices(shp);
  const digests: readonly Algorithm[] = [shop.algorithm, ...algorithms.filter((name) => name !== shop.algorithm)];

  let best: { readonly fit: SignatureFit; readonly deviations: number } | undefined;
  for (const [passwordIndex, [password, secret]] of passwords.entries()) {
    for (const [sumIndex, [sum, sumText]] of sums.entries()) {
      for (const [shpIndex, [shpChoice, shpTexts]] of shps.entries()) {
        const text = signatureBase([sumText, invId, secret], shpTexts);
        for (const [algorithmIndex, algorithm] of digests.entries()) {
          const deviations = [passwordIndex, sumIndex, shpIndex, algorithmIndex].filter((index) => index > 0).length;
          if (best && best.deviations <= deviations) continue;
          if (!verifyDigest({ algorithm, text, digest }).ok) continue;
          best = { fit: { password, algorithm, sum, shp: shpChoice }, deviations };
        }
      }
    }
  }
  return best?.fit;
}

function passwordChoices({ live, try: test }: Shop): readonly (readonly [SignatureFit["password"], string])[] {
  return [
    ["password2", live.password2],
    ...(test ? [["testPassword2", test.password2] as const] : []),
    ["password1", live.password1],
    ...(test ? [["testPassword1", test.password1] as const] : []),
  ];
}

function sumChoices(outSum: string): readonly (readonly [SignatureFit["sum"], string])[] {
  const [whole = "0", fraction = ""] = outSum.split(".");
  const shortest = fraction.replace(/0+$/, "");
  const choices: readonly (readonly [SignatureFit["sum"], string])[] = [
    ["received", outSum],
    ["two_decimals", `${whole}.${fraction.padEnd(2, "0").slice(0, 2)}`],
    ["six_decimals", `${whole}.${fraction.padEnd(6, "0")}`],
    ["shortest", shortest === "" ? whole : `${whole}.${shortest}`],
  ];
  return choices.filter(([, text], index) => choices.findIndex(([, other]) => other === text) === index);
}

function shpChoices(shp: readonly ShpPair[]): readonly (readonly [SignatureFit["shp"], readonly string[]])[] {
  const recoded = (change: (value: string) => string): readonly string[] =>
    sortShp(
      shp.map(([name, value]) => [name, change(value)] as const),
      "name",
    );
  const choices: readonly (readonly [SignatureFit["shp"], readonly string[]])[] = [
    ["received", sortShp(shp, "name")],
    ["other_order", sortShp(shp, "pair")],
    ["arrival_order", shp.map((pair) => pair.join("="))],
    ["decoded", recoded(decodeShpValue)],
    ["encoded", recoded((value) => encodeURIComponent(value.toWellFormed()))],
    ["dropped", []],
  ];
  const key = (texts: readonly string[]): string => JSON.stringify(texts);
  return choices.filter(([, texts], index) => choices.findIndex(([, other]) => key(other) === key(texts)) === index);
}

/**
 * What was hashed, with the password's name in its place: safe for a support ticket.
 * `1000.000000:146:[password2]:Shp_user=5`
 */
export function traceResult(input: NotificationFields): string | undefined {
  const received = readFields(input);
  if (!received.ok) return undefined;
  const { values, shp } = received;
  return signatureBase([values.get("OutSum"), values.get("InvId"), "[password2]"], sortShp(shp, "name"));
}
