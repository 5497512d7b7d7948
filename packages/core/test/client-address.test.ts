import { mkdtempSync, rmSync } from "node:fs";
import { createServer, request as httpRequest } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { defineHandler } from "../src/index.ts";
import { createAddressList, createClientAddress, toNodeListener, withRemoteAddress } from "../src/node/index.ts";

const request = (remote: string | undefined, forwarded?: string): Request =>
  withRemoteAddress(
    new Request("http://localhost/", { headers: forwarded === undefined ? {} : { "x-forwarded-for": forwarded } }),
    remote,
  );

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

/** What a client could send in place of the adapter's note. */
const forged = { "x-orderbridge-remote-address": "194.187.247.152", "x-forwarded-for": "194.187.247.152" };

test("believes no address that stands in a request which a platform hands over itself", () => {
  const clientAddress = createClientAddress({ trustedProxies: ["194.187.247.152"] });
  const bare = new Request("http://localhost/", { headers: forged });
  expect(clientAddress(bare)).toBeUndefined();
  expect(clientAddress(withRemoteAddress(bare, undefined))).toBeUndefined();
  expect(clientAddress(withRemoteAddress(bare, "203.0.113.7"))).toBe("203.0.113.7");
});

test("an address survives the copies that frameworks make, keeps the body, and is known to another copy of the package", async () => {
  const noted = withRemoteAddress(new Request("http://localhost/", { method: "POST", body: "x" }), "203.0.113.7");
  const copy = new Request(noted);
  expect(createClientAddress({ trustedProxies: [] })(copy)).toBe("203.0.113.7");
  expect(await copy.text()).toBe("x");
  vi.resetModules();
  const other = await import("../src/node/index.ts");
  expect(other.createClientAddress).not.toBe(createClientAddress);
  expect(other.createClientAddress({ trustedProxies: [] })(request("203.0.113.7"))).toBe("203.0.113.7");
});

test("an address that was noted does not outlive a later note that nobody is known", () => {
  const noted = withRemoteAddress(new Request("http://localhost/"), "203.0.113.7");
  expect(createClientAddress({ trustedProxies: [] })(withRemoteAddress(noted, undefined))).toBeUndefined();
});

test("over a Unix socket nobody has an address, whatever the client wrote", async () => {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-socket-"));
  const clientAddress = createClientAddress({ trustedProxies: [] });
  const server = createServer(toNodeListener(async (incoming) => new Response(clientAddress(incoming) ?? "none")));
  const socketPath = join(folder, "http.sock");
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  try {
    const text = await new Promise<string>((resolve, reject) => {
      httpRequest({ socketPath, headers: forged }, (response) => {
        response.setEncoding("utf8").once("data", resolve);
      })
        .on("error", reject)
        .end();
    });
    expect(text).toBe("none");
  } finally {
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true });
  }
});

test("a connection that was reset before the listener ran has no address, whatever the client wrote", async () => {
  const clientAddress = createClientAddress({ trustedProxies: [] });
  const seen = Promise.withResolvers<string | undefined>();
  const listener = toNodeListener(async (incoming) => {
    seen.resolve(clientAddress(incoming));
    return new Response();
  });
  const server = createServer(async (incoming, outgoing) => {
    await new Promise((resolve) => incoming.socket.once("close", resolve)); // a slow middleware
    await listener(incoming, outgoing);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
    const head = Object.entries({ host: "localhost", ...forged }).map(([name, value]) => `${name}: ${value}\r\n`);
    server.once("request", () => client.resetAndDestroy());
    client.write(`GET / HTTP/1.1\r\n${head.join("")}\r\n`);
    expect(await seen.promise).toBeUndefined();
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
