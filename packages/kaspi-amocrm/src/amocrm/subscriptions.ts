import { ApiError } from "@orderbridge/core";
import * as v from "valibot";
import { subscriptionSchema } from "./schemas.ts";
import { type AmocrmTransport, all } from "./transport.ts";

/** Where amoCRM sends what happens. */
export interface AmocrmSubscription {
  readonly destination: string;
  /** Names such as `add_lead`, `status_lead`, `delete_lead`. */
  readonly events: readonly string[];
  /** amoCRM switches an address off after more than a hundred bad answers within two hours. */
  readonly isDisabled: boolean;
}

/** Needs the rights of an administrator; an account holds at most a hundred. */
export interface AmocrmSubscriptions {
  list(): Promise<readonly AmocrmSubscription[]>;
  /** Subscribing an address again replaces its events, and switches it on. */
  subscribe(destination: string, events: readonly string[]): Promise<void>;
  /** `false` when there was none. */
  unsubscribe(destination: string): Promise<boolean>;
}

/** @see amocrm.ru/developers, "webhooks-api" (read 2026-01) */
export function createSubscriptions({ request, send, items }: AmocrmTransport): AmocrmSubscriptions {
  return {
    async list() {
      const found = await all(items("webhooks.list", "/webhooks", "webhooks", subscriptionSchema));
      return found.map(({ destination, settings, disabled }) => ({
        destination,
        events: settings ?? [],
        isDisabled: disabled === true,
      }));
    },
    async subscribe(destination, events) {
      await request({
        name: "webhooks.subscribe",
        method: "POST",
        path: "/webhooks",
        safe: true, // the same address again is the same subscription
        json: { destination, settings: events },
        schema: v.unknown(),
      });
    },
    async unsubscribe(destination) {
      try {
        await send({
          name: "webhooks.unsubscribe",
          method: "DELETE",
          path: "/webhooks",
          safe: true,
          json: { destination },
        });
        return true;
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return false;
        throw error;
      }
    },
  };
}
