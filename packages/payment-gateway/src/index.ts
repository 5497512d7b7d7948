export type { CreatedPayment, CreatePaymentRequest } from "./creating.ts";
export { defaultBreaker, defaultRetryDelaysMs } from "./delivery.ts";
export type { WebhookEndpoints } from "./endpoints.ts";
export type { RequestKey } from "./engine.ts";
export type { WebhookBody } from "./event-body.ts";
export {
  type CleanUpRule,
  createPaymentGateway,
  type PaymentGateway,
  type PaymentGatewayOptions,
  type Payments,
} from "./gateway.ts";
export type { AdminOptions } from "./http/admin-session.ts";
export type { MerchantSecrets } from "./merchant-secrets.ts";
export { type Currency, currencies, formatAmount, parseAmount } from "./money.ts";
export {
  ForbiddenChangeError,
  type Payment,
  type PaymentEventName,
  type PaymentStatus,
  paymentMoves,
} from "./payment.ts";
export type {
  BookedMoney,
  BookResult,
  NextLook,
  PayerAction,
  PayerNotice,
  PayerStep,
  PaymentProvider,
  ProviderAttempt,
  ProviderContext,
  ProviderState,
  RememberedState,
  ReportedMoney,
  StartContext,
  StartedPayment,
} from "./provider.ts";
export type { RefundRequest, RefundResult } from "./refunds.ts";
export { Refusal, type RefusalCode } from "./refusal.ts";
export { metadataLimits } from "./schemas.ts";
export type { ResolvedAddress, SenderOptions } from "./sender.ts";
export type {
  BreakerRule,
  CleanUpCounts,
  DeliveryAttempt,
  DeliveryHints,
  DeliveryRecord,
  GatewayHealth,
  GatewayStorage,
  NewPayment,
  PausedReceiver,
  PaymentFilter,
  PaymentHistory,
  ProviderErrors,
  Refund,
  WebhookEndpoint,
} from "./storage.ts";
export { type ApiScope, apiScopes, type StaticToken } from "./tokens.ts";
