import type { Amocrm } from "../amocrm/client.ts";
import { chunks, createBatchSize, sendSplitting, writeSurely } from "./bulk.ts";
import { alive, type Turn, type Work, writerBatch } from "./order-work.ts";
import { fingerprint, noteMarker } from "./summary.ts";

/** Gives each lead its summary note, once, and keeps the text of that note up to date. */
export function createNoteWriter({ amocrm, showShop }: { readonly amocrm: Amocrm; readonly showShop: boolean }) {
  const noteBatch = createBatchSize(writerBatch);

  return async function syncNotes({ save, begin, beforeWrite }: Turn, works: readonly Work[]): Promise<void> {
    const known = new Map<Work, string>();
    const look = async (of: readonly Work[]) => {
      for (const part of chunks(of, writerBatch)) {
        const notes = await amocrm.notes.list(part.map(({ row }) => row.leadId as string));
        for (const work of part) {
          const marker = noteMarker(work.order, showShop);
          const own = notes.find(({ leadId, text }) => leadId === work.row.leadId && text.split("\n", 1)[0] === marker);
          if (own) known.set(work, own.id);
        }
      }
    };
    await look(works.filter(({ row, interruptedAt }) => interruptedAt && row.noteId === undefined));
    await save([...known.keys()], (work) => ({ noteId: known.get(work) }));

    const missing = works.filter(({ row }) => row.noteId === undefined);
    if (missing.length > 0) {
      await begin(missing);
      const byLead = new Map(missing.map((work) => [work.row.leadId as string, work]));
      const result = await writeSurely({
        items: missing,
        keyOf: ({ row }) => row.leadId as string,
        batchSize: noteBatch,
        beforeWrite,
        send: (batch) =>
          amocrm.notes.create(
            batch.map(({ row, note }) => ({
              requestId: row.leadId!,
              leadId: row.leadId!,
              service: "Kaspi",
              text: note,
            })),
          ),
        async find(batch) {
          await look(batch);
          return new Map(batch.flatMap((work) => (known.has(work) ? [[work.row.leadId!, known.get(work)!]] : [])));
        },
      });
      for (const [leadId, work] of byLead) {
        const reason = result.rejected.get(leadId);
        if (reason !== undefined) work.failure = `note refused: ${reason}`;
        else if (result.unknown.has(leadId)) work.isOpen = true;
      }
      await save(
        missing.filter(({ row }) => result.ids.has(row.leadId as string)),
        ({ row, note }) => ({ noteId: result.ids.get(row.leadId as string), noteFingerprint: fingerprint(note) }),
      );
    }
    // An answer without the total says less than the note does.
    const changed = works.filter(
      ({ row, note, order }) =>
        row.noteId !== undefined &&
        row.noteFingerprint !== fingerprint(note) &&
        (order.totalMinor !== undefined || row.noteFingerprint === undefined),
    );
    const { refused, isOpen } = await sendSplitting(changed, noteBatch, beforeWrite, (batch) =>
      amocrm.notes.update(
        batch.map(({ row, note }) => ({ id: row.noteId!, leadId: row.leadId!, service: "Kaspi", text: note })),
      ),
    );
    for (const work of refused) work.failure = "changing the note was refused";
    if (isOpen) for (const work of changed) work.isOpen = true;
    await save(alive(changed), ({ note }) => ({ noteFingerprint: fingerprint(note) }));
  };
}
