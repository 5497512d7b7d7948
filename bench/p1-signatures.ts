import { createHmac, createSecretKey, timingSafeEqual } from "node:crypto";
import { verify as verifyOctokit } from "@octokit/webhooks-methods";
import { createWebhookSigner, createWebhookVerifier } from "@orderbridge/core/signature";
import { Webhook as StandardWebhook } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as SvixWebhook } from "svix";
import { type BenchResult, measure, type Target } from "./harness.ts";

const secret = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";
const id = "msg_01JBENCH";
const sizes = [300, 1_000, 20_000, 350_000] as const;

/** A JSON body of exactly so many bytes. */
function bodyOf(bytes: number): string {
  const head = '{"type":"payment.paid","data":{"id":"pay_1","note":"';
  return `${head}${"x".repeat(bytes - head.length - 3)}"}}`;
}

/** Verification with all rules, against bare HMAC-SHA256 with a prepared key, and against other packages. */
export async function benchSignatures(): Promise<BenchResult> {
  const stripe = Stripe.webhooks;
  const key = createSecretKey(Buffer.from(secret.slice(6), "base64"));
  const table: string[][] = [["", ...sizes.map((size) => `${size} B`)]];
  const targets: Target[] = [];
  const cells = new Map<string, string[]>();

  for (const size of sizes) {
    const body = bodyOf(size);
    const bytes = Buffer.from(body);
    const timestamp = new Date();
    const seconds = Math.floor(timestamp.getTime() / 1000);
    const sign = createWebhookSigner({ secrets: [secret] });
    const headers = sign({ id, timestamp, body });
    const svixHeaders = {
      "svix-id": id,
      "svix-timestamp": String(seconds),
      "svix-signature": headers["webhook-signature"],
    };
    const stripeHeader = stripe.generateTestHeaderString({ payload: body, secret });
    const expected = createHmac("sha256", key).update(`${id}.${seconds}.`).update(bytes).digest();

    const verify = createWebhookVerifier({ secrets: [secret] });
    const standard = new StandardWebhook(secret);
    const svix = new SvixWebhook(secret);
    const rows = measure([
      {
        name: "floor: createHmac",
        run: (iterations) => {
          for (let i = 0; i < iterations; i++) {
            const digest = createHmac("sha256", key).update(`${id}.${seconds}.`).update(bytes).digest();
            if (!timingSafeEqual(digest, expected)) throw new Error("the floor is broken");
          }
        },
      },
      {
        name: "@orderbridge/core",
        run: (iterations) => {
          for (let i = 0; i < iterations; i++) if (!verify({ headers, body: bytes }).ok) throw new Error("refused");
        },
      },
      {
        name: "@orderbridge/core sign",
        run: (iterations) => {
          for (let i = 0; i < iterations; i++) sign({ id, timestamp, body: bytes });
        },
      },
      { name: "standardwebhooks", run: (iterations) => repeat(iterations, () => standard.verify(body, headers)) },
      { name: "svix", run: (iterations) => repeat(iterations, () => svix.verify(body, svixHeaders)) },
      {
        name: "stripe",
        run: (iterations) => repeat(iterations, () => stripe.constructEvent(bytes, stripeHeader, secret)),
      },
    ]);
    const perCall = Object.fromEntries(rows.map((row) => [row.name, row.nanosecondsPerCall]));
    const floor = perCall["floor: createHmac"] as number;
    const own = perCall["@orderbridge/core"] as number;
    // Octokit's verification is asynchronous: timed apart, against the floor of the same moment.
    perCall["@octokit/webhooks-methods"] = await timeOctokit(body);
    for (const [name, value] of Object.entries(perCall)) {
      cells.set(name, [...(cells.get(name) ?? []), `${(value / 1000).toFixed(2)} µs ×${(value / floor).toFixed(2)}`]);
    }

    const limit = size <= 1_000 ? 1.25 : 1.05;
    targets.push({
      text: `${size} B: at most ${limit} of the floor (${(own / floor).toFixed(2)})`,
      met: own / floor <= limit,
    });
    for (const [peer, factor] of [
      ["standardwebhooks", size === 1_000 ? 5 : size === 20_000 ? 10 : 1],
      ["svix", 1],
      ["stripe", 1],
    ] as const) {
      const ratio = (perCall[peer] as number) / own;
      targets.push({
        text: `${size} B: ${factor > 1 ? `${factor} times ` : "faster than "}${peer} (${ratio.toFixed(1)})`,
        met: ratio > factor,
      });
    }
    const octokit = (perCall["@octokit/webhooks-methods"] as number) / own;
    targets.push({
      text: `${size} B: at least 0.9 of @octokit/webhooks-methods (${octokit.toFixed(2)})`,
      met: octokit >= 0.9,
    });
  }
  for (const [name, values] of cells) table.push([name, ...values]);
  return { id: "P1", title: "verify and sign webhooks: time per call and multiple of the floor", table, targets };
}

function repeat(iterations: number, work: () => unknown): void {
  for (let i = 0; i < iterations; i++) work();
}

async function timeOctokit(body: string): Promise<number> {
  const octokitSecret = "It's a Secret to Everybody";
  const signature = `sha256=${createHmac("sha256", octokitSecret).update(body).digest("hex")}`;
  const times: number[] = [];
  for (let round = 0; round < 8; round++) {
    const iterations = body.length > 100_000 ? 100 : 2_000;
    const startedAt = process.hrtime.bigint();
    for (let i = 0; i < iterations; i++)
      if (!(await verifyOctokit(octokitSecret, body, signature))) throw new Error("refused");
    if (round > 0) times.push(Number(process.hrtime.bigint() - startedAt) / iterations);
  }
  return times.sort((left, right) => left - right)[3] as number;
}
