import { toE164 } from "@orderbridge/core/phone";
import type * as v from "valibot";
import { instant, readFields } from "./fields.ts";
import { contactSchema } from "./schemas.ts";
import type { AmocrmTransport, BulkResult, ListOptions } from "./transport.ts";

export interface Contact {
  readonly id: string;
  readonly updatedAt: Date | undefined;
  /** E.164, read from all phone values; those that are no phone are left out. */
  readonly phones: readonly string[];
}

export interface NewContact {
  readonly requestId: string;
  readonly name: string;
  readonly phone?: string;
  readonly responsibleUserId?: string;
}

export interface ContactChange {
  readonly id: string;
  readonly name?: string;
  /** E.164. */
  readonly phone?: string;
}

export interface AmocrmContacts {
  list(options?: ListOptions): AsyncIterable<Contact>;
  get(id: string): Promise<Contact | undefined>;
  /** Exact: asks the fuzzy search for the last ten digits and checks every hit. The smallest id of several. */
  findByPhone(phone: string): Promise<Contact | undefined>;
  /** All of them, the smallest id first. */
  allByPhone(phone: string): Promise<readonly Contact[]>;
  create(contacts: readonly NewContact[]): Promise<BulkResult>;
  /** Send only what changed. A phone that is given replaces all phones. Keys of the result are contact ids. */
  update(changes: readonly ContactChange[]): Promise<BulkResult>;
}

export function createContacts({ request, items, write }: AmocrmTransport, country: "KZ" | "RU"): AmocrmContacts {
  async function allByPhone(phone: string): Promise<readonly Contact[]> {
    // Stored numbers are free text; the last ten digits occur in most ways of writing them.
    const query = phone.replace(/\D/g, "").slice(-10);
    const exact: Contact[] = [];
    for await (const contact of items("contacts.search", "/contacts", "contacts", contactSchema, { query })) {
      const read = readContact(contact, country);
      if (read.phones.includes(phone)) exact.push(read);
    }
    return exact.sort((left, right) => Number(left.id) - Number(right.id));
  }

  return {
    async *list(options) {
      for await (const contact of items("contacts.list", "/contacts", "contacts", contactSchema, options)) {
        yield readContact(contact, country);
      }
    },
    async get(id) {
      const contact = await request({ name: "contacts.get", path: `/contacts/${id}`, schema: contactSchema });
      return contact && readContact(contact, country);
    },
    findByPhone: async (phone) => (await allByPhone(phone))[0],
    allByPhone,
    create: (contacts) =>
      write({ name: "contacts.create", method: "POST", path: "/contacts", plural: "contacts" }, contacts, {
        keyOf: (contact) => contact.requestId,
        toWire: (contact) => ({ ...contactToWire(contact), request_id: contact.requestId }),
        answerKey: "request_id",
      }),
    update: (changes) =>
      write({ name: "contacts.update", method: "PATCH", path: "/contacts", plural: "contacts" }, changes, {
        keyOf: ({ id }) => id,
        toWire: ({ id, name, phone }) => ({
          id: Number(id),
          ...(name !== undefined && { name }),
          ...(phone !== undefined && { custom_fields_values: [phoneToWire(phone)] }),
        }),
        answerKey: "id",
      }),
  };
}

const phoneToWire = (phone: string) => ({ field_code: "PHONE", values: [{ value: phone, enum_code: "WORK" }] });

export const contactToWire = (contact: Omit<NewContact, "requestId">): Record<string, unknown> => ({
  name: contact.name,
  ...(contact.responsibleUserId !== undefined && { responsible_user_id: Number(contact.responsibleUserId) }),
  ...(contact.phone !== undefined && {
    custom_fields_values: [phoneToWire(contact.phone)],
  }),
});

function readContact(contact: v.InferOutput<typeof contactSchema>, country: "KZ" | "RU"): Contact {
  const phones = readFields(contact.custom_fields_values)
    .filter((field) => field.fieldCode === "PHONE")
    .flatMap((field) => field.values)
    .map((value) => toE164(value, { country }))
    .filter((phone) => phone !== undefined);
  return { id: contact.id, updatedAt: instant(contact.updated_at), phones: [...new Set(phones)] };
}
