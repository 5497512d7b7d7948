import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import type { BenchResult, Target } from "./harness.ts";

interface Contender {
  readonly name: string;
  /** What a program imports. */
  readonly specifier: string;
}

interface Pair {
  readonly ours: Contender;
  readonly peer?: Contender;
  /** Why ours may be larger all the same. */
  readonly reason?: string;
}

const pairs: readonly Pair[] = [
  {
    ours: { name: "core/signature", specifier: "@orderbridge/core/signature" },
    peer: { name: "standardwebhooks", specifier: "standardwebhooks" },
  },
  {
    ours: { name: "robokassa", specifier: "@orderbridge/robokassa" },
    peer: { name: "@dev-aces/robokassa", specifier: "@dev-aces/robokassa" },
    reason:
      "the peer makes a link and checks a callback, and calls nobody; of ours a third is the fetch for old versions of Node that ofetch brings, and the rest asks, books, refunds and diagnoses",
  },
  {
    ours: { name: "bitrix", specifier: "@orderbridge/bitrix" },
    peer: { name: "@bitrix24/b24jssdk", specifier: "@bitrix24/b24jssdk" },
  },
  {
    ours: { name: "kaspi-amocrm/amocrm", specifier: "@orderbridge/kaspi-amocrm/amocrm" },
    peer: { name: "@shevernitskiy/amo", specifier: "@shevernitskiy/amo" },
    reason:
      "own code is smaller; the rest is the phone numbers of all countries, and the fetch for old versions of Node that ofetch brings",
  },
  { ours: { name: "core", specifier: "@orderbridge/core" } },
];

interface Weight {
  /** Minified, with all its dependencies, in bytes after gzip. */
  readonly bundleBytes: number;
  /** The same without anything from other packages. */
  readonly ownBytes: number;
  /** From starting the import to its end in a fresh process, in milliseconds; what Node itself takes is not in it. */
  readonly importMs: number;
  /** Packages that come with an install, itself included. */
  readonly packages: number;
  /** What the packages of other people take on the disk, in bytes. */
  readonly otherBytes: number;
}

const rounds = 9;
const work = join(import.meta.dirname, ".tmp");

async function bundle(
  specifier: string,
  ownOnly: boolean,
): Promise<{ readonly code: Uint8Array; readonly bytes: number }> {
  const { outputFiles } = await build({
    // Every export: what stays when a bundler drops the rest depends on the program.
    stdin: { contents: `export * from ${JSON.stringify(specifier)};`, resolveDir: import.meta.dirname },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    platform: "node",
    logLevel: "silent",
    plugins: ownOnly
      ? [
          {
            name: "leaves other packages out",
            setup: ({ onResolve }) =>
              onResolve({ filter: /^[^./]/ }, ({ path }) =>
                path === specifier ? undefined : { path, external: true },
              ),
          },
        ]
      : [],
  });
  const code = outputFiles[0]?.contents ?? new Uint8Array();
  return { code, bytes: gzipSync(code, { level: 9 }).length };
}

const median = (values: readonly number[]): number =>
  [...values].sort((left, right) => left - right)[values.length >> 1] as number;

/** Time of one import, told by the process itself: starting Node is no package's doing. */
function importOnce(file: string): number {
  const program = `const t=performance.now();await import(${JSON.stringify(file)});process.stdout.write(String(performance.now()-t))`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return Number(/[\d.]+$/.exec(output)?.[0]);
}

interface Manifest {
  readonly name: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}

/** The folder of a package as seen from another one. */
function findPackage(name: string, from: string): string {
  for (let folder = from; folder !== dirname(folder); folder = dirname(folder)) {
    const found = join(folder, "node_modules", name);
    if (existsSync(found)) return realpathSync(found);
  }
  throw new Error(`${name} is not installed for ${from}`);
}

function sizeOf(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) bytes += entry.name === "node_modules" ? 0 : sizeOf(path);
    else bytes += lstatSync(path).size;
  }
  return bytes;
}

/** What `npm install` brings: the package and its dependencies, and theirs. Optional peers come only when asked for. */
function install(specifier: string): Pick<Weight, "packages" | "otherBytes"> {
  const name = specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
  const folders = new Set<string>();
  let otherBytes = 0;
  const visit = (folder: string): void => {
    if (folders.has(folder)) return;
    folders.add(folder);
    const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
    if (!manifest.name.startsWith("@orderbridge/")) otherBytes += sizeOf(folder);
    for (const dependency of Object.keys(manifest.dependencies ?? {})) visit(findPackage(dependency, folder));
  };
  visit(findPackage(name, import.meta.dirname));
  return { packages: folders.size, otherBytes };
}

const kilobytes = (bytes: number): string => `${(bytes / 1000).toFixed(1)} kB`;

/** Ours are bundled as they would be shipped; what is imported is that bundle for both sides, so that neither wins by its number of files. */
export async function benchWeight(): Promise<BenchResult> {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  try {
    const contenders = pairs.flatMap(({ ours, peer }) => (peer ? [ours, peer] : [ours]));
    const files = new Map<string, string>();
    const bundles = new Map<string, { readonly all: number; readonly own: number }>();
    for (const [index, { name, specifier }] of contenders.entries()) {
      const all = await bundle(specifier, false);
      const own = await bundle(specifier, true);
      const file = join(work, `${index}.mjs`);
      // What was CommonJS may ask for Node's modules by require, which a module does not have; the size is without it.
      const needsRequire = Buffer.from(all.code).includes("Dynamic require");
      const shim =
        'import{createRequire as requireOfBench}from"node:module";const require=requireOfBench(import.meta.url);';
      writeFileSync(file, needsRequire ? Buffer.concat([Buffer.from(shim), all.code]) : all.code);
      files.set(name, file);
      bundles.set(name, { all: all.bytes, own: own.bytes });
    }
    // What nobody who signs gets around.
    const floor = "node:crypto alone";
    files.set(floor, join(work, "floor.mjs"));
    writeFileSync(join(work, "floor.mjs"), 'export { createHmac } from "node:crypto";');
    const times = new Map<string, number[]>([...files.keys()].map((name) => [name, []]));
    for (let round = 0; round <= rounds; round++) {
      for (const [name, file] of files) {
        const elapsed = importOnce(file);
        if (round > 0) times.get(name)?.push(elapsed); // the first round warms the disk's cache
      }
    }
    const weigh = ({ name, specifier }: Contender): Weight => ({
      bundleBytes: bundles.get(name)?.all as number,
      ownBytes: bundles.get(name)?.own as number,
      importMs: median(times.get(name) ?? []),
      ...install(specifier),
    });

    const floorMs = median(times.get(floor) ?? []);
    const table: string[][] = [
      ["", "gzip", "own code", "import", "packages", "of others on disk"],
      [floor, "", "", `${floorMs.toFixed(1)} ms`, "", ""],
    ];
    const targets: Target[] = [];
    for (const { ours, peer, reason } of pairs) {
      const weight = weigh(ours);
      const other = peer && weigh(peer);
      for (const [name, one] of [
        [ours.name, weight],
        ...(peer && other ? [[peer.name, other] as const] : []),
      ] as const) {
        const { bundleBytes, ownBytes, importMs, packages, otherBytes } = one;
        table.push([
          name,
          kilobytes(bundleBytes),
          kilobytes(ownBytes),
          `${importMs.toFixed(1)} ms`,
          String(packages),
          kilobytes(otherBytes),
        ]);
      }
      if (ours.name === "core/signature") {
        targets.push({
          text: `${ours.name}: at most 1.5 kB gzip (${weight.bundleBytes} bytes)`,
          met: weight.bundleBytes <= 1500,
        });
        targets.push({
          text: `${ours.name}: imported in under 5 ms (${weight.importMs.toFixed(1)}; node:crypto alone ${floorMs.toFixed(1)})`,
          met: weight.importMs < 5,
        });
      }
      if (!peer || !other) continue;
      const ratio = (weight.bundleBytes / other.bundleBytes).toFixed(2);
      const met = weight.bundleBytes < other.bundleBytes;
      const why = !met && reason ? `; ${reason}` : "";
      targets.push({ text: `${ours.name}: smaller than ${peer.name} (${ratio} of it${why})`, met });
    }
    return {
      id: "P7",
      title: "weight: bundled with everything it needs, imported in a fresh process, installed",
      table,
      targets,
    };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
