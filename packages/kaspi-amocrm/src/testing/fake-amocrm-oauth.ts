import { createHash, createHmac } from "node:crypto";
import type { Clock } from "@orderbridge/core";

/** The integration that the fake account has installed. */
export const fakeIntegration = {
  clientId: "5e2d3c51-0000-4000-8000-000000000001",
  clientSecret: "fake-integration-secret",
  redirectUri: "https://worker.example/oauth/callback",
} as const;

export interface FakeIntegration {
  readonly clientId: string;
  readonly clientSecret: string;
  /** Compared byte for byte, on both grants. */
  readonly redirectUri: string;
}

export interface FakeOauthOptions {
  readonly clock: Clock;
  readonly integration: FakeIntegration;
  readonly accountId: number;
  readonly userId: number;
  /** The account's host at this moment. */
  readonly hostOf: () => string;
  /** The shard that answers for the account whatever its name is. */
  readonly apiDomain: string;
  readonly accessTokenLifeMs: number;
  /** `server_time` is a recent addition to the token answer. */
  readonly hasServerTime: boolean;
}

export interface FakeTokenPair {
  readonly accessToken: string;
  readonly refreshToken: string;
}

export interface FakeOauth {
  /** Answers `/oauth` and `/oauth2/…`; `undefined` for other paths. */
  answer(request: Request, url: URL): Promise<Response | undefined>;
  isValid(accessToken: string): boolean;
  issueCode(): string;
  issuePair(): FakeTokenPair;
  /** Signs what the disable hook sends. */
  disableQuery(): string;
  revokeAll(): void;
  expireAccessTokens(): void;
  readonly refreshes: number;
}

const codeLifeMs = 20 * 60_000;
const refreshTokenLifeMs = 90 * 86_400_000;

interface Grant {
  readonly endsAt: number;
  isUsed: boolean;
}

/**
 * The OAuth side of the fake account: codes of 20 minutes for one use, pairs whose refresh token works once, the error
 * envelope with its hints, the look-up of a renamed account.
 *
 * Lost answers come from the faults: `dropReplyAfterExecuting` uses the refresh token up all the same.
 */
export function createFakeOauth(options: FakeOauthOptions): FakeOauth {
  const { clock, integration, accountId, hostOf, apiDomain } = options;
  const codes = new Map<string, Grant>();
  const refreshTokens = new Map<string, Grant>();
  const accessTokens = new Map<string, number>();
  let serial = 0;
  let refreshes = 0;
  const now = () => clock.now().getTime();
  const opaque = (kind: string) => createHash("sha256").update(`${kind} ${++serial}`).digest("hex");

  function issueCode(): string {
    const code = `def502${opaque("code")}`;
    codes.set(code, { endsAt: now() + codeLifeMs, isUsed: false });
    return code;
  }

  function issuePair(): FakeTokenPair {
    const endsAt = now() + options.accessTokenLifeMs;
    // Which claims there are is documented, but for `exp` and `api_domain` not how they are called.
    const claims = {
      jti: opaque("jti"),
      aud: integration.clientId,
      sub: String(options.userId),
      exp: Math.floor(endsAt / 1000),
      iat: Math.floor(now() / 1000),
      account_id: accountId,
      api_domain: apiDomain,
      scopes: ["crm", "notifications"],
    };
    const unsigned = [{ typ: "JWT", alg: "HS256" }, claims].map(base64url).join(".");
    const accessToken = `${unsigned}.${createHmac("sha256", "fake").update(unsigned).digest("base64url")}`;
    const refreshToken = `def503${opaque("refresh")}`;
    accessTokens.set(accessToken, endsAt);
    refreshTokens.set(refreshToken, { endsAt: now() + refreshTokenLifeMs, isUsed: false });
    return { accessToken, refreshToken };
  }

  function exchange(body: Readonly<Record<string, unknown>>): Response {
    for (const [name, wanted] of [
      ["client_id", integration.clientId],
      ["client_secret", integration.clientSecret],
    ] as const) {
      if (body[name] !== wanted) return refusal(400, `Check the \`${name}\` parameter`);
    }
    if (body.redirect_uri !== integration.redirectUri)
      return refusal(400, "Redirect URI is not associated with client");
    if (body.grant_type === "authorization_code") {
      const grant = codes.get(String(body.code));
      if (!grant) return refusal(400, "Cannot decrypt the authorization code");
      if (grant.isUsed) return refusal(400, "Authorization code has been revoked");
      if (grant.endsAt <= now()) return refusal(400, "Authorization code has expired");
      grant.isUsed = true;
    } else if (body.grant_type === "refresh_token") {
      const grant = refreshTokens.get(String(body.refresh_token));
      if (!grant) return refusal(400, "Cannot decrypt the refresh token");
      if (grant.isUsed) return refusal(401, "Token has been revoked");
      if (grant.endsAt <= now()) return refusal(401, "Token has expired");
      grant.isUsed = true;
      refreshes++;
    } else return refusal(400, "Check the `grant_type` parameter");
    const { accessToken, refreshToken } = issuePair();
    return json({
      token_type: "Bearer",
      expires_in: Math.floor(options.accessTokenLifeMs / 1000),
      ...(options.hasServerTime && { server_time: Math.floor(now() / 1000) }),
      access_token: accessToken,
      refresh_token: refreshToken,
    });
  }

  function lookUp(refreshToken: string | null): Response {
    const grant = refreshTokens.get(refreshToken ?? "");
    if (!grant || grant.isUsed) return refusal(401, "Token has been revoked");
    const [subdomain, ...rest] = hostOf().split(".");
    return json({ id: accountId, subdomain, domain: hostOf(), top_level_domain: rest.at(-1) });
  }

  /** The consent page: here an administrator always agrees at once. */
  function consent(query: URLSearchParams): Response {
    if (query.get("client_id") !== integration.clientId) return refusal(400, "Check the `client_id` parameter");
    const target = new URL(integration.redirectUri);
    target.searchParams.set("code", issueCode());
    target.searchParams.set("referer", hostOf());
    const state = query.get("state");
    if (state !== null) target.searchParams.set("state", state);
    target.searchParams.set("platform", hostOf().endsWith(".ru") ? "1" : "2");
    return new Response(null, { status: 302, headers: { location: target.href } });
  }

  return {
    async answer(request, url) {
      switch (`${request.method} ${url.pathname}`) {
        case "GET /oauth":
        case "GET /oauth/":
          return consent(url.searchParams);
        case "POST /oauth2/access_token":
          return exchange((await request.json()) as Readonly<Record<string, unknown>>);
        case "GET /oauth2/account/current/subdomain":
          return lookUp(request.headers.get("x-refresh-token"));
      }
      return undefined;
    },
    isValid: (accessToken) => (accessTokens.get(accessToken) ?? 0) > now(),
    issueCode,
    issuePair,
    disableQuery() {
      const signature = createHmac("sha256", integration.clientSecret)
        .update(`${integration.clientId}|${accountId}`)
        .digest("hex");
      return String(
        new URLSearchParams({ account_id: String(accountId), client_uuid: integration.clientId, signature }),
      );
    },
    revokeAll() {
      accessTokens.clear();
      for (const grant of refreshTokens.values()) grant.isUsed = true;
    },
    expireAccessTokens: () => accessTokens.clear(),
    get refreshes() {
      return refreshes;
    },
  };
}

const base64url = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

const json = (body: unknown): Response =>
  new Response(JSON.stringify(body), { headers: { "content-type": "application/json" } });

/** What was observed of a refusal: an envelope of its own, and a hint that names the reason in English. */
const refusal = (status: number, hint: string): Response =>
  new Response(
    JSON.stringify({
      hint,
      title: "Некорректный запрос",
      type: "https://developers.amocrm.ru/v3/errors/OAuthProblemJson",
      status,
      detail: "В запросе отсутствует ряд параметров или параметры невалидны",
    }),
    { status, headers: { "content-type": "application/problem+json" } },
  );
