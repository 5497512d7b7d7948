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

/** Text of 1 to `maxLength` characters without control characters. @throws {InputError} */
export function checkText(field: string, value: unknown, maxLength: number): string {
  if (typeof value !== "string" || value === "" || [...value].length > maxLength) {
    throw new InputError(field, `must have 1 to ${maxLength} characters`);
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (/[\u0000-\u001f\u007f]/.test(value) || !value.isWellFormed()) {
    throw new InputError(field, "must not hold control characters");
  }
  return value;
}

/** @throws {InputError} for anything but an object, `null` included. */
export function checkObject(field: string, value: unknown): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new InputError(field, "must be an object");
  }
}
