import { type Clock, ConfigError, type Logger, redactingLogger, silentLogger, systemClock } from "@orderbridge/core";
import type { Country } from "./receipt.ts";
import type { ShpOrder } from "./shp.ts";
import { type Algorithm, checkAlgorithm } from "./signature.ts";

/** Places where Robokassa's documents, its own software and its support disagree. Change one only when the live shop proves it. */
export interface Readings {
  /** Order of `Shp_` fields of a link. Left out: sets on which the orders differ are refused. Received ones may have either. */
  readonly shpOrder?: ShpOrder;
  /** How `ResultUrl2`, `SuccessUrl2`, `FailUrl2` stand in the hash. Encoded is refused (error 29) since 30 June 2025. @defaultValue "raw" */
  readonly url2Signing?: "raw" | "encoded";
  /** How `Receipt` is sent and hashed: URL-encoded once, as the documents say, or as plain JSON. @defaultValue "encoded" */
  readonly receiptSigning?: "encoded" | "raw";
  /** Links of the invoice service in test mode: there are none (integrators' reports), or `IsTest` signed by test password 1 (later official SDK). @defaultValue "refused" */
  readonly invoiceTest?: "refused" | "test-pair";
  /** Body of a ResultUrl2 message: bare (official plugin), in base64 (one support answer). Left out: either; quotes around it never matter. */
  readonly result2Body?: "bare" | "base64";
  /** Body of a refund request: the JWT as a JSON string (official plugin) or bare (documents). @defaultValue "json" */
  readonly refundBody?: "json" | "bare";
}

const readingValues: Readonly<Record<keyof Readings, readonly string[]>> = {
  shpOrder: ["name", "pair"],
  url2Signing: ["raw", "encoded"],
  receiptSigning: ["encoded", "raw"],
  result2Body: ["bare", "base64"],
  refundBody: ["json", "bare"],
  invoiceTest: ["refused", "test-pair"],
};

export interface RobokassaOptions {
  /** Shop identifier of the cabinet, not the cabinet's login. */
  readonly login: string;
  /** Signs payment starts and SuccessURL. */
  readonly password1: string;
  /** Signs ResultURL and state queries. */
  readonly password2: string;
  /** Signs refunds; exists after a request to Robokassa. */
  readonly password3?: string;
  /** The test pair; needed for test payments, and must differ from the live one. */
  readonly testPassword1?: string;
  readonly testPassword2?: string;
  /** Payments start in test mode (`IsTest=1`) unless the request says otherwise. @defaultValue false */
  readonly test?: boolean;
  /** As chosen in the cabinet. @defaultValue "md5" */
  readonly algorithm?: string;
  /** @defaultValue "ru" */
  readonly country?: Country;
  /** Hosts that differ from the country's preset. */
  readonly hosts?: Partial<Hosts>;
  /** One origin in place of all hosts: a fake or a proxy. Paths stay. */
  readonly apiUrl?: string;
  readonly readings?: Readings;
  /** @defaultValue globalThis.fetch */
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
  /** @defaultValue silent */
  readonly logger?: Logger;
}

/** Origins, e.g. `https://auth.robokassa.ru`. */
export interface Hosts {
  /** Payment page, holds, recurring. */
  readonly payment: string;
  /** State queries (XML). */
  readonly state: string;
  /** Invoices and refunds. */
  readonly services: string;
  /** Second receipts; a Russian duty. */
  readonly fiscal: string;
}

/** Kazakhstan has its own payment page; official plugins keep the other hosts. */
const presets: Readonly<Record<Country, Hosts>> = {
  ru: {
    payment: "https://auth.robokassa.ru",
    state: "https://auth.robokassa.ru",
    services: "https://services.robokassa.ru",
    fiscal: "https://ws.roboxchange.com",
  },
  kz: {
    payment: "https://auth.robokassa.kz",
    state: "https://auth.robokassa.ru",
    services: "https://services.robokassa.ru",
    fiscal: "https://ws.roboxchange.com",
  },
};

/** Checked options, shared by the modules of this package. */
export interface Shop {
  readonly login: string;
  readonly live: PasswordPair;
  /** Absent when the shop takes no test payments. */
  readonly try?: PasswordPair;
  readonly password3: string | undefined;
  readonly test: boolean;
  readonly algorithm: Algorithm;
  readonly country: Country;
  readonly hosts: Hosts;
  readonly readings: Readings;
  readonly fetch: typeof fetch | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface PasswordPair {
  readonly password1: string;
  readonly password2: string;
}

/** @throws {ConfigError} naming the option. */
export function createShop(options: RobokassaOptions): Shop {
  const { login, password3, algorithm = "md5", country = "ru", test = false, readings = {} } = options;
  const text = (name: string, value: unknown): string => {
    if (typeof value !== "string" || value === "" || value !== value.trim()) {
      throw new ConfigError(`robokassa: ${name} must be text without spaces around it, as shown in the cabinet`);
    }
    return value;
  };
  text("login", login);
  if (/[:\s]/.test(login))
    throw new ConfigError("robokassa: login must be the shop identifier, without colons or spaces");
  const live: PasswordPair = {
    password1: text("password1", options.password1),
    password2: text("password2", options.password2),
  };
  const { testPassword1, testPassword2 } = options;
  if ((testPassword1 === undefined) !== (testPassword2 === undefined)) {
    throw new ConfigError("robokassa: testPassword1 and testPassword2 belong together; give both or none");
  }
  const pair =
    testPassword1 === undefined
      ? undefined
      : { password1: text("testPassword1", testPassword1), password2: text("testPassword2", testPassword2) };
  if (test && !pair) throw new ConfigError("robokassa: test needs testPassword1 and testPassword2");
  if (password3 !== undefined) text("password3", password3);

  // Two passwords that are equal would let one kind of message pass for another.
  const named: readonly (readonly [string, string | undefined])[] = [
    ["password1", live.password1],
    ["password2", live.password2],
    ["password3", password3],
    ["testPassword1", pair?.password1],
    ["testPassword2", pair?.password2],
  ];
  for (const [index, [name, value]] of named.entries()) {
    const twin = named.slice(index + 1).find(([, other]) => value !== undefined && other === value);
    if (twin) throw new ConfigError(`robokassa: ${name} and ${twin[0]} are equal; each password must differ`);
  }
  if (country !== "ru" && country !== "kz") throw new ConfigError('robokassa: country must be "ru" or "kz"');
  for (const [name, value] of Object.entries(readings)) {
    const allowed = Object.hasOwn(readingValues, name) ? readingValues[name as keyof Readings] : undefined;
    if (!allowed)
      throw new ConfigError(`robokassa: readings.${name} is unknown; use ${Object.keys(readingValues).join(", ")}`);
    if (value !== undefined && !allowed.includes(value)) {
      throw new ConfigError(`robokassa: readings.${name} must be ${allowed.join(" or ")}`);
    }
  }

  return {
    login,
    live,
    ...(pair ? { try: pair } : {}),
    password3,
    test,
    algorithm: checkAlgorithm(algorithm),
    country,
    hosts: chooseHosts(options, country),
    readings,
    fetch: options.fetch,
    clock: options.clock ?? systemClock,
    logger: redactingLogger(options.logger ?? silentLogger),
  };
}

function chooseHosts({ hosts, apiUrl }: RobokassaOptions, country: Country): Hosts {
  const origin = (name: string, value: string): string => {
    if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol)) {
      throw new ConfigError(`robokassa: ${name} must be an http(s) address`);
    }
    return new URL(value).origin;
  };
  if (apiUrl !== undefined) {
    const all = origin("apiUrl", apiUrl);
    return { payment: all, state: all, services: all, fiscal: all };
  }
  const preset = presets[country];
  const choose = (name: keyof Hosts): string => origin(`hosts.${name}`, hosts?.[name] ?? preset[name]);
  return { payment: choose("payment"), state: choose("state"), services: choose("services"), fiscal: choose("fiscal") };
}

/** The pair that signs a payment of this kind. */
export function passwordsFor(shop: Shop, test: boolean): PasswordPair | undefined {
  return test ? shop.try : shop.live;
}
