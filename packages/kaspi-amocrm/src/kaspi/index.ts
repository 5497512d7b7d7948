export {
  createKaspi,
  type Kaspi,
  type KaspiErrorKind,
  type KaspiOptions,
  kaspiErrorKind,
  type LineCancellation,
  type OrderPage,
  type OrderQuery,
  type OrderStatusChange,
} from "./client.ts";
export { createOrderFeed, type FeedPage, type OrderFeed, type OrderFeedOptions } from "./feed.ts";
export { type KaspiEntry, type KaspiOrder, type KaspiState, kaspiStates, kaspiStatuses } from "./order.ts";
export { cutWindows, maxWindowMs, type TimeWindow } from "./windows.ts";
