import { ApiError, type Clock, type Logger, ResponseShapeError, redactingLogger, systemClock } from "@orderbridge/core";
import * as v from "valibot";
import type { Bitrix } from "./bitrix.ts";
import { dealEvents } from "./event-handler.ts";
import type { BitrixStorage } from "./storage.ts";

export interface OfflineQueueOptions {
  /** A client of an application (`oauth`) with the rights of an administrator: a webhook may not read the queue. */
  readonly bitrix: Pick<Bitrix, "call">;
  readonly storage: Pick<BitrixStorage, "work">;
  /** Work topic by event name, in upper case. @defaultValue the events of deals, to `dealTopic` */
  readonly topics?: Readonly<Record<string, string>>;
  /**
   * The option `connector` of the client: the portal then leaves out what this client writes. Needs `rest_auth_connector` on
   * the portal's plan. Without it our own changes may come back, which the sync finds settled. @defaultValue none
   */
  readonly connector?: string;
  /** Pause when the queue is empty, in milliseconds. @defaultValue 10_000 */
  readonly pollMs?: number;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
}

export interface OfflineQueue {
  /** Binds the events that are missing; again after the application was installed anew. Resolves to their names. */
  bind(): Promise<readonly string[]>;
  /** Makes everything that waits in the queue due for the worker; resolves to the number of rows. */
  drain(): Promise<number>;
  /** Drains until the signal is aborted. Several processes may: the portal hands each row to one. */
  run(signal: AbortSignal): Promise<void>;
}

const rowSchema = v.object({
  MESSAGE_ID: v.string(),
  EVENT_NAME: v.string(),
  EVENT_DATA: v.fallback(v.optional(v.unknown()), undefined),
  PROCESS_ID: v.fallback(v.optional(v.nullable(v.string())), undefined),
});
type QueueRow = v.InferOutput<typeof rowSchema>;
const portionSchema = v.object({
  process_id: v.fallback(v.nullish(v.string()), undefined),
  events: v.array(rowSchema),
});
const bindingsSchema = v.array(
  v.object({
    event: v.string(),
    offline: v.fallback(v.union([v.number(), v.string(), v.boolean()]), 0),
    connector_id: v.fallback(v.nullish(v.string()), undefined),
  }),
);
const dataSchema = v.object({
  FIELDS: v.object({ ID: v.pipe(v.union([v.number(), v.string()]), v.transform(String)) }),
});

const portionSize = 50;

function read<Schema extends v.GenericSchema>(schema: Schema, value: unknown, method: string): v.InferOutput<Schema> {
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  const paths = parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)");
  throw new ResponseShapeError(`bitrix: ${method} answered an unexpected shape at ${paths.slice(0, 5).join(", ")}`, {
    vendor: "bitrix",
    status: 200,
    paths,
    outcome: "executed",
  });
}

/**
 * Reads the portal's offline queue: the one way to events, funnel moves included, that loses none while this backend is
 * down. A portion is reserved, its entities are made due in the storage, and only then it is cleared; a row that cannot be
 * read is marked as failed. What a reply that was lost left reserved is looked up and done at the next turn.
 *
 * On a plan without `rest_offline_extended` a portion is deleted when it is read: a lost reply then loses its events, which
 * the sweep finds.
 *
 * @see apidocs.bitrix24.ru, "Offline events" (read 2026-08)
 */
export function createOfflineQueue(options: OfflineQueueOptions): OfflineQueue {
  const { bitrix, storage, topics = dealEvents, connector, pollMs = 10_000, clock = systemClock } = options;
  const logger = redactingLogger(options.logger ?? console);
  const withConnector = connector === undefined ? {} : { auth_connector: connector };
  /** Whether the plan lets a portion be reserved. */
  let reserves = true;
  /** The reply to a reservation may have been lost, here or in a process that died. */
  let mayHaveLeft = true;

  /** Makes the entities due; gives the rows that could not be read. */
  async function markAll(rows: readonly QueueRow[]): Promise<readonly QueueRow[]> {
    const unreadable: QueueRow[] = [];
    for (const row of rows) {
      const event = row.EVENT_NAME.toUpperCase();
      const topic = Object.hasOwn(topics, event) ? topics[event] : undefined;
      if (topic === undefined) continue;
      const data = v.safeParse(dataSchema, row.EVENT_DATA);
      if (data.success && /^[1-9]\d{0,18}$/.test(data.output.FIELDS.ID))
        await storage.work.mark(topic, data.output.FIELDS.ID);
      else unreadable.push(row);
    }
    return unreadable;
  }

  /** Marks, then takes out of the queue; gives how many. Until then a crash leaves the rows where they are. */
  async function settle(processId: string, rows: readonly QueueRow[]): Promise<number> {
    const unreadable = await markAll(rows);
    const failed = unreadable.map((row) => row.MESSAGE_ID);
    const done = rows.map((row) => row.MESSAGE_ID).filter((id) => !failed.includes(id));
    if (failed.length > 0) {
      logger.warn("bitrix: rows of the offline queue could not be read; they stay there, marked as failed", {
        messageIds: failed,
      });
      await bitrix.call("event.offline.error", { process_id: processId, message_id: failed });
    }
    if (done.length > 0) await bitrix.call("event.offline.clear", { process_id: processId, message_id: done });
    return done.length;
  }

  /** Rows that are reserved and were not cleared. Doing them twice only makes an entity due once more. */
  async function recover(): Promise<number> {
    const rows = read(
      v.array(rowSchema),
      await bitrix.call("event.offline.list", { filter: { "!PROCESS_ID": "" }, order: { ID: "ASC" } }),
      "event.offline.list",
    );
    const byProcess = Map.groupBy(rows, ({ PROCESS_ID }) => PROCESS_ID ?? "");
    let taken = 0;
    for (const [processId, left] of byProcess) if (processId !== "") taken += await settle(processId, left);
    // A full page: more may be left. Whether a row that failed stays reserved is not documented: then it comes again.
    mayHaveLeft = rows.length >= portionSize && taken > 0;
    return rows.length;
  }

  async function takePortion(): Promise<number> {
    try {
      const answer = await bitrix.call("event.offline.get", {
        clear: reserves ? 0 : 1,
        limit: portionSize,
        ...withConnector,
      });
      const { process_id: processId, events } = read(portionSchema, answer, "event.offline.get");
      if (events.length === 0) return 0;
      if (!reserves) {
        const unreadable = await markAll(events);
        if (unreadable.length > 0) logger.warn("bitrix: rows of the offline queue could not be read and are gone");
      } else await settle(processId ?? "", events);
      return events.length;
    } catch (error) {
      if (reserves && error instanceof ApiError && error.vendorCode === "WRONG_LICENSE" && connector === undefined) {
        logger.warn("bitrix: the portal's plan does not reserve offline events; they are deleted as they are read");
        reserves = false;
        mayHaveLeft = false;
        return takePortion();
      }
      mayHaveLeft = reserves;
      throw error;
    }
  }

  async function drain(): Promise<number> {
    let count = 0;
    while (mayHaveLeft && reserves) count += await recover();
    for (;;) {
      const portion = await takePortion();
      count += portion;
      if (portion === 0) return count;
    }
  }

  return {
    drain,
    async bind() {
      const bound = read(bindingsSchema, await bitrix.call("event.get"), "event.get").filter(
        ({ event, offline }) => Number(offline) === 1 && event.toUpperCase() in topics,
      );
      // The portal keeps a queue for each connector, and only ours is read.
      const isOwn = ({ connector_id: id }: (typeof bound)[number]) => id == null || id === (connector ?? "");
      const others = new Set(bound.filter((one) => !isOwn(one)).map(({ connector_id: id }) => id));
      if (others.size > 0) {
        logger.warn("bitrix: offline events are bound with another connector too; nobody reads what it queues", {
          connectors: [...others],
        });
      }
      const ownEvents = new Set(bound.filter(isOwn).map(({ event }) => event.toUpperCase()));
      const missing = Object.keys(topics).filter((event) => !ownEvents.has(event));
      for (const event of missing) {
        await bitrix.call("event.bind", { event, event_type: "offline", ...withConnector });
      }
      return missing;
    },
    async run(signal) {
      while (!signal.aborted) {
        try {
          const count = await drain();
          if (count > 0) logger.debug("bitrix: offline events read", { count });
        } catch (error) {
          if (signal.aborted) return;
          logger.warn("bitrix: the offline queue could not be read; again later", { error });
        }
        await clock.sleep(pollMs, signal).catch(() => undefined);
      }
    },
  };
}
