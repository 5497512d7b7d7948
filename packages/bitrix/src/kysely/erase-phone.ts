import { type Kysely, sql } from "kysely";

/** Texts that others write: nothing puts a phone there on purpose. All other columns hold ids, amounts, states and times. */
const textColumns = [
  ["bitrix_work", "last_error"],
  ["bitrix_links", "note"],
  ["bitrix_order_changes", "changed_by"],
  ["bitrix_orders", "paid_by"],
] as const;

/**
 * Replaces each stored text that holds the phone, however it is spaced, by `(erased)`.
 *
 * @param digits the national number: the last ten digits, so that `+7…` and `8…` are one
 * @returns columns and how many different texts were replaced in them
 */
export async function erasePhone(
  db: Kysely<unknown>,
  digits: string,
): Promise<readonly { readonly column: string; readonly texts: number }[]> {
  const erased: { column: string; texts: number }[] = [];
  for (const [table, column] of textColumns) {
    const { rows } = await sql<{ text: string }>`
      select distinct ${sql.ref(column)} as text from ${sql.table(table)} where ${sql.ref(column)} is not null`.execute(
      db,
    );
    const holding = rows.filter(({ text }) => text.replace(/[\s().+-]/g, "").includes(digits));
    for (const { text } of holding) {
      await sql`update ${sql.table(table)} set ${sql.ref(column)} = '(erased)' where ${sql.ref(column)} = ${text}`.execute(
        db,
      );
    }
    erased.push({ column: `${table}.${column}`, texts: holding.length });
  }
  return erased;
}
