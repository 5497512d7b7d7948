import {
  ApiError,
  budgetPerSecond,
  type Clock,
  ConfigError,
  createHttpClient,
  createRateLimiter,
  type HttpAnswer,
  type HttpCall,
  type HttpClient,
  type Logger,
  type RateLimitStore,
  type Refusal,
  SdkError,
  systemClock,
  type TokenKeeper,
} from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import * as v from "valibot";
import { noSuchHost } from "./hosts.ts";
import { pageSchema, problemSchema, writtenSchema } from "./schemas.ts";

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

export interface ListOptions {
  /** Free, unlike filters. */
  readonly order?: { readonly by: "created_at" | "updated_at" | "id"; readonly direction: "asc" | "desc" };
  /** Fuzzy: hits must be checked against the exact value. */
  readonly query?: string;
  readonly signal?: AbortSignal;
}

const pageLimit = 250; // the largest
const maxPages = 4_000;

/** One item that a bulk write gave back. */
type WrittenRow = v.InferOutput<typeof writtenSchema>;

type SchemaCall<Schema extends v.GenericSchema> = HttpCall<Schema> & { readonly schema: Schema };

/** What all areas of the API share: authorised requests, lists to their end, bulk writes. */
export interface AmocrmTransport {
  request<Schema extends v.GenericSchema>(call: SchemaCall<Schema>): Promise<v.InferOutput<Schema> | undefined>;
  /** The answer does not matter, but it must be one: a maintenance page with status 200 is not. */
  send(call: HttpCall): Promise<void>;
  /** All items of a list. An empty one is a 204 without a body. */
  items<Item extends v.GenericSchema>(
    name: string,
    path: string,
    plural: string,
    item: Item,
    /** `limit`: items per page. @defaultValue 250 */
    options?: ListOptions & { readonly limit?: number },
    more?: readonly (readonly [string, string])[],
  ): AsyncGenerator<v.InferOutput<Item>>;
  /** One bulk write; matches what comes back by `request_id`, since the order of the answer is not promised. */
  write<Item>(
    call: Omit<HttpCall, "json"> & { readonly plural: string | undefined },
    batch: readonly Item[],
    shape: {
      readonly keyOf: (item: Item) => string;
      readonly toWire: (item: Item) => Readonly<Record<string, unknown>>;
      readonly answerKey: "request_id" | "id";
    },
  ): Promise<BulkResult & { readonly rows: readonly WrittenRow[] }>;
}

export function createTransport({
  host,
  token,
  country: _country,
  origin,
  ratePerSecond = 7,
  integration = "token",
  clock = systemClock,
  rateLimits = createMemoryStorage({ clock }).rateLimits,
  minDelayMs = 1_000,
  ...rest
}: AmocrmOptions): AmocrmTransport {
  if (!/^[a-z0-9-]+(\.[a-z0-9-]+)+$/i.test(host)) {
    throw new ConfigError('amocrm: host must be a bare host name such as "example.amocrm.ru"');
  }
  if (!token) throw new ConfigError("amocrm: token is empty; copy one from the integration's keys tab");
  if (!(ratePerSecond > 0)) throw new ConfigError("amocrm: ratePerSecond must be positive");
  const limiter = createRateLimiter({
    vendor: "amocrm",
    account: `amocrm:${host}:${integration}`,
    budget: budgetPerSecond(ratePerSecond),
    store: rateLimits,
    clock,
  });
  const clients = new Map<string, HttpClient>();
  /** The account's host may change; its budget goes with it. */
  function clientAt(where: string): HttpClient {
    const known = clients.get(where);
    if (known) return known;
    const baseUrl = `${origin ?? `https://${where}`}/api/v4`;
    const client = createHttpClient({ vendor: "amocrm", baseUrl, limiter, clock, minDelayMs, readRefusal, ...rest });
    clients.set(where, client);
    return client;
  }

  const authorized = <T>(send: (http: HttpClient, headers: Record<string, string>) => Promise<T>): Promise<T> =>
    typeof token === "string"
      ? send(clientAt(host), { authorization: `Bearer ${token}` })
      : token.use(({ accessToken, host: where = host }) =>
          send(clientAt(where), { authorization: `Bearer ${accessToken}` }),
        );

  const request = <Schema extends v.GenericSchema>(call: SchemaCall<Schema>) =>
    authorized((http, headers) => http.request({ ...call, headers }));
  const send = async (call: HttpCall): Promise<void> => {
    await request({ ...call, schema: v.unknown() });
  };

  async function* items<Item extends v.GenericSchema>(
    name: string,
    path: string,
    plural: string,
    item: Item,
    { order, query, signal, limit = pageLimit }: ListOptions & { readonly limit?: number } = {},
    more: readonly (readonly [string, string])[] = [],
  ): AsyncGenerator<v.InferOutput<Item>> {
    const schema = pageSchema(plural, item);
    for (let page = 1; page <= maxPages; page++) {
      const search = new URLSearchParams({ page: String(page), limit: String(limit) });
      for (const [field, value] of more) search.append(field, value);
      if (order) search.set(`order[${order.by}]`, order.direction);
      if (query !== undefined) search.set("query", query);
      const answer = await request({ name, path, query: search, schema, ...(signal && { signal }) });
      const found = (answer?._embedded[plural] ?? []) as v.InferOutput<Item>[];
      yield* found;
      if (!answer?._links?.next || found.length === 0) return;
    }
    throw new ConfigError(`amocrm: ${name} has more than ${maxPages} pages of ${limit}; ask for less of it at a time`);
  }

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
  ): Promise<BulkResult & { readonly rows: readonly WrittenRow[] }> {
    const { plural, ...rest } = call;
    const keys = batch.map(keyOf);
    if (batch.length === 0) return { written: new Map(), rejected: new Map(), uncertain: [], settled: true, rows: [] };
    const schema: v.GenericSchema<unknown, readonly WrittenRow[]> =
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

  return { request, send, items, write };
}

/** Collects a list. */
export async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of source) found.push(item);
  return found;
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
  // The API answers in JSON; a page means that nobody has this host name.
  if (status === 404 && isHtml) return { vendorCode: noSuchHost, outcome: "refused" };
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
