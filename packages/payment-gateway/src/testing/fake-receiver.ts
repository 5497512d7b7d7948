import type { FetchHandler } from "@orderbridge/core";
import { type VerifiedWebhook, verifyWebhook } from "../webhooks/index.ts";

export interface ReceivedWebhook {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly verification: VerifiedWebhook;
  /** What was answered. */
  readonly status: number;
}

export interface FakeReceiver {
  /** Give it to `listen` of `@orderbridge/core/testing`. */
  readonly handle: FetchHandler;
  /** Every request, in the order of arrival. */
  readonly requests: readonly ReceivedWebhook[];
  /** Webhooks that verified and were answered with 2xx, each id once. */
  readonly accepted: readonly ReceivedWebhook[];
  /** The next `times` requests are answered with `status` and not accepted. */
  failNext(times: number, status?: number): void;
}

/** A merchant's webhook endpoint: verifies each request with the secrets given and remembers it. */
export function createFakeReceiver({
  secrets,
  now,
}: {
  readonly secrets: readonly string[];
  readonly now?: () => number;
}): FakeReceiver {
  const requests: ReceivedWebhook[] = [];
  let failures: { times: number; readonly status: number } = { times: 0, status: 500 };
  return {
    requests,
    get accepted() {
      const good = requests.filter(({ verification, status }) => verification.ok && status < 300);
      return [...new Map(good.map((request) => [request.headers["webhook-id"], request])).values()];
    },
    failNext(times, status = 500) {
      failures = { times, status };
    },
    async handle(request) {
      const headers = Object.fromEntries(request.headers);
      const bytes = new Uint8Array(await request.arrayBuffer());
      const verification = verifyWebhook({ headers, body: bytes, secrets, ...(now ? { now } : {}) });
      const isFailing = failures.times > 0;
      if (isFailing) failures.times--;
      const status = isFailing ? failures.status : verification.ok ? 204 : 400;
      requests.push({ headers, body: new TextDecoder().decode(bytes), verification, status });
      return new Response(null, { status });
    },
  };
}
