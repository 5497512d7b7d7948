import * as v from "valibot";
import { linkSchema } from "./schemas.ts";
import type { AmocrmTransport } from "./transport.ts";

export interface ElementLink {
  readonly leadId: string;
  readonly elementId: string;
  readonly catalogId: string;
  /** Decimal text, e.g. `"3.8"`. */
  readonly quantity: string;
}

export interface ContactLink {
  readonly leadId: string;
  readonly contactId: string;
}

export interface AmocrmLinks {
  /** Catalog elements linked to leads. */
  elements(leadIds: readonly string[]): Promise<readonly ElementLink[]>;
  linkElements(links: readonly ElementLink[]): Promise<void>;
  unlinkElements(links: readonly Omit<ElementLink, "quantity">[]): Promise<void>;
  linkContacts(links: readonly ContactLink[]): Promise<void>;
}

export function createLinks({ request, send }: AmocrmTransport): AmocrmLinks {
  return {
    async elements(leadIds) {
      const query = new URLSearchParams(leadIds.map((id): [string, string] => ["filter[entity_id][]", id]));
      query.set("filter[to_entity_type]", "catalog_elements");
      const answer = await request({
        name: "links.list",
        path: "/leads/links",
        query,
        schema: v.object({ _embedded: v.object({ links: v.array(linkSchema) }) }),
      });
      return (answer?._embedded.links ?? []).flatMap((link) => {
        const catalogId = link.metadata?.catalog_id;
        if (link.to_entity_type !== "catalog_elements" || !link.entity_id || !link.to_entity_id || !catalogId)
          return [];
        const quantity = String(link.metadata?.quantity ?? 0);
        return [{ leadId: link.entity_id, elementId: link.to_entity_id, catalogId, quantity }];
      });
    },
    async linkElements(links) {
      await send({
        name: "links.create",
        method: "POST",
        path: "/leads/link",
        json: links.map(({ leadId, elementId, catalogId, quantity }) => ({
          entity_id: Number(leadId),
          to_entity_id: Number(elementId),
          to_entity_type: "catalog_elements",
          metadata: { catalog_id: Number(catalogId), quantity: Number(quantity) },
        })),
      });
    },
    async unlinkElements(links) {
      await send({
        name: "links.remove",
        method: "POST",
        path: "/leads/unlink",
        safe: true, // what is unlinked twice is unlinked
        json: links.map(({ leadId, elementId, catalogId }) => ({
          entity_id: Number(leadId),
          to_entity_id: Number(elementId),
          to_entity_type: "catalog_elements",
          metadata: { catalog_id: Number(catalogId) },
        })),
      });
    },
    async linkContacts(links) {
      await send({
        name: "links.contacts",
        method: "POST",
        path: "/leads/link",
        safe: true, // a contact is linked or not; there is no count
        json: links.map(({ leadId, contactId }) => ({
          entity_id: Number(leadId),
          to_entity_id: Number(contactId),
          to_entity_type: "contacts",
          metadata: { is_main: true },
        })),
      });
    },
  };
}
