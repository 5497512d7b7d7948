// Serves the route handler without Next, so that it can be tried and tested as it is.
import { createServer } from "node:http";
import { toNodeListener } from "@orderbridge/core/node";
import {
  commonVariables,
  configure,
  createJsonLogger,
  robokassaProblems,
  robokassaVariables,
  start,
} from "@orderbridge/example-support";
import { closeShop, GET, POST } from "./app/[...path]/route.ts";

const variables = configure(
  { ...commonVariables({ port: 3002, database: "sqlite:./robokassa.db" }), ...robokassaVariables },
  robokassaProblems,
);
const logger = createJsonLogger(variables.LOG_LEVEL);
if (variables.REDIS_URL) logger.warn("REDIS_URL is set, but this server needs none: the database shares out its work");
if (variables.ENCRYPTION_KEYS) logger.warn("ENCRYPTION_KEYS is set, but this server stores no secrets");

await start(async () => ({
  server: createServer(toNodeListener((request) => (request.method === "POST" ? POST : GET)(request), { logger })),
  port: variables.PORT,
  host: variables.HOST,
  onStop: closeShop,
}));
