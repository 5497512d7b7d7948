import { readFileSync } from "node:fs";
import { ConfigError } from "@orderbridge/core";
import { createRobokassa, type Robokassa } from "./robokassa.ts";
import type { RobokassaOptions } from "./shop.ts";

export interface Environment {
  readonly robokassa: Robokassa;
  readonly databaseUrl: string;
  /** PEM, when given. */
  readonly certificates: string | undefined;
}

const variableOf = {
  login: "ROBOKASSA_LOGIN",
  password1: "ROBOKASSA_PASSWORD1",
  password2: "ROBOKASSA_PASSWORD2",
  password3: "ROBOKASSA_PASSWORD3",
  testPassword1: "ROBOKASSA_TEST_PASSWORD1",
  testPassword2: "ROBOKASSA_TEST_PASSWORD2",
  algorithm: "ROBOKASSA_ALGORITHM",
  country: "ROBOKASSA_COUNTRY",
  apiUrl: "ROBOKASSA_API_URL",
} as const satisfies Partial<Record<keyof RobokassaOptions, string>>;

/**
 * What the command line needs, out of the same variables as the reference servers.
 *
 * @throws {ConfigError} naming the variable.
 */
export function readEnvironment(variables: Readonly<Record<string, string | undefined>>): Environment {
  const given: Record<string, string> = {};
  for (const [option, name] of Object.entries(variableOf)) {
    const value = variables[name]?.trim();
    if (value) given[option] = value;
  }
  for (const option of ["login", "password1", "password2"] as const) {
    if (!given[option]) throw new ConfigError(`${variableOf[option]} is missing; take it from the cabinet`);
  }
  const databaseUrl = variables.DATABASE_URL?.trim();
  if (!databaseUrl) throw new ConfigError("DATABASE_URL is missing; set it to the shop's, e.g. sqlite:./robokassa.db");
  const certificates = variables.ROBOKASSA_RESULT2_CERTS?.trim();
  try {
    return {
      robokassa: createRobokassa(given as unknown as RobokassaOptions),
      databaseUrl,
      certificates: certificates ? readPem(certificates) : undefined,
    };
  } catch (error) {
    if (!ConfigError.isInstance(error)) throw error;
    // Options are named there; here people set variables.
    throw new ConfigError(
      error.message
        .replace(/^robokassa: /, "")
        .replace(/\b\w+\b/g, (word) => (Object.hasOwn(variableOf, word) ? variableOf[word as "login"] : word)),
    );
  }
}

function readPem(value: string): string {
  if (value.includes("-----BEGIN CERTIFICATE-----")) return value.replaceAll("\\n", "\n");
  try {
    return readFileSync(value, "utf8");
  } catch {
    throw new ConfigError("ROBOKASSA_RESULT2_CERTS is neither PEM text nor a file that can be read");
  }
}
