import { bitrixOrderStatuses, createBitrix } from "@orderbridge/bitrix";
import { commonVariables, variables } from "@orderbridge/example-support";
import * as v from "valibot";

const { secret, text, url, id, json, withDefault, optional } = variables;

/** A stage stands for one status: two statuses at one stage would leave the way back open. */
const stageMap = (value: string | undefined) => {
  const map = json(
    v.record(v.picklist(bitrixOrderStatuses.statuses), v.pipe(v.string(), v.nonEmpty("is empty"))),
    '{"new": "NEW", "delivered": "WON"}',
  )(value);
  const stages = Object.values(map);
  const twice = stages.find((stage, index) => stages.indexOf(stage) !== index);
  if (twice === undefined) return map;
  throw new variables.VariableProblem(`gives stage ${twice} to two statuses; keep one of them`);
};

/** The portal's address, tried out at once: a wrong one must be named by its variable. */
const webhookUrl = (value: string | undefined): string => {
  const given = text("https://example.bitrix24.kz/rest/1/secret/, as Bitrix24 shows it")(value);
  try {
    createBitrix({ webhookUrl: given });
    return given;
  } catch (error) {
    throw new variables.VariableProblem((error as Error).message.replace("webhookUrl ", ""));
  }
};

/** The variables of this server. */
export const shape = {
  ...commonVariables({ port: 3002, database: "sqlite:./bitrix-sync.db" }),
  WEBHOOK_SECRET: secret("the secret that the site sends in X-Webhook-Secret"),
  API_TOKEN: secret("the bearer token of this backend's API"),
  BITRIX_SITE_URL: url("the address of the site, e.g. https://shop.example"),
  BITRIX_SITE_TOKEN: secret("the bearer token of the site's product endpoint"),
  BITRIX_SITE_PRODUCT_PATH: withDefault(text("a path"), "/api/v2/products/update-from-railway"),
  BITRIX_WEBHOOK_URL: webhookUrl,
  BITRIX_APPLICATION_TOKEN: secret("the application token that Bitrix24 shows beside the outgoing webhook"),
  BITRIX_STAGE_MAP: stageMap,
  BITRIX_CATEGORY_ID: withDefault(id("the id of the funnel"), "0"),
  BITRIX_PAID_STAGE_ID: optional(text("the stage of paid deals")),
  BITRIX_LINK_FIELD: withDefault(text("the deal's field that holds our order id"), "UF_CRM_ORDER_ID"),
};
