export { type BillerReply, createFakeKaspiBiller, type FakeKaspiBiller } from "./fake-kaspi-biller.ts";
export { createFakeReceiver, type FakeReceiver, type ReceivedWebhook } from "./fake-receiver.ts";
export { type ProviderCaseContext, providerCases } from "./provider-cases.ts";
export { type GatewayStorageContext, gatewayStorageCases } from "./storage-cases.ts";
