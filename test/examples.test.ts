import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { describe, expect, test } from "vitest";
import { run } from "./run.ts";

const root = join(import.meta.dirname, "..");
const examples = readdirSync(join(root, "examples")).filter((name) =>
  existsSync(join(root, "examples", name, "server.ts")),
);

/** Nothing of the surroundings: a variable of the machine must not hide a missing one. */
const start = (name: string, env: Readonly<Record<string, string | undefined>>) => {
  const cleared = Object.fromEntries(Object.keys(process.env).map((key) => [key, undefined]));
  return run(process.execPath, ["server.ts"], {
    cwd: join(root, "examples", name),
    env: { ...cleared, PATH: process.env.PATH, ...env },
    timeoutMs: 15_000,
  });
};

describe.each(examples)("%s", (name) => {
  const example = parseEnv(readFileSync(join(root, "examples", name, ".env.example"), "utf8")) as Record<
    string,
    string
  >;

  test("without variables says which are missing, and ends with code 1 and no stack trace", async () => {
    const { code, output } = await start(name, {});
    expect(code).toBe(1);
    expect(output).toMatch(/^cannot start:/);
    expect(output).toMatch(/\b[A-Z][A-Z0-9_]+ is missing; set it to /);
    expect(output).not.toMatch(/\n\s+at /);
  });

  test("with the placeholders of .env.example names one of them", async () => {
    const { code, output } = await start(name, example);
    expect(code).toBe(1);
    const named = [...output.matchAll(/\b([A-Z][A-Z0-9_]+) still holds the placeholder/g)].map((match) => match[1]);
    expect(named.length).toBeGreaterThan(0);
    for (const variable of named) expect(Object.keys(example)).toContain(variable);
    expect(output).not.toMatch(/\n\s+at /);
  });

  test(".env.example names every variable that the server asks for by default", async () => {
    const { output } = await start(name, {});
    const missing = [...output.matchAll(/\b([A-Z][A-Z0-9_]+) is missing/g)].map((match) => match[1] as string);
    const text = readFileSync(join(root, "examples", name, ".env.example"), "utf8");
    for (const variable of missing) expect(text).toContain(variable);
  });
});

test("npm run example names the examples when it is asked for another one", async () => {
  const { code, output } = await run(process.execPath, [join(root, "scripts/example.ts"), "nonsense"]);
  expect(code).toBe(1);
  for (const name of examples) expect(output).toContain(name);
});

test("bootstrap says what it can do when it is asked for something else", async () => {
  const { code, output } = await run(process.execPath, [join(root, "scripts/bootstrap.mjs"), "nonsense"]);
  expect({ code, output }).toEqual({ code: 1, output: "usage: node scripts/bootstrap.mjs start | test | example\n" });
});
