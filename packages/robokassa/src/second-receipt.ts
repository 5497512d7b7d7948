import { parseJson } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount, toMinor } from "./amount.ts";
import { checkObject, checkText, InputError } from "./errors.ts";
import { checkOwnInvId } from "./inv-id.ts";
import { type ReceiptItem, receiptJson, taxes } from "./receipt.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { sign } from "./signature.ts";
import { checkUrl } from "./start.ts";

export interface SecondReceiptRequest {
  /** Number of this receipt; not the InvId. */
  readonly id: string | bigint;
  /** InvId of the payment. */
  readonly originId: string | bigint;
  readonly sno: string;
  /** Address of the shop. */
  readonly url: string;
  readonly total: string;
  readonly items: readonly ReceiptItem[];
  /** At least one of them; a phone is 5 to 15 digits. */
  readonly client: { readonly email?: string; readonly phone?: string };
  /** Sums of tax by kind, decimal text; kinds as in a receipt's `tax`. */
  readonly vats: readonly { readonly type: string; readonly sum: string }[];
}

export interface SecondReceiptState {
  /** `accepted` 0, `waiting` 1, `registered` 2, `failed` 3, `internal` 1000 and any other. */
  readonly state: "accepted" | "waiting" | "registered" | "failed" | "internal";
  readonly code: string;
  /** In Robokassa's words, Russian. */
  readonly description: string | undefined;
  /** What the tax office knows the receipt by, once it is registered. */
  readonly fnNumber: string | undefined;
  readonly fiscalDocumentNumber: string | undefined;
  readonly fiscalDocumentAttribute: string | undefined;
  /** As sent. */
  readonly fiscalDate: string | undefined;
  readonly fiscalType: string | undefined;
}

/** The final receipt after a prepayment; a Russian duty. At most two receipts per payment. */
export interface SecondReceipt {
  attach(request: SecondReceiptRequest): Promise<SecondReceiptState>;
  status(id: string | bigint): Promise<SecondReceiptState>;
}

const digits = v.pipe(v.union([v.string(), v.number()]), v.transform(String));
const answerSchema = v.object({
  ResultCode: digits,
  ResultDescription: v.nullish(v.string()),
  FnNumber: v.nullish(digits),
  FiscalDocumentNumber: v.nullish(digits),
  FiscalDocumentAttribute: v.nullish(digits),
  FiscalDate: v.nullish(v.string()),
  FiscalType: v.nullish(digits),
});
const states: Readonly<Record<string, SecondReceiptState["state"]>> = {
  0: "accepted",
  1: "waiting",
  2: "registered",
  3: "failed",
};

/**
 * Body: base64 of the JSON without `=`, a dot, base64 without `=` of the hex digest of (that base64 + Password1).
 *
 * @see docs.robokassa.ru, "Second receipt" (read 2025-11), whose sample it reproduces
 */
export function signReceipt(json: string, { algorithm, live }: Pick<Shop, "algorithm" | "live">): string {
  const encode = (text: string): string => Buffer.from(text).toString("base64").replace(/=+$/, "");
  const body = encode(json);
  return `${body}.${encode(sign(body + live.password1, algorithm))}`;
}

export function createSecondReceipt(shop: Shop): SecondReceipt {
  const client = createServiceClient(shop, "fiscal");

  async function send(method: "Attach" | "Status", json: string): Promise<SecondReceiptState> {
    const name = `Receipt/${method}`;
    const answer = await client.send({
      name,
      method: "POST",
      path: `/RoboFiscal/Receipt/${method}`,
      headers: { "content-type": "application/json" },
      text: signReceipt(json, shop),
      safe: method === "Status",
    });
    const result = parseJson(answer, answerSchema, { vendor: "robokassa", name });
    const code = result?.ResultCode ?? "";
    return {
      state: states[code] ?? "internal",
      code,
      description: result?.ResultDescription || undefined,
      fnNumber: result?.FnNumber ?? undefined,
      fiscalDocumentNumber: result?.FiscalDocumentNumber ?? undefined,
      fiscalDocumentAttribute: result?.FiscalDocumentAttribute ?? undefined,
      fiscalDate: result?.FiscalDate ?? undefined,
      fiscalType: result?.FiscalType ?? undefined,
    };
  }

  return {
    async attach({ id, originId, sno, url, total, items, client: buyer, vats }) {
      const [number, origin] = [checkOwnInvId(id, "id"), checkOwnInvId(originId, "originId")];
      if (number === origin) throw new InputError("id", "must not be the InvId of the payment");
      const sum = checkAmount("total", total);
      checkUrl("url", url);
      checkObject("client", buyer);
      const { email, phone } = buyer;
      if (email === undefined && phone === undefined) throw new InputError("client", "needs an email or a phone");
      if (email !== undefined) checkText("client.email", email, 254);
      if (phone !== undefined && !(typeof phone === "string" && /^\+?\d{5,15}$/.test(phone))) {
        throw new InputError("client.phone", "must be 5 to 15 digits as text");
      }
      if (!Array.isArray(vats)) throw new InputError("vats", "must be a list of sums by kind of tax");
      if (!Array.isArray(items)) throw new InputError("items", "must hold 1 to 100 lines");
      const full = items.map((item: ReceiptItem | undefined, index) => {
        if ((item?.paymentMethod ?? "full_payment") !== "full_payment") {
          throw new InputError(`items[${index}].paymentMethod`, "must be full_payment in a second receipt");
        }
        return { ...(item as ReceiptItem), paymentMethod: "full_payment" };
      });
      const sums = (vats as SecondReceiptRequest["vats"]).map((vat, index) => {
        checkObject(`vats[${index}]`, vat);
        const { type, sum: tax } = vat;
        if (!taxes.ru.includes(type)) {
          throw new InputError(`vats[${index}].type`, `must be one of ${taxes.ru.join(", ")}`);
        }
        if (typeof tax !== "string" || !/^\d{1,13}(\.\d{1,2})?$/.test(tax) || toMinor(tax) > toMinor(sum)) {
          throw new InputError(`vats[${index}].sum`, "must be decimal text, at most the total");
        }
        return `{"type":${JSON.stringify(type)},"sum":${tax}}`;
      });
      const json = [
        `{"merchantId":${JSON.stringify(shop.login)},"id":${number},"originId":${origin},"operation":"sell"`,
        `"url":${JSON.stringify(url)},"total":${sum}`,
        receiptJson({ sno, items: full }, sum, "ru").slice(1, -1),
        `"client":${JSON.stringify({ email, phone })}`,
        `"payments":[{"type":2,"sum":${sum}}],"vats":[${sums.join(",")}]}`,
      ].join(",");
      return send("Attach", json);
    },
    status: async (id) =>
      send("Status", `{"merchantId":${JSON.stringify(shop.login)},"id":${checkOwnInvId(id, "id")}}`),
  };
}
