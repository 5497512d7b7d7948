import { ConfigError } from "@orderbridge/core";

/** Where a portal's methods are called. The path of a webhook holds its secret: it may not be logged. */
export interface RestAddress {
  readonly origin: string;
  readonly host: string;
  /** `/rest/{user}/{secret}` of an incoming webhook, `/rest` of an application. */
  readonly path: string;
}

const loopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** Messages never repeat the address. */
export function parseWebhookUrl(webhookUrl: string): RestAddress {
  const advice = "must look like https://example.bitrix24.kz/rest/1/secret/, as Bitrix24 shows it";
  if (!URL.canParse(webhookUrl)) throw new ConfigError(`webhookUrl ${advice}`);
  const { protocol, origin, hostname, host, pathname, search } = new URL(webhookUrl);
  const path = /^\/rest\/\d+\/[^/]+(?=\/?$)/.exec(pathname)?.[0];
  if (!path || search !== "") throw new ConfigError(`webhookUrl ${advice}`);
  checkScheme("webhookUrl", protocol, hostname);
  return { origin, host, path };
}

export function parsePortalUrl(portalUrl: string): RestAddress {
  const url = URL.canParse(portalUrl) ? new URL(portalUrl) : undefined;
  if (url?.pathname !== "/" || url.search !== "" || url.username !== "") {
    throw new ConfigError("portalUrl must look like https://example.bitrix24.kz");
  }
  checkScheme("portalUrl", url.protocol, url.hostname);
  return { origin: url.origin, host: url.host, path: "/rest" };
}

function checkScheme(name: string, protocol: string, hostname: string): void {
  if (protocol !== "https:" && !(protocol === "http:" && loopback.test(hostname))) {
    throw new ConfigError(`${name} must begin with https: Bitrix24 refuses anything else`);
  }
}

/** `example.bitrix24.kz` belongs to `bitrix24.kz`; other hosts only to themselves. */
function cloudSuffix(host: string): string | undefined {
  return /^[a-z0-9-]+\.(bitrix24\.[a-z]{2,3}(?:\.[a-z]{2})?)$/i.exec(host)?.[1]?.toLowerCase();
}

/**
 * The origin to go on with after a 302, or `undefined` when the secret must not be sent there. A renamed portal keeps its
 * country domain and answers with the same path.
 *
 * @see apidocs.bitrix24.ru, "Changing the portal's address" (read 2026-08)
 */
export function readRename(
  location: string | null,
  {
    current,
    path,
    allowedHosts,
  }: { readonly current: string; readonly path: string; readonly allowedHosts: readonly string[] },
): string | undefined {
  if (location === null || !URL.canParse(location, current)) return undefined;
  const target = new URL(location, current);
  if (target.pathname.replace(/\/+$/, "") !== path || target.username !== "") return undefined;
  const from = new URL(current);
  const sameScheme = target.protocol === "https:" || target.protocol === from.protocol;
  const suffix = cloudSuffix(from.hostname);
  const trusted =
    allowedHosts.includes(target.host) || (suffix !== undefined && cloudSuffix(target.hostname) === suffix);
  return sameScheme && trusted ? target.origin : undefined;
}

/** Whose request budget and block it is: the portal's, by the host that it was set up with. */
export const accountOf = ({ host }: RestAddress): string => `bitrix:${host}`;
