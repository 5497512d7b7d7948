import * as v from "valibot";
import { checkOwnInvId } from "./inv-id.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { sign, signatureBase } from "./signature.ts";
import { decodeXmlText, parseXml } from "./xml.ts";

/** What Robokassa's own books say of a payment. They know no test payments. */
export type OperationState =
  | {
      readonly found: true;
      readonly state: /** 5: the buyer confirmed, money has not come. */
        | "started"
        /** 10: it will not come. */
        | "cancelled"
        /** 20: reserved, waits for capture. */
        | "held"
        /** 50: money came and is being credited; over 20 minutes is a case for support. */
        | "crediting"
        /** 60: money went back to the buyer. */
        | "returned"
        /** 80: stopped for a technical or security reason; ask support. */
        | "suspended"
        /** 100: paid. */
        | "paid"
        /** A number that the documents do not name: wait, and look at `code`. */
        | "unknown";
      /** The number as sent. */
      readonly code: string;
      readonly stateAt: Date | undefined;
      readonly outSum: string | undefined;
      readonly incSum: string | undefined;
      /** Refunds need it. */
      readonly opKey: string | undefined;
      readonly paymentMethod: string | undefined;
      readonly incCurrLabel: string | undefined;
      readonly shp: Readonly<Record<string, string>>;
    }
  | {
      readonly found: false;
      readonly reason: /** 1: password 2 or the algorithm is wrong. */
        | "bad_signature"
        /** 2: no such shop, or it is not active. */
        | "unknown_shop"
        /** 3: the buyer never confirmed payment details, or another InvId was sent. */
        | "not_found"
        /** 4: two operations under one number, one of them a test. */
        | "ambiguous"
        /** 1000 and any other number: ask again later. */
        | "internal";
      readonly code: string;
    };

const states: Readonly<Record<string, (OperationState & { found: true })["state"]>> = {
  5: "started",
  10: "cancelled",
  20: "held",
  50: "crediting",
  60: "returned",
  80: "suspended",
  100: "paid",
};

const reasons: Readonly<Record<string, (OperationState & { found: false })["reason"]>> = {
  1: "bad_signature",
  2: "unknown_shop",
  3: "not_found",
  4: "ambiguous",
};

const text = v.pipe(v.string(), v.transform(decodeXmlText));
/** An empty element is read as `""`. */
const group = <Entries extends v.ObjectEntries>(entries: Entries) =>
  v.optional(
    v.union([
      v.object(entries),
      v.pipe(
        v.literal(""),
        v.transform(() => undefined),
      ),
    ]),
  );

const schema = v.object({
  Result: v.object({ Code: v.pipe(v.string(), v.regex(/^\d{1,9}$/)) }),
  State: group({ Code: v.pipe(v.string(), v.regex(/^\d{1,9}$/)), StateDate: v.optional(v.string()) }),
  Info: group({
    IncCurrLabel: v.optional(text),
    IncSum: v.optional(text),
    OutSum: v.optional(text),
    OpKey: v.optional(text),
    PaymentMethod: group({ Code: v.optional(text) }),
  }),
  UserField: group({ Field: v.optional(v.array(v.object({ Name: text, Value: text }))) }),
});

/**
 * Asks for the state of a payment (`OpStateExt`). Signed text: `MerchantLogin:InvoiceID:Password2`.
 *
 * @throws {InputError} for an InvId that is none; {@link RequestError}, {@link ApiError}, {@link ResponseShapeError}.
 * @see docs.robokassa.ru, "XML interfaces" (read 2025-11)
 */
export async function operationState(shop: Shop, invId: string | bigint): Promise<OperationState> {
  const number = checkOwnInvId(invId);
  const { text: xml } = await createServiceClient(shop, "state").send({
    name: "OpStateExt",
    path: "/Merchant/WebService/Service.asmx/OpStateExt",
    query: new URLSearchParams({
      MerchantLogin: shop.login,
      InvoiceID: number,
      Signature: sign(signatureBase([shop.login, number, shop.live.password2]), shop.algorithm),
    }),
  });
  const { Result, State, Info, UserField } = parseXml(xml, { schema, name: "OpStateExt" });
  if (Result.Code !== "0") return { found: false, reason: reasons[Result.Code] ?? "internal", code: Result.Code };
  const stateAt = State?.StateDate === undefined ? Number.NaN : Date.parse(State.StateDate);
  return {
    found: true,
    state: states[State?.Code ?? ""] ?? "unknown",
    code: State?.Code ?? "",
    stateAt: Number.isNaN(stateAt) ? undefined : new Date(stateAt),
    outSum: Info?.OutSum || undefined,
    incSum: Info?.IncSum || undefined,
    opKey: Info?.OpKey || undefined,
    paymentMethod: Info?.PaymentMethod?.Code || undefined,
    incCurrLabel: Info?.IncCurrLabel || undefined,
    shp: Object.fromEntries((UserField?.Field ?? []).map(({ Name, Value }) => [Name, Value])),
  };
}
