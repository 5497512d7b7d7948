import { createHmac, randomBytes } from "node:crypto";
import {
  ApiError,
  type Clock,
  ConfigError,
  createHttpClient,
  createTokenKeeper,
  defineHandler,
  type FetchHandler,
  type HttpAnswer,
  type IdempotencyStore,
  type LeaseStore,
  type Logger,
  type RateLimiter,
  systemClock,
  type TokenKeeper,
  type TokenPair,
  type TokenStore,
} from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";
import * as v from "valibot";

export interface AmocrmConnectionOptions {
  /** Host of the account. A consent for another one is refused. */
  readonly host: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** Byte for byte as in the integration's settings; it is also checked on refresh. */
  readonly redirectUri: string;
  readonly storage: {
    readonly tokens: TokenStore;
    readonly leases: LeaseStore;
    readonly idempotency: IdempotencyStore;
  };
  /** Replaces the origin of all hosts of the vendor, e.g. by the address of the fake. */
  readonly origin?: string;
  /** The account's own, so that refreshes take slots too. */
  readonly limiter?: RateLimiter;
  /** Told once when a person must consent again. */
  readonly onNeedsReauth?: () => void;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** The OAuth side of one account. */
export interface AmocrmConnection {
  /** For `createAmocrm({ token })`. */
  readonly tokens: TokenKeeper;
  /** Where to send an administrator; good for 20 minutes and one use. */
  consentUrl(): string;
  /** Answers the redirect URI: checks state and host, exchanges the code, stores the pair. */
  readonly callback: FetchHandler;
  /** Stores a pair from elsewhere when there is none yet. Resolves to whether it was stored. */
  importPair(pair: TokenPair): Promise<boolean>;
}

const stateLifeMs = 20 * 60_000; // that of the code
const vendorSuffixes = [".amocrm.ru", ".amocrm.com", ".kommo.com"];

const tokenSchema = v.object({
  access_token: v.string(),
  refresh_token: v.string(),
  expires_in: v.number(),
});

/** @see amocrm.ru/developers, "step-by-step" (read 2026-01) */
export function createAmocrmConnection({
  host,
  clientId,
  clientSecret,
  redirectUri,
  storage,
  origin,
  limiter,
  onNeedsReauth,
  clock = systemClock,
  logger,
  ...rest
}: AmocrmConnectionOptions): AmocrmConnection {
  if (origin === undefined && !vendorSuffixes.some((suffix) => host.endsWith(suffix))) {
    throw new ConfigError(`amocrm: host must end with ${vendorSuffixes.join(", ")}`);
  }
  const key = `amocrm:${host}:${clientId}`;
  const http = createHttpClient({
    vendor: "amocrm",
    baseUrl: origin ?? `https://${host}`,
    clock,
    retries: 0,
    readRefusal,
    ...(limiter && { limiter }),
    ...(logger && { logger }),
    ...rest,
  });

  async function exchange(grant: Readonly<Record<string, string>>): Promise<TokenPair> {
    const askedAt = clock.now().getTime();
    const answer = await http.request({
      name: `oauth.${grant.grant_type}`,
      method: "POST",
      path: "/oauth2/access_token",
      json: { client_id: clientId, client_secret: clientSecret, redirect_uri: redirectUri, ...grant },
      schema: tokenSchema,
    });
    if (!answer) throw new ConfigError("amocrm: the token endpoint answered nothing; check the host");
    return {
      accessToken: answer.access_token,
      refreshToken: answer.refresh_token,
      expiresAt: new Date(askedAt + answer.expires_in * 1000),
      host,
    };
  }

  const sign = (text: string): string =>
    createHmac("sha256", clientSecret).update(`oauth-state:${text}`).digest("base64url");

  /** Made by us, not expired, and not used before. */
  async function useState(state: string): Promise<boolean> {
    const [nonce = "", end = "", signature] = state.split(".");
    if (!verifySharedSecret(signature, [sign(`${nonce}.${end}`)]).ok || Number(end) < clock.now().getTime())
      return false;
    const claimed = await storage.idempotency.begin({
      scope: "amocrm-oauth-state",
      key: nonce,
      fingerprint: "",
      ttlMs: stateLifeMs,
    });
    if (claimed.state !== "started") return false;
    return storage.idempotency.complete(claimed.claim, "");
  }

  return {
    tokens: createTokenKeeper({
      vendor: "amocrm",
      key,
      storage,
      refresh: ({ refreshToken }) => exchange({ grant_type: "refresh_token", refresh_token: refreshToken }),
      // Every 4xx ends this refresh token, except a limit and a block (reference of the token endpoint).
      isRefused: (error) => error instanceof ApiError && error.outcome === "refused",
      refreshAheadMs: 3 * 3_600_000,
      clock,
      ...(onNeedsReauth && { onNeedsReauth }),
      ...(logger && { logger }),
    }),
    consentUrl() {
      const unsigned = `${randomBytes(16).toString("base64url")}.${clock.now().getTime() + stateLifeMs}`;
      const site = origin ?? (host.endsWith(".amocrm.ru") ? "https://www.amocrm.ru" : "https://www.kommo.com");
      const query = new URLSearchParams({ client_id: clientId, state: `${unsigned}.${sign(unsigned)}`, mode: "popup" });
      return `${site}/oauth?${query}`;
    },
    callback: defineHandler(
      async (request) => {
        const query = new URL(request.url).searchParams;
        if (!(await useState(query.get("state") ?? "")))
          return refuse("The link is used or too old: open /oauth/start again.");
        if (query.get("error") !== null) return refuse("The consent was refused in amoCRM.");
        const code = query.get("code");
        if (!code) return refuse("amoCRM sent no code.");
        // The client secret goes to this host: nobody but us decides which one it is.
        if (query.get("referer") !== host) return refuse(`The consent is for another account than ${host}.`);
        const pair = await exchange({ grant_type: "authorization_code", code });
        const stored = await storage.tokens.get(key);
        if (!(await storage.tokens.save(key, pair, stored?.version))) return refuse("Another consent came first.");
        return new Response(`${host} is connected.`, { headers: plainText });
      },
      { methods: ["GET"], ...(logger && { logger }) },
    ),
    importPair: async (pair) => (await storage.tokens.save(key, { ...pair, host }, undefined)) !== undefined,
  };
}

const plainText = { "content-type": "text/plain; charset=utf-8" };
const refuse = (text: string): Response => new Response(text, { status: 400, headers: plainText });

function readRefusal({ status, headers }: HttpAnswer) {
  const isHtml = !/json/i.test(headers.get("content-type") ?? "");
  return status === 403 && isHtml ? { vendorCode: "403", outcome: "not-executed" as const, block: true } : undefined;
}
