import { createHmac } from "node:crypto";
import fc from "fast-check";
import { Webhook } from "standardwebhooks";
import { expect, test } from "vitest";
import {
  createWebhookSigner,
  createWebhookVerifier,
  verifyDigest,
  verifyHmac,
  verifySharedSecret,
} from "../src/signature/index.ts";
import { signatureCases } from "./signature.cases.ts";

for (const { name, run } of signatureCases) test(name, run);

const secret = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";
const options = { seed: 20261101, numRuns: 300 };

test("what we sign, standardwebhooks accepts, and the reverse, for any text", () => {
  const sign = createWebhookSigner({ secrets: [secret] });
  const verify = createWebhookVerifier({ secrets: [secret] });
  const theirs = new Webhook(secret);
  fc.assert(
    fc.property(fc.json(), (body) => {
      const timestamp = new Date();
      const headers = sign({ id: "msg_1", timestamp, body });
      expect(theirs.verify(body, headers)).toEqual(JSON.parse(body));
      const signature = theirs.sign("msg_1", timestamp, body);
      expect(verify({ headers: { ...headers, "webhook-signature": signature }, body }).ok).toBe(true);
    }),
    options,
  );
});

test("no header or body whatever makes a check throw, or pass", () => {
  const verify = createWebhookVerifier({ secrets: [secret] });
  const text = fc.string({ unit: "binary" });
  const value = fc.oneof(text, fc.array(text, { maxLength: 3 }), fc.constant(undefined));
  const name = fc.constantFrom(
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-webhook-signature",
    "Webhook-Id",
    "__proto__",
    "constructor",
  );
  fc.assert(
    fc.property(fc.dictionary(name, value), fc.uint8Array(), text, (headers, body, other) => {
      expect(verify({ headers, body }).ok).toBe(false);
      expect(verifyDigest({ algorithm: "sha256", text: body, digest: other }).ok).toBe(false);
      expect(verifyHmac({ secrets: [secret], body, signature: other }).ok).toBe(false);
      expect(verifySharedSecret(other, [secret]).ok).toBe(false);
    }),
    options,
  );
});

test("any changed byte of a signed body is noticed", () => {
  const verify = createWebhookVerifier({ secrets: [secret] });
  const sign = createWebhookSigner({ secrets: [secret] });
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 200 }),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      (body, at, change) => {
        const headers = sign({ id: "msg_1", timestamp: new Date(), body });
        const changed = Uint8Array.from(body, (byte, index) => (index === at % body.length ? byte ^ change : byte));
        expect(verify({ headers, body }).ok).toBe(true);
        expect(verify({ headers, body: changed }).ok).toBe(false);
        expect(
          verifyHmac({ secrets: ["k"], body: changed, signature: createHmac("sha256", "k").update(body).digest("hex") })
            .ok,
        ).toBe(false);
      },
    ),
    options,
  );
});

test.each([3900, 3920, 4020, 4026, 4030, 4032, 4096, 5000])(
  "signs the whole of an id of %i bytes, whatever its letters take",
  (bytes) => {
    const key = Buffer.from(secret.slice(6), "base64");
    const timestamp = new Date("2026-11-01T10:00:00.000Z");
    for (const filler of ["a", "ә", "₸", "😀"]) {
      const id = filler.repeat(Math.floor(bytes / Buffer.byteLength(filler)));
      for (const body of [Buffer.alloc(0), Buffer.from("ab"), Buffer.from("қ"), Buffer.alloc(200, "z")]) {
        const expected = createHmac("sha256", key).update(`${id}.1793527200.`).update(body).digest("base64");
        const signed = createWebhookSigner({ secrets: [secret] })({ id, timestamp, body })["webhook-signature"];
        expect(signed).toBe(`v1,${expected}`);
      }
    }
  },
);

test("nothing that a genuine signature left behind helps a cut or widened one", () => {
  const now = (): number => Date.parse("2026-11-01T10:00:00.000Z");
  const verify = createWebhookVerifier({ secrets: [secret], now });
  const body = Buffer.from("{}");
  const headers = createWebhookSigner({ secrets: [secret] })({ id: "evt_1", timestamp: new Date(now()), body });
  const genuine = headers["webhook-signature"];
  for (const changed of [
    genuine.slice(0, 46),
    `${genuine.slice(0, 46)}ә`,
    `${genuine.slice(0, 44)}😀 `,
    `${genuine.slice(0, 44)}😀aaaa`,
    `${genuine}=`,
    genuine.replace("v1", "v\u0131"),
    genuine.replace("v", "\u0176"), // its low byte is that of v
  ]) {
    expect(verify({ headers, body }).ok).toBe(true);
    expect(verify({ headers: { ...headers, "webhook-signature": changed }, body }).ok).toBe(false);
  }
});
