export {
  createFakeAmocrm,
  type FakeAmocrm,
  type FakeAmocrmOptions,
  type FakeContact,
  type FakeElement,
  type FakeLead,
  type FakeNote,
  fakeAccount,
} from "./fake-amocrm.ts";
export type { FakeHook } from "./fake-amocrm-hooks.ts";
export { type FakeIntegration, type FakeTokenPair, fakeIntegration } from "./fake-amocrm-oauth.ts";
export {
  createFakeKaspi,
  type FakeEntry,
  type FakeKaspi,
  type FakeKaspiOptions,
  type FakeOrder,
} from "./fake-kaspi.ts";
export { kaspiAmocrmStorageCases } from "./storage-cases.ts";
