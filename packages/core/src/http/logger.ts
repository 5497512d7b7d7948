import type { Logger } from "../ports.ts";
import { redact, redactText } from "./redact.ts";

type Level = "debug" | "info" | "warn" | "error";

export const silentLogger: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** Wraps a logger so that secrets, phones and credentials in addresses are dropped before it sees them. */
export function redactingLogger(logger: Logger): Logger {
  const at =
    (level: Level) =>
    (message: string, fields?: Readonly<Record<string, unknown>>): void => {
      const text = redactText(message);
      if (fields) logger[level](text, redact(fields) as Record<string, unknown>);
      else logger[level](text);
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}
