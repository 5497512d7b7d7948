import type { X509Certificate } from "node:crypto";
import { type Catalog, createCatalog } from "./catalog.ts";
import { explainResult, type SignatureFit } from "./explain.ts";
import { createHolds, type Holds } from "./holds.ts";
import { createInvoices, type Invoices } from "./invoices.ts";
import { type NotificationFields, type Verification, verifyNotification } from "./notification.ts";
import { type OperationState, operationState } from "./operation-state.ts";
import { resultProbe } from "./probe.ts";
import { createRecurring, type Recurring } from "./recurring.ts";
import { createRefunds, type Refunds } from "./refunds.ts";
import { type Verification2, verifyNotification2 } from "./result2.ts";
import { createSecondReceipt, type SecondReceipt } from "./second-receipt.ts";
import { createShop, type RobokassaOptions } from "./shop.ts";
import { createSms, type Sms } from "./sms.ts";
import { type SplitRequest, splitForm } from "./split.ts";
import { type PaymentForm, type PaymentRequest, paymentForm, paymentUrl, traceLink } from "./start.ts";
import { freeSumSignature, type Widget, type WidgetRequest, widget } from "./widget.ts";

export interface Robokassa {
  readonly login: string;
  /** Whether payments start in test mode by default. */
  readonly test: boolean;
  /** A link that starts a payment. Store the InvId first: {@link placeOrder} does both. @throws {InputError} */
  paymentUrl(request: PaymentRequest): string;
  /** The same as a form to post; needed with a receipt. @throws {InputError} */
  paymentForm(request: PaymentRequest): PaymentForm;
  /**
   * What the link's signature covers, safe for a support ticket: the password, the card's token and the buyer's address
   * stand by name. `demo-shop:1000.00:146:[password1]:Shp_user=5`. @throws {InputError}
   */
  traceLink(request: PaymentRequest): string;
  /**
   * A genuine ResultURL notification of nothing, as a form: InvId 0 and no money. {@link createResultHandler} answers it
   * `OK0` and books nothing, so that the whole way to the shop can be tried.
   */
  resultProbe(): string;
  /** Checks a ResultURL notification: proof that the payment was made. Never throws. */
  verifyResult(fields: NotificationFields): Verification;
  /** Checks a ResultUrl2 message with Robokassa's certificates ({@link readCertificates}). Never throws. */
  verifyResult2(
    body: string | Uint8Array,
    options: { readonly certificates: readonly X509Certificate[]; readonly now: Date },
  ): Verification2;
  /** Asks Robokassa for the state of a live payment. @throws {SdkError} when there is no answer */
  operationState(invId: string | bigint): Promise<OperationState>;
  readonly holds: Holds;
  readonly refunds: Refunds;
  readonly recurring: Recurring;
  readonly invoices: Invoices;
  readonly secondReceipt: SecondReceipt;
  readonly catalog: Catalog;
  readonly sms: Sms;
  /** A form that starts a payment divided between shops (by agreement). @throws {InputError} */
  splitForm(request: SplitRequest): PaymentForm;
  /** Signed parameters for the scripts that pay in a frame of the shop's own page. @throws {InputError} */
  widget(request: WidgetRequest): Widget;
  /** Signature of a form in which the buyer chooses the sum. @throws {InputError} */
  freeSumSignature(invId: string | bigint): string;
  /** Finds out how a refused ResultURL notification was signed; `undefined` when nothing fits. Never throws. */
  explainResult(fields: NotificationFields): SignatureFit | undefined;
  /** Checks a visit to SuccessURL. No proof of payment: it only says that the link is genuine. Never throws. */
  verifySuccess(fields: NotificationFields): Verification;
}

/** @throws {ConfigError} naming the option. */
export function createRobokassa(options: RobokassaOptions): Robokassa {
  const shop = createShop(options);
  return {
    login: shop.login,
    test: shop.test,
    paymentUrl: (request) => paymentUrl(shop, request),
    paymentForm: (request) => paymentForm(shop, request),
    traceLink: (request) => traceLink(shop, request),
    resultProbe: () => resultProbe(shop),
    verifyResult: (fields) => verifyNotification(shop, fields, "password2"),
    verifyResult2: (body, options) => verifyNotification2(shop, body, options),
    operationState: (invId) => operationState(shop, invId),
    holds: createHolds(shop),
    refunds: createRefunds(shop),
    recurring: createRecurring(shop),
    invoices: createInvoices(shop),
    secondReceipt: createSecondReceipt(shop),
    catalog: createCatalog(shop),
    sms: createSms(shop),
    splitForm: (request) => splitForm(shop, request),
    widget: (request) => widget(shop, request),
    freeSumSignature: (invId) => freeSumSignature(shop, invId),
    explainResult: (fields) => explainResult(shop, fields),
    verifySuccess: (fields) => verifyNotification(shop, fields, "password1"),
  };
}
