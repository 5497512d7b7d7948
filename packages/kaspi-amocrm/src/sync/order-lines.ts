import { ApiError } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { ElementLink } from "../amocrm/links.ts";
import type { LedgerLine } from "../ledger.ts";
import type { Alerts } from "./alerts.ts";
import { type BatchSize, chunks, sendSplitting } from "./bulk.ts";
import type { ElementFinder } from "./elements.ts";
import { alive, markGone, type Turn, type Work, writerBatch } from "./order-work.ts";

/** Sets the goods of each lead: links what an order has, unlinks what it has no more, leaves what a manager added. */
export function createLineWriter({
  amocrm,
  elements,
  catalogId,
  linkBatch,
  alerts,
}: {
  readonly amocrm: Amocrm;
  readonly elements: ElementFinder;
  readonly catalogId: string;
  readonly linkBatch: BatchSize;
  readonly alerts: Alerts;
}) {
  async function setLines({ save, begin, beforeWrite }: Turn, works: readonly Work[]): Promise<void> {
    const result = await elements.ensure(
      works.flatMap(({ lines }) => lines),
      { wasInterrupted: works.some(({ interruptedAt }) => interruptedAt !== undefined), beforeWrite },
    );
    for (const work of works) {
      for (const { sku } of work.lines) {
        if (sku === undefined) continue;
        const reason = result.rejected.get(sku);
        if (reason !== undefined) work.failure = `catalog element refused: ${reason}`;
        else if (!result.ids.has(sku)) work.isOpen = true;
      }
    }
    const wanted = (work: Work): LedgerLine[] =>
      work.lines.flatMap(({ sku, quantity }) => {
        const elementId = sku === undefined ? undefined : result.ids.get(sku);
        return elementId === undefined ? [] : [{ elementId, quantity }];
      });
    const present = new Map(works.map((work) => [work, work.row.lines ?? []]));
    const read = async (of: readonly Work[]) => {
      for (const part of chunks(of, writerBatch)) {
        const links = await amocrm.links.elements(part.map(({ row }) => row.leadId as string));
        for (const work of part) {
          // Goods that a manager added are not ours to count.
          const ours = new Set([...wanted(work), ...(work.row.lines ?? [])].map(({ elementId }) => elementId));
          present.set(
            work,
            links.filter(({ leadId, elementId }) => leadId === work.row.leadId && ours.has(elementId)),
          );
        }
      }
    };
    await read(works.filter(({ interruptedAt }) => interruptedAt !== undefined));

    let wasOpen = false;
    let pending = alive(works).filter((work) => !sameLines(wanted(work), present.get(work) ?? []));
    for (let round = 0; pending.length > 0; round++) {
      if (wasOpen || round === 3) {
        for (const work of pending) {
          if (wasOpen) work.isOpen = true;
          else work.failure = "the goods did not stay linked";
        }
        break;
      }
      await begin(pending);
      const toUnlink: (ElementLink & { work: Work })[] = [];
      const toLink: (ElementLink & { work: Work })[] = [];
      for (const work of pending) {
        const leadId = work.row.leadId as string;
        const after = wanted(work);
        const before = present.get(work) ?? [];
        // A changed quantity is unlinked first: whether linking again replaces or adds is not documented.
        for (const line of before) {
          if (!after.some((other) => sameLine(line, other))) toUnlink.push({ ...line, leadId, catalogId, work });
        }
        for (const line of after) {
          if (!before.some((other) => sameLine(line, other))) toLink.push({ ...line, leadId, catalogId, work });
        }
      }
      const unlinked = await sendSplitting(toUnlink, linkBatch, beforeWrite, amocrm.links.unlinkElements);
      const linked = await sendSplitting(toLink, linkBatch, beforeWrite, amocrm.links.linkElements);
      wasOpen = unlinked.isOpen || linked.isOpen;
      for (const { work } of linked.refused) work.failure = "linking the goods was refused";
      // An element that is refused may have been deleted, unless the lead was: the next attempt finds or creates it again.
      await markGone(
        linked.refused.map(({ work }) => work),
        amocrm.leads,
      );
      const refused = linked.refused.filter(({ work }) => !work.isGone);
      if (refused.length > 0) await elements.forget(refused.map(({ elementId }) => elementId));
      await read(pending); // links were seen to get lost in bulk
      pending = alive(pending).filter((work) => !sameLines(wanted(work), present.get(work) ?? []));
    }
    await save(
      alive(works).filter((work) => work.row.lines === undefined || !sameLines(work.row.lines, wanted(work))),
      (work) => ({ lines: wanted(work) }),
    );
  }

  return async function syncLines(turn: Turn, works: readonly Work[]): Promise<void> {
    try {
      await setLines(turn, works);
    } catch (error) {
      // The account has no such list (any more), or may not link its elements: an order is worth more than its goods.
      if (!(error instanceof ApiError) || (error.status !== 403 && error.status !== 404)) throw error;
      alerts.raise({ kind: "catalog", catalogId });
    }
  };
}

const sameLine = (left: LedgerLine, right: LedgerLine): boolean =>
  left.elementId === right.elementId && Number(left.quantity) === Number(right.quantity);

const sameLines = (left: readonly LedgerLine[], right: readonly LedgerLine[]): boolean =>
  left.length === right.length && left.every((line) => right.some((other) => sameLine(line, other)));
