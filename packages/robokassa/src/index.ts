export type { Booking, OnPaid } from "./booking.ts";
export type { Catalog, Currency, CurrencyGroup } from "./catalog.ts";
export { type DiagnoseOptions, type Diagnosis, type DiagnosisCode, diagnose } from "./diagnose.ts";
export { InputError } from "./errors.ts";
export type { SignatureFit } from "./explain.ts";
export { type CaptureOrderOptions, captureOrder, type HeldPayment, type Holds } from "./holds.ts";
export type {
  Invoice,
  InvoiceFilter,
  InvoiceName,
  InvoiceRequest,
  Invoices,
  ListedInvoice,
} from "./invoices.ts";
export type {
  Notification,
  NotificationFields,
  RefusedNotification,
  Verification,
} from "./notification.ts";
export type { OperationState } from "./operation-state.ts";
export { type PlaceOrderOptions, placeOrder, placeOrderForm } from "./place-order.ts";
export type { Country, Receipt, ReceiptItem } from "./receipt.ts";
export {
  type CheckOutcome,
  createReconciler,
  type ReconcileCounts,
  type Reconciler,
  type ReconcilerOptions,
} from "./reconcile.ts";
export type { Recurring, RecurringCharge } from "./recurring.ts";
export {
  type RefundOrderOptions,
  type RefundRequest,
  type Refunds,
  refreshRefunds,
  refundOrder,
} from "./refunds.ts";
export { createResultHandler, type ResultHandlerOptions } from "./result-handler.ts";
export { type Notification2, type Refusal2, readCertificates, type Verification2 } from "./result2.ts";
export { type Certificates, createResult2Handler, type Result2HandlerOptions } from "./result2-handler.ts";
export { createRobokassa, type Robokassa } from "./robokassa.ts";
export type { SecondReceipt, SecondReceiptRequest, SecondReceiptState } from "./second-receipt.ts";
export type { Hosts, Readings, RobokassaOptions } from "./shop.ts";
export { type ShpOrder, type ShpPair, sortShp } from "./shp.ts";
export { type Algorithm, algorithms, sign, signatureBase } from "./signature.ts";
export type { Sms, SmsMessage } from "./sms.ts";
export { robokassaAddresses, type SourceAddressOptions } from "./source-address.ts";
export type { SplitPart, SplitRequest } from "./split.ts";
export type { PaymentForm, PaymentRequest, ReturnAddress } from "./start.ts";
export type {
  BookingResult,
  CallbackEntry,
  CallbackLog,
  DueCheck,
  InvIdRanges,
  NewOrder,
  Order,
  OrderStatus,
  OrderStore,
  PaymentBooking,
  PaymentSource,
  Refund,
  RefundStore,
  RobokassaStorage,
} from "./storage.ts";
export type { Widget, WidgetRequest } from "./widget.ts";
