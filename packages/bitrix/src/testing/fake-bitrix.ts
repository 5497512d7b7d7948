import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";
import { type Answer, type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { runFakeBatch } from "./fake-bitrix-batch.ts";
import { createFakeEvents, type FakeEvent, type FakeEventOptions } from "./fake-bitrix-events.ts";
import { createFakeLimits, type RunningTime, rateLimitBody } from "./fake-bitrix-limits.ts";
import { createFakeOAuth } from "./fake-bitrix-oauth.ts";
import { page, type SortedRows, sortedPage } from "./fake-bitrix-rows.ts";
import { createFakeStore } from "./fake-bitrix-store.ts";
import { createFakeCatalog } from "./fake-catalog.ts";
import { createFakeCrm, type FakeSmartProcess } from "./fake-crm.ts";
import { parsePhpForm } from "./php-form.ts";

export interface FakeDeal {
  readonly id: number;
  readonly title: string;
  readonly stageId: string;
  readonly categoryId: number;
  readonly fields: Values;
}

export interface FakeStage {
  readonly id: string;
  readonly name: string;
  readonly sort: number;
  readonly semantics: "process" | "success" | "failure";
}

/** One write that came by REST. */
export interface FakeWrite {
  readonly method: string;
  readonly id: number;
  readonly fields: Values;
}

export interface FakeBitrixOptions extends FakeEventOptions {
  /** Path parts of the incoming webhook. @defaultValue user 1, `fake-webhook-secret` */
  readonly userId?: number;
  readonly secret?: string;
  /** The application that may use OAuth. @defaultValue `local.fake` and `fake-client-secret` */
  readonly client?: { readonly id: string; readonly secret: string };
  /** @defaultValue "fake-application-token" */
  readonly applicationToken?: string;
  /** @defaultValue "a223c6b3710f85df22e9377d6c4f7553" */
  readonly memberId?: string;
  readonly clock?: Clock;
  /** Leaky bucket, per source address; `undefined` leaks 2 per second with room for 50. */
  readonly bucket?: { readonly perSecond: number; readonly capacity: number };
  /** Seconds that a method may run in ten minutes. @defaultValue 480 */
  readonly operatingLimitSeconds?: number;
  /** Seconds that one call costs, by method. @defaultValue the samples of the documentation */
  readonly costs?: Readonly<Record<string, number>>;
  /** Where calls in a batch are counted: under their own methods, or under `batch` at half weight. @defaultValue "methods" */
  readonly batchAccounting?: "methods" | "batch";
  /** Whether calls last as long as they cost, by the clock. @defaultValue false */
  readonly takesTime?: boolean;
  /** Seconds that the count of a list costs, which `start: -1` leaves out. @defaultValue 0 */
  readonly countCost?: number;
  /** Whether a move to another funnel changes the deal's `updatedTime`; not documented. @defaultValue true */
  readonly movesChangeTime?: boolean;
  /** User fields that deals have. @defaultValue ["UF_CRM_ORDER_ID"] */
  readonly userFields?: readonly string[];
  /** Code of "product does not exist.": the page of the method says empty, other catalogue methods give 0. @defaultValue 0 */
  readonly missingProductCode?: "" | 0;
  /** Whether a no-op `crm.item.update` is left unsaved, without an event, as documented. @defaultValue true */
  readonly skipUnchanged?: boolean;
}

export interface FakeBitrix {
  /** The portal's HTTP interface: `/rest/{user}/{secret}/{method}`, `/rest/{method}` with `auth`, and `/oauth/token/`. */
  readonly handle: FetchHandler;
  readonly faults: Faults;
  /** Requests, with the path `/{method}`. */
  readonly journal: Journal;
  /** Writes that came by REST and were executed, the oldest first. */
  readonly writes: readonly FakeWrite[];
  readonly events: readonly FakeEvent[];
  /** Calls that were refused because of a limit. */
  readonly refusals: { readonly rate: number; readonly operating: number };
  /** Running time of a method that counts against its limit now, in seconds, over all callers. */
  operatingOf(method: string): number;
  /** Rows of the application's offline queue, reserved ones included. */
  readonly offline: readonly Values[];
  /** The webhook's address on the given origin. */
  webhookUrl(origin: string): string;
  /** A person consents: the code that comes back with the redirect, good once and for 30 seconds. */
  consent(): string;
  /** The access tokens given so far are over. */
  expireTokens(): void;
  /** The application was removed: its refresh tokens end as well. */
  revokeTokens(): void;
  /** Refreshes that were granted. */
  readonly refreshes: number;
  deal(id: number): FakeDeal | undefined;
  readonly deals: readonly FakeDeal[];
  /** A manager creates a deal. */
  addDeal(
    deal: { readonly title?: string; readonly stageId?: string; readonly categoryId?: number } & Values,
  ): FakeDeal;
  /** A manager moves a deal; raises events like the portal. */
  moveDeal(id: number, stageId: string): void;
  /** A manager moves a deal to another funnel: no `ONCRMDEALUPDATE`. */
  moveToCategory(id: number, categoryId: number, stageId: string): void;
  deleteDeal(id: number): void;
  addCategory(id: number, name: string, stages: readonly FakeStage[]): void;
  addShopOrder(order: Values & { readonly id: number }): void;
  shopOrder(id: number): Values | undefined;
  /** A manager or a payment changes an order of the store, `payed` too; raises the store's event. */
  changeShopOrder(id: number, fields: Values): void;
  addPayment(payment: Values & { readonly id: number; readonly orderId: number }): void;
  addProduct(product: Values & { readonly id: number; readonly iblockId: number }): void;
  product(id: number): Values | undefined;
  addPrice(price: Values & { readonly id: number; readonly productId: number }): void;
  readonly prices: readonly Values[];
  contact(id: number): Values | undefined;
  /** A manager makes out a payment in a deal. */
  addDealPayment(payment: Values & { readonly id: number; readonly dealId: number }): void;
  /** A manager sets up a smart process, with a number of 128 or more. */
  addSmartProcess(process: FakeSmartProcess): void;
  /** Elements of a smart process. */
  items(entityTypeId: number): readonly Values[];
  /** Raises any event. */
  raise(event: string, data: Values): void;
  /** A robot: gets the deal after each change and gives the stage it moves it to, or nothing. */
  setRobot(robot: ((deal: FakeDeal) => string | undefined) | undefined): void;
  /** What happens to coming events: each gives how many copies are sent. @defaultValue one copy each */
  setEventCopies(copies: (event: FakeEvent, index: number) => number): void;
  /** Where events go to from now on. */
  setEventUrl(url: string): void;
  /** Answers 302 to every call, as after a rename; `undefined` ends it. */
  redirectTo(origin: string | undefined): void;
  /** Resolves when all events that were raised so far have been sent. */
  settled(): Promise<void>;
}

/** Names, order and meaning of the default funnel. "crm.status.list", apidocs.bitrix24.ru (read 2026-08) */
const defaultStages: readonly FakeStage[] = [
  { id: "NEW", name: "Новая", sort: 10, semantics: "process" },
  { id: "PREPARATION", name: "Подготовка документов", sort: 20, semantics: "process" },
  { id: "PREPAYMENT_INVOICE", name: "Cчет на предоплату", sort: 30, semantics: "process" },
  { id: "EXECUTING", name: "В работе", sort: 40, semantics: "process" },
  { id: "FINAL_INVOICE", name: "Финальный счет", sort: 50, semantics: "process" },
  { id: "WON", name: "Сделка успешна", sort: 60, semantics: "success" },
  { id: "LOSE", name: "Сделка провалена", sort: 70, semantics: "failure" },
  { id: "APOLOGY", name: "Анализ причины провала", sort: 80, semantics: "failure" },
];

const sampleCosts: Readonly<Record<string, number>> = {
  "crm.item.update": 3.19,
  "crm.deal.update": 1.35,
  "sale.order.update": 0.99,
  "catalog.price.update": 0.011,
  "sale.payment.update": 4.14,
};

/** What one HTTP request holds while it runs. */
interface RequestState {
  readonly time: RunningTime;
  readonly caller: Caller;
  readonly isBatch: boolean;
  readonly startedAt: number;
  busyMs: number;
}

interface Executed {
  readonly answer: Answer;
  readonly time: Values;
}

/** Classic names of a deal's fields. */
const classicNames: Readonly<Record<string, string>> = {
  id: "ID",
  title: "TITLE",
  stageId: "STAGE_ID",
  categoryId: "CATEGORY_ID",
  opportunity: "OPPORTUNITY",
  currencyId: "CURRENCY_ID",
  originatorId: "ORIGINATOR_ID",
  originId: "ORIGIN_ID",
  movedTime: "MOVED_TIME",
  updatedTime: "DATE_MODIFY",
  createdTime: "DATE_CREATE",
  closed: "CLOSED",
  comments: "COMMENTS",
};
const itemNames = Object.fromEntries(Object.entries(classicNames).map(([item, classic]) => [classic, item]));

/** Fields that exist; any other name is ignored without a word, as by the portal. */
const writableFields = new Set([
  "title",
  "stageId",
  "categoryId",
  "opportunity",
  "currencyId",
  "originatorId",
  "originId",
  "comments",
]);
const isUserField = (name: string) => /^UF_CRM_/.test(name);

/**
 * A Bitrix24 portal for tests and demos, written from the vendor's documents. It keeps deals, funnels, store orders and
 * products, raises events, counts requests and operating time, and refuses like the real one.
 */
export function createFakeBitrix(options: FakeBitrixOptions = {}): FakeBitrix {
  const {
    userId = 1,
    secret = "fake-webhook-secret",
    client = { id: "local.fake", secret: "fake-client-secret" },
    applicationToken = "fake-application-token",
    memberId = "a223c6b3710f85df22e9377d6c4f7553",
    clock = systemClock,
    bucket = { perSecond: 2, capacity: 50 },
    operatingLimitSeconds = 480,
    costs = sampleCosts,
    batchAccounting = "methods",
    takesTime = false,
    countCost = 0,
    movesChangeTime = true,
    skipUnchanged = true,
  } = options;
  const userFields = [...(options.userFields ?? ["UF_CRM_ORDER_ID"])];

  const deals = new Map<number, Row>();
  /** Every id that was given, ascending; a deleted deal leaves its id. */
  const dealIds: number[] = [];
  const history: Row[] = [];
  const categories = new Map<number, { name: string; stages: readonly FakeStage[] }>([
    [0, { name: "Общая", stages: defaultStages }],
  ]);
  const writes: FakeWrite[] = [];
  const journal = createJournal();
  const limits = createFakeLimits({ clock, bucket, operatingLimitSeconds });
  const queue = createFakeEvents({ ...options, clock, memberId, applicationToken });
  const { events, raise } = queue;
  const oauth = createFakeOAuth({ clock, client, memberId, userId });
  const parts = {
    clock,
    raise,
    write: (method: string, id: unknown, fields: Values) => void writes.push({ method, id: id as number, fields }),
    nextId: () => ++lastId,
  };
  const store = createFakeStore(parts);
  const catalog = createFakeCatalog({ ...parts, missingProductCode: options.missingProductCode });
  const faults = createFaults(clock, {
    rateLimited: () => Response.json(rateLimitBody, { status: 503 }),
    blocked: () =>
      Response.json(
        { error: "OVERLOAD_LIMIT", error_description: "REST API is blocked due to overload." },
        { status: 503 },
      ),
  });
  let robot: ((deal: FakeDeal) => string | undefined) | undefined;
  let redirectOrigin: string | undefined;
  let lastId = 7000;
  const crm = createFakeCrm({ ...parts, userFields });

  // ----- deals

  const stagesOf = (category: number) => categories.get(category)?.stages ?? [];
  const toFakeDeal = (row: Row): FakeDeal => ({
    id: row.id as number,
    title: row.title as string,
    stageId: row.stageId as string,
    categoryId: row.categoryId as number,
    fields: { ...row },
  });

  function recordMove(row: Row, type: number): void {
    const stage = stagesOf(row.categoryId as number).find(({ id }) => id === row.stageId);
    history.push({
      ID: history.length + 1,
      TYPE_ID: type,
      OWNER_ID: row.id,
      CREATED_TIME: clock.now().toISOString(),
      CATEGORY_ID: row.categoryId,
      STAGE_ID: row.stageId,
      STAGE_SEMANTIC_ID: stage?.semantics === "success" ? "S" : stage?.semantics === "failure" ? "F" : "P",
    });
  }

  function createDeal(fields: Values, by?: Caller): Row {
    const now = clock.now().toISOString();
    const categoryId = Number(fields.categoryId ?? 0);
    const row: Row = {
      title: "",
      opportunity: 0,
      currencyId: "KZT",
      originatorId: null,
      originId: null,
      comments: null,
      ...pickFields(fields),
      categoryId,
      id: ++lastId,
      stageId: fields.stageId ?? stagesOf(categoryId)[0]?.id ?? "NEW",
      createdTime: now,
      updatedTime: now,
      movedTime: now,
    };
    deals.set(row.id as number, row);
    dealIds.push(row.id as number);
    recordMove(row, 1);
    raise("ONCRMDEALADD", { FIELDS: { ID: row.id } }, by);
    return row;
  }

  const pickFields = (fields: Values): Row =>
    Object.fromEntries(
      Object.entries(fields).filter(([name]) => writableFields.has(name) || userFields.includes(name)),
    );

  /** Changes a deal the way the portal does; `true` when something was saved. */
  function changeDeal(
    row: Row,
    fields: Values,
    { canMoveCategory, by }: { readonly canMoveCategory: boolean; readonly by?: Caller },
  ): boolean {
    const next = pickFields(fields);
    const targetCategory = canMoveCategory && next.categoryId !== undefined ? Number(next.categoryId) : row.categoryId;
    if (!canMoveCategory) delete next.categoryId;
    else if (next.categoryId !== undefined) next.categoryId = Number(next.categoryId);
    // A stage of another funnel is dropped without a word.
    if (next.stageId !== undefined && !stagesOf(targetCategory as number).some(({ id }) => id === next.stageId)) {
      delete next.stageId;
    }
    const changed = Object.entries(next).some(([name, value]) => String(row[name] ?? "") !== String(value ?? ""));
    if (!changed && skipUnchanged) return false;
    const now = clock.now().toISOString();
    const moved = next.stageId !== undefined && next.stageId !== row.stageId;
    const funnelMoved = targetCategory !== row.categoryId;
    Object.assign(
      row,
      next,
      funnelMoved && !movesChangeTime ? {} : { updatedTime: now },
      moved ? { movedTime: now } : {},
    );
    if (moved || funnelMoved) {
      const stage = stagesOf(row.categoryId as number).find(({ id }) => id === row.stageId);
      recordMove(row, funnelMoved ? 5 : stage?.semantics === "process" ? 2 : 3);
    }
    if (funnelMoved) {
      raise(
        "ONCRMDEALMOVETOCATEGORY",
        { FIELDS: { ID: row.id, CATEGORY_ID: row.categoryId, STAGE_ID: row.stageId } },
        by,
      );
    } else raise("ONCRMDEALUPDATE", { FIELDS: { ID: row.id } }, by);
    const robotStage = robot?.(toFakeDeal(row));
    if (robotStage !== undefined && robotStage !== row.stageId)
      changeDeal(row, { stageId: robotStage }, { canMoveCategory: false });
    return true;
  }

  function findDeal(id: unknown): Row {
    const row = deals.get(Number(id));
    if (!row) throw new Refused(400, "", "Not found");
    return row;
  }

  function toClassic(row: Row): Row {
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [
        classicNames[name] ?? name,
        name === "opportunity" ? Number(value).toFixed(2) : value === null ? null : String(value),
      ]),
    );
  }
  const fromClassic = (fields: Values): Row =>
    Object.fromEntries(Object.entries(fields).map(([name, value]) => [itemNames[name] ?? name, value]));

  function checkEntityType(parameters: Values): void {
    if (parameters.entityTypeId === undefined) {
      throw new Refused(400, "100", "Could not find value for parameter {entityTypeId}");
    }
    if (Number(parameters.entityTypeId) !== 2)
      throw new Refused(400, "ENTITY_TYPE_NOT_SUPPORTED", "Entity type is not supported");
  }
  function findItem(parameters: Values): Row {
    checkEntityType(parameters);
    const row = deals.get(Number(parameters.id));
    if (!row) throw new Refused(400, "NOT_FOUND", "Элемент не найден");
    return row;
  }
  /** Without `useOriginalUfNames` user fields get camel-case names. */
  function toItem(row: Row, { useOriginalUfNames }: Values): Row {
    if (useOriginalUfNames === "Y" || !Object.keys(row).some(isUserField)) return { ...row };
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [
        isUserField(name)
          ? name.toLowerCase().replace(/_([a-z])/g, (_all, letter: string) => letter.toUpperCase())
          : name,
        value,
      ]),
    );
  }

  // ----- methods

  const methods: Readonly<Record<string, Method>> = crm.extend({
    profile: () => ({ result: { ID: String(userId), ADMIN: true, NAME: "Айгүл" } }),
    scope: () => ({ result: ["crm", "sale", "catalog"] }),
    methods: () => ({ result: Object.keys(methods) }),
    "crm.deal.get": ({ id, ID }) => ({ result: toClassic(findDeal(id ?? ID)) }),
    "crm.deal.list": (parameters) =>
      sortedPage(sortedDeals, parameters, { idName: "ID", view: toClassic, wrap: (rows) => rows }),
    "crm.deal.add": ({ fields }, by) => {
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      const row = createDeal(fromClassic(fields as Values), by);
      writes.push({ method: "crm.deal.add", id: row.id as number, fields: fields as Values });
      return { result: row.id };
    },
    "crm.deal.update": ({ id, fields }, by) => {
      const row = findDeal(id);
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      writes.push({ method: "crm.deal.update", id: row.id as number, fields: fields as Values });
      changeDeal(row, fromClassic(fields as Values), { canMoveCategory: false, by });
      return { result: true };
    },
    "crm.deal.delete": ({ id }, by) => {
      removeDeal(findDeal(id), by);
      return { result: true };
    },
    "crm.deal.fields": () => ({
      result: Object.fromEntries(
        [...Object.values(classicNames), ...userFields].map((name) => [name, { type: "string", title: name }]),
      ),
    }),
    "crm.item.get": (parameters) => ({ result: { item: toItem(findItem(parameters), parameters) } }),
    "crm.item.list": (parameters) => {
      checkEntityType(parameters);
      const view = (row: Row) => toItem(row, parameters);
      return sortedPage(sortedDeals, parameters, { idName: "id", view, wrap: (items) => ({ items }) });
    },
    "crm.item.add": (parameters, by) => {
      checkEntityType(parameters);
      const row = createDeal((parameters.fields ?? {}) as Values, by);
      writes.push({ method: "crm.item.add", id: row.id as number, fields: (parameters.fields ?? {}) as Values });
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.update": (parameters, by) => {
      const row = findItem(parameters);
      writes.push({ method: "crm.item.update", id: row.id as number, fields: (parameters.fields ?? {}) as Values });
      changeDeal(row, (parameters.fields ?? {}) as Values, { canMoveCategory: true, by });
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.delete": (parameters, by) => {
      removeDeal(findItem(parameters), by);
      return { result: [] };
    },
    "crm.category.list": (parameters) => {
      checkEntityType(parameters);
      return {
        result: {
          categories: [...categories].map(([id, { name }]) => ({
            id,
            name,
            isDefault: id === 0 ? "Y" : "N",
            entityTypeId: 2,
          })),
        },
        total: categories.size,
      };
    },
    "crm.status.list": ({ filter }) => {
      const entity = (filter as Values | undefined)?.ENTITY_ID;
      const rows = [...categories].flatMap(([category, { stages }]) =>
        stages.map((stage) => ({
          ID: String(1000 + category * 100 + stage.sort),
          ENTITY_ID: category === 0 ? "DEAL_STAGE" : `DEAL_STAGE_${category}`,
          STATUS_ID: stage.id,
          NAME: stage.name,
          SORT: String(stage.sort),
          SEMANTICS: stage.semantics === "success" ? "S" : stage.semantics === "failure" ? "F" : null,
          CATEGORY_ID: String(category),
        })),
      );
      const result = entity === undefined ? rows : rows.filter((row) => row.ENTITY_ID === entity);
      return { result, total: result.length };
    },
    "crm.stagehistory.list": (parameters) =>
      page(history, parameters, { idName: "ID", wrap: (items) => ({ items }), isSorted: true }),
    ...store.methods,
    ...catalog.methods,
  });

  function removeDeal(row: Row, by?: Caller): void {
    deals.delete(row.id as number);
    raise("ONCRMDEALDELETE", { FIELDS: { ID: row.id } }, by);
  }

  const sortedDeals: SortedRows = {
    ids: dealIds,
    get: (id) => deals.get(id),
    get size() {
      return deals.size;
    },
  };

  // ----- HTTP

  function run(method: string, parameters: Values, caller: Caller): Answer {
    const forApplications = queue.methods[method];
    const known = methods[method] ?? (caller.isApplication ? forApplications : undefined);
    if (!known) {
      if (forApplications || /^(event|placement)\./.test(method)) {
        throw new Refused(403, "WRONG_AUTH_TYPE", "Current authorization type is denied for this method");
      }
      throw new Refused(404, "ERROR_METHOD_NOT_FOUND", "Method not found!");
    }
    const connector = parameters.auth_connector;
    return known(parameters, connector === undefined ? caller : { ...caller, connector: String(connector) });
  }

  /** Runs a command and books its time, under its own method or under `batch` at half weight. */
  async function execute(method: string, parameters: Values, request: RequestState): Promise<Executed> {
    const { time, caller, isBatch } = request;
    time.check(method);
    const answer = run(method, parameters, caller);
    const counts = answer.total !== undefined && Number(parameters.start ?? 0) >= 0;
    const cost = (costs[method] ?? 0.05) + (counts ? countCost : 0);
    const account = isBatch && batchAccounting === "batch" ? "batch" : method;
    time.add(account, account === "batch" ? cost / 2 : cost);
    if (takesTime) {
      request.busyMs += cost * 1000;
      const behindMs = request.startedAt + request.busyMs - clock.monotonicMs();
      if (behindMs > 0) await clock.sleep(behindMs);
    }
    return { answer, time: time.describe(account, cost) };
  }

  async function readParameters(request: Request, url: URL): Promise<Values> {
    const query = parsePhpForm(url.search.slice(1));
    if (request.method === "GET") return query;
    const text = await request.text();
    if (!(request.headers.get("content-type") ?? "").includes("json")) return { ...query, ...parsePhpForm(text) };
    try {
      const body = JSON.parse(text);
      return typeof body === "object" && body !== null ? { ...query, ...body } : query;
    } catch {
      return query; // swallowed, as by the portal: the method then misses its parameters
    }
  }

  async function answer(request: Request, method: string, parameters: Values, caller: Caller): Promise<Response> {
    limits.takeRequest(request.headers.get("x-forwarded-for") ?? "one address");
    const time = limits.begin(caller.credential);
    const state: RequestState = {
      time,
      caller,
      isBatch: method === "batch",
      startedAt: clock.monotonicMs(),
      busyMs: 0,
    };
    try {
      if (method !== "batch") {
        const executed = await execute(method, parameters, state);
        return Response.json({ ...executed.answer, time: executed.time });
      }
      time.check("batch");
      const result = await runFakeBatch(parameters, (name, values) => execute(name, values, state));
      return Response.json({ result, time: time.describe("batch", 0) });
    } finally {
      time.end();
    }
  }

  const handled: FetchHandler = async (request) => {
    const url = new URL(request.url);
    if (url.pathname === "/oauth/token/") return oauth.giveTokens(request, url);
    const [, prefix, ...parts] = url.pathname.replace(/\/{2,}/g, "/").split("/");
    const rawMethod = parts.pop() ?? "";
    const method = rawMethod.replace(/\.json$/, "").toLowerCase();
    if (prefix !== "rest") return new Response("Not found", { status: 404 });
    if (redirectOrigin !== undefined) {
      return new Response(null, {
        status: 302,
        headers: { location: `${redirectOrigin}${url.pathname}${url.search}` },
      });
    }
    try {
      const { auth, ...parameters } = await readParameters(request, url);
      const isApplication = parts.length === 0;
      if (isApplication) oauth.checkToken(auth);
      else if (parts.join("/") !== `${userId}/${secret}`) {
        throw new Refused(401, "INVALID_CREDENTIALS", "Invalid request credentials");
      }
      const credential = isApplication ? client.id : `${userId}/${secret}`;
      return await answer(request, method, parameters, { credential, isApplication, connector: "" });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return Response.json(error.body, { status: error.status });
    }
  };

  const faulty = faults.wrap(handled);
  const handle: FetchHandler = async (request) => {
    const { pathname } = new URL(request.url);
    const path = pathname.startsWith("/oauth/") ? pathname : `/${pathname.split("/").at(-1) ?? ""}`;
    const entry = { method: request.method, path, at: clock.now() };
    try {
      const response = await faulty(request);
      journal.record({ ...entry, status: response.status });
      return response;
    } catch (error) {
      journal.record({ ...entry, status: 0 });
      throw error;
    }
  };

  return {
    handle,
    faults,
    journal,
    writes,
    events,
    refusals: limits.refusals,
    operatingOf: (method) =>
      [client.id, `${userId}/${secret}`].reduce((sum, credential) => sum + limits.operating(credential, method), 0),
    get offline() {
      return queue.offline;
    },
    webhookUrl: (origin) => `${origin}/rest/${userId}/${secret}/`,
    consent: oauth.consent,
    expireTokens: oauth.expireTokens,
    revokeTokens: oauth.revokeTokens,
    get refreshes() {
      return oauth.refreshes;
    },
    deal: (id) => {
      const row = deals.get(id);
      return row && toFakeDeal(row);
    },
    get deals() {
      return [...deals.values()].map(toFakeDeal);
    },
    addDeal: (fields) => toFakeDeal(createDeal(fields)),
    moveDeal(id, stageId) {
      changeDeal(findDeal(id), { stageId }, { canMoveCategory: false });
    },
    moveToCategory(id, categoryId, stageId) {
      changeDeal(findDeal(id), { categoryId, stageId }, { canMoveCategory: true });
    },
    deleteDeal(id) {
      removeDeal(findDeal(id));
    },
    addCategory(id, name, stages) {
      categories.set(id, { name, stages });
    },
    addShopOrder: store.addOrder,
    shopOrder: store.order,
    changeShopOrder: store.changeOrder,
    addPayment: store.addPayment,
    addProduct: catalog.addProduct,
    product: catalog.product,
    addPrice: catalog.addPrice,
    get prices() {
      return catalog.prices;
    },
    contact: crm.contact,
    addSmartProcess: crm.addSmartProcess,
    addDealPayment: crm.addDealPayment,
    items: crm.itemsOf,
    raise: (event, data) => raise(event, data),
    setRobot(next) {
      robot = next;
    },
    setEventCopies: queue.setCopies,
    setEventUrl: queue.setUrl,
    redirectTo(origin) {
      redirectOrigin = origin;
    },
    settled: queue.settled,
  };
}
