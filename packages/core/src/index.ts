export { systemClock } from "./clock.ts";
export {
  ApiError,
  type ApiErrorDetails,
  BlockedError,
  ConfigError,
  type Outcome,
  RateLimitStoreError,
  RequestError,
  ResponseShapeError,
  SdkError,
} from "./errors.ts";
export {
  createHttpClient,
  type HttpAnswer,
  type HttpCall,
  type HttpClient,
  type HttpClientOptions,
  parseJson,
  type Refusal,
  readRetryAfter,
} from "./http/client.ts";
export { type FormLimits, type FormResult, type FormTree, parseForm } from "./http/form.ts";
export { ConsumedBodyError, defineHandler, type FetchHandler, type HandlerOptions } from "./http/handler.ts";
export { redactingLogger, silentLogger } from "./http/logger.ts";
export { budgetPerSecond, createRateLimiter, type RateLimiter, type RateLimiterOptions } from "./http/rate-limiter.ts";
export { redact, redactText } from "./http/redact.ts";
export {
  createJobEngine,
  type Job,
  type JobEngine,
  type JobEngineOptions,
  type JobRun,
  type JobStatus,
} from "./jobs/job-engine.ts";
export {
  createOutboxWorker,
  type Delivery,
  type OutboxWorker,
  type OutboxWorkerOptions,
} from "./jobs/outbox-worker.ts";
export {
  type HeldLease,
  holdLease,
  LeaseLostError,
  type WithLeaseOptions,
  type WithLeaseResult,
  withLease,
} from "./jobs/with-lease.ts";
export {
  createTokenKeeper,
  NeedsReauthError,
  type TokenKeeper,
  type TokenKeeperOptions,
} from "./oauth/token-keeper.ts";
export type {
  ClaimedMessage,
  Clock,
  IdempotencyClaim,
  IdempotencyResult,
  IdempotencyStore,
  Lease,
  LeaseStore,
  Logger,
  OutboxEntry,
  OutboxMessage,
  OutboxState,
  OutboxStore,
  RateBudget,
  RateLimitStatus,
  RateLimitStore,
  SlotReservation,
  Storage,
  StoredToken,
  Telemetry,
  TelemetryAttributes,
  TelemetryOperation,
  TokenPair,
  TokenStore,
  VendorBlock,
  WatermarkStore,
} from "./ports.ts";
export { createStatusMapper, type StatusMapper, type StatusMapperOptions, type StatusPair } from "./status-mapper.ts";
