import { ApiError, SdkError } from "@orderbridge/core";
import { checkAmount, fromMinor, isLess, isReceivedAmount, sameAmount, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import { checkOwnInvId } from "./inv-id.ts";
import { type OperationState, operationState } from "./operation-state.ts";
import { type Receipt, receiptField } from "./receipt.ts";
import type { Robokassa } from "./robokassa.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { sign, signatureBase } from "./signature.ts";
import { type Order, payable, type RobokassaStorage } from "./storage.ts";

export interface HeldPayment {
  readonly invId: string | bigint;
  /** Decimal text: the sum that is held. A capture may be of less. */
  readonly outSum: string;
}

/** Money that was reserved with `hold: true`; it goes back by itself after seven days. Live payments only. */
export interface Holds {
  /** Takes the money; ResultURL follows and books the payment. @throws {ApiError} when Robokassa says no */
  capture(payment: HeldPayment & { readonly receipt?: Receipt }): Promise<void>;
  /** Gives the money back. @throws {ApiError} when Robokassa says no */
  release(payment: HeldPayment): Promise<void>;
}

type State = (OperationState & { found: true })["state"];

/**
 * Signed texts: capture `MerchantLogin:OutSum:InvoiceID[:Receipt]:Password1`, release
 * `MerchantLogin::InvoiceID:Password1` (the sum is sent, not hashed). The answer is the JSON text `"success: true"`.
 *
 * @see docs.robokassa.ru, "Hold" (read 2025-11); answers as in the tests of the official PHP SDK
 */
export function createHolds(shop: Shop): Holds {
  const client = createServiceClient(shop, "payment");
  const { password1 } = shop.live;

  /** Sends once; after an unclear reply it looks at the payment's state instead of asking again. */
  async function send(name: "Confirm" | "Cancel", form: URLSearchParams, done: readonly State[]): Promise<void> {
    try {
      const { status, text } = await client.send({
        name: `Payment/${name}`,
        method: "POST",
        path: `/Merchant/Payment/${name}`,
        form,
      });
      const [, success] = /^\W*success\W+(true|false)\W*$/i.exec(text.trim()) ?? [];
      if (success?.toLowerCase() === "true") return;
      throw new ApiError(`robokassa: Payment/${name} ${success ? "was refused" : "answered something else"}`, {
        vendor: "robokassa",
        status,
        vendorCode: success ?? "",
        outcome: success ? "refused" : "unknown",
      });
    } catch (error) {
      const isUnclear = SdkError.isInstance(error) && (error.outcome === "unknown" || error.outcome === "executed");
      if (!isUnclear) throw error;
      const state = await operationState(shop, form.get("InvoiceID") ?? "").catch(() => undefined);
      if (!state?.found || !done.includes(state.state)) throw error;
      const sum = form.get("OutSum") ?? "";
      if (name !== "Confirm" || state.outSum === undefined || sameAmount(state.outSum, sum)) return;
      // An earlier call, whose reply was lost as well, has taken another part. More than was asked for tells less: no
      // document says whether the books name the captured part or the sum that was held.
      const isOther = !isReceivedAmount(state.outSum) || isLess(state.outSum, sum);
      const told = isOther ? `${state.outSum} was taken already` : `it is taken, but the books name ${state.outSum}`;
      throw new ApiError(`robokassa: Payment/Confirm: ${told}, not ${sum}`, {
        vendor: "robokassa",
        status: 200,
        vendorCode: "other_sum",
        outcome: isOther ? "refused" : "unknown",
      });
    }
  }

  return {
    async capture({ invId, outSum, receipt }) {
      const number = checkOwnInvId(invId);
      const sum = checkAmount("outSum", outSum);
      const encoded = receipt && receiptField(shop, receipt, sum);
      const form = new URLSearchParams({
        MerchantLogin: shop.login,
        InvoiceID: number,
        OutSum: sum,
        ...(encoded === undefined ? {} : { Receipt: encoded }),
        SignatureValue: sign(signatureBase([shop.login, sum, number, encoded, password1]), shop.algorithm),
      });
      await send("Confirm", form, ["crediting", "paid"]);
    },
    async release({ invId, outSum }) {
      const number = checkOwnInvId(invId);
      const form = new URLSearchParams({
        MerchantLogin: shop.login,
        InvoiceID: number,
        OutSum: checkAmount("outSum", outSum),
        SignatureValue: sign(signatureBase([shop.login, "", number, password1]), shop.algorithm),
      });
      await send("Cancel", form, ["returned", "cancelled"]);
    },
  };
}

export interface CaptureOrderOptions {
  readonly robokassa: Pick<Robokassa, "holds" | "operationState">;
  readonly storage: Pick<RobokassaStorage, "orders">;
  readonly invId: string;
  /** Decimal text; less than the total takes a part, and the rest goes back to the buyer. @defaultValue the order's total */
  readonly amount?: string;
  /** Fiscal data of what is taken. */
  readonly receipt?: Receipt;
}

/**
 * Takes held money, or a part of it. The sum is stored before Robokassa is asked, so that the notification of a part
 * books the order; it can be captured once, and of two calls at one moment one is refused. Another sum than the one that
 * was asked for before is asked for only when Robokassa's books say that the money is still held.
 *
 * @throws {InputError} when the order is not held, captured already, or for less than `amount`; {@link ApiError} when
 *   Robokassa says no; what the state query throws.
 */
export async function captureOrder({ robokassa, storage, invId, amount, receipt }: CaptureOrderOptions): Promise<void> {
  const order = await storage.orders.getByInvId(invId);
  if (!order) throw new InputError("invId", "is the number of no order");
  const outSum = fromMinor(toMinor(checkAmount("amount", amount ?? order.total)));
  if (toMinor(outSum) > toMinor(order.total))
    throw new InputError("amount", `is more than the order's total ${order.total}`);
  const { captured } = order;
  if (order.status === "held" && captured !== undefined && captured !== outSum) {
    // The earlier call may have taken its sum, and this is its only record.
    const state = await robokassa.operationState(invId);
    if (!state.found || state.state !== "held") {
      const taken = takenPart(order, state) ?? captured;
      await storage.orders.keepCapture(invId, taken, captured);
      throw new InputError("invId", `is the number of an order of which ${taken} is captured or was asked for`);
    }
  }
  if (!(await storage.orders.keepCapture(invId, outSum, captured))) {
    const now = await storage.orders.getByInvId(invId);
    const problem = now?.status === "held" ? "is being captured by another call" : "is not held";
    throw new InputError("invId", `is the number of an order that ${problem}`);
  }
  try {
    await robokassa.holds.capture({ invId, outSum, ...(receipt ? { receipt } : {}) });
  } catch (error) {
    // Nothing was taken now; an earlier call whose reply was lost may have taken what it asked for.
    const isRefused = SdkError.isInstance(error) && error.outcome === "refused";
    const state = isRefused ? await robokassa.operationState(invId).catch(() => undefined) : undefined;
    const tookNothing = isRefused || (SdkError.isInstance(error) && error.outcome === "not-executed");
    if (tookNothing) await storage.orders.keepCapture(invId, takenPart(order, state) ?? payable(order), outSum);
    throw error;
  }
}

/**
 * How much of a hold was taken, where Robokassa's books tell: less than the total is a captured part. The total itself
 * tells nothing, since no document says whether it is what was taken or what was held.
 */
function takenPart({ total }: Order, state: OperationState | undefined): string | undefined {
  if (!state?.found || (state.state !== "paid" && state.state !== "crediting")) return undefined;
  const [, sum] = /^(\d{1,15}(?:\.\d{1,2})?)0*$/.exec(state.outSum ?? "") ?? [];
  return sum !== undefined && isLess(sum, total) ? fromMinor(toMinor(sum)) : undefined;
}
