import type { AnyKysely, Cipher } from "@orderbridge/core/kysely";
import type { StorageContext } from "./context.ts";
import { readFormer } from "./merchant-secrets.ts";
import { endpointSecretPlace, integer, merchantSecretPlace, paymentSecretPlace, type Row, text } from "./rows.ts";

/** What re-encryption did. */
export interface Reencrypted {
  /** Secrets that were stored under another key, or in clear. */
  readonly changed: number;
  /** Secrets that no key in force opens; they stay as they are. */
  readonly unreadable: number;
  /** Where the first of those is, and which key it needs. */
  readonly problem?: string;
}

/** Payments that are read in one go. */
const page = 500;

/**
 * Stores every webhook secret under the first key: those of payments, of merchants and of endpoints. May run beside the
 * gateway; what somebody replaces meanwhile stays replaced.
 */
export async function reencryptSecrets(
  { db, dialect, now, inTransaction }: StorageContext,
  cipher: Cipher,
): Promise<Reencrypted> {
  let [changed, unreadable] = [0, 0];
  let problem: string | undefined;

  /** `undefined`: it is to stay. */
  function renewed(stored: string, place: string): string | undefined {
    if (cipher.isCurrent(stored)) return undefined;
    try {
      return cipher.encrypt(cipher.decrypt(stored, place), place);
    } catch (error) {
      unreadable++;
      problem ??= (error as Error).message;
      return undefined;
    }
  }

  async function renewPayments(after: string): Promise<string | undefined> {
    const rows = await db
      .selectFrom("gateway_payment")
      .select(["id", "webhook_secret"])
      .where("webhook_secret", "is not", null)
      .where("id", ">", after)
      .orderBy("id")
      .limit(page)
      .execute();
    for (const row of rows) {
      const [id, stored] = [text(row.id), text(row.webhook_secret)];
      const webhook_secret = renewed(stored, paymentSecretPlace(id));
      if (webhook_secret === undefined) continue;
      await db.updateTable("gateway_payment").set({ webhook_secret }).where("id", "=", id).execute();
      changed++;
    }
    return rows.length < page ? undefined : text(rows.at(-1)?.id);
  }

  async function renewEndpoints(): Promise<void> {
    const rows = await db
      .selectFrom("gateway_endpoint_secret")
      .select(["endpoint_id", "number", "secret"])
      .where(({ eb, or }) => or([eb("ends_at", "=", 0), eb("ends_at", ">", now())]))
      .execute();
    for (const row of rows) {
      const [id, number] = [text(row.endpoint_id), integer(row.number)];
      const secret = renewed(text(row.secret), endpointSecretPlace(id, number));
      if (secret === undefined) continue;
      await db
        .updateTable("gateway_endpoint_secret")
        .set({ secret })
        .where("endpoint_id", "=", id)
        .where("number", "=", number)
        .execute();
      changed++;
    }
  }

  /** In a transaction that holds the row, because a rotation moves secrets within it. */
  async function renewMerchant(trx: AnyKysely, id: string): Promise<void> {
    const row: Row | undefined = await trx
      .selectFrom("gateway_merchant")
      .select(["webhook_secret", "former_secrets", now().as("now")])
      .where("id", "=", id)
      .$if(dialect !== "sqlite", (query) => query.forUpdate())
      .executeTakeFirst();
    if (!row) return;
    const place = merchantSecretPlace(id);
    const newest = renewed(text(row.webhook_secret), place);
    const former = readFormer(row.former_secrets).filter(({ endsAt }) => endsAt > integer(row.now));
    const formerRenewed = former.map(({ secret }) => renewed(secret, place));
    const count = [newest, ...formerRenewed].filter((secret) => secret !== undefined).length;
    if (count === 0) return;
    await trx
      .updateTable("gateway_merchant")
      .set({
        ...(newest === undefined ? {} : { webhook_secret: newest }),
        former_secrets:
          former.length === 0
            ? null
            : JSON.stringify(former.map((one, index) => ({ ...one, secret: formerRenewed[index] ?? one.secret }))),
      })
      .where("id", "=", id)
      .execute();
    changed += count;
  }

  for (let after: string | undefined = ""; after !== undefined; ) after = await renewPayments(after);
  await renewEndpoints();
  const merchants = await db.selectFrom("gateway_merchant").select("id").execute();
  for (const { id } of merchants) await inTransaction((trx) => renewMerchant(trx, text(id)));
  return { changed, unreadable, ...(problem === undefined ? {} : { problem }) };
}
