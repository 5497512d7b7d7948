import type { AnyKysely, DatabaseDialect } from "@orderbridge/core/kysely";
import type { RawBuilder } from "kysely";
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
  inTransaction<T>(work: (trx: AnyKysely) => Promise<T>): Promise<T>;
}
