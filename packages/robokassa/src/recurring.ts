import { ApiError, SdkError } from "@orderbridge/core";
import { checkAmount, sameAmount } from "./amount.ts";
import { checkText, InputError } from "./errors.ts";
import { checkOwnInvId } from "./inv-id.ts";
import { operationState } from "./operation-state.ts";
import { type Receipt, receiptField } from "./receipt.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { prepareShp } from "./shp.ts";
import { sign, signatureBase } from "./signature.ts";

export interface RecurringCharge {
  /** A new number, stored with an order of its own. */
  readonly invId: string | bigint;
  /** The payment that was started with `recurring: true`. */
  readonly previousInvId: string | bigint;
  readonly outSum: string;
  readonly description: string;
  readonly receipt?: Receipt;
  readonly shp?: Readonly<Record<string, string>>;
}

/** Further payments with the card of an earlier one. By agreement with Robokassa; no test mode. */
export interface Recurring {
  /**
   * Asks for a charge. Resolving means accepted, not paid: ResultURL or a state query tells the end.
   *
   * @throws {ApiError} when Robokassa says no
   */
  charge(charge: RecurringCharge): Promise<void>;
}

/**
 * Signed text: `MerchantLogin:OutSum:InvoiceID[:Receipt]:Password1[:Shp]`; the earlier number is not part of it. Answer:
 * `OK<InvoiceID>`, also seen as `OK+<InvoiceID>`.
 *
 * @see docs.robokassa.ru, "Recurring payments" (read 2025-11)
 */
export function createRecurring(shop: Shop): Recurring {
  const client = createServiceClient(shop, "payment");
  return {
    async charge({ invId, previousInvId, outSum, description, receipt, shp = {} }) {
      // It would take real money.
      if (shop.test) throw new InputError("test", "mode has no recurring charges");
      const number = checkOwnInvId(invId);
      const previous = checkOwnInvId(previousInvId, "previousInvId");
      if (number === previous) throw new InputError("invId", "must be a new number");
      const sum = checkAmount("outSum", outSum);
      const encoded = receipt && receiptField(shop, receipt, sum);
      const pairs = prepareShp(shp, shop.readings.shpOrder);
      const base = signatureBase(
        [shop.login, sum, number, encoded, shop.live.password1],
        pairs.map((pair) => pair.join("=")),
      );
      const form = new URLSearchParams({
        MerchantLogin: shop.login,
        InvoiceID: number,
        PreviousInvoiceID: previous,
        Description: checkText("description", description, 100),
        OutSum: sum,
        ...(encoded === undefined ? {} : { Receipt: encoded }),
        SignatureValue: sign(base, shop.algorithm),
        ...Object.fromEntries(pairs),
      });
      try {
        const { status, text } = await client.send({
          name: "Recurring",
          method: "POST",
          path: "/Merchant/Recurring",
          form,
        });
        if (new RegExp(`^OK\\+?${number}$`).test(text.trim())) return;
        // The documents give no form of a refusal; this one is believed. Whatever else came, the charge may have run.
        const isRefusal = /^\s*ERROR\b/i.test(text);
        throw new ApiError(`robokassa: Recurring ${isRefusal ? "was refused" : "answered something else"}`, {
          vendor: "robokassa",
          status,
          vendorCode: /^\s*</.test(text) ? undefined : text.slice(0, 100),
          outcome: isRefusal ? "refused" : "unknown",
        });
      } catch (error) {
        const isUnclear = SdkError.isInstance(error) && (error.outcome === "unknown" || error.outcome === "executed");
        if (!isUnclear) throw error;
        // A charge that exists must not be asked for again. One of another sum is a former order's.
        const state = await operationState(shop, number).catch(() => undefined);
        if (!state?.found || (state.outSum !== undefined && !sameAmount(state.outSum, sum))) throw error;
      }
    },
  };
}
