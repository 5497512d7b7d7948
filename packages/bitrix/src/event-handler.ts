import {
  ConfigError,
  defineHandler,
  type FetchHandler,
  type FormTree,
  type Logger,
  parseForm,
  redactingLogger,
} from "@orderbridge/core";
import { verifySharedSecret } from "@orderbridge/core/signature";
import type { BitrixStorage } from "./storage.ts";

/** Work topic of a deal that the portal told of. Keys are deal ids. */
export const dealTopic = "deal";

export interface EventHandlerOptions {
  readonly storage: Pick<BitrixStorage, "work">;
  /** `auth[application_token]` of the outgoing webhook or application; several while one is being replaced. */
  readonly applicationTokens: readonly string[];
  /** `auth[member_id]` of the portal; events of another one are refused. @defaultValue any */
  readonly memberId?: string;
  /** Work topic by event name, in upper case. @defaultValue the events of deals, to `dealTopic` */
  readonly topics?: Readonly<Record<string, string>>;
  /** @defaultValue console */
  readonly logger?: Logger;
}

/** Work topics of the events of deals, for `topics`: `{ ...dealEvents, ONSALEORDERSAVED: orderTopic }`. */
export const dealEvents: Readonly<Record<string, string>> = {
  ONCRMDEALADD: dealTopic,
  ONCRMDEALUPDATE: dealTopic,
  ONCRMDEALDELETE: dealTopic,
  ONCRMDEALMOVETOCATEGORY: dealTopic,
};

/**
 * Receives events of a portal and answers at once; the entity they name becomes due for the worker.
 *
 * Bitrix24 sends a form and never repeats it. It is only a hint: the token is a fixed text, not a signature, the order of
 * events says nothing, and several come for one click, so the worker reads the entity itself, once for all of them.
 *
 * 403 for a wrong token or portal, 415 for anything but a form, 400 for a form without an entity, 200 for the rest; an
 * event that nobody asked for is answered 200 and dropped.
 *
 * @see apidocs.bitrix24.ru, "Events", "Secure event handlers" (read 2026-08)
 */
export function createEventHandler(options: EventHandlerOptions): FetchHandler {
  const { storage, applicationTokens, memberId, topics = dealEvents } = options;
  const logger = redactingLogger(options.logger ?? console);
  if (applicationTokens.length === 0 || applicationTokens.includes("")) {
    throw new ConfigError("applicationTokens: give at least one, as Bitrix24 shows it beside the outgoing webhook");
  }

  return defineHandler(
    async (_request, body) => {
      const parsed = parseForm(body, { maxFields: 500 });
      if (!parsed.ok) return new Response(null, { status: 400 });
      const { form } = parsed;
      const auth = branch(form.auth);
      const authentic = verifySharedSecret(leaf(auth.application_token), applicationTokens).ok;
      if (!authentic || (memberId !== undefined && leaf(auth.member_id) !== memberId)) {
        logger.warn("bitrix: an event was refused: wrong application token or portal");
        return new Response(null, { status: 403 });
      }
      const event = leaf(form.event)?.toUpperCase() ?? "";
      const topic = Object.hasOwn(topics, event) ? topics[event] : undefined;
      if (topic === undefined) {
        logger.info("bitrix: an event that nobody asked for", { event: event.slice(0, 100) });
        return new Response(null, { status: 200 });
      }
      const id = leaf(branch(branch(form.data).FIELDS).ID);
      if (id === undefined || !/^[1-9]\d{0,18}$/.test(id)) return new Response(null, { status: 400 });
      await storage.work.mark(topic, id);
      return new Response(null, { status: 200 });
    },
    { logger, maxBodyBytes: 65_536, contentTypes: ["application/x-www-form-urlencoded"] },
  );
}

const branch = (value: string | FormTree | undefined): FormTree => (typeof value === "object" ? value : {});
const leaf = (value: string | FormTree | undefined): string | undefined =>
  typeof value === "string" ? value : undefined;
