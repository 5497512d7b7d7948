import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { type AddressList, createAddressList } from "@orderbridge/core/node";

/**
 * Addresses that a webhook must never reach: the special-purpose registries of IANA (IPv4 and IPv6, RFC 6890 and its
 * successors up to RFC 9780), multicast, and 168.63.129.16, a public number that answers inside Azure.
 */
const forbiddenIpv4 = createAddressList([
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
  "168.63.129.16",
]);

/** Inside the only global range, `2000::/3`; everything outside it is refused as a whole. */
const forbiddenIpv6 = createAddressList([
  "2001::/23", // protocol assignments, among them Teredo and benchmarking
  "2001:db8::/32",
  "2002::/16", // 6to4 carries an IPv4 address
  "3fff::/20",
]);

const globalIpv6 = createAddressList(["2000::/3"]);
const ipv4Mapped = createAddressList(["::ffff:0:0/96"]);
const nat64 = createAddressList(["64:ff9b::/96"]);

export interface AddressGuard {
  /** Whether a socket may connect to this address. Anything that is not an IP address may not. */
  allows(address: string): boolean;
  /** Whether the operator named this address; plain HTTP is for these only. */
  isListed(address: string): boolean;
}

/**
 * Judges the address that a socket connects to, not the text of a URL.
 *
 * @param allowAddresses Addresses and CIDRs that win over the rules: for tests and intranets.
 * @param denyAddresses Further ones to refuse, for example the public address of a machine behind a translator.
 * @param ownAddresses Those of this machine, which are refused too. @defaultValue those of its interfaces as they are now
 */
export function createAddressGuard({
  allowAddresses = [],
  denyAddresses = [],
  ownAddresses = Object.values(networkInterfaces()).flatMap((all = []) =>
    all.map(({ address }) => address.replace(/%.*/, "")),
  ),
}: {
  readonly allowAddresses?: readonly string[];
  readonly denyAddresses?: readonly string[];
  readonly ownAddresses?: readonly string[];
} = {}): AddressGuard {
  const allowed = createAddressList(allowAddresses);
  const denied = createAddressList([...denyAddresses, ...ownAddresses]);
  return {
    isListed: (address) => allowed.has(address),
    allows: (address) =>
      allowed.has(address) || (isPublic(address) && !denied.has(address) && !denied.has(carried(address))),
  };
}

function isPublic(address: string): boolean {
  const version = isIP(address);
  if (version === 0 || address.includes("%")) return false;
  if (version === 4) return !has(forbiddenIpv4, address);
  if (carried(address) !== address) return isPublic(carried(address));
  return has(globalIpv6, address) && !has(forbiddenIpv6, address) && !isIsatap(address);
}

/** The IPv4 address that an IPv6 one stands for: mapped, or through NAT64; any other address itself. */
const carried = (address: string): string =>
  isIP(address) === 6 && (has(ipv4Mapped, address) || has(nat64, address)) ? embeddedIpv4(address) : address;

const has = (list: AddressList, address: string): boolean => list.has(address);

/** The eight groups of an IPv6 address as numbers. */
function groups(address: string): readonly number[] {
  // The URL parser writes every spelling, dotted endings included, as groups of hex digits.
  const canonical = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [head = "", tail] = canonical.split("::");
  const read = (part: string) => (part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16)));
  const left = read(head);
  const right = read(tail ?? "");
  return [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
}

/** What one customer of a network has: an IPv4 address, or the /64 of an IPv6 one. Other text stays as it is. */
export function networkOf(address: string): string {
  const plain = carried(address.replace(/%.*/, ""));
  if (isIP(plain) !== 6) return plain;
  const network = groups(plain).slice(0, 4);
  return `${network.map((group) => group.toString(16)).join(":")}::/64`;
}

/** The IPv4 address in the last 32 bits. */
function embeddedIpv4(address: string): string {
  const [high = 0, low = 0] = groups(address).slice(6);
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

/** `…:0:5efe:a.b.c.d` and `…:200:5efe:a.b.c.d` tunnel to an IPv4 address under any prefix. */
function isIsatap(address: string): boolean {
  const [flag, marker] = groups(address).slice(4);
  return marker === 0x5efe && (flag === 0 || flag === 0x200);
}
