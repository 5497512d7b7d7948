import { ConfigError } from "@orderbridge/core";
import type { Robokassa } from "@orderbridge/robokassa";
import { type Currency, formatAmount, parseAmount } from "../money.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider, ProviderContext, ReportedMoney } from "../provider.ts";

export interface RobokassaProviderOptions {
  /** `createRobokassa(…)` of `@orderbridge/robokassa`. */
  readonly robokassa: Pick<Robokassa, "paymentUrl" | "verifyResult" | "operationState" | "test">;
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
 * Robokassa can neither cancel a link nor repeat a refund by a key, so both abilities are absent: a cancelled payment
 * that is paid all the same is booked and told, and refunds are made in the cabinet.
 *
 * @see docs.robokassa.ru, "Notifications" and "XML interfaces" (read 2025-11)
 */
export function createRobokassaProvider(options: RobokassaProviderOptions): PaymentProvider {
  const { robokassa, currency, firstInvId = 1n } = options;
  if (firstInvId < 1n) throw new ConfigError("firstInvId must be at least 1");

  return {
    name: "robokassa",
    currencies: { [currency]: { stepMinor: 1n } },
    test: robokassa.test,

    async start(_payment, { nextNumber }) {
      return { session: String(firstInvId - 1n + BigInt(await nextNumber())) };
    },

    payerStep: (payment) => ({
      kind: "link",
      url: robokassa.paymentUrl({
        invId: payment.session ?? "",
        outSum: formatAmount(payment.amountMinor),
        description: describe(payment),
        test: payment.test,
        shp: { [paymentField]: payment.id },
        expiresAt: payment.expiresAt,
      }),
    }),

    async state(payment) {
      // Robokassa's books know no test payments, and none whose link was never opened.
      if (payment.test || payment.session === undefined) return { state: "waiting" };
      const remote = await robokassa.operationState(payment.session);
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
          return { state: "paid", money: { transactionId: payment.session, amountMinor, currency } };
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
      if (payment?.session !== invId) return new Response(null, { status: 404 });
      const amountMinor = readAmount(outSum);
      // A test never pays a live payment, and live money on a test payment is for a person to look at.
      if (test !== payment.test || amountMinor === undefined || !isCurrency(outSumCurrency, currency)) {
        return new Response(null, { status: 409 });
      }
      return bookAndAnswer(context, payment, { transactionId: invId, amountMinor, currency });
    },
  };
}

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
