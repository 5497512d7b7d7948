import { insertIfAbsent } from "@orderbridge/core/kysely";
import { type GatewayStorage, maxSecrets } from "../storage.ts";
import type { StorageContext } from "./context.ts";
import { integer, merchantSecretPlace, type Row, type Seal, text } from "./rows.ts";

/** A secret that was replaced, as it stands in the column `former_secrets`, the newest first. */
interface Former {
  /** As the row held it while it was the newest: sealed for the same place. */
  readonly secret: string;
  /** Milliseconds since 1970. */
  readonly endsAt: number;
}

export const readFormer = (stored: unknown): readonly Former[] =>
  typeof stored === "string" ? (JSON.parse(stored) as readonly Former[]) : [];

/**
 * Secrets that sign for a merchant at an instant, the newest first. One that cannot be opened is left out: the keys in
 * force are others.
 */
export function secretsOfMerchant(
  seal: Seal,
  merchant: string,
  { newest, former, nowMs }: { readonly newest: unknown; readonly former: unknown; readonly nowMs: number },
): readonly string[] {
  const inForce = readFormer(former).filter(({ endsAt }) => endsAt > nowMs);
  return [newest, ...inForce.map(({ secret }) => secret)].flatMap((stored) => {
    try {
      return typeof stored === "string" ? [seal.open(stored, merchantSecretPlace(merchant))] : [];
    } catch {
      return [];
    }
  });
}

/** The secrets that sign where neither a payment nor an endpoint has one of its own. */
export function createMerchantSecrets({
  db,
  dialect,
  now,
  seal,
  inTransaction,
}: StorageContext): Pick<GatewayStorage, "merchantSecret" | "rotateMerchantSecret"> {
  return {
    async merchantSecret(merchant, proposal) {
      const find = () =>
        db.selectFrom("gateway_merchant").select("webhook_secret").where("id", "=", merchant).executeTakeFirst();
      const place = merchantSecretPlace(merchant);
      const known = await find();
      if (known) return seal.open(text(known.webhook_secret), place);
      const stored = { id: merchant, webhook_secret: seal.close(proposal, place) };
      await insertIfAbsent(db, dialect, "gateway_merchant", stored);
      return seal.open(text((await find())?.webhook_secret), place);
    },

    rotateMerchantSecret: (merchant, { secret, overlapMs }) =>
      inTransaction(async (trx) => {
        /** The row, locked, so that two rotations come one after the other. */
        const lock = (): Promise<Row | undefined> =>
          trx
            .selectFrom("gateway_merchant")
            .select(["webhook_secret", "former_secrets", now().as("now")])
            .where("id", "=", merchant)
            .$if(dialect !== "sqlite", (query) => query.forUpdate())
            .executeTakeFirst();
        const webhook_secret = seal.close(secret, merchantSecretPlace(merchant));
        let row = await lock();
        if (!row && (await insertIfAbsent(trx, dialect, "gateway_merchant", { id: merchant, webhook_secret })))
          return true;
        row ??= await lock();
        if (!row) throw new Error("a merchant's row vanished while it was locked");
        const nowMs = integer(row.now);
        const former = [
          { secret: text(row.webhook_secret), endsAt: Number.POSITIVE_INFINITY },
          ...readFormer(row.former_secrets).filter(({ endsAt }) => endsAt > nowMs),
        ].map((one) => ({ ...one, endsAt: Math.min(one.endsAt, nowMs + overlapMs) }));
        if (overlapMs > 0 && former.length >= maxSecrets) return false;
        await trx
          .updateTable("gateway_merchant")
          .set({
            webhook_secret,
            former_secrets: overlapMs > 0 ? JSON.stringify(former) : null,
            former_ends_at: overlapMs > 0 ? nowMs + overlapMs : null,
          })
          .where("id", "=", merchant)
          .execute();
        return true;
      }),
  };
}
