import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";

export interface FakeEntry {
  /** Left out: the answer has no `offer`, as older ones. */
  readonly sku?: string;
  readonly name?: string;
  /** @defaultValue 1 */
  readonly quantity?: number;
  /** Tenge. */
  readonly basePrice: number;
  /** Given: measurable goods. */
  readonly weightGrams?: number;
}

export interface FakeOrder {
  readonly code: string;
  /** Epoch milliseconds of the checkout. @defaultValue the fake's time */
  readonly creationDate?: number;
  /** The order is invisible before this. @defaultValue at once */
  readonly visibleFrom?: number;
  /** @defaultValue "NEW" */
  readonly state?: string;
  /** @defaultValue "APPROVED_BY_BANK" */
  readonly status?: string;
  /** Ten digits as Kaspi sends them. Left out: hidden, as `+0(000)-000-00-00`. */
  readonly cellPhone?: string;
  readonly firstName?: string;
  readonly lastName?: string;
  readonly signatureRequired?: boolean;
  readonly assembled?: boolean;
  /** More attributes, or other values for those above. */
  readonly attributes?: Readonly<Record<string, unknown>>;
  readonly entries: readonly FakeEntry[];
}

export interface FakeKaspiOptions {
  /** Token of each shop. @defaultValue { default: "kaspi-token" } */
  readonly shops?: Readonly<Record<string, string>>;
  /** The order of results is not documented. @defaultValue "oldest" */
  readonly order?: "oldest" | "newest" | "shuffled";
  /** Whether a list without `filter[orders][state]` is refused: two guides disagree. @defaultValue false */
  readonly requiresState?: boolean;
  /** Pages over 100 rows: refused, or cut to 100. @defaultValue "refused" */
  readonly largePages?: "refused" | "cut";
  /** Lists tell `meta` with their totals. @defaultValue true */
  readonly hasMeta?: boolean;
  /** Status of a bad token: both are seen. @defaultValue 401 */
  readonly badTokenStatus?: 401 | 403;
  /** Partial cancels are still being worked on when they are answered. @defaultValue false */
  readonly cancelsLater?: boolean;
  /**
   * Entries that are asked for at the same time are refused with 429, as was seen. @defaultValue false
   */
  readonly refusesParallelEntries?: boolean;
  /** Orders that are made when they are asked for, for very many: `at(index)` from the oldest on, in `shop`. */
  readonly generated?: {
    readonly count: number;
    readonly from: number;
    readonly stepMs: number;
    at(index: number): FakeOrder;
  };
  /** `include[orders]=entries` is answered without them. @defaultValue false */
  readonly ignoresInclude?: boolean;
  readonly clock?: Clock;
}

export interface FakeKaspi {
  readonly handle: FetchHandler;
  readonly faults: Faults;
  readonly journal: Journal;
  /** The buyer checks out. */
  addOrder(order: FakeOrder, shop?: string): void;
  /** The order moves on, or its content changes. */
  changeOrder(code: string, change: Partial<FakeOrder>, shop?: string): void;
  removeOrder(code: string, shop?: string): void;
  getOrder(code: string, shop?: string): FakeOrder | undefined;
  /** Called after each page of a list was answered: for moving rows between pages. */
  onPage: ((page: { readonly state: string | undefined; readonly number: number }) => void) | undefined;
}

const hiddenPhone = "+0(000)-000-00-00";
const longestSpanMs = 14 * 86_400_000;
const states = ["NEW", "SIGN_REQUIRED", "PICKUP", "DELIVERY", "KASPI_DELIVERY", "ARCHIVE"];

/** The shop API of Kaspi with its traps, written from the partner guide. */
export function createFakeKaspi({
  shops = { default: "kaspi-token" },
  order: resultOrder = "oldest",
  requiresState = false,
  largePages = "refused",
  hasMeta = true,
  badTokenStatus = 401,
  cancelsLater = false,
  refusesParallelEntries = false,
  generated,
  ignoresInclude = false,
  clock = systemClock,
}: FakeKaspiOptions = {}): FakeKaspi {
  const orders = new Map<string, Map<string, FakeOrder & { readonly creationDate: number }>>(
    Object.keys(shops).map((shop) => [shop, new Map()]),
  );
  const faults = createFaults(clock, {
    rateLimited: () => failure(429, "Too many requests"),
    blocked: () => html(403, "Forbidden"),
  });
  const journal = createJournal();
  let onPage: FakeKaspi["onPage"];
  let entriesUnderWay = 0;

  const ordersOf = (shop: string) => {
    const found = orders.get(shop);
    if (!found) throw new Error(`the fake has no shop "${shop}"`);
    return found;
  };

  async function answer(request: Request): Promise<Response> {
    const { headers } = request;
    if (!/application\/vnd\.api\+json/.test(headers.get("accept") ?? "")) return html(404, "Not found");
    if (!headers.get("user-agent")) await clock.sleep(600_000, request.signal); // hangs until the client gives up
    const shop = Object.keys(shops).find((name) => shops[name] === headers.get("x-auth-token"));
    if (shop === undefined) return failure(badTokenStatus, "Unauthorized");
    const url = new URL(request.url);
    const path = url.pathname.replace(/^\/shop\/api\/v2/, "");
    if (path === "/orders" && request.method === "GET") return list(url.searchParams, shop);
    if (path === "/orderEntryCancelOperation" && request.method === "POST") {
      return cancelLine((await request.json()) as CancelBody, shop);
    }
    if (path.startsWith("/shop/api/orderPartialCancel/") && request.method === "PUT") {
      const lines = (await request.json()) as readonly PartialLine[];
      return cancelLines(decodeURIComponent(path.split("/").at(-1) as string), lines, shop);
    }
    if (path === "/orders" && request.method === "POST")
      return change((await request.json()) as ChangeBody, headers, shop);
    const single = /^\/orders\/([^/]+)(\/entries)?$/.exec(path);
    const found = single && visible(shop).find((order) => orderId(order) === decodeURIComponent(single[1] as string));
    if (!single || !found) return failure(404, "Not found");
    if (single[2] && refusesParallelEntries) {
      if (entriesUnderWay > 0) return failure(429, "Too many requests");
      entriesUnderWay++;
      await clock.sleep(1);
      entriesUnderWay--;
    }
    return json(
      single[2]
        ? { data: found.entries.map((entry, number) => entryResource(found, entry, number)) }
        : { data: orderResource(found) },
    );
  }

  const visible = (shop: string) =>
    [...ordersOf(shop).values()].filter(({ visibleFrom = 0 }) => visibleFrom <= clock.now().getTime());

  function list(query: URLSearchParams, shop: string): Response {
    const code = query.get("filter[orders][code]");
    if (code !== null) {
      const found = visible(shop).filter((order) => order.code === code);
      return json({
        data: found.map(orderResource),
        ...included(found, query),
        meta: { pageCount: found.length, totalCount: found.length },
      });
    }
    const number = Number(query.get("page[number]") ?? Number.NaN);
    const size = Number(query.get("page[size]") ?? Number.NaN);
    const from = query.get("filter[orders][creationDate][$ge]");
    if (from === null) return failure(400, "Required filter [orders][creationDate][$ge] is empty");
    if (!Number.isInteger(number) || number < 0) return failure(400, "Required page[number] is empty");
    if (!Number.isInteger(size) || size < 1 || (size > 100 && largePages === "refused"))
      return failure(400, "page[size] must be at most 100");
    const to = Number(query.get("filter[orders][creationDate][$le]") ?? clock.now().getTime());
    if (to - Number(from) > longestSpanMs)
      return failure(400, "The span of filter[orders][creationDate] is over 14 days");
    const state = query.get("filter[orders][state]") ?? undefined;
    if (state !== undefined && !states.includes(state)) return failure(400, "Unknown filter[orders][state]");
    if (state === undefined && requiresState) return failure(400, "Required filter [orders][state] is empty");
    if (generated) return generatedPage(generated, { from: Number(from), to, state, number, size }, query);
    const status = query.get("filter[orders][status]");
    const matching = visible(shop)
      .filter((order) => order.creationDate >= Number(from) && order.creationDate <= to)
      .filter((order) => state === undefined || (order.state ?? "NEW") === state)
      .filter((order) => status === null || (order.status ?? "APPROVED_BY_BANK") === status)
      .sort(comparators[resultOrder]);
    const rows = Math.min(size, 100);
    const page = matching.slice(number * rows, (number + 1) * rows);
    const body = {
      data: page.map(orderResource),
      ...included(page, query),
      ...(hasMeta && { meta: { pageCount: Math.ceil(matching.length / rows), totalCount: matching.length } }),
    };
    const response = json(body); // the body is fixed before the rows move
    onPage?.({ state, number });
    return response;
  }

  /** Makes only the rows of the page: all of them are in the folder of the first. */
  function generatedPage(
    { count, from: first, stepMs, at }: NonNullable<FakeKaspiOptions["generated"]>,
    asked: { from: number; to: number; state: string | undefined; number: number; size: number },
    query: URLSearchParams,
  ): Response {
    const begin = Math.max(0, Math.ceil((asked.from - first) / stepMs));
    const end = Math.min(count, Math.floor((asked.to - first) / stepMs) + 1);
    const isFolder = asked.state === undefined || asked.state === (at(0).state ?? "NEW");
    const total = isFolder ? Math.max(0, end - begin) : 0;
    const start = begin + asked.number * asked.size;
    const page = Array.from({ length: Math.max(0, Math.min(asked.size, begin + total - start)) }, (_, index) => ({
      creationDate: first + (start + index) * stepMs,
      ...at(start + index),
    }));
    return json({
      data: page.map(orderResource),
      ...included(page, query),
      meta: { pageCount: Math.ceil(total / asked.size), totalCount: total },
    });
  }

  interface PartialLine {
    readonly entry?: { readonly id?: string };
    readonly remainedQuantity?: number;
    readonly remainedWeight?: number;
    readonly reason?: string;
  }
  interface CancelBody {
    readonly data?: {
      readonly attributes?: PartialLine;
      readonly relationships?: { readonly entry?: { readonly data?: { readonly id?: string } } };
    };
  }

  function remain(order: Stored, lines: readonly PartialLine[], shop: string): boolean {
    const entries = order.entries.map((entry, number) => {
      const line = lines.find((candidate) => candidate.entry?.id === entryId(order, number));
      return {
        ...entry,
        ...(line?.remainedQuantity !== undefined && { quantity: line.remainedQuantity }),
        ...(line?.remainedWeight !== undefined && { weightGrams: line.remainedWeight }),
      };
    });
    const known = lines.every((line) => order.entries.some((_, number) => entryId(order, number) === line.entry?.id));
    if (!known || lines.some(({ reason }) => !reason)) return false;
    ordersOf(shop).set(order.code, { ...order, entries: entries.filter(({ quantity }) => quantity !== 0) });
    return true;
  }

  function cancelLine({ data }: CancelBody, shop: string): Response {
    const id = data?.relationships?.entry?.data?.id;
    const order = visible(shop).find((candidate) =>
      candidate.entries.some((_, number) => entryId(candidate, number) === id),
    );
    if (!order) return failure(404, "Not found");
    const line = { ...data?.attributes, ...(id !== undefined && { entry: { id } }) };
    if (!remain(order, [line], shop)) return failure(400, "reason is empty");
    return json({
      data: {
        type: "orderEntryCancelOperation",
        id: "1",
        attributes: { status: cancelsLater ? "INPROGRESS" : "SUCCESSFULL" }, // spelled like this
      },
    });
  }

  function cancelLines(id: string, lines: readonly PartialLine[], shop: string): Response {
    const order = visible(shop).find((candidate) => orderId(candidate) === id);
    if (!order) return failure(404, "Not found");
    if (!remain(order, lines, shop)) return failure(400, "entry or reason is wrong");
    return json({ status: cancelsLater ? "INPROGRESS" : "SUCCESSFUL" });
  }

  function included(page: readonly FakeOrder[], query: URLSearchParams): { readonly included?: readonly unknown[] } {
    const wanted = (query.get("include[orders]") ?? "").split(",");
    if (!wanted.includes("entries") || ignoresInclude) return {};
    return {
      included: page.flatMap((order) => order.entries.map((entry, number) => entryResource(order, entry, number))),
    };
  }

  interface ChangeBody {
    readonly data?: {
      readonly id?: string;
      readonly attributes?: { readonly status?: string; readonly cancellationReason?: string };
    };
  }

  function change({ data }: ChangeBody, headers: Headers, shop: string): Response {
    const order = visible(shop).find((candidate) => orderId(candidate) === data?.id);
    if (!order) return failure(404, "Not found");
    const status = order.status ?? "APPROVED_BY_BANK";
    const to = data?.attributes?.status ?? "";
    const next = transitions[to]?.(order, status);
    if (!next) return failure(400, `Order with status ${status} cannot get status ${to}`);
    if (to === "COMPLETED") {
      const securityCode = headers.get("x-security-code") ?? "";
      if (headers.get("x-send-code") !== "true") return failure(400, "X-Send-Code is required");
      if (securityCode === "") return json({ data: orderResource(order) }); // the buyer was sent a code
      if (securityCode !== "1234") return failure(400, "Security code is not valid, the order cannot be completed");
    }
    if (to === "CANCELLED" && !data?.attributes?.cancellationReason) return failure(400, "cancellationReason is empty");
    const changed = { ...order, ...next };
    ordersOf(shop).set(order.code, changed);
    return json({ data: orderResource(changed) });
  }

  return {
    faults,
    journal,
    get onPage() {
      return onPage;
    },
    set onPage(callback) {
      onPage = callback;
    },
    async handle(request) {
      const { pathname, search } = new URL(request.url);
      const at = clock.now();
      let status = 0;
      try {
        const response = await faults.wrap(answer)(request);
        status = response.status;
        return response;
      } finally {
        journal.record({ method: request.method, path: `${pathname}${search}`, at, status });
      }
    },
    addOrder(order, shop = "default") {
      ordersOf(shop).set(order.code, { creationDate: clock.now().getTime(), ...order });
    },
    changeOrder(code, changes, shop = "default") {
      const order = ordersOf(shop).get(code);
      if (!order) throw new Error(`the fake has no order ${code}`);
      ordersOf(shop).set(code, { ...order, ...changes, creationDate: changes.creationDate ?? order.creationDate });
    },
    removeOrder(code, shop = "default") {
      ordersOf(shop).delete(code);
    },
    getOrder: (code, shop = "default") => ordersOf(shop).get(code),
  };
}

type Stored = FakeOrder & { readonly creationDate: number };

const comparators: Readonly<Record<NonNullable<FakeKaspiOptions["order"]>, (left: Stored, right: Stored) => number>> = {
  oldest: (left, right) => left.creationDate - right.creationDate || (left.code < right.code ? -1 : 1),
  newest: (left, right) => right.creationDate - left.creationDate || (left.code < right.code ? 1 : -1),
  shuffled: (left, right) => scatter(left.code) - scatter(right.code) || (left.code < right.code ? -1 : 1),
};

/** The same for the same code, but in no order that a reader would expect. */
const scatter = (code: string): number =>
  [...code].reduce((sum, digit) => (sum * 31 + digit.charCodeAt(0) * 7919) % 10_007, 17);

/** What a merchant may set, from which status (partner guide, "change of status"). */
const transitions: Readonly<Record<string, (order: FakeOrder, status: string) => Partial<FakeOrder> | undefined>> = {
  ACCEPTED_BY_MERCHANT: (_order, status) =>
    status === "APPROVED_BY_BANK" ? { status: "ACCEPTED_BY_MERCHANT", state: "KASPI_DELIVERY" } : undefined,
  ASSEMBLE: (order, status) =>
    status === "ACCEPTED_BY_MERCHANT" && order.state === "KASPI_DELIVERY" ? { assembled: true } : undefined,
  ARRIVED: (order, status) =>
    status === "ACCEPTED_BY_MERCHANT" && order.attributes?.preOrder === true
      ? { attributes: { ...order.attributes, preOrder: false } }
      : undefined,
  COMPLETED: (_order, status) =>
    status === "ACCEPTED_BY_MERCHANT" ? { status: "COMPLETED", state: "ARCHIVE" } : undefined,
  CANCELLED: (_order, status) =>
    ["APPROVED_BY_BANK", "ACCEPTED_BY_MERCHANT"].includes(status)
      ? { status: "CANCELLED", state: "ARCHIVE" }
      : undefined,
  ARRIVED_BACKWARD: (_order, status) =>
    ["CANCELLING", "KASPI_DELIVERY_RETURN_REQUESTED"].includes(status)
      ? { status: "RETURNED", state: "ARCHIVE" }
      : undefined,
};

const base64 = (text: string): string => btoa(text).replace(/=+$/, "");
const orderId = ({ code }: FakeOrder): string => base64(code);

function orderResource(order: Stored): unknown {
  const phone = order.cellPhone ?? hiddenPhone;
  const attributes = {
    code: order.code,
    totalPrice: Number((order.entries.reduce((sum, entry) => sum + lineTiyn(entry), 0) / 100).toFixed(2)),
    creationDate: order.creationDate,
    approvedByBankDate: order.creationDate + 4_333,
    paymentMode: "PREPAID",
    state: order.state ?? "NEW",
    status: order.status ?? "APPROVED_BY_BANK",
    preOrder: false,
    signatureRequired: order.signatureRequired ?? false,
    isKaspiDelivery: true,
    assembled: order.assembled ?? false,
    deliveryMode: "DELIVERY_REGIONAL_TODOOR",
    customer: {
      id: base64(phone),
      name: null,
      cellPhone: phone,
      firstName: order.firstName ?? "Айгүл",
      lastName: order.lastName ?? "Серікқызы",
    },
    ...order.attributes,
  };
  return {
    type: "orders",
    id: orderId(order),
    attributes,
    relationships: {
      entries: { data: order.entries.map((_entry, number) => ({ type: "orderentries", id: entryId(order, number) })) },
      user: { data: { type: "customers", id: base64(phone) } },
    },
    links: { self: `/v2/orders/${orderId(order)}` },
  };
}

const entryId = ({ code }: FakeOrder, number: number): string => base64(`${code}##${number}`);

/** Measurable goods cost price × weight, whatever the quantity says. */
const lineTiyn = ({ basePrice, quantity = 1, weightGrams }: FakeEntry): number =>
  Math.round(basePrice * 100 * (weightGrams === undefined ? quantity : weightGrams / 1000));

function entryResource(order: FakeOrder, entry: FakeEntry, number: number): { readonly id: string } {
  return {
    type: "orderentries",
    id: entryId(order, number),
    attributes: {
      entryNumber: number,
      quantity: entry.quantity ?? 1,
      basePrice: entry.basePrice,
      totalPrice: lineTiyn(entry) / 100,
      weight: entry.weightGrams ?? 0,
      unitType: entry.weightGrams === undefined ? "PIECES" : "MEASURABLE",
      deliveryCost: 0,
      category: { code: "Master - Goods", title: "Goods" },
      ...(entry.sku !== undefined && { offer: { code: entry.sku, name: entry.name ?? entry.sku } }),
    },
  } as { readonly id: string };
}

const json = (body: unknown, status = 200): Response =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/vnd.api+json;charset=UTF-8" } });
const failure = (status: number, title: string): Response => json({ errors: [{ title }] }, status);
const html = (status: number, title: string): Response =>
  new Response(`<html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>`, {
    status,
    headers: { "content-type": "text/html; charset=utf-8" },
  });
