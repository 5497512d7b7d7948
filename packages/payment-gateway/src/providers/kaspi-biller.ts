import { createHash } from "node:crypto";
import { type Clock, ConfigError, systemClock } from "@orderbridge/core";
import { createAddressList } from "@orderbridge/core/node";
import { formatAmount, parseAmount } from "../money.ts";
import { type Payment, sums } from "../payment.ts";
import type { PaymentProvider, ProviderContext } from "../provider.ts";

export interface KaspiBillerOptions {
  /**
   * Addresses and CIDRs that the bank calls from. The protocol has no signature: this list is the protection.
   * @defaultValue ["194.187.247.152"]
   */
  readonly addresses?: readonly string[];
  /** Tells who sent a request, for example `createClientAddress({ trustedProxies })` of `@orderbridge/core/node`. */
  readonly clientAddress: (request: Request) => string | undefined;
  /** What was agreed with the bank. @defaultValue "json" */
  readonly format?: "json" | "xml";
  /** In JSON our id is called `prv_txn_id`; repeats it as `prv_txn`, where the bank's test asks for that. @defaultValue false */
  readonly prvTxn?: boolean;
  /** The bank's acceptance test: no real money, and payments say so to the shop. @defaultValue false */
  readonly test?: boolean;
  readonly clock?: Pick<Clock, "sleep">;
}

/**
 * The bank waits 15 s. What takes longer goes on, the bank hears a broken connection, calls again and gets what became
 * of it.
 */
const answerWithinMs = 14_000;

/** The bank's result numbers. Everything is answered with HTTP 200; anything else is a broken connection to it. */
const results = { ok: 0, notFound: 1, cancelled: 2, alreadyPaid: 3, otherError: 5 } as const;

interface BillerAnswer {
  readonly txnId: string;
  readonly result: number;
  readonly comment: string;
  /** Our id of the booking; only for `pay`. */
  readonly prvTxnId?: string;
  readonly sumMinor?: bigint;
  /** What the payer sees before he pays. */
  readonly fields?: readonly { readonly name: string; readonly text: string }[];
}

/**
 * Kaspi's biller protocol: the payer types `account` in the bank's application, the bank asks `check` and then tells
 * `pay`, by GET with query parameters. A payer may pay any sum; money is booked in every state of the payment, because
 * at `pay` it has already left him.
 *
 * @see Kaspi's integration document for service providers, "check and pay", as four public implementations follow it
 */
export function createKaspiBillerProvider(options: KaspiBillerOptions): PaymentProvider {
  const { addresses = ["194.187.247.152"], clientAddress, format = "json", prvTxn = false, test = false } = options;
  const { clock = systemClock } = options;
  if (addresses.length === 0) throw new ConfigError("addresses: name at least one that the bank calls from");
  const bank = createAddressList(addresses);
  const write = format === "json" ? (answered: BillerAnswer) => toJson(answered, prvTxn) : toXml;

  return {
    name: "kaspi-biller",
    currencies: { KZT: { stepMinor: 1n } },
    test,
    payerStep: (payment) => ({ kind: "account", account: payment.account ?? "" }),

    async start(_payment, { nextNumber }) {
      return { account: accountOf(await nextNumber()) };
    },

    async callback({ request, context }) {
      if (request.method !== "GET") return new Response(null, { status: 405, headers: { allow: "GET" } });
      const sender = clientAddress(request);
      if (sender === undefined || !bank.has(sender)) return new Response(null, { status: 403 });
      const answered = new AbortController();
      const tooLate = clock.sleep(answerWithinMs, answered.signal).then(
        () => new Response(null, { status: 503 }),
        () => undefined, // it was in time
      );
      const work = answer(new URL(request.url).searchParams, context).then(write);
      try {
        return (await Promise.race([work, tooLate])) ?? work;
      } finally {
        answered.abort();
      }
    },
  };
}

async function answer(query: URLSearchParams, context: ProviderContext): Promise<BillerAnswer> {
  // A parameter that comes twice is an error, not a choice.
  const single = (name: string): string | undefined => {
    const values = query.getAll(name);
    return values.length === 1 ? values[0] : undefined;
  };
  const txnId = single("txn_id") ?? "";
  const refuse = (result: number, comment: string): BillerAnswer => ({
    txnId: /^\d{1,18}$/.test(txnId) ? txnId : "",
    result,
    comment,
  });
  const command = single("command");
  const account = single("account")?.trim();
  if (!/^\d{1,18}$/.test(txnId)) return refuse(results.otherError, "txn_id must be 1 to 18 digits");
  if (!account) return refuse(results.otherError, "account is missing");
  if (command !== "check" && command !== "pay") return refuse(results.otherError, "command must be check or pay");

  const payment = /^\d{2,18}$/.test(account) ? await context.findByAccount(account) : undefined;
  if (command === "check") return payment ? checked(txnId, payment) : refuse(results.notFound, "order not found");

  const amount = parseAmount(single("sum") ?? "");
  if (!amount.ok || amount.amountMinor === 0n) return refuse(results.otherError, "sum must be a decimal number");
  const paidAt = readDate(single("txn_date"));
  if (!paidAt) return refuse(results.otherError, "txn_date must be YYYYMMDDHHMMSS");
  // The same transfer told again gets the same answer; the same id with other facts must not look like success.
  const known = await context.findBooking(txnId);
  if (!known) {
    if (!payment) return refuse(results.notFound, "order not found");
    await context.book(payment.id, {
      transactionId: txnId,
      amountMinor: amount.amountMinor,
      currency: payment.currency,
      paidAt,
    });
  }
  const booked = known ?? (await context.findBooking(txnId));
  if (booked?.paymentId !== payment?.id || booked?.amountMinor !== amount.amountMinor) {
    return refuse(results.otherError, "txn_id was used with another account or sum");
  }
  return { txnId, result: results.ok, comment: "OK", prvTxnId: ownNumber(txnId), sumMinor: amount.amountMinor };
}

/** The bank's `check`: may this be paid? Changes nothing; its `sum` may be fictitious and is not read. */
function checked(txnId: string, payment: Payment): BillerAnswer {
  switch (payment.status) {
    case "pending":
    case "processing":
    case "partially_paid":
      return {
        txnId,
        result: results.ok,
        comment: "OK",
        sumMinor: sums(payment).remainingMinor,
        ...(payment.description === "" ? {} : { fields: [{ name: "Заказ", text: payment.description }] }),
      };
    case "paid":
      return { txnId, result: results.alreadyPaid, comment: "order already paid" };
    case "cancelled":
    case "expired":
    case "refunded":
      return { txnId, result: results.cancelled, comment: `order ${payment.status}` };
  }
}

/** Digits that a person can type: a running number from 100000 on and a check digit, so that a typo finds nobody. */
export function accountOf(number: number): string {
  const digits = String(100_000 + number);
  let sum = 0;
  for (const [index, digit] of [...digits].reverse().entries()) {
    const doubled = Number(digit) * (index % 2 === 0 ? 2 : 1);
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return `${digits}${(10 - (sum % 10)) % 10}`;
}

/** `YYYYMMDDHHMMSS` in Kazakhstan's time, UTC+5 in the whole country since March 2024. */
function readDate(text: string | undefined): Date | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$/.exec(text ?? "");
  if (!match) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const date = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}+05:00`);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

/** Our id of a booking: digits, the same for the same `txn_id`. */
function ownNumber(txnId: string): string {
  return String(createHash("sha256").update(`kaspi-biller:${txnId}`).digest().readUIntBE(0, 6));
}

function toJson({ txnId, prvTxnId, result, sumMinor, comment, fields }: BillerAnswer, prvTxn: boolean): Response {
  const body = {
    txn_id: txnId,
    ...(prvTxnId === undefined ? {} : { prv_txn_id: prvTxnId, ...(prvTxn ? { prv_txn: prvTxnId } : {}) }),
    result,
    ...(sumMinor === undefined ? {} : { sum: formatAmount(sumMinor) }),
    comment,
    ...(fields === undefined
      ? {}
      : {
          fields: Object.fromEntries(
            fields.map(({ name, text }, index) => [`field${index + 1}`, { "@name": name, "#text": text }]),
          ),
        }),
  };
  return new Response(JSON.stringify(body), { headers: { "content-type": "application/json; charset=utf-8" } });
}

/** In XML our id is called `prv_txn`. */
function toXml({ txnId, prvTxnId, result, sumMinor, comment, fields }: BillerAnswer): Response {
  const element = (name: string, text: string) => `<${name}>${escapeXml(text)}</${name}>`;
  const parts = [
    element("txn_id", txnId),
    prvTxnId === undefined ? "" : element("prv_txn", prvTxnId),
    sumMinor === undefined ? "" : element("sum", formatAmount(sumMinor)),
    element("result", String(result)),
    fields === undefined
      ? ""
      : `<fields>${fields
          .map(
            ({ name, text }, index) =>
              `<field${index + 1} name="${escapeXml(name)}">${escapeXml(text)}</field${index + 1}>`,
          )
          .join("")}</fields>`,
    element("comment", comment),
  ];
  return new Response(`<?xml version="1.0" encoding="UTF-8"?>\n<response>${parts.join("")}</response>`, {
    headers: { "content-type": "text/xml; charset=utf-8" },
  });
}

const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
/** Characters that XML 1.0 forbids, escaped or not, are left out. */
const forbidden = /[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu;
const escapeXml = (text: string): string =>
  text.replace(forbidden, "").replace(/[&<>"]/g, (character) => entities[character] as string);
