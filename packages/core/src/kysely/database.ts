import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, isAbsolute, relative, resolve, sep } from "node:path";
import { CompiledQuery, Kysely, MysqlDialect, PostgresDialect, type RawBuilder, sql } from "kysely";
import { ConfigError } from "../errors.ts";
import type { AnyKysely, DatabaseDialect } from "./dialects.ts";
import { createSqliteDialect } from "./sqlite.ts";

export interface Database {
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  /** Resolves when the database answers. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export interface OpenDatabaseOptions {
  /** For tools that look at a server's database: a missing SQLite file is an error. @defaultValue false */
  readonly mustExist?: boolean;
}

/**
 * Opens the database of an address: `sqlite:./path.db`, `sqlite::memory:`, `postgres://…` (needs the package `pg`) or
 * `mysql://…` (MariaDB, needs `mysql2`). Servers are connected to at the first query.
 *
 * A missing SQLite file is created at the first query, with its folder when that is inside the working folder.
 *
 * @throws {ConfigError} for another address, when the driver is not installed, for a SQLite file in a missing folder
 *   elsewhere, and with `mustExist` for a missing file.
 */
export async function openDatabase(url: string, { mustExist = false }: OpenDatabaseOptions = {}): Promise<Database> {
  const scheme = /^[a-z]+:/.exec(url)?.[0];
  if (scheme === "sqlite:") {
    const path = url.slice(scheme.length);
    if (path === "") throw new ConfigError('the database address names no file; use "sqlite:./orders.db"');
    if (path !== ":memory:") checkFile(resolve(path), mustExist);
    return toDatabase(new Kysely({ dialect: createSqliteDialect(path) }), "sqlite");
  }
  if (scheme === "postgres:" || scheme === "postgresql:") {
    const { default: pg } = await loadDriver("pg", () => import("pg"));
    const pool = new pg.Pool({ connectionString: url, connectionTimeoutMillis: 10_000, keepAlive: true });
    // A connection that breaks leaves the pool by itself, and whoever waits on it gets the error. Without listeners on the
    // pool and on each connection it would also end the process.
    pool.on("error", () => undefined);
    const preparation = { isOn: true };
    pool.on("connect", (client) => {
      client.on("error", () => undefined);
      prepareMarked(client, preparation);
    });
    return toDatabase(new Kysely({ dialect: new PostgresDialect({ pool }) }), "postgres");
  }
  if (scheme === "mysql:" || scheme === "mariadb:") {
    const { default: mysql } = await loadDriver("mysql2", () => import("mysql2"));
    const pool = mysql.createPool({
      uri: url.replace(/^mariadb:/, "mysql:"),
      charset: "utf8mb4",
      supportBigNumbers: true,
      connectTimeout: 10_000,
      flags: ["FOUND_ROWS"], // count the rows that an update matched, as the other databases do
    });
    const session = [
      "set session transaction isolation level read committed",
      "set session sql_mode = concat(@@sql_mode, ',STRICT_ALL_TABLES')",
    ];
    const dialect = new MysqlDialect({
      pool,
      onCreateConnection: async (connection) => {
        for (const statement of session) await connection.executeQuery(CompiledQuery.raw(statement));
      },
    });
    return toDatabase(new Kysely({ dialect }), "mariadb");
  }
  throw new ConfigError("the database address must start with sqlite:, postgres:// or mysql://");
}

const mark = "/* prepared */";

/**
 * Put before a large statement that runs often, outside transactions: {@link openDatabase}'s connections to PostgreSQL
 * then parse and plan it once and keep it, which can cost more than running it. Its text must not vary: every text is kept.
 * Behind a pooler that gives each statement another connection and knows no prepared ones, it works as without the mark.
 */
export const prepared: RawBuilder<unknown> = sql.raw(`${mark} `);

/** What PostgreSQL answers where a pooler changed the connection: the name is not known there, or taken already. */
const lostPreparation = new Set(["26000", "42P05"]);

interface QueryingClient {
  query(query: unknown, ...rest: unknown[]): Promise<unknown>;
}

function prepareMarked(client: object, preparation: { isOn: boolean }): void {
  const querying = client as QueryingClient;
  const query = querying.query.bind(client);
  querying.query = (text, ...rest) => {
    if (!preparation.isOn || typeof text !== "string" || !text.startsWith(mark)) return query(text, ...rest);
    const name = createHash("sha256").update(text).digest("base64url");
    return query({ name, text, values: rest[0] }).catch((error: unknown) => {
      if (!lostPreparation.has(String((error as { code?: unknown }).code))) throw error;
      preparation.isOn = false; // nothing was done yet
      return query(text, ...rest);
    });
  };
}

/** A mistyped path is told, instead of an empty database being made where nobody looks. */
function checkFile(path: string, mustExist: boolean): void {
  if (existsSync(path)) return;
  if (mustExist) throw new ConfigError(`there is no database file ${path}; check DATABASE_URL`);
  const folder = dirname(path);
  const fromHere = relative(process.cwd(), folder);
  const isInside = !isAbsolute(fromHere) && fromHere !== ".." && !fromHere.startsWith(`..${sep}`);
  if (!isInside && !existsSync(folder)) {
    throw new ConfigError(`the folder ${folder} of the database file does not exist; create it, or check DATABASE_URL`);
  }
}

function toDatabase(db: AnyKysely, dialect: DatabaseDialect): Database {
  return {
    db,
    dialect,
    async ping() {
      await sql`select 1`.execute(db);
    },
    close: () => db.destroy(),
  };
}

async function loadDriver<Module>(name: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load();
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new ConfigError(`this database address needs the package ${name}: npm install ${name}`);
  }
}
