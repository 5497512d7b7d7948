import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  idempotencyCases,
  leaseCases,
  outboxCases,
  rateLimitCases,
  tokenCases,
  watermarkCases,
} from "../src/testing/index.ts";

test("the README's conformance table tells the number of cases of each port", () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const told = [...readme.matchAll(/^\| ([a-z ]+?) +\| (\d+) +\| passes/gm)].map(([, port, count]) => [
    port,
    Number(count),
  ]);
  expect(told).toEqual([
    ["watermarks", watermarkCases.length],
    ["leases", leaseCases.length],
    ["idempotency", idempotencyCases.length],
    ["tokens", tokenCases.length],
    ["outbox", outboxCases.length],
    ["rate limits", rateLimitCases.length],
  ]);
});
