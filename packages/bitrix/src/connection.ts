import {
  ApiError,
  type Clock,
  ConfigError,
  createHttpClient,
  createTokenKeeper,
  type LeaseStore,
  type Logger,
  ResponseShapeError,
  systemClock,
  type TokenKeeper,
  type TokenPair,
  type TokenStore,
} from "@orderbridge/core";
import * as v from "valibot";
import { readRefusal } from "./error-body.ts";
import { InputError } from "./errors.ts";
import { parsePortalUrl, type RestAddress } from "./rest-address.ts";

export interface BitrixConnectionOptions {
  /** `https://example.bitrix24.kz` */
  readonly portalUrl: string;
  /** The portal's id, `member_id`: it stays when the portal is renamed. Tokens of another portal are refused. */
  readonly memberId: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** Tokens, and the lease that lets one process of many refresh. */
  readonly storage: { readonly tokens: TokenStore; readonly leases: LeaseStore };
  /** Origin of `server_endpoint`, as the portal names it. @defaultValue "https://oauth.bitrix.info" */
  readonly authorizationServer?: string;
  /** Told once when a person must connect the application again. */
  readonly onNeedsReauth?: () => void;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** An application's access to one portal. */
export interface BitrixConnection {
  /** For `createBitrix({ oauth })`. */
  readonly address: RestAddress;
  readonly tokens: TokenKeeper;
  /** Exchanges the `code` of the consent, which lives for 30 seconds, and stores the pair. */
  connect(code: string): Promise<void>;
  /**
   * Stores the pair that the portal posted to the application, when there is none that still works. `replace`: also then,
   * for `ONAPPINSTALL`, whose pair is the newest one; only for a post whose sender was verified. Resolves to whether it was
   * stored.
   */
  importPair(pair: TokenPair, options?: { readonly replace?: boolean }): Promise<boolean>;
}

const tokenSchema = v.object({
  access_token: v.string(),
  refresh_token: v.string(),
  expires_in: v.optional(v.pipe(v.union([v.number(), v.string()]), v.transform(Number), v.finite())),
  member_id: v.string(),
});

/**
 * OAuth of a local or marketplace application. The access token lives for an hour and is refreshed only after the portal
 * has refused it: Bitrix24 blocks applications that refresh by the clock. The refresh token works once.
 *
 * @see apidocs.bitrix24.ru, "OAuth 2.0", "Automatic renewal of tokens" (read 2026-08)
 */
export function createBitrixConnection(options: BitrixConnectionOptions): BitrixConnection {
  const {
    memberId,
    clientId,
    clientSecret,
    storage,
    authorizationServer = "https://oauth.bitrix.info",
    onNeedsReauth,
    clock = systemClock,
    logger,
  } = options;
  const address = parsePortalUrl(options.portalUrl);
  for (const name of ["memberId", "clientId", "clientSecret"] as const) {
    if (options[name] === "") throw new ConfigError(`${name} must not be empty`);
  }
  const key = `bitrix:${memberId}:${clientId}`;
  const http = createHttpClient({
    vendor: "bitrix",
    baseUrl: authorizationServer,
    clock,
    retries: 0,
    readRefusal,
    ...(options.fetch && { fetch: options.fetch }),
    ...(logger && { logger }),
  });

  async function exchange(grant: Readonly<Record<string, string>>): Promise<TokenPair> {
    const askedAt = clock.now().getTime();
    const answer = await http.request({
      name: `oauth ${grant.grant_type}`,
      method: "POST",
      path: "/oauth/token/",
      form: new URLSearchParams({ ...grant, client_id: clientId, client_secret: clientSecret }),
      schema: tokenSchema,
    });
    if (!answer) {
      const message = "bitrix: the authorisation server answered an empty body";
      throw new ResponseShapeError(message, { vendor: "bitrix", status: 200, paths: [], outcome: "unknown" });
    }
    if (answer.member_id !== memberId) throw new InputError("memberId", "is not the portal that the tokens are for");
    return {
      accessToken: answer.access_token,
      refreshToken: answer.refresh_token,
      ...(answer.expires_in === undefined ? {} : { expiresAt: new Date(askedAt + answer.expires_in * 1000) }),
    };
  }

  return {
    address,
    tokens: createTokenKeeper({
      vendor: "bitrix",
      key,
      storage,
      refresh: ({ refreshToken }) => exchange({ grant_type: "refresh_token", refresh_token: refreshToken }),
      // Other refusals, such as a lapsed payment, leave the refresh token as it was.
      isRefused: (error) => error instanceof ApiError && error.vendorCode === "invalid_grant",
      clock,
      ...(onNeedsReauth && { onNeedsReauth }),
      ...(logger && { logger }),
    }),
    async connect(code) {
      const pair = await exchange({ grant_type: "authorization_code", code });
      const stored = await storage.tokens.get(key);
      if (!(await storage.tokens.save(key, pair, stored?.version))) {
        throw new InputError("code", "was exchanged, but another consent came first, whose tokens are kept");
      }
    },
    async importPair(pair, { replace = false } = {}) {
      const stored = await storage.tokens.get(key);
      if (stored?.state === "active" && !replace) return false;
      return (await storage.tokens.save(key, pair, stored?.version)) !== undefined;
    },
  };
}
