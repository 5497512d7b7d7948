import type { Clock, Logger } from "@orderbridge/core";
import * as v from "valibot";
import { isId } from "./ids.ts";
import type { Payment } from "./payment.ts";
import type { PaymentProvider } from "./provider.ts";
import { Refusal } from "./refusal.ts";
import { idempotencyKey } from "./schemas.ts";
import type { GatewayStorage, IdempotencyKey, UsedKey } from "./storage.ts";

/** What the parts of a gateway share. */
export interface Engine {
  readonly storage: GatewayStorage;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly providers: ReadonlyMap<string, PaymentProvider>;
  /** Tells the loop of this process that there is something to send. */
  wake(): void;
  findPayment(id: string): Promise<Payment | undefined>;
  /** @throws {Refusal} `not_found`, also for payments of other merchants. */
  ownPayment(merchant: string, id: string): Promise<Payment>;
}

/** A request that may be repeated: the same key gives the same result, another fingerprint is refused. */
export interface RequestKey {
  readonly key: string;
  readonly fingerprint: string;
}

export function createEngine(shared: Pick<Engine, "storage" | "clock" | "logger" | "providers" | "wake">): Engine {
  const findPayment = async (id: string): Promise<Payment | undefined> =>
    isId(id) ? shared.storage.getPayment(id) : undefined;
  return {
    ...shared,
    findPayment,
    async ownPayment(merchant, id) {
      const payment = await findPayment(id);
      if (payment?.merchant !== merchant) throw new Refusal("not_found", "there is no such payment");
      return payment;
    },
  };
}

/** @throws {Refusal} for a key that no request may have. */
export function toStorageKey(
  merchant: string,
  key: RequestKey | undefined,
  resourceId: string,
  workMs: number,
): IdempotencyKey | undefined {
  if (!key) return undefined;
  const { issues } = v.safeParse(idempotencyKey, key.key);
  if (issues) throw new Refusal("invalid", issues[0].message, "Idempotency-Key");
  return { merchant, ...key, resourceId, workMs };
}

/** The payment or refund of a key that was used before; the other states are refusals. */
export function resourceOf(key: UsedKey): string {
  if (key.state === "mismatch") {
    throw new Refusal("key_reused", "the Idempotency-Key was used with another request; make a new one");
  }
  if (key.state === "running") throw new Refusal("in_flight", "a request with this Idempotency-Key is at work; wait");
  return key.resourceId;
}
