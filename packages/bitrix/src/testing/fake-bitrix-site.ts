import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { createFaults, createJournal, type Faults, type Journal } from "@orderbridge/core/testing";

export interface FakeSiteOrder {
  readonly id: number;
  readonly status: string;
  readonly paid: boolean;
  readonly canceled: boolean;
  readonly version: number;
  /** ISO 8601. */
  readonly changedAt: string;
}

export interface FakeSiteProduct {
  readonly id: number;
  readonly name: string;
  /** Decimal text, in tenge. */
  readonly price: string;
  readonly currency: string;
  readonly enabled: boolean;
  readonly version: number;
  readonly changedAt: string;
}

/** A webhook that the site sent, and what was answered. */
export interface FakeSiteDelivery {
  readonly kind: "order" | "product";
  readonly body: Readonly<Record<string, unknown>>;
  /** 0: no answer. */
  readonly status: number;
  readonly answer: unknown;
}

export interface FakeBitrixSiteOptions {
  /** Origin of the backend that receives the webhooks. */
  readonly backendUrl?: string;
  /** Sent in `X-Webhook-Secret`. */
  readonly webhookSecret: string;
  /** Bearer token that the product endpoint wants. */
  readonly siteToken: string;
  /** @defaultValue "/api/v2/products/update-from-railway" */
  readonly productPath?: string;
  readonly clock?: Clock;
  /** For the webhooks. @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
  /** What the endpoint answers to a push that knows no version: accepts it, or answers 409. @defaultValue "accept" */
  readonly withoutBase?: "accept" | "refuse";
}

export interface SendOptions {
  /** Leave the webhook out: it is lost, or comes later by `resend`. @defaultValue true */
  readonly notify?: boolean;
}

export interface FakeBitrixSite {
  /** The site's HTTP interface: the product endpoint. */
  readonly handle: FetchHandler;
  readonly faults: Faults;
  readonly journal: Journal;
  readonly deliveries: readonly FakeSiteDelivery[];
  setBackendUrl(url: string): void;
  addOrder(order: { readonly id: number; readonly status?: string }): FakeSiteOrder;
  order(id: number): FakeSiteOrder | undefined;
  /** A manager changes an order; resolves when the backend has answered. `undefined` without a webhook. */
  changeOrder(
    id: number,
    change: { readonly status?: string; readonly paid?: boolean; readonly canceled?: boolean },
    options?: SendOptions,
  ): Promise<FakeSiteDelivery | undefined>;
  addProduct(product: {
    readonly id: number;
    readonly name: string;
    readonly price: string;
    readonly enabled?: boolean;
  }): FakeSiteProduct;
  product(id: number): FakeSiteProduct | undefined;
  /** A manager changes a product on the site. */
  changeProduct(
    id: number,
    change: { readonly name?: string; readonly price?: string; readonly enabled?: boolean },
    options?: SendOptions,
  ): Promise<FakeSiteDelivery | undefined>;
  /** Sends any order webhook: an old state, a wrong secret, a broken body. */
  sendOrder(body: Readonly<Record<string, unknown>>, options?: { readonly secret?: string }): Promise<FakeSiteDelivery>;
  /** The product's present state once more. */
  resendProduct(id: number): Promise<FakeSiteDelivery>;
}

/** The shop on a boxed 1C-Bitrix: sends status and product webhooks, and has the product endpoint with its precondition. */
export function createFakeBitrixSite(options: FakeBitrixSiteOptions): FakeBitrixSite {
  const {
    webhookSecret,
    siteToken,
    productPath = "/api/v2/products/update-from-railway",
    clock = systemClock,
    withoutBase = "accept",
  } = options;
  const orders = new Map<number, FakeSiteOrder>();
  const products = new Map<number, FakeSiteProduct>();
  const deliveries: FakeSiteDelivery[] = [];
  const journal = createJournal();
  const faults = createFaults(clock);
  let backendUrl = options.backendUrl;

  async function deliver(
    kind: FakeSiteDelivery["kind"],
    body: Readonly<Record<string, unknown>>,
    secret = webhookSecret,
  ): Promise<FakeSiteDelivery> {
    if (backendUrl === undefined) throw new Error("fake site: set backendUrl first");
    const path = kind === "order" ? "/api/v1/webhooks/order-status-sync" : "/api/v1/webhooks/product-sync";
    let delivery: FakeSiteDelivery;
    try {
      const answer = await (options.fetch ?? fetch)(`${backendUrl}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-webhook-secret": secret },
        body: JSON.stringify(body),
      });
      const text = await answer.text();
      delivery = { kind, body, status: answer.status, answer: text === "" ? undefined : JSON.parse(text) };
    } catch {
      delivery = { kind, body, status: 0, answer: undefined };
    }
    deliveries.push(delivery);
    return delivery;
  }

  const orderBody = ({ id, status, paid, canceled, version, changedAt }: FakeSiteOrder) => ({
    order_id: id,
    status,
    paid,
    canceled,
    version,
    changed_at: changedAt,
  });
  const productBody = ({ changedAt, ...product }: FakeSiteProduct) => ({ ...product, changed_at: changedAt });

  function findProduct(id: number): FakeSiteProduct {
    const product = products.get(id);
    if (!product) throw new Error(`fake site: there is no product ${id}`);
    return product;
  }

  function saveProduct(product: FakeSiteProduct, change: Partial<FakeSiteProduct>): FakeSiteProduct {
    const next = { ...product, ...change, version: product.version + 1, changedAt: clock.now().toISOString() };
    products.set(next.id, next);
    return next;
  }

  /** The change event of the CMS fires for pushed changes as well: the backend hears its own echo. */
  async function receiveProduct(request: Request): Promise<Response> {
    if (request.method !== "PUT") return new Response(null, { status: 405, headers: { allow: "PUT" } });
    if (request.headers.get("authorization") !== `Bearer ${siteToken}`) {
      return Response.json({ error: "unauthorized" }, { status: 401 });
    }
    const { id, name, price, currency, enabled, base } = JSON.parse(await request.text());
    const product = products.get(Number(id));
    if (!product) return Response.json({ error: "product not found" }, { status: 404 });
    if (price !== undefined && !/^\d+\.\d\d$/.test(String(price))) {
      return Response.json({ error: "price must be text such as 5000.00" }, { status: 422 });
    }
    const based = base?.version ?? undefined;
    if (based === undefined ? withoutBase === "refuse" : Number(based) !== product.version) {
      return Response.json({ current: productBody(product) }, { status: 409 });
    }
    const wanted = Object.entries({ name, price, currency, enabled }).filter(
      ([field, value]) => value !== undefined && value !== product[field as keyof FakeSiteProduct],
    );
    // As the drop-in does: what is so already is not saved again, so it makes no version and no event.
    if (wanted.length === 0) return Response.json({ version: product.version });
    const next = saveProduct(product, Object.fromEntries(wanted));
    if (backendUrl !== undefined) void deliver("product", productBody(next));
    return Response.json({ version: next.version });
  }

  const faulty = faults.wrap(async (request) =>
    new URL(request.url).pathname === productPath
      ? receiveProduct(request)
      : new Response("Not found", { status: 404 }),
  );

  return {
    async handle(request) {
      const { pathname } = new URL(request.url);
      const entry = { method: request.method, path: pathname, at: clock.now() };
      try {
        const response = await faulty(request);
        journal.record({ ...entry, status: response.status });
        return response;
      } catch (error) {
        journal.record({ ...entry, status: 0 });
        throw error;
      }
    },
    faults,
    journal,
    deliveries,
    setBackendUrl(url) {
      backendUrl = url;
    },
    addOrder({ id, status = "N" }) {
      const order = { id, status, paid: false, canceled: false, version: 1, changedAt: clock.now().toISOString() };
      orders.set(id, order);
      return order;
    },
    order: (id) => orders.get(id),
    async changeOrder(id, change, { notify = true } = {}) {
      const order = orders.get(id);
      if (!order) throw new Error(`fake site: there is no order ${id}`);
      const next = { ...order, ...change, version: order.version + 1, changedAt: clock.now().toISOString() };
      orders.set(id, next);
      return notify ? deliver("order", orderBody(next)) : undefined;
    },
    addProduct({ id, name, price, enabled = true }) {
      const product = { id, name, price, currency: "KZT", enabled, version: 1, changedAt: clock.now().toISOString() };
      products.set(id, product);
      return product;
    },
    product: (id) => products.get(id),
    async changeProduct(id, change, { notify = true } = {}) {
      const next = saveProduct(findProduct(id), change);
      return notify ? deliver("product", productBody(next)) : undefined;
    },
    sendOrder: (body, { secret } = {}) => deliver("order", body, secret),
    resendProduct: (id) => deliver("product", productBody(findProduct(id))),
  };
}
