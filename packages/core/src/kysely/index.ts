export { type Cipher, createCipher } from "./cipher.ts";
export { type Database, type OpenDatabaseOptions, openDatabase, prepared } from "./database.ts";
export { type AnyKysely, type ColumnTypes, columnTypes, type DatabaseDialect, nowMs } from "./dialects.ts";
export { type MigrateOptions, type Migration, migrate } from "./migrate.ts";
export type { PruneCounts, PruneOptions } from "./prune.ts";
export { createKyselyStorage, type KyselyStorage, type KyselyStorageOptions } from "./storage.ts";
export { insertAbsent, insertIfAbsent, transaction } from "./transaction.ts";
