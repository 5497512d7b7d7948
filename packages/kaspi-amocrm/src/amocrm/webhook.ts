import { defineHandler, type FetchHandler, type FormTree, type Logger, parseForm } from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";

/** One thing that happened. The hook is not signed: read the entity through the API before acting on it. */
export interface AmocrmEvent {
  /** `leads`, `contacts`, `companies`, `task`, `unsorted`, … */
  readonly entity: string;
  /** `add`, `update`, `status`, `delete`, `restore`, `responsible`, `note`. */
  readonly action: string;
  readonly id: string;
  readonly statusId: string | undefined;
  readonly pipelineId: string | undefined;
  readonly accountId: string | undefined;
  /** Same for every delivery of one event. */
  readonly key: string;
}

export interface AmocrmWebhookOptions {
  /** Last part of the path that was given to amoCRM: unguessable, since nothing else proves the sender. */
  readonly secret: string;
  /**
   * Gets events after they were answered; amoCRM waits two seconds only. One call at a time: what arrives meanwhile comes
   * together with the next one, each event once. What it throws is logged.
   */
  readonly onEvents: (events: readonly AmocrmEvent[]) => Promise<void>;
  /**
   * How many events may wait. Beyond it they are dropped with a warning: hooks get lost at the vendor too, so nobody may
   * rely on them alone. @defaultValue 10_000
   */
  readonly maxWaiting?: number;
  readonly logger?: Logger;
}

/** Answers amoCRM's webhooks: form bodies with several entities and several events each. */
export function createAmocrmWebhookHandler({
  secret,
  onEvents,
  maxWaiting = 10_000,
  logger = console,
}: AmocrmWebhookOptions): FetchHandler {
  let waiting = new Map<string, AmocrmEvent>();
  let isHandling = false;
  let dropped = 0;

  async function handleWaiting(): Promise<void> {
    if (isHandling) return;
    isHandling = true;
    while (waiting.size > 0) {
      const events = [...waiting.values()];
      waiting = new Map();
      if (dropped > 0) logger.warn("amocrm: events were dropped, too many were waiting", { dropped });
      dropped = 0;
      try {
        await onEvents(events);
      } catch (error) {
        logger.error("amocrm: events could not be handled", { error });
      }
    }
    isHandling = false;
  }

  return defineHandler(
    (request, body) => {
      const received = decodeURIComponent(new URL(request.url).pathname.split("/").at(-1) ?? "");
      if (!verifySharedSecret(received, [secret]).ok) return new Response(null, { status: 404 });
      const parsed = parseForm(body);
      if (!parsed.ok) return new Response(parsed.reason, { status: 400 });
      for (const event of readEvents(parsed.form)) {
        if (waiting.size < maxWaiting || waiting.has(event.key)) waiting.set(event.key, event);
        else dropped++;
      }
      void handleWaiting();
      return new Response(null, { status: 200 });
    },
    { logger },
  );
}

/** Body shape: `leads[status][0][id]=…`; indices may have gaps, values are texts, names are those of the old API. */
function readEvents(form: FormTree): readonly AmocrmEvent[] {
  const accountId = typeof form.account === "object" ? text(form.account.id) : undefined;
  const events: AmocrmEvent[] = [];
  for (const [entity, actions] of Object.entries(form)) {
    if (entity === "account" || typeof actions !== "object") continue;
    for (const [action, items] of Object.entries(actions)) {
      if (typeof items !== "object") continue;
      for (const item of Object.values(items)) {
        const id = typeof item === "object" ? text(item.id) : undefined;
        if (typeof item !== "object" || id === undefined) continue;
        const statusId = text(item.status_id);
        const changedAt = text(item.last_modified) ?? text(item.updated_at) ?? "";
        events.push({
          entity,
          action,
          id,
          statusId,
          pipelineId: text(item.pipeline_id),
          accountId,
          key: [accountId, entity, action, id, changedAt, statusId].join(":"),
        });
      }
    }
  }
  return events;
}

const text = (value: FormTree[string] | undefined): string | undefined =>
  typeof value === "string" ? value : undefined;
