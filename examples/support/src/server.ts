import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { ConfigError, type Logger, redactingLogger } from "@orderbridge/core";
import { type Reader, readVariables, type Values } from "./variables.ts";

/** Prints lines for a person and ends the process with exit code 1, without a stack trace. */
export function stopWith(...lines: readonly string[]): never {
  for (const line of lines) process.stderr.write(`${line}\n`);
  process.exit(1);
}

/** The variables of a server; ends the process with a line per problem. `check` looks at them together. */
export function configure<Shape extends Record<string, Reader<unknown>>>(
  shape: Shape,
  check: (values: Values<Shape>) => readonly string[] = () => [],
): Values<Shape> {
  const result = readVariables(shape);
  if (!result.ok) stopWith("cannot start:", ...result.problems.map((problem) => `  ${problem}`));
  const problems = check(result.values);
  if (problems.length > 0) stopWith("cannot start:", ...problems.map((problem) => `  ${problem}`));
  return result.values;
}

const levels = ["debug", "info", "warn", "error"] as const;

/** JSON lines on standard error, without secrets or phones. */
export function createJsonLogger(level: (typeof levels)[number]): Logger {
  const write =
    (at: (typeof levels)[number]) =>
    (message: string, fields?: Readonly<Record<string, unknown>>): void => {
      if (levels.indexOf(at) < levels.indexOf(level)) return;
      process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level: at, message, ...fields })}\n`);
    };
  return redactingLogger({ debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") });
}

export interface RunOptions {
  readonly server: Server;
  readonly port: number;
  readonly host: string;
  /** Called once on SIGTERM or SIGINT, after the last request ended. */
  readonly onStop: () => Promise<void>;
}

/** Listens, prints `listening on <url>`, and stops cleanly on SIGTERM and SIGINT. */
export async function run({ server, port, host, onStop }: RunOptions): Promise<void> {
  await new Promise<void>((resolve) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") {
        stopWith(`cannot start: port ${port} is taken; set PORT to a free one, e.g. PORT=${port + 1}`);
      }
      stopWith(`cannot start: ${error.message}`);
    });
    server.listen(port, host, resolve);
  });
  const address = server.address() as AddressInfo;
  process.stdout.write(`listening on http://${host.includes(":") ? `[${host}]` : host}:${address.port}\n`);

  let stopping = false;
  const stop = () => {
    if (stopping) return;
    stopping = true;
    server.close(() => {
      onStop().then(
        () => process.exit(0),
        (error) => stopWith(`stopped with an error: ${error instanceof Error ? error.message : String(error)}`),
      );
    });
    server.closeIdleConnections();
    setTimeout(() => server.closeAllConnections(), 5_000).unref();
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

/** Runs the set-up of a server; a {@link ConfigError} or an unreachable database becomes one line and exit code 1. */
export async function start(setUp: () => Promise<RunOptions>): Promise<void> {
  try {
    await run(await setUp());
  } catch (error) {
    const message =
      error instanceof Error ? error.message || (error as { code?: string }).code || error.name : String(error);
    stopWith(`cannot start: ${ConfigError.isInstance(error) ? message : `${message} (${(error as Error).name})`}`);
  }
}
