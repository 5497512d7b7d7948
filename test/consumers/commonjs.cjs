// Node loads ES modules with require() since 22.12; every entry must allow it (no top-level await).
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const withoutPeers = new Set(["./bullmq", "./fastify", "./opentelemetry"]); // their peers are not installed here
let entries = 0;
for (const name of ["core", "bitrix", "robokassa", "kaspi-amocrm", "payment-gateway"]) {
  const folder = join(__dirname, "node_modules", "@orderbridge", name);
  const { exports: subpaths } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  for (const subpath of Object.keys(subpaths)) {
    if (subpath === "./package.json" || withoutPeers.has(subpath)) continue;
    const loaded = require(`@orderbridge/${name}${subpath.slice(1)}`);
    assert.ok(Object.keys(loaded).length > 0, `${name} ${subpath} exports nothing`);
    entries++;
  }
}
assert.ok(entries > 15);

const { verifySharedSecret } = require("@orderbridge/core/signature");
assert.deepEqual(verifySharedSecret("right", ["right"]), { ok: true });
