import { availableParallelism } from "node:os";
import { defineConfig, type Plugin } from "vitest/config";

/** Plants one defect into one source file while the tests run: what `scripts/mutants.ts` asks for. */
function plantDefect(wanted: string | undefined): Plugin[] {
  if (!wanted) return [];
  const { file, from, to } = JSON.parse(wanted) as {
    readonly file: string;
    readonly from: string;
    readonly to: string;
  };
  return [
    {
      name: "plant-defect",
      enforce: "pre",
      transform(code, id) {
        if (!id.endsWith(file)) return undefined;
        if (code.split(from).length !== 2) throw new Error(`the defect's place is not unique in ${file}: ${from}`);
        return code.replace(from, () => to);
      },
    },
  ];
}

export default defineConfig({
  plugins: plantDefect(process.env.ORDERBRIDGE_MUTANT),
  test: {
    include: ["packages/*/test/**/*.test.ts", "examples/*/test/**/*.test.ts", "test/**/*.test.ts"],
    testTimeout: 20_000,
    hookTimeout: 30_000,
    pool: "forks",
    // Many tests wait for other processes and for paced calls: one file more than there are cores keeps these busy.
    maxWorkers: availableParallelism() + 1,
    // The cache knows a module by its file: it would hand out the sound one in place of the defective one.
    fsModuleCache: process.env.ORDERBRIDGE_MUTANT === undefined,
  },
});
