import { createHash } from "node:crypto";
import type { KaspiEntry, KaspiOrder } from "../kaspi/order.ts";
import { formatMinor, formatScaled } from "../money.ts";

/** Lines of one article, added up. */
export interface OrderLine {
  readonly sku: string | undefined;
  readonly name: string;
  /** Decimal text: pieces, or kilograms of measurable goods. */
  readonly quantity: string;
  readonly isMeasurable: boolean;
  readonly priceMinor: bigint | undefined;
  readonly totalMinor: bigint | undefined;
}

/** One line per SKU: linking an element a second time would replace the first quantity. Lines without one stay apart. */
export function mergeLines(entries: readonly KaspiEntry[]): readonly OrderLine[] {
  const groups = new Map<string, KaspiEntry[]>();
  for (const entry of entries) {
    const key = entry.sku === undefined ? `entry ${entry.id}` : `sku ${entry.sku}`;
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return [...groups.values()].map((group) => {
    const [first] = group as [KaspiEntry];
    const totals = group.map(({ totalMinor }) => totalMinor);
    return {
      sku: first.sku,
      name: first.name,
      quantity: formatScaled(
        group.reduce((sum, { quantityMicro }) => sum + quantityMicro, 0n),
        6,
      ),
      isMeasurable: group.every(({ isMeasurable }) => isMeasurable),
      priceMinor: group.every(({ priceMinor }) => priceMinor === first.priceMinor) ? first.priceMinor : undefined,
      totalMinor: totals.includes(undefined)
        ? undefined
        : totals.reduce((sum: bigint, total) => sum + (total ?? 0n), 0n),
    };
  });
}

/** First line of our note: tells it from other notes of the lead. */
export const noteMarker = (order: Pick<KaspiOrder, "shop" | "code">, showShop: boolean): string =>
  `Заказ Kaspi ${order.code}${showShop ? ` (${order.shop})` : ""}`;

/** The summary that managers read: goods with sold prices, exact sum, delivery. Without the status, which is the stage. */
export function noteText(order: KaspiOrder, lines: readonly OrderLine[], showShop: boolean): string {
  const money = (minor: bigint | undefined) => (minor === undefined ? "?" : `${formatMinor(minor)} ₸`);
  const goods = lines.map(({ sku, name, quantity, isMeasurable, priceMinor, totalMinor }) => {
    const unit = isMeasurable ? " кг" : "";
    const price = priceMinor === undefined ? "" : ` × ${money(priceMinor)}`;
    return `${name}${sku === undefined ? "" : ` [${sku}]`}: ${quantity}${unit}${price} = ${money(totalMinor)}`;
  });
  return [
    noteMarker(order, showShop),
    ...goods,
    `Итого: ${money(order.totalMinor)}`,
    ...(order.deliveryMode ? [`Доставка: ${order.deliveryMode}`] : []),
    ...(order.deliveryAddress ? [`Адрес: ${order.deliveryAddress}`] : []),
    ...(order.paymentMode ? [`Оплата: ${order.paymentMode}`] : []),
  ].join("\n");
}

export const fingerprint = (...parts: readonly unknown[]): string =>
  createHash("sha256")
    .update(JSON.stringify(parts, (_key, value) => (typeof value === "bigint" ? `${value}` : value)))
    .digest("hex");

/** What an order shows without its lines. A line that is taken out changes the total. */
export const headFingerprint = ({ state, status, totalMinor }: KaspiOrder): string =>
  fingerprint(state, status, totalMinor);

/** Changes when anything changes that the CRM should show. The phone is left out: it may be hidden and open again. */
export const orderFingerprint = (order: KaspiOrder, note: string): string =>
  `${headFingerprint(order)}:${fingerprint(note)}`;

const finalStatuses: readonly string[] = ["COMPLETED", "CANCELLED", "RETURNED"];
export const isFinal = ({ status }: Pick<KaspiOrder, "status">): boolean => finalStatuses.includes(status);
