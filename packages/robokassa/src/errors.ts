import { SdkError } from "@orderbridge/core";

/** A value that Robokassa would refuse, or read otherwise than meant. The message names the field and what to do. */
export class InputError extends SdkError {
  override readonly name = "InputError";
  readonly outcome = "not-executed" as const;
  /** The option's name, e.g. `outSum` or `receipt.items[0].tax`. */
  readonly field: string;

  constructor(field: string, problem: string) {
    super(`robokassa: ${field} ${problem}`);
    this.field = field;
  }
}
