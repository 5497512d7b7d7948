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
export type { KaspiAmocrmSyncOptions, RunReport, StageTarget } from "./sync/options.ts";
export { createKaspiAmocrmSync, type KaspiAmocrmSync, type SyncStatus } from "./sync/sync.ts";
