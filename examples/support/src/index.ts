export { robokassaOptions, robokassaProblems, robokassaVariables } from "./robokassa.ts";
export * from "./server.ts";
export * as variables from "./variables.ts";
export { commonVariables } from "./variables.ts";
