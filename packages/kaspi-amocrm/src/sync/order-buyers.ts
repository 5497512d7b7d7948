import type { Amocrm } from "../amocrm/client.ts";
import { type BatchSize, sendSplitting } from "./bulk.ts";
import type { ContactFinder } from "./contacts.ts";
import { alive, type Turn, type Work } from "./order-work.ts";

/**
 * Gives each order whose phone is open its contact: kept for the lead that is still to be created, linked to the one that
 * is there already.
 */
export function createBuyerLinker({
  amocrm,
  contacts,
  linkBatch,
}: {
  readonly amocrm: Amocrm;
  readonly contacts: ContactFinder;
  readonly linkBatch: BatchSize;
}) {
  return async function linkBuyers({ save, begin, beforeWrite }: Turn, works: readonly Work[]): Promise<void> {
    const wanting = works.filter(({ row, order }) => row.contactId === undefined && order.phone !== undefined);
    if (wanting.length === 0) return;
    const interruptedAt = wanting.flatMap((work) => (work.interruptedAt ? [work.interruptedAt.getTime()] : []));
    await begin(wanting.filter(({ row }) => row.leadId !== undefined)); // of the others it was said before
    const result = await contacts.ensure(
      wanting.map(({ order }) => ({
        phone: order.phone as string,
        name: order.customerName ?? (order.phone as string),
      })),
      {
        interruptedAt: interruptedAt.length === 0 ? undefined : new Date(Math.min(...interruptedAt)),
        beforeWrite,
      },
    );
    for (const work of wanting) {
      const phone = work.order.phone as string;
      const reason = result.rejected.get(phone);
      if (reason !== undefined) work.failure = `contact refused: ${reason}`;
      else if (!result.ids.has(phone)) work.isOpen = true;
    }
    await save(
      alive(wanting).filter(({ row }) => row.leadId === undefined),
      ({ order }) => ({
        contactId: result.ids.get(order.phone as string),
      }),
    );
    const late = alive(wanting).filter(({ row }) => row.leadId !== undefined);
    if (late.length === 0) return;
    const links = late.map((work) => ({
      work,
      leadId: work.row.leadId as string,
      contactId: result.ids.get(work.order.phone as string) as string,
    }));
    const { refused, isOpen } = await sendSplitting(links, linkBatch, beforeWrite, amocrm.links.linkContacts);
    for (const { work, contactId } of refused) {
      const isGone = await contacts.forgetGone(contactId);
      work.failure = `linking the contact was refused${isGone ? ": it was deleted or merged; the next try looks again" : ""}`;
    }
    if (isOpen) for (const work of alive(late)) work.isOpen = true;
    await save(alive(late), ({ order }) => ({ contactId: result.ids.get(order.phone as string) }));
  };
}
