import { createHash } from "node:crypto";
import { createServer, request as httpRequest } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { gzipSync } from "node:zlib";
import "reflect-metadata";
import { Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import express from "express";
import fastify from "fastify";
import { Hono } from "hono";
import Koa from "koa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { toFastifyPlugin } from "../src/fastify/index.ts";
import { defineHandler, type FetchHandler } from "../src/index.ts";
import { toNodeListener } from "../src/node/index.ts";

const errors: unknown[] = [];
const silent = { error() {} };

/** Answers with what it received. `?throw`, `?cookies` and `?empty` ask for something else. */
const echo = defineHandler(
  (request, body) => {
    const url = new URL(request.url);
    if (url.searchParams.has("throw")) throw new Error("secret detail");
    if (url.searchParams.has("empty")) return new Response(null, { status: 204 });
    const headers = new Headers({ "x-query": url.search, "x-repeated": request.headers.get("x-repeated") ?? "" });
    if (url.searchParams.has("cookies")) {
      headers.append("set-cookie", "a=1; Path=/");
      headers.append("set-cookie", "b=2");
    }
    const sha256 = createHash("sha256").update(body).digest("hex");
    return new Response(`${request.method} ${body.length} ${sha256} Төлем`, { status: 202, headers });
  },
  { maxBodyBytes: 1000, methods: ["GET", "POST"], onError: (error) => errors.push(error) },
);

interface Served {
  readonly url: string;
  close(): Promise<void>;
}

const platforms: readonly (readonly [string, () => Promise<Served>])[] = [
  ["node:http", () => serve(createServer(toNodeListener(echo, { logger: silent })))],
  [
    "Express",
    () => {
      const application = express();
      application.use("/hook", toNodeListener(echo, { logger: silent }));
      application.use(express.json());
      return serve(createServer(application));
    },
  ],
  [
    "Fastify",
    async () => {
      const application = fastify();
      await application.register(toFastifyPlugin({ "/hook": echo }, { logger: silent }));
      const url = await application.listen({ port: 0, host: "127.0.0.1" });
      return { url, close: () => application.close() };
    },
  ],
  [
    "Hono",
    () => {
      const application = new Hono();
      application.all("/hook", (context) => echo(context.req.raw));
      return serve(createServer(toNodeListener(async (request) => application.fetch(request), { logger: silent })));
    },
  ],
  [
    "Koa",
    () => {
      const application = new Koa();
      const listener = toNodeListener(echo, { logger: silent });
      application.use(async (context, next) => {
        if (context.path !== "/hook") return next();
        context.respond = false; // Koa keeps its hands off the answer
        await listener(context.req, context.res);
      });
      return serve(createServer(application.callback()));
    },
  ],
  [
    "Nest",
    async () => {
      class Application {}
      Module({})(Application); // what the decorator does
      const application = await NestFactory.create(Application, { bodyParser: false, logger: false });
      application.use("/hook", toNodeListener(echo, { logger: silent }));
      await application.listen(0, "127.0.0.1");
      return { url: await application.getUrl(), close: () => application.close() };
    },
  ],
  [
    // What Next does with `app/hook/route.ts`: it calls the export that has the method's name, with its own Request.
    "Next (route handlers, without Next)",
    () => {
      const route: Readonly<Record<string, FetchHandler>> = {
        GET: echo,
        POST: echo,
        HEAD: echo,
        OPTIONS: echo,
        DELETE: echo,
      };
      class NextLikeRequest extends Request {}
      const handle: FetchHandler = (request) =>
        route[request.method]?.(new NextLikeRequest(request)) ?? Promise.resolve(new Response(null, { status: 405 }));
      return serve(createServer(toNodeListener(handle, { logger: silent })));
    },
  ],
];

async function serve(server: ReturnType<typeof createServer>): Promise<Served> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

// sha256sum of the bytes
const bodies: readonly (readonly [string, Uint8Array, string])[] = [
  ["no bytes", new Uint8Array(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  [
    "JSON with odd white space and CRLF",
    Buffer.from('{ "a":1,\r\n\t"b" : 2 }\n'),
    "2b29537ef7b315254840f1c087a2d874ff85171b4027e189ffa92b3d4cf2b018",
  ],
  [
    "bytes that are not UTF-8",
    Buffer.from([0xff, 0xfe, 0x00, 0x80, 0x0a]),
    "f37f451f3e17de63172b27f700563368cd5604ed6825a843c4114f110f57c1bf",
  ],
];

describe.each(platforms)("on %s", (_name, start) => {
  let served: Served;
  beforeAll(async () => {
    served = await start();
  });
  afterAll(() => served.close());
  const call = (query = "", init: RequestInit = {}) => fetch(`${served.url}/hook${query}`, init);

  test.each(bodies)("hands over %s as sent, whatever the content type says", async (_case, body, sha256) => {
    for (const type of ["application/json", "application/x-www-form-urlencoded", "application/vnd.unheard-of"]) {
      const answer = await call("", { method: "POST", body, headers: { "content-type": type } });
      expect([answer.status, await answer.text()]).toEqual([202, `POST ${body.length} ${sha256} Төлем`]);
    }
  });

  test("leaves a compressed body compressed", async () => {
    const body = gzipSync("{}");
    const headers = { "content-type": "application/json", "content-encoding": "gzip" };
    const answer = await call("", { method: "POST", body, headers });
    expect(await answer.text()).toContain(`POST ${body.length} ${createHash("sha256").update(body).digest("hex")}`);
  });

  test("passes the query on as written", async () => {
    expect((await call("?a=1&a=2&%D0%B5=%2B")).headers.get("x-query")).toBe("?a=1&a=2&%D0%B5=%2B");
  });

  test("keeps repeated headers and several cookies", async () => {
    const { headers } = await call("?cookies", {
      headers: [
        ["x-repeated", "1"],
        ["x-repeated", "2"],
      ],
    });
    expect(headers.get("x-repeated")).toBe("1, 2");
    expect(headers.getSetCookie()).toEqual(["a=1; Path=/", "b=2"]);
  });

  test("takes a body of exactly the limit and answers 413 to one byte more, announced or not", async () => {
    expect((await call("", { method: "POST", body: new Uint8Array(1000) })).status).toBe(202);
    expect((await call("", { method: "POST", body: new Uint8Array(1001) })).status).toBe(413);
    expect(await postChunked(`${served.url}/hook`, 1001)).toBe(413);
  });

  test("answers 413 to a long body while it is still being sent, and goes on serving", async () => {
    expect(await postChunked(`${served.url}/hook`, 3_000_000)).toBe(413);
    expect((await call("", { method: "POST", body: "x" })).status).toBe(202);
  });

  test("answers HEAD without a body, and 204 without one", async () => {
    const head = await call("", { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([202, ""]);
    expect((await call("?empty")).status).toBe(204);
  });

  test("answers 405 with the allowed methods, and OPTIONS with them", async () => {
    const wrong = await call("", { method: "DELETE" });
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "GET, POST, HEAD"]);
    const options = await call("", { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, POST, HEAD"]);
  });

  test("answers an empty 500 and tells onError when the function throws", async () => {
    errors.length = 0;
    const answer = await call("?throw", { method: "POST", body: "x" });
    expect([answer.status, await answer.text()]).toEqual([500, ""]);
    expect(errors).toEqual([new Error("secret detail")]);
  });

  test("takes no part of a request target for a host", async () => {
    // Express and Koa mount by path and know none of these; the others have their own rules for the first two.
    const statuses = await Promise.all(["//hook/x", "//u:p@h/x", "//"].map((path) => requestTarget(served.url, path)));
    for (const status of statuses) expect([202, 404]).toContain(status);
  });
});

/** A body without a declared length. Gives the status. */
function postChunked(url: string, bytes: number): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method: "POST", agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    request.on("error", reject);
    request.write(Buffer.alloc(bytes));
    request.end();
  });
}

function requestTarget(url: string, path: string): Promise<number | undefined> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    httpRequest({ hostname, port, path, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on("error", reject)
      .end();
  });
}

test.each([
  ["//x/admin?a=1", 200, "//x/admin?a=1"],
  ["//", 200, "//"],
  ["//u:p@h/x", 200, "//u:p@h/x"],
  ["/\\\\x/admin", 200, "///x/admin"],
  ["http://x/admin?a=1", 200, "/admin?a=1"],
  ["http://x//y/admin", 200, "//y/admin"],
  ["http://[/admin", 400, ""],
])("the path of a request target %s is what a proxy sees", async (target, status, expected) => {
  const where: FetchHandler = async ({ url }) => {
    const { host, pathname, search } = new URL(url);
    return new Response(`${host} ${pathname}${search}`);
  };
  const served = await serve(createServer(toNodeListener(where, { logger: silent })));
  const { hostname, port } = new URL(served.url);
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let text = "";
    socket.setEncoding("utf8").on("data", (piece) => {
      text += piece;
    });
    socket.on("close", () => resolve(text)).on("error", reject);
    socket.write(`GET ${target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
  });
  expect(answer).toContain(`HTTP/1.1 ${status} `);
  if (status === 200) expect(answer).toContain(`localhost ${expected}`);
  await served.close();
});

test("a long answer to a slow client leaves no listeners behind", async () => {
  let pieces = 0;
  let most = 0;
  const long = new ReadableStream({
    pull(controller) {
      if (++pieces > 40) controller.close();
      else controller.enqueue(new Uint8Array(1_000_000));
    },
  });
  const listener = toNodeListener(async () => new Response(long));
  const served = await serve(
    createServer(async (incoming, outgoing) => {
      outgoing.on("drain", () => {
        most = Math.max(most, outgoing.listenerCount("close"));
      });
      await listener(incoming, outgoing);
    }),
  );
  expect((await (await fetch(served.url)).arrayBuffer()).byteLength).toBe(40_000_000);
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThan(5);
  await served.close();
});

test("a log line of the adapter holds no credentials", async () => {
  const messages: unknown[] = [];
  const listener = toNodeListener(
    async () => {
      throw new Error("no answer from https://u:pa55@host/");
    },
    { logger: { error: (_text, fields) => messages.push(fields) } },
  );
  const served = await serve(createServer(listener));
  expect((await fetch(served.url)).status).toBe(500);
  expect(messages).toEqual([{ error: "no answer from https://[redacted]@host/" }]);
  await served.close();
});

test("a body that Express has already parsed is told, with what to do", async () => {
  const messages: unknown[] = [];
  const application = express();
  application.use(express.json());
  application.use("/hook", toNodeListener(echo, { logger: { error: (_text, fields) => messages.push(fields) } }));
  const served = await serve(createServer(application));
  const answer = await fetch(`${served.url}/hook`, {
    method: "POST",
    body: "{}",
    headers: { "content-type": "application/json" },
  });
  expect([answer.status, await answer.text()]).toEqual([500, ""]);
  expect(messages).toEqual([{ error: "the request body was already read: mount this handler before body parsers" }]);
  await served.close();
});

test("the rest of a Fastify application keeps its own parsers", async () => {
  const application = fastify();
  application.register(toFastifyPlugin({ "/hook": echo }));
  application.post("/own", async (request) => ({ got: request.body }));
  const answer = await application.inject({ method: "POST", url: "/own", payload: { a: 1 } });
  expect(answer.json()).toEqual({ got: { a: 1 } });
  await application.close();
});

test("outlives a client that goes away in the middle of a body, before and after the handler gave up on it", async () => {
  const served = await serve(createServer(toNodeListener(echo, { logger: silent })));
  for (const bytes of [500, 5000]) {
    const request = httpRequest(served.url, { method: "POST", agent: false });
    request.on("error", () => undefined);
    await new Promise((resolve) => request.write(Buffer.alloc(bytes), resolve));
    if (bytes > 1000) await new Promise((resolve) => request.once("response", resolve)); // 413
    request.destroy();
  }
  expect((await fetch(served.url, { method: "POST", body: "x" })).status).toBe(202);
  await served.close();
});

test("a handler hears when the client goes away", async () => {
  const gone = Promise.withResolvers<unknown>();
  const waiting: FetchHandler = (request) => {
    request.signal.addEventListener("abort", () => gone.resolve(request.signal.reason));
    return new Promise(() => undefined);
  };
  const served = await serve(createServer(toNodeListener(waiting)));
  const stop = new AbortController();
  const asking = fetch(served.url, { signal: stop.signal }).catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 30));
  stop.abort();
  expect(await gone.promise).toEqual(new Error("the client went away"));
  await asking;
  await served.close();
});

describe("defineHandler", () => {
  const post = (body: string | null, headers: Record<string, string> = {}) =>
    new Request("http://localhost/", { method: "POST", body, headers });

  test.each([
    ["application/json", 200],
    ["Application/JSON; charset=utf-8", 200],
    ["text/plain", 415],
  ])("with a list of content types answers %s with %d", async (type, status) => {
    const handle = defineHandler(() => new Response(), { contentTypes: ["application/json"] });
    expect((await handle(post("{}", { "content-type": type }))).status).toBe(status);
  });

  test("does not ask for the content type of no body", async () => {
    const handle = defineHandler(() => new Response(), { contentTypes: ["application/json"] });
    expect((await handle(post(null))).status).toBe(200);
  });

  test("believes no Content-Length that is too small", async () => {
    const handle = defineHandler(() => new Response(), { maxBodyBytes: 10 });
    expect((await handle(post("x".repeat(11), { "content-length": "1" }))).status).toBe(413);
  });

  test("never rejects: not for a consumed body, not when onError throws", async () => {
    const handle = defineHandler(() => new Response(), {
      logger: silent,
      onError: () => {
        throw new Error("onError broke");
      },
    });
    const consumed = post("x");
    await consumed.text();
    expect((await handle(consumed)).status).toBe(500);
  });

  test("logs a redacted message by default", async () => {
    const logged: unknown[] = [];
    const handle = defineHandler(
      () => {
        throw new Error("token=abcdef");
      },
      { logger: { error: (message, fields) => logged.push(message, fields) } },
    );
    await handle(post("x"));
    expect(logged).toEqual(["handler failed", { error: "token=[redacted]" }]);
  });
});
