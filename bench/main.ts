// pnpm bench [P1 …]: prints tables, and writes bench/results.json.
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { type BenchResult, print } from "./harness.ts";
import { benchSignatures } from "./p1-signatures.ts";
import { benchImport } from "./p2-import.ts";
import { benchRateLimit } from "./p3-rate-limit.ts";
import { benchListing } from "./p4-listing.ts";
import { benchGateway } from "./p5-gateway.ts";
import { benchBackfill } from "./p6-backfill.ts";
import { benchWeight } from "./p7-weight.ts";

const benches: Readonly<Record<string, () => Promise<BenchResult>>> = {
  P1: benchSignatures,
  P2: benchImport,
  P3: benchRateLimit,
  P4: benchListing,
  P5: benchGateway,
  P6: benchBackfill,
  P7: benchWeight,
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((id) => !(id in benches));
if (unknown.length > 0) {
  process.stderr.write(`no such bench: ${unknown.join(", ")}; there are ${Object.keys(benches).join(", ")}\n`);
  process.exit(1);
}
const results: BenchResult[] = [];
for (const [id, bench] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.includes(id)) continue;
  const result = await bench();
  print(result);
  results.push(result);
}
const machine = { node: process.version, cpu: cpus()[0]?.model, cores: cpus().length };
writeFileSync(join(import.meta.dirname, "results.json"), `${JSON.stringify({ machine, results }, null, 2)}\n`);
