import { ConfigError } from "@orderbridge/core";
import type * as v from "valibot";
import { contactToWire, type NewContact } from "./contacts.ts";
import { type FieldValue, fieldToWire, instant, readFields } from "./fields.ts";
import { leadSchema } from "./schemas.ts";
import type { AmocrmTransport, BulkResult, ListOptions } from "./transport.ts";

export interface Lead {
  readonly id: string;
  readonly name: string;
  /** Whole units of the account's currency, rounded. */
  readonly price: number | undefined;
  /** The price with its fraction; `undefined` where the account does not tell it. Since April 2026 accounts do. */
  readonly exactPrice: number | undefined;
  readonly statusId: string | undefined;
  readonly pipelineId: string | undefined;
  readonly createdAt: Date | undefined;
  readonly updatedAt: Date | undefined;
  readonly fields: readonly FieldValue[];
  readonly tags: readonly string[];
}

export interface NewLead {
  /** Comes back with the id; it is not stored and protects from nothing. */
  readonly requestId: string;
  readonly name: string;
  /** Fractions only where leads have an `exactPrice`. */
  readonly price?: number;
  readonly pipelineId?: string;
  readonly statusId?: string;
  readonly responsibleUserId?: string;
  readonly fields?: readonly FieldValue[];
  readonly tags?: readonly string[];
  readonly contactId?: string;
}

export interface LeadChange {
  readonly id: string;
  readonly name?: string;
  /** Fractions only where leads have an `exactPrice`. */
  readonly price?: number;
  readonly pipelineId?: string;
  readonly statusId?: string;
  readonly lossReasonId?: string;
}

export interface AmocrmLeads {
  /** Deleted leads are not in it. */
  list(options?: ListOptions): AsyncIterable<Lead>;
  /** `undefined` for a missing or deleted lead. */
  get(id: string): Promise<Lead | undefined>;
  create(leads: readonly NewLead[]): Promise<BulkResult>;
  /** `POST /leads/complex`, at most 50: may merge into an existing lead when duplicate control is on. */
  createComplex(
    leads: readonly (NewLead & { readonly contact?: Omit<NewContact, "requestId"> })[],
  ): Promise<BulkResult & { readonly merged: ReadonlySet<string>; readonly contacts: ReadonlyMap<string, string> }>;
  /** Send only what changed: the rest may be a manager's. Keys of the result are lead ids. */
  update(changes: readonly LeadChange[]): Promise<BulkResult>;
}

export function createLeads({ request, items, write }: AmocrmTransport): AmocrmLeads {
  return {
    async *list(options) {
      for await (const lead of items("leads.list", "/leads", "leads", leadSchema, options)) yield readLead(lead);
    },
    async get(id) {
      const lead = await request({ name: "leads.get", path: `/leads/${id}`, schema: leadSchema });
      return lead && readLead(lead);
    },
    create: (leads) =>
      write({ name: "leads.create", method: "POST", path: "/leads", plural: "leads" }, leads, {
        keyOf: (lead) => lead.requestId,
        toWire: leadToWire,
        answerKey: "request_id",
      }),
    async createComplex(leads) {
      if (leads.length > 50) throw new ConfigError("amocrm: leads.createComplex takes at most 50 leads");
      const { rows, ...result } = await write(
        { name: "leads.createComplex", method: "POST", path: "/leads/complex", plural: undefined },
        leads,
        {
          keyOf: (lead) => lead.requestId,
          toWire: (lead) => {
            const wire = leadToWire(lead);
            if (!lead.contact || lead.contactId !== undefined) return wire;
            return { ...wire, _embedded: { ...(wire._embedded as object), contacts: [contactToWire(lead.contact)] } };
          },
          answerKey: "request_id",
        },
      );
      const keys = (row: (typeof rows)[number]) => [row.request_id].flat().map(String);
      return {
        ...result,
        merged: new Set(rows.filter((row) => row.merged).flatMap(keys)),
        contacts: new Map(
          rows.flatMap((row) => (row.contact_id ? keys(row).map((key) => [key, row.contact_id!]) : [])),
        ),
      };
    },
    update: (changes) =>
      write({ name: "leads.update", method: "PATCH", path: "/leads", plural: "leads" }, changes, {
        keyOf: (change) => change.id,
        toWire: ({ id, name, price, pipelineId, statusId, lossReasonId }) => ({
          id: Number(id),
          ...(name !== undefined && { name }),
          ...(price !== undefined && { price }),
          ...(pipelineId !== undefined && { pipeline_id: Number(pipelineId) }),
          ...(statusId !== undefined && { status_id: Number(statusId) }),
          ...(lossReasonId !== undefined && { loss_reason_id: Number(lossReasonId) }),
        }),
        answerKey: "id",
      }),
  };
}

const leadToWire = (lead: NewLead): Record<string, unknown> => ({
  name: lead.name,
  request_id: lead.requestId,
  ...(lead.price !== undefined && { price: lead.price }),
  ...(lead.pipelineId !== undefined && { pipeline_id: Number(lead.pipelineId) }),
  ...(lead.statusId !== undefined && { status_id: Number(lead.statusId) }),
  ...(lead.responsibleUserId !== undefined && { responsible_user_id: Number(lead.responsibleUserId) }),
  ...(lead.fields && lead.fields.length > 0 && { custom_fields_values: lead.fields.map(fieldToWire) }),
  _embedded: {
    ...(lead.tags && { tags: lead.tags.map((name) => ({ name })) }),
    ...(lead.contactId !== undefined && { contacts: [{ id: Number(lead.contactId), is_main: true }] }),
  },
});

function readLead(lead: v.InferOutput<typeof leadSchema>): Lead {
  return {
    id: lead.id,
    name: lead.name ?? "",
    price: lead.price ?? undefined,
    exactPrice: lead.price_with_minor_units ?? undefined,
    statusId: lead.status_id ?? undefined,
    pipelineId: lead.pipeline_id ?? undefined,
    createdAt: instant(lead.created_at),
    updatedAt: instant(lead.updated_at),
    fields: readFields(lead.custom_fields_values),
    tags: (lead._embedded?.tags ?? []).map(({ name }) => name),
  };
}
