import { readdirSync, readFileSync, statSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative } from "node:path";
import { describe, expect, test } from "vitest";
import { mutants } from "../scripts/mutants.ts";

const root = join(import.meta.dirname, "..");

interface Manifest {
  readonly name: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, string>>;
  readonly publishConfig: { readonly exports: Readonly<Record<string, string | { types: string; default: string }>> };
}

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .map((path) => join(folder, path));
}

/** What a file imports, static and dynamic, types included. Comments are left out: they hold examples. */
function imports(file: string): { readonly specifier: string; readonly typeOnly: boolean }[] {
  const text = readFileSync(file, "utf8")
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/^\s*\/\/.*$/gm, "");
  const found = text.matchAll(
    /(?:^|\n)\s*(?:import|export)\s+(type\s)?[^;"'`]*?from\s*["']([^"']+)["']|(?:^|\n)\s*import\s*["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']\s*\)/g,
  );
  return [...found].map(([, type, from, bare, dynamic]) => ({
    specifier: (from ?? bare ?? dynamic) as string,
    typeOnly: type !== undefined,
  }));
}

const packages = readdirSync(join(root, "packages")).map((name) => {
  const folder = join(root, "packages", name);
  return { name, folder, manifest: JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest };
});

const packageOf = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");

test("every planted defect of scripts/mutants.ts has its place, once", () => {
  const lost = mutants.filter(
    ({ file, from }) => readFileSync(join(root, "packages/core/src", file), "utf8").split(from).length !== 2,
  );
  expect(lost.map(({ file, from }) => `${file}: ${from}`)).toEqual([]);
});

describe.each(packages)("$name", ({ name, folder, manifest }) => {
  const files = sources(join(folder, "src"));

  test("declares every module that its sources import", () => {
    const declared = new Set([
      ...Object.keys(manifest.dependencies ?? {}),
      ...Object.keys(manifest.peerDependencies ?? {}),
      ...builtinModules,
    ]);
    const undeclared = files.flatMap((file) =>
      imports(file)
        .filter(({ specifier }) => !specifier.startsWith(".") && !specifier.startsWith("node:"))
        .filter(({ specifier }) => !declared.has(packageOf(specifier)))
        .map(({ specifier }) => `${relative(folder, file)} imports ${specifier}`),
    );
    expect(files.length).toBeGreaterThan(0);
    expect(undeclared).toEqual([]);
  });

  test("imports only those of our packages that the architecture allows", () => {
    const allowed: Record<string, readonly string[]> = {
      core: [],
      bitrix: ["@orderbridge/core"],
      robokassa: ["@orderbridge/core"],
      "kaspi-amocrm": ["@orderbridge/core"],
      "payment-gateway": ["@orderbridge/core"],
    };
    const wrong = files.flatMap((file) =>
      imports(file)
        .filter(({ specifier }) => specifier.startsWith("@orderbridge/"))
        .filter(({ specifier, typeOnly }) => {
          if (allowed[name]?.includes(packageOf(specifier))) return false;
          // The gateway knows Robokassa by its types, in one file.
          return !(
            typeOnly &&
            packageOf(specifier) === "@orderbridge/robokassa" &&
            file.endsWith("providers/robokassa.ts")
          );
        })
        .map(({ specifier }) => `${relative(folder, file)} imports ${specifier}`),
    );
    expect(wrong).toEqual([]);
  });

  test("keeps fakes out of what runs in production", () => {
    const wrong = files
      .filter((file) => !file.includes("/src/testing/") && !file.includes("/src/cli"))
      .filter((file) => imports(file).some(({ specifier }) => /(^|\/)testing(\/|$)/.test(specifier)));
    expect(wrong.map((file) => relative(folder, file))).toEqual([]);
  });

  test("publishes exactly the subpaths that it exports here, from dist", () => {
    const { exports, publishConfig } = manifest;
    expect(Object.keys(publishConfig.exports)).toEqual(Object.keys(exports));
    for (const [subpath, source] of Object.entries(exports)) {
      if (subpath === "./package.json") continue;
      expect(statSync(join(folder, source)).isFile()).toBe(true);
      const built = source.replace("./src/", "./dist/").replace(/\.ts$/, "");
      expect(publishConfig.exports[subpath]).toEqual({ types: `${built}.d.ts`, default: `${built}.js` });
    }
  });
});

describe("core", () => {
  const folder = join(root, "packages/core/src");
  const top = (file: string): string => relative(folder, file).split("/")[0]?.replace(/\.ts$/, "") ?? "";

  /** Which parts a part may import. `ports` and `errors` are the ground. */
  const arrows: Readonly<Record<string, readonly string[]>> = {
    ports: [],
    errors: [],
    clock: ["ports"],
    "status-mapper": ["errors"],
    signature: [],
    http: ["ports", "errors", "clock"],
    jobs: ["ports", "errors", "clock", "http"],
    oauth: ["ports", "errors", "clock", "http", "jobs"],
    "stored-text": [],
    memory: ["ports", "errors", "clock", "stored-text"],
    kysely: ["ports", "errors", "clock", "stored-text"],
    redis: ["ports", "errors", "clock", "stored-text"],
    bullmq: ["errors", "clock", "http", "jobs"],
    opentelemetry: ["ports", "clock"],
    node: ["ports", "errors", "http"],
    fastify: ["http", "node"],
    phone: [],
    testing: ["ports", "errors", "clock", "http", "node", "signature", "index"],
    index: ["ports", "errors", "clock", "status-mapper", "http", "jobs", "oauth"],
    cli: ["http", "kysely"],
  };

  test("imports along its arrows only", () => {
    const wrong = sources(folder).flatMap((file) =>
      imports(file)
        .filter(({ specifier }) => specifier.startsWith("."))
        .map(({ specifier }) => top(join(dirname(file), specifier)))
        .filter((target) => target !== top(file) && !arrows[top(file)]?.includes(target))
        .map((target) => `${relative(folder, file)} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  test("imports an optional peer only in the subpath that is for it", () => {
    const { peerDependencies } = JSON.parse(readFileSync(join(folder, "../package.json"), "utf8")) as Manifest;
    const homes: Readonly<Record<string, readonly string[]>> = {
      "@opentelemetry/api": ["opentelemetry"],
      bullmq: ["bullmq"],
      fastify: ["fastify"],
      ioredis: ["redis", "bullmq"],
      kysely: ["kysely"],
      "libphonenumber-js": ["phone"],
      mysql2: ["kysely"],
      pg: ["kysely"],
    };
    expect(Object.keys(homes)).toEqual(Object.keys(peerDependencies ?? {}));
    const wrong = sources(folder).flatMap((file) =>
      imports(file)
        .map(({ specifier }) => packageOf(specifier))
        .filter((name) => homes[name] && !homes[name].includes(top(file)))
        .map((name) => `${relative(folder, file)} imports ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  test("names every part in the table of arrows", () => {
    expect([...new Set(sources(folder).map(top))].sort()).toEqual(Object.keys(arrows).sort());
  });
});

describe("the repository", () => {
  test("pins every dependency of the workspace to one exact version", () => {
    const versions = new Map<string, Set<string>>();
    const folders = [
      root,
      join(root, "bench"),
      join(root, "test/foreign-clients"),
      ...["packages", "examples"].flatMap((group) =>
        readdirSync(join(root, group)).map((name) => join(root, group, name)),
      ),
    ];
    for (const folder of folders) {
      const { dependencies, devDependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      for (const [name, version] of Object.entries<string>({ ...dependencies, ...devDependencies })) {
        if (version === "workspace:*") continue;
        versions.set(name, (versions.get(name) ?? new Set()).add(version));
      }
    }
    const loose = [...versions].filter(
      ([, found]) => found.size > 1 || ![...found].every((version) => /^\d+\.\d+\.\d+$/.test(version)),
    );
    expect(loose.map(([name, found]) => `${name}: ${[...found].join(", ")}`)).toEqual([]);
  });

  test("docs/personal-data.md speaks only of tables that exist", () => {
    const created = packages.flatMap(({ folder }) =>
      sources(join(folder, "src/kysely")).flatMap((file) =>
        [
          ...readFileSync(file, "utf8").matchAll(/"((?:orderbridge|robokassa|bitrix|kaspi_amocrm|gateway)_[a-z_]+)"/g),
        ].map((match) => match[1] as string),
      ),
    );
    const named = [
      ...readFileSync(join(root, "docs/personal-data.md"), "utf8").matchAll(
        /`((?:orderbridge|robokassa|bitrix|kaspi_amocrm|gateway)_[a-z_]+)/g,
      ),
    ].map((match) => match[1] as string);
    expect(named.length).toBeGreaterThan(8);
    expect(named.filter((table) => !created.includes(table))).toEqual([]);
  });

  test("keeps download addresses out of the lock file", () => {
    const lock = readFileSync(join(root, "pnpm-lock.yaml"), "utf8");
    expect(lock).not.toMatch(/tarball:|https?:\/\//);
  });

  test("names pnpm once: what bootstrap runs is what package.json pins", () => {
    const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(packageManager).toMatch(/^pnpm@\d+\.\d+\.\d+$/);
    expect(readFileSync(join(root, "scripts/bootstrap.mjs"), "utf8")).not.toMatch(/pnpm@\d/);
  });
});
