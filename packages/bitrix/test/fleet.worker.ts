/** One process of a fleet on one portal: makes the calls of each message. Run by `fleet.test.ts`. */
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createRedisRateLimits, openRedis } from "@orderbridge/core/redis";
import { type BatchItem, type Bitrix, createBitrix } from "../src/index.ts";
import { createFleetClock } from "./fleet-clock.ts";

export interface FleetOptions {
  readonly webhookUrl: string;
  /** `memory`: the process shares nothing. */
  readonly databaseUrl: string;
  readonly redis?: { readonly url: string; readonly prefix: string };
  readonly plan: { readonly intervalMs: number; readonly capacity: number };
  readonly operatingLimitSeconds: number;
  readonly clock: { readonly startedAt: number; readonly speed: number };
}

export interface FleetRound {
  readonly method: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly calls: number;
  /** All of them in one request. */
  readonly isBatch?: boolean;
}

export interface FleetMessage {
  /** Comes back with the answer: rounds run side by side. */
  readonly round: number;
  readonly options: FleetOptions;
  readonly work: FleetRound;
}

async function openClient({ databaseUrl, redis, clock, ...options }: FleetOptions): Promise<Bitrix> {
  const storage =
    databaseUrl === "memory" ? createMemoryStorage() : createKyselyStorage(await openDatabase(databaseUrl));
  const connection = redis && (await openRedis(redis.url, { purpose: "slots" }));
  return createBitrix({
    ...options,
    storage: {
      watermarks: storage.watermarks,
      rateLimits:
        redis && connection
          ? createRedisRateLimits({ redis: connection, durable: storage.rateLimits, prefix: redis.prefix })
          : storage.rateLimits,
    },
    clock: createFleetClock(clock),
    // The deadline runs by the fast clock as well, but this machine is no faster.
    timeoutMs: 60_000 * clock.speed,
    retries: 0,
  });
}

async function run(bitrix: Bitrix, { method, parameters, calls, isBatch = false }: FleetRound): Promise<string[]> {
  const command = { method, parameters: parameters as Readonly<Record<string, string>> };
  if (isBatch) return (await bitrix.batch(Array(calls).fill(command))).map(({ state }: BatchItem) => state);
  const results = await Promise.allSettled(
    Array.from({ length: calls }, () => bitrix.call(command.method, command.parameters)),
  );
  return results.map((result) => (result.status === "fulfilled" ? "done" : String(result.reason.name)));
}

/** A client for each set of options lives until the process ends. */
const clients = new Map<string, Promise<Bitrix>>();

process.on("message", async ({ round, options, work }: FleetMessage) => {
  const key = JSON.stringify(options);
  const client = clients.get(key) ?? openClient(options);
  clients.set(key, client);
  process.send?.({ round, ends: await run(await client, work) });
});
process.send?.("ready");
