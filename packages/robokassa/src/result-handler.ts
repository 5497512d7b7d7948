import {
  type Clock,
  defineHandler,
  type FetchHandler,
  type Logger,
  redactingLogger,
  systemClock,
} from "@orderbridge/core";
import { type Booking, bookPayment, type OnPaid } from "./booking.ts";
import { type NotificationFields, readFields } from "./notification.ts";
import { isProbe } from "./probe.ts";
import type { Robokassa } from "./robokassa.ts";
import { createSourceCheck, type SourceAddressOptions } from "./source-address.ts";
import type { CallbackEntry, RobokassaStorage } from "./storage.ts";

export interface ResultHandlerOptions<Transaction> extends SourceAddressOptions {
  readonly robokassa: Pick<Robokassa, "verifyResult" | "explainResult">;
  readonly storage: RobokassaStorage<Transaction>;
  /** The shop's own part of a payment, inside the booking transaction. @defaultValue nothing */
  readonly onPaid?: OnPaid<Transaction>;
  readonly clock?: Clock;
  /** Hears why a notification was refused. @defaultValue console */
  readonly logger?: Logger;
  /** Largest body that is read, in bytes. @defaultValue 65_536 */
  readonly maxBodyBytes?: number;
}

type Verdict =
  | "paid"
  | "probe"
  | "repeated"
  | Extract<Booking, { state: "refused" }>["reason"]
  | "bad_signature"
  | "malformed";

/** Whatever is not answered `OK<InvId>` is repeated by Robokassa, and after five times its operator is told. */
const statusOf: Readonly<Record<Verdict, number>> = {
  paid: 200,
  repeated: 200,
  probe: 200,
  malformed: 400,
  bad_signature: 400,
  unknown_order: 404,
  amount_differs: 409,
  currency_differs: 409,
  test_payment_for_live_order: 409,
  live_payment_for_test_order: 409,
  number_used_before: 409,
};

/**
 * Answers ResultURL, by POST or GET: checks the signature, books the payment once, and says exactly `OK<InvId>`.
 *
 * A refused notification leaves the order as it is: 400 bad signature or form, 404 unknown order, 409 another amount or
 * mode; the reason is in the log. When `onPaid` or the storage fails the answer is 500 and nothing is booked.
 *
 * Mount it before body parsers: it reads the bytes that were sent.
 */
export function createResultHandler<Transaction>(options: ResultHandlerOptions<Transaction>): FetchHandler {
  const { robokassa, storage, onPaid, clock = systemClock, maxBodyBytes = 65_536 } = options;
  const logger = redactingLogger(options.logger ?? console);
  const isAllowed = createSourceCheck(options);

  async function judge(fields: NotificationFields): Promise<Verdict> {
    const verification = robokassa.verifyResult(fields);
    if (!verification.ok) return verification.reason === "bad_signature" ? "bad_signature" : "malformed";
    const { invId, outSum, outSumCurrency, test, shpOrder } = verification.notification;
    if (shpOrder) logger.info(`robokassa: the Shp_ fields were sorted by ${shpOrder}`, { invId });
    if (isProbe(verification.notification)) return "probe";
    const booking = await bookPayment(
      { storage, onPaid, clock, logger },
      { invId, outSum, currency: outSumCurrency, test, source: "result" },
    );
    if (booking.state === "refused") return booking.reason;
    return booking.state === "booked" ? "paid" : "repeated";
  }

  return defineHandler(
    async (request, body) => {
      if (!isAllowed(request)) {
        logger.warn("robokassa: a call from an address that is not allowed");
        return new Response(null, { status: 403 });
      }
      // HEAD has no body to answer OK in.
      if (request.method === "HEAD") return new Response(null, { status: 405, headers: { allow: "POST, GET" } });
      const fields = new URLSearchParams(
        request.method === "GET" ? new URL(request.url).search : new TextDecoder().decode(body),
      );
      let verdict: Verdict;
      try {
        verdict = await judge(fields);
      } catch (error) {
        const entry = describe(fields, { at: clock.now(), verdict: "error", status: 500, fit: undefined });
        await storage.callbacks.record(entry).catch(() => undefined); // the first error is the one to tell
        throw error;
      }
      const status = statusOf[verdict];
      const fit = verdict === "bad_signature" ? robokassa.explainResult(fields) : undefined;
      const entry = describe(fields, { at: clock.now(), verdict, status, fit });
      if (verdict !== "probe") await storage.callbacks.record(entry);
      if (status !== 200) {
        logger.warn(`robokassa: result refused: ${verdict}`, { invId: entry.invId, outSum: entry.outSum });
        return new Response(null, { status });
      }
      return new Response(`OK${entry.invId}`, { headers: { "content-type": "text/plain; charset=utf-8" } });
    },
    { methods: ["POST", "GET"], maxBodyBytes, logger },
  );
}

/** A name as every database takes it: not NUL, which PostgreSQL refuses, nor half of a surrogate pair. */
const storable = (name: string): string => name.slice(0, 100).replaceAll("\0", "\uFFFD").toWellFormed();

/** What the log keeps of a request: numbers, the digest and names, no values that could be personal. */
function describe(
  fields: URLSearchParams,
  { at, verdict, status, fit }: Pick<CallbackEntry, "at" | "verdict" | "status" | "fit">,
): CallbackEntry {
  const received = readFields(fields);
  const invId = (received.ok ? received.values.get("InvId") : fields.get("InvId")) ?? "";
  return {
    source: "result",
    at,
    invId: /^\d{1,19}$/.test(invId) ? invId : undefined,
    outSum: received.ok ? received.values.get("OutSum") : undefined,
    signature: received.ok ? received.values.get("SignatureValue") : undefined,
    shpNames: received.ok ? received.shp.map(([name]) => storable(name)) : [],
    verdict: received.ok ? verdict : `${received.reason}${received.field ? `:${received.field}` : ""}`,
    fit,
    status,
  };
}
