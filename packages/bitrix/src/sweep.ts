import { type Clock, ConfigError, type Logger, redactingLogger, type Storage, systemClock } from "@orderbridge/core";

export interface SweepOptions {
  /** Keeps the position, and lets one process of many sweep. */
  readonly core: Pick<Storage, "watermarks" | "leases">;
  /** Pause between sweeps, in milliseconds. @defaultValue 300_000 */
  readonly intervalMs?: number;
  /** How far behind the last sweep each one begins: clocks differ, and changes appear late. @defaultValue 600_000 */
  readonly overlapMs?: number;
  /** How far back the very first sweep looks, in milliseconds. @defaultValue 86_400_000 */
  readonly firstMs?: number;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
}

export interface Sweep {
  /** Makes what changed since the last sweep due; resolves to its number. */
  sweep(signal?: AbortSignal): Promise<number>;
  /** Sweeps until the signal is aborted. Of several processes one sweeps at a time. */
  run(signal: AbortSignal): Promise<void>;
}

export interface Swept {
  readonly found: number;
  /** The latest time of change that was seen, by the portal's clock; `undefined` when nothing was. */
  readonly newestMs: number | undefined;
}

/** Reads by time of change, with overlap, on from a stored position. A sweep that fails begins at the same place again. */
export function createSweep({
  name,
  look,
  core,
  intervalMs = 300_000,
  overlapMs = 600_000,
  firstMs = 86_400_000,
  clock = systemClock,
  ...options
}: SweepOptions & {
  /** Of position and lease. */
  readonly name: string;
  readonly look: (since: Date, signal: AbortSignal | undefined) => Promise<Swept>;
}): Sweep {
  if (!(intervalMs > 0)) throw new ConfigError("intervalMs must be positive");
  const logger = redactingLogger(options.logger ?? console);
  const holder = crypto.randomUUID();

  async function sweep(signal?: AbortSignal): Promise<number> {
    const startedAt = clock.now().getTime();
    const position = await core.watermarks.get(name);
    const since = position === undefined ? startedAt - firstMs : Date.parse(position) - overlapMs;
    const { found, newestMs = since } = await look(new Date(since), signal);
    // The portal's clock counts: where ours runs ahead of it, changes that are still to come would lie behind the position.
    const reached = Math.min(startedAt, Math.max(newestMs, since) + overlapMs / 2);
    await core.watermarks.advance(name, position, new Date(reached).toISOString());
    return found;
  }

  return {
    sweep,
    async run(signal) {
      while (!signal.aborted) {
        try {
          // Not given back: the others skip this round.
          const lease = await core.leases.acquire(name, { holder, ttlMs: intervalMs });
          if (lease) logger.debug("bitrix: swept", { sweep: name, changed: await sweep(signal) });
        } catch (error) {
          if (signal.aborted) return;
          logger.warn("bitrix: a sweep failed; the next one begins at the same place", { sweep: name, error });
        }
        await clock.sleep(intervalMs, signal).catch(() => undefined);
      }
    },
  };
}
