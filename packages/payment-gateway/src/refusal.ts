export type RefusalCode =
  /** A field is wrong. */
  | "invalid"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  /** The payment's state does not allow it. */
  | "conflict"
  /** A request with the same key is at work. */
  | "in_flight"
  /** The key was used for another request. */
  | "key_reused"
  /** The provider said no, or did not answer. */
  | "provider_failed";

/** A request that is refused; the message says what to do and names no secret. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly code: RefusalCode;
  /** The field of the request, by its name on the wire. */
  readonly field: string | undefined;

  constructor(code: RefusalCode, message: string, field?: string) {
    super(field === undefined ? message : `${field} ${message}`);
    this.code = code;
    this.field = field;
  }
}
