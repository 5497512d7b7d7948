import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, droppedReply, type Faults, type Journal } from "@orderbridge/core/testing";
import { createFakeHooks, type FakeHook } from "./fake-amocrm-hooks.ts";
import { createFakeOauth, type FakeIntegration, type FakeTokenPair, fakeIntegration } from "./fake-amocrm-oauth.ts";

export interface FakeAmocrmOptions {
  /** Long-lived tokens that are accepted beside those of the OAuth endpoint. @defaultValue ["amo-token"] */
  readonly accessTokens?: readonly string[];
  /** @defaultValue {@link fakeIntegration} */
  readonly integration?: FakeIntegration;
  /** @defaultValue 86_400_000 */
  readonly accessTokenLifeMs?: number;
  /** Token answers tell the server's time, a recent addition. @defaultValue true */
  readonly hasServerTime?: boolean;
  /** What a 429 looks like: reports know the bare page; a header and a JSON hint are mentioned too. @defaultValue "html" */
  readonly rateLimitAnswer?: "html" | "retry-after" | "json";
  /** `false`: the account is not paid for, and every call answers 402. @defaultValue true */
  readonly isPaid?: boolean;
  /** `false`: fields cannot be made, and webhooks not be changed, with these tokens. @defaultValue true */
  readonly isAdmin?: boolean;
  /** Items over which a write answers 504, after it ran. @defaultValue none */
  readonly slowFrom?: number;
  /** Leads carry `price_with_minor_units`, and take fractions, since April 2026. @defaultValue false */
  readonly hasMinorUnits?: boolean;
  /** Lists of goods need a larger plan; `false`: they are refused. @defaultValue true */
  readonly hasCatalogs?: boolean;
  /** Takes the webhooks that go out. @defaultValue globalThis.fetch */
  readonly deliver?: (request: Request) => Promise<Response>;
  /** @defaultValue 7 */
  readonly ratePerSecond?: number;
  /** Requests over the limit until the account is blocked with 403. @defaultValue 50 */
  readonly violationsBeforeBlock?: number;
  /** Items of bulk answers come in another order than they were sent. @defaultValue true */
  readonly shufflesAnswers?: boolean;
  /** How long until the search knows a new entity, in milliseconds. @defaultValue 0 */
  readonly indexLagMs?: number;
  /** Whether one bad item sinks its batch (`atomic`) or only itself. Not documented. @defaultValue "atomic" */
  readonly badItems?: "atomic" | "partial";
  /** Whether linking an element again replaces its quantity or adds to it. Not documented. @defaultValue "replaces" */
  readonly relinking?: "replaces" | "adds";
  /** Of a bulk link every tenth is lost. @defaultValue false */
  readonly losesTenthLink?: boolean;
  /** The paid filters; without them `filter` on leads and contacts is ignored. @defaultValue false */
  readonly hasFilters?: boolean;
  /** Duplicate control of `leads/complex`. @defaultValue "off" */
  readonly duplicateControl?: "off" | "phone" | { readonly leadFieldId: number };
  readonly clock?: Clock;
}

export interface FakeLead {
  readonly id: number;
  name: string;
  price: number;
  pipelineId: number;
  statusId: number;
  lossReasonId: number | null;
  responsibleUserId: number;
  createdAt: number;
  updatedAt: number;
  fields: Record<number, string>;
  tags: string[];
  contactIds: number[];
  isDeleted: boolean;
}

export interface FakeContact {
  readonly id: number;
  name: string;
  phones: string[];
  /** Free text that the search also looks at. */
  remark: string;
  createdAt: number;
  updatedAt: number;
}

export interface FakeElement {
  readonly id: number;
  name: string;
  sku: string | undefined;
  price: string | undefined;
}

export interface FakeNote {
  readonly id: number;
  readonly leadId: number;
  readonly type: string;
  text: string;
}

/** The account that the fake has from the start; ids for the client's options. */
export const fakeAccount = {
  host: "demo.amocrm.ru",
  accountId: 31_000_001,
  pipelineId: 7_001,
  unsortedStageId: 70_010,
  /** New, accepted, on the way; won and lost are 142 and 143. */
  stageIds: { new: 70_011, accepted: 70_012, delivery: 70_013, won: 142, lost: 143 },
  responsibleUserId: 501,
  catalogId: 9_001,
  /** A list of type regular: its elements have neither SKU nor PRICE. */
  regularCatalogId: 9_002,
  orderCodeFieldId: 8_001,
  phoneFieldId: 8_101,
  skuFieldId: 8_201,
  priceFieldId: 8_202,
  lossReasonId: 6_001,
  /** The shard of `api_domain`. */
  apiDomain: "api-a.amocrm.ru",
  /** Another customer of the vendor. */
  otherHost: "neighbour.amocrm.ru",
} as const;

export interface FakeAmocrm {
  readonly handle: FetchHandler;
  readonly faults: Faults;
  readonly journal: Journal;
  readonly leads: readonly FakeLead[];
  readonly contacts: readonly FakeContact[];
  readonly elements: readonly FakeElement[];
  readonly notes: readonly FakeNote[];
  /** Goods of a lead: element id -> quantity. */
  linksOf(leadId: number): ReadonlyMap<number, number>;
  /** The lead whose order-code field holds the code; fails when there are several. */
  leadOf(orderCode: string): FakeLead | undefined;
  /** A manager works in the account. */
  addContact(contact: {
    readonly name: string;
    readonly phones?: readonly string[];
    readonly remark?: string;
  }): FakeContact;
  /** In the interface; the API cannot. Leads lose it. */
  deleteContact(id: number): void;
  /** Joins duplicates in the interface: `into` takes the other's phones and leads, whose id is gone. */
  mergeContacts(id: number, into: number): void;
  addElement(element: { readonly name: string; readonly sku?: string }): FakeElement;
  addLead(lead: { readonly name: string; readonly orderCode?: string; readonly statusId?: number }): FakeLead;
  moveLead(id: number, statusId: number): void;
  deleteLead(id: number): void;
  linkElement(leadId: number, elementId: number, quantity: number): void;
  /** Requests in the busiest second so far, refused ones included. */
  readonly busiestSecond: number;
  readonly violations: number;
  readonly isBlocked: boolean;
  /** Items of bulk writes that fail validation, told by their JSON text. */
  refuses: ((item: string) => boolean) | undefined;
  /** Support lifts the block. */
  unblock(): void;
  /** The account's host now. */
  readonly host: string;
  /** The account gets another name: the old host is gone. */
  rename(subdomain: string): void;
  readonly oauth: {
    /** An administrator copies a code from the integration's keys tab. */
    issueCode(): string;
    issuePair(): FakeTokenPair;
    expireAccessTokens(): void;
    /** How many pairs were refreshed. */
    readonly refreshes: number;
    /** An administrator switches the integration off. Gives the query of the disable hook. */
    disable(): string;
  };
  readonly hooks: {
    readonly subscriptions: readonly FakeHook[];
    /** Sends the webhooks that are due; resolves to the statuses, 0 for no answer within two seconds. */
    deliver(): Promise<readonly number[]>;
  };
  /** How many items the batch of each write had, in the order of the journal. */
  readonly batchSizes: readonly number[];
  isPaid: boolean;
}

type Wire = Readonly<Record<string, unknown>>;
interface FakeEvent {
  readonly id: string;
  readonly type: string;
  readonly entity_id: number;
  readonly entity_type: string;
  readonly created_by: number;
  readonly created_at: number;
  readonly value_after: readonly unknown[];
  readonly value_before: readonly unknown[];
  readonly account_id: number;
}
interface WireProblem {
  readonly code: "NotSupportedChoice" | "FieldNotExpected" | "FieldMissing";
  readonly path: string;
}

const leadKeys = new Set([
  ..."name price status_id pipeline_id created_by updated_by closed_at created_at updated_at loss_reason_id".split(" "),
  ..."responsible_user_id custom_fields_values tags_to_add tags_to_delete request_id id _embedded".split(" "),
]);
const contactKeys = new Set(
  "name first_name last_name responsible_user_id created_by updated_by created_at updated_at custom_fields_values tags_to_add request_id id _embedded".split(
    " ",
  ),
);
const noteTypes = new Set(
  "common service_message extended_service_message call_in call_out sms_in sms_out geolocation message_cashier attachment".split(
    " ",
  ),
);
/** @see developers.kommo.com, "Add custom fields", "Custom fields and field groups" (June 2026) */
const fieldKeys = new Set(
  "name type code sort group_id is_api_only required_statuses hidden_statuses enums currency remind tracking_callback chained_lists search_in request_id".split(
    " ",
  ),
);
const leadFieldTypes = new Set(
  "text numeric checkbox select multiselect date url date_time textarea radiobutton streetaddress smart_address birthday legal_entity file monetary chained_list tracking_data".split(
    " ",
  ),
);
const elementKeys = new Set(["name", "custom_fields_values", "request_id", "id"]);

/** The API v4 of one amoCRM account with its traps, written from the vendor's documentation. */
export function createFakeAmocrm({
  accessTokens = ["amo-token"],
  integration = fakeIntegration,
  accessTokenLifeMs = 86_400_000,
  hasServerTime = true,
  rateLimitAnswer = "html",
  isPaid = true,
  isAdmin = true,
  slowFrom = Number.POSITIVE_INFINITY,
  hasMinorUnits = false,
  hasCatalogs = true,
  deliver = (request) => globalThis.fetch(request),
  ratePerSecond = 7,
  violationsBeforeBlock = 50,
  shufflesAnswers = true,
  indexLagMs = 0,
  badItems = "atomic",
  relinking = "replaces",
  losesTenthLink = false,
  hasFilters = false,
  duplicateControl = "off",
  clock = systemClock,
}: FakeAmocrmOptions = {}): FakeAmocrm {
  const { stageIds, pipelineId, orderCodeFieldId } = fakeAccount;
  const leads = new Map<number, FakeLead>();
  const contacts = new Map<number, FakeContact>();
  const elements = new Map<number, FakeElement>();
  const notes = new Map<number, FakeNote>();
  const links = new Map<number, Map<number, number>>();
  const elementsSeenAt = new Map<number, number>();
  const users = new Set<number>([fakeAccount.responsibleUserId]);
  const stages = new Set<number>([fakeAccount.unsortedStageId, ...Object.values(stageIds)]);
  const journal = createJournal();
  const tooMany = (): Response => {
    if (rateLimitAnswer === "json") return json(429, { title: "Too Many Requests", status: 429, retry_after: 3 });
    const page = html(429, "Too many requests");
    if (rateLimitAnswer === "retry-after") page.headers.set("retry-after", "3");
    return page;
  };
  const faults = createFaults(clock, {
    rateLimited: tooMany,
    blocked: () => html(403, "Forbidden"),
  });
  let nextId = 1_000;
  const times = new Map<string, number[]>();
  const events: FakeEvent[] = [];
  const batchSizes: number[] = [];
  let host: string = fakeAccount.host;
  let paid = isPaid;
  let busiestSecond = 0;
  let violations = 0;
  let isBlocked = false;
  let linkCount = 0;
  let refuses: FakeAmocrm["refuses"];

  const nowMs = () => clock.now().getTime();
  const seconds = () => Math.floor(nowMs() / 1000);
  const oauth = createFakeOauth({
    clock,
    integration,
    accountId: fakeAccount.accountId,
    userId: fakeAccount.responsibleUserId,
    hostOf: () => host,
    apiDomain: fakeAccount.apiDomain,
    accessTokenLifeMs,
    hasServerTime,
  });
  const hooks = createFakeHooks({
    clock,
    send: deliver,
    account: () => ({ id: fakeAccount.accountId, subdomain: host.split(".", 1)[0] as string }),
  });
  const liveLeads = () => [...leads.values()].filter(({ isDeleted }) => !isDeleted);
  const shuffled = <Item>(items: readonly Item[]): Item[] => (shufflesAnswers ? [...items].reverse() : [...items]);

  /** True sliding window for each integration: no second, wherever it begins, may hold more than the limit. */
  function overLimit(client: string): boolean {
    const now = clock.monotonicMs();
    const recent = (times.get(client) ?? []).filter((time) => time > now - 1000);
    times.set(client, recent);
    busiestSecond = Math.max(busiestSecond, recent.length + 1);
    if (recent.length >= ratePerSecond) {
      violations++;
      if (violations >= violationsBeforeBlock) isBlocked = true;
      return true;
    }
    recent.push(now);
    return false;
  }

  const tokenOf = (request: Request): string =>
    /^Bearer (.+)$/.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";

  async function guard(request: Request): Promise<Response> {
    if (isBlocked) return html(403, "Forbidden");
    if (overLimit(accessTokens.includes(tokenOf(request)) ? tokenOf(request) : integration.clientId)) return tooMany();
    return faults.wrap(answer)(request);
  }

  async function answer(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const { hostname } = url;
    const isTokenPath = url.pathname.startsWith("/oauth2/access_token");
    if (hostname === fakeAccount.otherHost)
      return problem(isTokenPath ? 400 : 401, "Bad Request", { hint: "Invalid account" });
    // On a port of this machine the host says nothing; at the vendor a name that nobody has any more is not found.
    const isVendors = /\.(amocrm\.ru|amocrm\.com|kommo\.com)$/.test(hostname);
    if (isVendors && ![host, fakeAccount.apiDomain, "www.amocrm.ru", "www.kommo.com"].includes(hostname)) {
      return html(404, "Not found");
    }
    const authorised = await oauth.answer(request, url);
    if (authorised) return authorised;
    const token = tokenOf(request);
    if (!accessTokens.includes(token) && !oauth.isValid(token)) return problem(401, "Unauthorized");
    if (!paid) return problem(402, "Payment Required");
    if (!url.pathname.startsWith("/api/v4/")) return html(404, "Not found");
    const path = url.pathname.slice("/api/v4".length);
    const text = request.method === "GET" ? "" : await request.text();
    const body = text === "" ? undefined : (JSON.parse(text) as unknown);
    const count = Array.isArray(body) ? body.length : 1;
    if (request.method !== "GET") batchSizes.push(count);
    const response = route(request.method, path, url, body);
    return Array.isArray(body) && count >= slowFrom ? html(504, "Gateway time-out") : response;
  }

  function route(method: string, path: string, url: URL, body: unknown): Response {
    const query = url.searchParams;
    const list = Array.isArray(body) ? (body as readonly Wire[]) : [];
    switch (`${method} ${path}`) {
      case "GET /account":
        return hal({
          id: fakeAccount.accountId,
          name: "Demo",
          subdomain: host.split(".", 1)[0],
          current_user_id: fakeAccount.responsibleUserId,
          country: "KZ",
          ...(query.get("with")?.includes("is_api_filter_enabled") && { is_api_filter_enabled: hasFilters }),
        });
      case "GET /users":
        return hal({
          _embedded: { users: [...users].map((id) => ({ id, name: `User ${id}`, rights: { is_active: true } })) },
        });
      case "GET /leads/pipelines":
        return hal({ _total_items: 1, _embedded: { pipelines: [pipeline()] } });
      case "GET /leads/loss_reasons":
        return hal({ _embedded: { loss_reasons: [{ id: fakeAccount.lossReasonId, name: "Отменён в Kaspi" }] } });
      case "GET /leads/custom_fields":
        return hal({ _embedded: { custom_fields: fields("leads") } });
      case "POST /leads/custom_fields":
        return isAdmin ? createFields(list) : problem(403, "Forbidden");
      case "GET /contacts/custom_fields":
        return hal({ _embedded: { custom_fields: fields("contacts") } });
      case "GET /catalogs":
        return hasCatalogs ? hal({ _embedded: { catalogs: [catalog, regularCatalog] } }) : problem(403, "Forbidden");
      case "GET /events":
        return page(url, "events", searchEvents(query), (event) => event, 100);
      case "GET /webhooks":
        return webhookList(query.get("filter[destination]"));
      case "POST /webhooks": {
        if (!isAdmin) return problem(403, "Forbidden");
        const { destination, settings } = (body ?? {}) as { destination?: string; settings?: readonly string[] };
        if (!destination || !settings?.length) return problem(400, "Bad Request");
        return json(201, webhookToWire(hooks.subscribe(destination, settings)));
      }
      case "DELETE /webhooks":
        if (!isAdmin) return problem(403, "Forbidden");
        return hooks.unsubscribe(String(((body ?? {}) as Wire).destination))
          ? new Response(null, { status: 204 })
          : problem(404, "Not Found");
      case "GET /leads":
        return page(url, "leads", searchLeads(query), (lead) => leadToWire(lead, query.get("with")));
      case "POST /leads":
        return bulk(list, "leads", 250, checkLead, (item) => createLead(item).id);
      case "PATCH /leads":
        return bulk(list, "leads", 250, checkLeadChange, updateLead);
      case "POST /leads/complex":
        return complex(list);
      case "GET /contacts":
        return page(url, "contacts", searchContacts(query), contactToWire);
      case "PATCH /contacts":
        return bulk(list, "contacts", 250, checkContactChange, updateContact);
      case "POST /contacts":
        return bulk(list, "contacts", 250, checkContact, (item) => createContact(item).id);
      case "POST /leads/link":
        return link(list);
      case "POST /leads/unlink":
        for (const item of list) links.get(Number(item.entity_id))?.delete(Number(item.to_entity_id));
        return new Response(null, { status: 204 });
      case "GET /leads/links":
        return linkPage(query);
      case "GET /leads/notes":
        return page(url, "notes", searchNotes(query), noteToWire);
      case "POST /leads/notes":
        return bulk(list, "notes", 250, checkNote, createNote);
      case "PATCH /leads/notes":
        return bulk(list, "notes", 250, checkNoteChange, updateNote);
    }
    const ofLead = /^\/leads\/(\d+)\/(link|unlink|links|notes)$/.exec(path);
    if (ofLead) {
      const [, id = "", what = ""] = ofLead;
      const own = list.map((item) => ({ ...item, entity_id: Number(id) }));
      query.set(what === "links" || what === "notes" ? "filter[entity_id][]" : "", id);
      return route(method, `/leads/${what}`, url, own);
    }
    const single = /^\/(leads|contacts)\/(\d+)$/.exec(path);
    if (single && method === "PATCH") {
      const item = { ...(body as Wire), id: Number(single[2]) };
      const isLead = single[1] === "leads";
      const problems = isLead ? checkLeadChange(item) : checkContactChange(item);
      if (problems.length > 0) return validationErrors([{ requestId: "0", problems }]);
      const id = isLead ? updateLead(item) : updateContact(item);
      return hal({ id, updated_at: seconds() });
    }
    if (single) {
      if (method === "DELETE") return problem(405, "Method Not Allowed");
      const id = Number(single[2]);
      const lead = leads.get(id);
      if (single[1] === "leads")
        return lead && !lead.isDeleted ? hal(leadToWire(lead, query.get("with"))) : new Response(null, { status: 204 });
      const contact = contacts.get(id);
      return contact ? hal(contactToWire(contact)) : new Response(null, { status: 204 });
    }
    const ofCatalog = /^\/catalogs\/(\d+)(?:\/(elements|custom_fields)(?:\/(\d+))?)?$/.exec(path);
    if (ofCatalog) {
      const [, catalogId, what, elementId] = ofCatalog;
      if (!hasCatalogs) return problem(403, "Forbidden");
      if (Number(catalogId) === fakeAccount.regularCatalogId) return regularList(method, what, list);
      if (Number(catalogId) !== fakeAccount.catalogId) return problem(404, "Not Found");
      if (method === "GET") {
        if (what === undefined) return hal(catalog);
        if (what === "custom_fields") return hal({ _embedded: { custom_fields: fields("catalog") } });
        if (elementId === undefined) return page(url, "elements", searchElements(query), elementToWire);
        const element = elements.get(Number(elementId));
        return element ? hal(elementToWire(element)) : new Response(null, { status: 204 });
      }
      if (what === "elements" && method === "POST") {
        return bulk(list, "elements", 250, (item) => checkElement(item), createElement, { numericRequestIds: true });
      }
      if (what === "elements" && method === "PATCH") {
        return bulk(list, "elements", 250, checkElementChange, updateElement);
      }
    }
    return problem(method === "GET" || method === "POST" || method === "PATCH" ? 404 : 405, "Not Found");
  }

  const catalog = { id: fakeAccount.catalogId, name: "Товары", type: "products", can_link_multiple: true };

  const regularCatalog = { ...catalog, id: fakeAccount.regularCatalogId, name: "Города", type: "regular" };
  /** A list without fields of its own, and without elements. */
  function regularList(method: string, what: string | undefined, list: readonly Wire[]): Response {
    if (what === undefined) return hal(regularCatalog);
    if (method === "GET") return new Response(null, { status: 204 });
    return bulk(list, "elements", 250, (item) => checkElement(item, []), createElement, { numericRequestIds: true });
  }

  const ownFields: { id: number; name: string; code: string | null; type: string }[] = [];
  /** One bad field sinks them all. The answer holds whole fields and, unlike that of other writes, no `request_id`. */
  function createFields(list: readonly Wire[]): Response {
    if (list.length === 0) return problem(400, "Bad Request");
    const bad = list.flatMap((item, number) => {
      const problems: WireProblem[] = [
        ...unexpected(item, fieldKeys),
        ...(item.name ? [] : [{ code: "FieldMissing", path: "name" } as const]),
        ...(leadFieldTypes.has(String(item.type)) ? [] : [{ code: "NotSupportedChoice", path: "type" } as const]),
      ];
      return problems.length > 0 ? [{ requestId: String(number), problems }] : [];
    });
    if (bad.length > 0) return validationErrors(bad);
    const made = list.map((item) => {
      const code = typeof item.code === "string" ? item.code : null;
      const field = { id: nextId++, name: String(item.name), code, type: String(item.type) };
      ownFields.push(field);
      return { ...field, sort: 500 + ownFields.length, entity_type: "leads", is_api_only: false, group_id: null };
    });
    return json(201, { _total_items: made.length, _embedded: { custom_fields: made } });
  }
  const fields = (of: "leads" | "contacts" | "catalog") =>
    of === "leads"
      ? [{ id: orderCodeFieldId, name: "Order code", code: null, type: "text" }, ...ownFields]
      : of === "contacts"
        ? [{ id: fakeAccount.phoneFieldId, name: "Телефон", code: "PHONE", type: "multitext" }]
        : [
            { id: fakeAccount.skuFieldId, name: "Артикул", code: "SKU", type: "text" },
            { id: fakeAccount.priceFieldId, name: "Цена", code: "PRICE", type: "price" },
          ];

  const webhookToWire = ({ destination, settings, isDisabled }: FakeHook) => ({
    id: hooks.subscriptions.findIndex((hook) => hook.destination === destination) + 1,
    destination,
    settings,
    disabled: isDisabled,
    sort: 10,
  });
  const webhookList = (destination: string | null): Response => {
    const found = hooks.subscriptions.filter((hook) => destination === null || hook.destination === destination);
    if (found.length === 0) return new Response(null, { status: 204 });
    return hal({ _total_items: found.length, _embedded: { webhooks: found.map(webhookToWire) } });
  };

  /** Keeps what happened for `GET /events`, and tells the subscribers. */
  function happened(type: string, lead: FakeLead, before?: { readonly statusId: number }): void {
    const isMove = type === "lead_status_changed";
    const stage = (statusId: number) => [{ lead_status: { id: statusId, pipeline_id: lead.pipelineId } }];
    events.push({
      id: `event-${events.length + 1}`,
      type,
      entity_id: lead.id,
      entity_type: "lead",
      created_by: 0,
      created_at: seconds(),
      value_after: isMove ? stage(lead.statusId) : [],
      value_before: isMove && before ? stage(before.statusId) : [],
      account_id: fakeAccount.accountId,
    });
    const action = { lead_added: "add", lead_status_changed: "status", lead_deleted: "delete" }[type] ?? "update";
    hooks.happened({
      setting: `${action}_lead`,
      root: `leads[${action}]`,
      fields: {
        id: lead.id,
        name: lead.name,
        status_id: lead.statusId,
        ...(before && { old_status_id: before.statusId }),
        pipeline_id: lead.pipelineId,
        price: lead.price,
        responsible_user_id: lead.responsibleUserId,
        last_modified: lead.updatedAt,
        modified_user_id: 0,
        date_create: lead.createdAt,
        account_id: fakeAccount.accountId,
      },
    });
  }

  function searchEvents(query: URLSearchParams): FakeEvent[] {
    const wanted = (name: string) => query.getAll(`filter[${name}][]`);
    const [types, entities, ids] = [wanted("type"), wanted("entity"), wanted("entity_id")];
    const since = Number(query.get("filter[created_at][from]") ?? query.get("filter[created_at]") ?? 0);
    const until = Number(query.get("filter[created_at][to]") ?? Number.POSITIVE_INFINITY);
    return events
      .filter(({ type }) => types.length === 0 || types.includes(type))
      .filter(({ entity_type }) => entities.length === 0 || entities.includes(entity_type))
      .filter(({ entity_id }) => ids.length === 0 || ids.includes(String(entity_id)))
      .filter(({ created_at }) => created_at >= since && created_at <= until)
      .reverse();
  }

  const pipeline = () => ({
    id: pipelineId,
    name: "Kaspi",
    is_main: true,
    is_archive: false,
    _embedded: {
      statuses: [...stages].map((id, sort) => ({
        id,
        name: id === 142 ? "Успешно" : id === 143 ? "Закрыто" : `Stage ${id}`,
        type: id === fakeAccount.unsortedStageId ? 1 : 0,
        sort,
        pipeline_id: pipelineId,
      })),
    },
  });

  // ---- reading

  function page<Item>(
    url: URL,
    plural: string,
    items: readonly Item[],
    toWire: (item: Item) => unknown,
    most = 250,
  ): Response {
    const number = Number(url.searchParams.get("page") ?? 1);
    const limit = Math.min(Number(url.searchParams.get("limit") ?? 50), most);
    const part = items.slice((number - 1) * limit, number * limit);
    if (part.length === 0) return new Response(null, { status: 204 });
    const next = new URL(url);
    next.searchParams.set("page", String(number + 1));
    return hal({
      _page: number,
      _links: { self: { href: url.href }, ...(number * limit < items.length && { next: { href: next.href } }) },
      _embedded: { [plural]: part.map(toWire) },
    });
  }

  function ordered<Item extends { readonly id: number }>(
    items: readonly Item[],
    query: URLSearchParams,
    keys: Readonly<Record<string, (item: Item) => number>>,
  ): Item[] {
    for (const [name, key] of Object.entries({ id: ({ id }: Item) => id, ...keys })) {
      const direction = query.get(`order[${name}]`);
      if (!direction) continue;
      const sign = direction === "desc" ? -1 : 1;
      return [...items].sort((left, right) => sign * (key(left) - key(right) || left.id - right.id));
    }
    return [...items];
  }

  /** Substring over all filled fields; a hit that is not the wanted one comes first. */
  function search<Item>(
    items: readonly Item[],
    query: URLSearchParams,
    textOf: (item: Item) => string,
    seenAt: (item: Item) => number,
  ) {
    const wanted = query.get("query");
    if (wanted === null) return [...items];
    const digits = wanted.replace(/\D/g, "");
    const hits = items.filter((item) => {
      if (seenAt(item) + indexLagMs > nowMs()) return false;
      const text = textOf(item).toLowerCase();
      return text.includes(wanted.toLowerCase()) || (digits.length >= 6 && text.replace(/\D/g, "").includes(digits));
    });
    return hits.sort((left, right) => textOf(right).length - textOf(left).length);
  }

  function searchLeads(query: URLSearchParams): FakeLead[] {
    let found = search(
      liveLeads(),
      query,
      (lead) => `${lead.name} ${Object.values(lead.fields).join(" ")}`,
      ({ createdAt }) => createdAt * 1000,
    );
    const ids = query.getAll("filter[id][]").map(Number);
    if (hasFilters && ids.length > 0) found = found.filter(({ id }) => ids.includes(id));
    return ordered(found, query, {
      created_at: ({ createdAt }) => createdAt,
      updated_at: ({ updatedAt }) => updatedAt,
    });
  }

  function searchContacts(query: URLSearchParams): FakeContact[] {
    const textOf = ({ name, phones, remark }: FakeContact) => `${name} ${phones.join(" ")} ${remark}`;
    const found = search([...contacts.values()], query, textOf, ({ createdAt }) => createdAt * 1000);
    return ordered(found, query, { updated_at: ({ updatedAt }) => updatedAt });
  }

  function searchElements(query: URLSearchParams): FakeElement[] {
    const found = search(
      [...elements.values()],
      query,
      ({ name, sku }) => `${name} ${sku ?? ""}`,
      ({ id }) => elementsSeenAt.get(id) ?? 0,
    );
    const ids = query.getAll("filter[id][]").map(Number);
    return ids.length === 0 ? found : found.filter(({ id }) => ids.includes(id));
  }

  function searchNotes(query: URLSearchParams): FakeNote[] {
    const ids = query.getAll("filter[entity_id][]").map(Number);
    const found = [...notes.values()].filter(({ leadId }) => ids.length === 0 || ids.includes(leadId));
    return ordered(found, query, {});
  }

  function linkPage(query: URLSearchParams): Response {
    const ids = query.getAll("filter[entity_id][]").map(Number);
    if (ids.length === 0) return problem(400, "Bad Request");
    const type = query.get("filter[to_entity_type]");
    const found = ids.flatMap((leadId) => [
      ...[...(links.get(leadId) ?? [])].map(([elementId, quantity]) => linkToWire(leadId, elementId, quantity)),
      ...(leads.get(leadId)?.contactIds ?? []).map((contactId, number) => ({
        entity_id: leadId,
        entity_type: "leads",
        to_entity_id: contactId,
        to_entity_type: "contacts",
        metadata: { main_contact: number === 0 },
      })),
    ]);
    const matching = found.filter((entry) => type === null || entry.to_entity_type === type);
    return hal({ _total_items: matching.length, _embedded: { links: matching } });
  }

  // ---- writing

  /** Checks and writes a batch; bad items are answered by `request_id`, or by ordinal when they have none. */
  function bulk(
    list: readonly Wire[],
    plural: string,
    limit: number,
    check: (item: Wire) => readonly WireProblem[],
    write: (item: Wire) => number,
    // Samples show the ordinal as a number for elements, as text elsewhere.
    { numericRequestIds = false }: { readonly numericRequestIds?: boolean } = {},
  ): Response {
    if (list.length === 0 || list.length > limit) return problem(400, `Bad Request: 1 to ${limit} items`);
    const checked = list.map((item, number) => ({
      item,
      problems: refuses?.(JSON.stringify(item)) ? [{ code: "NotSupportedChoice" as const, path: "name" }] : check(item),
      requestId: String(item.request_id ?? number),
    }));
    const bad = checked.filter(({ problems }) => problems.length > 0);
    const good =
      bad.length === 0 || badItems === "partial" ? checked.filter(({ problems }) => problems.length === 0) : [];
    const written = good.map(({ item, requestId }) => ({
      id: write(item),
      request_id: item.request_id === undefined && numericRequestIds ? Number(requestId) : requestId,
      updated_at: seconds(),
    }));
    if (bad.length > 0) return validationErrors(bad);
    return hal({ _embedded: { [plural]: shuffled(written) } });
  }

  const validationErrors = (
    bad: readonly { readonly requestId: string; readonly problems: readonly WireProblem[] }[],
  ) =>
    problem(400, "Bad Request", {
      detail: "Request validation failed",
      "validation-errors": bad.map(({ requestId, problems }) => ({
        request_id: requestId,
        errors: problems.map(({ code, path }) => ({ code, path, detail: "The value is not supported." })),
      })),
    });

  const unexpected = (item: Wire, keys: ReadonlySet<string>): WireProblem[] =>
    Object.keys(item)
      .filter((key) => !keys.has(key))
      .map((key) => ({ code: "FieldNotExpected", path: key }));

  function checkLead(item: Wire): WireProblem[] {
    const problems = unexpected(item, leadKeys);
    const embedded = (item._embedded ?? {}) as Wire;
    for (const key of Object.keys(embedded)) {
      if (!["tags", "contacts", "companies", "source"].includes(key))
        problems.push({ code: "FieldNotExpected", path: `_embedded.${key}` });
    }
    if (item.pipeline_id !== undefined && item.pipeline_id !== pipelineId)
      problems.push({ code: "NotSupportedChoice", path: "pipeline_id" });
    if (item.status_id !== undefined && !stages.has(Number(item.status_id)))
      problems.push({ code: "NotSupportedChoice", path: "status_id" });
    if (item.id === undefined && item.status_id === 143)
      problems.push({ code: "NotSupportedChoice", path: "status_id" });
    if (item.responsible_user_id !== undefined && !users.has(Number(item.responsible_user_id))) {
      problems.push({ code: "NotSupportedChoice", path: "responsible_user_id" });
    }
    if (item.price !== undefined && !hasMinorUnits && !Number.isInteger(item.price))
      problems.push({ code: "NotSupportedChoice", path: "price" });
    for (const tag of [...((embedded.tags ?? []) as readonly Wire[])]) {
      if (tag.request_id !== undefined) problems.push({ code: "FieldNotExpected", path: "_embedded.tags" });
    }
    for (const [number, field] of ((item.custom_fields_values ?? []) as readonly Wire[]).entries()) {
      if (field.field_id !== orderCodeFieldId && !ownFields.some(({ id }) => id === field.field_id))
        problems.push({ code: "NotSupportedChoice", path: `custom_fields_values.${number}.field_id` });
    }
    for (const [number, contact] of ((embedded.contacts ?? []) as readonly Wire[]).entries()) {
      if (contact.id !== undefined && !contacts.has(Number(contact.id))) {
        problems.push({ code: "NotSupportedChoice", path: `_embedded.contacts.${number}.id` });
      }
    }
    return problems;
  }

  function checkLeadChange(item: Wire): WireProblem[] {
    const lead = leads.get(Number(item.id));
    return lead && !lead.isDeleted ? checkLead(item) : [{ code: "NotSupportedChoice", path: "id" }];
  }

  const fieldsOf = (item: Wire): Record<number, string> =>
    Object.fromEntries(
      ((item.custom_fields_values ?? []) as readonly Wire[]).map((field) => [
        Number(field.field_id),
        String(((field.values ?? []) as readonly Wire[])[0]?.value ?? ""),
      ]),
    );

  function createLead(item: Wire): FakeLead {
    const embedded = (item._embedded ?? {}) as { tags?: readonly Wire[]; contacts?: readonly Wire[] };
    const at = seconds();
    const lead: FakeLead = {
      id: nextId++,
      name: String(item.name ?? ""),
      price: Number(item.price ?? 0),
      pipelineId: Number(item.pipeline_id ?? pipelineId),
      statusId: Number(item.status_id ?? stageIds.new),
      lossReasonId: null,
      responsibleUserId: Number(item.responsible_user_id ?? fakeAccount.responsibleUserId),
      createdAt: at,
      updatedAt: at,
      fields: fieldsOf(item),
      tags: (embedded.tags ?? []).map(({ name }) => String(name)),
      contactIds: (embedded.contacts ?? []).flatMap(({ id }) => (id === undefined ? [] : [Number(id)])),
      isDeleted: false,
    };
    leads.set(lead.id, lead);
    happened("lead_added", lead);
    return lead;
  }

  function updateLead(item: Wire): number {
    const lead = leads.get(Number(item.id)) as FakeLead;
    const before = { statusId: lead.statusId };
    if (item.name !== undefined) lead.name = String(item.name);
    if (item.price !== undefined) lead.price = Number(item.price);
    if (item.status_id !== undefined) lead.statusId = Number(item.status_id);
    if (item.loss_reason_id !== undefined)
      lead.lossReasonId = item.loss_reason_id === null ? null : Number(item.loss_reason_id);
    if (item.custom_fields_values !== undefined) lead.fields = { ...lead.fields, ...fieldsOf(item) };
    lead.updatedAt = seconds();
    const isMove = lead.statusId !== before.statusId;
    happened(isMove ? "lead_status_changed" : "sale_field_changed", lead, before);
    return lead.id;
  }

  /** A lead with its contact. No check for duplicates among the leads of one request. */
  function complex(list: readonly Wire[]): Response {
    if (list.length === 0 || list.length > 50) return problem(400, "Bad Request: 1 to 50 items");
    const bad = list.flatMap((item, number) => {
      const problems = checkLead(item);
      if (((item.custom_fields_values ?? []) as readonly Wire[]).length > 40)
        problems.push({ code: "FieldNotExpected", path: "custom_fields_values" });
      return problems.length > 0 ? [{ requestId: String(item.request_id ?? number), problems }] : [];
    });
    if (bad.length > 0) return validationErrors(bad);
    const before = liveLeads();
    const rows = list.map((item, number) => {
      const [given] = (((item._embedded ?? {}) as Wire).contacts ?? []) as readonly Wire[];
      const requestId = [String(item.request_id ?? number)];
      const phones = given ? phonesOf(given) : [];
      const twin = before.find((lead) => {
        if (duplicateControl === "off") return false;
        if (duplicateControl === "phone") {
          return lead.contactIds.some((id) => contacts.get(id)?.phones.some((phone) => phones.includes(phone)));
        }
        const value = fieldsOf(item)[duplicateControl.leadFieldId];
        return value !== undefined && lead.fields[duplicateControl.leadFieldId] === value;
      });
      if (twin) {
        updateLead({ ...item, id: twin.id });
        return {
          id: twin.id,
          contact_id: twin.contactIds[0] ?? null,
          company_id: null,
          request_id: requestId,
          merged: true,
        };
      }
      const lead = createLead(item);
      if (given && given.id === undefined) lead.contactIds = [createContact(given).id];
      return {
        id: lead.id,
        contact_id: lead.contactIds[0] ?? null,
        company_id: null,
        request_id: requestId,
        merged: false,
      };
    });
    return hal(shuffled(rows)); // a bare array, unlike everything else
  }

  function checkContact(item: Wire): WireProblem[] {
    const problems = unexpected(item, contactKeys);
    if (item.responsible_user_id !== undefined && !users.has(Number(item.responsible_user_id))) {
      problems.push({ code: "NotSupportedChoice", path: "responsible_user_id" });
    }
    return problems;
  }

  const phonesOf = (item: Wire): string[] =>
    ((item.custom_fields_values ?? []) as readonly Wire[])
      .filter((field) => field.field_code === "PHONE" || field.field_id === fakeAccount.phoneFieldId)
      .flatMap((field) => ((field.values ?? []) as readonly Wire[]).map(({ value }) => String(value)));

  function createContact(item: Wire): FakeContact {
    const at = seconds();
    const contact: FakeContact = {
      id: nextId++,
      name: String(item.name ?? ""),
      phones: phonesOf(item),
      remark: String(item.remark ?? ""),
      createdAt: at,
      updatedAt: at,
    };
    contacts.set(contact.id, contact);
    return contact;
  }

  const checkContactChange = (item: Wire): WireProblem[] =>
    contacts.has(Number(item.id)) ? checkContact(item) : [{ code: "NotSupportedChoice", path: "id" }];

  function updateContact(item: Wire): number {
    const contact = contacts.get(Number(item.id)) as FakeContact;
    if (item.name !== undefined) contact.name = String(item.name);
    if (item.custom_fields_values !== undefined) contact.phones = phonesOf(item);
    contact.updatedAt = seconds();
    return contact.id;
  }

  const checkElementChange = (item: Wire): WireProblem[] =>
    elements.has(Number(item.id)) ? unexpected(item, elementKeys) : [{ code: "NotSupportedChoice", path: "id" }];

  function updateElement(item: Wire): number {
    const element = elements.get(Number(item.id)) as FakeElement;
    if (item.name !== undefined) element.name = String(item.name);
    return element.id;
  }

  function checkElement(item: Wire, codes: readonly unknown[] = ["SKU", "PRICE"]): WireProblem[] {
    const values = (item.custom_fields_values ?? []) as readonly Wire[];
    return [
      ...unexpected(item, elementKeys),
      ...(item.name ? [] : [{ code: "FieldMissing", path: "name" } as const]),
      ...values.flatMap(({ field_code }, number): WireProblem[] => {
        if (field_code === undefined || codes.includes(field_code)) return [];
        return [{ code: "NotSupportedChoice", path: `custom_fields_values.${number}.field_code` }];
      }),
    ];
  }

  function createElement(item: Wire): number {
    const fields = (item.custom_fields_values ?? []) as readonly Wire[];
    const value = (code: string) => {
      const found = ((fields.find((field) => field.field_code === code)?.values ?? []) as readonly Wire[])[0]?.value;
      return found === undefined ? undefined : String(found);
    };
    const id = nextId++;
    elements.set(id, { id, name: String(item.name), sku: value("SKU"), price: value("PRICE") });
    elementsSeenAt.set(id, nowMs());
    return id;
  }

  function link(list: readonly Wire[]): Response {
    const done: unknown[] = [];
    for (const [number, item] of list.entries()) {
      const lead = leads.get(Number(item.entity_id));
      const target = Number(item.to_entity_id);
      const metadata = (item.metadata ?? {}) as Wire;
      const known = item.to_entity_type === "contacts" ? contacts.has(target) : elements.has(target);
      if (!lead || lead.isDeleted || !known) {
        return validationErrors([
          { requestId: String(number), problems: [{ code: "NotSupportedChoice", path: `${number}.to_entity_id` }] },
        ]);
      }
      if (
        item.to_entity_type === "catalog_elements" &&
        (metadata.catalog_id !== fakeAccount.catalogId || metadata.quantity === undefined)
      ) {
        return validationErrors([
          { requestId: String(number), problems: [{ code: "FieldMissing", path: `${number}.metadata` }] },
        ]);
      }
    }
    for (const item of list) {
      const leadId = Number(item.entity_id);
      const target = Number(item.to_entity_id);
      if (item.to_entity_type === "contacts") {
        const lead = leads.get(leadId) as FakeLead;
        if (!lead.contactIds.includes(target)) lead.contactIds.push(target);
        continue;
      }
      linkCount++;
      if (losesTenthLink && linkCount % 10 === 0) continue;
      const quantity = Number((item.metadata as Wire).quantity);
      const of = links.get(leadId) ?? new Map<number, number>();
      of.set(target, relinking === "adds" ? (of.get(target) ?? 0) + quantity : quantity);
      links.set(leadId, of);
      done.push(linkToWire(leadId, target, quantity));
    }
    return hal({ _total_items: done.length, _embedded: { links: done } });
  }

  const linkToWire = (leadId: number, elementId: number, quantity: number) => ({
    entity_id: leadId,
    entity_type: "leads",
    to_entity_id: elementId,
    to_entity_type: "catalog_elements",
    metadata: { catalog_id: fakeAccount.catalogId, quantity },
  });

  function checkNote(item: Wire): WireProblem[] {
    const lead = leads.get(Number(item.entity_id));
    if (!lead || lead.isDeleted) return [{ code: "NotSupportedChoice", path: "entity_id" }];
    return noteTypes.has(String(item.note_type)) ? [] : [{ code: "NotSupportedChoice", path: "note_type" }];
  }

  function createNote(item: Wire): number {
    const id = nextId++;
    const text = String(((item.params ?? {}) as Wire).text ?? "");
    notes.set(id, { id, leadId: Number(item.entity_id), type: String(item.note_type), text });
    return id;
  }

  const checkNoteChange = (item: Wire): WireProblem[] =>
    notes.has(Number(item.id)) ? [] : [{ code: "NotSupportedChoice", path: "id" }];

  function updateNote(item: Wire): number {
    const note = notes.get(Number(item.id)) as FakeNote;
    note.text = String(((item.params ?? {}) as Wire).text ?? note.text);
    return note.id;
  }

  return {
    faults,
    journal,
    get leads() {
      return liveLeads();
    },
    get contacts() {
      return [...contacts.values()];
    },
    get elements() {
      return [...elements.values()];
    },
    get notes() {
      return [...notes.values()];
    },
    get busiestSecond() {
      return busiestSecond;
    },
    get violations() {
      return violations;
    },
    get isBlocked() {
      return isBlocked;
    },
    get refuses() {
      return refuses;
    },
    set refuses(predicate) {
      refuses = predicate;
    },
    unblock() {
      isBlocked = false;
      violations = 0;
    },
    get host() {
      return host;
    },
    rename(subdomain) {
      host = [subdomain, ...host.split(".").slice(1)].join(".");
    },
    oauth: {
      issueCode: oauth.issueCode,
      issuePair: oauth.issuePair,
      expireAccessTokens: oauth.expireAccessTokens,
      get refreshes() {
        return oauth.refreshes;
      },
      disable() {
        oauth.revokeAll();
        return oauth.disableQuery();
      },
    },
    hooks: {
      get subscriptions() {
        return hooks.subscriptions;
      },
      deliver: hooks.deliver,
    },
    batchSizes,
    get isPaid() {
      return paid;
    },
    set isPaid(value) {
      paid = value;
    },
    async handle(request) {
      const { pathname, search: searchText } = new URL(request.url);
      const entry = { method: request.method, path: `${pathname}${searchText}`, at: clock.now() };
      try {
        const response = await guard(request);
        journal.record({ ...entry, status: response.status });
        return response;
      } catch (error) {
        journal.record({ ...entry, status: 0 });
        throw error instanceof Error ? error : droppedReply();
      }
    },
    linksOf: (leadId) => links.get(leadId) ?? new Map(),
    leadOf(orderCode) {
      const found = liveLeads().filter(({ fields }) => fields[orderCodeFieldId] === orderCode);
      if (found.length > 1) throw new Error(`order ${orderCode} has ${found.length} leads`);
      return found[0];
    },
    addContact({ name, phones = [], remark = "" }) {
      return createContact({
        name,
        remark,
        custom_fields_values: [{ field_code: "PHONE", values: phones.map((value) => ({ value })) }],
      });
    },
    deleteContact(id) {
      contacts.delete(id);
      for (const lead of leads.values()) lead.contactIds = lead.contactIds.filter((contactId) => contactId !== id);
    },
    mergeContacts(id, into) {
      const [gone, kept] = [contacts.get(id), contacts.get(into)];
      if (!gone || !kept || id === into) throw new Error("fake amoCRM: only two contacts that are there can be merged");
      contacts.delete(id);
      kept.phones = [...new Set([...kept.phones, ...gone.phones])];
      kept.updatedAt = seconds();
      for (const lead of leads.values()) {
        lead.contactIds = [...new Set(lead.contactIds.map((contactId) => (contactId === id ? into : contactId)))];
      }
    },
    addElement({ name, sku }) {
      const id = createElement({
        name,
        custom_fields_values: sku === undefined ? [] : [{ field_code: "SKU", values: [{ value: sku }] }],
      });
      return elements.get(id) as FakeElement;
    },
    addLead({ name, orderCode, statusId = stageIds.new }) {
      const fields = orderCode === undefined ? [] : [{ field_id: orderCodeFieldId, values: [{ value: orderCode }] }];
      return createLead({ name, status_id: statusId, custom_fields_values: fields });
    },
    moveLead(id, statusId) {
      updateLead({ id, status_id: statusId });
    },
    deleteLead(id) {
      const lead = leads.get(id);
      if (!lead) return;
      lead.isDeleted = true;
      happened("lead_deleted", lead);
    },
    linkElement(leadId, elementId, quantity) {
      links.set(leadId, new Map([...(links.get(leadId) ?? []), [elementId, quantity]]));
    },
  };

  function leadToWire(lead: FakeLead, wanted: string | null): unknown {
    const also = new Set((wanted ?? "").split(","));
    return {
      id: lead.id,
      name: lead.name,
      price: Math.round(lead.price),
      ...(hasMinorUnits && { price_with_minor_units: lead.price }),
      responsible_user_id: lead.responsibleUserId,
      status_id: lead.statusId,
      pipeline_id: lead.pipelineId,
      loss_reason_id: lead.lossReasonId,
      created_by: 0,
      updated_by: 0,
      created_at: lead.createdAt,
      updated_at: lead.updatedAt,
      is_deleted: false,
      account_id: fakeAccount.accountId,
      custom_fields_values: wireFields(
        Object.entries(lead.fields).map(([id, value]) => ({
          field_id: Number(id),
          field_name: "Order code",
          field_code: null,
          field_type: "text",
          values: [{ value }],
        })),
      ),
      _embedded: {
        tags: lead.tags.map((name, number) => ({ id: number + 1, name, color: null })),
        companies: [],
        ...(also.has("contacts") && {
          contacts: lead.contactIds.map((id, number) => ({ id, is_main: number === 0 })),
        }),
        ...(also.has("loss_reason") && {
          loss_reason: lead.lossReasonId === null ? [] : [{ id: lead.lossReasonId, name: "Отменён в Kaspi" }],
        }),
        ...(also.has("catalog_elements") && {
          catalog_elements: [...(links.get(lead.id) ?? [])].map(([id, quantity]) => ({
            id,
            metadata: { quantity, catalog_id: fakeAccount.catalogId },
          })),
        }),
      },
    };
  }

  function contactToWire(contact: FakeContact): unknown {
    return {
      id: contact.id,
      name: contact.name,
      created_at: contact.createdAt,
      updated_at: contact.updatedAt,
      custom_fields_values: wireFields(
        contact.phones.length === 0
          ? []
          : [
              {
                field_id: fakeAccount.phoneFieldId,
                field_name: "Телефон",
                field_code: "PHONE",
                field_type: "multitext",
                values: contact.phones.map((value) => ({ value, enum_id: 1, enum_code: "WORK" })),
              },
            ],
      ),
    };
  }

  function elementToWire(element: FakeElement): unknown {
    const field = (id: number, code: string, value: string | undefined) =>
      value === undefined
        ? []
        : [{ field_id: id, field_name: code, field_code: code, field_type: "text", values: [{ value }] }];
    return {
      id: element.id,
      catalog_id: fakeAccount.catalogId,
      name: element.name,
      custom_fields_values: wireFields([
        ...field(fakeAccount.skuFieldId, "SKU", element.sku),
        ...field(fakeAccount.priceFieldId, "PRICE", element.price),
      ]),
    };
  }

  function noteToWire(note: FakeNote): unknown {
    return { id: note.id, entity_id: note.leadId, note_type: note.type, params: { service: "Kaspi", text: note.text } };
  }
}

/** No values are `null`, not an empty list. */
const wireFields = (fields: readonly unknown[]): readonly unknown[] | null => (fields.length === 0 ? null : fields);

const hal = (body: unknown): Response =>
  new Response(JSON.stringify(body), { headers: { "content-type": "application/hal+json" } });

const problem = (status: number, title: string, more: Readonly<Record<string, unknown>> = {}): Response =>
  new Response(JSON.stringify({ title, type: `https://httpstatus.es/${status}`, status, detail: title, ...more }), {
    status,
    headers: { "content-type": "application/problem+json" },
  });

const json = (status: number, body: unknown): Response =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });

const html = (status: number, title: string): Response =>
  new Response(`<html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>`, {
    status,
    headers: { "content-type": "text/html; charset=utf-8" },
  });
