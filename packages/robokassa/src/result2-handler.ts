import type { X509Certificate } from "node:crypto";
import {
  type Clock,
  defineHandler,
  type FetchHandler,
  type Logger,
  redactingLogger,
  systemClock,
} from "@orderbridge/core";
import { type Booking, bookHold, bookPayment, type OnPaid } from "./booking.ts";
import { certificateWarnings, type Notification2, type Refusal2, readCertificates } from "./result2.ts";
import type { Robokassa } from "./robokassa.ts";
import { createSourceCheck, type SourceAddressOptions } from "./source-address.ts";
import type { RobokassaStorage } from "./storage.ts";

export interface Result2HandlerOptions<Transaction> extends SourceAddressOptions {
  readonly robokassa: Pick<Robokassa, "verifyResult2">;
  readonly storage: RobokassaStorage<Transaction>;
  /**
   * Robokassa's certificates as PEM or DER; give the old and the new one while they change, about once a year. A function
   * is asked at the first message and then once a day; when it fails, those of before stay in force.
   */
  readonly certificates: Certificates | (() => Promise<Certificates>);
  /** The same as for the result handler: whichever notification comes first runs it. @defaultValue nothing */
  readonly onPaid?: OnPaid<Transaction>;
  readonly clock?: Clock;
  /** Hears why a message was refused, and that a certificate ends soon. @defaultValue console */
  readonly logger?: Logger;
  /** Largest body that is read, in bytes. @defaultValue 65_536 */
  readonly maxBodyBytes?: number;
}

export type Certificates = string | readonly (string | Uint8Array)[];

const dayMs = 86_400_000;

/** Certificates in force: read anew and looked at for their end once a day. */
function keepCertificates(
  source: Result2HandlerOptions<unknown>["certificates"],
  { clock, logger }: { readonly clock: Clock; readonly logger: Logger },
): () => Promise<readonly X509Certificate[]> {
  let known: readonly X509Certificate[] | undefined;
  let lookedAt: number | undefined;
  const look = (given: Certificates): void => {
    known = readCertificates(given);
    for (const warning of certificateWarnings(known, clock.now())) {
      logger.warn(`robokassa: ${warning}; get the new one from docs.robokassa.ru and add it to the list`);
    }
  };
  if (typeof source !== "function") look(source);
  const load = async (now: number): Promise<void> => {
    const isFirst = lookedAt === undefined;
    lookedAt = now;
    try {
      if (typeof source === "function") look(await source());
      else if (!isFirst) look(source);
    } catch (error) {
      lookedAt = known && now; // without any, the next message asks again
      logger.error("robokassa: certificates for ResultUrl2 could not be read", { error: String(error) });
      if (!known) throw error;
    }
  };
  let loading: Promise<void> | undefined;
  return async () => {
    const now = clock.now().getTime();
    if (lookedAt === undefined || now - lookedAt >= dayMs) loading = load(now);
    // The first ones are waited for by every message, later ones by the message that asked for them.
    else if (known) return known;
    await loading;
    return known ?? [];
  };
}

type Verdict = "paid" | "held" | "repeated" | Extract<Booking, { state: "refused" }>["reason"] | Refusal2;

const statusOf = (verdict: Verdict): number => {
  switch (verdict) {
    case "paid":
    case "held":
    case "repeated":
      return 200;
    case "unknown_order":
      return 404;
    case "amount_differs":
    case "currency_differs":
    case "test_payment_for_live_order":
    case "live_payment_for_test_order":
    case "number_used_before":
      return 409;
    default:
      return 400;
  }
};

/**
 * Answers ResultUrl2: the message signed with Robokassa's key, and the only one that tells of a hold.
 *
 * `OK` books the payment as ResultURL does; `HOLD` marks the order as held, which is not paid.
 *
 * @throws {ConfigError} at creation, for certificates that cannot be read; those of a function are told in the log, and
 *   messages are answered 500 until there are some.
 */
export function createResult2Handler<Transaction>(options: Result2HandlerOptions<Transaction>): FetchHandler {
  const { robokassa, storage, onPaid, clock = systemClock, maxBodyBytes = 65_536 } = options;
  const logger = redactingLogger(options.logger ?? console);
  const isAllowed = createSourceCheck(options);
  const currentCertificates = keepCertificates(options.certificates, { clock, logger });

  async function book(notification: Notification2): Promise<Verdict> {
    const { state, invId, opKey, incSum, sentAt } = notification;
    const isHold = state === "HOLD";
    const booking = isHold
      ? await bookHold({ storage, clock, logger }, notification)
      : await bookPayment(
          { storage, onPaid, clock, logger },
          { invId, opKey, paidSum: incSum, happenedAt: sentAt, test: false, source: "result2" },
        );
    if (booking.state === "refused") return booking.reason;
    if (booking.state === "repeated") return "repeated";
    return isHold ? "held" : "paid";
  }

  return defineHandler(
    async (request, body) => {
      if (!isAllowed(request)) {
        logger.warn("robokassa: a call from an address that is not allowed");
        return new Response(null, { status: 403 });
      }
      const certificates = await currentCertificates();
      const verification = robokassa.verifyResult2(body, { certificates, now: clock.now() });
      const notification = verification.ok ? verification.notification : undefined;
      const record = (verdict: Verdict | "error", status: number): Promise<void> =>
        storage.callbacks.record({
          source: "result2",
          at: clock.now(),
          invId: notification?.invId,
          outSum: undefined,
          signature: undefined,
          shpNames: [],
          verdict,
          fit: undefined,
          status,
        });
      let verdict: Verdict;
      try {
        verdict = verification.ok ? await book(verification.notification) : verification.reason;
      } catch (error) {
        await record("error", 500).catch(() => undefined); // the first error is the one to tell
        throw error;
      }
      const status = statusOf(verdict);
      await record(verdict, status);
      if (status !== 200) {
        logger.warn(`robokassa: result2 refused: ${verdict}`, { invId: notification?.invId });
        return new Response(null, { status });
      }
      return new Response(`OK${notification?.invId}`, { headers: { "content-type": "text/plain; charset=utf-8" } });
    },
    { methods: ["POST"], maxBodyBytes, logger },
  );
}
