import { createHash } from "node:crypto";
import { ConfigError } from "@orderbridge/core";
import type { DigestAlgorithm } from "@orderbridge/core/signature";

/** The six digests that the cabinet offers. One is chosen for the shop; the test pair uses the same. */
export const algorithms = ["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const;
export type Algorithm = (typeof algorithms)[number] & DigestAlgorithm;

/**
 * Refuses a name that Robokassa does not know, and a digest that this runtime cannot compute.
 *
 * @throws {ConfigError}
 */
export function checkAlgorithm(algorithm: string): Algorithm {
  if (!(algorithms as readonly string[]).includes(algorithm)) {
    throw new ConfigError(`robokassa: algorithm "${algorithm}" is unknown; use one of ${algorithms.join(", ")}`);
  }
  try {
    createHash(algorithm);
  } catch {
    throw new ConfigError(
      `robokassa: this Node cannot compute ${algorithm} (its OpenSSL was built without it); choose another in the cabinet's technical settings`,
    );
  }
  return algorithm as Algorithm;
}

/**
 * The text that is hashed: parts joined with colons, then the `Shp_` pairs.
 *
 * Parts are taken as they are: what is hashed is what the server sees after one decode. `undefined` vanishes with its
 * colon, `""` keeps it (`login:1000.00::password` has no InvId).
 *
 * @param shp `name=value` texts, sorted already ({@link sortShp}).
 * @see docs.robokassa.ru, "Payment interface" and "Script parameters" (read 2025-11)
 */
export function signatureBase(parts: readonly (string | undefined)[], shp: readonly string[] = []): string {
  return [...parts.filter((part) => part !== undefined), ...shp].join(":");
}

/** Hex digest of a base string, lower case; Robokassa accepts any case. The text is hashed as UTF-8. */
export function sign(base: string, algorithm: Algorithm): string {
  return createHash(algorithm).update(base, "utf8").digest("hex");
}
