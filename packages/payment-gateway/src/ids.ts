import { randomBytes } from "node:crypto";

/**
 * More than 143 random bits as text of `[A-Za-z0-9_-]`; never holds a full stop, which would end the id in a signed text, nor
 * begins with a dash, which a command line would take for an option.
 */
export function randomId(prefix = ""): string {
  return prefix + randomBytes(18).toString("base64url").replace(/^-/, "_");
}

/** Whether a text from outside can be one of our ids. */
export const isId = (text: string): boolean => /^[A-Za-z0-9_-]{1,64}$/.test(text);
