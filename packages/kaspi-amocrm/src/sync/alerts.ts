import type { Logger } from "@orderbridge/core";

/** Something that a person should know of, or must act on. */
export type KaspiAmocrmAlert =
  /** amoCRM refused the refresh token: an administrator must consent again. */
  | { readonly kind: "consent" }
  /** A vendor shut the account out: write to its support, then `unblock`. */
  | { readonly kind: "block"; readonly vendor: string }
  /** A status that `statusMap` does not name: leads of such orders stay where they are. */
  | { readonly kind: "unmapped"; readonly state: string; readonly status: string }
  /** An order failed again and again; from now on it is tried hourly. */
  | { readonly kind: "parked"; readonly shop: string; readonly code: string; readonly reason: string }
  /** A second lead carried an order's code. It got a note and was closed; `leadId` is the one that stays. */
  | {
      readonly kind: "twin";
      readonly shop: string;
      readonly code: string;
      readonly leadId: string;
      readonly twinId: string;
    }
  /** The list of goods is refused or gone: orders come without their goods, which are in the note. */
  | { readonly kind: "catalog"; readonly catalogId: string }
  /** A long-lived token ends soon, and nothing refreshes it: make a new one in the integration's keys tab. */
  | { readonly kind: "token"; readonly endsAt: Date }
  /** No import of the shop has ended since then. */
  | { readonly kind: "silence"; readonly shop: string; readonly since: Date };

export interface Alerts {
  /** Tells it unless it was told before. */
  raise(alert: KaspiAmocrmAlert): void;
  /** The trouble is over: when it comes again, it is told again. */
  clear(kind: KaspiAmocrmAlert["kind"], shop?: string): void;
}

/** Tells each trouble once while it lasts, to the log and to `onAlert`, whose own failures hold nobody up. */
export function createAlerts({
  logger,
  onAlert,
}: {
  readonly logger: Logger;
  readonly onAlert: ((alert: KaspiAmocrmAlert) => void) | undefined;
}): Alerts {
  const told = new Map<string, KaspiAmocrmAlert>();
  return {
    raise(alert) {
      const { kind } = alert;
      const key = kind === "silence" ? `${kind} ${alert.shop}` : JSON.stringify(alert);
      if (told.has(key)) return;
      if (kind !== "parked") told.set(key, alert); // that happens once, until the order succeeds
      logger.error(`kaspi-amocrm: ${kind}, a person should look`, { ...alert });
      try {
        onAlert?.(alert);
      } catch (error) {
        logger.error("kaspi-amocrm: onAlert failed", { error });
      }
    },
    clear(kind, shop) {
      for (const [key, alert] of told) {
        if (alert.kind === kind && (alert.kind !== "silence" || alert.shop === shop)) told.delete(key);
      }
    },
  };
}
