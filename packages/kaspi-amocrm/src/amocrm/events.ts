import { type Clock, type LeaseStore, systemClock, withLease } from "@orderbridge/core";

/** Something happened to an entity. The hook that said so is not signed: read the entity through the API before acting. */
export interface AmocrmEvent {
  /** `leads`, `contacts`, `companies`, `customers`, `task`, `unsorted`, `talk`, `catalogs`, … */
  readonly entity: string;
  /** `undefined`: to several, more than the inbox has room for. Look at all that changed of late. */
  readonly id: string | undefined;
}

/** An event that was stored and is not handled yet. */
export interface WaitingEvent extends AmocrmEvent {
  /** Another one whenever the entity is told of again. */
  readonly mark: string;
}

/**
 * What amoCRM told of, until somebody has looked: one row per entity, however often it is told of. Outlives a crash.
 */
export interface EventInbox {
  /**
   * Stores the events, all or none. An entity that waits already is marked anew and keeps its place. When `limit` rows
   * wait, one row without an id for each kind of entity stands for all further ones.
   */
  add(events: readonly AmocrmEvent[], options: { readonly limit: number }): Promise<void>;
  /** The longest waiting first. `limit` left out: all. */
  waiting(options?: { readonly limit?: number }): Promise<readonly WaitingEvent[]>;
  /** Ends the wait of these, but not of what was told of again since. */
  remove(events: readonly WaitingEvent[]): Promise<void>;
}

export interface HandleEventsOptions {
  readonly events: EventInbox;
  readonly leases: LeaseStore;
  /**
   * Gets all that waits, each entity once; one call at a time over all processes that share the leases. After a crash or a
   * failure the same events come again. Resolves to whether it has looked; `false`, or an error, leaves them waiting.
   */
  readonly onEvents: (events: readonly AmocrmEvent[], signal: AbortSignal) => Promise<boolean>;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
}

const leaseTtlMs = 60_000;

/**
 * Hands on what waits in the inbox, once. Resolves to the number of events that are dealt with; `undefined` while another
 * process is at it.
 *
 * @throws what `onEvents` throws
 */
export async function handleAmocrmEvents({
  events: inbox,
  leases,
  onEvents,
  signal,
  clock = systemClock,
}: HandleEventsOptions): Promise<number | undefined> {
  if ((await inbox.waiting({ limit: 1 })).length === 0) return 0; // the usual case takes no lease
  const lease = {
    leases,
    name: "amocrm-events",
    holder: crypto.randomUUID(),
    ttlMs: leaseTtlMs,
    clock,
    ...(signal && { signal }),
  };
  const result = await withLease(lease, async (held) => {
    const events = await inbox.waiting(); // before anything is read, so that what is read is newer
    if (events.length === 0 || !(await onEvents(events, held.signal))) return 0;
    await inbox.remove(events);
    return events.length;
  });
  return result.state === "done" ? result.value : undefined;
}
