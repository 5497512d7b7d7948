import { existsSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";

/** What the tests can talk to beside Node. Absent ones are skipped by name; REQUIRE_SERVICES=1 makes them failures. */
export interface Service {
  readonly name: string;
  readonly available: boolean;
  /** How to get it. */
  readonly hint: string;
}

export const serviceAddresses = {
  postgres: process.env.DATABASE_URL_POSTGRES ?? "postgres://postgres@127.0.0.1:5432/test",
  mariadb: process.env.DATABASE_URL_MARIADB ?? "mysql://root@127.0.0.1:3306/test",
  redis: process.env.REDIS_URL ?? "redis://127.0.0.1:6379",
} as const;

const defaultPorts: Readonly<Record<string, number>> = {
  "postgres:": 5432,
  "postgresql:": 5432,
  "mysql:": 3306,
  "mariadb:": 3306,
  "redis:": 6379,
  "rediss:": 6379,
};

function answers(address: string): Promise<boolean> {
  const { hostname, port, protocol } = new URL(address);
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) || (defaultPorts[protocol] ?? 0), timeout: 1_000 });
    const settle = (open: boolean) => {
      socket.destroy();
      resolve(open);
    };
    socket.once("connect", () => settle(true));
    socket.once("error", () => settle(false));
    socket.once("timeout", () => settle(false));
  });
}

/** The first of these programs on the PATH. */
export function findProgram(...names: readonly string[]): string | undefined {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of names) if (folder && existsSync(join(folder, name))) return join(folder, name);
  }
  return undefined;
}

export const findChromium = (): string | undefined =>
  process.env.CHROMIUM_PATH ?? findProgram("chromium", "chromium-browser", "google-chrome", "google-chrome-stable");

export async function findServices(): Promise<readonly Service[]> {
  const compose = (name: string) => `docker compose up -d ${name}`;
  const [postgres, mariadb, redis] = await Promise.all([
    answers(serviceAddresses.postgres),
    answers(serviceAddresses.mariadb),
    answers(serviceAddresses.redis),
  ]);
  return [
    { name: "PostgreSQL", available: postgres, hint: `${compose("postgres")}, or set DATABASE_URL_POSTGRES` },
    { name: "MariaDB", available: mariadb, hint: `${compose("mariadb")}, or set DATABASE_URL_MARIADB` },
    { name: "Redis", available: redis, hint: `${compose("redis")}, or set REDIS_URL` },
    { name: "Chromium", available: findChromium() !== undefined, hint: "install chromium, or set CHROMIUM_PATH" },
    { name: "php-cli", available: findProgram("php") !== undefined, hint: "install php-cli" },
    { name: "python3", available: findProgram("python3") !== undefined, hint: "install python3" },
  ];
}
