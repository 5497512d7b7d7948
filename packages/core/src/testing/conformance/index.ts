import type { ConformanceCase, StorageContext } from "./context.ts";
import { idempotencyCases } from "./idempotency.ts";
import { leaseCases } from "./leases.ts";
import { outboxCases } from "./outbox.ts";
import { rateLimitCases } from "./rate-limits.ts";
import { tokenCases } from "./tokens.ts";
import { watermarkCases } from "./watermarks.ts";

export type { ConformanceCase, StorageContext } from "./context.ts";
export { idempotencyCases, leaseCases, outboxCases, rateLimitCases, tokenCases, watermarkCases };

/** The cases of all six ports. Give each its own empty storage. */
export const storageCases: readonly ConformanceCase<StorageContext>[] = [
  ...watermarkCases,
  ...leaseCases,
  ...idempotencyCases,
  ...tokenCases,
  ...outboxCases,
  ...rateLimitCases,
];
