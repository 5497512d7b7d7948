import { ApiError, parseJson } from "@orderbridge/core";
import * as v from "valibot";
import { checkText, InputError } from "./errors.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { sign, signatureBase } from "./signature.ts";

export interface SmsMessage {
  /** Digits with the country's code, without a plus sign: `77010000000`. */
  readonly phone: string;
  /** At most 128 characters. */
  readonly message: string;
}

export interface Sms {
  /**
   * Sends a text message at the shop's cost, once: it is never repeated by itself.
   *
   * @returns Robokassa's `count`, whose meaning the documents do not give.
   * @throws {ApiError} when Robokassa says no, with its number as `vendorCode`
   */
  send(message: SmsMessage): Promise<{ readonly count: number | undefined }>;
}

const answerSchema = v.object({
  result: v.boolean(),
  errorCode: v.nullish(v.pipe(v.union([v.string(), v.number()]), v.transform(String))),
  count: v.nullish(v.number()),
});

/**
 * Signed text: `login:phone:message:Password1`, the message as it is; the address encodes it once.
 *
 * @see docs.robokassa.ru, "SMS" (read 2026-08)
 */
export function createSms(shop: Shop): Sms {
  const client = createServiceClient(shop, "services");
  return {
    async send({ phone, message }) {
      if (typeof phone !== "string" || !/^\d{10,15}$/.test(phone)) {
        throw new InputError("phone", "must be digits with the country's code, without a plus sign");
      }
      const text = checkText("message", message, 128);
      const signature = sign(signatureBase([shop.login, phone, text, shop.live.password1]), shop.algorithm);
      const answer = await client.send({
        name: "SMS",
        path: "/SMS/",
        query: new URLSearchParams({ login: shop.login, phone, message: text, signature }),
        safe: false,
      });
      const result = parseJson(answer, answerSchema, { vendor: "robokassa", name: "SMS" });
      if (result?.result) return { count: result.count ?? undefined };
      throw new ApiError("robokassa: SMS was refused", {
        vendor: "robokassa",
        status: answer.status,
        vendorCode: result?.errorCode?.slice(0, 100) ?? "",
        outcome: result ? "refused" : "unknown",
      });
    },
  };
}
