import { type Clock, type Logger, redactingLogger, type Storage, systemClock } from "@orderbridge/core";
import type { Bitrix } from "./bitrix.ts";
import { dealTopic } from "./event-handler.ts";
import type { BitrixStorage } from "./storage.ts";

export interface DealSweepOptions {
  readonly bitrix: Pick<Bitrix, "list">;
  readonly storage: Pick<BitrixStorage, "links" | "work">;
  /** Keeps the position, and lets one process of many sweep. */
  readonly core: Pick<Storage, "watermarks" | "leases">;
  /** Name of the status sync whose deals are looked for. */
  readonly sync: string;
  /** Field of the deal that holds our order's id. @defaultValue "UF_CRM_ORDER_ID" */
  readonly linkField?: string;
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

export interface DealSweep {
  /** Makes the linked deals that changed since the last sweep due; resolves to their number. */
  sweep(signal?: AbortSignal): Promise<number>;
  /** Sweeps until the signal is aborted. Of several processes one sweeps at a time. */
  run(signal: AbortSignal): Promise<void>;
}

/**
 * Finds the changes whose events were lost: Bitrix24 sends an event once, whatever becomes of it. Reads the deals by their
 * time of change, with overlap; a deal that was looked at before is found settled, which costs one read.
 */
export function createDealSweep(options: DealSweepOptions): DealSweep {
  const {
    bitrix,
    storage,
    core,
    sync,
    linkField = "UF_CRM_ORDER_ID",
    intervalMs = 300_000,
    overlapMs = 600_000,
    firstMs = 86_400_000,
    clock = systemClock,
  } = options;
  const logger = redactingLogger(options.logger ?? console);
  const name = `bitrix-deal-sweep:${sync}`;
  const holder = crypto.randomUUID();

  async function sweep(signal?: AbortSignal): Promise<number> {
    const startedAt = clock.now();
    const position = await core.watermarks.get(name);
    const since = position === undefined ? startedAt.getTime() - firstMs : Date.parse(position) - overlapMs;
    let found = 0;
    const rows = bitrix.list<Readonly<Record<string, unknown>>>(
      "crm.item.list",
      {
        entityTypeId: 2,
        useOriginalUfNames: "Y",
        select: ["id", linkField],
        filter: { ">=updatedTime": new Date(since).toISOString() },
      },
      signal ? { signal } : {},
    );
    for await (const { id, [linkField]: link } of rows) {
      const dealId = String(id);
      const isLinked = (typeof link === "string" && link !== "") || (await storage.links.getByRight(sync, dealId));
      if (!isLinked) continue;
      await storage.work.mark(dealTopic, dealId);
      found++;
    }
    await core.watermarks.advance(name, position, startedAt.toISOString());
    return found;
  }

  return {
    sweep,
    async run(signal) {
      while (!signal.aborted) {
        try {
          // Not given back: the others skip this round.
          const lease = await core.leases.acquire(name, { holder, ttlMs: intervalMs });
          if (lease) logger.debug("bitrix: deals swept", { changed: await sweep(signal) });
        } catch (error) {
          if (signal.aborted) return;
          logger.warn("bitrix: the sweep of deals failed; the next one begins at the same place", { error });
        }
        await clock.sleep(intervalMs, signal).catch(() => undefined);
      }
    },
  };
}
