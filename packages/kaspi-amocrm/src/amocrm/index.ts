export type { AmocrmAccount, AmocrmChange, CustomField, EventQuery, Pipeline } from "./account.ts";
export type { AmocrmCatalogs, CatalogElement, NewElement } from "./catalogs.ts";
export { type Amocrm, createAmocrm } from "./client.ts";
export { type AmocrmConnection, type AmocrmConnectionOptions, createAmocrmConnection } from "./connection.ts";
export type { AmocrmContacts, Contact, ContactChange, NewContact } from "./contacts.ts";
export {
  type AmocrmEvent,
  type EventInbox,
  type HandleEventsOptions,
  handleAmocrmEvents,
  type WaitingEvent,
} from "./events.ts";
export type { FieldValue } from "./fields.ts";
export type { AmocrmLeads, Lead, LeadChange, NewLead } from "./leads.ts";
export type { AmocrmLinks, ContactLink, ElementLink } from "./links.ts";
export type { AmocrmNotes, NewNote, Note } from "./notes.ts";
export type { AmocrmSubscription, AmocrmSubscriptions } from "./subscriptions.ts";
export type { AmocrmOptions, BulkResult, ListOptions } from "./transport.ts";
export { type AmocrmWebhookOptions, createAmocrmWebhookHandler } from "./webhook.ts";
