import { connect } from "node:net";
import { sql } from "kysely";
import { type Database, openDatabase } from "../src/kysely/index.ts";

/** A database of its own for each test file or test: whatever is in it disappears with `close()`. */
export interface TestDatabase extends Database {
  /** Address that other connections and processes open it with; `sqlite::memory:` cannot be shared. */
  readonly url: string;
}

export interface TestDatabases {
  readonly name: string;
  /** True when the server does not answer: `describe.skipIf(skipped)(name, …)`. Never with `REQUIRE_SERVICES=1`. */
  readonly skipped: boolean;
  open(): Promise<TestDatabase>;
}

const postgresUrl = process.env.DATABASE_URL_POSTGRES ?? "postgres://postgres@127.0.0.1:5432/test";
const mariadbUrl = process.env.DATABASE_URL_MARIADB ?? "mysql://root@127.0.0.1:3306/test";
const [hasPostgres, hasMariadb] = await Promise.all([answers(postgresUrl, 5432), answers(mariadbUrl, 3306)]);
const maySkip = process.env.REQUIRE_SERVICES !== "1";
let opened = 0;

/** SQLite in memory, PostgreSQL and MariaDB, for one suite that runs on all. */
export function testDatabases(): readonly TestDatabases[] {
  return [
    {
      name: "SQLite",
      skipped: false,
      open: async () => ({ ...(await openDatabase("sqlite::memory:")), url: "sqlite::memory:" }),
    },
    {
      name: hasPostgres ? "PostgreSQL" : "PostgreSQL (does not answer)",
      skipped: maySkip && !hasPostgres,
      open: openPostgres,
    },
    {
      name: hasMariadb ? "MariaDB" : "MariaDB (does not answer)",
      skipped: maySkip && !hasMariadb,
      open: openMariadb,
    },
  ];
}

async function openPostgres(): Promise<TestDatabase> {
  const name = uniqueName();
  await administer(postgresUrl, [`drop schema if exists ${name} cascade`, `create schema ${name}`]);
  const url = new URL(postgresUrl);
  url.searchParams.set("options", `-c search_path=${name}`);
  return withCleanup(url.href, () => administer(postgresUrl, [`drop schema if exists ${name} cascade`]));
}

async function openMariadb(): Promise<TestDatabase> {
  const name = uniqueName();
  await administer(mariadbUrl, [`drop database if exists ${name}`, `create database ${name}`]);
  const url = new URL(mariadbUrl);
  url.pathname = `/${name}`;
  return withCleanup(url.href, () => administer(mariadbUrl, [`drop database if exists ${name}`]));
}

/** Differs between the processes that run at the same time; what an earlier run left under it is dropped first. */
function uniqueName(): string {
  return `orderbridge_test_${process.pid}_${opened++}`;
}

async function withCleanup(url: string, cleanUp: () => Promise<void>): Promise<TestDatabase> {
  const database = await openDatabase(url);
  return {
    ...database,
    url,
    async close() {
      await database.close();
      await cleanUp();
    },
  };
}

async function administer(url: string, statements: readonly string[]): Promise<void> {
  const { db, close } = await openDatabase(url);
  try {
    for (const statement of statements) await sql.raw(statement).execute(db);
  } finally {
    await close();
  }
}

function answers(url: string, defaultPort: number): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port || defaultPort), timeout: 2000 });
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
  });
}
