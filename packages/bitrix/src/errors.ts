import { SdkError } from "@orderbridge/core";

/** A value from outside that cannot be used. `field` names it; the message says what to send. */
export class InputError extends SdkError {
  override readonly name = "InputError";
  readonly outcome = "not-executed" as const;
  readonly field: string;

  constructor(field: string, advice: string) {
    super(`${field} ${advice}`);
    this.field = field;
  }
}
