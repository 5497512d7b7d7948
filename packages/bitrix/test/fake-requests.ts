/** Plain requests to a fake portal, past our client. */
import { createFakeClock } from "@orderbridge/core/testing";
import { createFakeBitrix, type FakeBitrix, type FakeBitrixOptions } from "../src/testing/index.ts";

export const origin = "https://fake.bitrix24.kz";
export const start = new Date("2026-11-02T09:00:30Z");

/** A portal whose rate is no matter, with a clock of its own. */
export function setUp(options: FakeBitrixOptions = {}) {
  const clock = createFakeClock(start);
  const fake = createFakeBitrix({ clock, bucket: { perSecond: 1000, capacity: 1000 }, ...options });
  return { clock, fake };
}

export interface Reply {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked into by path
  readonly body: any;
}

export async function send(fake: FakeBitrix, path: string, init: RequestInit = {}): Promise<Reply> {
  const answer = await fake.handle(new Request(`${origin}${path}`, { method: "POST", ...init }));
  const text = await answer.text();
  return { status: answer.status, body: text.startsWith("{") ? JSON.parse(text) : text };
}

export const secretPath = "/rest/1/fake-webhook-secret";
export const json = (body: unknown): RequestInit => ({
  headers: { "content-type": "application/json" },
  body: typeof body === "string" ? body : JSON.stringify(body),
});
/** By the incoming webhook, as JSON. */
export const call = (fake: FakeBitrix, method: string, parameters: unknown = {}): Promise<Reply> =>
  send(fake, `${secretPath}/${method}`, json(parameters));
export const batch = (fake: FakeBitrix, cmd: unknown, more: object = {}): Promise<Reply> =>
  call(fake, "batch", { cmd, ...more });

/** A person consents: an access token of the application. */
export async function grant(fake: FakeBitrix): Promise<string> {
  const query = new URLSearchParams({
    grant_type: "authorization_code",
    client_id: "local.fake",
    client_secret: "fake-client-secret",
    code: fake.consent(),
  });
  return (await send(fake, `/oauth/token/?${query}`, { method: "GET" })).body.access_token;
}
