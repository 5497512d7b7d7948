import { toStandardSecret } from "@orderbridge/core/signature";
import { checkSecret } from "./creating.ts";
import type { Engine } from "./engine.ts";
import { randomId } from "./ids.ts";
import { Refusal } from "./refusal.ts";
import { defaultOverlapMs } from "./schemas.ts";
import type { Sender } from "./sender.ts";
import { maxEndpoints, type WebhookEndpoint } from "./storage.ts";

/** Addresses that hear of every payment of a merchant, each with secrets of its own. */
export interface WebhookEndpoints {
  /** The secret in the form that Standard Webhooks libraries take is shown here and never again. */
  add(request: {
    readonly merchant: string;
    readonly url: string;
    /** `whsec_…` or any text of 8 to 256 characters. @defaultValue a random one */
    readonly secret?: string | undefined;
  }): Promise<{ readonly endpoint: WebhookEndpoint; readonly secret: string }>;
  list(merchant: string): Promise<readonly WebhookEndpoint[]>;
  /**
   * From now on a new secret signs; the former ones sign beside it for `overlapMs` more, so that receivers may take the
   * new one at any moment of that time. Tries of older events are signed with what is in force at the try.
   */
  rotate(request: {
    readonly merchant: string;
    readonly id: string;
    readonly secret?: string | undefined;
    /** 0 ends the former secrets at once. @defaultValue 86_400_000 */
    readonly overlapMs?: number | undefined;
  }): Promise<{ readonly secret: string }>;
  /** Switches an endpoint on again, after 410 or `disable`; it hears of events from now on. */
  enable(merchant: string, id: string): Promise<void>;
  /** Switches an endpoint off; what waits for it, or was given up, is dropped: it is not sent, and calls nobody. */
  disable(merchant: string, id: string): Promise<void>;
  /** Forgets an endpoint; what waits for it, or was given up, is dropped. */
  remove(merchant: string, id: string): Promise<void>;
}

/** The secret given, or a random one. @throws {Refusal} for one that cannot sign. */
export function newSecret(given: string | undefined): string {
  if (given !== undefined) checkSecret(given, "secret");
  return given ?? toStandardSecret(randomId());
}

export const tooManySecrets = (): Refusal =>
  new Refusal("conflict", "ten secrets are in force; wait until one has ended, or end them with overlap 0");

export function createWebhookEndpoints({ storage, clock }: Engine, sender: Pick<Sender, "refuse">): WebhookEndpoints {
  const unknown = () => new Refusal("not_found", "there is no such endpoint");

  return {
    async add({ merchant, url, secret: given }) {
      const problem = sender.refuse(url);
      if (problem !== undefined) throw new Refusal("invalid", problem, "url");
      const secret = newSecret(given);
      const endpoint: WebhookEndpoint = {
        id: randomId("we_"),
        merchant,
        url,
        state: "enabled",
        createdAt: clock.now(),
      };
      if (!(await storage.addEndpoint(endpoint, secret))) {
        throw new Refusal("conflict", `a merchant may have ${maxEndpoints} endpoints; remove one first`);
      }
      return { endpoint, secret: toStandardSecret(secret) };
    },
    list: (merchant) => storage.listEndpoints(merchant),
    async rotate({ merchant, id, secret: given, overlapMs = defaultOverlapMs }) {
      const secret = newSecret(given);
      if (await storage.rotateEndpointSecret(merchant, id, { secret, overlapMs })) {
        return { secret: toStandardSecret(secret) };
      }
      const isKnown = (await storage.listEndpoints(merchant)).some((endpoint) => endpoint.id === id);
      if (!isKnown) throw unknown();
      throw tooManySecrets();
    },
    async enable(merchant, id) {
      if (!(await storage.setEndpointState(merchant, id, "enabled"))) throw unknown();
    },
    async disable(merchant, id) {
      if (!(await storage.setEndpointState(merchant, id, "disabled"))) throw unknown();
    },
    async remove(merchant, id) {
      if (!(await storage.removeEndpoint(merchant, id))) throw unknown();
    },
  };
}
