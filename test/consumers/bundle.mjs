// Bundles an entry with esbuild (its path is given) and runs the bundle: nothing may depend on files beside the code.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const { build } = await import(pathToFileURL(process.argv[2]).href);
const { outputFiles } = await build({
  stdin: {
    contents: `
      import { verifyDigest } from "@orderbridge/core/signature";
      import { createStatusMapper } from "@orderbridge/core";
      export const digest = verifyDigest({ algorithm: "md5", text: "1000.00:146:try-two", digest: "ff3b04586235329cf11828144874438d" });
      export const mapped = createStatusMapper({ pairs: [["N", "new"]] }).map("N");
    `,
    resolveDir: process.cwd(),
  },
  bundle: true,
  write: false,
  format: "esm",
  platform: "node",
  minify: true,
  // p-retry and its kind may use require in their own dependencies.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire('file:///');" },
});
const bundle = await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
assert.deepEqual(bundle.digest, { ok: true });
assert.deepEqual(bundle.mapped, { status: "new" });
