import { type Clock, type Logger, redactingLogger, type Storage, systemClock } from "@orderbridge/core";
import type { Bitrix } from "./bitrix.ts";
import { readLink } from "./deal-side.ts";
import { dealTopic } from "./event-handler.ts";
import type { BitrixStorage } from "./storage.ts";

/** "Funnel change" among the types of the stage history. */
const movedToFunnel = 5;
/** Rows of the history that are read again: ids of changes that run side by side may appear out of order. */
const movesOverlap = 200;

export interface DealSweepOptions {
  readonly bitrix: Pick<Bitrix, "list" | "call">;
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
 * time of change, with overlap; a deal that was looked at before is found settled, which costs one read. Moves to another
 * funnel, of which a webhook gets no event, are read from the stage history as well.
 *
 * @see apidocs.bitrix24.ru, "crm.stagehistory.list" (read 2026-08)
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
  const movesName = `${name}:moves`;
  const holder = crypto.randomUUID();

  async function sweep(signal?: AbortSignal): Promise<number> {
    const startedAt = clock.now();
    const position = await core.watermarks.get(name);
    const since = position === undefined ? startedAt.getTime() - firstMs : Date.parse(position) - overlapMs;
    let found = 0;
    let newest = since;
    const rows = bitrix.list<Readonly<Record<string, unknown>>>(
      "crm.item.list",
      {
        entityTypeId: 2,
        useOriginalUfNames: "Y",
        select: ["id", "updatedTime", linkField],
        filter: { ">=updatedTime": new Date(since).toISOString() },
      },
      signal ? { signal } : {},
    );
    for await (const { id, updatedTime, [linkField]: link } of rows) {
      const dealId = String(id);
      newest = Math.max(newest, Date.parse(String(updatedTime)) || 0);
      const isLinked = readLink(link) !== undefined || (await storage.links.getByRight(sync, dealId));
      if (!isLinked) continue;
      await storage.work.mark(dealTopic, dealId);
      found++;
    }
    found += await sweepMoves(signal);
    // The portal's clock counts: where ours runs ahead of it, changes that are still to come would lie behind the position.
    const reached = Math.min(startedAt.getTime(), newest + overlapMs / 2);
    await core.watermarks.advance(name, position, new Date(reached).toISOString());
    return found;
  }

  /** Moves to another funnel since the last sweep, by the stage history; the first sweep only notes where it stands. */
  async function sweepMoves(signal?: AbortSignal): Promise<number> {
    const position = await core.watermarks.get(movesName);
    const moves = { entityTypeId: 2, filter: { TYPE_ID: movedToFunnel } };
    const after = position === undefined ? undefined : Math.max(0, Number(position) - movesOverlap);
    let last = Number(position ?? 0);
    const owners = new Set<string>();
    if (after === undefined) {
      const { items } = await bitrix.call<{ items: readonly { ID: unknown }[] }>("crm.stagehistory.list", {
        ...moves,
        order: { ID: "DESC" },
        start: -1,
      });
      last = items.reduce((most, { ID }) => Math.max(most, Number(ID)), 0);
    } else {
      const options = { idField: "ID", after: String(after), ...(signal ? { signal } : {}) };
      for await (const row of bitrix.list<{ ID: unknown; OWNER_ID: unknown }>(
        "crm.stagehistory.list",
        moves,
        options,
      )) {
        last = Math.max(last, Number(row.ID));
        owners.add(String(row.OWNER_ID));
      }
    }
    for (const dealId of owners) await storage.work.mark(dealTopic, dealId);
    if (String(last) !== position) await core.watermarks.advance(movesName, position, String(last));
    return owners.size;
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
