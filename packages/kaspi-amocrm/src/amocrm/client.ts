import { type AmocrmAccount, createAccount } from "./account.ts";
import { type AmocrmCatalogs, createCatalogs } from "./catalogs.ts";
import { type AmocrmContacts, createContacts } from "./contacts.ts";
import { readTokenClaims } from "./hosts.ts";
import { type AmocrmLeads, createLeads } from "./leads.ts";
import { type AmocrmLinks, createLinks } from "./links.ts";
import { type AmocrmNotes, createNotes } from "./notes.ts";
import { type AmocrmSubscriptions, createSubscriptions } from "./subscriptions.ts";
import { type AmocrmOptions, createTransport } from "./transport.ts";

export interface Amocrm extends AmocrmAccount {
  readonly host: string;
  /** When a long-lived token ends: it cannot be refreshed. `undefined` for an OAuth pair, and when the token does not say. */
  readonly tokenEndsAt: Date | undefined;
  readonly leads: AmocrmLeads;
  readonly contacts: AmocrmContacts;
  readonly catalogs: AmocrmCatalogs;
  readonly links: AmocrmLinks;
  readonly notes: AmocrmNotes;
  readonly webhooks: AmocrmSubscriptions;
}

/**
 * Client of the amoCRM API v4. Every method takes one batch; splitting is the caller's, who knows what is safe.
 *
 * @see amocrm.ru/developers, "leads-api", "contacts-api", "catalogs-api", "entity-links-api", "events-and-notes"
 *   (read 2026-01)
 */
export function createAmocrm(options: AmocrmOptions): Amocrm {
  const { host, token, country = "KZ" } = options;
  const transport = createTransport(options);
  return {
    host,
    tokenEndsAt: typeof token === "string" ? readTokenClaims(token).endsAt : undefined,
    leads: createLeads(transport),
    contacts: createContacts(transport, country),
    catalogs: createCatalogs(transport),
    links: createLinks(transport),
    notes: createNotes(transport),
    webhooks: createSubscriptions(transport),
    ...createAccount(transport),
  };
}
