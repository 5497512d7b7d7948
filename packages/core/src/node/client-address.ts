import { BlockList, isIP } from "node:net";
import { ConfigError } from "../errors.ts";

/** A header, because it survives the copies that frameworks make of a request. */
const headerName = "x-orderbridge-remote-address";
/** Under a global name, so that two copies of the package in one process believe each other. */
const proofKey = Symbol.for("orderbridge.remote-address-proof");

/** What no client can know: drawn once per process, in front of each address. */
function proof(): string {
  const globals = globalThis as { [proofKey]?: string };
  globals[proofKey] ??= crypto.randomUUID();
  return `${globals[proofKey]} `;
}

/**
 * Notes in `headers` who is at the other end of the connection; `undefined` when nobody knows. Whatever the client sent
 * in its place is gone.
 */
export function setRemoteAddress(headers: Headers, address: string | undefined): void {
  if (address === undefined) headers.delete(headerName);
  else headers.set(headerName, `${proof()}${address}`);
}

/**
 * A copy of the request that says from which address its connection came, as `toNodeListener` does: for platforms that
 * call a handler themselves and know the address (`server.requestIP` of Bun, `info.remoteAddr` of Deno), and for tests.
 *
 * @param address Without a port. Never text that the client sent: it is believed.
 */
export function withRemoteAddress(request: Request, address: string | undefined): Request {
  const copy = new Request(request);
  setRemoteAddress(copy.headers, address);
  return copy;
}

export interface AddressList {
  /** An IPv4 address and its IPv6-mapped form are the same; anything that is not an address is not in the list. */
  has(address: string): boolean;
}

/**
 * A list of addresses and CIDRs: `["10.0.0.0/8", "185.59.216.65", "fd00::/8"]`.
 *
 * @throws {ConfigError} for an entry that is neither.
 */
export function createAddressList(entries: readonly string[]): AddressList {
  const blocks = new BlockList();
  for (const entry of entries) {
    const [address = "", bits, rest] = entry.split("/");
    const version = isIP(address);
    const largest = version === 4 ? 32 : 128;
    const prefix = bits === undefined ? largest : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
    if (version === 0 || rest !== undefined || prefix < 0 || prefix > largest) {
      throw new ConfigError(`"${entry}" is neither an IP address nor a CIDR such as 10.0.0.0/8`);
    }
    blocks.addSubnet(address, prefix, version === 4 ? "ipv4" : "ipv6");
  }
  return {
    has(address) {
      const version = isIP(address);
      return version !== 0 && blocks.check(address, version === 4 ? "ipv4" : "ipv6");
    },
  };
}

/**
 * Tells a request's client address. `X-Forwarded-For` is believed only as far as it was written by trusted proxies:
 * it is read from its end, and the first address that is not a trusted proxy is the client's.
 *
 * Only for requests that came through `toNodeListener`, `toFastifyPlugin` or {@link withRemoteAddress}; others have no
 * address (`undefined`), nor has what came over a Unix socket or a connection that was gone before the listener ran.
 */
export function createClientAddress({
  trustedProxies,
}: {
  readonly trustedProxies: readonly string[];
}): (request: Request) => string | undefined {
  const trusted = createAddressList(trustedProxies);
  return (request) => {
    const noted = request.headers.get(headerName) ?? "";
    let address = noted.startsWith(proof()) ? noted.slice(proof().length) : undefined;
    const forwarded = (request.headers.get("x-forwarded-for") ?? "").split(",").map((part) => bareAddress(part.trim()));
    while (address !== undefined && trusted.has(address) && forwarded.length > 0) {
      const previous = forwarded.pop() as string;
      // Nonsense in the header cannot come from a proxy that we trust: stop at the last address we know.
      if (isIP(previous) === 0) break;
      address = previous;
    }
    return address === undefined ? undefined : address.replace(/^::ffff:(?=\d+\.)/i, "");
  };
}

/** Without a port and brackets: `203.0.113.7:4711`, `[2001:db8::1]:4711`. */
function bareAddress(text: string): string {
  const bracketed = /^\[([^\]]+)\](?::\d+)?$/.exec(text)?.[1];
  if (bracketed) return bracketed;
  return /^\d+\.\d+\.\d+\.\d+:\d+$/.test(text) ? text.slice(0, text.indexOf(":")) : text;
}
