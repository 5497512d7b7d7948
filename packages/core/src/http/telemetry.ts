import type { Telemetry } from "../ports.ts";

/** What is used when nobody listens. */
export const silentTelemetry: Telemetry = {
  operation: (_operation, work) => work(() => undefined),
  waited() {},
  retried() {},
};
