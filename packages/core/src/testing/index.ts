export type { ConformanceCase, StorageContext } from "./conformance.ts";
export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export { createFaults, type Fault, type FaultAnswers, type FaultRule, type Faults } from "./faults.ts";
export { createJournal, type Journal, type JournalEntry } from "./journal.ts";
export { droppedReply, fetchFrom, type Listening, listen } from "./listen.ts";
