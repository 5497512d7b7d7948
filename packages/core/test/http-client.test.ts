import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import nock from "nock";
import * as v from "valibot";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  ApiError,
  BlockedError,
  ConfigError,
  createHttpClient,
  createRateLimiter,
  type HttpCall,
  type HttpClientOptions,
  NeedsReauthError,
  type RateLimiter,
  RateLimitStoreError,
  RequestError,
  ResponseShapeError,
  readRetryAfter,
  type SdkError,
} from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createFakeClock, fetchFrom } from "../src/testing/index.ts";
import { settle, untilSleeping } from "./settle.ts";

const origin = "https://vendor.example";
const orders = v.object({ total: v.number() });
const read = { name: "orders.list", path: "/orders", schema: orders } as const;
const write = { ...read, name: "orders.add", method: "POST", json: { name: "Айгүл" } } as const;

function createClient(options: Partial<HttpClientOptions> = {}) {
  return createHttpClient({ vendor: "vendor", baseUrl: `${origin}/v1/`, minDelayMs: 1, maxDelayMs: 2, ...options });
}

/** What a call fails with, and how many requests it made. */
async function failure(promise: Promise<unknown>): Promise<SdkError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(Error);
  return error as SdkError;
}

beforeAll(() => nock.disableNetConnect());
beforeEach(() => nock.enableNetConnect("127.0.0.1"));
afterEach(() => {
  const pending = nock.pendingMocks();
  nock.cleanAll();
  expect(pending).toEqual([]);
});

describe("a call", () => {
  test("sends JSON, headers and the query as given, and reads the answer by its schema", async () => {
    nock(origin, { reqheaders: { "x-auth-token": "t", "content-type": "application/json", accept: "text/x" } })
      .post("/v1/orders?a=1&b=%D0%B5", '{"name":"Айгүл"}')
      .reply(200, { total: 2, unknown: "kept out" });
    const answer = await createClient({ headers: { "X-Auth-Token": "t" } }).request({
      ...write,
      query: "a=1&b=%D0%B5",
      headers: { accept: "text/x" },
    });
    expect(answer).toEqual({ total: 2 });
  });

  test("sends forms and texts, with the caller's content type", async () => {
    nock(origin).post("/v1/form", "name=%D0%B5+%2B").reply(200, "{}");
    nock(origin, { reqheaders: { "content-type": "text/xml" } })
      .post("/v1/text", "<a/>")
      .reply(200, "{}");
    const { send } = createClient();
    await send({ name: "form", method: "POST", path: "/form", form: new URLSearchParams({ name: "е +" }) });
    await send({ name: "text", method: "POST", path: "/text", text: "<a/>", headers: { "content-type": "text/xml" } });
  });

  test("asks for its headers anew at each attempt", async () => {
    let serial = 0;
    nock(origin, { reqheaders: { authorization: "Bearer 1" } })
      .get("/v1/orders")
      .reply(503);
    nock(origin, { reqheaders: { authorization: "Bearer 2" } })
      .get("/v1/orders")
      .reply(200, { total: 1 });
    const client = createClient({ headers: async () => ({ authorization: `Bearer ${++serial}` }) });
    expect(await client.request(read)).toEqual({ total: 1 });
  });

  test.each([204, 205])("gives undefined for an answer %d, which has no body", async (status) => {
    nock(origin).get("/v1/orders").reply(status);
    expect(await createClient().request(read)).toBeUndefined();
  });
});

const plainRead: HttpCall = { name: "orders.list", path: "/orders" };
const plainWrite: HttpCall = { name: "orders.add", path: "/orders", method: "POST", json: {} };

/** [case, call, statuses in turn, error's outcome or undefined when it succeeds in the end] */
const retries: readonly (readonly [string, HttpCall, readonly number[], string | undefined])[] = [
  ["repeats a read after 502", plainRead, [502, 200], undefined],
  ["repeats a read at most three times", plainRead, [500, 502, 503, 504], "unknown"],
  ["does not repeat a write after 502: it may have run", plainWrite, [502], "unknown"],
  ["repeats a write that may run twice", { ...plainWrite, safe: true }, [502, 200], undefined],
  ["does not repeat a read that is said not to be safe", { ...plainRead, safe: false }, [502], "unknown"],
  ["repeats a write after 429: it did not run", plainWrite, [429, 200], undefined],
  ["does not repeat a refusal", plainRead, [400], "refused"],
  ["does not repeat a refusal of access", plainRead, [401], "refused"],
  ["does not follow a redirect", plainRead, [302], "refused"],
];

test.each(retries)("%s", async (_case, call, statuses, outcome) => {
  for (const status of statuses) {
    const method = call.method ?? "GET";
    nock(origin)
      .intercept("/v1/orders", method)
      .reply(status, { total: 1 }, status === 302 ? { location: "https://other.example/orders" } : {});
  }
  const sending = createClient().send(call);
  if (outcome === undefined) expect((await sending).status).toBe(200);
  else expect(await failure(sending)).toMatchObject({ name: "ApiError", outcome, status: statuses.at(-1) });
});

/** [case, call, attempts in turn: a status, a code of the network or "429", name and outcome of the error] */
const afterOpen: readonly (readonly [string, HttpCall, readonly (number | string)[], string, string])[] = [
  [
    "nobody listens",
    { ...plainWrite, method: "PUT", safe: true },
    ["ECONNRESET", "ECONNREFUSED"],
    "RequestError",
    "unknown",
  ],
  ["a refusal", { ...plainWrite, method: "PUT", safe: true }, ["ECONNRESET", 409], "ApiError", "unknown"],
  ["too many requests", { ...plainWrite, safe: true }, [502, 429], "ApiError", "unknown"],
  ["a block", { ...plainWrite, safe: true }, [502, 403], "BlockedError", "unknown"],
  [
    "no slot, because the store is down",
    { ...plainWrite, safe: true },
    [502, "store"],
    "RateLimitStoreError",
    "unknown",
  ],
  ["a refused read", plainRead, [502, 404], "ApiError", "refused"],
  ["a refused read by POST", { ...plainWrite, safe: "read" }, [502, 404], "ApiError", "refused"],
  ["a refusal after a pause that the vendor ordered", { ...plainWrite, safe: true }, [429, 409], "ApiError", "refused"],
];

test.each(afterOpen)("after an attempt that may have run, %s", async (_case, call, attempts, name, outcome) => {
  let sent = 0;
  let slots = 0;
  const client = createClient({
    retries: attempts.length - 1,
    limiter: {
      async slot() {
        if (attempts[slots++] === "store") throw new RateLimitStoreError("no store", { vendor: "vendor" });
      },
      penalize: async () => undefined,
      block: async () => undefined,
    },
    readRefusal: ({ status }) => (status === 403 ? { vendorCode: "403", outcome: "refused", block: true } : undefined),
    fetch: async () => {
      const answer = attempts[sent++];
      if (typeof answer === "number") return new Response("{}", { status: answer });
      throw new TypeError("fetch failed", { cause: Object.assign(new Error(answer), { code: answer }) });
    },
  });
  const error = await failure(client.send(call));
  expect(error).toMatchObject({ name, outcome });
  expect(slots).toBe(attempts.length);
  expect(error.message.endsWith("; an earlier attempt may have run")).toBe(outcome === "unknown");
});

test.each([
  ["a refusal", 409, "ApiError"],
  ["nobody listens", "ECONNREFUSED", "RequestError"],
  ["a block", 403, "BlockedError"],
] as const)("after an attempt that ran, and whose answer broke off, %s", async (_case, last, name) => {
  let sent = 0;
  const client = createClient({
    retries: 1,
    readRefusal: ({ status }) => (status === 403 ? { vendorCode: "403", outcome: "refused", block: true } : undefined),
    fetch: async () => {
      if (sent++ === 0) return new Response('{"ok":tr');
      if (typeof last === "number") return new Response("{}", { status: last });
      throw new TypeError("fetch failed", { cause: Object.assign(new Error(last), { code: last }) });
    },
  });
  const call = { ...plainWrite, method: "PUT", safe: true, schema: v.object({}) } as const;
  expect(await failure(client.request(call))).toMatchObject({ name, outcome: "unknown" });
  expect(sent).toBe(2);
});

test("an error that two calls share stays as it is for the one that was never sent", async () => {
  const shared = new NeedsReauthError("vendor");
  const asked: (() => void)[] = [];
  let isFirst = true;
  const client = createClient({
    retries: 1,
    headers: async () => {
      if (isFirst) {
        isFirst = false;
        return {};
      }
      return new Promise((_resolve, reject) => asked.push(() => reject(shared)));
    },
    fetch: async () => new Response("", { status: 502 }),
  });
  const opened = failure(client.send({ ...plainWrite, method: "PUT", safe: true }));
  await expect.poll(() => asked.length).toBe(1); // its second attempt
  const unsent = failure(client.send(plainWrite));
  await expect.poll(() => asked.length).toBe(2);
  for (const reject of asked) reject();
  const message = shared.message;
  expect(await unsent).toMatchObject({ outcome: "not-executed", message });
  const open = await opened;
  expect(open).toMatchObject({ outcome: "unknown", message: `${message}; an earlier attempt may have run` });
  expect(open).toBeInstanceOf(NeedsReauthError);
  expect(open.stack).toContain("an earlier attempt may have run");
});

describe("headers that cannot be given", () => {
  const failing = (error: Error) => {
    const counts = { asked: 0, slots: 0, sent: 0 };
    const client = createClient({
      limiter: {
        async slot() {
          counts.slots++;
        },
        penalize: async () => undefined,
        block: async () => undefined,
      },
      headers: async () => {
        counts.asked++;
        throw error;
      },
      fetch: async () => {
        counts.sent++;
        return new Response("{}");
      },
    });
    return { client, counts };
  };
  const refreshed = { vendor: "oauth", status: 502, outcome: "unknown" } as const;

  test.each([plainRead, plainWrite])(
    "take no slot, are not asked for again, and nothing was sent (%#)",
    async (call) => {
      for (const error of [new NeedsReauthError("vendor"), new ApiError("oauth: refresh answered 502", refreshed)]) {
        const { client, counts } = failing(error);
        const told = await failure(client.send(call));
        expect(told.outcome).toBe("not-executed");
        expect(told.message).toContain(error.message);
        expect(counts).toEqual({ asked: 1, slots: 0, sent: 0 });
      }
    },
  );

  test("are asked for again when the network failed, and the call was not sent whatever became of the refresh", async () => {
    const error = new RequestError("oauth: no answer", { vendor: "oauth", code: "timeout", outcome: "unknown" });
    const { client, counts } = failing(error);
    expect(await failure(client.send(plainWrite))).toMatchObject({ code: "timeout", outcome: "not-executed" });
    expect(counts).toEqual({ asked: 4, slots: 0, sent: 0 });
  });

  test("are told as they are when they are no error of ours", async () => {
    const error = new TypeError("undefined is not a token");
    const { client, counts } = failing(error);
    expect(await failure(client.send(plainRead))).toBe(error);
    expect(counts.asked).toBe(1);
  });
});

describe("an answer that is not understood", () => {
  test.each([
    ["HTML", "<!doctype html><h1>login</h1>", "with an HTML page"],
    ["truncated JSON", '{"total": 1', "with text that is not JSON (application/json)"],
    ["text", "oops", "with text that is not JSON (application/json)"],
    ["no bytes", "", "with an empty body"],
    ["another shape", '{"total":"hidden value"}', "unexpected shape at total"],
    ["a list", "[]", "unexpected shape at total"],
  ])("names the place of %s and not the value", async (_case, body, message) => {
    nock(origin).get("/v1/orders").reply(200, body, { "content-type": "application/json; charset=utf-8" });
    const error = await failure(createClient({ retries: 0 }).request(read));
    expect(error).toBeInstanceOf(ResponseShapeError);
    expect(error).toMatchObject({ outcome: "executed" });
    expect(error.message).toContain(message);
    expect(error.message).not.toContain("hidden value");
  });
});

describe("the vendor's own table", () => {
  test("judges an answer 200 that says no", async () => {
    nock(origin).get("/v1/orders").reply(200, '{"error":"QUERY_LIMIT_EXCEEDED"}');
    nock(origin).get("/v1/orders").reply(200, { total: 1 });
    const client = createClient({
      readRefusal: ({ text }) =>
        text.includes("LIMIT")
          ? { vendorCode: "QUERY_LIMIT_EXCEEDED", outcome: "not-executed", retry: true }
          : undefined,
    });
    expect(await client.request(read)).toEqual({ total: 1 });
  });

  test("gives its code with the error", async () => {
    nock(origin).get("/v1/orders").reply(400, "INVALID_FILTER");
    const client = createClient({ readRefusal: ({ text }) => ({ vendorCode: text, outcome: "refused" }) });
    const error = await failure(client.request(read));
    expect(error.message).toBe("vendor: orders.list answered 400 INVALID_FILTER");
    expect(error).toMatchObject({ vendorCode: "INVALID_FILTER", vendor: "vendor" });
  });

  test("tells of a block that could not be stored, and does not try again", async () => {
    nock(origin).get("/v1/orders").once().reply(403, "<h1>blocked</h1>");
    const said: string[] = [];
    const limiter: RateLimiter = {
      slot: async () => undefined,
      penalize: async () => undefined,
      block: () => Promise.reject(new Error("connection lost")),
    };
    const client = createClient({
      limiter,
      logger: { debug() {}, info() {}, warn() {}, error: (message) => said.push(message) },
      readRefusal: () => ({ vendorCode: "403", outcome: "refused", block: true }),
    });
    expect(await failure(client.request(read))).toBeInstanceOf(BlockedError);
    expect(said).toEqual(["vendor: the block could not be stored, so other calls are not stopped"]);
  });

  test("stores a block, after which nothing is sent until a person lifts it", async () => {
    nock(origin).get("/v1/orders").reply(403, "<h1>blocked</h1>");
    const clock = createFakeClock();
    const { rateLimits } = createMemoryStorage({ clock });
    const limiter = createLimiter(rateLimits, clock);
    const client = createClient({
      limiter,
      readRefusal: ({ status }) =>
        status === 403 ? { vendorCode: "403", outcome: "refused", block: true } : undefined,
    });
    const first = failure(client.request(read));
    await untilSleeping(clock, 1);
    clock.advance(143);
    expect(await first).toBeInstanceOf(BlockedError);
    const second = await failure(client.request(read));
    expect(second).toMatchObject({ name: "BlockedError", vendorCode: "403", outcome: "not-executed" });
    expect(second.message).toContain("unblock command");
  });
});

function createLimiter(store = createMemoryStorage().rateLimits, clock = createFakeClock()): RateLimiter {
  return createRateLimiter({ vendor: "vendor", account: "shop", budget: { intervalMs: 143 }, store, clock });
}

describe("the limiter", () => {
  const recording = () => {
    const events: string[] = [];
    const limiter: RateLimiter = {
      slot: async () => void events.push("slot"),
      penalize: async (pauseMs) => void events.push(`pause ${pauseMs}`),
      block: async (code) => void events.push(`block ${code}`),
    };
    return { events, limiter };
  };

  test("gives each attempt its own slot", async () => {
    const { events, limiter } = recording();
    nock(origin).get("/v1/orders").times(2).reply(500);
    nock(origin).get("/v1/orders").reply(200, { total: 1 });
    await createClient({ limiter }).request(read);
    expect(events).toEqual(["slot", "slot", "slot"]);
  });

  test("pauses the whole budget for as long as the vendor asked", async () => {
    const { events, limiter } = recording();
    nock(origin).get("/v1/orders").reply(429, "", { "retry-after": "7" });
    nock(origin).get("/v1/orders").reply(200, { total: 1 });
    await createClient({ limiter }).request(read);
    expect(events).toEqual(["slot", "pause 7000", "slot"]);
  });

  test.each([
    ["seconds", { status: 429, headers: { "retry-after": "20261126" } }],
    ["a date of a wrong clock", { status: 429, headers: { "retry-after": "Sun, 01 Nov 2126 00:01:00 GMT" } }],
    ["the vendor's own field", { status: 429, headers: { "x-pause": "9e9" } }],
  ])("pauses for an hour at most, and says so, when the vendor asks for years in %s", async (_case, first) => {
    const { events, limiter } = recording();
    const warnings: string[] = [];
    let sent = 0;
    const client = createClient({
      limiter,
      logger: { debug() {}, info() {}, warn: (message) => void warnings.push(message), error() {} },
      readRefusal: ({ headers }) =>
        headers.has("x-pause")
          ? { vendorCode: "slow", outcome: "not-executed", retry: true, retryAfterMs: Number(headers.get("x-pause")) }
          : undefined,
      fetch: async () => (sent++ === 0 ? new Response("{}", first) : new Response("{}")),
    });
    await client.send(plainRead);
    expect(events).toEqual(["slot", "pause 3600000", "slot"]);
    expect(warnings[0]).toMatch(/^vendor: orders.list asks for a pause of \d+ ms; it gets 3600000 ms$/);
  });

  test("pauses a little longer each time when the vendor does not say how long", async () => {
    const { events, limiter } = recording();
    nock(origin).get("/v1/orders").times(4).reply(429);
    await failure(createClient({ limiter, minDelayMs: 4, maxDelayMs: 5 }).request(read));
    expect(events.filter((event) => event !== "slot")).toEqual(["pause 4", "pause 8", "pause 16", "pause 32"]);
  });
});

test("without a limiter waits for as long as Retry-After says", async () => {
  nock(origin).get("/v1/orders").reply(503, "", { "retry-after": "20" });
  nock(origin).get("/v1/orders").reply(200, { total: 1 });
  const clock = createFakeClock();
  const asking = createClient({ clock, timeoutMs: 60_000 }).request(read);
  let answered = false;
  void asking.then(() => {
    answered = true;
  });
  while (clock.sleepers === 0) await settle();
  await settle();
  clock.advance(19_999);
  await settle();
  expect(answered).toBe(false);
  clock.advance(1);
  expect(await asking).toEqual({ total: 1 });
});

test.each([
  ["120", 120_000],
  [" 0 ", 0],
  ["Sun, 01 Nov 2026 00:01:00 GMT", 60_000], // IMF-fixdate
  ["Sunday, 01-Nov-26 00:01:00 GMT", 60_000], // RFC 850
  ["Sun Nov  1 00:01:00 2026", 60_000], // asctime
  ["Sat, 31 Oct 2026 00:00:00 GMT", 0],
  ["-5", undefined],
  ["1.5", undefined],
  ["soon", undefined],
  ["2026-11-01", undefined],
  ["", undefined],
  [null, undefined],
])("reads Retry-After %j as %j ms", (value, expected) => {
  expect(readRetryAfter(value, new Date("2026-11-01T00:00:00Z"))).toBe(expected);
});

describe("on a real connection", () => {
  async function serve(listener: RequestListener) {
    const server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const url = `http://127.0.0.1:${port}`;
    const close = async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    };
    return { url, close };
  }

  test("does not repeat a write whose answer never came", async () => {
    let requests = 0;
    const { url, close } = await serve((request) => {
      requests++;
      request.socket.destroy();
    });
    const error = await failure(createClient({ baseUrl: url }).request(write));
    expect(error).toMatchObject({ name: "RequestError", code: "network", outcome: "unknown" });
    expect(requests).toBe(1);
    await close();
  });

  test("repeats a write that found nobody listening: nothing was sent", async () => {
    const { url, close } = await serve(() => undefined);
    await close();
    let attempts = 0;
    const counting: typeof fetch = (...request) => {
      attempts++;
      return fetch(...request);
    };
    const error = await failure(createClient({ baseUrl: url, fetch: counting }).request(write));
    expect(error).toMatchObject({ code: "network", outcome: "not-executed" });
    expect(error.message).toBe("vendor: orders.add got no answer (ECONNREFUSED)");
    expect(attempts).toBe(4);
  });

  test("ends a slow body at the deadline, however steadily it drips", async () => {
    const { url, close } = await serve((_request, response) => {
      response.writeHead(200);
      const drip = setInterval(() => response.write(" "), 10);
      response.on("close", () => clearInterval(drip));
    });
    const error = await failure(createClient({ baseUrl: url, retries: 0 }).request({ ...read, timeoutMs: 100 }));
    expect(error).toMatchObject({ code: "timeout", outcome: "unknown" });
    await close();
  });

  test("stops reading an answer that is too large", async () => {
    let sent = 0;
    const { url, close } = await serve((_request, response) => {
      response.writeHead(200);
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536))) sent++;
        if (!response.destroyed) response.once("drain", more);
      };
      more();
    });
    const error = await failure(createClient({ baseUrl: url, maxResponseBytes: 100_000 }).request(read));
    expect(error).toMatchObject({ code: "too-large", outcome: "executed" });
    expect(sent).toBeLessThan(1000);
    await close();
  });

  test("takes a body that ends too early for no answer", async () => {
    const { url, close } = await serve((_request, response) => {
      response.writeHead(200, { "content-length": "100" });
      response.write('{"total":');
      setImmediate(() => response.destroy());
    });
    const error = await failure(createClient({ baseUrl: url, retries: 0 }).request(read));
    expect(error).toMatchObject({ name: "RequestError", code: "network", outcome: "unknown" });
    await close();
  });

  test.each([
    ["an HTML page", "text/html", "<html>502 Bad Gateway</html>"],
    ["half an answer", "application/json", '{"total":'],
    ["nothing, because the server died after the head", "application/json", ""],
  ])("repeats a read that was answered 200 with %s, and never a write", async (_case, type, page) => {
    const asked: (string | undefined)[] = [];
    const { url, close } = await serve((request, response) => {
      asked.push(request.method);
      const isFirst = asked.filter((method) => method === request.method).length === 1;
      response.writeHead(200, { "content-type": isFirst ? type : "application/json" });
      response.end(isFirst ? page : '{"total":7}');
    });
    const client = createClient({ baseUrl: url });
    expect(await client.request(read)).toEqual({ total: 7 });
    const error = await failure(client.request(write));
    expect(error).toMatchObject({ name: "ResponseShapeError", status: 200, outcome: "executed" });
    expect(asked).toEqual(["GET", "GET", "POST"]);
    await close();
  });

  test("does not repeat a read whose JSON has another shape: the next one would have it too", async () => {
    let asked = 0;
    const { url, close } = await serve((_request, response) => {
      asked++;
      response.end('{"sum":7}');
    });
    expect(await failure(createClient({ baseUrl: url }).request(read))).toMatchObject({ paths: ["total"] });
    expect(asked).toBe(1);
    await close();
  });

  test("stops at the caller's signal, in a request and between two", async () => {
    const { url, close } = await serve((request, response) => {
      if (request.url === "/busy") response.writeHead(503).end();
    });
    const stop = new AbortController();
    const { request } = createClient({ baseUrl: url, minDelayMs: 60_000, maxDelayMs: 60_000 });
    const hanging = failure(request({ ...read, signal: stop.signal }));
    const between = failure(request({ ...read, path: "/busy", signal: stop.signal }));
    await new Promise((resolve) => setTimeout(resolve, 50));
    stop.abort();
    expect(await hanging).toMatchObject({ code: "aborted", outcome: "unknown" });
    expect(await between).toMatchObject({ code: "aborted", outcome: "unknown" }); // a 503 may have run
    await close();
  });

  test("sends nothing when the signal was aborted before", async () => {
    let requests = 0;
    const client = createClient({
      fetch: fetchFrom(async () => {
        requests++;
        return new Response("{}");
      }),
    });
    const error = await failure(client.request({ ...read, signal: AbortSignal.abort() }));
    expect(error).toMatchObject({ code: "aborted", outcome: "not-executed" });
    expect(requests).toBe(0);
  });
});

test("keeps the address, the body, tokens and phones out of errors and logs", async () => {
  const lines: string[] = [];
  const log = (message: string, fields?: object) => void lines.push(`${message} ${JSON.stringify(fields)}`);
  const secrets = ["kfy3m5secret", "+77011234567", "vendor.example", "Bearer abc"];
  const client = createHttpClient({
    vendor: "vendor",
    baseUrl: "https://vendor.example/rest/1/kfy3m5secret",
    headers: { authorization: "Bearer abc" },
    minDelayMs: 1,
    logger: { debug: log, info: log, warn: log, error: log },
    fetch: async (input) => {
      throw new TypeError(`fetch failed for ${String(input)} with Bearer abc`, {
        cause: Object.assign(new Error(`connect ${String(input)}`), { code: "ECONNRESET" }),
      });
    },
  });
  const error = await failure(
    client.request({ ...read, query: "phone=%2B77011234567", json: { phone: "+77011234567" } }),
  );
  const shown = [error.message, error.stack, JSON.stringify(error), String(error.cause), ...lines].join("\n");
  for (const secret of secrets) expect(shown).not.toContain(secret);
  expect(error).toBeInstanceOf(RequestError);
  expect(lines.length).toBeGreaterThan(0);
});

test("refuses a base address that is none, without showing it", () => {
  expect(() => createClient({ baseUrl: "vendor.example/secret" })).toThrow(ConfigError);
  expect(() => createClient({ baseUrl: "vendor.example/secret" })).not.toThrow(/secret/);
});

test("ApiError is told apart also across two copies of the package", () => {
  const error = new ApiError("vendor: x answered 400", { vendor: "vendor", status: 400, outcome: "refused" });
  expect(ApiError.isInstance(error)).toBe(true);
  expect(ApiError.isInstance({ [Symbol.for("orderbridge.sdk-error")]: true })).toBe(true);
  expect(ApiError.isInstance(new Error("x"))).toBe(false);
});
