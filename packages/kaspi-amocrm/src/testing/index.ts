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
export {
  createFakeKaspi,
  type FakeEntry,
  type FakeKaspi,
  type FakeKaspiOptions,
  type FakeOrder,
} from "./fake-kaspi.ts";
export { kaspiAmocrmStorageCases } from "./storage-cases.ts";
