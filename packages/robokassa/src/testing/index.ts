export { createFakeCertificate, type FakeCertificate } from "./certificate.ts";
export { type RobokassaStorageContext, robokassaStorageCases } from "./conformance.ts";
export {
  createFakeRobokassa,
  type FakeDelivery,
  type FakeOperation,
  type FakeOperationState,
  type FakeReadings,
  type FakeRefund,
  type FakeRobokassa,
  type FakeRobokassaOptions,
  type FakeShop,
  type PayResult,
} from "./fake.ts";
