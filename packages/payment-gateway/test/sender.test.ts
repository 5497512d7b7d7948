import { createServer, type Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, expect, test } from "vitest";
import { createSender, type ResolvedAddress, type Sender, type SenderOptions } from "../src/sender.ts";

const open: { close(): Promise<unknown> }[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
});

function senderWith(options: SenderOptions = {}): Sender {
  const sender = createSender({ allowAddresses: ["127.0.0.1"], ...options });
  open.push(sender);
  return sender;
}

async function serve(answer: (request: Request) => Response | Promise<Response>): Promise<Listening> {
  const listening = await listen(async (request) => answer(request));
  open.push(listening);
  return listening;
}

/** A server that writes what it likes. */
async function serveRaw(onConnection: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  open.push({
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}/hook`;
}

const loopback: readonly ResolvedAddress[] = [{ address: "127.0.0.1", family: 4 }];

test("posts the bytes and headers as they are and keeps the beginning of the answer", async () => {
  const seen: { body: string; id: string | null; type: string | null }[] = [];
  const { url } = await serve(async (request) => {
    seen.push({
      body: await request.text(),
      id: request.headers.get("webhook-id"),
      type: request.headers.get("content-type"),
    });
    return new Response("x".repeat(100_000), { status: 202 });
  });
  const result = await senderWith({ maxAnswerBytes: 10 }).post(`${url}/hook`, { "webhook-id": "evt_1" }, '{"a":"ә"}');
  expect(result).toEqual({ kind: "answer", status: 202, retryAfter: null, answer: "xxxxxxxxxx" });
  expect(seen).toEqual([{ body: '{"a":"ә"}', id: "evt_1", type: "application/json" }]);
});

test.each([301, 302, 303, 307, 308])("does not follow a redirect with %i", async (status) => {
  const inside: string[] = [];
  const target = await serve((request) => {
    inside.push(request.url);
    return new Response(null, { status: 200 });
  });
  const { url } = await serve(() => new Response(null, { status, headers: { location: target.url } }));
  expect(await senderWith().post(url, {}, "{}")).toMatchObject({ kind: "answer", status });
  expect(inside).toEqual([]);
});

test("resolves once and connects to what was checked: a name that moves inside meanwhile is of no use", async () => {
  const { port } = await serve(() => new Response(null, { status: 204 }));
  const answers = [loopback, [{ address: "10.0.0.1", family: 4 }]];
  let asked = 0;
  const sender = senderWith({ resolve: async () => answers[asked++] ?? [] });
  expect(await sender.post(`http://shop.example:${port}/hook`, {}, "{}")).toMatchObject({ status: 204 });
  expect(asked).toBe(1);
  expect(await sender.post(`http://shop.example:${port}/hook`, {}, "{}")).toEqual({ kind: "blocked" });
});

test("refuses a name when any of its addresses is forbidden", async () => {
  const resolve = async () => [{ address: "93.184.216.34", family: 4 }, ...loopback];
  const sender = createSender({ resolve });
  open.push(sender);
  expect(await sender.post("https://shop.example/hook", {}, "{}")).toEqual({ kind: "blocked" });
});

test("plain HTTP reaches only addresses that the operator listed, whatever the name", async () => {
  const sender = senderWith({ resolve: async () => [{ address: "93.184.216.34", family: 4 }] });
  expect(await sender.post("http://shop.example/hook", {}, "{}")).toEqual({ kind: "blocked" });
});

test("ends in time against a receiver that never answers", async () => {
  const url = await serveRaw(() => undefined);
  const startedAt = performance.now();
  expect(await senderWith({ timeoutMs: 150 }).post(url, {}, "{}")).toEqual({ kind: "no_answer", reason: "timeout" });
  expect(performance.now() - startedAt).toBeLessThan(1_500);
});

test("ends in time against a receiver whose head drips", async () => {
  const url = await serveRaw((socket) => {
    const timer = setInterval(() => socket.write("H"), 20);
    socket.once("close", () => clearInterval(timer));
  });
  const result = await senderWith({ timeoutMs: 200 }).post(url, {}, "{}");
  expect(result.kind).toBe("no_answer");
});

test("as many tries as a receiver may have go out at the same time: none waits for another until its own deadline", async () => {
  const arrived: (() => void)[] = [];
  const { url } = await serve(
    () =>
      new Promise<Response>((resolve) => {
        arrived.push(() => resolve(new Response(null, { status: 204 })));
        if (arrived.length === 40) for (const answer of arrived) answer();
      }),
  );
  const sender = senderWith({ timeoutMs: 5_000 });
  const results = await Promise.all(Array.from({ length: 40 }, () => sender.post(url, {}, "{}")));
  expect(new Set(results.map((result) => (result.kind === "answer" ? result.status : result.kind)))).toEqual(
    new Set([204]),
  );
});

test("a whole head with 200 counts, and a body that drips is cut at the deadline", async () => {
  const url = await serveRaw((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    const timer = setInterval(() => socket.write("x"), 20);
    socket.once("close", () => clearInterval(timer));
  });
  const startedAt = performance.now();
  expect(await senderWith({ timeoutMs: 200 }).post(url, {}, "{}")).toMatchObject({ kind: "answer", status: 200 });
  expect(performance.now() - startedAt).toBeLessThan(1_500);
});

test("stops reading an answer without end", async () => {
  let written = 0;
  const url = await serveRaw((socket) => {
    socket.write("HTTP/1.1 200 OK\r\n\r\n");
    const chunk = Buffer.alloc(65_536, "x");
    const pump = () => {
      while (!socket.destroyed && socket.write(chunk)) written += chunk.length;
    };
    socket.on("drain", pump);
    pump();
  });
  const result = await senderWith({ timeoutMs: 5_000 }).post(url, {}, "{}");
  expect(result).toMatchObject({ kind: "answer", status: 200, answer: "x".repeat(2_048) });
  expect(written).toBeLessThan(20_000_000);
});

test("does not unpack a compressed answer", async () => {
  const bomb = gzipSync(Buffer.alloc(10_000_000));
  const { url } = await serve(() => new Response(bomb, { headers: { "content-encoding": "gzip" } }));
  const result = await senderWith().post(url, {}, "{}");
  expect(result.kind === "answer" && result.answer.length).toBeLessThanOrEqual(2_048);
});

test("endless headers are no answer", async () => {
  const url = await serveRaw((socket) => {
    socket.write("HTTP/1.1 200 OK\r\n");
    const timer = setInterval(() => socket.write(`x-${"a".repeat(4_000)}: 1\r\n`), 5);
    socket.once("close", () => clearInterval(timer));
  });
  expect((await senderWith({ timeoutMs: 2_000 }).post(url, {}, "{}")).kind).toBe("no_answer");
});

test("a closed port, an unknown name and a broken answer are no answer, without details", async () => {
  const { url, close } = await listen(async () => new Response());
  await close();
  expect(await senderWith().post(url, {}, "{}")).toEqual({ kind: "no_answer", reason: "connection" });
  const unknown = senderWith({ resolve: async () => Promise.reject(new Error("ENOTFOUND")) });
  expect(await unknown.post("https://shop.example/", {}, "{}")).toEqual({ kind: "no_answer", reason: "connection" });
  const broken = await serveRaw((socket) => socket.end("SSH-2.0-OpenSSH\r\n"));
  expect(await senderWith().post(broken, {}, "{}")).toEqual({ kind: "no_answer", reason: "connection" });
});
