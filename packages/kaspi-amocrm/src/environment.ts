import {
  budgetPerSecond,
  ConfigError,
  createRateLimiter,
  type Logger,
  type Storage,
  silentLogger,
  systemClock,
} from "@orderbridge/core";
import * as v from "valibot";
import { type Amocrm, createAmocrm } from "./amocrm/client.ts";
import { type AmocrmConnection, createAmocrmConnection } from "./amocrm/connection.ts";
import { amocrmHostSuffixes, isAmocrmHost } from "./amocrm/hosts.ts";
import { createKaspi, type Kaspi } from "./kaspi/client.ts";
import type { KaspiAmocrmStorage } from "./ledger.ts";
import type { KaspiAmocrmSyncOptions, StageTarget } from "./sync/options.ts";
import { createKaspiAmocrmSync, type KaspiAmocrmSync } from "./sync/sync.ts";

/** What the worker and the command line tool read from their environment variables. */
export interface KaspiAmocrmEnvironment {
  readonly shops: readonly { readonly shop: string; readonly token: string }[];
  readonly kaspiOrigin: string | undefined;
  readonly host: string;
  readonly amocrmOrigin: string | undefined;
  readonly oauth:
    | { readonly clientId: string; readonly clientSecret: string; readonly redirectUri: string }
    | undefined;
  readonly accessToken: string | undefined;
  readonly refreshToken: string | undefined;
  readonly pipelineId: string;
  readonly statusId: string;
  readonly responsibleUserId: string | undefined;
  readonly catalogId: string | undefined;
  readonly orderCodeFieldId: string | undefined;
  readonly statusMap: Readonly<Record<string, string | StageTarget>> | undefined;
  readonly ratePerSecond: number;
  readonly country: "KZ" | "RU";
  readonly importFrom: Date | undefined;
}

/** Ids are text with us; JSON from people has them as numbers as often. */
const stage = v.pipe(
  v.union([v.string(), v.number()], "must be a stage id"),
  v.transform(String),
  v.regex(/^\d+$/, "must be a stage id of digits"),
);
const statusMapSchema = v.record(
  v.pipe(v.string(), v.regex(/^([A-Z_]+\/)?[A-Z_]+$/, "keys must be STATUS or STATE/STATUS")),
  v.union(
    [stage, v.strictObject({ statusId: stage, lossReasonId: v.exactOptional(stage) })],
    "must be a stage id or {statusId, lossReasonId}",
  ),
);

const oauthNames = ["AMO_CLIENT_ID", "AMO_CLIENT_SECRET", "AMO_REDIRECT_URI"] as const;

/**
 * Reads `KASPI_*`, `AMO_*`, `DEFAULT_COUNTRY` and `IMPORT_FROM`.
 *
 * @throws {ConfigError} with one line per problem: the variable's name and how to mend it, never a secret.
 */
export function readKaspiAmocrmEnvironment(
  variables: Readonly<Record<string, string | undefined>>,
): KaspiAmocrmEnvironment {
  const problems: string[] = [];

  /** Trimmed text; `undefined` when it is missing, empty or not what `isRight` wants. */
  function optional(name: string, what: string, isRight: (text: string) => boolean = () => true): string | undefined {
    const text = variables[name]?.trim() ?? "";
    if (text === "") return undefined;
    // `.env.example` marks what must be replaced this way.
    if (/^(replace-me|changeme|your-|<)/i.test(text)) {
      problems.push(`${name} still holds the placeholder of .env.example; set it to ${what}`);
    } else if (!isRight(text)) problems.push(`${name} is wrong; set it to ${what}`);
    else return text;
    return undefined;
  }
  function required(name: string, what: string, isRight?: (text: string) => boolean): string {
    const before = problems.length;
    const text = optional(name, what, isRight);
    if (text === undefined && problems.length === before) problems.push(`${name} is missing; set it to ${what}`);
    return text ?? "";
  }
  const isSet = (name: string): boolean => (variables[name]?.trim() ?? "") !== "";
  const isId = (text: string): boolean => /^\d+$/.test(text);
  const isSecret = (text: string): boolean => text.length >= 8;
  const isAddress = (text: string): boolean => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
  const origin = (name: string): string | undefined => {
    const text = optional(name, "the http(s) address of a fake", isAddress);
    return text === undefined ? undefined : new URL(text).origin;
  };

  const shops = readShops();
  const kaspiOrigin = origin("KASPI_API_URL");
  const amocrmOrigin = origin("AMO_API_URL");
  const host = required(
    "AMO_ACCOUNT_HOST",
    `the host of the account, which ends with ${amocrmHostSuffixes.join(", ")}, e.g. example.amocrm.ru`,
    (text) => amocrmOrigin !== undefined || isAmocrmHost(text),
  );
  const clientId = optional("AMO_CLIENT_ID", "the integration's id");
  const clientSecret = optional("AMO_CLIENT_SECRET", "the integration's secret key", isSecret);
  const redirectUri = optional("AMO_REDIRECT_URI", "the redirect address of the integration's settings", isAddress);
  const accessToken = optional("AMO_ACCESS_TOKEN", "a long-lived token, or the first token of a pair", isSecret);
  const refreshToken = optional("AMO_REFRESH_TOKEN", "the refresh token that belongs to AMO_ACCESS_TOKEN", isSecret);
  const missing = oauthNames.filter((name) => !isSet(name));
  if (missing.length > 0 && missing.length < oauthNames.length) {
    problems.push(`${missing.join(" and ")} is missing; OAuth needs ${oauthNames.join(", ")} together`);
  }
  if (missing.length > 0 && !isSet("AMO_ACCESS_TOKEN")) {
    problems.push(`AMO_ACCESS_TOKEN is missing; set it to a long-lived token, or set ${oauthNames.join(", ")}`);
  }
  if (missing.length > 0 && isSet("AMO_REFRESH_TOKEN")) {
    problems.push(`AMO_REFRESH_TOKEN needs ${missing.join(", ")}; without them leave it empty`);
  }
  const pipelineId = required("AMO_PIPELINE_ID", "the id of the pipeline for new leads, digits only", isId);
  const statusId = required("AMO_STATUS_ID", "the id of the stage for new leads, digits only", isId);
  const responsibleUserId = optional("AMO_RESPONSIBLE_USER_ID", "the id of the responsible user, digits only", isId);
  const catalogId = optional("AMO_CATALOG_ID", "the id of the list of goods, digits only", isId);
  const orderCodeFieldId = optional(
    "AMO_LEAD_ORDER_CODE_FIELD_ID",
    "the id of the lead's text field for the order code, digits only",
    isId,
  );
  const statusMap = readStatusMap();
  const rate = optional(
    "AMO_RATE_PER_SECOND",
    "requests per second, a whole number from 1 to 50",
    (text) => /^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= 50,
  );
  const country = optional("DEFAULT_COUNTRY", "KZ or RU", (text) => text === "KZ" || text === "RU");
  const importFrom = optional("IMPORT_FROM", "an instant such as 2026-11-01T00:00:00+05:00", isInstant);

  function readShops(): { shop: string; token: string }[] {
    const single = optional("KASPI_TOKEN", "the token of the seller cabinet, Settings, API token", isSecret);
    const isPair = (item: string) => /^[^=]+=.+$/.test(item);
    const list = optional("KASPI_TOKENS", "shop=token pairs with commas", (text) => text.split(",").every(isPair));
    const found = single === undefined ? [] : [{ shop: "default", token: single }];
    for (const item of list?.split(",") ?? []) {
      const at = item.indexOf("="); // values may hold more of them
      found.push({ shop: item.slice(0, at).trim(), token: item.slice(at + 1).trim() });
    }
    if (!isSet("KASPI_TOKEN") && !isSet("KASPI_TOKENS")) {
      problems.push("KASPI_TOKEN is missing; set it to the token of the seller cabinet, or KASPI_TOKENS");
    }
    const names = found.map(({ shop }) => shop);
    for (const name of new Set(names.filter((shop, index) => names.indexOf(shop) < index))) {
      const reason = single !== undefined && name === "default" ? ", which KASPI_TOKEN already is" : " twice";
      problems.push(`KASPI_TOKENS names the shop "${name}"${reason}; give each shop its own name`);
    }
    if (new Set(found.map(({ token }) => token)).size < found.length) {
      problems.push("KASPI_TOKENS gives two shops the same token; a token belongs to one shop");
    }
    return found;
  }

  function readStatusMap(): KaspiAmocrmEnvironment["statusMap"] {
    const what = 'JSON such as {"COMPLETED": 142}';
    const text = optional("AMO_STATUS_MAP", what);
    if (text === undefined) return undefined;
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      problems.push(`AMO_STATUS_MAP is not JSON; set it to ${what}`);
      return undefined;
    }
    const result = v.safeParse(statusMapSchema, parsed);
    if (result.success) return result.output;
    const issue = result.issues[0];
    const place = v.getDotPath(issue) ?? "(root)";
    problems.push(`AMO_STATUS_MAP is wrong at "${place}": ${issue.message}; set it to ${what}`);
    return undefined;
  }

  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return {
    shops,
    kaspiOrigin,
    host,
    amocrmOrigin,
    oauth: clientId && clientSecret && redirectUri ? { clientId, clientSecret, redirectUri } : undefined,
    accessToken,
    refreshToken,
    pipelineId,
    statusId,
    responsibleUserId,
    catalogId,
    orderCodeFieldId,
    statusMap,
    ratePerSecond: rate === undefined ? 7 : Number(rate),
    country: country === "RU" ? "RU" : "KZ",
    importFrom: importFrom === undefined ? undefined : new Date(importFrom),
  };
}

const isInstant = (text: string): boolean =>
  /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(text) && !Number.isNaN(Date.parse(text));

/** The clients and the sync of one environment. */
export interface KaspiAmocrmSetup {
  readonly kaspi: readonly Kaspi[];
  readonly amocrm: Amocrm;
  /** Only with `AMO_CLIENT_ID`, `AMO_CLIENT_SECRET` and `AMO_REDIRECT_URI`. */
  readonly connection: AmocrmConnection | undefined;
  readonly sync: KaspiAmocrmSync;
  /** Names of the budgets in `storage.rateLimits`, for `unblock`. */
  readonly accounts: readonly string[];
}

/** Connects everything to one storage, so that worker, cron and command line share budgets, leases and tokens. */
export async function connectKaspiAmocrm({
  environment,
  storage,
  logger = silentLogger,
  onAlert,
}: {
  readonly environment: KaspiAmocrmEnvironment;
  readonly storage: Storage & KaspiAmocrmStorage;
  readonly logger?: Logger;
  readonly onAlert?: KaspiAmocrmSyncOptions["onAlert"];
}): Promise<KaspiAmocrmSetup> {
  const { host, amocrmOrigin: origin, oauth, accessToken, refreshToken } = environment;
  const { rateLimits } = storage;
  const integration = oauth?.clientId ?? "token";
  const connection =
    oauth &&
    createAmocrmConnection({
      host,
      ...oauth,
      storage,
      logger,
      // Refreshes take slots of the budget that the client uses.
      limiter: createRateLimiter({
        vendor: "amocrm",
        account: `amocrm:${host}:${integration}`,
        budget: budgetPerSecond(environment.ratePerSecond),
        store: rateLimits,
        clock: systemClock,
      }),
      ...(origin !== undefined && { origin }),
    });
  if (connection && accessToken !== undefined) {
    await connection.importPair({ accessToken, ...(refreshToken !== undefined && { refreshToken }) }); // unless one is there
  }
  const amocrm = createAmocrm({
    host,
    token: connection?.tokens ?? accessToken ?? "",
    country: environment.country,
    ratePerSecond: environment.ratePerSecond,
    integration,
    rateLimits,
    logger,
    ...(origin !== undefined && { origin }),
  });
  const kaspi = environment.shops.map(({ shop, token }) =>
    createKaspi({
      shop,
      token,
      rateLimits,
      logger,
      ...(environment.kaspiOrigin !== undefined && { origin: environment.kaspiOrigin }),
    }),
  );
  const { responsibleUserId, catalogId, orderCodeFieldId, statusMap, importFrom } = environment;
  const sync = createKaspiAmocrmSync({
    kaspi,
    amocrm,
    storage,
    pipelineId: environment.pipelineId,
    statusId: environment.statusId,
    logger,
    ...(responsibleUserId !== undefined && { responsibleUserId }),
    ...(catalogId !== undefined && { catalogId }),
    ...(orderCodeFieldId !== undefined && { orderCodeFieldId }),
    ...(statusMap !== undefined && { statusMap }),
    ...(importFrom !== undefined && { importFrom }),
    ...(onAlert !== undefined && { onAlert }),
  });
  return {
    kaspi,
    amocrm,
    connection,
    sync,
    accounts: [`amocrm:${host}:${integration}`, ...environment.shops.map(({ shop }) => `kaspi:${shop}`)],
  };
}
