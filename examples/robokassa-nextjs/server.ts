// Serves the route handler without Next, so that it can be tried and tested as it is.
import { createServer } from "node:http";
import { toNodeListener } from "@orderbridge/core/node";
import {
  commonVariables,
  configure,
  createJsonLogger,
  robokassaProblems,
  robokassaUnused,
  robokassaVariables,
  start,
} from "@orderbridge/example-support";
import { GET, POST } from "./app/[...path]/route.ts";

const variables = configure(
  { ...commonVariables({ port: 3005, database: "sqlite:./robokassa.db" }), ...robokassaVariables },
  robokassaProblems,
);
const logger = createJsonLogger(variables.LOG_LEVEL);
for (const unused of robokassaUnused(variables)) logger.warn(unused);

await start(async () => ({
  server: createServer(toNodeListener((request) => (request.method === "POST" ? POST : GET)(request), { logger })),
  port: variables.PORT,
  host: variables.HOST,
  onStop: GET.closeShop,
}));
