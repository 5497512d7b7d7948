// Database servers that a test may kill: on a free port, in a folder of their own, as a user who is not root.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openDatabase } from "@orderbridge/core/kysely";
import { findProgram } from "../../../scripts/services.ts";

export interface PrivateServer {
  readonly url: string;
  /** SIGKILL to the whole server; resolves when it is gone. */
  kill(): Promise<void>;
  /** Starts it again on the same data; resolves when it answers. */
  start(): Promise<void>;
  /** Kills it and removes its data. */
  remove(): Promise<void>;
}

export interface PrivateServerKind {
  readonly name: "PostgreSQL" | "MariaDB";
  readonly skipped: boolean;
  create(): Promise<PrivateServer>;
}

/** Servers refuse to run as root. */
function unprivileged(...names: readonly string[]): { readonly uid?: number; readonly gid?: number } {
  if (process.getuid?.() !== 0) return {};
  const lines = readFileSync("/etc/passwd", "utf8").split("\n");
  for (const name of [...names, "nobody"]) {
    const [, , uid, gid] = lines.find((line) => line.startsWith(`${name}:`))?.split(":") ?? [];
    if (uid !== undefined) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new Error("no user to run a database server as");
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Of the newest version, also where the distribution keeps it off the PATH. */
function findPostgres(name: string): string | undefined {
  const folder = "/usr/lib/postgresql";
  try {
    const [newest] = readdirSync(folder).sort((left, right) => Number(right) - Number(left));
    if (newest !== undefined) return join(folder, newest, "bin", name);
  } catch {
    // not a Debian: on the PATH, or not at all
  }
  return findProgram(name);
}

const maySkip = process.env.REQUIRE_SERVICES !== "1";
const postgres = { initdb: findPostgres("initdb"), server: findPostgres("postgres") };
const mariadb = {
  install: findProgram("mariadb-install-db", "mysql_install_db"),
  server: findProgram("mariadbd") ?? (findProgram("mysqld") || findServer("/usr/sbin/mariadbd")),
};

function findServer(path: string): string | undefined {
  try {
    readFileSync(path, { flag: "r" }).subarray(0, 1);
    return path;
  } catch {
    return undefined;
  }
}

export const privateServers: readonly PrivateServerKind[] = [
  {
    name: "PostgreSQL",
    skipped: maySkip && !(postgres.initdb && postgres.server),
    async create() {
      const user = unprivileged("postgres");
      const folder = createFolder(user);
      const data = join(folder, "data");
      execFileSync(
        postgres.initdb ?? "initdb",
        ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
        {
          ...user,
          cwd: folder,
          stdio: "ignore",
        },
      );
      const port = await freePort();
      const args = ["-D", data, "-p", String(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"];
      return control(folder, `postgres://postgres@127.0.0.1:${port}/postgres`, () =>
        spawn(postgres.server ?? "postgres", args, { ...user, cwd: folder, stdio: "ignore", detached: true }),
      );
    },
  },
  {
    name: "MariaDB",
    skipped: maySkip && !(mariadb.install && mariadb.server),
    async create() {
      const user = unprivileged("mysql");
      const folder = createFolder(user);
      const data = `--datadir=${join(folder, "data")}`;
      execFileSync(
        mariadb.install ?? "mariadb-install-db",
        ["--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"],
        { ...user, cwd: folder, stdio: "ignore" },
      );
      const port = await freePort();
      const args = [
        "--no-defaults",
        data,
        `--port=${port}`,
        `--socket=${join(folder, "socket")}`,
        `--pid-file=${join(folder, "pid")}`,
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=1",
      ];
      return control(folder, `mysql://root@127.0.0.1:${port}/mysql`, () =>
        spawn(mariadb.server ?? "mariadbd", args, { ...user, cwd: folder, stdio: "ignore", detached: true }),
      );
    },
  },
];

function createFolder({ uid, gid }: { readonly uid?: number; readonly gid?: number }): string {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-server-"));
  if (uid !== undefined && gid !== undefined) chownSync(folder, uid, gid);
  return folder;
}

async function control(folder: string, url: string, launch: () => ChildProcess): Promise<PrivateServer> {
  let child: ChildProcess | undefined;
  const server: PrivateServer = {
    url,
    async kill() {
      const running = child;
      child = undefined;
      if (running?.pid === undefined || running.exitCode !== null) return;
      const gone = once(running, "exit");
      process.kill(-running.pid, "SIGKILL"); // the group that this test started
      await gone;
    },
    async start() {
      child = launch();
      const deadlineMs = performance.now() + 30_000;
      for (;;) {
        const database = await openDatabase(url);
        try {
          await database.ping();
          return;
        } catch (error) {
          if (performance.now() > deadlineMs) throw error;
          if (child.exitCode !== null) child = launch(); // what the former one held was not yet free
          await sleep(50); // it has no signal of its own that it answers
        } finally {
          await database.close();
        }
      }
    },
    async remove() {
      await server.kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
  await server.start();
  return server;
}
