import { type Clock, SdkError, systemClock } from "@orderbridge/core";
import { sameAmount } from "./amount.ts";
import { isFormer } from "./booking.ts";
import { type SignatureFit, traceResult } from "./explain.ts";
import { readFields } from "./notification.ts";
import type { OperationState } from "./operation-state.ts";
import { type ProbeProblem, probeResultUrl } from "./probe.ts";
import { certificateWarnings, readCertificates } from "./result2.ts";
import type { Robokassa } from "./robokassa.ts";
import { signatureBase } from "./signature.ts";
import { type CallbackEntry, isUnproven, type Order, payable, type RobokassaStorage } from "./storage.ts";

export interface DiagnoseOptions {
  readonly robokassa: Robokassa;
  readonly storage: RobokassaStorage;
  /** The shop's own id of the order, or its InvId. */
  readonly order: string;
  /** A refused notification from a log of yours, as a query or form: it is replayed. */
  readonly callback?: string;
  /** Certificates of the ResultUrl2 handler, as PEM. */
  readonly certificates?: string;
  /**
   * This shop's own Result URL. It is called with a probe, which pays nothing, and each byte of the answer is looked at:
   * redirects, pages, byte order marks, another server. @defaultValue nobody is called
   */
  readonly resultUrl?: string;
  /** Calls `resultUrl`. @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
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
  | "number_used_before"
  | "test_payment"
  | "live_payment"
  | "password1_used"
  | "algorithm_differs"
  | "sum_rewritten"
  | "shp_order"
  | "shp_encoding"
  | "shp_dropped"
  | "shp_rewritten"
  | "inv_id_rewritten"
  | "link_of_other_shop"
  | "settings_changed"
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
  | "robokassa_does_not_answer"
  | ProbeProblem;

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
  /** The text that the refused notification's signature should cover, without secrets, for a support ticket. */
  readonly trace: string | undefined;
  /** The text that the newest link's signature covers, without secrets. */
  readonly link: string | undefined;
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
    next: "Find out who changed the price after the link was made, or captured another part of the hold in the cabinet. A held order learns from another call of captureOrder which part was taken. Otherwise give the payment back in the cabinet, or by robokassa.refunds.create with the opKey that robokassa.operationState gives, and sell it anew.",
  },
  currency_differs: {
    exitCode: 1,
    cause: "The payment came in another currency than the order has.",
    next: "Compare OutSumCurrency of the link with the order.",
  },
  number_used_before: {
    exitCode: 1,
    cause:
      "Robokassa has an older payment under this InvId: the number was sold before, by another database or program, so nobody can pay it again (error 40).",
    next: "Raise firstLiveInvId of the storage above every number in the cabinet, then place the order again under another id. When the payment is of this order after all, this server's clock is ahead: set it.",
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
  algorithm_differs: {
    exitCode: 1,
    cause: "The notification is signed with another algorithm than the shop is set to.",
    next: "Set the option algorithm to the one that the cabinet shows, for the live and the test pair.",
  },
  sum_rewritten: {
    exitCode: 1,
    cause: "The signature fits only with the sum as Robokassa writes it: something on the way rewrites it.",
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
  shp_rewritten: {
    exitCode: 1,
    cause:
      "The signature fits with the Shp_ fields of the link, not with those that came: something on the way drops, adds or changes them.",
    next: "Give the handler the body as it was sent: mount it before body parsers and remove proxies that change it.",
  },
  inv_id_rewritten: {
    exitCode: 1,
    cause: "A notification of this order came under another InvId: the signature fits only with the order's own.",
    next: "Give the handler the body as it was sent: mount it before body parsers and remove proxies that change it.",
  },
  link_of_other_shop: {
    exitCode: 1,
    cause: "The link was made for another shop than the one that is set up now.",
    next: "Compare the login with the link below: use the settings of the shop that made it.",
  },
  settings_changed: {
    exitCode: 1,
    cause: "The server refused a notification that is genuine by the settings of this diagnosis: it ran with others.",
    next: "Restart the server with these settings, then send the notification again from the cabinet or run reconcile.",
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
    next: "Send the buyer the link again, or place a new order, if the buyer still wants it.",
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
    cause: "No certificate for ResultUrl2 is valid today or fits, so its messages are refused.",
    next: "Get the present certificate from docs.robokassa.ru and add it to the list.",
  },
  result_url_unreachable: {
    exitCode: 1,
    cause: "The Result URL does not answer.",
    next: "Check its host name, port, certificate chain and firewall from outside; then send the notification again from the cabinet or run reconcile.",
  },
  result_url_redirects: {
    exitCode: 1,
    cause: "The Result URL answers with a redirect, which Robokassa does not follow.",
    next: "Write the final address into the cabinet: https, the same host, the same path. Then run reconcile.",
  },
  result_url_not_found: {
    exitCode: 1,
    cause: "The server at the Result URL knows no such address, or takes no POST there.",
    next: "Compare the address in the cabinet with the route of createResultHandler; then run reconcile.",
  },
  result_url_closed: {
    exitCode: 1,
    cause: "The Result URL turns callers away.",
    next: "Take passwords off this address, and let 185.59.216.65 and 185.59.217.65 in. When only those are let in, this probe had to fail: look into the firewall's log.",
  },
  result_url_other_password: {
    exitCode: 1,
    cause: "The server at the Result URL refuses our signature: it runs with another password 2 or algorithm.",
    next: "Give the server the settings that this diagnosis ran with, compare both with the cabinet, and restart it.",
  },
  result_url_fails: {
    exitCode: 1,
    cause: "The server at the Result URL fails.",
    next: "Mend the error of this minute in the server's log; then send the notification again from the cabinet or run reconcile.",
  },
  answer_bytes: {
    exitCode: 1,
    cause: "The Result URL does not answer exactly OK and the number, so Robokassa takes no answer for accepted.",
    next: "Find out what adds to the answer or replaces it: a page in front, middleware, a byte order mark, another server.",
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
  const log = invId === undefined ? [] : await storage.callbacks.list({ invId, limit: 1000 });
  const strays = order ? await listStrays(storage, order) : [];
  const refused = log.find(({ status }) => status !== 200);

  const evidence: string[] = [];
  if (order) {
    const { id, total, captured, status, test, createdAt } = order;
    const sum = captured === undefined ? total : `${captured} of ${total}`;
    evidence.push(
      `order ${id}: InvId ${order.invId}, ${sum}, ${status}${test ? ", test" : ""}, placed ${createdAt.toISOString()}`,
    );
    if (order.link === undefined) evidence.push("no link was stored with the order: it was not made by placeOrder");
  }
  evidence.push(...log.slice(0, 5).map(describeEntry));
  const conclude = (code: DiagnosisCode): Diagnosis => ({
    code,
    ...findings[code],
    evidence,
    trace: callback === undefined ? refused && traceEntry(refused) : traceResult(callback),
    link: order?.link,
  });

  let probed: ProbeProblem | undefined;
  if (options.resultUrl !== undefined) {
    const url = options.resultUrl;
    const fetch = options.fetch ?? globalThis.fetch;
    const { problem, evidence: seen } = await probeResultUrl(robokassa.resultProbe(), { url, fetch, clock });
    probed = problem;
    evidence.push(seen);
  }
  const certificates = options.certificates === undefined ? [] : readCertificates(options.certificates);
  const warnings = certificateWarnings(certificates, clock.now());
  evidence.push(...warnings);
  const lastEnd = Math.max(...certificates.map(({ validToDate }) => validToDate.getTime()));
  if (certificates.length > 0 && warnings.length === 0) {
    evidence.push(`ResultUrl2 certificates are valid until ${new Date(lastEnd).toISOString().slice(0, 10)}`);
  }
  const isCertificateMissing =
    strays.some(({ verdict }) => verdict === "certificate_expired") ||
    (certificates.length > 0 && certificates.every(({ validToDate }) => validToDate < clock.now()));

  if (order?.status === "paid") return conclude("paid");
  if (order?.status === "refunded") return conclude("refunded");

  // What reached us says more than what Robokassa believes.
  if (callback !== undefined) {
    const code = replay(robokassa, { callback, order });
    if (code) return conclude(code);
  }
  const code = refused && explainEntry(robokassa, { entry: refused, order });
  const isWeak = code === "signature_unknown" || code === "notification_malformed";
  if (code && !isWeak) return conclude(code);
  // Anybody can send a wrong signature under any number; what Robokassa signed before it still stands.
  const signed = log.find((entry) => entry.status !== 200 && !isUnproven(entry));
  const signedCode = signed && explainEntry(robokassa, { entry: signed, order });
  if (signed && signedCode) {
    if (log.indexOf(signed) >= 5) evidence.push(describeEntry(signed));
    return conclude(signedCode);
  }
  const moved = order && strays.find((entry) => isMoved(robokassa, { entry, order }));
  if (moved) {
    evidence.push(`under InvId ${moved.invId}: ${describeEntry(moved)}`);
    return conclude("inv_id_rewritten");
  }
  if (order && log.length === 0 && isCertificateMissing) return conclude("certificate");
  if (order?.link !== undefined && !order.link.startsWith(`${robokassa.login}:`)) return conclude("link_of_other_shop");
  if (invId === undefined) return conclude("order_not_found");
  const malformed = strays.find(isMalformed);
  if (malformed) evidence.push(`without an InvId: ${describeEntry(malformed)}`);
  const weak = code ?? (malformed && "notification_malformed");
  if (order?.test) return conclude(weak ?? probed ?? "test_no_notification");

  let state: OperationState;
  try {
    state = await robokassa.operationState(invId);
  } catch (error) {
    evidence.push(`state query: ${SdkError.isInstance(error) ? error.message : "failed"}`);
    return conclude(order ? (probed ?? "robokassa_does_not_answer") : "order_not_found");
  }
  evidence.push(
    state.found
      ? `Robokassa: state ${state.code} (${state.state})${state.stateAt ? ` since ${state.stateAt.toISOString()}` : ""}`
      : `Robokassa: result ${state.code} (${state.reason})`,
  );
  const told = explainState(state, { order, now: clock.now() });
  // Only ResultUrl2 tells of a hold.
  if (told === "held" && order?.status === "new" && strays.some(({ source }) => source === "result2")) {
    return conclude("certificate");
  }
  // Anybody can send a wrong signature or a broken form: it explains something only when Robokassa does have the money.
  return conclude(told === "no_notification" ? (weak ?? probed ?? told) : told);
}

/** Refused requests that came after the order was placed and do not name it. */
async function listStrays({ callbacks }: RobokassaStorage, order: Order): Promise<readonly CallbackEntry[]> {
  const newest = await callbacks.list({ limit: 100 });
  return newest.filter(({ status, at, invId }) => status !== 200 && at >= order.createdAt && invId !== order.invId);
}

const describeEntry = ({ at, source, verdict, status, invId }: CallbackEntry): string =>
  `${at.toISOString()} ${source}: ${verdict}, answered ${status}${status === 200 ? ` OK${invId}` : " without a body"}`;

/** Values of `Shp_` fields are not in the log, so their names stand alone. */
const traceEntry = ({ outSum, invId, shpNames }: CallbackEntry): string | undefined =>
  outSum === undefined || invId === undefined
    ? undefined
    : signatureBase(
        [outSum, invId, "[password2]"],
        [...shpNames].sort().map((name) => `${name}=…`),
      );

const isMalformed = ({ source, verdict, invId }: CallbackEntry): boolean =>
  source === "result" && invId === undefined && /^(missing|malformed|conflicting)_field/.test(verdict);

/** A notification that the operator found in a log of theirs. */
function replay(
  robokassa: Robokassa,
  { callback, order }: { readonly callback: string; readonly order: Order | undefined },
): DiagnosisCode | undefined {
  const verification = robokassa.verifyResult(callback);
  if (!verification.ok) {
    const received = readFields(callback);
    if (!received.ok) return "notification_malformed";
    const { values } = received;
    const sent = {
      outSum: values.get("OutSum"),
      invId: values.get("InvId"),
      signature: values.get("SignatureValue"),
    };
    const fit = robokassa.explainResult(callback);
    return fit ? explainFit(fit) : (explainByLink(robokassa, { sent, order }) ?? "signature_unknown");
  }
  const { invId, outSum, test } = verification.notification;
  if (!order || order.invId !== invId) return "inv_id_not_stored";
  if (test !== order.test) return test ? "test_payment" : "live_payment";
  return sameAmount(outSum, payable(order)) ? undefined : "amount_differs";
}

/** What a refused notification said of itself. */
type Sent = Pick<CallbackEntry, "outSum" | "invId" | "signature">;

/**
 * Puts what the link asked for in place of what came, one thing at a time: the signature covers what Robokassa sent, so
 * the thing that makes it fit was changed on the way.
 */
function explainByLink(
  robokassa: Robokassa,
  { sent, order }: { readonly sent: Sent; readonly order: Order | undefined },
): DiagnosisCode | undefined {
  const { outSum = "", invId = "", signature = "" } = sent;
  if (order?.link === undefined) return undefined;
  const [start = "", shpText = ""] = order.link.split(/:\[(?:testP|p)assword1\](?::|$)/);
  const linkSum = start.split(":")[1] ?? "";
  const shp = shpText === "" ? [] : shpText.split(":").map((pair) => pair.split("=", 2) as [string, string]);
  const fits = (changed: { readonly OutSum?: string; readonly InvId?: string }): boolean => {
    const fields = { OutSum: outSum, InvId: invId, SignatureValue: signature, ...changed };
    return robokassa.explainResult(new URLSearchParams([...Object.entries(fields), ...shp])) !== undefined;
  };
  if (fits({})) return "shp_rewritten";
  if (fits({ OutSum: linkSum })) return "sum_rewritten";
  return fits({ InvId: order.invId }) ? "inv_id_rewritten" : undefined;
}

const isMoved = (
  robokassa: Robokassa,
  { entry, order }: { readonly entry: CallbackEntry; readonly order: Order },
): boolean =>
  entry.verdict === "bad_signature" && explainByLink(robokassa, { sent: entry, order }) === "inv_id_rewritten";

const codeOfVerdict: Readonly<Record<string, DiagnosisCode>> = {
  unknown_order: "inv_id_not_stored",
  amount_differs: "amount_differs",
  currency_differs: "currency_differs",
  test_payment_for_live_order: "test_payment",
  live_payment_for_test_order: "live_payment",
  number_used_before: "number_used_before",
  error: "answer_failed",
  certificate_expired: "certificate",
};

function explainEntry(
  robokassa: Robokassa,
  { entry, order }: { readonly entry: CallbackEntry; readonly order: Order | undefined },
): DiagnosisCode | undefined {
  if (entry.verdict !== "bad_signature") {
    return codeOfVerdict[entry.verdict] ?? (entry.source === "result" ? "notification_malformed" : undefined);
  }
  if (entry.source === "result2") return undefined; // anybody can post there; it says nothing of this order
  if (entry.fit) return explainFit(entry.fit);
  const { outSum, invId, signature, shpNames } = entry;
  if (shpNames.length === 0 && outSum && invId && signature) {
    const fields = new URLSearchParams({ OutSum: outSum, InvId: invId, SignatureValue: signature });
    if (robokassa.verifyResult(fields).ok) return "settings_changed";
    const fit = robokassa.explainResult(fields);
    if (fit) return explainFit(fit);
  }
  return explainByLink(robokassa, { sent: entry, order }) ?? "signature_unknown";
}

/** The deviation that explains most comes first. */
function explainFit(fit: SignatureFit | undefined): DiagnosisCode {
  if (!fit) return "signature_unknown";
  if (fit.password === "password1" || fit.password === "testPassword1") return "password1_used";
  if (fit.shp === "other_order" || fit.shp === "arrival_order") return "shp_order";
  if (fit.shp === "decoded" || fit.shp === "encoded") return "shp_encoding";
  if (fit.shp === "dropped") return "shp_dropped";
  if (fit.sum !== "received") return "sum_rewritten";
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
  const usesNumberUp = state.state === "paid" || state.state === "held" || state.state === "crediting";
  if (usesNumberUp && isFormer(order, state.stateAt)) return "number_used_before";
  switch (state.state) {
    case "paid":
      return state.outSum !== undefined && !sameAmount(state.outSum, payable(order))
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
