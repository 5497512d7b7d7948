export { connectFleet, dailyPrune, type Fleet, type FleetOptions } from "./redis.ts";
export {
  robokassaOptions,
  robokassaProblems,
  robokassaPrune,
  robokassaUnused,
  robokassaVariables,
} from "./robokassa.ts";
export * from "./server.ts";
export * as variables from "./variables.ts";
export { commonVariables } from "./variables.ts";
