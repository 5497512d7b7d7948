import { checkAmount, fromMinor, toMinor } from "./amount.ts";
import { checkObject, checkText, InputError } from "./errors.ts";
import { checkInvId } from "./inv-id.ts";
import { type Country, type Receipt, receiptJson } from "./receipt.ts";
import type { Shop } from "./shop.ts";
import { sign } from "./signature.ts";
import { checkCulture, checkInstant, type PaymentForm } from "./start.ts";

/** What one shop gets of a payment. */
export interface SplitPart {
  /** Shop identifier. */
  readonly id: string;
  /** The payment's number in that shop. @defaultValue Robokassa chooses one */
  readonly invId?: string | bigint;
  /** Decimal text. */
  readonly amount: string;
  /** Fiscal data of this part; its lines add up to `amount`. */
  readonly receipt?: Receipt;
}

export interface SplitRequest {
  /** Decimal text: what the buyer pays. */
  readonly outSum: string;
  readonly parts: readonly SplitPart[];
  /** Seen by the master shop; at most 255 characters here, the service's own limit is not documented. */
  readonly comment?: string;
  /** Come back with the notification, by their names. */
  readonly shopParams?: Readonly<Record<string, string>>;
  readonly email?: string;
  /** Proposed way to pay. */
  readonly incCurrLabel?: string;
  readonly culture?: "ru" | "en";
  readonly expiresAt?: Date;
}

/**
 * The form that starts a payment whose sum is divided between shops (by agreement; no test mode).
 *
 * Fields: `Invoice`, the JSON, and `Signature` over **the raw JSON immediately followed by Password1** of this shop,
 * without a colon. The browser encodes both once on the wire, and the service hashes what it reads after one decode.
 *
 * @throws {InputError} naming the field.
 * @see docs.robokassa.ru, "Split payments" (read 2026-08); the same in the official OpenCart plugin
 */
export function splitForm(shop: Shop, request: SplitRequest): PaymentForm {
  checkObject("request", request);
  if (shop.test) throw new InputError("test", "mode has no split payments");
  const { comment, shopParams = {}, email, incCurrLabel, culture, expiresAt } = request;
  const outSum = checkAmount("outSum", request.outSum);
  checkObject("shopParams", shopParams);
  const params = Object.entries(shopParams).map(([name, value]) => ({
    name: checkText("shopParams", name, 100),
    value: checkText(`shopParams.${name}`, value, 2048),
  }));
  const quoted = (field: string, value: string | undefined, maxLength: number): string | undefined =>
    value === undefined ? undefined : JSON.stringify(checkText(field, value, maxLength));
  const master = [
    `"id":${JSON.stringify(shop.login)}`,
    ...(comment === undefined ? [] : [`"comment":${quoted("comment", comment, 255)}`]),
  ];
  const members: readonly (readonly [string, string | undefined])[] = [
    ["outAmount", outSum],
    ["shop_params", params.length > 0 ? JSON.stringify(params) : undefined],
    ["email", quoted("email", email, 254)],
    ["incCurr", quoted("incCurrLabel", incCurrLabel, 100)],
    ["language", culture === undefined ? undefined : JSON.stringify(checkCulture(culture))],
    ["expirationDate", expiresAt === undefined ? undefined : JSON.stringify(checkInstant("expiresAt", expiresAt))],
    ["merchant", `{${master.join(",")}}`],
    ["splitMerchants", splitPartsJson(request.parts, outSum, shop.country)],
  ];
  const json = `{${members.flatMap(([name, value]) => (value === undefined ? [] : [`"${name}":${value}`])).join(",")}}`;
  return {
    action: `${shop.hosts.payment}/Merchant/Payment/CreateV2`,
    method: "POST",
    fields: [
      ["Invoice", json],
      ["Signature", signSplit(json, shop)],
    ],
  };
}

/** Hex digest of the JSON immediately followed by Password1. */
export const signSplit = (json: string, { algorithm, live }: Pick<Shop, "algorithm" | "live">): string =>
  sign(json + live.password1, algorithm);

/** The list of shares; together they are at most the payment. @throws {InputError} */
export function splitPartsJson(parts: readonly SplitPart[], outSum: string, country: Country): string {
  if (!Array.isArray(parts) || parts.length === 0) throw new InputError("parts", "must hold the share of each shop");
  let total = 0n;
  const list = (parts as readonly SplitPart[]).map((part, index) => {
    const field = `parts[${index}]`;
    checkObject(field, part);
    const amount = checkAmount(`${field}.amount`, part.amount);
    total += toMinor(amount);
    const members = [
      `"id":${JSON.stringify(checkText(`${field}.id`, part.id, 100))}`,
      `"InvoiceId":${checkInvId(part.invId ?? "0", `${field}.invId`) || "0"}`,
      `"amount":${amount}`,
    ];
    if (part.receipt !== undefined) members.push(`"receipt":${receiptJson(part.receipt, amount, country)}`);
    return `{${members.join(",")}}`;
  });
  if (total > toMinor(outSum)) {
    throw new InputError("parts", `add up to ${fromMinor(total)}, more than the payment of ${outSum}`);
  }
  return `[${list.join(",")}]`;
}
