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
  /**
   * A second lead carries an order's code; `leadId` is the ledger's. `isClosed`: it got a note and was closed. Else it is
   * somebody else's, older than the order or than the ledger's lead, or amoCRM refuses to close it: say which of the two
   * counts.
   */
  | {
      readonly kind: "twin";
      readonly isClosed: boolean;
      readonly shop: string;
      readonly code: string;
      readonly leadId: string;
      readonly twinId: string;
    }
  /** The list of goods is refused or gone: orders come without their goods, which are in the note. */
  | { readonly kind: "catalog"; readonly catalogId: string }
  /** A long-lived token ends soon, and nothing refreshes it: make a new one in the integration's keys tab. */
  | { readonly kind: "token"; readonly endsAt: Date }
  /** A vendor refuses every call: 401 the token is wrong or revoked, 402 the account is not paid for, 403 a right is missing. */
  | { readonly kind: "refused"; readonly vendor: string; readonly status: number }
  /** No import of the shop has ended since then. */
  | { readonly kind: "silence"; readonly shop: string; readonly since: Date };

export interface Alerts {
  /** Tells it unless it was told before. */
  raise(alert: KaspiAmocrmAlert): void;
  /** The trouble that all these fields fit is over: when it comes again, it is told again. */
  clear(over: { readonly kind: KaspiAmocrmAlert["kind"]; readonly shop?: string; readonly vendor?: string }): void;
}

/** Tells each trouble once while it lasts, to the log and to `onAlert`, whose own failures hold nobody up. */
export function createAlerts({
  logger,
  onAlert,
}: {
  readonly logger: Logger;
  readonly onAlert: ((alert: KaspiAmocrmAlert) => void | Promise<void>) | undefined;
}): Alerts {
  const told = new Map<string, KaspiAmocrmAlert>();
  return {
    raise(alert) {
      const { kind } = alert;
      const key = kind === "silence" ? `${kind} ${alert.shop}` : JSON.stringify(alert);
      if (told.has(key)) return;
      if (kind !== "parked") told.set(key, alert); // that happens once, until the order succeeds
      // "code" is a name that logs leave out, since it may be one of consent.
      const { code: order, ...fields } = { code: undefined, ...alert };
      logger.error(`kaspi-amocrm: ${kind}, a person should look`, { ...fields, ...(order !== undefined && { order }) });
      const failed = (error: unknown) => logger.error("kaspi-amocrm: onAlert failed", { error });
      try {
        Promise.resolve(onAlert?.(alert)).catch(failed);
      } catch (error) {
        failed(error);
      }
    },
    clear(over) {
      for (const [key, alert] of told) {
        const fields: Readonly<Record<string, unknown>> = { ...alert };
        if (Object.entries(over).every(([name, value]) => fields[name] === value)) told.delete(key);
      }
    },
  };
}
