import type { Clock } from "@orderbridge/core";
import { Refused } from "./fake-bitrix-answer.ts";
import { parsePhpForm } from "./php-form.ts";

export type FakeOAuth = ReturnType<typeof createFakeOAuth>;

/** Consent, codes that work once and for 30 seconds, refresh tokens that work once. "OAuth 2.0", apidocs.bitrix24.ru (read 2026-08) */
export function createFakeOAuth({
  clock,
  client,
  memberId,
  userId,
}: {
  readonly clock: Clock;
  readonly client: { readonly id: string; readonly secret: string };
  readonly memberId: string;
  readonly userId: number;
}) {
  const codes = new Map<string, number>();
  const accessTokens = new Map<string, number>();
  const refreshTokens = new Set<string>();
  let granted = 0;
  let refreshes = 0;

  return {
    get refreshes() {
      return refreshes;
    },
    /** Parameters come in the query or as a form. */
    async giveTokens(request: Request, url: URL): Promise<Response> {
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
    },
    /** An access token that comes with an event; without a refresh token. */
    grantToken(): {
      readonly access_token: string;
      readonly expires_in: number;
      readonly scope: string;
      readonly status: string;
    } {
      granted++;
      accessTokens.set(`access-${granted}`, clock.now().getTime() + 3_600_000);
      return { access_token: `access-${granted}`, expires_in: 3600, scope: "crm,sale,catalog", status: "L" };
    },
    checkToken(token: unknown): void {
      if (token === undefined) throw new Refused(401, "NO_AUTH_FOUND", "Wrong authorization data");
      const endsAt = accessTokens.get(String(token));
      if (endsAt === undefined) throw new Refused(401, "invalid_token", "Unable to get application by token");
      if (endsAt <= clock.now().getTime()) {
        throw new Refused(401, "expired_token", "The access token provided has expired.");
      }
    },
    consent(): string {
      const code = `code-${codes.size + granted + 1}`;
      codes.set(code, clock.now().getTime() + 30_000);
      return code;
    },
    expireTokens(): void {
      for (const token of accessTokens.keys()) accessTokens.set(token, 0);
    },
    revokeTokens(): void {
      accessTokens.clear();
      refreshTokens.clear();
    },
  };
}
