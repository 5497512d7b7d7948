import { afterAll, beforeAll, expect, test } from "vitest";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { endpointRequest, initRequest, refundRequest, rotateRequest } from "../src/schemas.ts";
import { callApi, createWorld, type World } from "./gateway-harness.ts";

let world: World;
// biome-ignore lint/suspicious/noExplicitAny: a JSON document that is walked freely
let document: any;
beforeAll(async () => {
  world = await createWorld(async (clock) => createPaymentGatewayMemoryStorage({ clock }));
  document = (await world.api("GET", "/openapi.json")).body;
});
afterAll(() => world.close());

/** Every field is documented, and no required one is missing. */
function expectShape(value: object, name: string): void {
  const { properties, required } = document.components.schemas[name];
  expect(Object.keys(properties)).toEqual(expect.arrayContaining(Object.keys(value)));
  expect(Object.keys(value)).toEqual(expect.arrayContaining(required));
}

test("every reference leads somewhere", () => {
  const text = JSON.stringify(document);
  const references = [...text.matchAll(/"(#\/components\/[^"]+)"/g)].map(([, path]) => path as string);
  expect(references.length).toBeGreaterThan(20);
  for (const path of references) {
    const target = path
      .slice(2)
      .split("/")
      .reduce((node, key) => node?.[key], document);
    expect(target, path).toBeDefined();
  }
});

test("the documented requests are those that the schemas take", () => {
  const { InitRequest, RefundRequest, EndpointRequest, RotateRequest } = document.components.schemas;
  expect(Object.keys(EndpointRequest.properties)).toEqual(Object.keys(endpointRequest.entries));
  expect(Object.keys(RotateRequest.properties)).toEqual(Object.keys(rotateRequest.entries));
  expect(Object.keys(InitRequest.properties)).toEqual(Object.keys(initRequest.entries));
  expect(Object.keys(RefundRequest.properties)).toEqual(Object.keys(refundRequest.entries));
  const required = Object.entries(initRequest.entries).filter(([, entry]) => !("wrapped" in entry));
  expect(InitRequest.required).toEqual(required.map(([name]) => name));
});

test("answers and webhooks have the documented fields", async () => {
  const init = await world.api("POST", "/api/payment/init", { amount: 100, webhook_url: world.receiverUrl });
  expectShape(init.body.data, "Created");
  const id = init.body.data.transaction_id;
  expectShape((await world.api("GET", `/api/payment/${id}`)).body.data, "Payment");
  await world.press(id, "pay_part", "40");
  await world.press(id, "pay");
  const { refund, ...payment } = (await world.api("POST", `/api/payment/${id}/refund`, { amount: 1 })).body.data;
  expectShape(payment, "Payment");
  expectShape(refund, "Refund");
  const cancelled = await world.api("POST", "/api/payment/init", { amount: 1 });
  await world.api("POST", `/api/payment/${cancelled.body.data.transaction_id}/cancel`);
  await world.api("POST", "/api/payment/init", { amount: 1, expires_in: 60 });
  world.clock.advance(120_000);
  await world.gateway.work();
  const { events } = (await world.api("GET", "/api/events")).body.data;
  const admin = { "x-api-token": (await world.gateway.tokens.create({ merchant: "shop", scopes: ["admin"] })).token };
  const added = await world.api("POST", "/api/webhook-endpoints", { url: world.receiverUrl }, admin);
  const { secret, ...endpoint } = added.body.data;
  expect(secret).toMatch(/^whsec_/);
  expectShape(endpoint, "Endpoint");
  for (const event of events) expectShape(event, `Webhook_${event.event}`);
  expect(new Set(events.map(({ event }: { event: string }) => event))).toEqual(new Set(Object.keys(document.webhooks)));
});

test("every documented path answers to its method, with documented statuses", async () => {
  for (const [path, operations] of Object.entries<object>(document.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const address = path.replace("{id}", "unknown");
      const answer = await world.api(method.toUpperCase(), address, method === "post" ? {} : undefined);
      expect(Object.keys(operation.responses), `${method} ${path}`).toContain(String(answer.status));
      const refused = await callApi(world.gateway.handle, method.toUpperCase(), address, undefined, {
        "x-api-token": "no",
      });
      expect(refused.status).toBe(401);
      expectShape(refused.body, "Problem");
    }
  }
});
