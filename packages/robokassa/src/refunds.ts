import { ApiError, ConfigError, parseJson, SdkError } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount, fromMinor, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import { encodeJwt } from "./jwt.ts";
import { invoiceItemsJson, type ReceiptItem } from "./receipt.ts";
import type { Robokassa } from "./robokassa.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { type Order, payable, type Refund, type RobokassaStorage } from "./storage.ts";

export interface RefundRequest {
  /** Robokassa's id of the paid operation. */
  readonly opKey: string;
  /** Decimal text. Left out: all of it. */
  readonly amount?: string;
  /** What is given back, for the receipt of the refund; lines with the price of a piece, which add up to `amount`. */
  readonly items?: readonly ReceiptItem[];
}

/** Refunds need password 3 and are asynchronous. Prefer {@link refundOrder}: Robokassa has no idempotency key. */
export interface Refunds {
  /** Asks for a refund, once: it is never repeated by itself. @throws {ApiError} with Robokassa's message as `vendorCode` */
  create(request: RefundRequest): Promise<{ readonly requestId: string }>;
  /** `undefined` for a request that Robokassa does not know. */
  state(requestId: string): Promise<"finished" | "processing" | "canceled" | undefined>;
}

const created = v.object({
  success: v.boolean(),
  message: v.nullish(v.string()),
  requestId: v.nullish(v.pipe(v.string(), v.regex(/^[\w-]{1,100}$/))),
});

const stateSchema = v.union([
  v.object({ label: v.picklist(["finished", "processing", "canceled"]) }),
  v.pipe(
    v.object({ message: v.string() }),
    v.transform(() => undefined),
  ),
]);

/** @see docs.robokassa.ru, "Refunds" (read 2025-11); body as in the official WordPress plugin of summer 2026 */
export function createRefunds(shop: Shop): Refunds {
  const client = createServiceClient(shop, "services");
  const { refundBody = "json" } = shop.readings;

  return {
    async create({ opKey, amount, items }) {
      if (shop.password3 === undefined) throw new ConfigError("robokassa: refunds need password3");
      if (typeof opKey !== "string" || !/^[\w-]{1,100}$/.test(opKey))
        throw new InputError("opKey", "must be the id of an operation");
      const sum = amount === undefined ? "" : `,"RefundSum":${checkAmount("amount", amount)}`;
      if (items && amount === undefined) throw new InputError("amount", "is needed with items");
      const lines = items ? `,"InvoiceItems":${invoiceItemsJson(items, amount as string, shop.country)}` : "";
      const token = encodeJwt(`{"OpKey":${JSON.stringify(opKey)}${sum}${lines}}`, {
        alg: "HS256",
        algorithm: "sha256",
        key: shop.password3,
      });
      const answer = await client.send({
        name: "Refund/Create",
        method: "POST",
        path: "/RefundService/Refund/Create",
        headers: { "content-type": refundBody === "json" ? "application/json" : "text/plain" },
        text: refundBody === "json" ? JSON.stringify(token) : token,
      });
      const result = parseJson(answer, created, { vendor: "robokassa", name: "Refund/Create" });
      if (result?.success && result.requestId) return { requestId: result.requestId };
      const vendorCode = result?.message?.slice(0, 100) ?? "";
      throw new ApiError(`robokassa: Refund/Create was refused${vendorCode && `: ${vendorCode}`}`, {
        vendor: "robokassa",
        status: answer.status,
        vendorCode,
        outcome: result?.success === false ? "refused" : "unknown",
      });
    },
    async state(requestId) {
      const answer = await client.request({
        name: "Refund/GetState",
        path: "/RefundService/Refund/GetState",
        query: new URLSearchParams({ id: requestId }),
        schema: stateSchema,
      });
      return answer?.label;
    },
  };
}

export interface RefundOrderOptions {
  readonly robokassa: Pick<Robokassa, "refunds" | "operationState">;
  readonly storage: Pick<RobokassaStorage, "orders" | "refunds">;
  /** Chosen by the shop: the same id is refunded once, however often it is called. */
  readonly id: string;
  readonly invId: string;
  /** Decimal text. @defaultValue what is left of the payment */
  readonly amount?: string;
  /** Fiscal data of what is given back; see {@link RefundRequest}. */
  readonly items?: readonly ReceiptItem[];
}

/**
 * Refunds an order, or a part of it. The refund is stored before Robokassa is asked, so that the sum of all never
 * exceeds the payment; after a lost reply it stays `asking` and is not asked for again: look into the cabinet, then
 * `storage.refunds.settle`. One that was refused, or could not be sent, is asked for anew when it is called again with
 * its id: nothing happened. One that Robokassa canceled later is not; give it another id.
 *
 * @throws {InputError} when there is nothing to refund, or less than `amount`, or `id` names another order's refund; {@link ApiError} when Robokassa says no.
 */
export async function refundOrder({
  robokassa,
  storage,
  id,
  invId,
  amount,
  items,
}: RefundOrderOptions): Promise<Refund> {
  if (typeof id !== "string" || id === "" || id.length > 191)
    throw new InputError("id", "must have 1 to 191 characters");
  const known = await storage.refunds.get(id);
  if (known && known.state !== "refused") return ofOrder(known, invId);
  const order = await storage.orders.getByInvId(invId);
  if (!order) throw new InputError("invId", "is the number of no order");
  const left = fromMinor(toMinor(payable(order)) - toMinor(order.refunded));
  if (toMinor(left) === 0n) throw new InputError("invId", "is of a payment that is refunded already or about to be");
  const sum = amount === undefined ? left : fromMinor(toMinor(checkAmount("amount", amount)));
  const opKey = order.opKey ?? (await findOpKey(robokassa, order));

  const begun = await storage.refunds.begin({ id, invId, amount: sum });
  if (begun.state === "known") return ofOrder(begun.refund, invId);
  if (begun.state === "exceeds") throw new InputError("amount", `is more than what is left of the payment: ${left}`);
  if (begun.state !== "begun") throw new InputError("invId", "is the number of an order that is not paid");
  try {
    const { requestId } = await robokassa.refunds.create({ opKey, amount: sum, ...(items ? { items } : {}) });
    return (await storage.refunds.settle(id, { state: "processing", requestId })) ?? begun.refund;
  } catch (error) {
    const nothingHappened =
      SdkError.isInstance(error) && (error.outcome === "refused" || error.outcome === "not-executed");
    if (nothingHappened) await storage.refunds.settle(id, { state: "refused" });
    throw error;
  }
}

function ofOrder(refund: Refund, invId: string): Refund {
  if (refund.invId !== invId) throw new InputError("id", "is the id of another order's refund");
  return refund;
}

async function findOpKey({ operationState }: Pick<Robokassa, "operationState">, { invId }: Order): Promise<string> {
  const state = await operationState(invId);
  if (state.found && state.opKey) return state.opKey;
  throw new InputError("invId", "has no operation at Robokassa that could be refunded");
}

/**
 * Asks about every refund under way, the oldest first, and stores how they ended. Gives the number of those that ended;
 * one that cannot be asked about, or never ends, does not hold up the others: its error is thrown after them.
 */
export async function refreshRefunds({
  robokassa,
  storage,
  limit = 50,
}: {
  readonly robokassa: Pick<Robokassa, "refunds">;
  readonly storage: Pick<RobokassaStorage, "refunds">;
  /** Refunds that are read from the storage at once. @defaultValue 50 */
  readonly limit?: number;
}): Promise<number> {
  let ended = 0;
  let failure: { readonly error: unknown } | undefined;
  let last: Refund | undefined;
  do {
    const page: readonly Refund[] = await storage.refunds.open(limit, "processing", last);
    last = page.at(-1);
    for (const { id, requestId } of page) {
      if (requestId === undefined) continue;
      try {
        const now = await robokassa.refunds.state(requestId);
        if (now !== "finished" && now !== "canceled") continue;
        await storage.refunds.settle(id, { state: now });
        ended++;
      } catch (error) {
        failure ??= { error };
      }
    }
  } while (last);
  if (failure) throw failure.error;
  return ended;
}
