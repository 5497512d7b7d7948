import { expect, test, vi } from "vitest";
import { createAddressGuard, networkOf } from "../src/addresses.ts";
import { createSender } from "../src/sender.ts";

// One of each range in IANA's special-purpose registries (read 2026-11), the carriers of IPv4 inside IPv6, unallocated
// space, and the metadata addresses of Amazon, Google, Azure, Oracle and Alibaba.
const forbidden = [
  "0.0.0.0",
  "0.1.2.3",
  "10.0.0.1",
  "10.255.255.255",
  "100.64.0.1",
  "100.100.100.200",
  "100.127.255.255",
  "127.0.0.1",
  "127.255.255.254",
  "169.254.169.254",
  "169.254.170.2",
  "169.254.170.23",
  "172.16.0.1",
  "172.31.255.255",
  "192.0.0.1",
  "192.0.0.192",
  "192.0.2.1",
  "192.88.99.1",
  "192.168.0.1",
  "192.168.255.255",
  "198.18.0.1",
  "198.19.255.255",
  "198.51.100.1",
  "203.0.113.1",
  "224.0.0.1",
  "239.255.255.255",
  "240.0.0.1",
  "255.255.255.255",
  "168.63.129.16",
  "::",
  "::1",
  "::7f00:1",
  "::127.0.0.1",
  "::ffff:127.0.0.1",
  "::ffff:7f00:1",
  "::ffff:10.0.0.1",
  "::ffff:169.254.169.254",
  "::ffff:0:127.0.0.1",
  "::5efe:7f00:1",
  "2a00:1450::5efe:7f00:1",
  "2a00:1450::200:5efe:a00:1",
  "64:ff9b::7f00:1",
  "64:ff9b::10.0.0.1",
  "64:ff9b:1::7f00:1",
  "100::1",
  "100:0:0:1::1",
  "2001::1",
  "2001:0:7f00:1::1",
  "2001:2::1",
  "2001:10::1",
  "2001:db8::1",
  "2002:7f00:1::1",
  "3fff::1",
  "4000::1",
  "5f00::1",
  "e000::1",
  "fc00::1",
  "fd00:ec2::254",
  "fd20:ce::254",
  "fe80::1",
  "fec0::1",
  "ff02::1",
];

test("the list holds 62 addresses that must be refused", () => {
  expect(new Set(forbidden).size).toBe(62);
});

test.each(forbidden)("refuses %s, as an answer of the resolver and inside a URL", (address) => {
  expect(createAddressGuard().allows(address)).toBe(false);
  const host = address.includes(":") ? `[${address}]` : address;
  expect(createSender().refuse(`https://${host}/hook`)).toBe("names an address that is not allowed");
});

test.each([
  "1.1.1.1",
  "8.8.8.8",
  "100.63.255.255",
  "100.128.0.1",
  "172.15.255.255",
  "172.32.0.1",
  "192.31.196.1",
  "192.52.193.1",
  "192.175.48.1",
  "198.17.255.255",
  "198.20.0.1",
  "223.255.255.255",
  "::ffff:8.8.8.8",
  "64:ff9b::8.8.8.8",
  "2606:4700:4700::1111",
  "2620:4f:8000::1",
  "2a00:1450:4001:81b::200e",
])("lets the public address %s pass", (address) => {
  expect(createAddressGuard().allows(address)).toBe(true);
});

test.each([
  "https://2130706433/",
  "https://0x7f000001/",
  "https://0177.0.0.1/",
  "https://017700000001/",
  "https://127.1/",
  "https://0x7f.1/",
  "https://%31%32%37.0.0.1/",
  "https://１２７.0.0.1/",
  "https://①②⑦.0.0.1/",
  "https://127。0。0。1/",
  "https://127.0.0.1\\@example.com/",
  "https://0/",
  "https://127.0.0.1./",
  "ht\ntps://127.0.0.1/",
])("sees through the spelling %j", (url) => {
  expect(createSender().refuse(url)).toBe("names an address that is not allowed");
});

test.each([
  ["hook", "must be an absolute address"],
  ["ftp://shop.example/", "must start with https://"],
  ["http://shop.example/", "must start with https://"],
  ["https://user:word@shop.example/", "must not hold a user name or password"],
  ["https://example.com@127.0.0.1/", "must not hold a user name or password"],
  ["https://shop.example:22/", "must use port 443 or one from 1024 up"],
  ["https://shop.example:0/", "must use port 443 or one from 1024 up"],
])("refuses %s", (url, reason) => {
  expect(createSender().refuse(url)).toBe(reason);
});

test("an address that the operator lists wins over the rules, plain HTTP included; its neighbour does not", () => {
  const sender = createSender({ allowAddresses: ["10.1.0.0/16"] });
  expect(sender.refuse("http://10.1.2.3:81/hook")).toBeUndefined();
  expect(sender.refuse("https://10.2.0.1/hook")).toBe("names an address that is not allowed");
  expect(sender.refuse("http://8.8.8.8/hook")).toBe("must start with https://");
});

test("a zone, or anything that is no address, is refused", () => {
  for (const text of ["fe80::1%eth0", "2606:4700::1%eth0", "localhost", "", "1.1.1.1.1"]) {
    expect(createAddressGuard().allows(text)).toBe(false);
  }
});

test("a public address of this very machine is refused, in any spelling, unless it is listed", () => {
  const ownAddresses = ["93.184.216.34", "2a00:1450:4010::2"];
  const guard = createAddressGuard({ ownAddresses });
  for (const address of [...ownAddresses, "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]) {
    expect(guard.allows(address), address).toBe(false);
    expect(createAddressGuard({ ownAddresses: [] }).allows(address), address).toBe(true);
  }
  expect(guard.allows("93.184.216.35")).toBe(true);
  expect(createAddressGuard({ ownAddresses, allowAddresses: ["93.184.216.34"] }).allows("93.184.216.34")).toBe(true);
});

test("the addresses of the interfaces are those that are refused by default", async () => {
  vi.resetModules();
  vi.doMock("node:os", () => ({
    networkInterfaces: () => ({ eth0: [{ address: "93.184.216.34" }], down: undefined }),
  }));
  const { createAddressGuard: create } = await import("../src/addresses.ts");
  expect([create().allows("93.184.216.34"), create().allows("93.184.216.35")]).toEqual([false, true]);
  vi.doUnmock("node:os");
});

test.each([
  ["203.0.113.7", "203.0.113.7"],
  ["::ffff:203.0.113.7", "203.0.113.7"],
  ["::ffff:cb00:7107", "203.0.113.7"],
  ["2001:db8:0:7:1:2:3:4", "2001:db8:0:7::/64"],
  ["2001:0DB8::7:ffff:0:0:1", "2001:db8:0:7::/64"],
  ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ["unknown", "unknown"],
])("%s belongs to the customer %s", (address, network) => {
  expect(networkOf(address)).toBe(network);
});
