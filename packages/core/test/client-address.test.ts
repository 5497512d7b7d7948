import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { defineHandler } from "../src/index.ts";
import { createAddressList, createClientAddress, toNodeListener } from "../src/node/index.ts";

const request = (remote: string | undefined, forwarded?: string): Request =>
  new Request("http://localhost/", {
    headers: {
      ...(remote === undefined ? {} : { "x-orderbridge-remote-address": remote }),
      ...(forwarded === undefined ? {} : { "x-forwarded-for": forwarded }),
    },
  });

test.each([
  ["the socket's address without a proxy", [], "203.0.113.7", "1.2.3.4", "203.0.113.7"],
  ["the forwarded address behind a trusted proxy", ["10.0.0.0/8"], "10.1.2.3", "203.0.113.7", "203.0.113.7"],
  [
    "the last untrusted address of a chain, not what the client claimed",
    ["10.0.0.0/8"],
    "10.1.2.3",
    "6.6.6.6, 203.0.113.7, 10.9.9.9",
    "203.0.113.7",
  ],
  ["the proxy itself when it forwarded nothing", ["10.0.0.0/8"], "10.1.2.3", undefined, "10.1.2.3"],
  ["the last known address when the header holds nonsense", ["10.0.0.0/8"], "10.1.2.3", "evil", "10.1.2.3"],
  ["an IPv4 address out of its mapped form", ["10.0.0.0/8"], "::ffff:10.1.2.3", "::ffff:203.0.113.7", "203.0.113.7"],
  ["an address with a port", ["10.0.0.1"], "10.0.0.1", "203.0.113.7:4711", "203.0.113.7"],
  ["an IPv6 address with brackets and a port", ["fd00::/8"], "fd00::1", "[2001:db8::1]:4711", "2001:db8::1"],
  ["nothing when the request did not come through the adapter", ["10.0.0.0/8"], undefined, "203.0.113.7", undefined],
])("gives %s", (_case, trustedProxies, remote, forwarded, expected) => {
  expect(createClientAddress({ trustedProxies })(request(remote, forwarded))).toBe(expected);
});

test("the adapter overwrites an address that the client made up", async () => {
  const clientAddress = createClientAddress({ trustedProxies: [] });
  const handler = defineHandler((incoming) => new Response(clientAddress(incoming) ?? "none"), { methods: ["GET"] });
  const server = createServer(toNodeListener(handler));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const answer = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`, {
      headers: { "x-orderbridge-remote-address": "6.6.6.6", "x-forwarded-for": "6.6.6.6" },
    });
    expect(await answer.text()).toBe("127.0.0.1");
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test.each([["10.0.0.0/33"], ["10.0.0/8"], ["host"], ["10.0.0.0/8/8"], ["10.0.0.0/"], ["::1/129"]])(
  "refuses %s as an entry of an address list",
  (entry) => {
    expect(() => createAddressList([entry])).toThrow(`"${entry}" is neither an IP address nor a CIDR`);
  },
);

test("an address list knows addresses, ranges and the mapped form, and nothing else", () => {
  const list = createAddressList(["185.59.216.65", "10.0.0.0/8", "2001:db8::/32"]);
  expect(["185.59.216.65", "10.255.0.1", "::ffff:10.0.0.1", "2001:db8::9"].every(list.has)).toBe(true);
  expect(["185.59.216.66", "11.0.0.1", "2001:db9::1", "", "localhost"].some(list.has)).toBe(false);
});
