import { ConfigError, SdkError } from "@orderbridge/core";
import type { Robokassa } from "@orderbridge/robokassa";
import { type Currency, formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider, ProviderContext, ReportedMoney } from "../provider.ts";

export interface RobokassaProviderOptions {
  /** `createRobokassa(…)` of `@orderbridge/robokassa`. */
  readonly robokassa: Pick<Robokassa, "paymentUrl" | "verifyResult" | "operationState" | "test"> &
    Partial<Pick<Robokassa, "refunds">>;
  /** Password 3 is configured, so refunds may be asked for. @defaultValue false: they are made in the cabinet */
  readonly refunds?: boolean;
  /** The currency of the shop's contract: `RUB`, or `KZT` for a shop in Kazakhstan. */
  readonly currency: Extract<Currency, "RUB" | "KZT">;
  /** Lowest number that this gateway uses; another system on the same shop must stay below it. @defaultValue 1n */
  readonly firstInvId?: bigint;
}

/** Robokassa compares names of these fields without regard to case and signs their values. */
const paymentField = "Shp_payment";

/**
 * Robokassa: the pay page links to it, ResultURL is `<publicUrl>/providers/robokassa/result`. A signed field carries
 * our payment's id, so a notification finds its payment also when another InvId of the shop has the same number.
 *
 * Robokassa cannot cancel a link: a cancelled payment that is paid all the same is booked and told. It has no key that
 * would make a refund safe to repeat and no list of refunds, so one whose answer was lost is never asked for again: its sum
 * stays reserved and a person looks into the cabinet.
 *
 * @see docs.robokassa.ru, "Notifications" and "XML interfaces" (read 2025-11)
 */
export function createRobokassaProvider(options: RobokassaProviderOptions): PaymentProvider {
  const { robokassa, currency, firstInvId = 1n, refunds = false } = options;
  if (refunds && !robokassa.refunds) throw new ConfigError("refunds: robokassa has none");
  if (firstInvId < 1n) throw new ConfigError("firstInvId must be at least 1");

  const provider: PaymentProvider = {
    name: "robokassa",
    currencies: { [currency]: { stepMinor: 1n } },
    test: robokassa.test,

    async start(_payment, { nextNumber }) {
      return { session: String(firstInvId - 1n + BigInt(await nextNumber())) };
    },

    payerStep: (payment) => ({
      kind: "link",
      url: robokassa.paymentUrl({
        invId: readSession(payment).invId,
        outSum: formatAmount(payment.amountMinor),
        description: describe(payment),
        test: payment.test,
        shp: { [paymentField]: payment.id },
        expiresAt: payment.expiresAt,
      }),
    }),

    async state(payment) {
      // Robokassa's books know no test payments, and none whose link was never opened.
      const { invId } = readSession(payment);
      if (payment.test || invId === "") return { state: "waiting" };
      const remote = await robokassa.operationState(invId);
      if (!remote.found) return { state: remote.reason === "not_found" ? "waiting" : "unknown" };
      switch (remote.state) {
        case "started":
          return { state: "waiting" };
        case "cancelled":
        case "returned":
          return { state: "ended" };
        case "paid": {
          const amountMinor = readAmount(remote.outSum ?? "");
          if (amountMinor === undefined) return { state: "unknown" };
          return { state: "paid", money: { transactionId: invId, amountMinor, currency } };
        }
        default:
          return { state: "unknown" }; // reserved, being credited, or stopped: money may still come
      }
    },

    async callback({ request, path, body, context }) {
      if (path !== "result") return new Response(null, { status: 404 });
      if (request.method !== "POST" && request.method !== "GET") {
        return new Response(null, { status: 405, headers: { allow: "POST, GET" } });
      }
      const verification = robokassa.verifyResult(
        request.method === "GET" ? new URL(request.url).searchParams : new TextDecoder().decode(body),
      );
      if (!verification.ok) return new Response(null, { status: 400 });
      const { invId, outSum, outSumCurrency, test, shp } = verification.notification;
      const id = Object.entries(shp).find(([name]) => name.toLowerCase() === paymentField.toLowerCase())?.[1];
      const payment = id === undefined ? undefined : await context.find(id);
      if (!payment || readSession(payment).invId !== invId) return new Response(null, { status: 404 });
      const amountMinor = readAmount(outSum);
      // A test never pays a live payment, and live money on a test payment is for a person to look at.
      if (test !== payment.test || amountMinor === undefined || !isCurrency(outSumCurrency, currency)) {
        if (!test && payment.needsAttention !== strangeMoney) {
          await context.remember(payment, { session: payment.session ?? "", attention: strangeMoney });
        }
        return new Response(null, { status: 409 });
      }
      return bookAndAnswer(context, payment, { transactionId: invId, amountMinor, currency });
    },
  };
  return refunds && robokassa.refunds
    ? {
        ...provider,
        refund: createRefund({ refunds: robokassa.refunds, operationState: robokassa.operationState }),
        settleRefund,
      }
    : provider;
}

const strangeMoney =
  "robokassa: live money came for a test payment, in another currency or of an unreadable sum: look into the cabinet";

/**
 * What became of a refund: `asking` was sent or may have been, `settled` was found by a person; any other text is
 * Robokassa's id of the request.
 */
type RefundEntry = "asking" | "refused" | "settled" | (string & {});

/** The number, and once there was a refund its state behind a space: `3000000000 {"re_…":"asking"}`. */
function readSession({ session = "" }: Payment): {
  readonly invId: string;
  readonly refunds: Readonly<Record<string, RefundEntry>>;
} {
  const at = session.indexOf(" ");
  return at < 0
    ? { invId: session, refunds: {} }
    : { invId: session.slice(0, at), refunds: JSON.parse(session.slice(at + 1)) };
}

function createRefund(
  robokassa: Required<Pick<Robokassa, "refunds" | "operationState">>,
): NonNullable<PaymentProvider["refund"]> {
  return async ({ payment: asked, amountMinor, key, context }) => {
    const payment = (await context.find(asked.id)) ?? asked;
    const { invId, refunds } = readSession(payment);
    const known = refunds[key];
    const write = (before: Payment, entry: RefundEntry, attention?: string) =>
      writeRefund(before, context, key, entry, attention);
    if (known === "settled") return "succeeded";
    if (known === "refused" || payment.test) return "failed"; // Robokassa's books know no test payments
    if (known === "asking") {
      if (payment.needsAttention !== lostRefund) await write(payment, "asking", lostRefund);
      return "pending";
    }
    if (known !== undefined) {
      const state = await robokassa.refunds.state(known);
      return state === "finished" ? "succeeded" : state === "canceled" ? "failed" : "pending";
    }
    const remote = await robokassa.operationState(invId);
    if (!remote.found || !remote.opKey) return "pending"; // nothing was sent; asked again later
    const written = await write(payment, "asking");
    if (!written) return "pending"; // somebody else is at it
    let entry: RefundEntry;
    try {
      ({ requestId: entry } = await robokassa.refunds.create({
        opKey: remote.opKey,
        amount: formatAmount(amountMinor),
      }));
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      if (error.outcome !== "refused" && error.outcome !== "not-executed") return "pending";
      entry = "refused";
    }
    // The id must not get lost to another refund that is written at the same time.
    let current: Payment | undefined = written;
    for (let tries = 0; current && tries < 5; tries++) {
      if (await write(current, entry)) break;
      current = await context.find(payment.id);
    }
    return entry === "refused" ? "failed" : "pending";
  };
}

const lostRefund = "robokassa: whether a refund was taken is not known: look into the cabinet";

function writeRefund(
  payment: Payment,
  context: ProviderContext,
  key: string,
  entry: RefundEntry,
  attention?: string | null,
): Promise<Payment | undefined> {
  const { invId, refunds } = readSession(payment);
  return context.remember(payment, {
    session: `${invId} ${JSON.stringify({ ...refunds, [key]: entry })}`,
    ...(attention === undefined ? {} : { attention }),
  });
}

const settleRefund: NonNullable<PaymentProvider["settleRefund"]> = async ({ payment, key, outcome, context }) => {
  if (readSession(payment).refunds[key] !== "asking" || payment.needsAttention === undefined) return false;
  const entry = outcome === "succeeded" ? "settled" : "refused";
  const isAnswered = payment.needsAttention === lostRefund ? null : undefined;
  return (await writeRefund(payment, context, key, entry, isAnswered)) !== undefined;
};

/** Whatever is not answered `OK<InvId>` is repeated by Robokassa. */
async function bookAndAnswer(context: ProviderContext, payment: Payment, money: ReportedMoney): Promise<Response> {
  const { state } = await context.book(payment.id, money);
  if (state === "wrong_currency") return new Response(null, { status: 409 });
  if (state === "not_found") return new Response(null, { status: 404 });
  return new Response(`OK${money.transactionId}`, { headers: { "content-type": "text/plain; charset=utf-8" } });
}

/** `1000.000000` live, `1000.00` in tests. `undefined` for what is not a whole number of minor units, or zero. */
function readAmount(outSum: string): bigint | undefined {
  const [whole = "", fraction = ""] = outSum.split(".");
  if (/[^0]/.test(fraction.slice(2))) return undefined;
  const amount = parseAmount(fraction === "" ? whole : `${whole}.${fraction.slice(0, 2)}`);
  return amount.ok && amount.amountMinor > 0n ? amount.amountMinor : undefined;
}

/** Robokassa names a currency only when it is told one, and calls the ruble RUR in places. */
const isCurrency = (named: string | undefined, currency: Currency): boolean =>
  named === undefined || named === currency || (named === "RUR" && currency === "RUB");

/** Robokassa takes 1 to 100 characters without control characters. */
function describe(payment: Payment): string {
  const text = payment.description.replace(/\p{Cc}+/gu, " ").trim();
  return text === "" ? payment.id : [...text].slice(0, 100).join("");
}
