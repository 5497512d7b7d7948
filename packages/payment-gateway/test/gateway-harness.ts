import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { createFakeClock, type FakeClock, type Listening, listen } from "@orderbridge/core/testing";
import { createPaymentGateway, type PaymentGateway, type PaymentGatewayOptions } from "../src/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import type { GatewayStorage } from "../src/storage.ts";
import { createFakeReceiver, type FakeReceiver } from "../src/testing/index.ts";
import { type Documented, readDocument } from "./documented.ts";

const shopToken = "shop-token-0123456789abcdef";
export const otherToken = "other-token-0123456789abcdef";
export const shopSecret = "test_secret_key";

export interface World {
  readonly clock: FakeClock;
  readonly gateway: PaymentGateway;
  readonly storage: GatewayStorage;
  readonly receiver: FakeReceiver;
  readonly receiverUrl: string;
  /** A further process on the same storage. */
  another(options?: Partial<PaymentGatewayOptions>): PaymentGateway;
  api(method: string, path: string, body?: unknown, headers?: Readonly<Record<string, string>>): Promise<Answer>;
  /** The sandbox's buttons. */
  press(id: string, action: string, amount?: string): Promise<Response>;
  close(): Promise<void>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers field by field
  readonly body: any;
}

/** A gateway on fake time, and a merchant's endpoint on the loopback interface. */
export async function createWorld(
  storageFor: (clock: FakeClock) => Promise<GatewayStorage>,
  options: Partial<PaymentGatewayOptions> = {},
): Promise<World> {
  const clock = createFakeClock();
  const storage = await storageFor(clock);
  const receiver = createFakeReceiver({ secrets: [shopSecret], now: () => clock.now().getTime() });
  const listening: Listening = await listen(receiver.handle);
  const gateways: PaymentGateway[] = [];
  const another = (more: Partial<PaymentGatewayOptions> = {}): PaymentGateway => {
    const gateway = createPaymentGateway({
      storage,
      providers: [createSandboxProvider()],
      publicUrl: "https://pay.example",
      tokens: [
        { merchant: "shop", token: shopToken },
        { merchant: "other", token: otherToken },
      ],
      webhooks: { allowAddresses: ["127.0.0.1"] },
      clock,
      logger: silentLogger,
      random: () => 0.5, // no jitter
      ...options,
      ...more,
    });
    gateways.push(gateway);
    return gateway;
  };
  const gateway = another();
  return {
    clock,
    gateway,
    storage,
    receiver,
    receiverUrl: `${listening.url}/hook`,
    another,
    api: (method, path, body, headers) => callApi(gateway.handle, method, path, body, headers),
    press: (id, action, amount) =>
      gateway.handle(
        new Request(`https://pay.example/providers/sandbox/${id}`, {
          method: "POST",
          body: new URLSearchParams(amount === undefined ? { action } : { action, amount }),
        }),
      ),
    async close() {
      await Promise.all(gateways.map((one) => one.close()));
      await listening.close();
    },
  };
}

/** Time passes in steps, and the engine works after each. */
export async function passTime(
  { clock, gateway }: World,
  ms: number,
  stepMs = Math.max(Math.min(ms, 5_000), ms / 30),
): Promise<void> {
  for (let passed = 0; passed < ms; passed += stepMs) {
    clock.advance(stepMs);
    await gateway.work();
  }
}

const documents = new WeakMap<FetchHandler, Documented>();

/** A text body goes out as it is, anything else as JSON. Every answer of the API is held against its own document. */
export async function callApi(
  handle: FetchHandler,
  method: string,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  const response = await handle(
    new Request(`https://pay.example${path}`, {
      method,
      headers: { "x-api-token": shopToken, "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    }),
  );
  const text = await response.text();
  const { status, headers: answered } = response;
  const type = answered.get("content-type") ?? "";
  const parsed = /json/.test(type) ? JSON.parse(text) : undefined;
  if (path.startsWith("/api/")) {
    const documented =
      documents.get(handle) ??
      readDocument(await (await handle(new Request("https://pay.example/openapi.json"))).text());
    documents.set(handle, documented);
    documented.expectAnswer(method, path, status, type, parsed);
  }
  return { status, headers: answered, text, body: parsed };
}
