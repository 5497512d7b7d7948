import { setTimeout as wait } from "node:timers/promises";

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** What was found, for a failed check. */
  readonly found?: string;
}

/** One flow of the demo: set up once, then run through or kept in motion. */
export interface Flow {
  readonly id: number;
  readonly title: string;
  readonly explains: string;
  /** Runs the whole flow and looks at the outcome in the fakes. */
  once(log: (text: string) => void): Promise<readonly Check[]>;
  /** One more piece of traffic, for the page. */
  tick(log: (text: string) => void): Promise<void>;
  /** What the page shows, read from the fakes. */
  figures(): Readonly<Record<string, string | number>>;
}

/** Compares by their JSON text, so that a failure can be shown. */
export function check(name: string, found: unknown, expected: unknown): Check {
  const [left, right] = [JSON.stringify(found), JSON.stringify(expected)];
  return left === right ? { name, ok: true } : { name, ok: false, found: `found ${left}, expected ${right}` };
}

/** Asks until the answer is as wanted, or gives the last answer after `timeoutMs`. */
export async function eventually<Value>(
  ask: () => Value | Promise<Value>,
  wanted: (value: Value) => boolean,
  timeoutMs = 10_000,
): Promise<Value> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await ask();
    if (wanted(value) || performance.now() > end) return value;
    await wait(20);
  }
}

export interface JsonAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the demo reads answers of its own servers
  readonly body: any;
}

/** One JSON request to one of our servers. */
export async function send(
  method: string,
  url: string,
  { body, headers = {} }: { readonly body?: unknown; readonly headers?: Readonly<Record<string, string>> } = {},
): Promise<JsonAnswer> {
  const answer = await fetch(url, {
    method,
    headers: body === undefined ? headers : { "content-type": "application/json", ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  try {
    return { status: answer.status, body: text === "" ? undefined : JSON.parse(text) };
  } catch {
    return { status: answer.status, body: text };
  }
}
