import { createHmac } from "node:crypto";
import type { Clock, WatermarkStore } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { Contact } from "../amocrm/contacts.ts";
import type { ContactIndex } from "../ledger.ts";
import { createBatchSize, writeSurely } from "./bulk.ts";
import { clockToleranceMs } from "./stages.ts";

interface ContactRequest {
  readonly phone: string;
  readonly name: string;
}

export interface ContactFinder {
  /**
   * The contact of each phone, created where there is none. `interruptedAt`: an attempt that began then may have made
   * some that the search does not know yet.
   */
  ensure(
    requests: readonly ContactRequest[],
    options: { readonly interruptedAt: Date | undefined; readonly beforeWrite: () => void },
  ): Promise<ContactResult>;
  /** Learns which phones people have moved from one card to another; nothing before the first walk. */
  refresh(): Promise<void>;
  /** After a contact was refused: whether it is gone from the CRM, and then it is forgotten. */
  forgetGone(contactId: string): Promise<boolean>;
  /** Forgets everybody with this phone; resolves to their ids in the CRM, of which it is asked first. */
  erase(phone: string): Promise<readonly string[]>;
}

interface ContactResult {
  readonly ids: ReadonlyMap<string, string>;
  readonly rejected: ReadonlyMap<string, string>;
  /** Phones whose contact may still be on its way. */
  readonly unknown: ReadonlySet<string>;
}

/** Contacts changed within the same second as the newest known one may have been missed. */
const overlapSeconds = 60;

/**
 * Finds contacts by exact phone.
 *
 * `index`: one walk over all contacts at the first use, then one read of the recently changed ones whenever an unknown
 * phone comes. `query`: one fuzzy search per unknown phone, hits checked exactly.
 */
export function createContactFinder({
  amocrm,
  index,
  watermarks,
  lookup,
  responsibleUserId,
  clock,
}: {
  readonly amocrm: Amocrm;
  readonly index: ContactIndex;
  readonly watermarks: WatermarkStore;
  readonly lookup: "index" | "query";
  readonly responsibleUserId: string | undefined;
  readonly clock: Clock;
}): ContactFinder {
  const watermark = `amocrm-contacts:${amocrm.host}`;
  const batchSize = createBatchSize(50);
  let secret: string | undefined;

  async function hash(phone: string): Promise<string> {
    secret ??= await index.secret();
    return createHmac("sha256", secret).update(phone).digest("hex");
  }

  async function store(contacts: readonly Contact[]): Promise<void> {
    const entries = contacts.map(async ({ id, phones }) => ({
      contactId: id,
      hashes: await Promise.all(phones.map(hash)),
    }));
    await index.replace(await Promise.all(entries));
  }

  async function known(phones: readonly string[]): Promise<Map<string, string>> {
    const hashes = new Map(await Promise.all(phones.map(async (phone) => [await hash(phone), phone] as const)));
    const found = await index.find([...hashes.keys()]);
    return new Map([...found].map(([key, contactId]) => [hashes.get(key) as string, contactId]));
  }

  /** Reads what changed since the last time, newest first; a list is not subject to the search's lag. */
  async function refresh(): Promise<void> {
    const position = await watermarks.get(watermark);
    const until = position === undefined ? Number.NEGATIVE_INFINITY : Number(position) - overlapSeconds;
    let newest: number | undefined;
    let batch: Contact[] = [];
    for await (const contact of amocrm.contacts.list({ order: { by: "updated_at", direction: "desc" } })) {
      const at = (contact.updatedAt?.getTime() ?? 0) / 1000;
      newest ??= at;
      if (at < until) break;
      batch.push(contact);
      if (batch.length === 250) {
        await store(batch);
        batch = [];
      }
    }
    await store(batch);
    // Whoever else moved it read the same list; the older position only means reading more.
    if (newest !== undefined && String(newest) !== position)
      await watermarks.advance(watermark, position, String(newest));
  }

  /** What a write that began then may have made; of the others nothing. */
  async function lookBehind(startedAt: Date): Promise<void> {
    const recent: Contact[] = [];
    for await (const contact of amocrm.contacts.list({ order: { by: "updated_at", direction: "desc" } })) {
      if (contact.updatedAt && contact.updatedAt.getTime() < startedAt.getTime() - clockToleranceMs) break;
      recent.push(contact);
    }
    await store(recent);
  }

  async function search(phones: readonly string[]): Promise<void> {
    if (lookup === "index") return refresh();
    for (const phone of phones) {
      const contact = await amocrm.contacts.findByPhone(phone);
      if (contact) await store([contact]);
    }
  }

  return {
    async forgetGone(contactId) {
      if ((await amocrm.contacts.get(contactId)) !== undefined) return false;
      await index.replace([{ contactId, hashes: [] }]);
      return true;
    },
    async erase(phone) {
      const found = await amocrm.contacts.allByPhone(phone); // one that only the CRM knows must be named too
      await index.replace(found.map(({ id }) => ({ contactId: id, hashes: [] }))); // also under their other phones
      const erased = await index.erase([await hash(phone)]);
      const ids = [...new Set([...found.map(({ id }) => id), ...erased])];
      return ids.sort((left, right) => Number(left) - Number(right));
    },
    async refresh() {
      if (lookup === "index" && (await watermarks.get(watermark)) !== undefined) await refresh();
    },
    async ensure(requests, { interruptedAt, beforeWrite }) {
      const wanted = new Map(requests.map((request) => [request.phone, request])); // one contact per phone
      const phones = [...wanted.keys()];
      const ids = await known(phones);
      const missing = () => phones.filter((phone) => !ids.has(phone));
      const learn = async () => {
        for (const [phone, id] of await known(missing())) ids.set(phone, id);
      };
      if (missing().length === 0) return { ids, rejected: new Map(), unknown: new Set() };
      if (interruptedAt && lookup === "query") {
        await lookBehind(interruptedAt);
        await learn();
      }
      await search(missing());
      await learn();
      // The number of the item stands for the phone, which does not go where it need not.
      const items = missing().map((phone, number) => ({
        requestId: String(number),
        phone,
        name: wanted.get(phone)?.name ?? phone,
      }));
      const phoneOf = new Map(items.map(({ requestId, phone }) => [requestId, phone]));
      const startedAt = clock.now();
      const result = await writeSurely({
        items,
        keyOf: ({ requestId }) => requestId,
        batchSize,
        beforeWrite,
        async send(batch) {
          const answer = await amocrm.contacts.create(
            batch.map((item) => ({ ...item, ...(responsibleUserId !== undefined && { responsibleUserId }) })),
          );
          await store(
            [...answer.written].map(([key, id]) => ({
              id,
              phones: [phoneOf.get(key) as string],
              updatedAt: undefined,
            })),
          );
          return answer;
        },
        async find(batch) {
          await (lookup === "index" ? refresh() : lookBehind(startedAt));
          const found = await known(batch.map(({ phone }) => phone));
          return new Map(
            batch.flatMap(({ requestId, phone }) => (found.has(phone) ? [[requestId, found.get(phone)!]] : [])),
          );
        },
      });
      for (const [key, id] of result.ids) ids.set(phoneOf.get(key) as string, id);
      return {
        ids,
        rejected: new Map([...result.rejected].map(([key, reason]) => [phoneOf.get(key) as string, reason])),
        unknown: new Set([...result.unknown].map((key) => phoneOf.get(key) as string)),
      };
    },
  };
}
