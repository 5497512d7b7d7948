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
  /** Gets all events of a body after it was answered; amoCRM waits two seconds only. */
  readonly onEvents: (events: readonly AmocrmEvent[]) => Promise<void>;
  readonly logger?: Logger;
}

/** Answers amoCRM's webhooks: form bodies with several entities and several events each. */
export function createAmocrmWebhookHandler({ secret, onEvents, logger = console }: AmocrmWebhookOptions): FetchHandler {
  return defineHandler(
    (request, body) => {
      const received = decodeURIComponent(new URL(request.url).pathname.split("/").at(-1) ?? "");
      if (!verifySharedSecret(received, [secret]).ok) return new Response(null, { status: 404 });
      const parsed = parseForm(body);
      if (!parsed.ok) return new Response(parsed.reason, { status: 400 });
      const events = readEvents(parsed.form);
      if (events.length > 0) {
        onEvents(events).catch((error: unknown) => logger.error("amocrm: events could not be handled", { error }));
      }
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
