import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const proofFolder = join(import.meta.dirname, "..", ".tmp", "proof");

/** Keeps the figures of a heavy suite for `docs/proof.json`; only `pnpm proof` asks for them. */
export function recordProof(name: string, figures: Readonly<Record<string, number | string>>): void {
  if (process.env.PROOF !== "1") return;
  mkdirSync(proofFolder, { recursive: true });
  writeFileSync(join(proofFolder, `${name}.json`), JSON.stringify(figures));
}
