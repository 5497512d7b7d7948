import { commonVariables, variables as read } from "@orderbridge/example-support";
import * as v from "valibot";

/** Ids are text with us; JSON from people has them as numbers as often. */
const stage = v.pipe(
  v.union([v.string(), v.number()], "must be a stage id"),
  v.transform(String),
  v.regex(/^\d+$/, "must be a stage id of digits"),
);

/** `{"STATUS": 142}` or `{"STATE/STATUS": {"statusId": 143, "lossReasonId": 1}}`. */
const statusMapSchema = v.record(
  v.pipe(v.string(), v.regex(/^([A-Z_]+\/)?[A-Z_]+$/, "keys must be STATUS or STATE/STATUS")),
  v.union(
    [stage, v.strictObject({ statusId: stage, lossReasonId: v.exactOptional(stage) })],
    "must be a stage id or {statusId, lossReasonId}",
  ),
);

/** The variables of this server. */
export const shape = {
  ...commonVariables({ port: 3003, database: "sqlite:./kaspi-amocrm.db" }),
  KASPI_TOKEN: read.optional(read.secret("the token of the seller cabinet, Settings, API token")),
  KASPI_TOKENS: read.optional(read.pairs("shop=token pairs with commas")),
  KASPI_API_URL: read.withDefault(read.origin("the address of a fake"), "https://kaspi.kz"),
  AMO_ACCOUNT_HOST: read.text("the host of the account, e.g. example.amocrm.ru"),
  AMO_API_URL: read.optional(read.origin("the address of a fake")),
  AMO_CLIENT_ID: read.optional(read.text("the integration's id")),
  AMO_CLIENT_SECRET: read.optional(read.secret("the integration's secret key")),
  AMO_REDIRECT_URI: read.optional(read.url("the redirect address of the integration's settings")),
  AMO_ACCESS_TOKEN: read.optional(read.secret("a long-lived token, or the first token of a pair")),
  AMO_REFRESH_TOKEN: read.optional(read.secret("the refresh token that belongs to AMO_ACCESS_TOKEN")),
  AMO_PIPELINE_ID: read.id("the id of the pipeline for new leads"),
  AMO_STATUS_ID: read.id("the id of the stage for new leads"),
  AMO_RESPONSIBLE_USER_ID: read.optional(read.id("the id of the responsible user")),
  AMO_CATALOG_ID: read.optional(read.id("the id of the list of goods")),
  AMO_LEAD_ORDER_CODE_FIELD_ID: read.optional(read.id("the id of the lead's text field for the order code")),
  AMO_STATUS_MAP: read.optional(read.json(statusMapSchema, 'JSON such as {"COMPLETED": 142}')),
  AMO_RATE_PER_SECOND: read.withDefault(read.integer("requests per second", { min: 1, max: 50 }), 7),
  AMO_WEBHOOK_SECRET: read.optional(read.secret("the last part of the webhook's path", 16)),
  DEFAULT_COUNTRY: read.withDefault(read.oneOf("KZ", "RU"), "KZ"),
  CRON_SECRET: read.secret("a secret; make one with: openssl rand -hex 24", 16),
  IMPORT_FROM: read.optional(read.instant()),
  SCHEDULE: read.withDefault(read.oneOf("on", "off"), "on"),
};

interface ShopSettings {
  readonly KASPI_TOKEN: string | undefined;
  readonly KASPI_TOKENS: ReadonlyMap<string, string> | undefined;
}

/** `KASPI_TOKEN` is the shop `default`. */
export const toShops = ({
  KASPI_TOKEN,
  KASPI_TOKENS,
}: ShopSettings): readonly (readonly [shop: string, token: string])[] => [
  ...(KASPI_TOKEN ? [["default", KASPI_TOKEN] as const] : []),
  ...(KASPI_TOKENS ?? []),
];

/** What only shows when the variables are looked at together. */
export function settingProblems(
  settings: ShopSettings & {
    readonly AMO_ACCOUNT_HOST: string;
    readonly AMO_API_URL: string | undefined;
    readonly AMO_CLIENT_ID: string | undefined;
    readonly AMO_CLIENT_SECRET: string | undefined;
    readonly AMO_REDIRECT_URI: string | undefined;
    readonly AMO_ACCESS_TOKEN: string | undefined;
    readonly AMO_REFRESH_TOKEN: string | undefined;
  },
): readonly string[] {
  const problems: string[] = [];
  const shops = toShops(settings);
  if (shops.length === 0)
    problems.push("KASPI_TOKEN is missing; set it to the token of the seller cabinet, or KASPI_TOKENS");
  if (new Set(shops.map(([shop]) => shop)).size < shops.length)
    problems.push('KASPI_TOKENS names the shop "default", which KASPI_TOKEN already is');
  if (new Set(shops.map(([, token]) => token)).size < shops.length)
    problems.push("KASPI_TOKENS gives two shops the same token");
  const suffixes = [".amocrm.ru", ".amocrm.com", ".kommo.com"];
  if (!settings.AMO_API_URL && !suffixes.some((suffix) => settings.AMO_ACCOUNT_HOST.endsWith(suffix))) {
    problems.push(`AMO_ACCOUNT_HOST must end with ${suffixes.join(", ")}; set it to e.g. example.amocrm.ru`);
  }
  const oauth = ["AMO_CLIENT_ID", "AMO_CLIENT_SECRET", "AMO_REDIRECT_URI"] as const;
  const missing = oauth.filter((name) => !settings[name]);
  if (missing.length > 0 && missing.length < oauth.length) {
    problems.push(`${missing.join(" and ")} is missing; OAuth needs ${oauth.join(", ")} together`);
  }
  if (missing.length > 0 && !settings.AMO_ACCESS_TOKEN) {
    problems.push(`AMO_ACCESS_TOKEN is missing; set it to a long-lived token, or set ${oauth.join(", ")}`);
  }
  if (missing.length > 0 && settings.AMO_REFRESH_TOKEN) {
    problems.push(`AMO_REFRESH_TOKEN needs ${missing.join(", ")}; without them leave it empty`);
  }
  return problems;
}
