export {
  type Amocrm,
  type AmocrmOptions,
  type BulkResult,
  type CatalogElement,
  type Contact,
  type ContactLink,
  createAmocrm,
  type ElementLink,
  type FieldValue,
  type Lead,
  type LeadChange,
  type ListOptions,
  type NewContact,
  type NewElement,
  type NewLead,
  type NewNote,
  type Note,
  type Pipeline,
} from "./client.ts";
export { type AmocrmConnection, type AmocrmConnectionOptions, createAmocrmConnection } from "./connection.ts";
export { type AmocrmEvent, type AmocrmWebhookOptions, createAmocrmWebhookHandler } from "./webhook.ts";
