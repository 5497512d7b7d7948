import type { AnyKysely, DatabaseDialect } from "@orderbridge/core/kysely";
import { type RawBuilder, type SqlBool, sql } from "kysely";
import type { Seal } from "./rows.ts";

/** What the parts of the storage share. */
export interface StorageContext {
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  readonly seal: Seal;
  /** Milliseconds since 1970 by the clock that judges due times. */
  now(): RawBuilder<number>;
  /** So many milliseconds from now. */
  later(ms: number): RawBuilder<number>;
  /** Begins a statement that is worth preparing. Nothing with a clock of its own, whose time is part of every text. */
  readonly prepared: RawBuilder<unknown>;
  inTransaction<T>(work: (trx: AnyKysely) => Promise<T>): Promise<T>;
}

/** One parameter on PostgreSQL: many make a statement that is new, long to read and long to plan each time. */
export const among = (dialect: DatabaseDialect, column: string, values: readonly string[]): RawBuilder<SqlBool> =>
  dialect === "postgres"
    ? sql<SqlBool>`${sql.ref(column)} = any(${values})`
    : sql<SqlBool>`${sql.ref(column)} in (${sql.join(values)})`;
