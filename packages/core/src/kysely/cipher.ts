import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from "node:crypto";
import { ConfigError } from "../errors.ts";

/** Encrypts single values of a row with AES-256-GCM. */
export interface Cipher {
  /**
   * Gives `enc1.<key id>.<base64url of nonce, tag and text>`.
   * @param place Where the value is stored, e.g. `orderbridge_token/amocrm/access_token`: a value that somebody moves
   *   to another row or column no longer opens.
   */
  encrypt(text: string, place: string): string;
  /**
   * Opens a value. One that was stored before encryption was switched on comes back as it is.
   * @throws {Error} naming the key id that is missing, or the place where the value was changed
   */
  decrypt(stored: string, place: string): string;
  /** Whether the value is encrypted with the first key; others are for re-encryption. */
  isCurrent(stored: string): boolean;
}

const mark = "enc1.";
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Reads `ENCRYPTION_KEYS`: `id:base64,id:base64,…`, each key 32 bytes (`openssl rand -base64 32`). The first one encrypts,
 * all of them decrypt: to rotate, put a new one in front, call `reencrypt()`, then remove the old one.
 *
 * @throws {ConfigError} for a list that is not of this form; it never shows a key.
 */
export function createCipher({ keys }: { readonly keys: string }): Cipher {
  const byId = new Map<string, KeyObject>();
  for (const [index, entry] of keys.split(",").entries()) {
    const [, id, encoded] = /^\s*([\w-]{1,32}):([A-Za-z0-9+/]+={0,2})\s*$/.exec(entry) ?? [];
    const bytes = Buffer.from(encoded ?? "", "base64");
    if (id === undefined || bytes.length !== 32) {
      throw new ConfigError(
        `encryption keys: entry ${index + 1} must be id:base64 of 32 bytes (openssl rand -base64 32)`,
      );
    }
    if (byId.has(id)) throw new ConfigError(`encryption keys: the id "${id}" is given twice`);
    byId.set(id, createSecretKey(bytes));
  }
  const [[currentId, currentKey]] = [...byId] as [[string, KeyObject]];

  return {
    encrypt(text, place) {
      const nonce = randomBytes(nonceBytes);
      const cipher = createCipheriv("aes-256-gcm", currentKey, nonce).setAAD(Buffer.from(place));
      const sealed = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
      return `${mark}${currentId}.${Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString("base64url")}`;
    },
    decrypt(stored, place) {
      if (!stored.startsWith(mark)) return stored;
      const [, id = "", encoded = ""] = stored.split(".");
      const key = byId.get(id);
      if (!key) throw new Error(`${place} is encrypted with the key "${id}", which is not in the encryption keys`);
      const bytes = Buffer.from(encoded, "base64url");
      try {
        const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, nonceBytes))
          .setAAD(Buffer.from(place))
          .setAuthTag(bytes.subarray(nonceBytes, nonceBytes + tagBytes));
        return decipher.update(bytes.subarray(nonceBytes + tagBytes), undefined, "utf8") + decipher.final("utf8");
      } catch {
        throw new Error(
          `${place} does not open with the key "${id}": it was changed, moved, or the key is another one`,
        );
      }
    },
    isCurrent: (stored) => stored.startsWith(`${mark}${currentId}.`),
  };
}

/** For storage without keys. Refuses what was stored with one, rather than sending ciphertext to a vendor. */
export const plainText: Cipher = {
  encrypt: (text) => text,
  decrypt(stored, place) {
    if (stored.startsWith(mark)) throw new Error(`${place} is encrypted; give the encryption keys`);
    return stored;
  },
  isCurrent: () => true,
};
