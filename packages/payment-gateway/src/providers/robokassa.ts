import { type Clock, ConfigError, SdkError, systemClock } from "@orderbridge/core";
import type { OperationState, Robokassa } from "@orderbridge/robokassa";
import { type Currency, formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider, ProviderContext, ProviderState, ReportedMoney } from "../provider.ts";
import { attentionAfter, type CallingRefund, lostRefundMs, mustCall } from "./refund-calls.ts";

export interface RobokassaProviderOptions {
  /** `createRobokassa(…)` of `@orderbridge/robokassa`. */
  readonly robokassa: Pick<Robokassa, "paymentUrl" | "verifyResult" | "operationState" | "test"> &
    Partial<Pick<Robokassa, "refunds">>;
  /** Password 3 is configured, so refunds may be asked for. @defaultValue false: they are made in the cabinet */
  readonly refunds?: boolean;
  /** The currency of the shop's contract: `RUB`, or `KZT` for a shop in Kazakhstan. */
  readonly currency: Extract<Currency, "RUB" | "KZT">;
  /**
   * Lowest number that this gateway uses. A number is good for one payment of the shop, whoever sent it: another system,
   * a test gateway, and a gateway whose database was lost need ranges that do not meet. @defaultValue 1n
   */
  readonly firstInvId?: bigint;
  readonly clock?: Pick<Clock, "now">;
}

/** Robokassa compares names of these fields without regard to case and signs their values. */
const paymentField = "Shp_payment";
const paymentIdOf = (shp: Readonly<Record<string, string>>): string | undefined =>
  Object.entries(shp).find(([name]) => name.toLowerCase() === paymentField.toLowerCase())?.[1];

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;

/**
 * Robokassa: the pay page links to it, ResultURL is `<publicUrl>/providers/robokassa/result`. A signed field carries
 * our payment's id, so nothing that another system did under the same InvId is taken for this payment.
 *
 * Robokassa cannot cancel a link: before a payment is cancelled or expires Robokassa is asked, an hour and a day later it is
 * asked again, and money that came all the same is booked and told. A state that only support can tell (held, being
 * credited for 20 minutes, stopped, two operations of one number) calls a person. It has no key that
 * would make a refund safe to repeat and no list of refunds, so one whose answer was lost is never asked for again: its sum
 * stays reserved and a person looks into the cabinet.
 *
 * @see docs.robokassa.ru, "Notifications" and "XML interfaces" (read 2025-11)
 */
export function createRobokassaProvider(options: RobokassaProviderOptions): PaymentProvider {
  const { robokassa, currency, firstInvId = 1n, refunds = false, clock = systemClock } = options;
  if (refunds && !robokassa.refunds) throw new ConfigError("refunds: robokassa has none");
  if (firstInvId < 1n) throw new ConfigError("firstInvId must be at least 1");

  async function state(payment: Payment, context: ProviderContext): Promise<ProviderState> {
    // Robokassa's books know no test payments, and none whose link was never opened.
    const { invId } = readSession(payment);
    if (payment.test || invId === "") return { state: "waiting" };
    const nowMs = clock.now().getTime();
    const remote = await robokassa.operationState(invId);
    const { answer, attention } = judge(payment, remote, nowMs);
    const isTold = payment.needsAttention?.startsWith(asked) ?? false;
    if (attention === undefined ? isTold : payment.needsAttention !== attention) {
      await context.remember(payment, { session: payment.session ?? "", attention: attention ?? null });
    }
    if (answer !== "paid") return answer;
    const amountMinor = readAmount((remote.found && remote.outSum) || "");
    if (amountMinor !== undefined) return { state: "paid", money: { transactionId: invId, amountMinor, currency } };
    return { state: "unknown", askAgainMs: pauseMs(payment, nowMs), reason: "paid, but the sum cannot be read" };
  }

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

    state,

    /** A link lives on, and so may an operation at the bank: both are looked at later, and late money is told. */
    async cancel(payment, context) {
      const found = await state(payment, context);
      if (payment.test || found.state === "paid" || found.state === "unknown") return found;
      return { state: "waiting", askAgainMs: hourMs };
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
      const id = paymentIdOf(shp);
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
        refund: createRefund({ refunds: robokassa.refunds, operationState: robokassa.operationState }, clock),
        settleRefund,
      }
    : provider;
}

/** Begins each call for a person that an answer of `OpStateExt` led to; a better answer takes it back. */
const asked = "robokassa: OpStateExt answers ";

/** A question without an end in sight is asked ever more rarely, at last once a day. */
const pauseMs = ({ expiresAt }: Payment, nowMs: number): number =>
  Math.min(dayMs, Math.max(30_000, (nowMs - expiresAt.getTime()) / 4));

/** No money is in sight. Once the payment is over Robokassa is asked an hour and a day later, for a notification may get lost. */
function noMoney(payment: Payment, nowMs: number): ProviderState {
  const ageMs = nowMs - payment.expiresAt.getTime();
  if (ageMs < 0) return { state: "waiting", ...(payment.status === "cancelled" ? { askAgainMs: hourMs - ageMs } : {}) };
  if (ageMs < hourMs) return { state: "waiting", askAgainMs: hourMs };
  return { state: "waiting", ...(ageMs < dayMs ? { askAgainMs: dayMs - ageMs + minuteMs } : {}) };
}

/**
 * Whether an operation belongs to something else under the same number. Answers hold the Shp fields; should one come
 * without, only an operation from before this payment is certainly another's.
 */
function isForeign(remote: OperationState & { readonly found: true }, payment: Payment): boolean {
  const id = paymentIdOf(remote.shp);
  if (id !== undefined) return id !== payment.id;
  return remote.stateAt !== undefined && remote.stateAt.getTime() < payment.createdAt.getTime() - hourMs;
}

function judge(
  payment: Payment,
  remote: OperationState,
  nowMs: number,
): { readonly answer: ProviderState | "paid"; readonly attention?: string } {
  const { invId } = readSession(payment);
  const unknown = (reason?: string): ProviderState => ({
    state: "unknown",
    askAgainMs: pauseMs(payment, nowMs),
    ...(reason === undefined ? {} : { reason }),
  });
  const person = (what: string, answer?: ProviderState) => {
    const attention = `${asked}${remote.code} for the number ${invId}: ${what}`;
    return { answer: answer ?? unknown(attention), attention };
  };
  if (!remote.found) {
    switch (remote.reason) {
      case "not_found":
        return { answer: noMoney(payment, nowMs) };
      case "ambiguous":
        return person("two operations have it, one of them a test; look into the cabinet, and give tests a firstInvId");
      case "bad_signature":
        return { answer: unknown(`${asked}1: password 2 or the algorithm of signatures is wrong`) };
      case "unknown_shop":
        return { answer: unknown(`${asked}2: there is no such shop, or it is not active`) };
      case "internal":
        return { answer: unknown(`${asked}${remote.code}: an error of its own`) };
    }
  }
  if (isForeign(remote, payment)) {
    return person("something else was paid under it; raise firstInvId above all such numbers", noMoney(payment, nowMs));
  }
  switch (remote.state) {
    case "started": {
      // The buyer is at his bank; for an hour past the end of the payment this holds it open.
      const isOpen = nowMs < payment.expiresAt.getTime() + hourMs;
      const pause = Math.max(minuteMs, pauseMs(payment, nowMs));
      return { answer: isOpen ? { state: "processing", askAgainMs: pause } : noMoney(payment, nowMs) };
    }
    case "cancelled":
    case "returned": {
      const answer = noMoney(payment, nowMs);
      return { answer: { ...answer, state: "ended" } as ProviderState };
    }
    case "paid":
      if (paymentIdOf(remote.shp) === payment.id) return { answer: "paid" };
      return person(`paid, but without ${paymentField}, so it may be another's payment; look into the cabinet`);
    case "crediting": {
      const sinceMs = nowMs - (remote.stateAt ?? payment.expiresAt).getTime();
      if (sinceMs < 20 * minuteMs) return { answer: unknown() };
      return person("the money has been on its way for more than 20 minutes; ask Robokassa's support");
    }
    case "held":
      return person("the money is held; capture or release it in the cabinet");
    case "suspended":
      return person("the operation was stopped for a technical or security reason; ask Robokassa's support");
    case "unknown":
      return person("this version does not know it; ask Robokassa's support");
  }
}

const strangeMoney =
  "robokassa: live money came for a test payment, in another currency or of an unreadable sum: look into the cabinet";

interface RefundEntry extends CallingRefund {
  /**
   * `unsent`: it could not be sent yet. `asking`: it was sent, or may have been. `open`: Robokassa is at it. The others are
   * its end, `settled` by a person.
   */
  readonly state: "unsent" | "asking" | "open" | "refused" | "settled";
  /** Since when it is `asking`, in milliseconds since 1970. */
  readonly at?: number;
  /** Robokassa's id of it. */
  readonly requestId?: string;
}

/** The number, and once there was a refund its state behind a space: `3000000000 {"re_…":{"state":"asking"}}`. */
function readSession({ session = "" }: Payment): {
  readonly invId: string;
  readonly refunds: Readonly<Record<string, RefundEntry>>;
} {
  const at = session.indexOf(" ");
  if (at < 0) return { invId: session, refunds: {} };
  const refunds = Object.entries(JSON.parse(session.slice(at + 1)) as Readonly<Record<string, RefundEntry | string>>);
  return {
    invId: session.slice(0, at),
    refunds: Object.fromEntries(refunds.map(([key, entry]) => [key, readRefund(entry)])),
  };
}

/** An earlier version wrote the state as text, and Robokassa's id in the place of `open`. */
function readRefund(entry: RefundEntry | string): RefundEntry {
  if (typeof entry !== "string") return entry;
  const state = (["unsent", "asking", "refused", "settled"] as const).find((one) => one === entry);
  return state === undefined ? { state: "open", requestId: entry } : { state };
}

function createRefund(
  robokassa: Required<Pick<Robokassa, "refunds" | "operationState">>,
  clock: Pick<Clock, "now">,
): NonNullable<PaymentProvider["refund"]> {
  return async ({ payment: asked, amountMinor, key, context }) => {
    const payment = (await context.find(asked.id)) ?? asked;
    const { invId, refunds } = readSession(payment);
    const known = refunds[key];
    const write = (entry: RefundEntry, call?: string) => writeRefund(payment, context, key, entry, call);
    if (known?.state === "settled") return "succeeded";
    if (known?.state === "refused" || payment.test) return "failed"; // Robokassa's books know no test payments
    if (known?.state === "asking") {
      const isLost = clock.now().getTime() - (known.at ?? 0) >= lostRefundMs;
      if (isLost && mustCall(payment, known, lostRefund)) await write(known, lostRefund);
      return "pending";
    }
    if (known?.state === "open") {
      const state = await robokassa.refunds.state(known.requestId ?? "");
      if (state === undefined) {
        if (mustCall(payment, known, forgottenRefund)) await write(known, forgottenRefund);
      } else if (known.call !== undefined) await write(known);
      return state === "finished" ? "succeeded" : state === "canceled" ? "failed" : "pending";
    }
    const remote = await robokassa.operationState(invId);
    if (!remote.found || !remote.opKey || isForeign(remote, payment)) {
      // Nothing was sent. It is tried again, and a person may end it.
      const isOurs = remote.found && !isForeign(remote, payment);
      const why = `${unsentRefund} ${isOurs ? "the operation has no OpKey" : `OpStateExt answers ${remote.code}`}`;
      if (mustCall(payment, known, why)) await write({ state: "unsent" }, why);
      return "pending";
    }
    const written = await write({ state: "asking", at: clock.now().getTime() });
    if (!written) return "pending"; // somebody else is at it
    let entry: RefundEntry;
    try {
      const { requestId } = await robokassa.refunds.create({ opKey: remote.opKey, amount: formatAmount(amountMinor) });
      entry = { state: "open", requestId };
    } catch (error) {
      if (!SdkError.isInstance(error)) throw error;
      if (error.outcome !== "refused" && error.outcome !== "not-executed") return "pending";
      entry = { state: "refused" };
    }
    // The id must not get lost to another refund that is written at the same time. What a person said of this one stays.
    let current: Payment | undefined = written;
    for (let tries = 0; current && tries < 5; tries++) {
      if (readSession(current).refunds[key]?.state !== "asking") return "pending";
      if (await writeRefund(current, context, key, entry)) break;
      current = await context.find(payment.id);
    }
    return entry.state === "refused" ? "failed" : "pending";
  };
}

const lostRefund = "robokassa: whether a refund was taken is not known: look into the cabinet";
const forgottenRefund = "robokassa: the request of a refund is not known there any more: look into the cabinet";
const unsentRefund = "robokassa: a refund cannot be asked for: refund in the cabinet, or give it up:";

/** Without `call` nobody is called for this refund any more. */
function writeRefund(
  payment: Payment,
  context: ProviderContext,
  key: string,
  { call: _before, ...entry }: RefundEntry,
  call?: string,
): Promise<Payment | undefined> {
  const { invId, refunds } = readSession(payment);
  const next: RefundEntry = { ...entry, ...(call === undefined ? {} : { call }) };
  return context.remember(payment, {
    session: `${invId} ${JSON.stringify({ ...refunds, [key]: next })}`,
    ...attentionAfter(payment, refunds, key, call),
  });
}

const settleRefund: NonNullable<PaymentProvider["settleRefund"]> = async ({ payment, key, outcome, context }) => {
  const known = readSession(payment).refunds[key];
  if (known?.call === undefined) return false;
  const state = outcome === "succeeded" ? "settled" : "refused";
  return (await writeRefund(payment, context, key, { ...known, state })) !== undefined;
};

/** Whatever is not answered `OK<InvId>` is repeated by Robokassa. */
async function bookAndAnswer(context: ProviderContext, payment: Payment, money: ReportedMoney): Promise<Response> {
  const result = await context.book(payment.id, money);
  if (result.state === "wrong_currency") return new Response(null, { status: 409 });
  if (result.state === "not_found") return new Response(null, { status: 404 });
  if (result.payment.needsAttention?.startsWith(asked)) {
    await context.remember(result.payment, { session: result.payment.session ?? "", attention: null });
  }
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
