import { type Clock, type FetchHandler, type Logger, redactingLogger, systemClock } from "@orderbridge/core";
import * as v from "valibot";
import { bitrixOrderStatuses } from "./order-statuses.ts";
import { type ChangedOrder, changeOrder, updateOrder } from "./orders.ts";
import type { BitrixStorage, Order } from "./storage.ts";
import { createWebhookReceiver, idSchema, instantSchema, json, versionSchema, yesSchema } from "./webhook-request.ts";

export interface OrderStatusHandlerOptions {
  readonly storage: BitrixStorage;
  /** `X-Webhook-Secret` of the site; several while one is being replaced. */
  readonly secrets: readonly string[];
  /** @defaultValue bitrixOrderStatuses */
  readonly statuses?: { map(code: string): { readonly status: string } | { readonly unmapped: string } };
  /** What the site's flag `canceled` means here. @defaultValue "cancelled" */
  readonly cancelledStatus?: string;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
}

const bodySchema = v.object({
  order_id: idSchema,
  status: v.pipe(v.string("must be the code of a status"), v.regex(/^[A-Za-z]{1,2}$/, "must be one or two letters")),
  paid: v.optional(yesSchema),
  canceled: v.optional(yesSchema),
  version: v.optional(versionSchema),
  changed_at: v.optional(instantSchema),
});
type StatusChange = v.InferOutput<typeof bodySchema>;

/** Who the history names for a change that the site told of. */
const changedBy = "bitrix";

/**
 * Receives a change of an order on the site and applies it to ours, found by its Bitrix order id.
 *
 * Body: `{order_id, status, paid?, canceled?, version?, changed_at?}`. The answer is 200 `{"status":"success", …}` when the
 * order is now as the site says, 200 `ignored` with the reason `stale` or `unmapped_status`, 401 for a wrong secret, 404
 * for an order that is not known yet (the site sends again later), and 422 that names the field. `canceled` is a flag of
 * its own on the site and means `cancelledStatus`, whatever the code. `paid` is booked also with a status that has no
 * mapping. Send `version`: without it a repeated delivery cannot be told from a new change to the same status.
 */
export function createOrderStatusHandler(options: OrderStatusHandlerOptions): FetchHandler {
  const {
    storage,
    secrets,
    statuses = bitrixOrderStatuses,
    cancelledStatus = "cancelled",
    clock = systemClock,
  } = options;
  const logger = redactingLogger(options.logger ?? console);

  type Applied = ChangedOrder & { readonly ignored?: "stale" | "unmapped_status" };

  function apply(order: Order, change: StatusChange): Applied {
    if (isStale(order, change)) return { order, changes: [], ignored: "stale" };
    if (isRepetition(order, change)) return { order, changes: [] };
    // Seen, whatever becomes of it: something older that comes later must not be applied.
    const seen = markSeen(order, change);
    const mapped = change.canceled ? { status: cancelledStatus } : statuses.map(change.status);
    const by = { changedBy, at: change.changed_at ?? clock.now() };
    const paid = paymentOf(order, change);
    // Money is no matter of the status: it is booked whatever the code means.
    if ("unmapped" in mapped) return { ...changeOrder(seen, { paid }, by), ignored: "unmapped_status" };
    return changeOrder(seen, { status: mapped.status, paid }, by);
  }

  return createWebhookReceiver({
    secrets,
    logger,
    schema: bodySchema,
    async receive(change) {
      const result = await updateOrder(
        storage,
        (stores) => stores.orders.getByBitrixOrderId(change.order_id),
        (order) => apply(order, change),
      );
      if (!result) {
        logger.warn("bitrix: status of an order that is not known here", { bitrixOrderId: change.order_id });
        return json(404, { detail: "Order not found" });
      }
      const { order, before, changes, ignored } = result;
      if (ignored) {
        logger.warn(`bitrix: order status ignored: ${ignored}`, {
          bitrixOrderId: change.order_id,
          status: change.status,
        });
        return json(200, { status: "ignored", reason: ignored });
      }
      logger.info("bitrix: order status received", { orderId: order.id, from: before.status, to: order.status });
      return json(200, {
        status: "success",
        order_id: order.id,
        bitrix_order_id: change.order_id,
        old_status: before.status,
        new_status: order.status,
        changed: changes.length > 0,
      });
    },
  });
}

/** Older than what was taken over. The site's counter decides where both have one, else the time of the change. */
function isStale(order: Order, { version, changed_at: changedAt }: StatusChange): boolean {
  if (version !== undefined && order.siteVersion !== undefined) return version < order.siteVersion;
  return changedAt !== undefined && order.siteChangedAt !== undefined && changedAt < order.siteChangedAt;
}

/** The very state that was taken over: it must not undo what changed here since. */
function isRepetition(order: Order, { version, changed_at: changedAt }: StatusChange): boolean {
  const isLater = changedAt !== undefined && order.siteChangedAt !== undefined && changedAt > order.siteChangedAt;
  return version !== undefined && version === order.siteVersion && !isLater;
}

function markSeen(order: Order, { version, changed_at: changedAt }: StatusChange): Order {
  const siteVersion = version ?? order.siteVersion;
  const siteChangedAt = changedAt ?? order.siteChangedAt;
  return siteVersion === order.siteVersion && siteChangedAt?.getTime() === order.siteChangedAt?.getTime()
    ? order
    : { ...order, siteVersion, siteChangedAt };
}

/** "Not paid" of the site takes back only what the site itself had said: a payment booked elsewhere is not its to undo. */
function paymentOf(order: Order, { paid }: StatusChange): boolean | undefined {
  return paid === false && order.paidBy !== changedBy ? undefined : paid;
}
