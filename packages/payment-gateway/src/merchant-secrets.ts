import { toStandardSecret } from "@orderbridge/core/signature";
import { newSecret, tooManySecrets } from "./endpoints.ts";
import type { Engine } from "./engine.ts";
import { defaultOverlapMs } from "./schemas.ts";

/** The merchants' own secrets: they sign for payments that were created without one. */
export interface MerchantSecrets {
  /**
   * From now on a new secret signs; the former ones sign beside it for at most `overlapMs` more, so that receivers may take
   * the new one at any moment of that time. Tries of older events, repeated ones too, are signed with what is in force at
   * the try. Payments and endpoints with secrets of their own are not touched.
   *
   * @throws {Refusal} for a secret that cannot sign, or with ten in force.
   */
  rotate(request: {
    readonly merchant: string;
    /** `whsec_…` or any text of 8 to 256 characters. @defaultValue a random one */
    readonly secret?: string | undefined;
    /** 0 ends the former secrets at once. @defaultValue 86_400_000 */
    readonly overlapMs?: number | undefined;
  }): Promise<{ readonly secret: string }>;
}

export function createMerchantSecrets({ storage }: Pick<Engine, "storage">): MerchantSecrets {
  return {
    async rotate({ merchant, secret: given, overlapMs = defaultOverlapMs }) {
      const secret = newSecret(given);
      if (!(await storage.rotateMerchantSecret(merchant, { secret, overlapMs }))) throw tooManySecrets();
      return { secret: toStandardSecret(secret) };
    },
  };
}
