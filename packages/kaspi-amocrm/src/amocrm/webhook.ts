import {
  type Clock,
  defineHandler,
  type FetchHandler,
  type FormTree,
  type Logger,
  parseForm,
  systemClock,
} from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";
import type { AmocrmEvent, EventInbox } from "./events.ts";

export interface AmocrmWebhookOptions {
  /** Last part of the path that was given to amoCRM: unguessable, since nothing else proves the sender. */
  readonly secret: string;
  /** Takes the events before they are answered; `handleAmocrmEvents` hands them on afterwards. */
  readonly events: Pick<EventInbox, "add">;
  /** How many entities may wait. For further ones a row for each kind of entity says that there are more. @defaultValue 10_000 */
  readonly maxWaiting?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** amoCRM waits two seconds. */
const answerWithinMs = 1_500;

/**
 * Answers amoCRM's webhooks: form bodies with several entities and several events each.
 *
 * 200 once all events of the body are stored. 503 when that fails or takes longer than a second and a half: amoCRM sends
 * the body again after 5, 15 and 15 minutes and an hour. A flood is never refused, since amoCRM switches an address off
 * after more than a hundred bad answers within two hours: bodies that come while others are being stored are stored
 * together, an entity that is told of again needs no more room, and beyond `maxWaiting` the kind is kept instead of ids.
 * 404 without the secret, 400 for what is no form.
 *
 * @see amocrm.ru/developers, "webhooks-format" (read 2026-01)
 */
export function createAmocrmWebhookHandler({
  secret,
  events: inbox,
  maxWaiting = 10_000,
  clock = systemClock,
  logger = console,
}: AmocrmWebhookOptions): FetchHandler {
  /** What came since the last write began, and the end of the write that takes it. */
  let gathering: { readonly events: Map<string, AmocrmEvent>; readonly stored: Promise<void> } | undefined;
  let lastWrite: Promise<void> = Promise.resolve();

  function gather() {
    const events = new Map<string, AmocrmEvent>();
    const stored = lastWrite.then(() => {
      gathering = undefined;
      return inbox.add([...events.values()], { limit: maxWaiting });
    });
    lastWrite = stored.catch((error: unknown) =>
      logger.error("amocrm: webhooks could not be stored; amoCRM sends them again", { count: events.size, error }),
    );
    return { events, stored };
  }

  function store(events: readonly AmocrmEvent[]): Promise<void> {
    gathering ??= gather();
    const { events: together, stored } = gathering;
    for (const event of events) {
      const key = `${event.entity} ${event.id}`;
      if (together.size < maxWaiting || together.has(key)) together.set(key, event);
      else together.set(event.entity, { entity: event.entity, id: undefined });
    }
    return stored;
  }

  async function isStoredInTime(events: readonly AmocrmEvent[]): Promise<boolean> {
    const ended = new AbortController();
    const tooLate = clock.sleep(answerWithinMs, ended.signal).then(
      () => false,
      () => false,
    );
    const stored = store(events).then(
      () => true,
      () => false,
    );
    const isInTime = await Promise.race([stored, tooLate]);
    ended.abort();
    return isInTime;
  }

  return defineHandler(
    async (request, body) => {
      if (!verifySharedSecret(lastPart(request.url), [secret]).ok) return new Response(null, { status: 404 });
      const parsed = parseForm(body, { maxFields: 50_000 });
      if (!parsed.ok) return new Response(parsed.reason, { status: 400 });
      const events = readEvents(parsed.form);
      if (events.length > 0 && !(await isStoredInTime(events))) return new Response(null, { status: 503 });
      return new Response(null, { status: 200 });
    },
    { logger, maxBodyBytes: 4_194_304 },
  );
}

function lastPart(url: string): string {
  try {
    return decodeURIComponent(new URL(url).pathname.split("/").at(-1) ?? "");
  } catch {
    return ""; // a broken percent sign
  }
}

/** Roots of the form; anything else is not stored. */
const entities: ReadonlySet<string> = new Set(
  "leads contacts companies customers task unsorted message talk catalogs".split(" "),
);

/**
 * Body shape: `leads[status][0][id]=…`; indices may have gaps, values are texts, names are those of the old API. Incoming
 * leads are named by `uid`.
 */
function readEvents(form: FormTree): readonly AmocrmEvent[] {
  const events: AmocrmEvent[] = [];
  for (const [entity, actions] of Object.entries(form)) {
    if (!entities.has(entity) || typeof actions !== "object") continue;
    for (const items of Object.values(actions)) {
      if (typeof items !== "object") continue;
      for (const item of Object.values(items)) {
        const id = typeof item === "object" ? (item.id ?? item.uid) : undefined;
        if (typeof id === "string" && /^[\w-]{1,100}$/.test(id)) events.push({ entity, id });
      }
    }
  }
  return events;
}
