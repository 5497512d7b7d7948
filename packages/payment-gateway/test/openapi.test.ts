import { validate } from "@readme/openapi-parser";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { createApi } from "../src/http/api.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { type Documented, readDocument } from "./documented.ts";
import { callApi, createWorld, shopSecret, type World } from "./gateway-harness.ts";
import { edgesOf, neighboursOf, valuesOf } from "./json-schema-arbitrary.ts";

const isProof = process.env.PROOF === "1";
const numRuns = isProof ? 1_000 : 60;
vi.setConfig({ testTimeout: isProof ? 600_000 : 60_000 });
const seed = 20_261_126;

let world: World;
let documented: Documented;
// biome-ignore lint/suspicious/noExplicitAny: a JSON document that is walked freely
let document: any;
let admin: Readonly<Record<string, string>>;
beforeAll(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
  documented = readDocument((await world.api("GET", "/openapi.json")).text);
  document = documented.document;
  const { token } = await world.gateway.tokens.create({ merchant: "shop", scopes: ["admin"] });
  admin = { "x-api-token": token };
});
afterAll(() => world.close());

describe("the document", () => {
  test("is OpenAPI 3.1 by another project's validator, which notices a mistake", async () => {
    expect(document.openapi).toMatch(/^3\.1\./);
    expect(await validate(structuredClone(document))).toMatchObject({ valid: true, warnings: [] });
    const broken = structuredClone(document);
    broken.paths["/api/payments"].get.parameters[0].in = "nowhere";
    expect(await validate(broken)).toMatchObject({ valid: false });
  });

  test("has no component that nothing refers to, and every reference leads somewhere", () => {
    const text = JSON.stringify(document);
    const references = new Set([...text.matchAll(/"#(\/components\/[^"]+)"/g)].map(([, path]) => path as string));
    const there = ["schemas", "responses"].flatMap((kind) =>
      Object.keys(document.components[kind]).map((name) => `/components/${kind}/${name}`),
    );
    expect([...references].sort()).toEqual(there.sort());
  });

  test("has patterns that every language can read", () => {
    const patterns = [...JSON.stringify(document).matchAll(/"pattern":("(?:[^"\\]|\\.)*")/g)].map(
      ([, text]) => JSON.parse(text as string) as string,
    );
    expect(patterns.length).toBeGreaterThan(10);
    for (const pattern of patterns) {
      // No look-around, back references or classes of Unicode; the same with and without the flag.
      expect(pattern).not.toMatch(/\(\?[^:]|\\[pPkdDwWsS1-9]/);
      for (const flags of ["", "u"]) expect(() => new RegExp(pattern, flags)).not.toThrow();
    }
  });

  test("names every route of the API, and no other", async () => {
    // Only registered here, never called.
    const { routes } = createApi({} as Parameters<typeof createApi>[0]);
    const there = routes
      .filter(({ method }) => method !== "ALL")
      .map(({ method, path }) => `${method} /api${path.replace(":id", "{id}")}`);
    const named = Object.entries<object>(document.paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(named.sort()).toEqual([...new Set(there)].sort());
  });

  test("and other methods are answered with 405 and those that there are", async () => {
    for (const path of Object.keys(document.paths)) {
      const refused = await world.api("OPTIONS", path.replace("{id}", "unknown"), undefined, admin);
      const allowed = (refused.headers.get("allow") ?? "").toLowerCase().split(", ").sort();
      expect([refused.status, allowed], path).toEqual([405, Object.keys(document.paths[path]).sort()]);
    }
  });

  test("tells the defaults of this very gateway", async () => {
    const other = world.another({ defaultCurrency: "RUB", lifeMs: 1_800_000 });
    const { body } = await callApi(other.handle, "GET", "/openapi.json");
    const { currency, expires_in, provider } = body.components.schemas.InitRequest.properties;
    expect([currency.default, expires_in.default, provider.enum]).toEqual(["RUB", 1_800, ["sandbox"]]);
    const init = await callApi(other.handle, "POST", "/api/payment/init", { amount: 1 });
    const { currency: used, expires_at } = init.body.data;
    expect([used, Date.parse(expires_at) - world.clock.now().getTime()]).toEqual(["RUB", 1_800_000]);
  });

  test("refuses every route without a token, with a documented problem", async () => {
    for (const [path, operations] of Object.entries<object>(document.paths)) {
      for (const method of Object.keys(operations)) {
        const refused = await world.api(method.toUpperCase(), path.replace("{id}", "unknown"), undefined, {
          "x-api-token": "no",
        });
        expect([refused.status, refused.body.code], `${method} ${path}`).toEqual([401, "unauthorized"]);
      }
    }
  });
});

test("each event has a webhook in the document; real ones have exactly its fields", async () => {
  const init = await world.api("POST", "/api/payment/init", {
    amount: 100,
    webhook_url: world.receiverUrl,
    webhook_secret: shopSecret,
  });
  const id = init.body.data.transaction_id;
  await world.press(id, "pay_part", "40");
  await world.press(id, "pay");
  await world.api("POST", `/api/payment/${id}/refund`, { amount: 1 });
  const cancelled = await world.api("POST", "/api/payment/init", { amount: 1 });
  await world.api("POST", `/api/payment/${cancelled.body.data.transaction_id}/cancel`);
  await world.api("POST", "/api/payment/init", { amount: 1, expires_in: 60 });
  world.clock.advance(120_000);
  await world.gateway.work();
  // Reading them holds each one against the document.
  const { events } = (await world.api("GET", "/api/events")).body.data;
  const names = new Set(events.map(({ event }: { event: string }) => event));
  expect(names).toEqual(new Set(Object.keys(document.webhooks)));
  for (const event of events) {
    const { schema } = document.webhooks[event.event].post.requestBody.content["application/json"];
    expect(documented.component(schema.$ref.split("/").at(-1))(event)).toBe(true);
    expect(documented.component("Webhook_paid")(event)).toBe(event.event === "paid");
  }
  const received = world.receiver.accepted.map(({ headers }) => headers["x-webhook-event"]);
  expect(received).toEqual(["partially_paid", "paid", "refunded"]);
});

/** Limits that JSON Schema cannot say; the description of the field does. */
const onlyDescribed =
  /levels deep|bytes as JSON|two decimals|without sign or exponent|names an address|must start with|must be an http\(s\) address|base64 after whsec_|must not begin with enc1\./;

describe("requests: the document and the API judge alike", () => {
  /** Sends a body; 409 is an answer to a request that is understood. */
  const routes = {
    InitRequest: async (body: object) => world.api("POST", "/api/payment/init", body),
    RefundRequest: async (body: object) => {
      const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
      await world.press(payment.id, "pay");
      return world.api("POST", `/api/payment/${payment.id}/refund`, body);
    },
    EndpointRequest: async (body: object) => {
      const answer = await world.api("POST", "/api/webhook-endpoints", body, admin);
      if (answer.status === 200) await world.gateway.endpoints.remove("shop", answer.body.data.id);
      return answer;
    },
    RotateRequest: async (body: object) => {
      const { endpoint } = await world.gateway.endpoints.add({ merchant: "shop", url: "https://shop.example/" });
      const answer = await world.api("POST", `/api/webhook-endpoints/${endpoint.id}/rotate`, body, admin);
      await world.gateway.endpoints.remove("shop", endpoint.id);
      return answer;
    },
  } as const;

  test("a merchant's own secret is replaced by the same request as an endpoint's", () => {
    const bodies = ["/api/webhook-endpoints/{id}/rotate", "/api/webhook-secret/rotate"].map(
      (path) => document.paths[path].post.requestBody,
    );
    expect(bodies[1]).toEqual(bodies[0]);
  });

  test("each request of the document is tried here", () => {
    const bodies = Object.values<object>(document.paths)
      .flatMap((operations) => Object.values(operations))
      .flatMap(({ requestBody }) => (requestBody ? [requestBody.content["application/json"].schema.$ref] : []));
    expect([...new Set(bodies)].map((reference) => reference.split("/").at(-1)).sort()).toEqual(
      Object.keys(routes).sort(),
    );
  });

  test.each(Object.entries(routes))("%s: what fits the document is taken", async (name, send) => {
    const schema = document.components.schemas[name];
    await fc.assert(
      fc.asyncProperty(valuesOf(schema), async (body) => {
        expect(documented.component(name)(body)).toBe(true);
        const { status, body: answer } = await send(body as object);
        if (status === 400) expect(answer.detail).toMatch(onlyDescribed);
        else expect(name === "RefundRequest" ? [200, 409] : [200]).toContain(status);
      }),
      { numRuns, seed },
    );
  });

  /** Sends it; the document and the API must agree. Resolves to whether it was wrong. */
  async function judge(name: keyof typeof routes, sent: object, field: string): Promise<boolean> {
    const { status, body } = await routes[name](sent);
    const value = (sent as Readonly<Record<string, unknown>>)[field];
    // Half of a character is no text, which a schema need not say.
    const isText = typeof value !== "string" || value.isWellFormed();
    if (!documented.component(name)(sent) || !isText) {
      const what = `${name} ${JSON.stringify(sent).slice(0, 300)}`;
      expect([status, body.errors?.[0].pointer], what).toEqual([400, `#/${field}`]);
      return true;
    }
    if (status === 400) expect(body.detail).toMatch(onlyDescribed);
    else expect([200, 409]).toContain(status);
    return false;
  }
  const names = Object.keys(routes) as (keyof typeof routes)[];

  test.each(names)("%s: at each limit and one step beyond", async (name) => {
    const { properties, required } = document.components.schemas[name];
    const least = Object.fromEntries(
      required.map((field: string) => [field, field === "url" ? "https://shop.example/" : 1]),
    );
    for (const [field, schema] of Object.entries(properties)) {
      const wrong: boolean[] = [];
      for (const value of edgesOf(schema)) wrong.push(await judge(name, { ...least, [field]: value }, field));
      expect(new Set(wrong), field).toEqual(new Set([true, false]));
    }
    for (const field of required) expect(await judge(name, {}, field)).toBe(true);
  });

  test.each(names)("%s: with any field replaced by anything", async (name) => {
    const schema = document.components.schemas[name];
    const change = fc.oneof(
      {
        weight: 8,
        arbitrary: fc
          .constantFrom(...Object.keys(schema.properties))
          .chain((field) => fc.tuple(fc.constant(field), neighboursOf(schema.properties[field]))),
      },
      { weight: 1, arbitrary: fc.tuple(fc.constant("unknown_field"), fc.jsonValue({ maxDepth: 1 })) },
    );
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(valuesOf(schema), change, async (body, [field, value]) => {
        if (await judge(name, { ...(body as object), [field]: value }, field)) refused++;
      }),
      { numRuns, seed },
    );
    expect(refused).toBeGreaterThan(numRuns / 4);
  });
});

describe("parameters: the document and the API judge alike", () => {
  const parametersOf = (path: string, method: string, place: string) =>
    document.paths[path][method].parameters.filter((parameter: { in: string }) => parameter.in === place);

  test.each(["/api/payments", "/api/events"])("of GET %s", async (path) => {
    const parameters = parametersOf(path, "get", "query");
    expect(parameters.length).toBeGreaterThan(0);
    for (const { name, schema } of parameters) {
      const isValid = documented.compile(schema);
      const values = fc.oneof(valuesOf(schema), neighboursOf(schema)).filter((value) => typeof value !== "object");
      const seen = { taken: 0, refused: 0 };
      await fc.assert(
        fc.asyncProperty(values, async (value: unknown) => {
          // A query carries text; numbers are written into it.
          const text = String(value);
          fc.pre(text.isWellFormed());
          const { status, body } = await world.api("GET", `${path}?${new URLSearchParams({ [name]: text })}`);
          const wanted = schema.type === "integer" && /^[1-9]\d*$/.test(text) ? Number(text) : text;
          if (isValid(wanted)) {
            seen.taken++;
            expect(status, text).toBe(200);
          } else {
            seen.refused++;
            expect([status, body.errors[0].pointer], text).toEqual([400, `#/${name}`]);
          }
        }),
        { numRuns, seed },
      );
      expect(Math.min(seen.taken, seen.refused), name).toBeGreaterThan(0);
    }
  });

  test("of the Idempotency-Key, bare and in quotes", async () => {
    const [{ name, schema }] = parametersOf("/api/payment/init", "post", "header");
    const isValid = documented.compile(schema);
    const send = (key: string) => world.api("POST", "/api/payment/init", { amount: 1 }, { [name]: key });
    await fc.assert(
      fc.asyncProperty(valuesOf(schema) as fc.Arbitrary<string>, async (key) => {
        fc.pre(!key.includes('"'));
        const [bare, quoted] = [await send(key), await send(`"${key}"`)];
        expect([bare.status, quoted.text]).toEqual([200, bare.text]);
      }),
      { numRuns: 50, seed },
    );
    for (const key of ["a b", "x".repeat(129), "é"]) {
      expect(isValid(key)).toBe(false);
      const { status, body } = await send(key);
      expect([status, body.errors[0].pointer]).toEqual([400, "#/Idempotency-Key"]);
    }
  });
});
