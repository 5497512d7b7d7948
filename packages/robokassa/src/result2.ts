import { verify, X509Certificate } from "node:crypto";
import { ConfigError } from "@orderbridge/core";
import * as v from "valibot";
import type { Readings, Shop } from "./shop.ts";

/** What ResultUrl2 said, after its signature fitted one of the certificates. Never sent in test mode. */
export interface Notification2 {
  readonly invId: string;
  /** Robokassa's id of the operation; refunds need it. */
  readonly opKey: string;
  /** `OK`: paid. `HOLD`: reserved, not paid. */
  readonly state: "OK" | "HOLD";
  readonly paymentMethod: string | undefined;
  /** What the buyer paid; a surcharge can make it more than the order's total. */
  readonly incSum: string | undefined;
  readonly sentAt: Date;
}

export type Refusal2 =
  /** Not a compact JWS, bare, quoted or in base64. */
  | "malformed"
  /** The header is not RS256 and JWT. */
  | "wrong_algorithm"
  /** None of the certificates is valid today. */
  | "certificate_expired"
  | "bad_signature"
  /** Signed, but not a message that we know. */
  | "wrong_type"
  /** Sent to another shop. */
  | "wrong_shop"
  /** Older than seven days. */
  | "too_old"
  /** More than five minutes ahead of our clock. */
  | "too_new";

export type Verification2 =
  | { readonly ok: true; readonly notification: Notification2 }
  | { readonly ok: false; readonly reason: Refusal2 };

const headerSchema = v.object({ alg: v.literal("RS256"), typ: v.literal("JWT") });

const typeSchema = v.object({ header: v.object({ type: v.literal("PaymentStateNotification") }) });

const payloadSchema = v.object({
  header: v.object({ timestamp: v.pipe(v.string(), v.regex(/^\d{1,12}$/)) }),
  data: v.object({
    shop: v.string(),
    opKey: v.pipe(v.string(), v.regex(/^[\w-]{1,100}$/)),
    invId: v.pipe(v.string(), v.regex(/^\d{1,19}$/)),
    paymentMethod: v.optional(v.string()),
    incSum: v.optional(v.string()),
    state: v.picklist(["OK", "HOLD"]),
  }),
});

/**
 * Reads certificates given as PEM (several may stand in one text) or DER.
 *
 * @throws {ConfigError} when nothing can be read, or a key is not RSA.
 */
export function readCertificates(certificates: string | readonly (string | Uint8Array)[]): readonly X509Certificate[] {
  const given = typeof certificates === "string" ? [certificates] : certificates;
  const parts = given.flatMap((certificate): readonly (string | Uint8Array)[] =>
    typeof certificate === "string"
      ? (certificate.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [])
      : [certificate],
  );
  if (parts.length === 0) throw new ConfigError("robokassa: certificates hold no PEM certificate");
  return parts.map((part) => {
    try {
      const certificate = new X509Certificate(part);
      if (certificate.publicKey.asymmetricKeyType === "rsa") return certificate;
    } catch {
      // told below
    }
    throw new ConfigError("robokassa: certificates hold one that cannot be read, or whose key is not RSA");
  });
}

const dayMs = 86_400_000;

/** One line per certificate that has ended, or will within 30 days; they change about once a year. */
export function certificateWarnings(certificates: readonly X509Certificate[], now: Date): readonly string[] {
  return certificates.flatMap(({ validToDate }) => {
    const daysLeft = Math.floor((validToDate.getTime() - now.getTime()) / dayMs);
    if (daysLeft >= 30) return [];
    const day = validToDate.toISOString().slice(0, 10);
    return [daysLeft < 0 ? `a ResultUrl2 certificate ended on ${day}` : `a ResultUrl2 certificate ends on ${day}`];
  });
}

/**
 * Checks a ResultUrl2 message: an RS256 JWS, bare, in quotes or wrapped in base64.
 *
 * Payload: `{header: {type: "PaymentStateNotification", version, timestamp}, data: {shop, opKey, invId, paymentMethod,
 * incSum, state: "OK" | "HOLD"}}`; the timestamp is in seconds, as text.
 *
 * @returns a reason for anything that does not fit; never throws.
 * @see docs.robokassa.ru, "Notifications"; checks as in the official WordPress plugin of summer 2026
 */
export function verifyNotification2(
  shop: Pick<Shop, "login" | "readings">,
  body: string | Uint8Array,
  { certificates, now }: { readonly certificates: readonly X509Certificate[]; readonly now: Date },
): Verification2 {
  const refuse = (reason: Refusal2): Verification2 => ({ ok: false, reason });
  const message = typeof body === "string" ? body : new TextDecoder().decode(body);
  const segments = unwrap(message, shop.readings.result2Body).split(".");
  const [header = "", payload = "", signature = ""] = segments;
  if (segments.length !== 3 || !segments.every((segment) => /^[\w-]+$/.test(segment))) return refuse("malformed");
  if (!v.is(headerSchema, readSegment(header))) return refuse("wrong_algorithm");

  const valid = certificates.filter(({ validFromDate, validToDate }) => validFromDate <= now && now <= validToDate);
  if (valid.length === 0) return refuse("certificate_expired");
  const text = Buffer.from(`${header}.${payload}`);
  const bytes = Buffer.from(signature, "base64url");
  if (!valid.some(({ publicKey }) => verify("sha256", text, publicKey, bytes))) return refuse("bad_signature");

  const content = readSegment(payload);
  if (!v.is(typeSchema, content)) return refuse("wrong_type");
  const parsed = v.safeParse(payloadSchema, content);
  if (!parsed.success) return refuse("malformed");
  const { data } = parsed.output;
  if (data.shop !== shop.login) return refuse("wrong_shop");
  const sentAt = new Date(Number(parsed.output.header.timestamp) * 1000);
  if (now.getTime() - sentAt.getTime() > 7 * dayMs) return refuse("too_old");
  if (sentAt.getTime() - now.getTime() > 300_000) return refuse("too_new");
  const { invId, opKey, state, paymentMethod, incSum } = data;
  return { ok: true, notification: { invId, opKey, state, paymentMethod, incSum, sentAt } };
}

/** The JWS itself: some messages came in quotes, and the documents speak of base64 around it. */
function unwrap(body: string, reading: Readings["result2Body"]): string {
  const text = body.trim().replace(/^"([\s\S]*)"$/, "$1");
  const isBare = reading === undefined ? text.includes(".") : reading === "bare";
  return isBare ? text : Buffer.from(text, "base64").toString("latin1");
}

function readSegment(segment: string): unknown {
  try {
    return JSON.parse(Buffer.from(segment, "base64url").toString("utf8"));
  } catch {
    return undefined;
  }
}
