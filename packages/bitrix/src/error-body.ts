import type { HttpAnswer, Outcome, Refusal } from "@orderbridge/core";

/** What an answer with the key `error` says. */
export interface BitrixFailure {
  /** As text; many methods send an empty one, `0`, or a long number. */
  readonly code: string;
  readonly description: string;
}

/**
 * Reads a failure by the presence of the key `error`, whatever its value: classic CRM methods send `""`, others `0`.
 * `undefined`: the answer is no failure.
 */
export function readFailure(body: unknown): BitrixFailure | undefined {
  if (typeof body === "string") return { code: body, description: "" };
  if (typeof body !== "object" || body === null || !("error" in body)) return undefined;
  const { error, error_description: description } = body as { error: unknown; error_description?: unknown };
  if (typeof error === "object" && error !== null) {
    // REST 3.0: {"error": {"code", "message"}}
    const { code, message } = error as { code?: unknown; message?: unknown };
    return { code: String(code ?? ""), description: String(message ?? "") };
  }
  return { code: String(error ?? ""), description: typeof description === "string" ? description : "" };
}

/** The call may be made again as it is, after a pause. */
const paused = new Set(["QUERY_LIMIT_EXCEEDED"]);
/** Bitrix24 could not reach its own authorisation server. */
const transient = new Set(["CONNECTION_ERROR"]);
/** The call may have run in spite of the error. */
const ambiguous = new Set(["INTERNAL_SERVER_ERROR", "ERROR_UNEXPECTED_ANSWER"]);
/** The call ran; only its answer could not be written. */
const executed = new Set(["WRONG_ENCODING"]);
/** A block that only Bitrix24's support lifts. */
const blocking = new Set(["OVERLOAD_LIMIT"]);
export const isBlock = (code: string): boolean => blocking.has(code);

/**
 * Whether a refused call may have run. A command of a batch has no `status` of its own.
 *
 * @see apidocs.bitrix24.ru, "REST API: errors" and the codes of single methods (read 2026-08)
 */
export function outcomeOf(code: string, status: number | undefined): Outcome {
  if (paused.has(code) || transient.has(code) || blocking.has(code) || code === "OPERATION_TIME_LIMIT") {
    return "not-executed";
  }
  if (executed.has(code)) return "executed";
  if (ambiguous.has(code) || (code === "ERROR_CORE" && (status ?? 500) >= 500)) return "unknown";
  return "refused";
}

/** The table of refusals for the HTTP client. A redirect is handled before it. */
export function readRefusal({ status, text }: HttpAnswer): Refusal | undefined {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // A page of the web server in front: whether the call ran is not known.
    return { vendorCode: "NOT_JSON", outcome: "unknown" };
  }
  const failure = typeof body === "object" ? readFailure(body) : undefined;
  if (!failure) {
    if (status < 300) return undefined;
    return { vendorCode: String(status), outcome: status >= 500 ? "unknown" : "refused" };
  }
  return {
    vendorCode: failure.code,
    description: failure.description,
    outcome: outcomeOf(failure.code, status),
    retry: paused.has(failure.code) || transient.has(failure.code),
    block: blocking.has(failure.code),
  };
}
