import { randomBytes } from "node:crypto";
import type { AmocrmEvent, WaitingEvent } from "../amocrm/events.ts";
import {
  emptyRow,
  type KaspiAmocrmStorage,
  type LedgerPhase,
  type LedgerRow,
  type OrderKey,
  unfinishedPhases,
} from "../ledger.ts";

/** The sync's storage in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createKaspiAmocrmMemoryStorage(): KaspiAmocrmStorage {
  return { orders: createOrders(), contacts: createContacts(), elements: createElements(), events: createEvents() };
}

function createOrders(): KaspiAmocrmStorage["orders"] {
  const rows = new Map<string, { row: LedgerRow; fence: number }>();
  const idOf = ({ shop, code }: OrderKey) => JSON.stringify([shop, code]);
  const all = () => [...rows.values()].map(({ row }) => row);
  const byAge = (left: LedgerRow, right: LedgerRow) =>
    left.orderedAt.getTime() - right.orderedAt.getTime() ||
    (left.code === right.code ? 0 : left.code < right.code ? -1 : 1);

  return {
    async observe(shop, orders, at) {
      return orders.flatMap(({ code, orderedAt, state, status, isFinal, mustBeKnown = false }) => {
        const id = idOf({ shop, code });
        const known = rows.get(id);
        if (!known && mustBeKnown) return [];
        const finalSince = isFinal ? (known?.row.finalSince ?? at) : undefined;
        const row: LedgerRow = known
          ? { ...known.row, state, status, finalSince }
          : { ...emptyRow, shop, code, orderedAt, state, status, finalSince, dueAt: at };
        rows.set(id, { row, fence: known?.fence ?? 0 });
        return row;
      });
    },
    async claim(keys, fence) {
      return keys.flatMap((key) => {
        const entry = rows.get(idOf(key));
        if (!entry || entry.fence > fence) return [];
        entry.fence = fence;
        return [entry.row];
      });
    },
    async save(changes, fence) {
      const entries = changes.map((change) => ({ change, entry: rows.get(idOf(change)) }));
      if (entries.some(({ entry }) => !entry || entry.fence > fence)) return false;
      for (const { change, entry } of entries) if (entry) entry.row = { ...entry.row, ...change } as LedgerRow;
      return true;
    },
    get: async (key) => rows.get(idOf(key))?.row,
    async due(shop, { at, limit }) {
      return all()
        .filter((row) => row.shop === shop && unfinishedPhases.includes(row.phase) && row.dueAt <= at)
        .sort(byAge)
        .slice(0, limit);
    },
    async open(shop, { finalAfter, orderedBefore, after, limit }) {
      return all()
        .filter((row) => row.shop === shop && (row.phase === "done" || row.phase === "seen"))
        .filter((row) => row.finalSince === undefined || row.finalSince > finalAfter)
        .filter((row) => row.orderedAt < orderedBefore)
        .filter((row) => !after || byAge(row, { ...row, ...after }) > 0)
        .sort(byAge)
        .slice(0, limit);
    },
    async noteStages(stageByLead) {
      for (const entry of rows.values()) {
        const stageId = entry.row.leadId === undefined ? undefined : stageByLead.get(entry.row.leadId);
        if (stageId !== undefined) entry.row = { ...entry.row, seenStageId: stageId };
      }
    },
    async byLead(leadIds) {
      return all().filter((row) => row.leadId !== undefined && leadIds.includes(row.leadId));
    },
    async counts() {
      const counts: Partial<Record<LedgerPhase, number>> = {};
      for (const { phase } of all()) counts[phase] = (counts[phase] ?? 0) + 1;
      return counts;
    },
    async parked(limit) {
      return all()
        .filter((row) => row.phase === "parked")
        .sort(byAge)
        .slice(0, limit);
    },
  };
}

function createContacts(): KaspiAmocrmStorage["contacts"] {
  const secret = randomBytes(32).toString("base64");
  const contacts = new Map<string, ReadonlySet<string>>();
  return {
    secret: async () => secret,
    async find(hashes) {
      const found = new Map<string, string>();
      for (const [contactId, phones] of contacts) {
        for (const hash of hashes) {
          if (!phones.has(hash)) continue;
          const other = found.get(hash);
          if (other === undefined || Number(contactId) < Number(other)) found.set(hash, contactId);
        }
      }
      return found;
    },
    async replace(changed) {
      for (const { contactId, hashes } of changed) contacts.set(contactId, new Set(hashes));
    },
    async erase(hashes) {
      const erased = [...contacts].filter(([, phones]) => hashes.some((hash) => phones.has(hash))).map(([id]) => id);
      for (const id of erased) contacts.delete(id);
      return erased.sort((left, right) => Number(left) - Number(right));
    },
  };
}

function createElements(): KaspiAmocrmStorage["elements"] {
  const elements = new Map<string, string>();
  const idOf = (catalogId: string, sku: string) => JSON.stringify([catalogId, sku]);
  return {
    async find(catalogId, skus) {
      return new Map(
        skus.flatMap((sku) => {
          const elementId = elements.get(idOf(catalogId, sku));
          return elementId === undefined ? [] : [[sku, elementId] as const];
        }),
      );
    },
    async add(catalogId, added) {
      for (const { sku, elementId } of added) elements.set(idOf(catalogId, sku), elementId);
    },
    async forget(catalogId, elementIds) {
      for (const [id, elementId] of elements) {
        if (id.startsWith(JSON.stringify([catalogId]).slice(0, -1)) && elementIds.includes(elementId))
          elements.delete(id);
      }
    },
  };
}

function createEvents(): KaspiAmocrmStorage["events"] {
  const rows = new Map<string, WaitingEvent>();
  const idOf = ({ entity, id = "" }: AmocrmEvent) => JSON.stringify([entity, id]);
  let marks = 0;
  return {
    async add(events, { limit }) {
      const mark = String(++marks);
      for (const event of events) {
        const fits = rows.size < limit || rows.has(idOf(event));
        const { entity, id } = fits ? event : { entity: event.entity, id: undefined };
        rows.set(idOf({ entity, id }), { entity, id, mark });
      }
    },
    waiting: async ({ limit } = {}) => [...rows.values()].slice(0, limit),
    async remove(events) {
      for (const event of events) if (rows.get(idOf(event))?.mark === event.mark) rows.delete(idOf(event));
    },
  };
}
