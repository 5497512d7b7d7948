/** Hosts of accounts end with one of these: the Russian platform, the older global name, the global platform. */
export const amocrmHostSuffixes = [".amocrm.ru", ".amocrm.com", ".kommo.com"] as const;

/** A bare host of the vendor: no port, user or path. The client secret and tokens go nowhere else. */
export const isAmocrmHost = (host: string): boolean =>
  /^[a-z0-9-]+(\.[a-z0-9-]+)+$/i.test(host) && amocrmHostSuffixes.some((suffix) => host.endsWith(suffix));

/** Vendor code of an API call that met a page "not found": the account's host is not there. */
export const noSuchHost = "no such host";

/**
 * The claims of an access token that we use. Not verified: they only tell when to warn and where to ask, and the host is
 * checked.
 */
export function readTokenClaims(token: string): { readonly endsAt?: Date; readonly apiDomain?: string } {
  const [, part, signature] = token.split(".");
  if (!part || signature === undefined) return {};
  try {
    const { exp, api_domain } = JSON.parse(Buffer.from(part, "base64url").toString("utf8")) as Record<string, unknown>;
    // The documentation writes both a full host and `{api_domain}.amocrm.ru`.
    const domain = typeof api_domain === "string" && !api_domain.includes(".") ? `${api_domain}.amocrm.ru` : api_domain;
    return {
      ...(typeof exp === "number" && { endsAt: new Date(exp * 1000) }),
      ...(typeof domain === "string" && isAmocrmHost(domain) && { apiDomain: domain }),
    };
  } catch {
    return {}; // not a JWT
  }
}
