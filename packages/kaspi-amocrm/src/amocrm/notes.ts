import { noteSchema } from "./schemas.ts";
import type { AmocrmTransport, BulkResult } from "./transport.ts";

export interface Note {
  readonly id: string;
  readonly leadId: string | undefined;
  readonly text: string;
}

export interface NewNote {
  readonly requestId: string;
  readonly leadId: string;
  /** Name of the service that the note shows as its author. */
  readonly service: string;
  readonly text: string;
}

/** Notes of leads, as service messages. */
export interface AmocrmNotes {
  list(leadIds: readonly string[]): Promise<readonly Note[]>;
  create(notes: readonly NewNote[]): Promise<BulkResult>;
  update(notes: readonly (Omit<NewNote, "requestId"> & { readonly id: string })[]): Promise<void>;
}

export function createNotes({ items, send, write }: AmocrmTransport): AmocrmNotes {
  return {
    async list(leadIds) {
      const filter = leadIds.map((id) => ["filter[entity_id][]", id] as const);
      const found: Note[] = [];
      for await (const note of items("notes.list", "/leads/notes", "notes", noteSchema, {}, filter)) {
        found.push({ id: note.id, leadId: note.entity_id ?? undefined, text: note.params?.text ?? "" });
      }
      return found;
    },
    create: (notes) =>
      write({ name: "notes.create", method: "POST", path: "/leads/notes", plural: "notes" }, notes, {
        keyOf: (note) => note.requestId,
        toWire: ({ requestId, leadId, service, text }) => ({
          entity_id: Number(leadId),
          note_type: "extended_service_message",
          params: { service, text },
          request_id: requestId,
        }),
        answerKey: "request_id",
      }),
    async update(notes) {
      await send({
        name: "notes.update",
        method: "PATCH",
        path: "/leads/notes",
        safe: true, // the same text twice is the same text
        json: notes.map(({ id, leadId, service, text }) => ({
          id: Number(id),
          entity_id: Number(leadId),
          note_type: "extended_service_message",
          params: { service, text },
        })),
      });
    },
  };
}
