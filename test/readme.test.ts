import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { run } from "./run.ts";

const root = join(import.meta.dirname, "..");
const work = join(root, ".tmp", "readme");

interface Block {
  /** e.g. `packages/core/README.md, block 2` */
  readonly name: string;
  readonly file: string;
  readonly code: string;
}

const readmes = [
  "README.md",
  "README.ru.md",
  ...["packages", "examples"].flatMap((group) =>
    readdirSync(join(root, group)).map((name) => `${group}/${name}/README.md`),
  ),
].filter((path) => existsSync(join(root, path)));

const blocks: Block[] = readmes.flatMap((path) =>
  [...readFileSync(join(root, path), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match, index) => ({
    name: `${path}, block ${index + 1}`,
    file: `${path.replace(/[^a-zA-Z]+/g, "-")}-${index + 1}.ts`,
    code: match[1] as string,
  })),
);

beforeAll(() => {
  mkdirSync(work, { recursive: true });
  for (const { file, code } of blocks) writeFileSync(join(work, file), `${code}\nexport {};\n`);
  writeFileSync(
    join(work, "tsconfig.json"),
    JSON.stringify({
      extends: "../../tsconfig.base.json",
      compilerOptions: { noUnusedLocals: false },
      include: ["*.ts"],
    }),
  );
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

test("every TypeScript block in the READMEs compiles", { timeout: 60_000 }, async () => {
  expect(blocks.length).toBeGreaterThanOrEqual(5);
  const { code, output } = await run(join(root, "node_modules/.bin/tsc"), ["-p", work]);
  // File names in the message lead back to the README: `packages-core-README-md-2.ts`.
  expect({ code, output }).toEqual({ code: 0, output: "" });
});

test("every package README begins with one complete program in its first fifteen lines of code", () => {
  for (const name of readdirSync(join(root, "packages"))) {
    const text = readFileSync(join(root, "packages", name, "README.md"), "utf8");
    expect(text.split("\n").slice(0, 15).join("\n"), name).toContain("```ts");
  }
});
