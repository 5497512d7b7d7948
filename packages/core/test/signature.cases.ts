// The suite of ./signature, as data without a test runner: vitest runs it under Node, and the file itself runs it under
// any runtime (`bun signature.cases.ts`, `deno run -A signature.cases.ts`). Every expected value comes from elsewhere.
import { deepEqual, equal, throws } from "node:assert/strict";
import {
  createWebhookSigner,
  createWebhookVerifier,
  type DigestAlgorithm,
  signHmac,
  signStandardWebhook,
  toStandardSecret,
  verifyDigest,
  verifyHmac,
  verifySharedSecret,
  type WebhookHeaders,
} from "../src/signature/index.ts";

export interface SignatureCase {
  readonly name: string;
  run(): void;
}

const bytes = (value: number, length: number): Uint8Array => new Uint8Array(length).fill(value);
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

// The vector that Standard Webhooks publishes for all its libraries.
const published = {
  secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
  id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
  seconds: 1614265330,
  body: '{"test": 2432232314}',
  signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
};
// Made with the package standardwebhooks 1.1.1.
const foreign = {
  a: "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=",
  b: "whsec_DnpXASu9YTICJQU/2SM4xrYcDpnRiPcy",
  id: "msg_01JREFERENCEVECTOR0001",
  seconds: 1800000000,
  body: '{"type":"payment.paid","timestamp":"2027-01-15T08:00:00Z","data":{"id":"pay_1","amount":"100.00","currency":"KZT"}}',
  signedByA: "v1,ky51f5iSCN5Haiql6N6YZZiywH8MFbXXEEjFtzhhKoo=",
  signedByB: "v1,TATCSQZdpsGJYlfZwyqaMD2Japj1vxS43T03ILG9toA=",
  emptyByA: "v1,/G2vpCbHBEA3PJP5mCGujALmEL5Yw91U/REDq9bFzkY=",
  kazakhByA: "v1,ffel13kjESV3kfuCAl3WlRSX32YzFksgmZUb3TvDwmg=",
};

const headersOf = (id: string, seconds: number | string, signature: string): Record<string, string> => ({
  "webhook-id": id,
  "webhook-timestamp": String(seconds),
  "webhook-signature": signature,
});
const verifierAt = (seconds: number, ...secrets: string[]) =>
  createWebhookVerifier({ secrets, now: () => seconds * 1000 });

/** What a receiver of the published webhook answers when its headers or body are changed. */
function published1(changes: { headers?: WebhookHeaders; body?: string | Uint8Array; now?: number }): string {
  const result = verifierAt(
    changes.now ?? published.seconds,
    published.secret,
  )({
    headers: changes.headers ?? headersOf(published.id, published.seconds, published.signature),
    body: changes.body ?? published.body,
  });
  return result.ok ? result.scheme : result.reason;
}

const hmacVectors: readonly (readonly [string, DigestAlgorithm, string | Uint8Array, string | Uint8Array, string])[] = [
  ["RFC 2202, MD5, 1", "md5", bytes(0x0b, 16), "Hi There", "9294727a3638bb1c13f48ef8158bfc9d"],
  ["RFC 2202, MD5, 2", "md5", "Jefe", "what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"],
  ["RFC 2202, MD5, 3", "md5", bytes(0xaa, 16), bytes(0xdd, 50), "56be34521d144c88dbb8c733f0e8b3f6"],
  ["RFC 2202, SHA-1, 1", "sha1", bytes(0x0b, 20), "Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"],
  ["RFC 2202, SHA-1, 2", "sha1", "Jefe", "what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"],
  ["RFC 2202, SHA-1, 3", "sha1", bytes(0xaa, 20), bytes(0xdd, 50), "125d7342b9ac11cd91a39af48aa17b4f63f175d3"],
  ["RFC 2286, RIPEMD-160, 1", "ripemd160", bytes(0x0b, 20), "Hi There", "24cb4bd67d20fc1a5d2ed7732dcc39377f0a5668"],
  [
    "RFC 2286, RIPEMD-160, 2",
    "ripemd160",
    "Jefe",
    "what do ya want for nothing?",
    "dda6c0213a485a9e24f4742064a7f033b43c4069",
  ],
  [
    "RFC 4231, SHA-256, 1",
    "sha256",
    bytes(0x0b, 20),
    "Hi There",
    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
  ],
  [
    "RFC 4231, SHA-256, 2",
    "sha256",
    "Jefe",
    "what do ya want for nothing?",
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
  ],
  [
    "RFC 4231, SHA-384, 2",
    "sha384",
    "Jefe",
    "what do ya want for nothing?",
    "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
  ],
  [
    "RFC 4231, SHA-512, 2",
    "sha512",
    "Jefe",
    "what do ya want for nothing?",
    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
  ],
  [
    "GitHub's documentation",
    "sha256",
    "It's a Secret to Everybody",
    "Hello, World!",
    "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
  ],
  [
    "Octokit's tests",
    "sha256",
    "mysecret",
    '{"foo":"bar"}',
    "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3",
  ],
];

// md5sum, sha1sum, …, openssl dgst; RIPEMD-160 also from its authors' page.
const digestVectors: readonly (readonly [DigestAlgorithm, string, string])[] = [
  ["ripemd160", "abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"],
  ["ripemd160", "message digest", "5d0689ef49d2fae572b881b123a85ffa21595f36"],
  ["md5", "1000.000000:146:live-two", "F56D901DE60F49774AD1AC8F91458650"],
  ["ripemd160", "1000.000000:146:live-two", "1DE4781D5BFF4F445157CD8AA9B846B70043ACF7"],
  ["sha1", "1000.000000:146:live-two", "9D1EF50BE0CDF64555704D96B4083499B3CBEB10"],
  ["sha256", "1000.000000:146:live-two", "6D532DBA1EB6DD8778F727FB4D2F6480E4277C34AE1C2BE77920DF0E16074E3D"],
  [
    "sha384",
    "1000.000000:146:live-two",
    "5D525153F8BEB0B1339A2CF9944975574BE36B65477DD8BB180FCF9ACE65E4613CDA88AC319C3F41A41689B88EDE3B15",
  ],
  [
    "sha512",
    "1000.000000:146:live-two",
    "1DF7225E61AE4503A8B76A74D541C8C3BDE49ED72B303535D552DD3A97AB0D4A05CB27E7ADD6BE39CF90A4761336E68EA04DF13710E2149645FE6BBF271C2C36",
  ],
  ["md5", "1000.000000:146:live-two:Shp_name=Вася", "69568b79634281108c280c8677206c77"],
];

const standardCases: readonly (readonly [string, string, Parameters<typeof published1>[0]])[] = [
  ["accepts the published vector", "standard", {}],
  ["accepts the body as bytes", "standard", { body: utf8(published.body) }],
  [
    "accepts a Headers object",
    "standard",
    { headers: new Headers(headersOf(published.id, published.seconds, published.signature)) },
  ],
  [
    "accepts header names in any case",
    "standard",
    {
      headers: {
        "Webhook-Id": published.id,
        "WEBHOOK-TIMESTAMP": "1614265330",
        "Webhook-Signature": published.signature,
      },
    },
  ],
  [
    "accepts a header as a list of one",
    "standard",
    { headers: { ...headersOf(published.id, published.seconds, ""), "webhook-signature": [published.signature] } },
  ],
  [
    "accepts a right signature among wrong, unknown and malformed ones",
    "standard",
    { headers: headersOf(published.id, published.seconds, `v1a,AAAA junk v1,AAAA ${published.signature} v2,x`) },
  ],
  ["accepts the oldest allowed timestamp", "standard", { now: published.seconds + 300 }],
  ["accepts the newest allowed timestamp", "standard", { now: published.seconds - 300 }],
  ["refuses one second beyond the tolerance, back", "too_old", { now: published.seconds + 301 }],
  ["refuses one second beyond the tolerance, ahead", "too_new", { now: published.seconds - 301 }],
  ["refuses another body", "mismatch", { body: '{"test":2432232314}' }],
  ["refuses another id", "mismatch", { headers: headersOf("msg_other", published.seconds, published.signature) }],
  [
    "refuses another timestamp",
    "mismatch",
    { headers: headersOf(published.id, published.seconds + 1, published.signature) },
  ],
  [
    "refuses a missing id",
    "missing",
    { headers: { "webhook-timestamp": "1614265330", "webhook-signature": published.signature } },
  ],
  ["refuses an empty signature", "missing", { headers: headersOf(published.id, published.seconds, "") }],
  ["refuses headers that are not there at all", "missing", { headers: {} }],
  [
    "refuses a header that is given twice in two spellings",
    "malformed",
    { headers: { ...headersOf(published.id, published.seconds, published.signature), "Webhook-Id": "msg_other" } },
  ],
  [
    "refuses a header as a list of two",
    "malformed",
    {
      headers: {
        ...headersOf(published.id, published.seconds, ""),
        "webhook-signature": [published.signature, published.signature],
      },
    },
  ],
  [
    "refuses a timestamp with letters behind",
    "malformed",
    { headers: headersOf(published.id, "1614265330abc", published.signature) },
  ],
  [
    "refuses a timestamp with a fraction",
    "malformed",
    { headers: headersOf(published.id, "1614265330.5", published.signature) },
  ],
  [
    "refuses a timestamp with a sign",
    "malformed",
    { headers: headersOf(published.id, "+1614265330", published.signature) },
  ],
  [
    "refuses a timestamp with a leading zero",
    "malformed",
    { headers: headersOf(published.id, "01614265330", published.signature) },
  ],
  [
    "refuses an id with a full stop: the signed text could be cut in another place",
    "malformed",
    { headers: headersOf("msg.a", published.seconds, published.signature) },
  ],
  [
    "refuses something behind a right signature",
    "mismatch",
    { headers: headersOf(published.id, published.seconds, `${published.signature},junk`) },
  ],
  [
    "refuses characters behind a right digest",
    "mismatch",
    { headers: headersOf(published.id, published.seconds, `${published.signature}AAAA`) },
  ],
  [
    "refuses a right digest with spare base64 bits set",
    "mismatch",
    { headers: headersOf(published.id, published.seconds, published.signature.replace("OE=", "OF=")) },
  ],
  [
    "refuses a digest in URL-safe base64",
    "mismatch",
    {
      headers: headersOf(
        published.id,
        published.seconds,
        published.signature.replaceAll("+", "-").replaceAll("/", "_"),
      ),
    },
  ],
  [
    "refuses another version with the right digest",
    "mismatch",
    { headers: headersOf(published.id, published.seconds, published.signature.replace("v1,", "v2,")) },
  ],
  [
    "refuses letters that are only equal when cut to one byte",
    "mismatch",
    { headers: headersOf(published.id, published.seconds, published.signature.replace("g0", "\u0167\u0130")) },
  ],
  [
    "does not fall back to the body's signature when a standard header is there",
    "missing",
    { headers: { "webhook-id": "msg_1", "x-webhook-signature": "0" } },
  ],
];

export const signatureCases: readonly SignatureCase[] = [
  ...hmacVectors.flatMap(([source, algorithm, secret, body, digest]) => [
    { name: `HMAC as in ${source}`, run: () => equal(signHmac({ secret, body, algorithm }), digest) },
    {
      name: `HMAC in capitals verifies, and not with another body: ${source}`,
      run: () => {
        const signature = digest.toUpperCase();
        deepEqual(verifyHmac({ secrets: ["other", secret], body, signature, algorithm }), { ok: true });
        deepEqual(verifyHmac({ secrets: [secret], body: "other", signature, algorithm }), {
          ok: false,
          reason: "mismatch",
        });
      },
    },
  ]),
  ...digestVectors.map(([algorithm, text, digest]) => ({
    name: `digest ${algorithm} of ${text}`,
    run: () => {
      deepEqual(verifyDigest({ algorithm, text, digest }), { ok: true });
      deepEqual(verifyDigest({ algorithm, text, digest: digest.toLowerCase() }), { ok: true });
      deepEqual(verifyDigest({ algorithm, text: `${text} `, digest }), { ok: false, reason: "mismatch" });
    },
  })),
  {
    name: "a digest that is missing, cut, or not hex has a reason",
    run: () => {
      const check = (digest: string | null | undefined) => verifyDigest({ algorithm: "md5", text: "a", digest });
      for (const digest of [undefined, null, ""]) deepEqual(check(digest), { ok: false, reason: "missing" });
      for (const digest of [
        "0cc175b9c0f1b6a831c399e26977266",
        "0cc175b9c0f1b6a831c399e2697726611",
        "zcc175b9c0f1b6a831c399e269772661",
      ]) {
        deepEqual(check(digest), { ok: false, reason: "malformed" });
      }
    },
  },
  {
    name: "an unknown algorithm has a reason, also one named like a property of every object",
    run: () => {
      for (const algorithm of ["sha3-256", "constructor", "__proto__", ""] as string[] as DigestAlgorithm[]) {
        deepEqual(verifyDigest({ algorithm, text: "a", digest: "00" }), { ok: false, reason: "unsupported_algorithm" });
        deepEqual(verifyHmac({ algorithm, secrets: ["k"], body: "a", signature: "00" }), {
          ok: false,
          reason: "unsupported_algorithm",
        });
      }
    },
  },
  {
    name: "base64 HMACs verify in their canonical form only",
    run: () => {
      const own = "dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc="; // GitHub's vector through xxd -r -p | base64
      equal(signHmac({ secret: "It's a Secret to Everybody", body: "Hello, World!", encoding: "base64" }), own);
      const check = (received: string) =>
        verifyHmac({
          secrets: ["It's a Secret to Everybody"],
          body: "Hello, World!",
          signature: received,
          encoding: "base64",
        });
      deepEqual(check(own), { ok: true });
      deepEqual(check(own.replace(/=$/, "")), { ok: false, reason: "mismatch" });
      deepEqual(check(own.toLowerCase()), { ok: false, reason: "mismatch" });
    },
  },
  {
    name: "shared secrets: any of several fits, an empty one never does",
    run: () => {
      deepEqual(verifySharedSecret("new", ["new", "old"]), { ok: true });
      deepEqual(verifySharedSecret("old", ["new", "old"]), { ok: true });
      deepEqual(verifySharedSecret("older", ["new", "old"]), { ok: false, reason: "mismatch" });
      deepEqual(verifySharedSecret("", [""]), { ok: false, reason: "missing" });
      deepEqual(verifySharedSecret(undefined, ["new"]), { ok: false, reason: "missing" });
      deepEqual(verifySharedSecret("new", []), { ok: false, reason: "mismatch" });
    },
  },
  ...standardCases.map(([name, expected, changes]) => ({
    name: `webhook: ${name}`,
    run: () => equal(published1(changes), expected),
  })),
  {
    name: "webhook: gives the id and the time of the attempt",
    run: () => {
      const result = verifierAt(
        published.seconds,
        published.secret,
      )({ headers: headersOf(published.id, published.seconds, published.signature), body: published.body });
      deepEqual(result, {
        ok: true,
        scheme: "standard",
        id: published.id,
        timestamp: new Date(published.seconds * 1000),
      });
    },
  },
  {
    name: "webhook: signs as standardwebhooks does, with one secret, with two, an empty body, Kazakh letters, text or bytes",
    run: () => {
      const timestamp = new Date(foreign.seconds * 1000 + 999);
      const sign = (body: string | Uint8Array, ...secrets: string[]) =>
        signStandardWebhook({ id: foreign.id, timestamp, body, secrets })["webhook-signature"];
      equal(sign(foreign.body, foreign.a), foreign.signedByA);
      equal(sign(utf8(foreign.body), foreign.b), foreign.signedByB);
      equal(sign(foreign.body, foreign.a, foreign.b), `${foreign.signedByA} ${foreign.signedByB}`);
      equal(sign("", foreign.a), foreign.emptyByA);
      equal(sign('{"d":"Төлем · платёж"}', foreign.a), foreign.kazakhByA);
      equal(sign(utf8('{"d":"Төлем · платёж"}'), foreign.a), foreign.kazakhByA);
    },
  },
  {
    name: "webhook: during a rotation either secret verifies, on either side",
    run: () => {
      const headers = headersOf(foreign.id, foreign.seconds, foreign.signedByB);
      equal(verifierAt(foreign.seconds, foreign.a, foreign.b)({ headers, body: foreign.body }).ok, true);
      equal(verifierAt(foreign.seconds, foreign.b, foreign.a)({ headers, body: foreign.body }).ok, true);
      equal(verifierAt(foreign.seconds, foreign.a)({ headers, body: foreign.body }).ok, false);
    },
  },
  {
    name: "webhook: bodies that are not UTF-8 are verified as bytes, and not as what a decoder makes of them",
    run: () => {
      const body = new Uint8Array([0x7b, 0xff, 0xfe, 0x7d]);
      const sign = createWebhookSigner({ secrets: [foreign.a] });
      const headers = sign({ id: foreign.id, timestamp: new Date(foreign.seconds * 1000), body });
      const verify = verifierAt(foreign.seconds, foreign.a);
      equal(verify({ headers, body }).ok, true);
      equal(verify({ headers, body: new TextDecoder().decode(body) }).ok, false);
    },
  },
  {
    name: "webhook: bodies around the size at which they are no longer copied sign alike as text and as bytes",
    run: () => {
      const sign = createWebhookSigner({ secrets: [foreign.a] });
      for (const size of [3_800, 3_900, 3_902, 3_904, 3_906, 3_908, 3_910, 3_920, 4_000, 4_096, 9_000]) {
        const body = "ж".repeat(size / 2);
        const timestamp = new Date(foreign.seconds * 1000);
        deepEqual(sign({ id: foreign.id, timestamp, body: utf8(body) }), sign({ id: foreign.id, timestamp, body }));
      }
    },
  },
  {
    name: "webhook: secrets around the block size of the hash sign as other tools sign",
    run: () => {
      // printf 'msg_1.1800000000.{}' | openssl dgst -sha256 -hmac "$(printf 'k%.0s' $(seq LENGTH))" -binary | base64
      for (const [length, digest] of [
        [1, "xxFfHUJRUAaKHwKO2fwg/z7lWt9KbnsaV2Z5lw3mTp4="],
        [63, "0ayqwlr6zeVcEeLCK3F1k/SRPBijBBwUSeUhUVkzjCI="],
        [64, "v3N02wPi79NmRpvjxr4cMRUIOqkGXzRXCmsfP6Ghyhs="],
        [65, "KZr8Vcz466hGHQ48rtpOZ1QI8PPtYNKs9R/vOv2aDQU="],
        [200, "HW86D6vkHtXzHXwD2X3Ww2u60/KQFSrLNkInxK7Q5Tg="],
      ] as const) {
        const sign = createWebhookSigner({ secrets: ["k".repeat(length)] });
        const signed = sign({ id: "msg_1", timestamp: new Date(1_800_000_000_000), body: "{}" });
        equal(signed["webhook-signature"], `v1,${digest}`);
      }
    },
  },
  {
    name: "webhook: a secret without whsec_ is its own text, and has a whsec_ form",
    run: () => {
      equal(toStandardSecret("test_secret_key"), "whsec_dGVzdF9zZWNyZXRfa2V5"); // printf test_secret_key | base64
      equal(toStandardSecret(foreign.a), foreign.a);
      const timestamp = new Date(foreign.seconds * 1000);
      const plain = createWebhookSigner({ secrets: ["test_secret_key"] });
      const standard = createWebhookSigner({ secrets: ["whsec_dGVzdF9zZWNyZXRfa2V5"] });
      deepEqual(plain({ id: "msg_1", timestamp, body: "{}" }), standard({ id: "msg_1", timestamp, body: "{}" }));
    },
  },
  {
    name: "webhook: the older header signs the body alone, and can be switched off",
    run: () => {
      const headers = { "X-Webhook-Signature": "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3" };
      const body = '{"foo":"bar"}';
      deepEqual(createWebhookVerifier({ secrets: ["mysecret"] })({ headers, body }), { ok: true, scheme: "body" });
      deepEqual(createWebhookVerifier({ secrets: ["mysecret"] })({ headers, body: "{}" }), {
        ok: false,
        reason: "mismatch",
      });
      deepEqual(createWebhookVerifier({ secrets: ["mysecret"], bodySignature: false })({ headers, body }), {
        ok: false,
        reason: "missing",
      });
    },
  },
  {
    name: "webhook: any standard header, alone, keeps the older header from counting",
    run: () => {
      const older = { "x-webhook-signature": "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3" };
      const verify = createWebhookVerifier({ secrets: ["mysecret"] });
      for (const name of ["webhook-id", "webhook-timestamp", "webhook-signature"]) {
        const result = verify({ headers: { ...older, [name]: "x" }, body: '{"foo":"bar"}' });
        deepEqual(result, { ok: false, reason: "missing" });
      }
    },
  },
  {
    name: "webhook: useless secrets and ids are refused at once, without showing them",
    run: () => {
      for (const secrets of [[], [""], ["whsec_"], ["whsec_ not base64"]]) {
        throws(() => createWebhookVerifier({ secrets }), /^TypeError: secrets: /);
        throws(() => createWebhookSigner({ secrets }), /^TypeError: secrets: /);
      }
      const sign = createWebhookSigner({ secrets: [foreign.a] });
      for (const id of ["", "a.b", "a b", "a\n"])
        throws(() => sign({ id, timestamp: new Date(0), body: "" }), /^TypeError: id: /);
    },
  },
];

/** Runs everything and prints a line per failure; for runtimes without a test runner of ours. */
function runAlone(): number {
  let failed = 0;
  for (const { name, run } of signatureCases) {
    try {
      run();
    } catch (error) {
      failed++;
      console.log(`FAIL ${name}: ${error instanceof Error ? error.message : error}`);
    }
  }
  console.log(`${signatureCases.length - failed} passed, ${failed} failed`);
  return failed;
}

if (import.meta.main && runAlone() > 0) throw new Error("some cases failed");
