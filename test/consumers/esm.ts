// What a TypeScript user writes against the published tarballs: it must compile with strict settings and run.
import assert from "node:assert/strict";
import { createBitrix } from "@orderbridge/bitrix";
import { createStatusMapper, type FetchHandler } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { toE164 } from "@orderbridge/core/phone";
import { createWebhookVerifier } from "@orderbridge/core/signature";
import { createKaspi } from "@orderbridge/kaspi-amocrm/kaspi";
import { verifyWebhook } from "@orderbridge/payment-gateway/webhooks";
import { createRobokassa } from "@orderbridge/robokassa";

// The vector that Standard Webhooks publishes.
const verify = createWebhookVerifier({
  secrets: ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
  now: () => 1614265330_000,
});
const verified = verify({
  headers: {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
  },
  body: '{"test": 2432232314}',
});
assert.equal(verified.ok, true);

const mapper = createStatusMapper({
  pairs: [
    ["N", "new"],
    ["RF", "cancelled"],
    ["UN", "cancelled"],
  ],
  back: { cancelled: "UN" },
});
const back: { readonly code: "N" | "RF" | "UN" } | { readonly unmapped: string } = mapper.unmap("cancelled");
assert.deepEqual(back, { code: "UN" });

assert.equal(toE164("8 701 000 00 01", { country: "KZ" }), "+77010000001");
assert.equal(await createMemoryStorage().watermarks.get("kaspi"), undefined);

const handler: FetchHandler = async () => new Response(null, { status: 204 });
assert.equal((await handler(new Request("http://localhost/"))).status, 204);

for (const factory of [createBitrix, createKaspi, createRobokassa, verifyWebhook]) {
  assert.equal(typeof factory, "function");
}
