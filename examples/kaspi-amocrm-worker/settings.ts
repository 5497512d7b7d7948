import { commonVariables, variables as read } from "@orderbridge/example-support";

/** The variables of this server beside those of the sync, which `readKaspiAmocrmEnvironment` reads. */
export const shape = {
  ...commonVariables({ port: 3003, database: "sqlite:./kaspi-amocrm.db" }),
  AMO_WEBHOOK_SECRET: read.optional(read.secret("the last part of the webhook's path", 16)),
  CRON_SECRET: read.secret("a secret; make one with: openssl rand -hex 24", 16),
  SCHEDULE: read.withDefault(read.oneOf("on", "off"), "on"),
};
