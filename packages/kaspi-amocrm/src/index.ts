export {
  connectKaspiAmocrm,
  type KaspiAmocrmEnvironment,
  type KaspiAmocrmSetup,
  readKaspiAmocrmEnvironment,
} from "./environment.ts";
export type {
  ContactIndex,
  ElementIndex,
  KaspiAmocrmStorage,
  LedgerChange,
  LedgerLine,
  LedgerPhase,
  LedgerRow,
  ObservedOrder,
  OrderKey,
  OrderLedger,
} from "./ledger.ts";
export type { KaspiAmocrmAlert } from "./sync/alerts.ts";
export type { KaspiAmocrmSyncOptions, RunReport, StageTarget } from "./sync/options.ts";
export { type BackfillOptions, createKaspiAmocrmSync, type KaspiAmocrmSync, type SyncStatus } from "./sync/sync.ts";
