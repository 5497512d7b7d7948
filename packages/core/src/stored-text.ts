/** Most characters of a key: what an index takes on each of the databases. */
const maxKeyCharacters = 191;

/**
 * Checks a key before it is stored or looked up, so that no database cuts it or takes it for another one.
 * @throws {RangeError} naming `field`, for an empty or too long key and for characters that databases change.
 */
export function checkKey(field: string, value: string): void {
  if (value === "") throw new RangeError(`${field} is empty; give it at least one character`);
  // A character takes one or two code units, so most keys need no counting.
  if (value.length > maxKeyCharacters) {
    const characters = [...value].length;
    if (characters > maxKeyCharacters) {
      throw new RangeError(`${field} has ${characters} characters; at most ${maxKeyCharacters} fit, a hash of it does`);
    }
  }
  checkText(field, value);
}

/**
 * Checks a text that must come back byte for byte.
 * @throws {RangeError} naming `field`, for NUL (PostgreSQL refuses it) and half of a surrogate pair (UTF-8 has none).
 */
export function checkText(field: string, value: string): void {
  if (value.includes("\0")) throw new RangeError(`${field} contains NUL (U+0000); remove it or encode the value`);
  if (!value.isWellFormed()) throw new RangeError(`${field} contains half of a surrogate pair; encode the value`);
}
