export { type BackendApiOptions, createBackendApi } from "./backend-api.ts";
export type { BatchCommand, BatchItem, BatchOptions, BatchResult } from "./batch.ts";
export {
  type Bitrix,
  type BitrixClientOptions,
  type BitrixOptions,
  type CallOptions,
  createBitrix,
  type Envelope,
} from "./bitrix.ts";
export type { Categories, Category, Stage } from "./categories.ts";
export { type BitrixConnection, type BitrixConnectionOptions, createBitrixConnection } from "./connection.ts";
export type { Contact, ContactChange, Contacts, ContactValue, NewContactValue } from "./contacts.ts";
export type { DealPayment, DealPayments } from "./deal-payments.ts";
export { createDealSide, type DealSide, type DealSideOptions } from "./deal-side.ts";
export { createDealSweep, type DealSweep, type DealSweepOptions } from "./deal-sweep.ts";
export type { Deal, Deals } from "./deals.ts";
export { InputError } from "./errors.ts";
export { createEventHandler, dealEvents, dealTopic, type EventHandlerOptions } from "./event-handler.ts";
export type { Item, Items } from "./items.ts";
export type { ListOptions, ListProgress } from "./list.ts";
export { fromDecimalText, toDecimalText } from "./money.ts";
export { createOfflineQueue, type OfflineQueue, type OfflineQueueOptions } from "./offline-queue.ts";
export { createOrderSide, type OrderSideOptions } from "./order-side.ts";
export { createOrderStatusHandler, type OrderStatusHandlerOptions } from "./order-status-handler.ts";
export { bitrixOrderStatuses } from "./order-statuses.ts";
export {
  createOrders,
  type NewOrder,
  type Orders,
  type OrdersOptions,
  type OrderValues,
  orderTopic,
} from "./orders.ts";
export { type Parameter, type Parameters, type Reference, reference } from "./parameters.ts";
export {
  createProductSync,
  type ProductChange,
  type ProductSync,
  type ProductSyncOptions,
  productTopic,
} from "./product-sync.ts";
export type { CatalogPrice, CatalogProduct, PriceType, Products } from "./products.ts";
export type { RestAddress } from "./rest-address.ts";
export { createSaleOrderSide, type SaleOrderSide, type SaleOrderSideOptions } from "./sale-order-side.ts";
export { createSaleOrderSweep, type SaleOrderSweepOptions } from "./sale-order-sweep.ts";
export type { ShopOrder, ShopOrders, ShopPayment, ShopPayments } from "./shop-orders.ts";
export {
  createStatusSync,
  type SideChange,
  type SideState,
  type SideWrite,
  type StatusSync,
  type StatusSyncOptions,
  type SyncOutcome,
  type SyncSide,
} from "./status-sync.ts";
export type {
  AgreedState,
  BitrixPruneCounts,
  BitrixPruneOptions,
  BitrixStorage,
  BitrixStores,
  ClaimedWork,
  LinkStore,
  Order,
  OrderChange,
  OrderStore,
  Product,
  ProductConflict,
  ProductStore,
  ProductValues,
  SyncLink,
  WorkEntry,
  WorkStore,
} from "./storage.ts";
export type { Sweep, SweepOptions } from "./sweep.ts";
export { createSyncHandlers } from "./sync-handlers.ts";
export type { UserField, UserFields } from "./user-fields.ts";
export { createWorker, type Worker, type WorkerOptions } from "./worker.ts";
