import { type Kysely, type RawBuilder, sql } from "kysely";
import { systemClock } from "../clock.ts";
import type { Clock } from "../ports.ts";

export type DatabaseDialect = "sqlite" | "postgres" | "mariadb";

/** A Kysely handle or transaction of any schema: our tables live beside yours. */
// biome-ignore lint/suspicious/noExplicitAny: Kysely is invariant in its schema, so nothing narrower takes every handle
export type AnyKysely = Kysely<any>;

export interface ColumnTypes {
  /** Keys and vendor ids: at most 191 characters, compared byte for byte. */
  readonly key: RawBuilder<unknown>;
  /** Payloads of any length. */
  readonly text: RawBuilder<unknown>;
  /** Milliseconds and minor units. `pg` gives it back as text: read it with `Number()`. */
  readonly integer64: RawBuilder<unknown>;
}

/** Column types for migrations: `.addColumn("id", columnTypes(dialect).key)`. */
export function columnTypes(dialect: DatabaseDialect): ColumnTypes {
  return {
    key: sql`varchar(191)`,
    text: dialect === "mariadb" ? sql`longtext` : sql`text`,
    integer64: sql`bigint`,
  };
}

/**
 * Milliseconds since 1970 for use inside a statement. On PostgreSQL and MariaDB it is the database's own clock at the
 * start of the statement, so that machines whose clocks differ agree; on SQLite, or when a test gives a `clock`, it is
 * that clock's time.
 */
export function nowMs(dialect: DatabaseDialect, clock?: Clock): RawBuilder<number> {
  if (clock || dialect === "sqlite") return sql<number>`${sql.lit((clock ?? systemClock).now().getTime())}`;
  return dialect === "postgres"
    ? sql<number>`(floor(extract(epoch from statement_timestamp()) * 1000)::bigint)`
    : sql<number>`(timestampdiff(microsecond, '1970-01-01 00:00:00', utc_timestamp(3)) div 1000)`;
}
