import { type Clock, ConfigError, type Logger, silentLogger, systemClock } from "@orderbridge/core";
import type { DeliveryHints } from "../storage.ts";

/** Of `notify` and `listen`. Schemas of one database share it, which costs a look for nothing at most. */
export const hintChannel = "orderbridge_gateway";

const reconnectMs = 5_000;
/** For each answer of the server until it tells of hints. */
const answerMs = 10_000;
/** For a connection to say that it has ended. */
const goodbyeMs = 1_000;

/**
 * PostgreSQL tells every process when a webhook is to be sent, on a connection of its own. A lost connection is made
 * anew after 5 s. Needs the package `pg`.
 *
 * @param url The database's address, as for `openDatabase`; not through a pooler that shares sessions.
 * @throws {ConfigError} for an address of another database.
 */
export function createPostgresHints(
  url: string,
  {
    clock = systemClock,
    logger = silentLogger,
  }: {
    readonly clock?: Clock;
    readonly logger?: Logger;
  } = {},
): DeliveryHints {
  if (!/^postgres(ql)?:/.test(url)) throw new ConfigError("hints: the address must start with postgres://");
  return {
    listen(onHint) {
      const stopping = new AbortController();
      const { signal } = stopping;
      const listening = (async () => {
        while (!signal.aborted) {
          try {
            await listenOnce(url, onHint, signal, clock);
          } catch (error) {
            if (!signal.aborted)
              logger.warn("no hints from PostgreSQL for a while; webhooks wait for the next look", { error });
          }
          await clock.sleep(reconnectMs, signal).catch(() => undefined);
        }
      })();
      return async () => {
        stopping.abort();
        await listening;
      };
    },
  };
}

/** The part of a `pg` client that is used. */
interface Client {
  once(event: "end", listener: () => void): void;
  on(event: "error", listener: (error: Error) => void): void;
  on(event: "notification", listener: () => void): void;
  connect(): Promise<void>;
  query(statement: string): Promise<unknown>;
  end(): Promise<void>;
  readonly connection: { readonly stream: { destroy(): void } };
}

interface Driver {
  readonly default: { readonly Client: new (options: object) => Client };
}

/** An optional peer, named so that it is looked for only when hints are wanted. */
const driver: string = "pg";

/** Resolves when the connection ended. */
async function listenOnce(url: string, onHint: () => void, signal: AbortSignal, clock: Clock): Promise<void> {
  const { default: pg } = (await import(driver)) as Driver;
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: answerMs,
    query_timeout: answerMs,
    keepAlive: true,
  });
  const ended = new Promise<void>((resolve, reject) => {
    client.once("end", () => resolve());
    client.on("error", reject);
  });
  ended.catch(() => undefined); // told below, also when it comes while connecting
  const { promise: stopped, resolve: stop } = Promise.withResolvers<unknown>();
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop(signal.reason);
  client.on("notification", () => onHint());
  const begin = async (): Promise<void> => {
    await client.connect();
    await client.query(`listen ${hintChannel}`);
    onHint(); // what came before we listened
  };
  try {
    // A server that falls silent meanwhile must not hold up a stop either.
    await Promise.race([begin(), stopped]);
    await Promise.race([ended, stopped]);
  } finally {
    signal.removeEventListener("abort", stop); // the signal outlives many connections
    // A connection that was dropped without a word never says that it ended: that must not hold up a stop.
    const patience = new AbortController();
    const closed = client.end().catch(() => undefined);
    await Promise.race([closed, clock.sleep(goodbyeMs, patience.signal).catch(() => undefined)]);
    patience.abort();
    client.connection.stream.destroy(); // else an open one keeps the process from ending
  }
}
