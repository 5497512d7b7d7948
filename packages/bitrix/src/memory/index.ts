import { type Clock, systemClock } from "@orderbridge/core";
import type {
  BitrixStorage,
  BitrixStores,
  ClaimedWork,
  LinkStore,
  Order,
  OrderChange,
  OrderStore,
  Product,
  ProductConflict,
  ProductStore,
  SyncLink,
  WorkEntry,
  WorkStore,
} from "../storage.ts";

interface WorkRow {
  readonly topic: string;
  readonly key: string;
  readonly generation: number;
  readonly state: "due" | "done" | "parked";
  readonly attempts: number;
  readonly failures: number;
  readonly dueAt: number;
  readonly claim: string | undefined;
  readonly claimEndsAt: number;
  readonly lastError: string | undefined;
}

/** Rows are never changed in place, so a copy of the maps is a snapshot. */
interface Tables {
  orders: Map<string, Order>;
  changes: Map<string, readonly OrderChange[]>;
  products: Map<string, Product>;
  conflicts: Map<string, readonly ProductConflict[]>;
  links: Map<string, SyncLink>;
  work: Map<string, WorkRow>;
}

/** State in this process's memory: for tests and for trying things. A restart forgets everything. */
export function createBitrixMemoryStorage({ clock = systemClock }: { readonly clock?: Clock } = {}): BitrixStorage {
  const tables: Tables = {
    orders: new Map(),
    changes: new Map(),
    products: new Map(),
    conflicts: new Map(),
    links: new Map(),
    work: new Map(),
  };
  const stores: BitrixStores = {
    orders: createOrders(tables),
    products: createProducts(tables),
    links: createLinks(tables),
    work: createWork(tables, clock),
  };
  let queue: Promise<unknown> = Promise.resolve();

  function inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const result = queue.then(work);
    queue = result.catch(() => undefined);
    return result;
  }

  return {
    orders: inTurns(stores.orders, inTurn),
    products: inTurns(stores.products, inTurn),
    links: inTurns(stores.links, inTurn),
    work: inTurns(stores.work, inTurn),
    transaction: (work) =>
      inTurn(async () => {
        const before = Object.entries(tables).map(([name, rows]) => [name, new Map(rows)]);
        try {
          return await work(stores);
        } catch (error) {
          Object.assign(tables, Object.fromEntries(before));
          throw error;
        }
      }),
    prune: ({ olderThanMs = 30 * 86_400_000, historyOlderThanMs = 365 * 86_400_000 } = {}) =>
      inTurn(async () => {
        const now = clock.now().getTime();
        const isRecent = (at: Date) => at.getTime() >= now - historyOlderThanMs;
        const counts = { work: 0, changes: 0, conflicts: 0 };
        for (const [key, { state, dueAt }] of tables.work) {
          if (state === "done" && dueAt < now - olderThanMs && tables.work.delete(key)) counts.work++;
        }
        for (const [id, all] of tables.changes) {
          const kept = all.filter(({ changedAt }) => isRecent(changedAt));
          counts.changes += all.length - kept.length;
          tables.changes.set(id, kept);
        }
        for (const [id, all] of tables.conflicts) {
          const kept = all.filter(({ at }) => isRecent(at));
          counts.conflicts += all.length - kept.length;
          tables.conflicts.set(id, kept);
        }
        return counts;
      }),
    async ping() {},
  };
}

/** Lets each call of a store wait for its turn, so that no transaction sees half of another. */
function inTurns<Store extends object>(
  store: Store,
  inTurn: <Value>(work: () => Promise<Value>) => Promise<Value>,
): Store {
  const methods = Object.entries(store as Record<string, (...values: unknown[]) => Promise<unknown>>);
  return Object.fromEntries(
    methods.map(([name, method]) => [name, (...values: unknown[]) => inTurn(() => method(...values))]),
  ) as Store;
}

function createOrders(tables: Tables): OrderStore {
  const find = (test: (order: Order) => boolean) => [...tables.orders.values()].find(test);
  return {
    async insert(order) {
      const taken = find(
        ({ id, bitrixOrderId, dealId }) =>
          id === order.id ||
          (bitrixOrderId !== undefined && bitrixOrderId === order.bitrixOrderId) ||
          (dealId !== undefined && dealId === order.dealId),
      );
      if (taken) return false;
      tables.orders.set(order.id, order);
      return true;
    },
    async get(id) {
      return tables.orders.get(id);
    },
    async getByBitrixOrderId(bitrixOrderId) {
      return find((order) => order.bitrixOrderId === bitrixOrderId);
    },
    async list({ limit }) {
      return [...tables.orders.values()].reverse().slice(0, limit);
    },
    async replace(order, changes) {
      if (tables.orders.get(order.id)?.version !== order.version - 1) return false;
      const { id, bitrixOrderId, dealId } = order;
      if (find((other) => other.id !== id && dealId !== undefined && other.dealId === dealId)) {
        throw new Error("bitrix: the deal belongs to another order");
      }
      if (find((other) => other.id !== id && bitrixOrderId !== undefined && other.bitrixOrderId === bitrixOrderId)) {
        throw new Error("bitrix: the Bitrix order belongs to another order");
      }
      tables.orders.set(order.id, order);
      tables.changes.set(order.id, [...(tables.changes.get(order.id) ?? []), ...changes]);
      return true;
    },
    async history(id) {
      return tables.changes.get(id) ?? [];
    },
  };
}

function createProducts(tables: Tables): ProductStore {
  return {
    async get(id) {
      return tables.products.get(id);
    },
    async put(product, conflict) {
      if ((tables.products.get(product.id)?.version ?? 0) !== product.version - 1) return false;
      tables.products.set(product.id, product);
      if (conflict) tables.conflicts.set(product.id, [...(tables.conflicts.get(product.id) ?? []), conflict]);
      return true;
    },
    async conflicts(productId) {
      return tables.conflicts.get(productId) ?? [];
    },
  };
}

function createLinks(tables: Tables): LinkStore {
  const linkKey = (sync: string, leftId: string) => JSON.stringify([sync, leftId]);
  const find = (sync: string, rightId: string) =>
    [...tables.links.values()].find((link) => link.sync === sync && link.rightId === rightId);
  return {
    async getByLeft(sync, leftId) {
      return tables.links.get(linkKey(sync, leftId));
    },
    async getByRight(sync, rightId) {
      return find(sync, rightId);
    },
    async put(link) {
      const stored = tables.links.get(linkKey(link.sync, link.leftId));
      if ((stored?.version ?? 0) !== link.version - 1) return false;
      const holder = find(link.sync, link.rightId);
      if (holder && holder.leftId !== link.leftId) return false;
      tables.links.set(linkKey(link.sync, link.leftId), link);
      return true;
    },
    async list(sync, { after = "", limit }) {
      return [...tables.links.values()]
        .filter((link) => link.sync === sync && link.leftId > after)
        .sort((left, right) => (left.leftId < right.leftId ? -1 : 1))
        .slice(0, limit);
    },
  };
}

function createWork(tables: Tables, clock: Clock): WorkStore {
  const workKey = (topic: string, key: string) => JSON.stringify([topic, key]);
  const change = (work: ClaimedWork, next: (row: WorkRow) => Partial<WorkRow>): boolean => {
    const row = tables.work.get(workKey(work.topic, work.key));
    if (row?.claim !== work.claim) return false;
    tables.work.set(workKey(work.topic, work.key), { ...row, claim: undefined, claimEndsAt: 0, ...next(row) });
    return true;
  };
  return {
    async mark(topic, key, { delayMs = 0 } = {}) {
      const row = tables.work.get(workKey(topic, key));
      const dueAt = clock.now().getTime() + delayMs;
      tables.work.set(workKey(topic, key), {
        topic,
        key,
        generation: (row?.generation ?? 0) + 1,
        state: "due",
        attempts: row?.state === "due" ? row.attempts : 0,
        failures: row?.state === "due" ? row.failures : 0,
        dueAt: row?.state === "due" ? Math.min(row.dueAt, dueAt) : dueAt,
        claim: row?.claim,
        claimEndsAt: row?.claimEndsAt ?? 0,
        lastError: row?.lastError,
      });
    },
    async claim({ topics, limit, ttlMs }) {
      const now = clock.now().getTime();
      const free = [...tables.work.values()]
        .filter(
          (row) => topics.includes(row.topic) && row.state === "due" && row.dueAt <= now && row.claimEndsAt <= now,
        )
        .sort((left, right) => left.dueAt - right.dueAt)
        .slice(0, limit);
      return free.map((row) => {
        const claim = crypto.randomUUID();
        const attempt = row.attempts + 1;
        tables.work.set(workKey(row.topic, row.key), { ...row, attempts: attempt, claim, claimEndsAt: now + ttlMs });
        return { topic: row.topic, key: row.key, generation: row.generation, attempt, failures: row.failures, claim };
      });
    },
    async finish(work) {
      return change(work, (row) => ({
        state: row.generation === work.generation ? "done" : "due",
        attempts: 0,
        failures: 0,
        lastError: undefined,
      }));
    },
    async retry(work, { delayMs, error, isOutage = false }) {
      return change(work, (row) => ({
        failures: row.failures + (isOutage ? 0 : 1),
        dueAt: row.generation === work.generation ? clock.now().getTime() + delayMs : row.dueAt,
        lastError: error,
      }));
    },
    async park(work, error) {
      return change(work, (row) => ({
        state: row.generation === work.generation ? "parked" : "due",
        attempts: row.generation === work.generation ? row.attempts : 0,
        failures: row.generation === work.generation ? row.failures : 0,
        lastError: error,
      }));
    },
    async get(topic, key) {
      const row = tables.work.get(workKey(topic, key));
      return row && toEntry(row);
    },
    async parked({ limit }) {
      return [...tables.work.values()]
        .filter(({ state }) => state === "parked")
        .sort((left, right) => (workKey(left.topic, left.key) < workKey(right.topic, right.key) ? -1 : 1))
        .slice(0, limit)
        .map(toEntry);
    },
  };
}

const toEntry = ({ topic, key, state, attempts, lastError }: WorkRow): WorkEntry => ({
  topic,
  key,
  state,
  attempts,
  lastError,
});
