import * as v from "valibot";

/** Reads one variable: gives its value, or throws a {@link VariableProblem} that says how to mend it. */
export type Reader<Value> = (text: string | undefined) => Value;

/** What is wrong with a variable and how to mend it; the name is added by {@link readVariables}. */
export class VariableProblem extends Error {
  override readonly name = "VariableProblem";
}

const present = (text: string | undefined, fix: string): string => {
  if (text === undefined || text.trim() === "") throw new VariableProblem(`is missing; set it to ${fix}`);
  // `.env.example` marks what must be replaced this way.
  if (/^(replace-me|changeme|your-|<)/i.test(text.trim())) {
    throw new VariableProblem(`still holds the placeholder of .env.example; set it to ${fix}`);
  }
  return text.trim();
};

/** `what` completes the sentence "set it to …". */
export const text =
  (what: string): Reader<string> =>
  (value) =>
    present(value, what);

export const secret =
  (what: string, minLength = 8): Reader<string> =>
  (value) => {
    const given = present(value, what);
    if (given.length < minLength)
      throw new VariableProblem(`is shorter than ${minLength} characters; set it to ${what}`);
    return given;
  };

export const url =
  (what: string): Reader<string> =>
  (value) => {
    const given = present(value, what);
    if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol)) {
      throw new VariableProblem(`is not an http(s) address; set it to ${what}`);
    }
    return given.replace(/\/+$/, "");
  };

/** An address whose path and query are dropped: the `*_API_URL` variables replace the origin only. */
export const origin =
  (what: string): Reader<string> =>
  (value) =>
    new URL(url(what)(value)).origin;

export const integer =
  (what: string, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}): Reader<number> =>
  (value) => {
    const given = present(value, what);
    const number = Number(given);
    if (!/^\d+$/.test(given) || number < min || number > max) {
      throw new VariableProblem(`must be a whole number from ${min} to ${max}; set it to ${what}`);
    }
    return number;
  };

/** Digits of a vendor's id; stays text. */
export const id =
  (what: string): Reader<string> =>
  (value) => {
    const given = present(value, what);
    if (!/^\d+$/.test(given)) throw new VariableProblem(`must be digits only; set it to ${what}`);
    return given;
  };

export const instant =
  (what = "an instant such as 2026-11-01T00:00:00+05:00"): Reader<Date> =>
  (value) => {
    const given = present(value, what);
    if (
      !/^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(given) ||
      Number.isNaN(Date.parse(given))
    ) {
      throw new VariableProblem(`is not an ISO 8601 instant with a zone; set it to ${what}`);
    }
    return new Date(given);
  };

export const oneOf =
  <const Choice extends string>(...choices: readonly Choice[]): Reader<Choice> =>
  (value) => {
    const given = present(value, choices.join(" or "));
    if (!choices.includes(given as Choice)) throw new VariableProblem(`must be ${choices.join(" or ")}`);
    return given as Choice;
  };

/** `1` is yes; missing, empty and `0` are no. */
export const flag = (): Reader<boolean> => (value) => {
  const given = value?.trim() ?? "";
  if (!["", "0", "1"].includes(given)) throw new VariableProblem("must be 1 or 0");
  return given === "1";
};

export const list =
  (what: string): Reader<readonly string[]> =>
  (value) =>
    present(value, what)
      .split(",")
      .map((item) => item.trim())
      .filter((item) => item !== "");

/** `name=value,name=value`; split at the first `=`, so that values may hold more of them. */
export const pairs =
  (what: string): Reader<ReadonlyMap<string, string>> =>
  (value) => {
    const entries = list(what)(value).map((item) => {
      const at = item.indexOf("=");
      if (at < 1 || at === item.length - 1)
        throw new VariableProblem(`must be name=value pairs with commas; set it to ${what}`);
      return [item.slice(0, at), item.slice(at + 1)] as const;
    });
    const map = new Map(entries);
    if (map.size !== entries.length) throw new VariableProblem("names an entry twice");
    return map;
  };

/** JSON that fits a valibot schema. */
export const json =
  <Schema extends v.GenericSchema>(schema: Schema, what: string): Reader<v.InferOutput<Schema>> =>
  (value) => {
    const given = present(value, what);
    let parsed: unknown;
    try {
      parsed = JSON.parse(given);
    } catch {
      throw new VariableProblem(`is not JSON; set it to ${what}`);
    }
    const result = v.safeParse(schema, parsed);
    if (result.success) return result.output;
    const issue = result.issues[0];
    throw new VariableProblem(`is wrong at "${v.getDotPath(issue) ?? "(root)"}": ${issue.message}; set it to ${what}`);
  };

/** May be missing or empty; a present value is checked. */
export const optional =
  <Value>(reader: Reader<Value>): Reader<Value | undefined> =>
  (value) =>
    value === undefined || value.trim() === "" ? undefined : reader(value);

export const withDefault =
  <Value>(reader: Reader<Value>, fallback: Value): Reader<Value> =>
  (value) =>
    value === undefined || value.trim() === "" ? fallback : reader(value);

export const databaseUrl = (fallback: string): Reader<string> =>
  withDefault((value) => {
    const what = "sqlite:./orders.db, postgres://user:password@host/name or mysql://user:password@host/name";
    const given = present(value, what);
    if (!/^(sqlite:.+|postgres(ql)?:\/\/.+|mysql:\/\/.+|mariadb:\/\/.+)/.test(given)) {
      throw new VariableProblem(`is not a known database address; set it to ${what}`);
    }
    return given;
  }, fallback);

const encryptionKeys: Reader<ReadonlyMap<string, string>> = (value) => {
  const keys = pairsBy(":", "id:base64 pairs with commas; make one with: openssl rand -base64 32")(value);
  for (const [id, key] of keys) {
    if (Buffer.from(key, "base64").length !== 32) throw new VariableProblem(`key "${id}" is not 32 bytes of base64`);
  }
  return keys;
};

function pairsBy(separator: string, what: string): Reader<ReadonlyMap<string, string>> {
  return (value) =>
    new Map(
      list(what)(value).map((item) => {
        const at = item.indexOf(separator);
        if (at < 1) throw new VariableProblem(`must be ${what}`);
        return [item.slice(0, at), item.slice(at + 1)] as const;
      }),
    );
}

/** What every server reads. `port` and `database` are the example's own defaults. */
export const commonVariables = ({ port, database }: { readonly port: number; readonly database: string }) => ({
  PORT: withDefault(integer("a free port", { min: 0, max: 65535 }), port),
  HOST: withDefault(text("the address to listen on"), "127.0.0.1"),
  DATABASE_URL: databaseUrl(database),
  REDIS_URL: optional(text("redis://host:6379")),
  LOG_LEVEL: withDefault(oneOf("debug", "info", "warn", "error"), "info"),
  TRUSTED_PROXIES: withDefault(list("addresses or CIDRs with commas"), []),
  ENCRYPTION_KEYS: optional(encryptionKeys),
});

export type Values<Shape extends Record<string, Reader<unknown>>> = {
  readonly [Name in keyof Shape]: ReturnType<Shape[Name]>;
};

export type VariablesResult<Shape extends Record<string, Reader<unknown>>> =
  | { readonly ok: true; readonly values: Values<Shape> }
  | { readonly ok: false; readonly problems: readonly string[] };

/** Reads all variables; every problem is one line that names the variable and the fix, never its value. */
export function readVariables<Shape extends Record<string, Reader<unknown>>>(
  shape: Shape,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): VariablesResult<Shape> {
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, reader] of Object.entries(shape)) {
    try {
      values[name] = reader(environment[name]);
    } catch (error) {
      if (!(error instanceof VariableProblem)) throw error;
      problems.push(`${name} ${error.message}`);
    }
  }
  return problems.length > 0 ? { ok: false, problems } : { ok: true, values: values as Values<Shape> };
}
