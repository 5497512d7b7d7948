import { verifyDigest } from "@orderbridge/core/signature";
import { isReceivedAmount } from "./amount.ts";
import type { PasswordPair, Shop } from "./shop.ts";
import { decodeShpValue, type ShpOrder, type ShpPair, sortShp } from "./shp.ts";
import { signatureBase } from "./signature.ts";

/** Fields of a notification: the query or body as text or bytes, or read already (values must be decoded once only). */
export type NotificationFields = string | Uint8Array | URLSearchParams;

/** What Robokassa said about a payment, after the signature fitted. */
export interface Notification {
  readonly invId: string;
  /** As received: `1000.000000` live, `1000.00` in tests. Compare as a decimal, never as text. */
  readonly outSum: string;
  /** The password that fitted decides, not the field `IsTest`. */
  readonly test: boolean;
  /** `Shp_` fields by their names as received, decoded. */
  readonly shp: Readonly<Record<string, string>>;
  /** In which order the `Shp_` fields were hashed, where the two orders differ: worth telling Robokassa's support. */
  readonly shpOrder: ShpOrder | undefined;
  /** Currency of `outSum`, where Robokassa names it. */
  readonly outSumCurrency: string | undefined;
  readonly paymentMethod: string | undefined;
  readonly incCurrLabel: string | undefined;
  /** What the buyer paid, surcharges included. */
  readonly incSum: string | undefined;
  /** Commission: the shop receives `outSum` less this. */
  readonly fee: string | undefined;
  /** Buyer's address; empty in tests. Personal data. */
  readonly email: string | undefined;
}

export type RefusedNotification = {
  readonly ok: false;
  readonly reason: /** A needed field is not there: `field`. */
    | "missing_field"
    /** A field is not of its form: `field`. */
    | "malformed_field"
    /** The two spellings of a field, or two copies of it, differ: `field`. */
    | "conflicting_fields"
    | "too_many_fields"
    | "bad_signature";
  readonly field?: string;
};

export type Verification = { readonly ok: true; readonly notification: Notification } | RefusedNotification;

/** Each value comes under a modern and an old name; names are matched without regard to case. */
const spellings: ReadonlyMap<string, string> = new Map(
  Object.entries({
    outsum: "OutSum",
    out_summ: "OutSum",
    invid: "InvId",
    inv_id: "InvId",
    signaturevalue: "SignatureValue",
    crc: "SignatureValue",
    paymentmethod: "PaymentMethod",
    inccurrlabel: "IncCurrLabel",
    incsum: "IncSum",
    fee: "Fee",
    email: "EMail",
    istest: "IsTest",
    outsumcurrency: "OutSumCurrency",
  }),
);

/** What was received, before any signature was looked at. */
export interface ReceivedFields {
  readonly values: ReadonlyMap<string, string>;
  /** Every `Shp_` field, in the order of arrival, values as hashed. */
  readonly shp: readonly ShpPair[];
}

/** Reads the fields of a notification. Never throws, whatever the bytes. */
export function readFields(input: NotificationFields): ({ readonly ok: true } & ReceivedFields) | RefusedNotification {
  const form =
    input instanceof URLSearchParams
      ? input
      : new URLSearchParams(typeof input === "string" ? input : new TextDecoder().decode(input));
  const values = new Map<string, string>();
  const shp = new Map<string, string>();
  let count = 0;
  for (const [name, value] of form) {
    if (++count > 200) return { ok: false, reason: "too_many_fields" };
    if (/^shp_/i.test(name)) {
      if ((shp.get(name) ?? value) !== value) return { ok: false, reason: "conflicting_fields", field: "Shp_" };
      shp.set(name, value);
      continue;
    }
    const field = spellings.get(name.toLowerCase());
    if (field === undefined) continue; // new fields are never an error
    const known = values.get(field);
    const same =
      known === undefined ||
      known === value ||
      (field === "SignatureValue" && known.toLowerCase() === value.toLowerCase());
    if (!same) return { ok: false, reason: "conflicting_fields", field };
    values.set(field, value);
  }
  for (const field of ["OutSum", "InvId", "SignatureValue"]) {
    if (!values.get(field)) return { ok: false, reason: "missing_field", field };
  }
  if (!isReceivedAmount(values.get("OutSum") ?? "")) return { ok: false, reason: "malformed_field", field: "OutSum" };
  if (!/^\d{1,19}$/.test(values.get("InvId") ?? "")) return { ok: false, reason: "malformed_field", field: "InvId" };
  if (!/^[0-9a-f]{32,128}$/i.test(values.get("SignatureValue") ?? "")) {
    return { ok: false, reason: "malformed_field", field: "SignatureValue" };
  }
  return { ok: true, values, shp: [...shp] };
}

/**
 * Checks a notification against the live pair, then the test pair.
 *
 * Signed text: `OutSum:InvId:Password[:Shp_a=1:Shp_b=2]` over the values as received after one decode; the digest in
 * any case.
 *
 * @param password `password2` signs ResultURL, `password1` SuccessURL.
 * @returns a reason for anything that does not fit; never throws.
 * @see docs.robokassa.ru, "Notifications" (read 2025-11)
 */
export function verifyNotification(shop: Shop, input: NotificationFields, password: keyof PasswordPair): Verification {
  const received = readFields(input);
  if (!received.ok) return received;
  const { values, shp } = received;
  const outSum = values.get("OutSum") as string;
  const invId = values.get("InvId") as string;
  const digest = values.get("SignatureValue");

  for (const test of [false, true]) {
    const secret = (test ? shop.try : shop.live)?.[password];
    if (secret === undefined) continue;
    const orders = shpOrders(shop.readings.shpOrder, shp);
    for (const order of orders) {
      const text = signatureBase([outSum, invId, secret], sortShp(shp, order));
      if (!verifyDigest({ algorithm: shop.algorithm, text, digest }).ok) continue;
      return {
        ok: true,
        notification: {
          invId,
          outSum,
          test,
          shp: Object.fromEntries(shp.map(([name, value]) => [name, decodeShpValue(value)])),
          shpOrder: orders.length > 1 ? order : undefined,
          outSumCurrency: values.get("OutSumCurrency") || undefined,
          paymentMethod: values.get("PaymentMethod"),
          incCurrLabel: values.get("IncCurrLabel"),
          incSum: values.get("IncSum"),
          fee: values.get("Fee"),
          email: values.get("EMail") || undefined,
        },
      };
    }
  }
  return { ok: false, reason: "bad_signature" };
}

/** Both orders are tried where they differ, the configured one first: each covers the same fields and the same secret. */
function shpOrders(configured: ShpOrder = "name", shp: readonly ShpPair[]): readonly ShpOrder[] {
  const same = sortShp(shp, "name").join(":") === sortShp(shp, "pair").join(":");
  if (same) return [configured];
  return configured === "name" ? ["name", "pair"] : ["pair", "name"];
}
