import * as v from "valibot";
import { createOnce, equalTo, holds, idText, optionalText, readAnswer } from "./answers.ts";
import type { Bitrix } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import type { ListOptions } from "./list.ts";
import { type Parameters, withFields } from "./parameters.ts";

/** One phone or e-mail of a contact. */
export interface ContactValue {
  readonly id: string;
  readonly value: string;
  /** `WORK`, `MOBILE`, `HOME`, … */
  readonly type: string;
}

/** With `id` the stored row is changed; without it the value is added, unless the contact has it already. */
export interface NewContactValue {
  readonly id?: string | undefined;
  readonly value: string;
  /** @defaultValue the stored one, else "WORK" */
  readonly type?: string | undefined;
}

export interface Contact {
  readonly id: string;
  readonly name: string;
  readonly lastName: string;
  readonly phones: readonly ContactValue[];
  readonly emails: readonly ContactValue[];
  readonly originatorId: string | undefined;
  readonly originId: string | undefined;
  /** Everything that came, by the classic names; user fields included. */
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface ContactChange {
  /** By the classic names: `NAME`, `LAST_NAME`, `UF_CRM_…`; not `PHONE` and `EMAIL`. */
  readonly fields?: Parameters;
  readonly phones?: readonly NewContactValue[];
  readonly emails?: readonly NewContactValue[];
}

export interface Contacts {
  /** `undefined` when there is no such contact, or none that the webhook's user may see. */
  get(id: string): Promise<Contact | undefined>;
  /** Contacts with exactly this phone or e-mail, as it is stored: Bitrix24 compares no other forms of a number. */
  find(by: { readonly phone: string } | { readonly email: string }): Promise<readonly Contact[]>;
  /**
   * Creates a contact once per (`originatorId`, `originId`): looks for it before, and again when the reply was lost. Two
   * processes may still both create: Bitrix24 has no unique key.
   */
  add(contact: ContactChange & { readonly originatorId: string; readonly originId: string }): Promise<Contact>;
  /**
   * Changes what is given and gives the contact as it is then. Phones and e-mails that are not named stay.
   *
   * @throws {InputError} for an `id` that the contact does not have, and for an empty value: Bitrix24 would delete the row.
   */
  update(id: string, change: ContactChange): Promise<Contact>;
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<Contact>;
}

const valuesSchema = v.fallback(
  v.pipe(
    v.array(v.object({ ID: idText, VALUE: v.string(), VALUE_TYPE: v.fallback(v.string(), "WORK") })),
    v.transform((rows) => rows.map(({ ID, VALUE, VALUE_TYPE }) => ({ id: ID, value: VALUE, type: VALUE_TYPE }))),
  ),
  [],
);
const contactSchema = v.looseObject({
  ID: idText,
  NAME: optionalText,
  LAST_NAME: optionalText,
  PHONE: valuesSchema,
  EMAIL: valuesSchema,
  ORIGINATOR_ID: optionalText,
  ORIGIN_ID: optionalText,
});

function toContact(row: unknown): Contact {
  const parsed = readAnswer(contactSchema, row, "crm.contact.list");
  return {
    id: parsed.ID,
    name: parsed.NAME ?? "",
    lastName: parsed.LAST_NAME ?? "",
    phones: parsed.PHONE,
    emails: parsed.EMAIL,
    originatorId: parsed.ORIGINATOR_ID,
    originId: parsed.ORIGIN_ID,
    fields: row as Readonly<Record<string, unknown>>,
  };
}

/** What a `Contact` is made of: asked for beside what a `select` names. */
const contactFields = ["ID", "NAME", "LAST_NAME", "PHONE", "EMAIL", "ORIGINATOR_ID", "ORIGIN_ID"];
/** `*` holds neither user fields nor phones and e-mails. */
const select = ["*", "UF_*", "PHONE", "EMAIL"];

function toRows(field: string, wanted: readonly NewContactValue[], stored: readonly ContactValue[]): Parameters[] {
  const rows: Parameters[] = [];
  for (const { id, value, type } of wanted) {
    if (value.trim() === "") throw new InputError(field, "must not be empty: Bitrix24 would delete the stored row");
    const known = stored.find((row) => (id === undefined ? row.value === value : row.id === id));
    if (id !== undefined && !known) throw new InputError(field, `has no row ${id}`);
    const kind = type ?? known?.type ?? "WORK";
    if (known?.value === value && known.type === kind) continue;
    rows.push({ ...(known ? { ID: known.id } : {}), VALUE: value, VALUE_TYPE: kind });
  }
  return rows;
}

/** What is to be sent. A row without `ID` is added, whatever the contact has: only new values may go without one. */
function toFields({ fields = {}, phones = [], emails = [] }: ContactChange, stored?: Contact): Parameters {
  if ("PHONE" in fields || "EMAIL" in fields)
    throw new InputError("fields", "must not hold PHONE or EMAIL; use phones");
  const phoneRows = toRows("phones", phones, stored?.phones ?? []);
  const emailRows = toRows("emails", emails, stored?.emails ?? []);
  return {
    ...fields,
    ...(phoneRows.length > 0 ? { PHONE: phoneRows } : {}),
    ...(emailRows.length > 0 ? { EMAIL: emailRows } : {}),
  };
}

/**
 * Contacts by the `crm.contact` methods. They refuse with an empty code and a text in the portal's language, so a contact
 * is looked for by the list, which answers plainly.
 *
 * @see apidocs.bitrix24.ru, "Contacts" (read 2026-11)
 */
export function createContacts(bitrix: Pick<Bitrix, "call" | "list">): Contacts {
  async function search(filter: Parameters): Promise<readonly Contact[]> {
    const method = "crm.contact.list";
    const answer = await bitrix.call(method, { filter, select, order: { ID: "ASC" }, start: -1 });
    return readAnswer(v.array(v.unknown()), answer, method).map(toContact);
  }
  const get = async (id: string): Promise<Contact | undefined> =>
    (await search({ "=ID": id })).find((contact) => contact.id === id);

  async function read(id: string): Promise<Contact> {
    const contact = await get(id);
    if (!contact) throw new InputError("id", "is not the id of a contact that this user may see");
    return contact;
  }

  return {
    get,
    async find(by) {
      const [field, value] = "phone" in by ? ["PHONE", by.phone] : ["EMAIL", by.email];
      if (value.trim() === "") throw new InputError("phone" in by ? "phone" : "email", "must not be empty");
      // A filter that was ignored would give everybody.
      return (await search({ [field]: value })).filter(({ phones, emails }) =>
        (field === "PHONE" ? phones : emails).some((row) => row.value === value),
      );
    },
    async add({ originatorId, originId, ...change }) {
      for (const [name, value] of Object.entries({ originatorId, originId })) {
        if (!value) throw new InputError(name, "must not be empty: by it the contact is found again");
      }
      const origin = { ORIGINATOR_ID: originatorId, ORIGIN_ID: originId };
      const fields = { ...toFields(change), ...origin };
      return createOnce({
        method: "crm.contact.add",
        match: origin,
        find: async () => (await search(equalTo(origin))).find((contact) => holds(contact.fields, origin)),
        create: async () =>
          read(readAnswer(idText, await bitrix.call("crm.contact.add", { fields }), "crm.contact.add")),
      });
    },
    async update(id, change) {
      const stored = await read(id);
      const fields = toFields(change, stored);
      const isSame = Object.entries(fields).every(
        ([name, value]) =>
          name !== "PHONE" && name !== "EMAIL" && String(stored.fields[name] ?? "") === String(value ?? ""),
      );
      if (isSame) return stored;
      await bitrix.call("crm.contact.update", { id, fields });
      return read(id);
    },
    async *list(parameters = {}, options = {}) {
      const all = withFields({ select, ...parameters }, contactFields);
      for await (const row of bitrix.list("crm.contact.list", all, options)) yield toContact(row);
    },
  };
}
