export {
  createFakeBitrix,
  type FakeBitrix,
  type FakeBitrixOptions,
  type FakeWrite,
} from "./fake-bitrix.ts";
export type { FakeDeal, FakeStage } from "./fake-bitrix-deals.ts";
export type { FakeEvent, FakeEventOptions } from "./fake-bitrix-events.ts";
export type { BatchAccounting, BeforeCommand } from "./fake-bitrix-http.ts";
export {
  createFakeBitrixSite,
  type FakeBitrixSite,
  type FakeBitrixSiteOptions,
  type FakeSiteDelivery,
  type FakeSiteOrder,
  type FakeSiteProduct,
  type SendOptions,
} from "./fake-bitrix-site.ts";
export type { FakeSmartProcess } from "./fake-crm.ts";
export { type BitrixStorageContext, bitrixStorageCases } from "./storage-cases.ts";
