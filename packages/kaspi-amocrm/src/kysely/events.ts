import { type AnyKysely, type DatabaseDialect, nowMs, transaction } from "@orderbridge/core/kysely";
import type { Kysely } from "kysely";
import type { AmocrmEvent, EventInbox, WaitingEvent } from "../amocrm/events.ts";

interface EventColumns {
  entity: string;
  /** Empty: further entities of this kind. */
  entity_id: string;
  mark: string;
  since: number | string;
}

const table = "kaspi_amocrm_event";
/** Rows per statement: each has a handful of parameters, of which SQLite takes 32 766. */
const partSize = 500;

export function createEventInbox(anyDb: AnyKysely, dialect: DatabaseDialect): EventInbox {
  const db = anyDb as Kysely<{ [table]: EventColumns }>;
  type Handle = typeof db;

  /** Of those, the ones that wait already. */
  async function known(handle: Handle, events: readonly AmocrmEvent[]): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    for (const part of parts(events)) {
      const rows = await handle
        .selectFrom(table)
        .select(["entity", "entity_id"])
        .where("entity_id", "in", part.map(idOf))
        .execute();
      for (const row of rows) found.add(keyOf({ entity: row.entity, id: row.entity_id || undefined }));
    }
    return found;
  }

  /** The events for which there is room, and one for each kind of the others. */
  async function fitting(
    handle: Handle,
    events: readonly AmocrmEvent[],
    limit: number,
  ): Promise<readonly AmocrmEvent[]> {
    const { count } = await handle
      .selectFrom(table)
      .select(({ fn }) => fn.countAll<number | string>().as("count"))
      .executeTakeFirstOrThrow();
    let room = limit - Number(count);
    if (events.length <= room) return events;
    const waiting = await known(handle, events);
    return unique(
      events.map((event) => {
        if (waiting.has(keyOf(event)) || room-- > 0) return event;
        return { entity: event.entity, id: undefined };
      }),
    );
  }

  return {
    async add(events, { limit }) {
      const mark = crypto.randomUUID();
      await transaction(db, dialect, async (trx) => {
        for (const part of parts(await fitting(trx, unique(events), limit))) {
          const rows = part.map((event) => ({
            entity: event.entity,
            entity_id: idOf(event),
            mark,
            since: nowMs(dialect),
          }));
          const insert = trx.insertInto(table).values(rows);
          await (dialect === "mariadb"
            ? insert.onDuplicateKeyUpdate({ mark })
            : insert.onConflict((conflict) => conflict.columns(["entity", "entity_id"]).doUpdateSet({ mark }))
          ).execute();
        }
      });
    },
    async waiting({ limit } = {}) {
      const query = db.selectFrom(table).selectAll().orderBy("since").orderBy("entity").orderBy("entity_id");
      const rows = await (limit === undefined ? query : query.limit(limit)).execute();
      return rows.map((row) => ({ entity: row.entity, id: row.entity_id || undefined, mark: row.mark }));
    },
    async remove(events) {
      const groups = new Map<string, WaitingEvent[]>();
      for (const event of events) {
        const name = `${event.entity} ${event.mark}`;
        const group = groups.get(name) ?? [];
        group.push(event);
        groups.set(name, group);
      }
      for (const group of groups.values()) {
        const { entity, mark } = group[0] as WaitingEvent;
        for (const part of parts(group)) {
          await transaction(db, dialect, (trx) =>
            trx
              .deleteFrom(table)
              .where("entity", "=", entity)
              .where("entity_id", "in", part.map(idOf))
              .where("mark", "=", mark)
              .execute(),
          );
        }
      }
    },
  };
}

const idOf = ({ id }: AmocrmEvent): string => id ?? "";
const keyOf = (event: AmocrmEvent): string => `${event.entity} ${idOf(event)}`;
/** Always in one order, so that two processes do not wait for each other's rows. */
const unique = (events: readonly AmocrmEvent[]): readonly AmocrmEvent[] =>
  [...new Map(events.map((event) => [keyOf(event), event])).entries()]
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([, event]) => event);
const parts = <Item>(items: readonly Item[]): Item[][] =>
  Array.from({ length: Math.ceil(items.length / partSize) }, (_, index) =>
    items.slice(index * partSize, (index + 1) * partSize),
  );
