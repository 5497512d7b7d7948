import { isIP } from "node:net";
import { checkAmount } from "./amount.ts";
import { checkObject, checkText, InputError } from "./errors.ts";
import { checkInvId } from "./inv-id.ts";
import { type Receipt, receiptField } from "./receipt.ts";
import { passwordsFor, type Shop } from "./shop.ts";
import { prepareShp } from "./shp.ts";
import { sign, signatureBase } from "./signature.ts";

/** A page of the shop, chosen for one payment. */
export interface ReturnAddress {
  readonly url: string;
  readonly method: "GET" | "POST";
}

export interface PaymentRequest {
  /** Digits as text, or a bigint. `""` or `"0"`: Robokassa chooses a number, which nobody stored before. */
  readonly invId: string | bigint;
  /** Decimal text, at most two decimals: `"1000.00"`. Rubles, or tenge for a shop in Kazakhstan. */
  readonly outSum: string;
  /** Shown to the buyer; at most 100 characters. */
  readonly description: string;
  /** @defaultValue `test` of the shop */
  readonly test?: boolean;
  /** Currency of `outSum` when it is not the shop's own: `USD`, `EUR`, `KZT`, `RUR`. */
  readonly outSumCurrency?: string;
  /** The buyer's address; becomes part of the hash. */
  readonly userIp?: string;
  readonly receipt?: Receipt;
  /** Reserve the money now, capture it later (by agreement, cards only). @defaultValue false */
  readonly hold?: boolean;
  /** Where the signed extra notification of this payment goes. */
  readonly resultUrl2?: string;
  readonly successUrl2?: ReturnAddress;
  readonly failUrl2?: ReturnAddress;
  /** `OpKey` of an earlier payment with a saved card; the payment starts at another page. */
  readonly token?: string;
  /** This payment may be followed by recurring ones (by agreement). @defaultValue false */
  readonly recurring?: boolean;
  /** Come back with every notification. Names begin with `Shp_`. */
  readonly shp?: Readonly<Record<string, string>>;
  /** Prefilled on the page. */
  readonly email?: string;
  /** Language of the page. @defaultValue the cabinet's */
  readonly culture?: "ru" | "en";
  /** The link ends then. */
  readonly expiresAt?: Date;
  /** Proposed way to pay; the buyer may change it. */
  readonly incCurrLabel?: string;
  /** Restricts the ways to pay, e.g. `["BankCard", "SBP"]`. */
  readonly paymentMethods?: readonly string[];
}

/** A form for the buyer's browser. Fields in the order in which they are documented; names may repeat. */
export interface PaymentForm {
  readonly action: string;
  readonly method: "POST";
  readonly fields: readonly (readonly [name: string, value: string])[];
}

/** Longest link that all browsers and proxies carry, in characters. */
const maxLinkLength = 2000;

/**
 * The form that starts a payment.
 *
 * Signed text: `MerchantLogin:OutSum:InvId[:OutSumCurrency][:UserIp][:Receipt][:true][:ResultUrl2]
 * [:SuccessUrl2:Method][:FailUrl2:Method][:Token]:Password1[:Shp_a=1:Shp_b=2]`.
 *
 * @throws {InputError} naming the field.
 * @see docs.robokassa.ru, "Payment interface" and "Script parameters" (read 2025-11)
 */
export function paymentForm(shop: Shop, request: PaymentRequest): PaymentForm {
  return prepareStart(shop, request).form;
}

/**
 * What the signature of a start covers, with secrets and the buyer's address by name:
 * `demo-shop:1000.00:146:[password1]:Shp_user=5`.
 *
 * @throws {InputError} naming the field.
 */
export function traceLink(shop: Shop, request: PaymentRequest): string {
  return prepareStart(shop, request).trace;
}

function prepareStart(shop: Shop, request: PaymentRequest): { readonly form: PaymentForm; readonly trace: string } {
  checkObject("request", request);
  const { hold = false, recurring = false, test = shop.test } = request;
  for (const [field, value] of Object.entries({ hold, recurring, test })) {
    if (typeof value !== "boolean") throw new InputError(field, "must be true or false");
  }
  const { url2Signing = "raw", shpOrder } = shop.readings;

  const outSum = checkAmount("outSum", request.outSum);
  const invId = checkInvId(request.invId);
  const description = checkText("description", request.description, 100);
  const passwords = passwordsFor(shop, test);
  if (!passwords) throw new InputError("test", "needs testPassword1 and testPassword2 of the shop");
  if (hold && test) throw new InputError("hold", "has no test mode; start it live or leave it out");
  const outSumCurrency = optional(request.outSumCurrency, (value) => {
    if (typeof value !== "string" || !/^(USD|EUR|KZT|RUR)$/.test(value))
      throw new InputError("outSumCurrency", "must be USD, EUR, KZT or RUR");
    return value;
  });
  const userIp = optional(request.userIp, (value) => {
    if (typeof value !== "string" || isIP(value) === 0) throw new InputError("userIp", "must be an IP address");
    return value;
  });
  const receipt = optional(request.receipt, (value) => receiptField(shop, value, outSum));
  const resultUrl2 = optional(request.resultUrl2, (value) => checkUrl("resultUrl2", value));
  const successUrl2 = optional(request.successUrl2, (value) => checkReturn("successUrl2", value));
  const failUrl2 = optional(request.failUrl2, (value) => checkReturn("failUrl2", value));
  const token = optional(request.token, (value) => checkText("token", value, 100));
  const email = optional(request.email, (value) => checkText("email", value, 254));
  const incCurrLabel = optional(request.incCurrLabel, (value) => checkText("incCurrLabel", value, 100));
  const paymentMethods = optional(request.paymentMethods, checkMethods) ?? [];
  const culture = optional(request.culture, checkCulture);
  const expiresAt = optional(request.expiresAt, (value) => checkInstant("expiresAt", value));
  const shp = prepareShp(request.shp === undefined ? {} : request.shp, shpOrder);
  const hashedUrl = (url: string | undefined): string | undefined =>
    url === undefined || url2Signing === "raw" ? url : encodeURIComponent(url);

  const baseWith = (secret: { password1: string; userIp: string | undefined; token: string | undefined }): string =>
    signatureBase(
      [
        shop.login,
        outSum,
        invId,
        outSumCurrency,
        secret.userIp,
        receipt,
        hold ? "true" : undefined,
        hashedUrl(resultUrl2),
        hashedUrl(successUrl2?.url),
        successUrl2?.method,
        hashedUrl(failUrl2?.url),
        failUrl2?.method,
        secret.token,
        secret.password1,
      ],
      shp.map((pair) => pair.join("=")),
    );
  const base = baseWith({ password1: passwords.password1, userIp, token });
  const trace = baseWith({
    password1: test ? "[testPassword1]" : "[password1]",
    userIp: userIp && "[userIp]",
    token: token && "[token]",
  });

  const fields: (readonly [string, string])[] = [];
  const add = (name: string, value: string | undefined): void => {
    if (value !== undefined) fields.push([name, value]);
  };
  add("MerchantLogin", shop.login);
  add("OutSum", outSum);
  // An empty slot and an absent field mean the same; browsers drop neither.
  add("InvId", invId === "" ? undefined : invId);
  add("Description", description);
  add("OutSumCurrency", outSumCurrency);
  add("UserIp", userIp);
  add("Receipt", receipt);
  add("StepByStep", hold ? "true" : undefined);
  add("ResultUrl2", resultUrl2);
  add("SuccessUrl2", successUrl2?.url);
  add("SuccessUrl2Method", successUrl2?.method);
  add("FailUrl2", failUrl2?.url);
  add("FailUrl2Method", failUrl2?.method);
  add("Token", token);
  add("SignatureValue", sign(base, shop.algorithm));
  add("Recurring", recurring ? "true" : undefined);
  add("IncCurrLabel", incCurrLabel);
  for (const method of paymentMethods) add("PaymentMethods", method);
  add("Culture", culture);
  add("Encoding", "utf-8");
  add("Email", email);
  add("ExpirationDate", expiresAt);
  for (const [name, value] of shp) add(name, value);
  add("IsTest", test ? "1" : undefined);

  const page = token === undefined ? "/Merchant/Index.aspx" : "/Merchant/Payment/CoFPayment";
  return { form: { action: `${shop.hosts.payment}${page}`, method: "POST", fields }, trace };
}

/**
 * The link that starts a payment.
 *
 * @throws {InputError} also when the link would be longer than 2000 characters: use {@link paymentForm} then.
 */
export function paymentUrl(shop: Shop, request: PaymentRequest): string {
  const { action, fields } = paymentForm(shop, request);
  const url = `${action}?${fields.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
  if (url.length > maxLinkLength) {
    const field = request.receipt === undefined ? "shp" : "receipt";
    throw new InputError(
      field,
      `makes the link longer than ${maxLinkLength} characters; use paymentForm, which is posted; placeOrderForm gives one`,
    );
  }
  return url;
}

const optional = <Value, Result>(value: Value | undefined, read: (value: Value) => Result): Result | undefined =>
  value === undefined ? undefined : read(value);

export function checkUrl(field: string, value: string): string {
  if (typeof value !== "string" || !URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol)) {
    throw new InputError(field, "must be an http(s) address");
  }
  return value;
}

export function checkReturn(field: string, value: ReturnAddress): ReturnAddress {
  checkObject(field, value);
  checkUrl(`${field}.url`, value.url);
  if (value.method !== "GET" && value.method !== "POST") {
    throw new InputError(`${field}.method`, 'must be "GET" or "POST"');
  }
  return value;
}

/** ISO 8601 with a zone: without one it would be read as Moscow's time. */
export function checkInstant(field: string, value: unknown): string {
  if (!(value instanceof Date) || Number.isNaN(value.getTime())) throw new InputError(field, "must be a valid Date");
  return value.toISOString();
}

export function checkCulture(value: unknown): string {
  if (value !== "ru" && value !== "en") throw new InputError("culture", 'must be "ru" or "en"');
  return value;
}

function checkMethods(value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw new InputError("paymentMethods", 'must be a list such as ["BankCard", "SBP"]');
  return value.map((method, index) => checkText(`paymentMethods[${index}]`, method, 100));
}
