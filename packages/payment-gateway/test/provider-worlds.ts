import type { Clock } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import type { Payment, PaymentGatewayOptions, PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createKaspiQrProvider, type KaspiQrOptions } from "../src/providers/kaspi-qr.ts";
import {
  createKaspiSmartposProvider,
  type KaspiSmartposOptions,
  registerKaspiSmartpos,
} from "../src/providers/kaspi-smartpos.ts";
import type { GatewayStorage } from "../src/storage.ts";
import {
  createFakeKaspiQr,
  createFakeKaspiSmartpos,
  type FakeKaspiQr,
  type FakeKaspiQrReadings,
  type FakeKaspiSmartpos,
  type FakeKaspiSmartposReadings,
  type ProviderCaseContext,
} from "../src/testing/index.ts";
import { createWorld, passTime, type World } from "./gateway-harness.ts";

export type StorageFor = (clock: FakeClock) => Promise<GatewayStorage>;
const inMemory: StorageFor = async (clock) => createPaymentGatewayMemoryStorage({ clock });

/** Kaspi gives no id twice, also not to another test on the same database. */
let worlds = 0n;
const firstId = (): bigint => 9_007_199_254_740_993n + 1_000_000n * ++worlds;

/** The clock of a world that is opened later. */
function lateClock(): { readonly clock: Clock; bind(world: { readonly clock: Clock }): void } {
  let world: { readonly clock: Clock } | undefined;
  const now = () => (world as { readonly clock: Clock }).clock;
  return {
    clock: {
      now: () => now().now(),
      monotonicMs: () => now().monotonicMs(),
      sleep: (ms, signal) => now().sleep(ms, signal),
    },
    bind(bound) {
      world = bound;
    },
  };
}

/** The clock of somebody whose wall clock nobody sets: a vendor, or a database server. */
export function steadyClock({ now, monotonicMs, sleep }: Clock): Clock {
  const base = now().getTime() - monotonicMs();
  return { now: () => new Date(base + monotonicMs()), monotonicMs, sleep };
}

/** A button of the pay page. */
export const pressButton = (world: World, provider: string, id: string, fields: Readonly<Record<string, string>>) =>
  world.gateway.handle(
    new Request(`https://pay.example/providers/${provider}/${id}`, {
      method: "POST",
      body: new URLSearchParams(fields),
    }),
  );

/** A vendor that answers nothing, until the result is called. */
export function silence({ faults }: Pick<FakeKaspiQr, "faults">): () => void {
  faults.add({ fault: { kind: "htmlAnswer" }, times: 1_000_000 });
  return () => faults.clear();
}

export interface QrWorld {
  readonly world: World;
  readonly fake: FakeKaspiQr;
  readonly provider: PaymentProvider;
  readonly options: KaspiQrOptions;
  readonly context: ProviderCaseContext;
  /** The newest attempt of a payment at Kaspi. */
  remote(payment: Pick<Payment, "id">): FakeKaspiQr["payments"][number];
  /** Time passes step by step, and the engine works after each. */
  pass(ms: number, stepMs?: number): Promise<void>;
}

/** A gateway with the QR provider, and Kaspi's side. */
export async function openQr({
  scheme = "r3",
  readings = {},
  options = {},
  seconds = {},
  storageFor = inMemory,
  gateway: more = {},
}: {
  readonly gateway?: Partial<PaymentGatewayOptions>;
  readonly seconds?: NonNullable<Parameters<typeof createFakeKaspiQr>[0]["seconds"]>;
  readonly scheme?: KaspiQrOptions["scheme"];
  readonly readings?: FakeKaspiQrReadings;
  readonly options?: Partial<KaspiQrOptions>;
  readonly storageFor?: StorageFor;
} = {}): Promise<QrWorld> {
  const late = lateClock();
  const kaspi = lateClock();
  const certificate = "x-test-certificate";
  const fake = createFakeKaspiQr({
    scheme,
    readings,
    seconds,
    clock: kaspi.clock,
    apiKey: "test_0123456789",
    firstId: firstId(),
    hasCertificate: (request) => request.headers.get(certificate) === "shown",
  });
  const plain = fetchFrom(fake.handle);
  const all: KaspiQrOptions = {
    scheme,
    origin: "https://kaspi.test:8545",
    deviceId: "till-1",
    tradePointId: "1001",
    clock: late.clock,
    minDelayMs: 1,
    ...(scheme === "r1" ? { apiKey: "test_0123456789" } : {}),
    ...(scheme === "r3" ? { organizationBin: "123456789012" } : {}),
    // Only this one shows the client certificate.
    fetch: (input, init) => {
      const headers = new Headers(init?.headers);
      headers.set(certificate, "shown");
      return plain(input, { ...init, headers });
    },
    ...options,
  };
  const provider = createKaspiQrProvider(all);
  const world = await createWorld(storageFor, { providers: [provider], ...more });
  late.bind(world);
  kaspi.bind({ clock: steadyClock(world.clock) });
  const { gateway } = world;
  const press = (payment: Pick<Payment, "id">) => pressButton(world, "kaspi-qr", payment.id, { action: "pay" });
  const attemptsOf = (payment: Pick<Payment, "id">) =>
    fake.payments.filter(({ externalId }) => externalId === payment.id);
  const remote = (payment: Pick<Payment, "id">) => {
    const found = attemptsOf(payment).at(-1);
    if (!found) throw new Error("Kaspi knows no attempt of this payment");
    return found;
  };
  const pass = (ms: number, stepMs = ms): Promise<void> => passTime(world, ms, stepMs);
  return {
    world,
    fake,
    provider,
    options: all,
    remote,
    pass,
    context: {
      gateway,
      provider,
      merchant: "shop",
      begin: press,
      begunAtProvider: (payment) => attemptsOf(payment).length,
      pass: (ms) => passTime(world, ms),
      async payUntold(payment) {
        if (attemptsOf(payment).length === 0) await press(payment);
        fake.pay(remote(payment).id);
      },
      silence: () => silence(fake),
      async pay(payment) {
        if (attemptsOf(payment).length === 0) await press(payment);
        fake.pay(remote(payment).id);
        await pass(5_000);
        return new Response("polled");
      },
      async repeat() {
        await pass(5_000);
        return new Response("polled");
      },
      async settleRefunds() {
        for (let round = 0; round < 8; round++) {
          await pass(61_000);
          fake.scanReturns();
        }
      },
      refundedAtProvider: (payment) => attemptsOf(payment).reduce((sum, { returnedMinor }) => sum + returnedMinor, 0n),
      loseRefundReply: () =>
        fake.faults.add({
          fault: { kind: "dropReplyAfterExecuting" },
          match: ({ url }) => url.endsWith("/payment/return"),
        }),
    },
  };
}

export interface SmartposWorld {
  readonly world: World;
  readonly fake: FakeKaspiSmartpos;
  readonly provider: PaymentProvider;
  readonly options: KaspiSmartposOptions;
  readonly context: ProviderCaseContext;
  pass(ms: number, stepMs?: number): Promise<void>;
}

/** A gateway with a terminal, which is registered. */
export async function openSmartpos({
  readings = {},
  options: more = {},
  storageFor = inMemory,
  method = "qr",
  registered = true,
  gateway: gatewayOptions = {},
}: {
  readonly gateway?: Partial<PaymentGatewayOptions>;
  readonly readings?: FakeKaspiSmartposReadings;
  readonly options?: Partial<KaspiSmartposOptions>;
  readonly storageFor?: StorageFor;
  readonly method?: "qr" | "card" | "alaqan";
  readonly registered?: boolean;
} = {}): Promise<SmartposWorld> {
  const late = lateClock();
  const fake = createFakeKaspiSmartpos({ readings, clock: late.clock, firstId: firstId() });
  const options: KaspiSmartposOptions = {
    origin: "https://till-1.kaspipos.kz:8080",
    name: "orderbridge",
    storage: createMemoryStorage({ clock: late.clock }),
    clock: late.clock,
    fetch: fetchFrom(fake.handle),
    ...more,
  };
  const provider = createKaspiSmartposProvider(options);
  const world = await createWorld(storageFor, { providers: [provider], ...gatewayOptions });
  late.bind(world);
  if (registered) await registerKaspiSmartpos(options);
  const { gateway } = world;
  const press = (payment: Pick<Payment, "id">) => pressButton(world, "kaspi-smartpos", payment.id, { action: "pay" });
  const begun = new Set<string>();
  const begin = async (payment: Pick<Payment, "id">): Promise<Response> => {
    begun.add(payment.id);
    return press(payment);
  };
  const pass = (ms: number, stepMs = ms): Promise<void> => passTime(world, ms, stepMs);
  return {
    world,
    fake,
    provider,
    options,
    pass,
    context: {
      gateway,
      provider,
      merchant: "shop",
      begin,
      begunAtProvider: () => fake.journal.count("GET /v2/payment?"),
      neverLate: true,
      pass: (ms) => passTime(world, ms),
      async payUntold(payment) {
        await begin(payment);
        fake.confirm({ method });
      },
      silence: () => silence(fake),
      async pay(payment) {
        if (!begun.has(payment.id)) await begin(payment);
        fake.confirm({ method });
        await pass(1_000);
        return new Response("polled");
      },
      async repeat() {
        await pass(1_000);
        return new Response("polled");
      },
      async settleRefunds() {
        for (let round = 0; round < 4; round++) {
          await pass(31_000);
          if (fake.current?.kind === "refund") fake.confirm();
        }
      },
      refundedAtProvider: () => fake.transactions.reduce((sum, { refunded }) => sum + refunded * 100n, 0n),
      loseRefundReply: () =>
        fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.includes("/v2/refund") }),
    },
  };
}
