import { toE164 } from "@orderbridge/core/phone";
import { toMinor, toScaled } from "../money.ts";

/** The folders of the seller cabinet; the API lists one at a time. In the order in which an order passes them. */
export const kaspiStates = ["SIGN_REQUIRED", "NEW", "PICKUP", "DELIVERY", "KASPI_DELIVERY", "ARCHIVE"] as const;
export type KaspiState = (typeof kaspiStates)[number];

/** The milestones known from the partner guide. New ones may appear, so orders carry plain text. */
export const kaspiStatuses = [
  "APPROVED_BY_BANK",
  "ACCEPTED_BY_MERCHANT",
  "COMPLETED",
  "CANCELLED",
  "CANCELLING",
  "KASPI_DELIVERY_RETURN_REQUESTED",
  "RETURN_ACCEPTED_BY_MERCHANT",
  "RETURNED",
] as const;

/** One line of an order. */
export interface KaspiEntry {
  readonly id: string;
  readonly entryNumber: number | undefined;
  /** The seller's own article; absent in older answers. */
  readonly sku: string | undefined;
  readonly name: string;
  /**
   * Millionths of a unit: pieces × 1 000 000, or for measurable goods grams × 1 000 (the unit is then a kilogram).
   * Integers, so that lines of one SKU add up exactly.
   */
  readonly quantityMicro: bigint;
  readonly isMeasurable: boolean;
  /** Price of one unit in tiyn. */
  readonly priceMinor: bigint | undefined;
  /** Total of the line in tiyn. For measurable goods it is price × weight, not price × pieces. */
  readonly totalMinor: bigint | undefined;
}

export interface KaspiOrder {
  readonly shop: string;
  /** Path id. Opaque: never built from the code. */
  readonly id: string;
  readonly code: string;
  readonly state: string;
  readonly status: string;
  /** Moment of checkout; `undefined` when the answer holds none that can be read. */
  readonly createdAt: Date | undefined;
  readonly approvedAt: Date | undefined;
  readonly totalMinor: bigint | undefined;
  /** E.164; `undefined` while Kaspi hides it. */
  readonly phone: string | undefined;
  readonly customerName: string | undefined;
  readonly signatureRequired: boolean;
  readonly preOrder: boolean;
  readonly assembled: boolean;
  readonly deliveryMode: string | undefined;
  readonly deliveryAddress: string | undefined;
  readonly paymentMode: string | undefined;
  readonly cancellationReason: string | undefined;
  /** `undefined` when the answer did not bring them: ask `entries(order.id)`. */
  readonly entries: readonly KaspiEntry[] | undefined;
}

/** A JSON:API resource with whatever attributes it has: every one may be missing. */
export interface Resource {
  readonly id: string;
  readonly type?: string | undefined;
  readonly attributes?: Readonly<Record<string, unknown>> | undefined;
  readonly relationships?: Readonly<Record<string, unknown>> | undefined;
}

/** Reads an order; `included` holds the entries that its relationships point at. */
export function readOrder(resource: Resource, included: ReadonlyMap<string, Resource>, shop: string): KaspiOrder {
  const attributes = resource.attributes ?? {};
  const customer = record(attributes.customer);
  const names = [customer.lastName, customer.firstName].map(text).filter((name) => name !== undefined);
  const links = record(resource.relationships?.entries).data;
  const entries = Array.isArray(links) ? links.map((link) => included.get(String(record(link).id))) : undefined;
  return {
    shop,
    id: resource.id,
    code: text(attributes.code) ?? resource.id,
    state: text(attributes.state) ?? "",
    status: text(attributes.status) ?? "",
    createdAt: instant(attributes.creationDate),
    approvedAt: instant(attributes.approvedByBankDate),
    totalMinor: toMinor(attributes.totalPrice),
    phone: toE164(text(customer.cellPhone), { country: "KZ" }),
    customerName: names.length > 0 ? names.join(" ") : text(customer.name),
    signatureRequired: attributes.signatureRequired === true,
    preOrder: attributes.preOrder === true,
    assembled: attributes.assembled === true,
    deliveryMode: text(attributes.deliveryMode),
    deliveryAddress: text(record(attributes.deliveryAddress).formattedAddress),
    paymentMode: text(attributes.paymentMode),
    cancellationReason: text(attributes.cancellationReason),
    entries:
      entries && entries.length > 0 && entries.every((entry) => entry !== undefined)
        ? entries.map(readEntry)
        : undefined,
  };
}

export function readEntry(resource: Resource): KaspiEntry {
  const attributes = resource.attributes ?? {};
  const offer = record(attributes.offer);
  const grams = toScaled(attributes.weight, 3) ?? 0n;
  const isMeasurable = /^MEASURABLE/.test(text(attributes.unitType) ?? "") && grams > 0n;
  const number = toScaled(attributes.entryNumber, 0);
  return {
    id: resource.id,
    entryNumber: number === undefined ? undefined : Number(number),
    sku: text(offer.code),
    name: text(offer.name) ?? text(record(attributes.category).title) ?? "?",
    quantityMicro: isMeasurable ? grams : (toScaled(attributes.quantity, 6) ?? 0n),
    isMeasurable,
    priceMinor: toMinor(attributes.basePrice),
    totalMinor: toMinor(attributes.totalPrice),
  };
}

const text = (value: unknown): string | undefined =>
  typeof value === "string" ? value.trim() || undefined : typeof value === "number" ? String(value) : undefined;

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};

function instant(value: unknown): Date | undefined {
  const milliseconds = Number(toScaled(value, 0) ?? 0n);
  const date = new Date(milliseconds);
  return milliseconds > 0 && !Number.isNaN(date.getTime()) ? date : undefined;
}
