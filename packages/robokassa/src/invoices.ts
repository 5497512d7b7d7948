import { ApiError, parseJson } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount } from "./amount.ts";
import { InputError } from "./errors.ts";
import { checkInvId, checkOwnInvId } from "./inv-id.ts";
import { encodeJwt } from "./jwt.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";

export interface InvoiceRequest {
  /** `"0"`: Robokassa chooses a number, which nobody stored before. */
  readonly invId: string | bigint;
  readonly outSum: string;
  readonly description: string;
  /** `OneTime` is paid once; `Reusable` any number of times. @defaultValue "OneTime" */
  readonly type?: "OneTime" | "Reusable";
  /** @defaultValue "ru" */
  readonly culture?: "ru" | "en";
  /** Come back with the notification; names begin with `shp_`. */
  readonly shp?: Readonly<Record<string, string>>;
  readonly expiresAt?: Date;
  /** A link that takes no money; only where `readings.invoiceTest` says that there are such. @defaultValue `test` of the shop */
  readonly test?: boolean;
}

export interface Invoice {
  /** Link for the buyer. */
  readonly url: string;
  readonly id: string;
}

/** Links made by Robokassa's own service; their payments are told by the ordinary ResultURL. */
export interface Invoices {
  /** @throws {ApiError} when Robokassa says no, e.g. because the InvId was used before */
  create(request: InvoiceRequest): Promise<Invoice>;
  /** Ends the link of an InvId. Give `test` as for its creation. */
  deactivate(invId: string | bigint, options?: { readonly test?: boolean }): Promise<void>;
}

const answerSchema = v.object({ isSuccess: v.boolean(), message: v.nullish(v.string()) });
const createdSchema = v.object({ url: v.string(), id: v.pipe(v.union([v.string(), v.number()]), v.transform(String)) });

/**
 * Body: the JWT in double quotes, as JSON. Key of the HMAC: `MerchantLogin:Password1`, of the test pair for test links.
 *
 * @see docs.robokassa.ru, "API of invoices" (read 2025-11)
 */
export function createInvoices(shop: Shop): Invoices {
  const client = createServiceClient(shop, "services");

  /** Never repeated by itself: a link may have been made though no answer came. */
  async function send<Schema extends v.GenericSchema>(
    method: string,
    { json, password1, schema }: { readonly json: string; readonly password1: string; readonly schema: Schema },
  ) {
    const token = encodeJwt(json, {
      alg: shop.algorithm.toUpperCase(),
      algorithm: shop.algorithm,
      key: `${shop.login}:${password1}`,
    });
    const answer = await client.send({
      name: method,
      method: "POST",
      path: `/InvoiceServiceWebApi/api/${method}`,
      json: token,
    });
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
    async create({
      invId,
      outSum,
      description,
      type = "OneTime",
      culture = "ru",
      shp = {},
      expiresAt,
      test = shop.test,
    }) {
      const password1 = passwordFor(test);
      const number = checkInvId(invId) || "0";
      if ([...description].length > 100 || description === "") {
        throw new InputError("description", "must have 1 to 100 characters");
      }
      for (const name of Object.keys(shp)) {
        if (!/^shp_\w+$/i.test(name)) throw new InputError(`shp.${name}`, "must begin with shp_");
      }
      // InvId and OutSum are JSON numbers; their digits are ours, no float is made of them.
      const members = [
        `"MerchantLogin":${JSON.stringify(shop.login)}`,
        `"InvoiceType":${JSON.stringify(type)}`,
        `"Culture":${JSON.stringify(culture)}`,
        `"InvId":${number}`,
        `"OutSum":${checkAmount("outSum", outSum)}`,
        `"Description":${JSON.stringify(description)}`,
      ];
      if (Object.keys(shp).length > 0) members.push(`"UserFields":${JSON.stringify(shp)}`);
      if (expiresAt) members.push(`"ExpirationDate":${JSON.stringify(expiresAt)}`);
      if (test) members.push('"AdditionalParameters":{"IsTest":"1"}');
      const json = `{${members.join(",")}}`;
      const { url, id } = await send("CreateInvoice", { json, password1, schema: createdSchema });
      return { url, id };
    },
    async deactivate(invId, { test = shop.test } = {}) {
      const password1 = passwordFor(test);
      const json = `{"MerchantLogin":${JSON.stringify(shop.login)},"InvId":${checkOwnInvId(invId)}}`;
      await send("DeactivateInvoice", { json, password1, schema: v.unknown() });
    },
  };
}
