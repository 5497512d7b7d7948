import { readFileSync } from "node:fs";
import { type Job, systemClock } from "@orderbridge/core";
import { dailyPrune } from "./redis.ts";
import {
  type commonVariables,
  flag,
  oneOf,
  optional,
  origin,
  type Reader,
  text,
  type Values,
  VariableProblem,
  withDefault,
} from "./variables.ts";

const algorithms = ["md5", "ripemd160", "sha1", "sha256", "sha384", "sha512"] as const;

/** PEM text (line breaks may be written as `\n`), or the path of a file that holds it. */
const certificates: Reader<string> = (value) => {
  const given = text("PEM text, or the path of a PEM file with Robokassa's certificate")(value);
  if (given.includes("-----BEGIN CERTIFICATE-----")) return given.replaceAll("\\n", "\n");
  let content = "";
  try {
    content = readFileSync(given, "utf8");
  } catch {
    // told below
  }
  if (content.includes("-----BEGIN CERTIFICATE-----")) return content;
  throw new VariableProblem("is neither PEM text nor a file that holds it");
};

/** Stays text: the numbers go up to 2^63 - 1. */
const firstInvId: Reader<string> = (value) => {
  const given = text("a number above every InvId in the cabinet, or leave it out for a new shop")(value);
  if (!/^[1-9]\d{0,17}$/.test(given)) throw new VariableProblem("must be 1 to 18 digits, the first of them not 0");
  return given;
};

/** The variables of a Robokassa shop. */
export const robokassaVariables = {
  ROBOKASSA_LOGIN: text("the shop identifier from the cabinet"),
  ROBOKASSA_PASSWORD1: text("password 1 from the cabinet's technical settings"),
  ROBOKASSA_PASSWORD2: text("password 2 from the cabinet's technical settings"),
  ROBOKASSA_PASSWORD3: optional(text("password 3, for refunds")),
  ROBOKASSA_TEST_PASSWORD1: optional(text("test password 1 from the cabinet's technical settings")),
  ROBOKASSA_TEST_PASSWORD2: optional(text("test password 2 from the cabinet's technical settings")),
  ROBOKASSA_TEST: flag(),
  ROBOKASSA_ALGORITHM: withDefault(oneOf(...algorithms), "md5"),
  ROBOKASSA_COUNTRY: withDefault(oneOf("ru", "kz"), "ru"),
  ROBOKASSA_FIRST_INV_ID: withDefault(firstInvId, "1"),
  ROBOKASSA_RESULT2_CERTS: optional(certificates),
  ROBOKASSA_API_URL: optional(origin("the address of a fake or proxy, e.g. http://127.0.0.1:4100")),
};

type RobokassaValues = Values<typeof robokassaVariables>;

/** What is wrong with the variables together: one line per problem. */
export function robokassaProblems(values: RobokassaValues): readonly string[] {
  const problems: string[] = [];
  const names = [
    "ROBOKASSA_PASSWORD1",
    "ROBOKASSA_PASSWORD2",
    "ROBOKASSA_PASSWORD3",
    "ROBOKASSA_TEST_PASSWORD1",
    "ROBOKASSA_TEST_PASSWORD2",
  ] as const;
  for (const [index, name] of names.entries()) {
    const twin = names.slice(index + 1).find((other) => values[name] !== undefined && values[name] === values[other]);
    if (twin) problems.push(`${twin} equals ${name}; set it to its own password from the cabinet`);
  }
  const missing = (["ROBOKASSA_TEST_PASSWORD1", "ROBOKASSA_TEST_PASSWORD2"] as const).filter((name) => !values[name]);
  if (missing.length === 1 || (missing.length === 2 && values.ROBOKASSA_TEST)) {
    for (const name of missing) {
      problems.push(
        values.ROBOKASSA_TEST
          ? `${name} is missing; ROBOKASSA_TEST=1 needs it`
          : `${name} is missing; set both test passwords or none`,
      );
    }
  }
  return problems;
}

/** The same as options of `createRobokassa`. */
export function robokassaOptions(values: RobokassaValues) {
  const {
    ROBOKASSA_PASSWORD3: password3,
    ROBOKASSA_TEST_PASSWORD1: testPassword1,
    ROBOKASSA_TEST_PASSWORD2: testPassword2,
    ROBOKASSA_API_URL: apiUrl,
  } = values;
  return {
    login: values.ROBOKASSA_LOGIN,
    password1: values.ROBOKASSA_PASSWORD1,
    password2: values.ROBOKASSA_PASSWORD2,
    ...(password3 ? { password3 } : {}),
    ...(testPassword1 && testPassword2 ? { testPassword1, testPassword2 } : {}),
    test: values.ROBOKASSA_TEST,
    algorithm: values.ROBOKASSA_ALGORITHM,
    country: values.ROBOKASSA_COUNTRY,
    ...(apiUrl ? { apiUrl } : {}),
  };
}

interface Prunable {
  prune(before: Date): Promise<number>;
}

/** Drops notifications older than 90 days from the log and erases older orders, as `robokassa prune` does. */
export const robokassaPrune = ({
  callbacks,
  orders,
}: {
  readonly callbacks: Prunable;
  readonly orders: Prunable;
}): Job =>
  dailyPrune("robokassa", async () => {
    const before = new Date(systemClock.now().getTime() - 90 * 86_400_000);
    await callbacks.prune(before);
    await orders.prune(before);
  });

/** Common variables that are set but that a Robokassa shop has no use for, with the reason. */
export function robokassaUnused(
  values: Pick<Values<ReturnType<typeof commonVariables>>, "REDIS_URL" | "ENCRYPTION_KEYS" | "TRUSTED_PROXIES">,
): readonly string[] {
  const reasons: readonly (readonly [string, boolean, string])[] = [
    ["REDIS_URL", values.REDIS_URL !== undefined, "needs none: the database shares out its work"],
    ["ENCRYPTION_KEYS", values.ENCRYPTION_KEYS !== undefined, "stores no secrets"],
    ["TRUSTED_PROXIES", values.TRUSTED_PROXIES.length > 0, "asks nobody's address: the signature decides"],
  ];
  return reasons.flatMap(([name, isSet, why]) => (isSet ? [`${name} is set, but this server ${why}`] : []));
}
