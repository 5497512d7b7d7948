import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";
import type { Method, Values } from "./fake-bitrix-answer.ts";
import { createFakeDeals, type FakeDeal, type FakeStage } from "./fake-bitrix-deals.ts";
import { createFakeEvents, type FakeEvent, type FakeEventOptions } from "./fake-bitrix-events.ts";
import { type BatchAccounting, type BeforeCommand, createFakeHttp } from "./fake-bitrix-http.ts";
import { createFakeLimits, rateLimitBody } from "./fake-bitrix-limits.ts";
import { createFakeOAuth } from "./fake-bitrix-oauth.ts";
import { createFakeStore } from "./fake-bitrix-store.ts";
import { createFakeCatalog } from "./fake-catalog.ts";
import { createFakeCrm, type FakeSmartProcess } from "./fake-crm.ts";

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
  /**
   * Seconds that a method may run in ten minutes; "off" as on a portal of one's own: nothing is refused for it, and answers
   * tell no `operating`. @defaultValue 480
   */
  readonly operatingLimitSeconds?: number | "off";
  /** Seconds that one call costs, by method. @defaultValue the samples of the documentation */
  readonly costs?: Readonly<Record<string, number>>;
  /**
   * Where calls in a batch are counted, on which the sources differ: under their own methods (the documents), under `batch`
   * at half weight (measured), or, of a webhook, under their own methods but apart from single calls (the portal's source,
   * "no-credential"). @defaultValue "methods"
   */
  readonly batchAccounting?: BatchAccounting;
  /** Whether calls last as long as they cost, by the clock. @defaultValue false */
  readonly takesTime?: boolean;
  /** Seconds that the count of a list costs, which `start: -1` leaves out. @defaultValue 0 */
  readonly countCost?: number;
  /** Whether a move to another funnel changes the deal's `updatedTime`; not documented. @defaultValue true */
  readonly movesChangeTime?: boolean;
  /** User fields that deals have. @defaultValue ["UF_CRM_ORDER_ID"] */
  readonly userFields?: readonly string[];
  /** Code of "product does not exist.": the page of `catalog.product.get` says empty, other catalogue methods give 0. @defaultValue "" */
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
  /** How long a copy of an event stays at the queue server, in milliseconds: later ones overtake it. @defaultValue 0 */
  setEventDelay(delayMs: (event: FakeEvent, index: number, copy: number) => number): void;
  /** Where the outgoing webhook sends events to from now on. */
  setEventUrl(url: string): void;
  /** Answers 302 to every call, as after a rename; `undefined` ends it. */
  redirectTo(origin: string | undefined): void;
  /**
   * Looks at each command before it runs, those in a batch too: changes rows between two pages, or gives the refusal that
   * the command ends with, whatever its status and code. `undefined` ends it.
   */
  setBeforeCommand(before: BeforeCommand | undefined): void;
  /** Resolves when all events that were raised so far have been sent. */
  settled(): Promise<void>;
}

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
  } = options;
  const userFields = [...(options.userFields ?? ["UF_CRM_ORDER_ID"])];

  const writes: FakeWrite[] = [];
  const journal = createJournal();
  const limits = createFakeLimits({ clock, bucket, operatingLimitSeconds });
  const oauth = createFakeOAuth({ clock, client, memberId, userId });
  const queue = createFakeEvents({ ...options, clock, memberId, applicationToken, grantToken: oauth.grantToken });
  const { events, raise } = queue;
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
  let lastId = 7000;
  const deals = createFakeDeals({
    ...parts,
    userFields,
    movesChangeTime: options.movesChangeTime,
    skipUnchanged: options.skipUnchanged,
  });
  const crm = createFakeCrm({ ...parts, userFields });
  const methods: Readonly<Record<string, Method>> = crm.extend({
    profile: () => ({ result: { ID: String(userId), ADMIN: true, NAME: "Айгүл" } }),
    scope: () => ({ result: ["crm", "sale", "catalog"] }),
    methods: () => ({ result: Object.keys(methods) }),
    ...deals.methods,
    ...store.methods,
    ...catalog.methods,
  });
  const http = createFakeHttp({
    clock,
    userId,
    secret,
    clientId: client.id,
    limits,
    oauth,
    methods,
    applicationMethods: queue.methods,
    costs: options.costs,
    batchAccounting: options.batchAccounting,
    takesTime: options.takesTime,
    countCost: options.countCost,
  });

  const faulty = faults.wrap(http.handle);
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
    deal: deals.deal,
    get deals() {
      return deals.all;
    },
    addDeal: deals.add,
    moveDeal: deals.move,
    moveToCategory: deals.moveToCategory,
    deleteDeal: deals.remove,
    addCategory: deals.addCategory,
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
    setRobot: deals.setRobot,
    setEventCopies: queue.setCopies,
    setEventDelay: queue.setDelay,
    setEventUrl: queue.setUrl,
    redirectTo: http.redirectTo,
    setBeforeCommand: http.setBeforeCommand,
    settled: queue.settled,
  };
}
