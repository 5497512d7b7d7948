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
  type HttpClient,
  type IdempotencyStore,
  type LeaseStore,
  type Logger,
  NeedsReauthError,
  type RateLimiter,
  type StoredToken,
  silentLogger,
  systemClock,
  type TokenKeeper,
  type TokenPair,
  type TokenStore,
} from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";
import * as v from "valibot";
import { amocrmHostSuffixes, isAmocrmHost, noSuchHost, readTokenClaims } from "./hosts.ts";

export interface AmocrmConnectionOptions {
  /**
   * Host of the account. A consent for another one is refused, unless the stored pair proves that the account itself was
   * renamed.
   */
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
  /** Told once when a person must consent again. What it throws or rejects with is logged, and holds nothing up. */
  readonly onNeedsReauth?: () => void | Promise<void>;
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
  /**
   * Answers the address that amoCRM calls when an administrator switches the integration off:
   * `?account_id=&client_uuid=&signature=`, HMAC-SHA256 of `{client_id}|{account_id}` with the client secret, in hex. The
   * call may also be about another account or old, so the account is asked first; when it refuses the token, nothing is
   * called any more until somebody consents again.
   */
  readonly disableHook: FetchHandler;
  /** Stores a pair from elsewhere when there is none yet. Resolves to whether it was stored. */
  importPair(pair: TokenPair): Promise<boolean>;
}

const stateLifeMs = 20 * 60_000; // that of the code

const tokenSchema = v.object({
  access_token: v.string(),
  refresh_token: v.string(),
  expires_in: v.number(),
});
/** Answer of the look-up of a renamed account. */
const placeSchema = v.object({ domain: v.string() });

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
  logger = silentLogger,
  ...rest
}: AmocrmConnectionOptions): AmocrmConnection {
  if (origin === undefined && !isAmocrmHost(host)) {
    throw new ConfigError(`amocrm: host must end with ${amocrmHostSuffixes.join(", ")}`);
  }
  const key = `amocrm:${host}:${clientId}`;
  const clients = new Map<string, HttpClient>();
  /** The vendor's token endpoint, and its API, at one of its hosts. */
  function clientAt(where: string): HttpClient {
    const known = clients.get(where);
    if (known) return known;
    const client = createHttpClient({
      vendor: "amocrm",
      baseUrl: origin ?? `https://${where}`,
      clock,
      retries: 0,
      readRefusal,
      logger,
      ...(limiter && { limiter }),
      ...rest,
    });
    clients.set(where, client);
    return client;
  }

  async function exchange(grant: Readonly<Record<string, string>>, where: string): Promise<TokenPair> {
    const askedAt = clock.now().getTime();
    const answer = await clientAt(where).request({
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
      host: where,
    };
  }

  /**
   * The host that the account of a pair has now; `undefined` when nobody says, or it is not the vendor's.
   *
   * @see amocrm.ru/developers, "account-subdomain-info": asked at the token's shard, with the refresh token
   */
  async function locate({ accessToken, refreshToken }: TokenPair): Promise<string | undefined> {
    const { apiDomain } = readTokenClaims(accessToken);
    if (apiDomain === undefined || refreshToken === undefined) return undefined;
    try {
      const place = await clientAt(apiDomain).request({
        name: "oauth.subdomain",
        path: "/oauth2/account/current/subdomain",
        headers: { "x-refresh-token": refreshToken },
        schema: placeSchema,
      });
      return place && isAmocrmHost(place.domain) ? place.domain : undefined;
    } catch (error) {
      logger.warn("amocrm: whether the account has another name could not be asked", { error });
      return undefined;
    }
  }

  async function refresh(token: StoredToken & { readonly refreshToken: string }): Promise<TokenPair> {
    const grant = { grant_type: "refresh_token", refresh_token: token.refreshToken };
    const where = token.host ?? host;
    try {
      return await exchange(grant, where);
    } catch (error) {
      if (!(error instanceof ApiError) || (error.status !== 401 && error.status !== 404)) throw error;
      const renamed = await locate(token);
      if (renamed === undefined || renamed === where) throw error;
      logger.warn("amocrm: the account has another name now", { from: where, to: renamed });
      return exchange(grant, renamed);
    }
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

  function tellNeedsReauth(): void {
    const failed = (error: unknown) => logger.error("amocrm: onNeedsReauth failed", { error });
    try {
      Promise.resolve(onNeedsReauth?.()).catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  const keeper = createTokenKeeper({
    vendor: "amocrm",
    key,
    storage,
    refresh,
    // Every 4xx ends this refresh token, except a limit and a block (reference of the token endpoint).
    isRefused: (error) => error instanceof ApiError && error.outcome === "refused",
    refreshAheadMs: 3 * 3_600_000,
    clock,
    onNeedsReauth: tellNeedsReauth,
    logger,
  });

  const hasEnded = ({ state, expiresAt }: StoredToken): boolean =>
    state === "needs_reauth" && expiresAt !== undefined && expiresAt <= clock.now();

  const tokens: TokenKeeper = {
    ...keeper,
    async use(work) {
      const token = await keeper.current();
      if (hasEnded(token)) throw new NeedsReauthError("amocrm"); // without another refused call
      try {
        return await keeper.use(work);
      } catch (error) {
        // A page instead of an answer of the API: nobody has this name any more.
        if (!(error instanceof ApiError) || error.vendorCode !== noSuchHost) throw error;
        const renamed = await locate(token);
        if (renamed === undefined || renamed === token.host) throw error;
        const { version, state: _state, ...pair } = token;
        await storage.tokens.save(key, { ...pair, host: renamed }, version); // or somebody else just did
        return keeper.use(work);
      }
    },
  };

  async function isRefusedNow({ accessToken, host: where = host }: StoredToken): Promise<boolean> {
    try {
      const headers = { authorization: `Bearer ${accessToken}` };
      await clientAt(where).send({ name: "account.get", path: "/api/v4/account", headers });
      return false;
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return true;
      throw error;
    }
  }

  async function disconnect({ version, state: _state, ...pair }: StoredToken): Promise<void> {
    const saved = await storage.tokens.save(key, { ...pair, expiresAt: clock.now() }, version);
    if (!saved || !(await storage.tokens.markNeedsReauth(key, saved.version))) return; // a consent came meanwhile
    logger.error("amocrm: the integration was switched off in the account; a person must connect it again");
    tellNeedsReauth();
  }

  return {
    tokens,
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
        const stored = await storage.tokens.get(key);
        const referer = query.get("referer") ?? "";
        const isKnown = referer === host || (stored !== undefined && referer === stored.host);
        if (!isKnown && (!stored || !isAmocrmHost(referer) || (await locate(stored)) !== referer)) {
          return refuse(`The consent is for another account than ${host}.`);
        }
        const pair = await exchange({ grant_type: "authorization_code", code }, referer);
        if (!(await storage.tokens.save(key, pair, stored?.version))) return refuse("Another consent came first.");
        return new Response(`${host} is connected.`, { headers: plainText });
      },
      { methods: ["GET"], logger },
    ),
    disableHook: defineHandler(
      async (request) => {
        const query = new URL(request.url).searchParams;
        const accountId = query.get("account_id") ?? "";
        // The settings form calls it `client_id`, the section on the hook `client_uuid`.
        const client = query.get("client_uuid") ?? query.get("client_id");
        const expected = createHmac("sha256", clientSecret).update(`${clientId}|${accountId}`).digest("hex");
        if (client !== clientId || !verifySharedSecret(query.get("signature"), [expected]).ok) {
          return new Response(null, { status: 403 });
        }
        const stored = await storage.tokens.get(key);
        if (stored && stored.state === "active" && (await isRefusedNow(stored))) await disconnect(stored);
        return new Response(null, { status: 200 });
      },
      { methods: ["GET"], logger },
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
