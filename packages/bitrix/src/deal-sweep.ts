import type { Bitrix } from "./bitrix.ts";
import { readLink } from "./deal-side.ts";
import { dealTopic } from "./event-handler.ts";
import type { BitrixStorage } from "./storage.ts";
import { createSweep, type Sweep, type SweepOptions } from "./sweep.ts";

/** "Funnel change" among the types of the stage history. */
const movedToFunnel = 5;
/** Rows of the history that are read again: ids of changes that run side by side may appear out of order. */
const movesOverlap = 200;

export interface DealSweepOptions extends SweepOptions {
  readonly bitrix: Pick<Bitrix, "list" | "call">;
  readonly storage: Pick<BitrixStorage, "links" | "work">;
  /** Name of the status sync whose deals are looked for. */
  readonly sync: string;
  /** Field of the deal that holds our order's id. @defaultValue "UF_CRM_ORDER_ID" */
  readonly linkField?: string;
}

/** Makes the linked deals that changed since the last sweep due. */
export type DealSweep = Sweep;

/**
 * Finds the changes whose events were lost: Bitrix24 sends an event once, whatever becomes of it. Reads the deals by their
 * time of change, with overlap; a deal that was looked at before is found settled, which costs one read. Moves to another
 * funnel, of which a webhook gets no event, are read from the stage history as well.
 *
 * @see apidocs.bitrix24.ru, "crm.stagehistory.list" (read 2026-08)
 */
export function createDealSweep(options: DealSweepOptions): DealSweep {
  const { bitrix, storage, core, sync, linkField = "UF_CRM_ORDER_ID" } = options;
  const name = `bitrix-deal-sweep:${sync}`;
  const movesName = `${name}:moves`;

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
      const listing = { idField: "ID", after: String(after), ...(signal ? { signal } : {}) };
      for await (const row of bitrix.list<{ ID: unknown; OWNER_ID: unknown }>(
        "crm.stagehistory.list",
        moves,
        listing,
      )) {
        last = Math.max(last, Number(row.ID));
        owners.add(String(row.OWNER_ID));
      }
    }
    for (const dealId of owners) await storage.work.mark(dealTopic, dealId);
    if (String(last) !== position) await core.watermarks.advance(movesName, position, String(last));
    return owners.size;
  }

  return createSweep({
    ...options,
    name,
    async look(since, signal) {
      let found = 0;
      let newestMs: number | undefined;
      const rows = bitrix.list<Readonly<Record<string, unknown>>>(
        "crm.item.list",
        {
          entityTypeId: 2,
          useOriginalUfNames: "Y",
          select: ["id", "updatedTime", linkField],
          filter: { ">=updatedTime": since.toISOString() },
        },
        signal ? { signal } : {},
      );
      for await (const { id, updatedTime, [linkField]: link } of rows) {
        const dealId = String(id);
        newestMs = Math.max(newestMs ?? 0, Date.parse(String(updatedTime)) || 0);
        const isLinked = readLink(link) !== undefined || (await storage.links.getByRight(sync, dealId));
        if (!isLinked) continue;
        await storage.work.mark(dealTopic, dealId);
        found++;
      }
      return { found: found + (await sweepMoves(signal)), newestMs };
    },
  });
}
