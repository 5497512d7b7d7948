import { createAddressList, createClientAddress } from "@orderbridge/core/node";

/** The addresses that Robokassa calls from, Russia and Kazakhstan alike. @see docs.robokassa.ru (read 2025-11) */
export const robokassaAddresses: readonly string[] = ["185.59.216.65", "185.59.217.65"];

export interface SourceAddressOptions {
  /**
   * Addresses or CIDRs that may call, e.g. {@link robokassaAddresses}; others are answered 403. The signature decides
   * in any case; this only keeps noise away. Needs `toNodeListener`, `toFastifyPlugin` or `withRemoteAddress`, which tell
   * the address: without one everybody is refused. @defaultValue everybody
   */
  readonly allowedAddresses?: readonly string[];
  /** Addresses or CIDRs of proxies whose `X-Forwarded-For` is believed. @defaultValue none */
  readonly trustedProxies?: readonly string[];
}

/** @throws {ConfigError} for an entry that is neither an address nor a CIDR. */
export function createSourceCheck({
  allowedAddresses,
  trustedProxies = [],
}: SourceAddressOptions): (request: Request) => boolean {
  if (!allowedAddresses) return () => true;
  const allowed = createAddressList(allowedAddresses);
  const clientAddress = createClientAddress({ trustedProxies });
  return (request) => {
    const address = clientAddress(request);
    return address !== undefined && allowed.has(address);
  };
}
