import { parseJson } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import { checkOwnInvId } from "./inv-id.ts";
import { type ReceiptItem, receiptJson } from "./receipt.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { sign } from "./signature.ts";

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
  readonly client: { readonly email?: string; readonly phone?: string };
  /** Sums of tax by kind, decimal text. */
  readonly vats: readonly { readonly type: string; readonly sum: string }[];
}

export interface SecondReceiptState {
  /** `accepted` 0, `waiting` 1, `registered` 2, `failed` 3, `internal` 1000 and any other. */
  readonly state: "accepted" | "waiting" | "registered" | "failed" | "internal";
  readonly code: string;
  readonly fiscalDocumentNumber: string | undefined;
}

/** The final receipt after a prepayment; a Russian duty. At most two receipts per payment. */
export interface SecondReceipt {
  attach(request: SecondReceiptRequest): Promise<SecondReceiptState>;
  status(id: string | bigint): Promise<SecondReceiptState>;
}

const digits = v.pipe(v.union([v.string(), v.number()]), v.transform(String));
const answerSchema = v.object({ ResultCode: digits, FiscalDocumentNumber: v.nullish(digits) });
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
      fiscalDocumentNumber: result?.FiscalDocumentNumber ?? undefined,
    };
  }

  return {
    async attach({ id, originId, sno, url, total, items, client: buyer, vats }) {
      const [number, origin] = [checkOwnInvId(id), checkOwnInvId(originId)];
      if (number === origin) throw new InputError("id", "must not be the InvId of the payment");
      const sum = checkAmount("total", total);
      const wrong = items.findIndex(({ paymentMethod = "full_payment" }) => paymentMethod !== "full_payment");
      if (wrong >= 0) throw new InputError(`items[${wrong}].paymentMethod`, "must be full_payment in a second receipt");
      const full = items.map((item) => ({ ...item, paymentMethod: "full_payment" }));
      const taxes = vats.map(({ type, sum: tax }, index) => {
        if (!/^\d{1,13}(\.\d{1,2})?$/.test(tax) || toMinor(tax) > toMinor(sum)) {
          throw new InputError(`vats[${index}].sum`, "must be decimal text, at most the total");
        }
        return `{"type":${JSON.stringify(type)},"sum":${tax}}`;
      });
      const { email, phone } = buyer;
      const json = [
        `{"merchantId":${JSON.stringify(shop.login)},"id":${number},"originId":${origin},"operation":"sell"`,
        `"url":${JSON.stringify(url)},"total":${sum}`,
        receiptJson({ sno, items: full }, sum, "ru").slice(1, -1),
        `"client":${JSON.stringify({ email, phone })}`,
        `"payments":[{"type":2,"sum":${sum}}],"vats":[${taxes.join(",")}]}`,
      ].join(",");
      return send("Attach", json);
    },
    status: async (id) => send("Status", `{"merchantId":${JSON.stringify(shop.login)},"id":${checkOwnInvId(id)}}`),
  };
}
