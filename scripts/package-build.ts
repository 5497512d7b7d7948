import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Options } from "tsup";

/** One build for every package: the entries are what `exports` names, so the two cannot disagree. */
export function packageBuild(folder: string): Options {
  const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    exports: Record<string, string>;
    bin?: Record<string, string>;
  };
  const sources = [...Object.values(manifest.exports), ...Object.values(manifest.bin ?? {})].filter((path) =>
    /\.tsx?$/.test(path),
  );
  return {
    entry: Object.fromEntries(
      sources.map((path) => [path.replace(/^\.\/src\//, "").replace(/\.tsx?$/, ""), join(folder, path)]),
    ),
    outDir: join(folder, "dist"),
    format: "esm",
    target: "node22",
    platform: "node",
    dts: true,
    clean: true,
    splitting: true,
    sourcemap: false,
    removeNodeProtocol: false,
  };
}
