import { type Clock, SdkError, systemClock } from "@orderbridge/core";
import { sameAmount } from "./amount.ts";
import { type SignatureFit, traceResult } from "./explain.ts";
import type { OperationState } from "./operation-state.ts";
import { certificateWarnings, readCertificates } from "./result2.ts";
import type { Robokassa } from "./robokassa.ts";
import type { CallbackEntry, Order, RobokassaStorage } from "./storage.ts";

export interface DiagnoseOptions {
  readonly robokassa: Robokassa;
  readonly storage: RobokassaStorage;
  /** The shop's own id of the order, or its InvId. */
  readonly order: string;
  /** A refused notification from a log of yours, as a query or form: it is replayed. */
  readonly callback?: string;
  /** Certificates of the ResultUrl2 handler, as PEM. */
  readonly certificates?: string;
  /** @defaultValue system time */
  readonly clock?: Clock;
}

/** Stable names of causes; new ones may be added, none changes its meaning. */
export type DiagnosisCode =
  | "paid"
  | "refunded"
  | "order_not_found"
  | "inv_id_not_stored"
  | "amount_differs"
  | "currency_differs"
  | "test_payment"
  | "live_payment"
  | "password1_used"
  | "test_password_used"
  | "algorithm_differs"
  | "sum_rewritten"
  | "shp_order"
  | "shp_encoding"
  | "shp_dropped"
  | "signature_unknown"
  | "notification_malformed"
  | "answer_failed"
  | "no_notification"
  | "test_no_notification"
  | "not_started"
  | "waiting"
  | "crediting_too_long"
  | "cancelled"
  | "held"
  | "returned"
  | "suspended"
  | "number_shared_with_test"
  | "state_password_wrong"
  | "shop_unknown"
  | "certificate"
  | "robokassa_does_not_answer";

export interface Diagnosis {
  readonly code: DiagnosisCode;
  /** 0: paid. 1: something must be mended. 2: wait. 3: nothing is known of such an order. */
  readonly exitCode: 0 | 1 | 2 | 3;
  /** One sentence. */
  readonly cause: string;
  /** What it was concluded from, in the order of weight. */
  readonly evidence: readonly string[];
  /** The one thing to do next. */
  readonly next: string;
  /** The text that was hashed, without secrets, for a support ticket. */
  readonly trace: string | undefined;
}

interface Finding {
  readonly code: DiagnosisCode;
  readonly exitCode: Diagnosis["exitCode"];
  readonly cause: string;
  readonly next: string;
}

const resultUrl = "the Result URL of the cabinet's technical settings";

const findings: Readonly<Record<DiagnosisCode, Omit<Finding, "code">>> = {
  paid: { exitCode: 0, cause: "The order is paid.", next: "Nothing." },
  refunded: { exitCode: 0, cause: "The order was paid and refunded.", next: "Nothing." },
  order_not_found: {
    exitCode: 3,
    cause: "No order has this id or InvId, and no notification named it.",
    next: "Check the number, and that this database is the shop's.",
  },
  inv_id_not_stored: {
    exitCode: 1,
    cause: "Robokassa has a payment under this InvId, but no order was stored with it.",
    next: "Make links with placeOrder, which stores the InvId first, and check that this is the database of the shop that made the link.",
  },
  amount_differs: {
    exitCode: 1,
    cause: "The payment's sum is not the order's total.",
    next: "Find out who changed the price after the link was made; then refund the payment or correct the order's total, and send the notification again from the cabinet.",
  },
  currency_differs: {
    exitCode: 1,
    cause: "The payment came in another currency than the order has.",
    next: "Compare OutSumCurrency of the link with the order.",
  },
  test_payment: {
    exitCode: 1,
    cause: "The notification is of a test payment (IsTest=1), and the order is a live one: no money came.",
    next: "Send the buyer a live link: switch test mode off where links are made.",
  },
  live_payment: {
    exitCode: 1,
    cause: "Real money came for an order that was started as a test.",
    next: "Place a live order for the buyer or refund the payment; do not mix test and live numbers.",
  },
  password1_used: {
    exitCode: 1,
    cause:
      "The notification is signed with password 1: passwords 1 and 2 are swapped, or the Success URL points at the result route.",
    next: "Compare both passwords and both addresses with the cabinet's technical settings.",
  },
  test_password_used: {
    exitCode: 1,
    cause: "The notification is signed with a test password where a live one was expected.",
    next: "Check which of the passwords are the cabinet's test pair.",
  },
  algorithm_differs: {
    exitCode: 1,
    cause: "The notification is signed with another algorithm than the shop is set to.",
    next: "Set the option algorithm to the one that the cabinet shows, for the live and the test pair.",
  },
  sum_rewritten: {
    exitCode: 1,
    cause: "The signature fits only after the sum was written with other decimals: something on the way rewrites it.",
    next: "Give the handler the body as it was sent: mount it before body parsers and remove proxies that change it.",
  },
  shp_order: {
    exitCode: 1,
    cause: "The signature fits with the Shp_ fields in another order.",
    next: "Set readings.shpOrder to the order that fits, or choose names of which none begins another.",
  },
  shp_encoding: {
    exitCode: 1,
    cause: "The signature fits after the Shp_ values were decoded or encoded once more.",
    next: "Encode Shp_ values once when the link is made (placeOrder does), and hash them as they arrive.",
  },
  shp_dropped: {
    exitCode: 1,
    cause: "The signature fits without the Shp_ fields: they were added, or were not part of the link's hash.",
    next: "Make the link with the Shp_ fields, and find out who adds them on the way.",
  },
  signature_unknown: {
    exitCode: 1,
    cause: "A notification came, but no password and no algorithm of this shop fits its signature.",
    next: "Set password 2 anew in the cabinet and here; if it still fails, the sender is not Robokassa.",
  },
  notification_malformed: {
    exitCode: 1,
    cause: "A notification came without a field that it must have, or with two values for one.",
    next: "Look for a proxy or body parser that drops or merges fields before the handler.",
  },
  answer_failed: {
    exitCode: 1,
    cause: "A genuine notification came, but booking it failed on our side, so Robokassa was not answered OK.",
    next: "Mend the error of that time in the server's log, then send the notification again from the cabinet or run reconcile.",
  },
  no_notification: {
    exitCode: 1,
    cause: "Robokassa has the money, but no notification reached this server.",
    next: `Open ${resultUrl}: it must be this server's https address without a redirect, method POST, not e-mail; let 185.59.216.65 and 185.59.217.65 through the firewall. Then run reconcile.`,
  },
  test_no_notification: {
    exitCode: 1,
    cause: "This is a test order, and no notification reached this server; Robokassa's books hold no test payments.",
    next: `Pay it once more in test mode and check ${resultUrl}: some cabinets have a separate one for tests.`,
  },
  not_started: {
    exitCode: 2,
    cause: "The buyer never confirmed payment details for this InvId.",
    next: "Wait, or send the buyer the link again.",
  },
  waiting: {
    exitCode: 2,
    cause: "The buyer confirmed, the money has not come yet.",
    next: "Wait; reconcile asks again.",
  },
  crediting_too_long: {
    exitCode: 1,
    cause: "Robokassa has been crediting the money for more than 20 minutes.",
    next: "Write to Robokassa's support with the InvId.",
  },
  cancelled: {
    exitCode: 1,
    cause: "Robokassa cancelled the payment; no money came.",
    next: "Place a new order if the buyer still wants it.",
  },
  held: {
    exitCode: 2,
    cause: "The money is held, not paid.",
    next: "Capture or release the hold; it ends by itself after seven days.",
  },
  returned: {
    exitCode: 1,
    cause: "Robokassa refused the payment and sent the money back to the buyer.",
    next: "Place a new order if the buyer still wants it.",
  },
  suspended: {
    exitCode: 1,
    cause: "Robokassa suspended the payment for a technical or security reason.",
    next: "Write to Robokassa's support with the InvId.",
  },
  number_shared_with_test: {
    exitCode: 1,
    cause: "A test payment and a live one share this InvId, so Robokassa cannot tell which is meant.",
    next: "Keep firstTestInvId of the storage apart from every live number; settle this order with Robokassa's support.",
  },
  state_password_wrong: {
    exitCode: 1,
    cause: "Robokassa refuses our own signature: password 2 or the algorithm is not the cabinet's.",
    next: "Compare password 2 and the algorithm with the cabinet's technical settings.",
  },
  shop_unknown: {
    exitCode: 1,
    cause: "Robokassa does not know this shop, or it is not active.",
    next: "Compare the login with the shop identifier in the cabinet, and check that the shop is activated.",
  },
  certificate: {
    exitCode: 1,
    cause: "No certificate for ResultUrl2 is valid today, so its messages are refused.",
    next: "Get the present certificate from docs.robokassa.ru and add it to the list.",
  },
  robokassa_does_not_answer: {
    exitCode: 2,
    cause: "Nothing reached this server, and Robokassa does not answer a state query.",
    next: "Try again in a few minutes; check that this machine may connect to auth.robokassa.ru.",
  },
};

/**
 * Tells why an order is not paid: one cause with its evidence and one thing to do. Reads only; it changes nothing.
 */
export async function diagnose(options: DiagnoseOptions): Promise<Diagnosis> {
  const { robokassa, storage, callback, clock = systemClock } = options;
  const order = (await storage.orders.get(options.order)) ?? (await storage.orders.getByInvId(options.order));
  const invId = order?.invId ?? (/^[1-9]\d{0,18}$/.test(options.order) ? options.order : undefined);
  const log = invId === undefined ? [] : await storage.callbacks.list({ invId, limit: 20 });

  const evidence: string[] = [];
  if (order)
    evidence.push(
      `order ${order.id}: InvId ${order.invId}, ${order.total}, ${order.status}${order.test ? ", test" : ""}`,
    );
  for (const entry of log.slice(0, 5)) {
    evidence.push(`${entry.at.toISOString()} ${entry.source}: ${entry.verdict}, answered ${entry.status}`);
  }
  const conclude = (code: DiagnosisCode): Diagnosis => ({
    code,
    ...findings[code],
    evidence,
    trace: callback === undefined ? undefined : traceResult(callback),
  });

  if (order?.status === "paid") return conclude("paid");
  if (order?.status === "refunded") return conclude("refunded");

  // What reached us says more than what Robokassa believes.
  if (callback !== undefined) {
    const code = replay(robokassa, { callback, order });
    if (code) return conclude(code);
  }
  const refused = log.find(({ status }) => status !== 200);
  const code = refused && explainEntry(robokassa, refused);
  const isWeak = code === "signature_unknown" || code === "notification_malformed";
  if (code && !isWeak) return conclude(code);
  if (options.certificates !== undefined && order && log.length === 0) {
    const certificates = readCertificates(options.certificates);
    const ended = certificateWarnings(certificates, clock.now()).filter((warning) => warning.includes("ended"));
    evidence.push(...certificateWarnings(certificates, clock.now()));
    if (ended.length === certificates.length) return conclude("certificate");
  }
  if (invId === undefined) return conclude("order_not_found");
  if (order?.test) return conclude(code ?? "test_no_notification");

  let state: OperationState;
  try {
    state = await robokassa.operationState(invId);
  } catch (error) {
    evidence.push(`state query: ${SdkError.isInstance(error) ? error.message : "failed"}`);
    return conclude(order ? "robokassa_does_not_answer" : "order_not_found");
  }
  evidence.push(
    state.found
      ? `Robokassa: state ${state.code} (${state.state})`
      : `Robokassa: result ${state.code} (${state.reason})`,
  );
  const told = explainState(state, { order, now: clock.now() });
  // Anybody can send a wrong signature or a broken form: it explains something only when Robokassa does have the money.
  return conclude(told === "no_notification" && code ? code : told);
}

/** A notification that the operator found in a log of theirs. */
function replay(
  robokassa: Robokassa,
  { callback, order }: { readonly callback: string; readonly order: Order | undefined },
): DiagnosisCode | undefined {
  const verification = robokassa.verifyResult(callback);
  if (!verification.ok) {
    if (verification.reason !== "bad_signature") return "notification_malformed";
    return explainFit(robokassa.explainResult(callback));
  }
  const { invId, outSum, test } = verification.notification;
  if (!order || order.invId !== invId) return "inv_id_not_stored";
  if (test !== order.test) return test ? "test_payment" : "live_payment";
  return sameAmount(outSum, order.total) ? undefined : "amount_differs";
}

const codeOfVerdict: Readonly<Record<string, DiagnosisCode>> = {
  unknown_order: "inv_id_not_stored",
  amount_differs: "amount_differs",
  currency_differs: "currency_differs",
  test_payment_for_live_order: "test_payment",
  live_payment_for_test_order: "live_payment",
  error: "answer_failed",
  certificate_expired: "certificate",
};

function explainEntry(robokassa: Robokassa, entry: CallbackEntry): DiagnosisCode | undefined {
  if (entry.verdict !== "bad_signature") {
    return codeOfVerdict[entry.verdict] ?? (entry.source === "result" ? "notification_malformed" : undefined);
  }
  if (entry.source === "result2") return undefined; // anybody can post there; it says nothing of this order
  if (entry.fit) return explainFit(entry.fit);
  if (entry.shpNames.length > 0 || !entry.outSum || !entry.invId || !entry.signature) return "signature_unknown";
  const { outSum: OutSum, invId: InvId, signature: SignatureValue } = entry;
  return explainFit(robokassa.explainResult(new URLSearchParams({ OutSum, InvId, SignatureValue })));
}

/** The deviation that explains most comes first. */
function explainFit(fit: SignatureFit | undefined): DiagnosisCode {
  if (!fit) return "signature_unknown";
  if (fit.password === "password1" || fit.password === "testPassword1") return "password1_used";
  if (fit.shp === "other_order" || fit.shp === "arrival_order") return "shp_order";
  if (fit.shp === "decoded" || fit.shp === "encoded") return "shp_encoding";
  if (fit.shp === "dropped") return "shp_dropped";
  if (fit.sum !== "received") return "sum_rewritten";
  if (fit.password === "testPassword2") return "test_password_used";
  return "algorithm_differs";
}

function explainState(
  state: OperationState,
  { order, now }: { readonly order: Order | undefined; readonly now: Date },
): DiagnosisCode {
  if (!state.found) {
    switch (state.reason) {
      case "bad_signature":
        return "state_password_wrong";
      case "unknown_shop":
        return "shop_unknown";
      case "ambiguous":
        return "number_shared_with_test";
      case "not_found":
        return order ? "not_started" : "order_not_found";
      default:
        return "robokassa_does_not_answer";
    }
  }
  if (!order) return "inv_id_not_stored";
  switch (state.state) {
    case "paid":
      return state.outSum !== undefined && !sameAmount(state.outSum, order.total)
        ? "amount_differs"
        : "no_notification";
    case "crediting":
      return state.stateAt && now.getTime() - state.stateAt.getTime() > 1_200_000 ? "crediting_too_long" : "waiting";
    case "cancelled":
    case "held":
    case "returned":
    case "suspended":
      return state.state;
    default:
      return "waiting";
  }
}
