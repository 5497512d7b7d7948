import {
  ApiError,
  budgetPerSecond,
  type Clock,
  ConfigError,
  createHttpClient,
  createRateLimiter,
  type HttpAnswer,
  type HttpCall,
  type Logger,
  type RateLimitStore,
  type Refusal,
  SdkError,
  systemClock,
  type TokenKeeper,
} from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { toE164 } from "@orderbridge/core/phone";
import * as v from "valibot";
import {
  accountSchema,
  catalogSchema,
  contactSchema,
  customFieldSchema,
  elementSchema,
  leadSchema,
  linkSchema,
  lossReasonSchema,
  noteSchema,
  pageSchema,
  pipelineSchema,
  problemSchema,
  userSchema,
  writtenSchema,
} from "./schemas.ts";

export interface AmocrmOptions {
  /** Host of the account, e.g. `example.amocrm.ru`. */
  readonly host: string;
  /** A long-lived token, or the keeper of an OAuth pair (`createAmocrmConnection`). */
  readonly token: string | Pick<TokenKeeper, "use">;
  /** Of phones that are stored without a country code. @defaultValue "KZ" */
  readonly country?: "KZ" | "RU";
  /** Replaces `https://<host>`, e.g. by the address of the fake. */
  readonly origin?: string;
  /** Of the integration in this account: 7 unless a package was bought. @defaultValue 7 */
  readonly ratePerSecond?: number;
  /** Names the integration in the shared budget; the OAuth client id. @defaultValue "token" */
  readonly integration?: string;
  /** Share it among all processes: the limit is the fleet's. @defaultValue this process's memory */
  readonly rateLimits?: RateLimitStore;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** @defaultValue 30_000 */
  readonly timeoutMs?: number;
  /** First pause before a call is repeated, in milliseconds. @defaultValue 1_000 */
  readonly minDelayMs?: number;
}

/**
 * What became of a bulk write. It throws only when nothing can have been written (blocked, unauthorised, unpaid); every
 * item is in exactly one of the three groups. Keys are the items' `requestId`.
 */
export interface BulkResult {
  /** Written; the vendor's ids. */
  readonly written: ReadonlyMap<string, string>;
  /** Refused by validation; code and path, never a value. */
  readonly rejected: ReadonlyMap<string, string>;
  /** May have been written: look first, then decide. */
  readonly uncertain: readonly string[];
  /** `true`: the vendor has answered, so what cannot be found was not written and may be sent again. */
  readonly settled: boolean;
  readonly error?: SdkError;
}

export interface FieldValue {
  readonly fieldId?: string | undefined;
  readonly fieldCode?: string | undefined;
  readonly values: readonly string[];
}

export interface Lead {
  readonly id: string;
  readonly name: string;
  /** Whole units of the account's currency. */
  readonly price: number | undefined;
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
  readonly price?: number;
  readonly pipelineId?: string;
  readonly statusId?: string;
  readonly lossReasonId?: string;
}

export interface Contact {
  readonly id: string;
  readonly updatedAt: Date | undefined;
  /** E.164, read from all phone values; those that are no phone are left out. */
  readonly phones: readonly string[];
}

export interface NewContact {
  readonly requestId: string;
  readonly name: string;
  readonly phone?: string;
  readonly responsibleUserId?: string;
}

export interface CatalogElement {
  readonly id: string;
  readonly name: string;
  readonly sku: string | undefined;
}

export interface NewElement {
  readonly requestId: string;
  readonly name: string;
  readonly sku?: string;
  /** Decimal text in major units. */
  readonly price?: string;
}

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

export interface Note {
  readonly id: string;
  readonly leadId: string | undefined;
  readonly text: string;
}

export interface NewNote {
  readonly requestId: string;
  readonly leadId: string;
  /** Name of the service that the note shows as its author. */
  readonly service: string;
  readonly text: string;
}

export interface Pipeline {
  readonly id: string;
  readonly name: string;
  readonly isArchive: boolean;
  readonly stages: readonly { readonly id: string; readonly name: string; readonly isUnsorted: boolean }[];
}

export interface ListOptions {
  /** Free, unlike filters. */
  readonly order?: { readonly by: "created_at" | "updated_at" | "id"; readonly direction: "asc" | "desc" };
  /** Fuzzy: hits must be checked against the exact value. */
  readonly query?: string;
  readonly signal?: AbortSignal;
}

export interface Amocrm {
  readonly host: string;
  readonly leads: {
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
  };
  readonly contacts: {
    list(options?: ListOptions): AsyncIterable<Contact>;
    get(id: string): Promise<Contact | undefined>;
    /** Exact: asks the fuzzy search for the last ten digits and checks every hit. The smallest id of several. */
    findByPhone(phone: string): Promise<Contact | undefined>;
    create(contacts: readonly NewContact[]): Promise<BulkResult>;
  };
  readonly catalogs: {
    list(): Promise<
      readonly { readonly id: string; readonly name: string; readonly canLinkMultiple: boolean | undefined }[]
    >;
    elements(catalogId: string, options?: { readonly query?: string }): AsyncIterable<CatalogElement>;
    findBySku(catalogId: string, sku: string): Promise<CatalogElement | undefined>;
    createElements(catalogId: string, elements: readonly NewElement[]): Promise<BulkResult>;
  };
  readonly links: {
    /** Catalog elements linked to leads. */
    elements(leadIds: readonly string[]): Promise<readonly ElementLink[]>;
    linkElements(links: readonly ElementLink[]): Promise<void>;
    unlinkElements(links: readonly Omit<ElementLink, "quantity">[]): Promise<void>;
    linkContacts(links: readonly ContactLink[]): Promise<void>;
  };
  readonly notes: {
    list(leadIds: readonly string[]): Promise<readonly Note[]>;
    create(notes: readonly NewNote[]): Promise<BulkResult>;
    update(notes: readonly (Omit<NewNote, "requestId"> & { readonly id: string })[]): Promise<void>;
  };
  pipelines(): Promise<readonly Pipeline[]>;
  lossReasons(): Promise<readonly { readonly id: string; readonly name: string }[]>;
  leadFields(): Promise<readonly { readonly id: string; readonly name: string; readonly type: string }[]>;
  users(): Promise<readonly { readonly id: string; readonly name: string; readonly isActive: boolean }[]>;
  account(): Promise<v.InferOutput<typeof accountSchema>>;
}

const pageLimit = 250; // the largest
const maxPages = 4_000;

/**
 * Client of the amoCRM API v4. Every method takes one batch; splitting is the caller's, who knows what is safe.
 *
 * @see amocrm.ru/developers, "leads-api", "contacts-api", "catalogs-api", "entity-links-api", "events-and-notes"
 *   (read 2026-01)
 */
export function createAmocrm({
  host,
  token,
  country = "KZ",
  origin = `https://${host}`,
  ratePerSecond = 7,
  integration = "token",
  clock = systemClock,
  rateLimits = createMemoryStorage({ clock }).rateLimits,
  minDelayMs = 1_000,
  ...rest
}: AmocrmOptions): Amocrm {
  if (!/^[a-z0-9-]+(\.[a-z0-9-]+)+$/i.test(host)) {
    throw new ConfigError('amocrm: host must be a bare host name such as "example.amocrm.ru"');
  }
  if (!token) throw new ConfigError("amocrm: token is empty; copy one from the integration's keys tab");
  if (!(ratePerSecond > 0)) throw new ConfigError("amocrm: ratePerSecond must be positive");
  const http = createHttpClient({
    vendor: "amocrm",
    baseUrl: `${origin}/api/v4`,
    limiter: createRateLimiter({
      vendor: "amocrm",
      account: `amocrm:${host}:${integration}`,
      budget: budgetPerSecond(ratePerSecond),
      store: rateLimits,
      clock,
    }),
    clock,
    minDelayMs,
    readRefusal,
    ...rest,
  });

  const authorized = <T>(send: (headers: Record<string, string>) => Promise<T>): Promise<T> =>
    typeof token === "string"
      ? send({ authorization: `Bearer ${token}` })
      : token.use(({ accessToken }) => send({ authorization: `Bearer ${accessToken}` }));

  const request = <Schema extends v.GenericSchema>(call: HttpCall<Schema> & { readonly schema: Schema }) =>
    authorized((headers) => http.request({ ...call, headers }));
  /** The answer does not matter, but it must be one: a maintenance page with status 200 is not. */
  const send = async (call: HttpCall): Promise<void> => {
    await request({ ...call, schema: v.unknown() });
  };

  /** All items of a list. An empty one is a 204 without a body. */
  async function* items<Item extends v.GenericSchema>(
    name: string,
    path: string,
    plural: string,
    item: Item,
    { order, query, signal }: ListOptions = {},
    more: Readonly<Record<string, string>> = {},
  ): AsyncGenerator<v.InferOutput<Item>> {
    const schema = pageSchema(plural, item);
    for (let page = 1; page <= maxPages; page++) {
      const search = new URLSearchParams({ page: String(page), limit: String(pageLimit), ...more });
      if (order) search.set(`order[${order.by}]`, order.direction);
      if (query !== undefined) search.set("query", query);
      const answer = await request({ name, path, query: search, schema, ...(signal && { signal }) });
      const found = (answer?._embedded[plural] ?? []) as v.InferOutput<Item>[];
      yield* found;
      if (!answer?._links?.next || found.length === 0) return;
    }
  }

  const all = async <T>(source: AsyncIterable<T>): Promise<T[]> => {
    const found: T[] = [];
    for await (const item of source) found.push(item);
    return found;
  };

  /** One bulk write; matches what comes back by `request_id`, since the order of the answer is not promised. */
  async function write<Item>(
    call: Omit<HttpCall, "json"> & { readonly plural: string | undefined },
    batch: readonly Item[],
    {
      keyOf,
      toWire,
      answerKey,
    }: {
      readonly keyOf: (item: Item) => string;
      readonly toWire: (item: Item) => Readonly<Record<string, unknown>>;
      readonly answerKey: "request_id" | "id";
    },
  ): Promise<BulkResult & { readonly rows: readonly v.InferOutput<typeof writtenSchema>[] }> {
    const { plural, ...rest } = call;
    const keys = batch.map(keyOf);
    if (batch.length === 0) return { written: new Map(), rejected: new Map(), uncertain: [], settled: true, rows: [] };
    const schema: v.GenericSchema<unknown, readonly v.InferOutput<typeof writtenSchema>[]> =
      plural === undefined
        ? v.array(writtenSchema)
        : v.pipe(
            v.object({ _embedded: v.object({ [plural]: v.array(writtenSchema) }) }),
            v.transform((answer) => answer._embedded[plural] ?? []),
          );
    try {
      const rows = (await request({ ...rest, json: batch.map(toWire), schema })) ?? [];
      const written = new Map<string, string>();
      for (const row of rows) {
        const echoed = answerKey === "id" ? row.id : row.request_id;
        for (const key of Array.isArray(echoed) ? echoed : [echoed]) written.set(String(key), row.id);
      }
      return {
        written: new Map([...written].filter(([key]) => keys.includes(key))),
        rejected: new Map(),
        uncertain: keys.filter((key) => !written.has(key)),
        settled: true,
        rows,
      };
    } catch (error) {
      if (!SdkError.isInstance(error) || error.outcome === "not-executed") throw error;
      if (error instanceof RefusedBatch) {
        const rejected = new Map(error.items.filter(([key]) => keys.includes(key)));
        // One bad item may sink the whole batch or only itself: the rest is looked up before it is sent again.
        const uncertain = keys.filter((key) => !rejected.has(key));
        return { written: new Map(), rejected, uncertain, settled: true, error, rows: [] };
      }
      if (
        error.outcome === "refused" &&
        error instanceof ApiError &&
        [401, 402, 403, 404, 405].includes(error.status)
      ) {
        throw error;
      }
      const settled = error.outcome === "refused" || error.outcome === "executed";
      return { written: new Map(), rejected: new Map(), uncertain: keys, settled, error, rows: [] };
    }
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

  const contactToWire = (contact: Omit<NewContact, "requestId">): Record<string, unknown> => ({
    name: contact.name,
    ...(contact.responsibleUserId !== undefined && { responsible_user_id: Number(contact.responsibleUserId) }),
    ...(contact.phone !== undefined && {
      custom_fields_values: [{ field_code: "PHONE", values: [{ value: contact.phone, enum_code: "WORK" }] }],
    }),
  });

  return {
    host,
    leads: {
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
    },
    contacts: {
      async *list(options) {
        for await (const contact of items("contacts.list", "/contacts", "contacts", contactSchema, options)) {
          yield readContact(contact, country);
        }
      },
      async get(id) {
        const contact = await request({ name: "contacts.get", path: `/contacts/${id}`, schema: contactSchema });
        return contact && readContact(contact, country);
      },
      async findByPhone(phone) {
        // Stored numbers are free text; the last ten digits occur in most ways of writing them.
        const query = phone.replace(/\D/g, "").slice(-10);
        const exact: Contact[] = [];
        for await (const contact of items("contacts.search", "/contacts", "contacts", contactSchema, { query })) {
          const read = readContact(contact, country);
          if (read.phones.includes(phone)) exact.push(read);
        }
        return exact.sort((left, right) => Number(left.id) - Number(right.id))[0];
      },
      create: (contacts) =>
        write({ name: "contacts.create", method: "POST", path: "/contacts", plural: "contacts" }, contacts, {
          keyOf: (contact) => contact.requestId,
          toWire: (contact) => ({ ...contactToWire(contact), request_id: contact.requestId }),
          answerKey: "request_id",
        }),
    },
    catalogs: {
      async list() {
        const found = await all(items("catalogs.list", "/catalogs", "catalogs", catalogSchema));
        return found.map(({ id, name, can_link_multiple }) => ({
          id,
          name: name ?? "",
          canLinkMultiple: can_link_multiple ?? undefined,
        }));
      },
      async *elements(catalogId, options) {
        const path = `/catalogs/${catalogId}/elements`;
        for await (const element of items("elements.list", path, "elements", elementSchema, options)) {
          yield readElement(element);
        }
      },
      async findBySku(catalogId, sku) {
        const path = `/catalogs/${catalogId}/elements`;
        const exact: CatalogElement[] = [];
        for await (const element of items("elements.search", path, "elements", elementSchema, { query: sku })) {
          const read = readElement(element);
          if (read.sku === sku) exact.push(read);
        }
        return exact.sort((left, right) => Number(left.id) - Number(right.id))[0];
      },
      createElements: (catalogId, elements) =>
        write(
          { name: "elements.create", method: "POST", path: `/catalogs/${catalogId}/elements`, plural: "elements" },
          elements,
          {
            keyOf: (element) => element.requestId,
            toWire: ({ requestId, name, sku, price }) => ({
              name,
              request_id: requestId,
              custom_fields_values: [
                ...(sku === undefined ? [] : [{ field_code: "SKU", values: [{ value: sku }] }]),
                ...(price === undefined ? [] : [{ field_code: "PRICE", values: [{ value: price }] }]),
              ],
            }),
            answerKey: "request_id",
          },
        ),
    },
    links: {
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
    },
    notes: {
      async list(leadIds) {
        const found: Note[] = [];
        const schema = pageSchema("notes", noteSchema);
        const filter = leadIds.map((id): [string, string] => ["filter[entity_id][]", id]);
        for (let page = 1; page <= maxPages; page++) {
          const query = new URLSearchParams([["page", String(page)], ["limit", String(pageLimit)], ...filter]);
          const answer = await request({ name: "notes.list", path: "/leads/notes", query, schema });
          const notes = (answer?._embedded.notes ?? []) as v.InferOutput<typeof noteSchema>[];
          for (const note of notes) {
            found.push({ id: note.id, leadId: note.entity_id ?? undefined, text: note.params?.text ?? "" });
          }
          if (!answer?._links?.next || notes.length === 0) break;
        }
        return found;
      },
      create: (notes) =>
        write({ name: "notes.create", method: "POST", path: "/leads/notes", plural: "notes" }, notes, {
          keyOf: (note) => note.requestId,
          toWire: ({ requestId, leadId, service, text }) => ({
            entity_id: Number(leadId),
            note_type: "extended_service_message",
            params: { service, text },
            request_id: requestId,
          }),
          answerKey: "request_id",
        }),
      async update(notes) {
        await send({
          name: "notes.update",
          method: "PATCH",
          path: "/leads/notes",
          safe: true, // the same text twice is the same text
          json: notes.map(({ id, leadId, service, text }) => ({
            id: Number(id),
            entity_id: Number(leadId),
            note_type: "extended_service_message",
            params: { service, text },
          })),
        });
      },
    },
    async pipelines() {
      const found = await all(items("pipelines.list", "/leads/pipelines", "pipelines", pipelineSchema));
      return found.map(({ id, name, is_archive, _embedded }) => ({
        id,
        name: name ?? "",
        isArchive: is_archive === true,
        stages: (_embedded?.statuses ?? []).map((stage) => ({
          id: stage.id,
          name: stage.name ?? "",
          isUnsorted: stage.type === 1,
        })),
      }));
    },
    async lossReasons() {
      const found = await all(items("lossReasons.list", "/leads/loss_reasons", "loss_reasons", lossReasonSchema));
      return found.map(({ id, name }) => ({ id, name: name ?? "" }));
    },
    async leadFields() {
      const found = await all(items("leadFields.list", "/leads/custom_fields", "custom_fields", customFieldSchema));
      return found.map(({ id, name, type }) => ({ id, name: name ?? "", type: type ?? "" }));
    },
    async users() {
      const found = await all(items("users.list", "/users", "users", userSchema));
      return found.map(({ id, name, rights }) => ({ id, name: name ?? "", isActive: rights?.is_active !== false }));
    },
    async account() {
      const query = new URLSearchParams({ with: "is_api_filter_enabled" });
      const account = await request({ name: "account.get", path: "/account", query, schema: accountSchema });
      if (!account) throw new ConfigError("amocrm: the account answered nothing; check the host");
      return account;
    },
  };
}

/** A 400 that names the items it refuses. */
class RefusedBatch extends ApiError {
  readonly items: readonly (readonly [requestId: string, reason: string])[];
  constructor(items: RefusedBatch["items"]) {
    super(`amocrm: ${items.length} items were refused`, { vendor: "amocrm", status: 400, outcome: "refused" });
    this.items = items;
  }
}

/** @see amocrm.ru/developers, "error-codes", and the limits page */
function readRefusal(answer: HttpAnswer): Refusal | undefined {
  const isHtml = !/json/i.test(answer.headers.get("content-type") ?? "");
  const { status } = answer;
  if (status === 429) {
    const retryAfterMs = readRetryAfterBody(answer.text);
    return {
      vendorCode: "429",
      outcome: "not-executed",
      retry: true,
      ...(retryAfterMs !== undefined && { retryAfterMs }),
    };
  }
  // The block page is the gateway's: HTML. A JSON 403 is about rights and does not stop the other calls.
  if (status === 403 && isHtml) return { vendorCode: "403", outcome: "refused", block: true };
  if (status === 400 && !isHtml) {
    const items = readRejected(answer.text);
    if (items.length > 0) throw new RefusedBatch(items);
  }
  return undefined;
}

function readRejected(text: string): readonly (readonly [string, string])[] {
  const problem = readJson(problemSchema, text);
  return (problem?.["validation-errors"] ?? []).flatMap(({ request_id, errors }) => {
    const reason = (errors ?? []).map(({ code, path }) => `${code} ${path}`).join(", ");
    return request_id === undefined || request_id === null ? [] : [[String(request_id), reason] as const];
  });
}

const readRetryAfterBody = (text: string): number | undefined => {
  const body = readJson(v.object({ retry_after: v.number() }), text);
  return body && body.retry_after * 1000;
};

function readJson<Schema extends v.GenericSchema>(schema: Schema, text: string): v.InferOutput<Schema> | undefined {
  try {
    const parsed = v.safeParse(schema, JSON.parse(text));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
}

const fieldToWire = ({ fieldId, fieldCode, values }: FieldValue): Record<string, unknown> => ({
  ...(fieldId === undefined ? { field_code: fieldCode } : { field_id: Number(fieldId) }),
  values: values.map((value) => ({ value })),
});

const readFields = (fields: v.InferOutput<typeof contactSchema>["custom_fields_values"]): FieldValue[] =>
  (fields ?? []).map(({ field_id, field_code, values }) => ({
    fieldId: field_id ?? undefined,
    fieldCode: field_code ?? undefined,
    values: (values ?? []).flatMap(({ value }) => (value === null || value === undefined ? [] : [String(value)])),
  }));

const instant = (seconds: number | null | undefined): Date | undefined =>
  typeof seconds === "number" ? new Date(seconds * 1000) : undefined;

function readLead(lead: v.InferOutput<typeof leadSchema>): Lead {
  return {
    id: lead.id,
    name: lead.name ?? "",
    price: lead.price ?? undefined,
    statusId: lead.status_id ?? undefined,
    pipelineId: lead.pipeline_id ?? undefined,
    createdAt: instant(lead.created_at),
    updatedAt: instant(lead.updated_at),
    fields: readFields(lead.custom_fields_values),
    tags: (lead._embedded?.tags ?? []).map(({ name }) => name),
  };
}

function readContact(contact: v.InferOutput<typeof contactSchema>, country: "KZ" | "RU"): Contact {
  const phones = readFields(contact.custom_fields_values)
    .filter((field) => field.fieldCode === "PHONE")
    .flatMap((field) => field.values)
    .map((value) => toE164(value, { country }))
    .filter((phone) => phone !== undefined);
  return { id: contact.id, updatedAt: instant(contact.updated_at), phones: [...new Set(phones)] };
}

function readElement(element: v.InferOutput<typeof elementSchema>): CatalogElement {
  const sku = readFields(element.custom_fields_values).find((field) => field.fieldCode === "SKU")?.values[0];
  return { id: element.id, name: element.name ?? "", sku };
}
