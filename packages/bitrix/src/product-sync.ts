import {
  ApiError,
  type Clock,
  ConfigError,
  createHttpClient,
  type FetchHandler,
  type HttpAnswer,
  type Logger,
  parseJson,
  ResponseShapeError,
  redactingLogger,
  SdkError,
  systemClock,
} from "@orderbridge/core";
import * as v from "valibot";
import { InputError } from "./errors.ts";
import { fromDecimalText, toDecimalText } from "./money.ts";
import type { BitrixStorage, Product, ProductConflict, ProductValues } from "./storage.ts";
import {
  createWebhookReceiver,
  idSchema,
  instantSchema,
  json,
  textSchema,
  versionSchema,
  yesSchema,
} from "./webhook-request.ts";

/** Work topic of a product that has to be pushed. Keys are product ids. */
export const productTopic = "product";

export interface ProductSyncOptions {
  readonly storage: BitrixStorage;
  /** Origin of the site, e.g. `https://shop.example`. */
  readonly siteUrl: string;
  /** Bearer token of the site's endpoint. */
  readonly siteToken: string;
  /** @defaultValue "/api/v2/products/update-from-railway" */
  readonly productPath?: string;
  /** ISO code of the prices. @defaultValue "KZT" */
  readonly currency?: string;
  /** `X-Webhook-Secret` of the site's calls; several while one is being replaced. */
  readonly secrets: readonly string[];
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
  /** Deadline of one push. @defaultValue 15_000 */
  readonly timeoutMs?: number;
}

export interface ProductChange {
  readonly name?: string | undefined;
  /** In minor units (tiyn): `500000n` is 5 000 ₸. */
  readonly priceMinor?: bigint | undefined;
  readonly enabled?: boolean | undefined;
}

export interface ProductSync {
  /** Stores a change of this backend and makes it due for the site, in one transaction. */
  update(id: string, change: ProductChange): Promise<Product>;
  get(id: string): Promise<Product | undefined>;
  /** Conflicts of a product, the oldest first: what this backend wanted and what the site had. */
  conflicts(id: string): Promise<readonly ProductConflict[]>;
  /** Brings a pending change to the site; for the worker. When the site changed meanwhile, its values win. */
  push(id: string, signal?: AbortSignal): Promise<void>;
  /** The way back: `POST` of the site with `{id, name, price, currency, enabled, version, changed_at}`. */
  readonly handle: FetchHandler;
}

const priceSchema = v.pipe(
  v.union([v.string(), v.number()], 'must be text such as "5000.00"'),
  // A number's shortest text has the digits that were sent, as long as they are few.
  v.transform((value) => fromDecimalText(String(value))),
  v.check((minor) => minor !== undefined, 'must be text with at most two decimals, e.g. "5000.00"'),
  v.transform((minor) => minor as bigint),
);
const siteValues = {
  name: v.optional(textSchema),
  price: v.optional(priceSchema),
  currency: v.optional(v.pipe(v.string("must be text"), v.regex(/^[A-Z]{3}$/, "must be an ISO code such as KZT"))),
  enabled: v.optional(yesSchema),
  version: versionSchema,
};
const webhookSchema = v.object({ id: idSchema, ...siteValues, changed_at: v.optional(instantSchema) });
const acceptedSchema = v.object({ version: versionSchema });
const refusedSchema = v.object({ current: v.object(siteValues) });
type SiteState = v.InferOutput<typeof refusedSchema>["current"];

const maxTurns = 20;

/**
 * Products between this backend and the site. The site is authoritative: when both sides changed a product, its values
 * are taken over here and the conflict is kept.
 */
export function createProductSync(options: ProductSyncOptions): ProductSync {
  const {
    storage,
    productPath = "/api/v2/products/update-from-railway",
    currency = "KZT",
    secrets,
    clock = systemClock,
    timeoutMs = 15_000,
  } = options;
  const logger = redactingLogger(options.logger ?? console);
  if (!productPath.startsWith("/")) throw new ConfigError("productPath must begin with /");
  if (options.siteToken === "") throw new ConfigError("siteToken must not be empty");
  /** Stores what `change` makes of the stored product; again from the start when somebody else was quicker. */
  async function store(
    id: string,
    change: (
      product: Product | undefined,
    ) => { readonly product: Product; readonly conflict?: ProductConflict | undefined } | undefined,
    { push = false }: { readonly push?: boolean } = {},
  ): Promise<Product | undefined> {
    for (let turn = 0; turn < maxTurns; turn++) {
      const outcome = await storage.transaction(async (stores) => {
        const before = await stores.products.get(id);
        const next = change(before);
        if (!next) return { product: before };
        const product: Product = { ...next.product, version: (before?.version ?? 0) + 1, updatedAt: clock.now() };
        if (!(await stores.products.put(product, next.conflict))) return undefined;
        if (push) await stores.work.mark(productTopic, id);
        return { product, conflict: next.conflict };
      });
      if (!outcome) continue;
      if (outcome.conflict) {
        logger.warn("bitrix: product conflict: the site changed it too, its values win", {
          productId: id,
          ours: describe(outcome.conflict.ours),
          theirs: describe(outcome.conflict.theirs),
          siteVersion: outcome.conflict.siteVersion,
        });
      }
      return outcome.product;
    }
    throw new Error("bitrix: a product was changed by others at every attempt");
  }

  /**
   * What the site's state makes of ours. A state that we sent ourselves only moves the version on; any other that differs
   * from a pending change of ours is a conflict, and the site wins.
   */
  function takeOver(id: string, state: SiteState) {
    return (product: Product | undefined) => {
      const before = product ?? emptyProduct(id, currency);
      if (before.siteVersion !== undefined && state.version < before.siteVersion) return undefined;
      const theirs: ProductValues = {
        name: state.name ?? before.name,
        priceMinor: state.price ?? before.priceMinor,
        currency: state.currency ?? before.currency,
        enabled: state.enabled ?? before.enabled,
      };
      const known = product !== undefined && state.version === before.siteVersion;
      if (known && (before.pending || sameValues(before, theirs))) return undefined;
      const opposes = before.pending && !holds(before, theirs);
      if (opposes && before.sent !== undefined && holds(before.sent, theirs)) {
        return { product: { ...before, siteVersion: state.version, sent: undefined } };
      }
      const conflict: ProductConflict | undefined = opposes
        ? {
            productId: id,
            at: clock.now(),
            ours: valuesOf(before),
            theirs: { name: state.name, priceMinor: state.price, currency: theirs.currency, enabled: state.enabled },
            siteVersion: state.version,
          }
        : undefined;
      // What the site does not speak of, such as the price of a product that has none, was not changed there: it is pushed anew.
      const isLeft =
        (state.name === undefined && before.name !== undefined) ||
        (state.price === undefined && before.priceMinor !== undefined) ||
        (state.enabled === undefined && before.enabled !== undefined);
      const pending = before.pending && isLeft;
      return {
        product: { ...before, ...theirs, siteVersion: state.version, pending, sent: undefined },
        conflict,
      };
    };
  }

  async function send(
    product: Product,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly version: number } | { readonly current: SiteState }> {
    let conflict: HttpAnswer | undefined;
    const site = createHttpClient({
      vendor: "bitrix-site",
      baseUrl: options.siteUrl,
      headers: { authorization: `Bearer ${options.siteToken}`, accept: "application/json" },
      ...(options.fetch ? { fetch: options.fetch } : {}),
      clock,
      logger,
      timeoutMs,
      retries: 0, // the worker repeats, with the product as it is then
      readRefusal(answer) {
        if (answer.status === 409) conflict = answer;
        return undefined;
      },
    });
    const names = { vendor: "bitrix-site", name: "product update" };
    try {
      const answer = await site.send({
        name: names.name,
        method: "PUT",
        path: productPath,
        ...(signal && { signal }),
        json: {
          id: Number.isSafeInteger(Number(product.id)) ? Number(product.id) : product.id,
          name: product.name,
          price: product.priceMinor === undefined ? undefined : toDecimalText(product.priceMinor),
          currency: product.currency,
          enabled: product.enabled,
          base: { version: product.siteVersion ?? null },
        },
      });
      return parseJson(answer, acceptedSchema, names) ?? missing(200);
    } catch (error) {
      if (!conflict || !(error instanceof ApiError)) throw error;
      return parseJson(conflict, refusedSchema, names) ?? missing(409);
    }
  }

  async function push(id: string, signal?: AbortSignal): Promise<void> {
    for (let turn = 0; turn < maxTurns; turn++) {
      signal?.throwIfAborted();
      // Kept before it is sent. While the answer to an earlier one is not known, that one is sent again: only so can its
      // traces on the site be told from a change of somebody else.
      const product = await store(id, (now) =>
        now?.pending && !now.sent ? { product: { ...now, sent: valuesOf(now) } } : undefined,
      );
      if (!product?.pending || !product.sent) return;
      const sent = product.sent;
      let answer: Awaited<ReturnType<typeof send>>;
      try {
        answer = await send({ ...product, ...sent }, signal);
      } catch (error) {
        if (SdkError.isInstance(error) && (error.outcome === "refused" || error.outcome === "not-executed")) {
          await store(id, (now) => (now?.sent ? { product: { ...now, sent: undefined } } : undefined));
        }
        throw error;
      }
      if ("version" in answer) {
        const after = await store(id, (now) => {
          if (!now || (now.siteVersion !== undefined && now.siteVersion > answer.version)) return undefined;
          const changed = !sameValues(now, sent);
          return { product: { ...now, siteVersion: answer.version, pending: changed, sent: undefined } };
        });
        logger.info("bitrix: product pushed to the site", { productId: id, siteVersion: answer.version });
        if (!after?.pending) return;
      } else if (product.siteVersion === undefined) {
        // Nothing was known of the site, so nothing can be in conflict: learn its version and push on top of it.
        const { version } = answer.current;
        await store(id, (now) =>
          now && now.siteVersion === undefined
            ? { product: { ...now, siteVersion: version, sent: undefined } }
            : undefined,
        );
      } else {
        await store(id, takeOver(id, answer.current));
      }
    }
    throw new Error("bitrix: the site changes the product faster than it can be pushed");
  }

  return {
    async update(id, { name, priceMinor, enabled }) {
      if (priceMinor !== undefined && priceMinor < 0n) throw new InputError("price", "must not be negative");
      const stored = await store(
        id,
        (product) => {
          const before = product ?? emptyProduct(id, currency);
          const values: ProductValues = {
            name: name ?? before.name,
            priceMinor: priceMinor ?? before.priceMinor,
            currency: before.currency,
            enabled: enabled ?? before.enabled,
          };
          if (product && sameValues(before, values)) return undefined;
          return { product: { ...before, ...values, pending: true } };
        },
        { push: true },
      );
      return stored ?? emptyProduct(id, currency);
    },
    get: (id) => storage.products.get(id),
    conflicts: (id) => storage.products.conflicts(id),
    push,
    handle: createWebhookReceiver({
      secrets,
      logger,
      schema: webhookSchema,
      async receive(change) {
        const before = await storage.products.get(change.id);
        if (before?.siteVersion !== undefined && change.version < before.siteVersion) {
          return json(200, { status: "ignored", reason: "stale" });
        }
        const product = await store(change.id, takeOver(change.id, change));
        return json(200, { status: "success", id: change.id, version: product?.siteVersion });
      },
    }),
  };
}

function missing(status: number): never {
  throw new ResponseShapeError("bitrix-site: product update answered an empty body", {
    vendor: "bitrix-site",
    status,
    paths: [],
    outcome: "unknown",
  });
}

const emptyProduct = (id: string, currency: string): Product => ({
  id,
  name: undefined,
  priceMinor: undefined,
  currency,
  enabled: undefined,
  siteVersion: undefined,
  pending: false,
  sent: undefined,
  version: 0,
  updatedAt: new Date(0),
});

const valuesOf = ({ name, priceMinor, currency, enabled }: ProductValues): ProductValues => ({
  name,
  priceMinor,
  currency,
  enabled,
});

const sameValues = (left: ProductValues, right: ProductValues): boolean =>
  left.name === right.name &&
  left.priceMinor === right.priceMinor &&
  left.currency === right.currency &&
  left.enabled === right.enabled;

/** Whether every value that `part` has is the whole's. */
const holds = (part: ProductValues, whole: ProductValues): boolean =>
  (part.name === undefined || part.name === whole.name) &&
  (part.priceMinor === undefined || part.priceMinor === whole.priceMinor) &&
  part.currency === whole.currency &&
  (part.enabled === undefined || part.enabled === whole.enabled);

const describe = ({ priceMinor, ...values }: ProductValues): Readonly<Record<string, unknown>> => ({
  ...values,
  price: priceMinor === undefined ? undefined : toDecimalText(priceMinor),
});
