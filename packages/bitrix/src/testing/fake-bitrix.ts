import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";
import { encodePhpMap, type PhpValue, parsePhpForm, toPhpForm } from "./php-form.ts";

type Row = Record<string, unknown>;
type Values = Readonly<Record<string, unknown>>;

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

export interface FakeBitrixOptions {
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
  /** Where events go to; without it they wait in `events`. A URL or a handler. */
  readonly eventUrl?: string;
  readonly deliver?: FetchHandler;
  /** @defaultValue globalThis.fetch, for `eventUrl` */
  readonly fetch?: typeof fetch;
  /** User fields that deals have. @defaultValue ["UF_CRM_ORDER_ID"] */
  readonly userFields?: readonly string[];
  /** Whether a no-op `crm.item.update` is left unsaved, without an event, as documented. @defaultValue true */
  readonly skipUnchanged?: boolean;
}

export interface FakeEvent {
  readonly event: string;
  readonly data: Values;
  readonly at: Date;
  /** Status that the receiver answered; `undefined` while it waits, or when it was lost. */
  status: number | undefined;
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
  addProduct(product: Values & { readonly id: number; readonly iblockId: number }): void;
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
};

class Refused extends Error {
  readonly status: number;
  readonly body: Values;
  constructor(status: number, error: unknown, description: string, extra: Values = {}) {
    super(description);
    this.status = status;
    this.body = { error, error_description: description, ...extra };
  }
}

const pageSize = 50;

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
    skipUnchanged = true,
    userFields = ["UF_CRM_ORDER_ID"],
  } = options;

  const deals = new Map<number, Row>();
  /** Every id that was given, ascending; a deleted deal leaves its id. */
  const dealIds: number[] = [];
  const history: Row[] = [];
  const categories = new Map<number, { name: string; stages: readonly FakeStage[] }>([
    [0, { name: "Общая", stages: defaultStages }],
  ]);
  const shopOrders = new Map<number, Row>();
  const products = new Map<number, Row>();
  const prices = new Map<number, Row>();
  const events: FakeEvent[] = [];
  const writes: FakeWrite[] = [];
  const journal = createJournal();
  const refusals = { rate: 0, operating: 0 };
  const faults = createFaults(clock, {
    rateLimited: () => Response.json(rateLimitBody, { status: 503 }),
    blocked: () =>
      Response.json(
        { error: "OVERLOAD_LIMIT", error_description: "REST API is blocked due to overload." },
        { status: 503 },
      ),
  });
  let robot: ((deal: FakeDeal) => string | undefined) | undefined;
  let copiesOf: (event: FakeEvent, index: number) => number = () => 1;
  let eventUrl = options.eventUrl;
  let redirectOrigin: string | undefined;
  let sending: Promise<unknown> = Promise.resolve();
  let lastId = 7000;

  // ----- limits

  const buckets = new Map<string, { level: number; at: number }>();
  function takeRequest(address: string): void {
    const now = clock.now().getTime();
    const row = buckets.get(address) ?? { level: 0, at: now };
    const level = Math.max(0, row.level - ((now - row.at) / 1000) * bucket.perSecond);
    if (level + 1 > bucket.capacity) {
      buckets.set(address, { level, at: now });
      refusals.rate++;
      throw new Refused(503, rateLimitBody.error, rateLimitBody.error_description);
    }
    buckets.set(address, { level: level + 1, at: now });
  }

  const minutes = new Map<string, Map<number, number>>();
  function operatingOf(method: string): { readonly seconds: number; readonly resetAt: number | undefined } {
    const minute = Math.floor(clock.now().getTime() / 60_000);
    const recent = [...(minutes.get(method) ?? [])].filter(([at]) => at > minute - 10);
    const oldest = recent.reduce<number | undefined>(
      (least, [at]) => (least === undefined ? at : Math.min(least, at)),
      undefined,
    );
    return {
      seconds: recent.reduce((sum, [, seconds]) => sum + seconds, 0),
      resetAt: oldest === undefined ? undefined : (oldest + 10) * 60,
    };
  }
  function checkOperating(method: string): void {
    if (operatingOf(method).seconds <= operatingLimitSeconds) return;
    refusals.operating++;
    throw new Refused(429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.");
  }
  function recordOperating(method: string, seconds: number): void {
    if (seconds <= 0.1) return; // not recorded at all
    const minute = Math.floor(clock.now().getTime() / 60_000);
    const row = minutes.get(method) ?? new Map<number, number>();
    row.set(minute, (row.get(minute) ?? 0) + seconds);
    minutes.set(method, row);
  }
  function timeOf(method: string): Values {
    const now = clock.now().getTime() / 1000;
    const { seconds, resetAt } = operatingOf(method);
    return {
      start: now,
      finish: now,
      duration: 0,
      processing: 0,
      date_start: clock.now().toISOString(),
      date_finish: clock.now().toISOString(),
      ...(resetAt === undefined ? {} : { operating_reset_at: resetAt }),
      operating: seconds,
    };
  }

  // ----- events

  function raise(event: string, data: Values): void {
    const entry: FakeEvent = { event, data, at: clock.now(), status: undefined };
    const copies = copiesOf(entry, events.length);
    events.push(entry);
    if (eventUrl === undefined && !options.deliver) return;
    const body = toPhpForm({
      event,
      event_handler_id: 975,
      data,
      ts: Math.floor(clock.now().getTime() / 1000),
      auth: {
        domain: "fake.bitrix24.kz",
        client_endpoint: "https://fake.bitrix24.kz/rest/",
        server_endpoint: "https://oauth.bitrix.info/rest/",
        member_id: memberId,
        application_token: applicationToken,
      },
    }).toString();
    for (let copy = 0; copy < copies; copy++) sending = sending.then(() => send(entry, body));
  }

  /** Once; whatever the receiver answers, it is not repeated. */
  async function send(entry: FakeEvent, body: string): Promise<void> {
    const init = {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body,
    };
    try {
      const answer = options.deliver
        ? await options.deliver(new Request(eventUrl ?? "http://receiver.invalid/bitrix/events", init))
        : await (options.fetch ?? fetch)(eventUrl as string, init);
      entry.status = answer.status;
      await answer.body?.cancel();
    } catch {
      entry.status = 0;
    }
  }

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

  function createDeal(fields: Values): Row {
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
    raise("ONCRMDEALADD", { FIELDS: { ID: row.id } });
    return row;
  }

  const pickFields = (fields: Values): Row =>
    Object.fromEntries(
      Object.entries(fields).filter(([name]) => writableFields.has(name) || userFields.includes(name)),
    );

  /** Changes a deal the way the portal does; `true` when something was saved. */
  function changeDeal(row: Row, fields: Values, { canMoveCategory }: { readonly canMoveCategory: boolean }): boolean {
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
    Object.assign(row, next, { updatedTime: now }, moved ? { movedTime: now } : {});
    if (moved || funnelMoved) {
      const stage = stagesOf(row.categoryId as number).find(({ id }) => id === row.stageId);
      recordMove(row, funnelMoved ? 5 : stage?.semantics === "process" ? 2 : 3);
    }
    if (funnelMoved) {
      raise("ONCRMDEALMOVETOCATEGORY", {
        FIELDS: { ID: row.id, CATEGORY_ID: row.categoryId, STAGE_ID: row.stageId },
      });
    } else raise("ONCRMDEALUPDATE", { FIELDS: { ID: row.id } });
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
    if (useOriginalUfNames === "Y") return { ...row };
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

  interface Answer {
    readonly result: unknown;
    readonly total?: number;
    readonly next?: number;
  }
  type Method = (parameters: Values) => Answer;

  const methods: Readonly<Record<string, Method>> = {
    profile: () => ({ result: { ID: String(userId), ADMIN: true, NAME: "Айгүл" } }),
    scope: () => ({ result: ["crm", "sale", "catalog"] }),
    methods: () => ({ result: Object.keys(methods) }),
    "crm.deal.get": ({ id, ID }) => ({ result: toClassic(findDeal(id ?? ID)) }),
    "crm.deal.list": (parameters) => page(dealsFrom(parameters, "ID", toClassic), parameters, "ID", (rows) => rows),
    "crm.deal.add": ({ fields }) => {
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      const row = createDeal(fromClassic(fields as Values));
      writes.push({ method: "crm.deal.add", id: row.id as number, fields: fields as Values });
      return { result: row.id };
    },
    "crm.deal.update": ({ id, fields }) => {
      const row = findDeal(id);
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      writes.push({ method: "crm.deal.update", id: row.id as number, fields: fields as Values });
      changeDeal(row, fromClassic(fields as Values), { canMoveCategory: false });
      return { result: true };
    },
    "crm.deal.delete": ({ id }) => {
      removeDeal(findDeal(id));
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
      const rows = dealsFrom(parameters, "id", (row) => toItem(row, parameters));
      return page(rows, parameters, "id", (items) => ({ items }));
    },
    "crm.item.add": (parameters) => {
      checkEntityType(parameters);
      const row = createDeal((parameters.fields ?? {}) as Values);
      writes.push({ method: "crm.item.add", id: row.id as number, fields: (parameters.fields ?? {}) as Values });
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.update": (parameters) => {
      const row = findItem(parameters);
      writes.push({ method: "crm.item.update", id: row.id as number, fields: (parameters.fields ?? {}) as Values });
      changeDeal(row, (parameters.fields ?? {}) as Values, { canMoveCategory: true });
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.delete": (parameters) => {
      removeDeal(findItem(parameters));
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
    "crm.stagehistory.list": (parameters) => page(history, parameters, "ID", (items) => ({ items })),
    "sale.order.get": ({ id }) => ({ result: { order: { ...findShopOrder(id) } } }),
    "sale.order.list": (parameters) => page([...shopOrders.values()], parameters, "id", (orders) => ({ orders })),
    "sale.order.update": ({ id, fields }) => {
      const row = findShopOrder(id);
      const { payed: _derived, id: _id, ...writable } = (fields ?? {}) as Row;
      writes.push({ method: "sale.order.update", id: row.id as number, fields: writable });
      saveShopOrder(row, writable);
      return { result: { order: { ...row } } };
    },
    "sale.status.list": ({ filter }) => {
      const rows = [
        ["N", "O"],
        ["P", "O"],
        ["S", "O"],
        ["D", "O"],
        ["F", "O"],
        ["DN", "D"],
        ["DD", "D"],
        ["DF", "D"],
      ].map(([id, type], index) => ({ id, type, sort: 100 * (index + 1), notify: "Y", color: "", xmlId: "" }));
      const type = (filter as Values | undefined)?.type;
      return { result: { statuses: type === undefined ? rows : rows.filter((row) => row.type === type) } };
    },
    "catalog.product.list": (parameters) => {
      const select = Object.values((parameters.select ?? {}) as Values);
      const filter = (parameters.filter ?? {}) as Values;
      if (!select.includes("id") || !select.includes("iblockId")) {
        throw new Refused(400, 0, "Required select fields: id, iblockId");
      }
      if (filter.iblockId === undefined) throw new Refused(400, 0, "Required filter fields: iblockId");
      return page([...products.values()], parameters, "id", (rows) => ({ products: rows }));
    },
    "catalog.product.get": ({ id }) => ({ result: { product: { ...findProduct(id) } } }),
    "catalog.product.update": ({ id, fields }) => {
      const row = findProduct(id);
      writes.push({ method: "catalog.product.update", id: row.id as number, fields: (fields ?? {}) as Values });
      Object.assign(row, fields, { timestampX: clock.now().toISOString() });
      return { result: { element: { ...row } } };
    },
    "catalog.price.list": (parameters) => page([...prices.values()], parameters, "id", (rows) => ({ prices: rows })),
    "catalog.price.add": ({ fields }) => {
      const row: Row = { ...(fields as Values), id: ++lastId };
      prices.set(row.id as number, row);
      writes.push({ method: "catalog.price.add", id: row.id as number, fields: fields as Values });
      return { result: { price: { ...row } } };
    },
    "catalog.price.update": ({ id, fields }) => {
      const row = prices.get(Number(id));
      const { price, currency } = (fields ?? {}) as Values;
      if (!row) throw new Refused(400, 0, "Price is not exists");
      if (price === undefined || currency === undefined) throw new Refused(400, 0, "Required fields: price, currency");
      writes.push({ method: "catalog.price.update", id: row.id as number, fields: fields as Values });
      Object.assign(row, { price, currency });
      return { result: { price: { ...row } } };
    },
  };

  function saveShopOrder(row: Row, fields: Values): void {
    Object.assign(row, fields, { version: Number(row.version ?? 0) + 1, dateUpdate: clock.now().toISOString() });
    raise("ONSALEORDERSAVED", { FIELDS: { ID: row.id, XML_ID: row.xmlId ?? "", ACTION: "save" } });
  }
  function findShopOrder(id: unknown): Row {
    const row = shopOrders.get(Number(id));
    if (!row) throw new Refused(400, 200540400001, "order is not exists");
    return row;
  }
  function findProduct(id: unknown): Row {
    const row = products.get(Number(id));
    if (!row) throw new Refused(400, 0, "product does not exist.");
    return row;
  }
  function removeDeal(row: Row): void {
    deals.delete(row.id as number);
    raise("ONCRMDEALDELETE", { FIELDS: { ID: row.id } });
  }

  /** Deals by ascending id, from where the filter lets them begin. */
  function* dealsFrom(parameters: Values, idName: string, view: (row: Row) => Row): IterableIterator<Row> {
    const after = Number(((parameters.filter ?? {}) as Values)[`>${idName}`] ?? 0);
    let [low, high] = [0, dealIds.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((dealIds[middle] as number) > after) high = middle;
      else low = middle + 1;
    }
    for (; low < dealIds.length; low++) {
      const row = deals.get(dealIds[low] as number);
      if (row) yield view(row);
    }
  }

  /** Filters, orders and cuts rows to a page. `start` is floored to a whole page; `-1` leaves out the count. */
  function page(
    rows: Iterable<Row>,
    parameters: Values,
    idName: string,
    wrap: (rows: readonly Row[]) => unknown,
  ): Answer {
    const filter = (parameters.filter ?? {}) as Values;
    const order = Object.entries((parameters.order ?? { [idName]: "ASC" }) as Values);
    const isById = order.length === 1 && order[0]?.[0] === idName && String(order[0][1]).toUpperCase() === "ASC";
    const matching: Row[] = [];
    for (const row of rows) {
      if (matches(row, filter)) matching.push(row);
      if (isById && Number(parameters.start ?? 0) < 0 && matching.length === pageSize) break;
    }
    if (!isById) {
      matching.sort((left, right) => {
        for (const [name, direction] of order) {
          const difference = compare(left[name], right[name]);
          if (difference !== 0) return String(direction).toUpperCase() === "DESC" ? -difference : difference;
        }
        return 0;
      });
    }
    const start = Number(parameters.start ?? 0);
    if (start < 0) return { result: wrap(matching.slice(0, pageSize)), total: 0 };
    const from = Math.floor(start / pageSize) * pageSize;
    const next = from + pageSize;
    return {
      result: wrap(matching.slice(from, next)),
      total: matching.length,
      ...(next < matching.length ? { next } : {}),
    };
  }

  // ----- HTTP

  function run(method: string, parameters: Values): Answer {
    const known = methods[method];
    if (!known) {
      if (/^(event|placement)\./.test(method)) {
        throw new Refused(403, "WRONG_AUTH_TYPE", "Current authorization type is denied for this method");
      }
      throw new Refused(404, "ERROR_METHOD_NOT_FOUND", "Method not found!");
    }
    return known(parameters);
  }

  function runBatch(parameters: Values): unknown {
    const halt = Number(parameters.halt ?? 0) === 1;
    const commands = Object.entries((parameters.cmd ?? {}) as Values).filter(
      ([, command]) => typeof command === "string",
    );
    const maps: Record<
      "result" | "result_error" | "result_total" | "result_next" | "result_time",
      [string, unknown][]
    > = {
      result: [],
      result_error: [],
      result_total: [],
      result_next: [],
      result_time: [],
    };
    for (const [index, [key, command]] of commands.entries()) {
      try {
        if (index >= pageSize) throw new Refused(400, "ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded");
        const [name = "", query = ""] = (command as string).split("#", 1)[0]?.split(/\?(.*)/s) ?? [];
        const method = name.toLowerCase();
        if (["batch", "upload", "download"].includes(method)) {
          throw new Refused(405, "ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage");
        }
        checkOperating(method);
        const resolved = resolve(parsePhpForm(query), maps) as Values;
        const answer = run(method, resolved);
        const cost = costs[method] ?? 0.05;
        if (batchAccounting === "methods") recordOperating(method, cost);
        else recordOperating("batch", cost / 2);
        maps.result.push([key, answer.result]);
        if (answer.total !== undefined) maps.result_total.push([key, answer.total]);
        if (answer.next !== undefined) maps.result_next.push([key, answer.next]);
        maps.result_time.push([key, timeOf(batchAccounting === "methods" ? method : "batch")]);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        maps.result_error.push([key, error.body]);
        if (halt) break;
      }
    }
    return Object.fromEntries(Object.entries(maps).map(([name, entries]) => [name, encodePhpMap(entries)]));
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

  // ----- OAuth

  const codes = new Map<string, number>();
  const accessTokens = new Map<string, number>();
  const refreshTokens = new Set<string>();
  let granted = 0;
  let refreshes = 0;

  /** Parameters come in the query or as a form. A code and a refresh token work once. */
  async function giveTokens(request: Request, url: URL): Promise<Response> {
    const {
      grant_type: grant,
      client_id: id,
      client_secret: given,
      code,
      refresh_token: refreshToken,
    } = {
      ...parsePhpForm(url.search.slice(1)),
      ...(request.method === "POST" ? parsePhpForm(await request.text()) : {}),
    };
    const refuse = (error: string) => Response.json({ error, error_description: error }, { status: 400 });
    const now = clock.now().getTime();
    if (id !== client.id || given !== client.secret) return refuse("invalid_client");
    if (grant === "refresh_token") {
      if (!refreshTokens.delete(String(refreshToken))) return refuse("invalid_grant");
      refreshes++;
    } else if (grant === "authorization_code") {
      const endsAt = codes.get(String(code)) ?? 0;
      codes.delete(String(code));
      if (endsAt < now) return refuse("invalid_grant");
    } else return refuse("invalid_request");
    granted++;
    accessTokens.set(`access-${granted}`, now + 3_600_000);
    refreshTokens.add(`refresh-${granted}`);
    return Response.json({
      access_token: `access-${granted}`,
      refresh_token: `refresh-${granted}`,
      expires: Math.floor(now / 1000) + 3600,
      expires_in: 3600,
      scope: "crm,sale,catalog",
      domain: "oauth.bitrix.info",
      server_endpoint: "https://oauth.bitrix.info/rest/",
      client_endpoint: "https://fake.bitrix24.kz/rest/",
      member_id: memberId,
      status: "L",
      user_id: userId,
    });
  }

  function checkToken(token: unknown): void {
    if (token === undefined) throw new Refused(401, "NO_AUTH_FOUND", "Wrong authorization data");
    const endsAt = accessTokens.get(String(token));
    if (endsAt === undefined) throw new Refused(401, "invalid_token", "Unable to get application by token");
    if (endsAt <= clock.now().getTime()) {
      throw new Refused(401, "expired_token", "The access token provided has expired.");
    }
  }

  async function answer(request: Request, method: string, parameters: Values): Promise<Response> {
    takeRequest(request.headers.get("x-forwarded-for") ?? "one address");
    checkOperating(method);
    if (method === "batch") {
      const result = runBatch(parameters);
      return Response.json({ result, time: timeOf("batch") });
    }
    const found = run(method, parameters);
    recordOperating(method, costs[method] ?? 0.05);
    return Response.json({ ...found, time: timeOf(method) });
  }

  const handled: FetchHandler = async (request) => {
    const url = new URL(request.url);
    if (url.pathname === "/oauth/token/") return giveTokens(request, url);
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
      if (parts.length === 0) checkToken(auth);
      else if (parts.join("/") !== `${userId}/${secret}`) {
        throw new Refused(401, "INVALID_CREDENTIALS", "Invalid request credentials");
      }
      return await answer(request, method, parameters);
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
    refusals,
    webhookUrl: (origin) => `${origin}/rest/${userId}/${secret}/`,
    consent() {
      const code = `code-${codes.size + granted + 1}`;
      codes.set(code, clock.now().getTime() + 30_000);
      return code;
    },
    expireTokens() {
      for (const token of accessTokens.keys()) accessTokens.set(token, 0);
    },
    revokeTokens() {
      accessTokens.clear();
      refreshTokens.clear();
    },
    get refreshes() {
      return refreshes;
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
    addShopOrder(order) {
      shopOrders.set(order.id, { statusId: "N", payed: "N", canceled: "N", version: 0, ...order });
    },
    shopOrder: (id) => shopOrders.get(id),
    changeShopOrder(id, fields) {
      saveShopOrder(findShopOrder(id), fields);
    },
    addProduct(product) {
      products.set(product.id, { active: "Y", ...product });
    },
    setRobot(next) {
      robot = next;
    },
    setEventCopies(next) {
      copiesOf = next;
    },
    setEventUrl(url) {
      eventUrl = url;
    },
    redirectTo(origin) {
      redirectOrigin = origin;
    },
    async settled() {
      for (let seen: unknown; seen !== sending; ) {
        seen = sending;
        await sending;
      }
    },
  };
}

const rateLimitBody = { error: "QUERY_LIMIT_EXCEEDED", error_description: "Too many requests" };

function compare(left: unknown, right: unknown): number {
  const [a, b] = [Number(left), Number(right)];
  if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
  return String(left ?? "") < String(right ?? "") ? -1 : String(left ?? "") > String(right ?? "") ? 1 : 0;
}

function matches(row: Row, filter: Values): boolean {
  return Object.entries(filter).every(([key, wanted]) => {
    const [, operator = "", name = ""] = /^(>=|<=|!=|!@|>|<|=|!|@)?(.*)$/.exec(key) ?? [];
    const value = row[name];
    const among = () =>
      Object.values(typeof wanted === "object" && wanted !== null ? wanted : { wanted }).some(
        (one) => String(one) === String(value),
      );
    switch (operator) {
      case ">":
        return compare(value, wanted) > 0;
      case ">=":
        return compare(value, wanted) >= 0;
      case "<":
        return compare(value, wanted) < 0;
      case "<=":
        return compare(value, wanted) <= 0;
      case "!":
      case "!=":
      case "!@":
        return !among();
      default:
        return among();
    }
  });
}

/**
 * References in a command's parameters. One runs to the next white space; where its path ends early, the deepest value
 * that was found is used: as it is when it is the whole parameter, else only when it is a text or a number.
 */
function resolve(value: PhpValue, maps: Readonly<Record<string, readonly [string, unknown][]>>): unknown {
  if (typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, resolve(child, maps)]));
  }
  const names: Readonly<Record<string, string>> = {
    $result: "result",
    $error: "result_error",
    $total: "result_total",
    $next: "result_next",
  };
  const find = (text: string): unknown => {
    const [, head = ""] = /^(\$\w+)\[/.exec(text) ?? [];
    const entries = maps[names[head] ?? ""];
    if (!entries) return text;
    let node: unknown = Object.fromEntries(entries);
    for (const [, step = ""] of text.slice(head.length).matchAll(/\[([^\]]*)\]/g)) {
      if (typeof node !== "object" || node === null || !(step in node)) break;
      node = (node as Row)[step];
    }
    return node;
  };
  if (/^\$\w+\[\S*$/.test(value)) return find(value);
  return value.replace(/\$\w+\[\S*/g, (text) => {
    const found = find(text);
    return typeof found === "string" || typeof found === "number" ? String(found) : text;
  });
}
