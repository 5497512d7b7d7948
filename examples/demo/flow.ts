import { setTimeout as wait } from "node:timers/promises";

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** What was found, for a failed check. */
  readonly found?: string;
}

/** The six flows, in the order in which they run. */
export const flowTexts = [
  {
    id: 1,
    title: "Kaspi orders become amoCRM leads",
    explains:
      "250 orders, some in one millisecond, some with hidden phones: one lead each, and a later change follows.",
  },
  {
    id: 2,
    title: "A status from the Bitrix site",
    explains:
      "The site changes an order to AP; the backend has it as accepted, with history. Forged and stale calls change nothing.",
  },
  {
    id: 3,
    title: "A price goes to the site",
    explains:
      "500000 tiyn arrive as 5000.00 tenge. When the site changes at the same time, the site wins and the conflict is logged.",
  },
  {
    id: 4,
    title: "Deals and orders move together",
    explains: "A won deal closes its order; a paid order moves its deal at once. One write per change, no ping-pong.",
  },
  {
    id: 5,
    title: "A Robokassa payment",
    explains: "Paid in the fake: OK<InvId>. A forged signature changes nothing, a repeated notification pays once.",
  },
  {
    id: 6,
    title: "A gateway payment, failing receiver",
    explains: "Paid in the sandbox; the receiver answers 500 twice and still gets exactly one verified webhook.",
  },
] as const;

/** One flow of the demo: set up once, then run through or kept in motion. */
export interface Flow {
  readonly id: (typeof flowTexts)[number]["id"];
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

/** Flows that share their fakes and servers. */
export interface FlowGroup {
  readonly flows: readonly Flow[];
  stop(): Promise<void>;
}
