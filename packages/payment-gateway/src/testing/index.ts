export { type BillerReply, createFakeKaspiBiller, type FakeKaspiBiller } from "./fake-kaspi-biller.ts";
export {
  createFakeKaspiQr,
  type FakeKaspiQr,
  type FakeKaspiQrPayment,
  type FakeKaspiQrReadings,
} from "./fake-kaspi-qr.ts";
export {
  createFakeKaspiSmartpos,
  type FakeKaspiSmartpos,
  type FakeKaspiSmartposReadings,
  type FakeSmartposTransaction,
} from "./fake-kaspi-smartpos.ts";
export { createFakeReceiver, type FakeReceiver, type ReceivedWebhook } from "./fake-receiver.ts";
export { type ProviderCaseContext, providerCases } from "./provider-cases.ts";
export { type GatewayStorageContext, gatewayStorageCases } from "./storage-cases.ts";
