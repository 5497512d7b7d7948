const marker = Symbol.for("orderbridge.sdk-error"); // survives two copies of the package

/**
 * Whether the request may have changed something at the vendor. This, not "is it temporary", decides about retries:
 * `not-executed` may be repeated, `refused` and `executed` must not, `unknown` must be looked up first.
 */
export type Outcome = "not-executed" | "refused" | "executed" | "unknown";

/** Base of every error that the packages throw on purpose. Messages never hold a URL, a body, a token or a phone. */
export abstract class SdkError extends Error {
  abstract override readonly name: string; // a literal, so that minifiers cannot change it
  abstract readonly outcome: Outcome;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    Object.defineProperty(this, marker, { value: true });
  }

  static isInstance(error: unknown): error is SdkError {
    return typeof error === "object" && error !== null && marker in error;
  }
}

/** No answer arrived. `not-executed` when nothing was sent, else `unknown`. */
export class RequestError extends SdkError {
  override readonly name = "RequestError";
  readonly vendor: string;
  readonly code: "network" | "timeout" | "aborted" | "too-large";
  readonly outcome: Outcome;

  constructor(
    message: string,
    details: { readonly vendor: string; readonly code: RequestError["code"]; readonly outcome: Outcome },
  ) {
    super(message);
    this.vendor = details.vendor;
    this.code = details.code;
    this.outcome = details.outcome;
  }
}

export interface ApiErrorDetails {
  readonly vendor: string;
  /** HTTP status of the answer; Bitrix24 also says no with 200. */
  readonly status: number;
  /** The vendor's own code as text; `""` where the vendor sends an empty one. */
  readonly vendorCode?: string | undefined;
  /** What the vendor says in words, redacted. Not in the message: it may name people or values. */
  readonly description?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly outcome: Outcome;
}

/** An answer that says no. */
export class ApiError extends SdkError {
  override readonly name: string = "ApiError";
  readonly vendor: string;
  readonly status: number;
  readonly vendorCode: string | undefined;
  /** What the vendor says in words, where the client reads it: redacted, and not part of the message. */
  readonly description: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly outcome: Outcome;

  constructor(message: string, details: ApiErrorDetails) {
    super(message);
    this.vendor = details.vendor;
    this.status = details.status;
    this.vendorCode = details.vendorCode;
    this.description = details.description;
    this.retryAfterMs = details.retryAfterMs;
    this.outcome = details.outcome;
  }
}

/** An answer that we do not understand. `paths` names the places, never the values; none: it was not JSON at all. */
export class ResponseShapeError extends SdkError {
  override readonly name = "ResponseShapeError";
  readonly vendor: string;
  readonly status: number;
  readonly paths: readonly string[];
  readonly outcome: Outcome;

  constructor(
    message: string,
    details: {
      readonly vendor: string;
      readonly status: number;
      readonly paths: readonly string[];
      readonly outcome: Outcome;
    },
  ) {
    super(message);
    this.vendor = details.vendor;
    this.status = details.status;
    this.paths = details.paths;
    this.outcome = details.outcome;
  }
}

/**
 * The vendor has shut the account out; no call is made until a person clears the stored block. `not-executed`, unless an
 * earlier attempt of the same call may have run: then `unknown`.
 */
export class BlockedError extends SdkError {
  override readonly name = "BlockedError";
  readonly vendor: string;
  readonly since: Date;
  readonly vendorCode: string;
  readonly outcome: Outcome = "not-executed";

  constructor(
    message: string,
    details: { readonly vendor: string; readonly since: Date; readonly vendorCode: string },
  ) {
    super(message);
    this.vendor = details.vendor;
    this.since = details.since;
    this.vendorCode = details.vendorCode;
  }
}

/** The store of the rate budget does not answer, so the call was not made; `outcome` as of {@link BlockedError}. */
export class RateLimitStoreError extends SdkError {
  override readonly name = "RateLimitStoreError";
  readonly vendor: string;
  readonly outcome: Outcome = "not-executed";

  constructor(message: string, details: { readonly vendor: string }) {
    super(message);
    this.vendor = details.vendor;
  }
}

/** Wrong options, found at creation. The message names the option and what to do. */
export class ConfigError extends SdkError {
  override readonly name = "ConfigError";
  readonly outcome = "not-executed" as const;
}
