import { ApiError, type HttpAnswer, parseJson } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount, toMinor } from "./amount.ts";
import { checkObject, checkText, InputError } from "./errors.ts";
import { checkInvId, checkOwnInvId } from "./inv-id.ts";
import { encodeJwt } from "./jwt.ts";
import { invoiceItemsJson, type ReceiptItem } from "./receipt.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { type SplitPart, splitPartsJson } from "./split.ts";
import { checkCulture, checkInstant, checkReturn, checkUrl, type ReturnAddress } from "./start.ts";

export interface InvoiceRequest {
  /** `"0"`: Robokassa chooses a number, which nobody stored before. */
  readonly invId: string | bigint;
  /** Decimal text. */
  readonly outSum: string;
  /** Shown to the buyer; at most 100 characters. */
  readonly description: string;
  /** Seen in the cabinet only; at most 255 characters here, the service's own limit is not documented. */
  readonly comment?: string;
  /** `OneTime` is paid once; `Reusable` any number of times. @defaultValue "OneTime" */
  readonly type?: "OneTime" | "Reusable";
  /** @defaultValue "ru" */
  readonly culture?: "ru" | "en";
  /** Come back with the notification; names begin with `shp_`. */
  readonly shp?: Readonly<Record<string, string>>;
  /** Lines with the price of a piece (`cost`), which add up to `outSum`. */
  readonly items?: readonly ReceiptItem[];
  readonly successUrl2?: ReturnAddress;
  readonly failUrl2?: ReturnAddress;
  readonly expiresAt?: Date;
  /** Prefilled on the page. */
  readonly email?: string;
  /** Where the signed extra notification goes. */
  readonly resultUrl2?: string;
  /** Reserve the money, capture it later; only `OneTime`, and not with `recurring` or `token`. @defaultValue false */
  readonly hold?: boolean;
  /** May be followed by recurring charges; not with `hold` or `token`. @defaultValue false */
  readonly recurring?: boolean;
  /** `OpKey` of an earlier payment with a saved card; not with `hold` or `recurring`. */
  readonly token?: string;
  /** Shares of other shops (by agreement); not in test mode. */
  readonly split?: readonly SplitPart[];
  /** A link that takes no money; only where `readings.invoiceTest` says that there are such. @defaultValue `test` of the shop */
  readonly test?: boolean;
}

export interface Invoice {
  /** Link for the buyer. */
  readonly url: string;
  readonly id: string;
  /** As Robokassa knows the payment; it chose the number when none was given. */
  readonly invId: string | undefined;
  /** Last part of the link's path. */
  readonly encodedId: string | undefined;
}

/** How an invoice is named: by its InvId, or as its creation told. */
export type InvoiceName = string | bigint | { readonly id: string } | { readonly encodedId: string };

export interface InvoiceFilter {
  /** Created at or after. */
  readonly from: Date;
  /** Created before or at. */
  readonly to: Date;
  /** @defaultValue all three */
  readonly statuses?: readonly ("paid" | "expired" | "notpaid")[];
  /** @defaultValue both */
  readonly types?: readonly ("onetime" | "reusable")[];
  readonly keywords?: string;
  /** Decimal text. */
  readonly sumFrom?: string;
  readonly sumTo?: string;
  /** Oldest first. @defaultValue the service's own order */
  readonly ascending?: boolean;
  /** Invoices per request, 1 to 1000. @defaultValue 100 */
  readonly pageSize?: number;
}

/** An invoice as the list has it. Absent where the service sent nothing. */
export interface ListedInvoice {
  readonly id: string;
  readonly invId: string | undefined;
  /** As sent. */
  readonly type: string | undefined;
  readonly status: string | undefined;
  /** Decimal text: the digits that were sent. */
  readonly outSum: string | undefined;
  readonly description: string | undefined;
  readonly url: string | undefined;
  /** ISO 8601 as sent. */
  readonly createdAt: string | undefined;
  readonly modifiedAt: string | undefined;
}

/** Links made by Robokassa's own service; their payments are told by the ordinary ResultURL. */
export interface Invoices {
  /** @throws {ApiError} when Robokassa says no, e.g. because the InvId was used before */
  create(request: InvoiceRequest): Promise<Invoice>;
  /** Ends a link. Give `test` as for its creation. @throws {ApiError} for an invoice that is not known */
  deactivate(invoice: InvoiceName, options?: { readonly test?: boolean }): Promise<void>;
  /** Every invoice of a time, page by page. Of live links only. @throws {InputError} at the first step */
  list(filter: InvoiceFilter): AsyncIterable<ListedInvoice>;
}

const text = v.nullish(v.pipe(v.union([v.string(), v.number()]), v.transform(String)));
const answerSchema = v.object({ isSuccess: v.boolean(), message: v.nullish(v.string()) });
const createdSchema = v.object({
  url: v.string(),
  id: v.pipe(v.union([v.string(), v.number()]), v.transform(String)),
  invId: text,
  encodedId: text,
});
const listSchema = v.object({
  total: text,
  invoiceInformationList: v.array(
    v.object({
      id: v.pipe(v.union([v.string(), v.number()]), v.transform(String)),
      invId: text,
      invoiceType: text,
      invoiceStatus: text,
      outSum: text,
      description: text,
      invoicePaymentUrl: text,
      created: text,
      modified: text,
    }),
  ),
});

/** Numbers as the digits that were sent: an InvId does not fit into a JavaScript number. */
function withExactNumbers(answer: HttpAnswer): HttpAnswer {
  const digits = (_name: string, value: unknown, context?: { readonly source?: string }): unknown =>
    typeof value === "number" ? (context?.source ?? value) : value;
  try {
    return { ...answer, text: JSON.stringify(JSON.parse(answer.text, digits)) };
  } catch {
    return answer; // no JSON: told by whoever reads it
  }
}

/**
 * Body: the JWT in double quotes, as JSON. Key of the HMAC: `MerchantLogin:Password1`, of the test pair for test links.
 *
 * @see docs.robokassa.ru, "API of invoices" (read 2025-11); `AdditionalParameters` as in the later official PHP SDK
 */
export function createInvoices(shop: Shop): Invoices {
  const client = createServiceClient(shop, "services");
  const login = `"MerchantLogin":${JSON.stringify(shop.login)}`;

  /** Never repeated by itself unless it only reads: a link may have been made though no answer came. */
  async function send<Schema extends v.GenericSchema>(
    method: string,
    {
      json,
      password1,
      schema,
      safe = false,
    }: { readonly json: string; readonly password1: string; readonly schema: Schema; readonly safe?: boolean },
  ) {
    const token = encodeJwt(json, {
      alg: shop.algorithm.toUpperCase(),
      algorithm: shop.algorithm,
      key: `${shop.login}:${password1}`,
    });
    const sent = await client.send({
      name: method,
      method: "POST",
      path: `/InvoiceServiceWebApi/api/${method}`,
      json: token,
      safe,
    });
    const answer = withExactNumbers(sent);
    const about = { vendor: "robokassa", name: method };
    const result = parseJson(answer, answerSchema, about);
    if (!result?.isSuccess) {
      throw new ApiError(`robokassa: ${method} was refused`, {
        vendor: "robokassa",
        status: answer.status,
        vendorCode: result?.message?.slice(0, 100),
        outcome: result ? "refused" : "unknown",
      });
    }
    return parseJson(answer, schema, about) as v.InferOutput<Schema>;
  }

  /** A shop in test mode never makes a live link by accident. */
  function passwordFor(test: boolean): string {
    if (!test) return shop.live.password1;
    if (shop.readings.invoiceTest !== "test-pair") {
      throw new InputError("test", "mode has no invoices; make a link with paymentUrl, or set readings.invoiceTest");
    }
    if (!shop.try) throw new InputError("test", "needs testPassword1 and testPassword2 of the shop");
    return shop.try.password1;
  }

  return {
    async create(request) {
      checkObject("request", request);
      const { test = shop.test } = request;
      const password1 = passwordFor(test);
      const json = `{${login},${invoiceJson(shop, request, test)}}`;
      const { url, id, invId, encodedId } = await send("CreateInvoice", { json, password1, schema: createdSchema });
      return { url, id, invId: invId ?? undefined, encodedId: encodedId ?? undefined };
    },
    async deactivate(invoice, { test = shop.test } = {}) {
      const password1 = passwordFor(test);
      const json = `{${login},${nameJson(invoice)}}`;
      await send("DeactivateInvoice", { json, password1, schema: v.unknown() });
    },
    async *list(filter) {
      const { pageSize = 100 } = filter;
      if (!(Number.isInteger(pageSize) && pageSize >= 1 && pageSize <= 1000)) {
        throw new InputError("pageSize", "must be a whole number from 1 to 1000");
      }
      const members = filterJson(filter);
      // The service may give shorter pages than asked for, and new invoices move others to the next page.
      const seen = new Set<string>();
      for (let page = 1, received = 0; ; page++) {
        const json = `{${login},"CurrentPage":${page},"PageSize":${pageSize},${members}}`;
        const { invoiceInformationList: invoices, total } = await send("GetInvoiceInformationList", {
          json,
          password1: shop.live.password1,
          schema: listSchema,
          safe: true,
        });
        const known = seen.size;
        for (const invoice of invoices) {
          if (seen.has(invoice.id)) continue;
          seen.add(invoice.id);
          yield {
            id: invoice.id,
            invId: invoice.invId ?? undefined,
            type: invoice.invoiceType ?? undefined,
            status: invoice.invoiceStatus ?? undefined,
            outSum: invoice.outSum ?? undefined,
            description: invoice.description ?? undefined,
            url: invoice.invoicePaymentUrl ?? undefined,
            createdAt: invoice.created ?? undefined,
            modifiedAt: invoice.modified ?? undefined,
          };
        }
        received += invoices.length;
        const isLast = /^\d+$/.test(total ?? "") ? received >= Number(total) : seen.size === known;
        if (isLast || invoices.length === 0) return;
      }
    },
  };
}

/** InvId and OutSum are JSON numbers; their digits are ours, no float is made of them. */
function invoiceJson({ country }: Shop, request: InvoiceRequest, test: boolean): string {
  const { type = "OneTime", culture = "ru", shp = {}, hold = false, recurring = false, token, split } = request;
  if (type !== "OneTime" && type !== "Reusable") throw new InputError("type", 'must be "OneTime" or "Reusable"');
  const exclusive = [hold && "hold", recurring && "recurring", token !== undefined && "token"].filter((name) => name);
  if (exclusive.length > 1) throw new InputError(String(exclusive[1]), `does not go together with ${exclusive[0]}`);
  if (hold && type !== "OneTime") throw new InputError("hold", "needs an invoice that is paid once");
  if (split && test) throw new InputError("split", "has no test mode");
  const outSum = checkAmount("outSum", request.outSum);
  checkObject("shp", shp);
  for (const [name, value] of Object.entries(shp)) {
    if (!/^shp_\w+$/i.test(name)) throw new InputError(`shp.${name}`, "must begin with shp_");
    if (typeof value !== "string" || !value.isWellFormed()) throw new InputError(`shp.${name}`, "must be text");
  }
  const address = (field: "successUrl2" | "failUrl2"): string | undefined => {
    const value = request[field];
    if (value === undefined) return undefined;
    const { url, method } = checkReturn(field, value);
    return JSON.stringify({ Url: url, Method: method });
  };
  const textOf = (field: "description" | "comment" | "email" | "token", maxLength: number): string | undefined =>
    request[field] === undefined && field !== "description" ? undefined : checkText(field, request[field], maxLength);
  // Values of additional parameters are text, whatever they hold.
  const additional = Object.entries({
    Email: textOf("email", 254),
    ResultURL2: request.resultUrl2 === undefined ? undefined : checkUrl("resultUrl2", request.resultUrl2),
    Recurring: recurring ? "true" : undefined,
    StepByStep: hold ? "true" : undefined,
    Token: textOf("token", 100),
    Split: split === undefined ? undefined : splitPartsJson(split, outSum, country),
    IsTest: test ? "1" : undefined,
  }).filter(([, value]) => value !== undefined);
  const comment = textOf("comment", 255);
  const { items, expiresAt } = request;
  const members: readonly (readonly [string, string | undefined])[] = [
    ["InvoiceType", JSON.stringify(type)],
    ["Culture", JSON.stringify(checkCulture(culture))],
    ["InvId", checkInvId(request.invId) || "0"],
    ["OutSum", outSum],
    ["Description", JSON.stringify(textOf("description", 100))],
    ["MerchantComments", comment === undefined ? undefined : JSON.stringify(comment)],
    ["UserFields", Object.keys(shp).length > 0 ? JSON.stringify(shp) : undefined],
    ["InvoiceItems", items === undefined ? undefined : invoiceItemsJson(items, outSum, country)],
    ["SuccessUrl2Data", address("successUrl2")],
    ["FailUrl2Data", address("failUrl2")],
    ["ExpirationDate", expiresAt === undefined ? undefined : JSON.stringify(checkInstant("expiresAt", expiresAt))],
    ["AdditionalParameters", additional.length > 0 ? JSON.stringify(Object.fromEntries(additional)) : undefined],
  ];
  return members.flatMap(([name, value]) => (value === undefined ? [] : [`"${name}":${value}`])).join(",");
}

function nameJson(invoice: InvoiceName): string {
  if (typeof invoice !== "object" || invoice === null) return `"InvId":${checkOwnInvId(invoice)}`;
  const [field, wire] = "id" in invoice ? (["id", "Id"] as const) : (["encodedId", "EncodedId"] as const);
  return `"${wire}":${JSON.stringify(checkText(field, (invoice as Record<string, unknown>)[field], 200))}`;
}

function filterJson(filter: InvoiceFilter): string {
  const { statuses = ["paid", "expired", "notpaid"], types = ["onetime", "reusable"], ascending, keywords } = filter;
  const oneOf = (field: string, values: unknown, allowed: readonly string[]): string => {
    if (!Array.isArray(values) || values.length === 0 || !values.every((value) => allowed.includes(value))) {
      throw new InputError(field, `must be a list of ${allowed.join(", ")}`);
    }
    return JSON.stringify(values);
  };
  const { sumFrom, sumTo } = filter;
  const from = checkInstant("from", filter.from);
  const to = checkInstant("to", filter.to);
  if (from > to) throw new InputError("to", "must not be before from");
  if (
    sumFrom !== undefined &&
    sumTo !== undefined &&
    toMinor(checkAmount("sumFrom", sumFrom)) > toMinor(checkAmount("sumTo", sumTo))
  ) {
    throw new InputError("sumTo", "must not be less than sumFrom");
  }
  const members: readonly (readonly [string, string | undefined])[] = [
    ["InvoiceStatuses", oneOf("statuses", statuses, ["paid", "expired", "notpaid"])],
    ["InvoiceTypes", oneOf("types", types, ["onetime", "reusable"])],
    ["DateFrom", JSON.stringify(from)],
    ["DateTo", JSON.stringify(to)],
    ["Keywords", keywords === undefined ? undefined : JSON.stringify(checkText("keywords", keywords, 255))],
    ["IsAscending", ascending === undefined ? undefined : String(ascending === true)],
    ["SumFrom", sumFrom === undefined ? undefined : checkAmount("sumFrom", sumFrom)],
    ["SumTo", sumTo === undefined ? undefined : checkAmount("sumTo", sumTo)],
  ];
  return members.flatMap(([name, value]) => (value === undefined ? [] : [`"${name}":${value}`])).join(",");
}
