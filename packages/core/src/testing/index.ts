export {
  type ConformanceCase,
  idempotencyCases,
  leaseCases,
  outboxCases,
  rateLimitCases,
  type StorageContext,
  storageCases,
  tokenCases,
  watermarkCases,
} from "./conformance/index.ts";
export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export { createFaults, type Fault, type FaultAnswers, type FaultRule, type Faults } from "./faults.ts";
export { createJournal, type Journal, type JournalEntry } from "./journal.ts";
export { droppedReply, fetchFrom, type Listening, listen } from "./listen.ts";
