// Run by p5-gateway.ts in a process of its own: takes webhooks, and tells when each came.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** Arrival in milliseconds since 1970, by event id. */
let arrivals: Record<string, number> = {};
let count = 0;
const server = createServer((request, response) => {
  const at = performance.timeOrigin + performance.now();
  request.resume();
  request.on("end", () => {
    if (request.url === "/silent") return; // never answers
    count++;
    arrivals[String(request.headers["webhook-id"])] ??= at;
    response.writeHead(204).end();
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => process.send?.({ port: (server.address() as AddressInfo).port }));
process.on("message", (message) => {
  if (message === "count") process.send?.({ count });
  if (message !== "take") return;
  process.send?.({ arrivals });
  arrivals = {};
  count = 0;
});
