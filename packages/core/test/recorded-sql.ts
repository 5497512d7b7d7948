import {
  type CompiledQuery,
  type DatabaseConnection,
  type Driver,
  Kysely,
  MysqlAdapter,
  MysqlIntrospector,
  MysqlQueryCompiler,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import type { AnyKysely, DatabaseDialect } from "../src/kysely/index.ts";

const parts = {
  sqlite: { Adapter: SqliteAdapter, Introspector: SqliteIntrospector, Compiler: SqliteQueryCompiler },
  postgres: { Adapter: PostgresAdapter, Introspector: PostgresIntrospector, Compiler: PostgresQueryCompiler },
  mariadb: { Adapter: MysqlAdapter, Introspector: MysqlIntrospector, Compiler: MysqlQueryCompiler },
} as const;

/** The statements that create or alter something when `migrate` runs on an empty database of this dialect. */
export async function recordedSql(
  dialect: DatabaseDialect,
  migrate: (db: AnyKysely) => Promise<void>,
): Promise<string> {
  const { Adapter, Introspector, Compiler } = parts[dialect];
  const statements: string[] = [];
  const connection: DatabaseConnection = {
    async executeQuery<Row>({ sql }: CompiledQuery) {
      if (/^(create|alter|drop) /.test(sql)) statements.push(`${sql};\n`);
      return { rows: (sql.includes("get_lock") ? [{ got: 1 }] : []) as Row[], numAffectedRows: 1n };
    },
    streamQuery: () => {
      throw new Error("nothing streams in a migration");
    },
  };
  const nothing = async () => undefined;
  const driver: Driver = {
    init: nothing,
    acquireConnection: async () => connection,
    beginTransaction: nothing,
    commitTransaction: nothing,
    rollbackTransaction: nothing,
    releaseConnection: nothing,
    destroy: nothing,
  };
  await migrate(
    new Kysely({
      dialect: {
        createAdapter: () => new Adapter(),
        createDriver: () => driver,
        createIntrospector: (db) => new Introspector(db),
        createQueryCompiler: () => new Compiler(),
      },
    }),
  );
  return statements.join("\n");
}
