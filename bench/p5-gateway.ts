import { type ChildProcess, fork } from "node:child_process";
import { Agent, request as httpRequest } from "node:http";
import { join } from "node:path";
import { silentLogger, systemClock } from "@orderbridge/core";
import { type Database, openDatabase } from "@orderbridge/core/kysely";
import { createWebhookSigner, signHmac } from "@orderbridge/core/signature";
import {
  createPaymentGateway,
  type NewPayment,
  type Payment,
  type PaymentGateway,
  type PaymentGatewayOptions,
  type PaymentProvider,
} from "@orderbridge/payment-gateway";
import { createPaymentGatewayStorage } from "@orderbridge/payment-gateway/kysely";
import { type RawBuilder, sql } from "kysely";
import { findServices, serviceAddresses } from "../scripts/services.ts";
import type { BenchResult, Target } from "./harness.ts";

const rounds = 5;
const deliveryRounds = 9;
const parallel = 16;
const secret = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";

const sorted = (values: readonly number[]): number[] => [...values].sort((left, right) => left - right);
const median = (values: readonly number[]): number => sorted(values)[values.length >> 1] ?? Number.NaN;
const percentile = (values: readonly number[], part: number): number =>
  sorted(values)[Math.min(values.length - 1, Math.floor(values.length * part))] ?? Number.NaN;
const wallMs = (): number => performance.timeOrigin + performance.now();
const ms = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

/** Runs `work` for 0, 1, 2, … with so many under way; resolves to how many were done per second. */
async function perSecond(total: number, limit: number, work: (index: number) => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: limit }, async () => {
      while (next < total) await work(next++);
    }),
  );
  return total / ((performance.now() - startedAt) / 1000);
}

class Receiver {
  readonly url: string;
  readonly #child: ChildProcess;
  constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.url = `http://127.0.0.1:${port}`;
  }
  static async start(): Promise<Receiver> {
    const child = fork(join(import.meta.dirname, "p5-receiver.ts"));
    const { port } = await Receiver.#answer<{ port: number }>(child);
    return new Receiver(child, port);
  }
  static #answer<Answer>(child: ChildProcess): Promise<Answer> {
    return new Promise((resolve) => child.once("message", (message) => resolve(message as Answer)));
  }
  async count(): Promise<number> {
    const answer = Receiver.#answer<{ count: number }>(this.#child);
    this.#child.send("count");
    return (await answer).count;
  }
  async until(count: number): Promise<void> {
    while ((await this.count()) < count) await systemClock.sleep(20);
  }
  /** When each event came; forgets them. */
  async take(): Promise<ReadonlyMap<string, number>> {
    const answer = Receiver.#answer<{ arrivals: Record<string, number> }>(this.#child);
    this.#child.send("take");
    return new Map(Object.entries((await answer).arrivals));
  }
  stop(): void {
    this.#child.kill("SIGKILL");
  }
}

/** A provider that the bench plays: `transfers` is what it would say when asked. */
function createProvider(transfers: ReadonlySet<string>, askAfterMs?: number): PaymentProvider {
  const again = askAfterMs === undefined ? {} : { askAgainMs: askAfterMs };
  return {
    name: "bench",
    currencies: { KZT: { stepMinor: 1n } },
    payerStep: () => ({ kind: "account", account: "" }),
    ...(askAfterMs === undefined
      ? {}
      : {
          async start() {
            return { askAfterMs };
          },
          async state({ id }: Payment) {
            return transfers.has(id)
              ? { state: "paid", money: { transactionId: id, amountMinor: 50_000n, currency: "KZT" } }
              : { state: "waiting", ...again };
          },
        }),
    async callback({ body, context }) {
      const id = new TextDecoder().decode(body);
      const { state } = await context.book(id, { transactionId: id, amountMinor: 50_000n, currency: "KZT" });
      return Response.json({ state });
    },
  };
}

interface World {
  readonly database: Database;
  readonly receiver: Receiver;
}

const storageOf = ({ database }: World) => createPaymentGatewayStorage(database);

function createGateway(world: World, provider: PaymentProvider, options: Partial<PaymentGatewayOptions> = {}) {
  return createPaymentGateway({
    storage: storageOf(world),
    providers: [provider],
    publicUrl: "https://pay.example",
    webhooks: { allowAddresses: ["127.0.0.1"] },
    concurrencyPerReceiver: 512, // one receiver stands for many
    logger: silentLogger,
    ...options,
  });
}

const create = (gateway: PaymentGateway, world: World, key?: string, path = "/hook") =>
  gateway.payments.create({
    merchant: "shop",
    amountMinor: 50_000n,
    description: "Чайник «Ақ» 1,7 л",
    webhookUrl: `${world.receiver.url}${path}`,
    webhookSecret: secret,
    metadata: '{"order_id":"A-17","user_id":"12345"}',
    ...(key === undefined ? {} : { idempotency: { key, fingerprint: "f" } }),
  });

const book = (gateway: PaymentGateway, id: string): Promise<Response> =>
  gateway.handle(new Request("https://pay.example/providers/bench/", { method: "POST", body: id }));

async function empty({ database }: World): Promise<void> {
  const tables = ["payment", "booking", "event", "delivery", "delivery_attempt", "refund", "idempotency", "receiver"];
  for (const table of tables) await sql`truncate ${sql.table(`gateway_${table}`)}`.execute(database.db);
}

/** Payments with their idempotency keys, against a transaction that inserts two rows of the same size. */
async function creation(world: World): Promise<{ readonly rows: readonly string[][]; readonly target: Target }> {
  const { db } = world.database;
  await sql`create table if not exists bench_a (id varchar(191) primary key, payload text)`.execute(db);
  await sql`create table if not exists bench_b (id varchar(191) primary key, payload text)`.execute(db);
  const gateway = createGateway(world, createProvider(new Set()));
  const ours: number[] = [];
  const bare: number[] = [];
  const total = 600;
  const payload = "x".repeat(400);
  for (let round = 0; round <= rounds; round++) {
    const floor = await perSecond(total, parallel, (index) =>
      db.transaction().execute(async (trx) => {
        const id = `${round}-${index}`;
        await trx.insertInto("bench_a").values({ id, payload }).execute();
        await trx
          .insertInto("bench_b")
          .values({ id, payload: payload.slice(0, 100) })
          .execute();
      }),
    );
    const rate = await perSecond(total, parallel, (index) => create(gateway, world, `${round}-${index}`));
    if (round > 0) {
      bare.push(floor);
      ours.push(rate);
    }
  }
  await gateway.close();
  await empty(world);
  const ratio = median(ours.map((rate, index) => rate / (bare[index] as number)));
  return {
    rows: [
      ["payments created", `${median(ours).toFixed(0)}/s`, `two rows ${median(bare).toFixed(0)}/s`, ratio.toFixed(2)],
    ],
    target: { text: `created: at least 0.6 of bare two-row transactions (${ratio.toFixed(2)})`, met: ratio >= 0.6 },
  };
}

/** Paid payments whose webhooks wait; made once by the gateway, and copied back for each round. */
async function keepWaiting(world: World, count: number) {
  const { db } = world.database;
  const tables = ["payment", "booking", "event", "delivery"];
  const gateway = createGateway(world, createProvider(new Set()));
  await perSecond(count, parallel, async () => book(gateway, (await create(gateway, world)).payment.id));
  await gateway.close();
  const each = async (act: (table: RawBuilder<unknown>, copy: RawBuilder<unknown>) => RawBuilder<unknown>) => {
    for (const name of tables) await act(sql.table(`gateway_${name}`), sql.table(`waiting_${name}`)).execute(db);
  };
  await each((table, copy) => sql`create table ${copy} as select * from ${table}`);
  await empty(world);
  return {
    restore: () => each((table, copy) => sql`insert into ${table} select * from ${copy}`),
    drop: () => each((_table, copy) => sql`drop table ${copy}`),
  };
}

/** Runs a gateway until so many webhooks have come; resolves to how many came per second. */
async function rateOf(world: World, gateway: PaymentGateway, total: number): Promise<number> {
  const startedAt = performance.now();
  const stopping = new AbortController();
  const running = gateway.run(stopping.signal);
  await world.receiver.until(total);
  const rate = total / ((performance.now() - startedAt) / 1000);
  stopping.abort();
  await running;
  await gateway.close();
  await world.receiver.take();
  await empty(world);
  return rate;
}

/**
 * Webhooks with their log rows, against loops that sign and post and write nothing: with `node:http`, which the
 * target is held against, and for comparison with `fetch`, which is about half as fast.
 */
async function delivery(world: World): Promise<{ readonly rows: readonly string[][]; readonly target: Target }> {
  const total = 12_000;
  const rates = { ours: [] as number[], fetch: [] as number[], http: [] as number[] };
  const agent = new Agent({ keepAlive: true, maxSockets: 32 });
  const body = JSON.stringify({ event: "paid", metadata: { order_id: "A-17" }, filler: "x".repeat(450) });
  const sign = createWebhookSigner({ secrets: [secret] });
  const bareUrl = `${world.receiver.url}/bare`;
  const headersOf = (index: number) => ({
    "content-type": "application/json",
    ...sign({ id: `evt_${index}`, timestamp: new Date(), body }),
    "x-webhook-signature": signHmac({ secret, body }),
  });
  const postWithFetch = async (index: number) => {
    const answer = await fetch(bareUrl, { method: "POST", headers: headersOf(index), body });
    await answer.arrayBuffer();
  };
  const postWithHttp = (index: number) =>
    new Promise<void>((resolve, reject) => {
      const headers = headersOf(index);
      const sent = httpRequest(bareUrl, { method: "POST", agent, headers }, (response) => {
        response.resume();
        response.on("end", resolve);
      });
      sent.on("error", reject);
      sent.end(body);
    });
  // More rounds than elsewhere: two processes, the database and the loop share the cores, and single rounds differ by half.
  const waiting = await keepWaiting(world, total);
  for (let round = 0; round <= deliveryRounds; round++) {
    const fetchRate = await perSecond(total / 4, 32, postWithFetch);
    const httpRate = await perSecond(total, 32, postWithHttp);
    await world.receiver.take();
    await waiting.restore(); // without delivering, so that only sending and recording are timed
    const rate = await rateOf(world, createGateway(world, createProvider(new Set())), total);
    if (round > 0) {
      rates.ours.push(rate);
      rates.fetch.push(fetchRate);
      rates.http.push(httpRate);
    }
  }
  agent.destroy();
  await waiting.drop();
  const ratioTo = (floors: readonly number[]) =>
    median(rates.ours.map((rate, index) => rate / (floors[index] as number)));
  const ratio = ratioTo(rates.http);
  const rowOf = (floor: string, floors: readonly number[]) => [
    "webhooks delivered, with log rows",
    `${median(rates.ours).toFixed(0)}/s`,
    `signed posts, ${floor}, 32 at once, ${median(floors).toFixed(0)}/s`,
    ratioTo(floors).toFixed(2),
  ];
  return {
    rows: [rowOf("fetch", rates.fetch), rowOf("node:http", rates.http)],
    target: {
      text: `delivered: at least 0.7 of a bare signed post loop with node:http (${ratio.toFixed(2)})`,
      met: ratio >= 0.7,
    },
  };
}

/** What a shop with one receiver and the default options gets when many webhooks have piled up. */
async function pileUp(world: World): Promise<readonly string[]> {
  const counts = [2_000, 20_000];
  const rates: number[] = [];
  for (const count of counts) {
    const waiting = await keepWaiting(world, count);
    const ofCount: number[] = [];
    for (let round = 0; round < 3; round++) {
      await waiting.restore();
      ofCount.push(
        await rateOf(world, createGateway(world, createProvider(new Set()), { concurrencyPerReceiver: 8 }), count),
      );
    }
    await waiting.drop();
    rates.push(median(ofCount));
  }
  const [few = Number.NaN, many = Number.NaN] = rates;
  const row = (count: number, rate: number) => `${rate.toFixed(0)}/s with ${count} waiting`;
  return ["one receiver, 8 at once", row(20_000, many), row(2_000, few), (many / few).toFixed(2)];
}

/** Webhooks that wait for a receiver whose breaker is open for the next hour. */
async function pause(world: World, count: number): Promise<void> {
  const { db } = world.database;
  const silent = "http://127.0.0.1:9";
  const gateway = createGateway(world, createProvider(new Set()));
  await perSecond(count, parallel, async () => {
    const { payment } = await create(gateway, { ...world, receiver: { url: silent } as Receiver });
    await book(gateway, payment.id);
  });
  await gateway.close();
  const openUntil = Date.now() + 3_600_000;
  await db
    .insertInto("gateway_receiver")
    .values({ merchant: "shop", origin: silent, failures: 10, openings: 1, open_until: openUntil })
    .execute();
}

/** Books payments at a pace and tells how long each took until its webhook arrived. */
async function lags(
  world: World,
  ids: readonly string[],
  everyMs: number,
  act: (id: string) => Promise<unknown>,
): Promise<readonly number[]> {
  const acted = new Map<string, number>();
  const startedAt = performance.now();
  const acting: Promise<unknown>[] = [];
  for (const [index, id] of ids.entries()) {
    await systemClock.sleep(Math.max(0, startedAt + index * everyMs - performance.now()));
    acted.set(id, wallMs());
    acting.push(act(id));
  }
  await Promise.all(acting);
  await world.receiver.until(ids.length);
  const arrivals = await world.receiver.take();
  const rows = await world.database.db.selectFrom("gateway_event").select(["id", "payment_id"]).execute();
  return rows
    .filter((row) => acted.has(row.payment_id) && arrivals.has(row.id))
    .map((row) => (arrivals.get(row.id) as number) - (acted.get(row.payment_id) as number));
}

/** Many active payments, as if made by `create`. */
async function fill(world: World, count: number, provider: string, checkAfterMs?: number): Promise<readonly string[]> {
  const storage = storageOf(world);
  const now = Date.now();
  const ids = Array.from({ length: count }, (_, index) => `${provider}-${index}`);
  await perSecond(count, parallel, async (index) => {
    const payment: NewPayment = {
      id: ids[index] as string,
      merchant: "shop",
      provider: "bench",
      status: "pending",
      currency: "KZT",
      amountMinor: 50_000n,
      paidMinor: 0n,
      refundedMinor: 0n,
      refundingMinor: 0n,
      description: "",
      metadata: "{}",
      webhookUrl: `${world.receiver.url}/hook`,
      webhookSecret: secret,
      late: false,
      test: false,
      sequence: 0,
      createdAt: new Date(now),
      updatedAt: new Date(now),
      expiresAt: new Date(now + 3_600_000),
      version: 1,
    };
    await storage.createPayment(payment);
    if (checkAfterMs !== undefined) {
      await storage.scheduleCheck(payment.id, { delayMs: Math.round((index / count) * checkAfterMs) });
    }
  });
  return ids;
}

async function running<Result>(gateway: PaymentGateway, work: () => Promise<Result>): Promise<Result> {
  const stopping = new AbortController();
  const run = gateway.run(stopping.signal);
  try {
    return await work();
  } finally {
    stopping.abort();
    await run;
    await gateway.close();
  }
}

/** The gateway on PostgreSQL, its receiver in another process. */
export async function benchGateway(): Promise<BenchResult> {
  const title = "payment gateway on PostgreSQL, receiver in another process";
  const hasPostgres = (await findServices()).some(({ name, available }) => name === "PostgreSQL" && available);
  if (!hasPostgres)
    return { id: "P5", title: `${title}: left out, PostgreSQL does not answer`, table: [], targets: [] };
  const schema = `bench_p5_${process.pid}`;
  const administration = await openDatabase(serviceAddresses.postgres);
  await sql`create schema ${sql.id(schema)}`.execute(administration.db);
  const url = new URL(serviceAddresses.postgres);
  url.searchParams.set("options", `-c search_path=${schema}`);
  const database = await openDatabase(url.href);
  const receiver = await Receiver.start();
  const world: World = { database, receiver };
  const table: string[][] = [["", "measured", "floor or load", "ratio"]];
  const targets: Target[] = [];
  const latency = (name: string, load: string, values: readonly number[], limitMs: number) => {
    const p99 = percentile(values, 0.99);
    table.push([name, `p50 ${ms(median(values))}, p99 ${ms(p99)}`, `${load}, ${values.length} webhooks`, ""]);
    targets.push({ text: `${name}: p99 under ${ms(limitMs)} (${ms(p99)})`, met: values.length > 0 && p99 < limitMs });
  };
  try {
    await storageOf(world).migrate();
    for (const part of [creation, delivery]) {
      const { rows, target } = await part(world);
      table.push(...rows);
      targets.push(target);
    }

    table.push([...(await pileUp(world))]);

    const idle = createGateway(world, createProvider(new Set()));
    const idleIds = await fill(world, 200, "idle");
    latency(
      "commit to post when idle",
      "20/s",
      await running(idle, () => lags(world, idleIds, 50, (id) => book(idle, id))),
      50,
    );
    await empty(world);

    await pause(world, 20_000);
    const beside = createGateway(world, createProvider(new Set()));
    const besideIds = await fill(world, 200, "beside");
    latency(
      "the same beside 20 000 that wait for a paused receiver",
      "20/s",
      await running(beside, () => lags(world, besideIds, 50, (id) => book(beside, id))),
      50,
    );
    await empty(world);

    const busy = createGateway(world, createProvider(new Set()));
    const active = await fill(world, 10_000, "active");
    latency(
      "callback to delivered webhook",
      "10 000 active, 50/s",
      await running(busy, () => lags(world, active.slice(0, 500), 20, (id) => book(busy, id))),
      1_500,
    );
    await empty(world);

    const intervalMs = 3_000;
    const transfers = new Set<string>();
    const polled = createGateway(world, createProvider(transfers, intervalMs));
    const polledIds = await fill(world, 600, "polled", intervalMs); // 200 due each second
    latency(
      `paid at a provider that is asked every ${intervalMs / 1000} s`,
      "200 due/s",
      await running(polled, () => lags(world, polledIds.slice(0, 300), 40, async (id) => void transfers.add(id))),
      intervalMs + 1_500,
    );
    await empty(world);

    const mixed = createGateway(world, createProvider(new Set()), {
      webhooks: { allowAddresses: ["127.0.0.1"], timeoutMs: 5_000 },
      concurrencyPerReceiver: 8,
    });
    const healthy = await fill(world, 450, "healthy");
    const dead: string[] = [];
    const silent = await Receiver.start();
    for (let index = 0; index < 50; index++) {
      dead.push((await create(mixed, { database, receiver: silent }, undefined, "/silent")).payment.id);
    }
    latency(
      "healthy receivers beside 10 % that never answer",
      "50/s",
      await running(mixed, () =>
        lags(world, healthy, 22, async (id) => {
          const other = healthy.indexOf(id) % 9 === 0 ? dead.pop() : undefined;
          await Promise.all([book(mixed, id), other === undefined ? undefined : book(mixed, other)]);
        }),
      ),
      1_000,
    );
    silent.stop();
  } finally {
    receiver.stop();
    await database.close();
    await sql`drop schema ${sql.id(schema)} cascade`.execute(administration.db);
    await administration.close();
  }
  return { id: "P5", title, table, targets };
}
