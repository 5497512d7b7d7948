// A bank in a process of its own, and the provider that talks to it over HTTP: for tests that kill the gateway in between.
import type { FetchHandler } from "@orderbridge/core";
import type { PaymentProvider } from "../src/index.ts";

export interface Bank {
  readonly handle: FetchHandler;
  /** Sessions by payment: the bank makes one for each key. */
  readonly sessions: ReadonlyMap<string, string>;
  /** Calls that asked for a session, repetitions included. */
  readonly sessionCalls: number;
  /** Refunds by key, in minor units. */
  readonly refunds: ReadonlyMap<string, bigint>;
  /** Transfers by payment: what the bank says when it is asked for the state. */
  readonly transfers: Map<string, { readonly transactionId: string; readonly amountMinor: bigint }>;
  /** Whether the answer to a refund gets lost after the money has moved; asked at each. */
  loseRefundAnswer: () => boolean;
  /** Hears of each question for a state, which is answered once it is done. */
  onStateAsked: (processId: number) => unknown;
}

export function createBank(): Bank {
  const sessions = new Map<string, string>();
  const refunds = new Map<string, bigint>();
  const transfers: Bank["transfers"] = new Map();
  let sessionCalls = 0;
  const bank: Bank = {
    sessions,
    refunds,
    transfers,
    get sessionCalls() {
      return sessionCalls;
    },
    loseRefundAnswer: () => false,
    onStateAsked: () => undefined,
    async handle(request) {
      const [, kind, key = ""] = new URL(request.url).pathname.split("/");
      if (kind === "sessions") {
        sessionCalls++;
        const session = sessions.get(key) ?? `session-${sessions.size + 1}`;
        sessions.set(key, session);
        return Response.json({ session });
      }
      if (kind === "states") {
        await bank.onStateAsked(Number(request.headers.get("x-process")));
        const transfer = transfers.get(key);
        return Response.json(
          transfer ? { transactionId: transfer.transactionId, amountMinor: String(transfer.amountMinor) } : {},
        );
      }
      const amountMinor = BigInt(await request.text());
      const known = refunds.get(key);
      if (known !== undefined && known !== amountMinor) return new Response("another amount", { status: 409 });
      refunds.set(key, amountMinor);
      if (bank.loseRefundAnswer()) return new Response("gateway timeout", { status: 504 });
      return new Response("refunded");
    },
  };
  return bank;
}

/** Books what is posted to its callback as `{"id", "transactionId", "amountMinor"}`. */
export function createBankProvider(
  bankUrl: string,
  {
    call = fetch,
    askAfterMs,
  }: {
    readonly call?: typeof fetch;
    readonly askAfterMs?: number;
  } = {},
): PaymentProvider {
  const headers = { "x-process": String(process.pid) };
  const post = async (path: string, body = ""): Promise<Response> => {
    const response = await call(`${bankUrl}${path}`, { method: "POST", body, headers });
    if (!response.ok) throw new Error(`the bank answered ${response.status}`);
    return response;
  };
  return {
    name: "bank",
    currencies: { KZT: { stepMinor: 1n } },
    payerStep: () => ({ kind: "account", account: "" }),
    async start({ id }) {
      const { session } = (await (await post(`/sessions/${id}`)).json()) as { readonly session: string };
      return { session, ...(askAfterMs === undefined ? {} : { askAfterMs }) };
    },
    async state({ id }) {
      const answer = (await (await post(`/states/${id}`)).json()) as {
        readonly transactionId?: string;
        readonly amountMinor: string;
      };
      if (answer.transactionId === undefined) {
        return { state: "waiting", ...(askAfterMs === undefined ? {} : { askAgainMs: askAfterMs }) };
      }
      const { transactionId, amountMinor } = answer;
      return { state: "paid", money: { transactionId, amountMinor: BigInt(amountMinor), currency: "KZT" } };
    },
    async refund({ amountMinor, key }) {
      await post(`/refunds/${key}`, String(amountMinor));
      return "succeeded";
    },
    async callback({ body, context }) {
      const { id, transactionId, amountMinor } = JSON.parse(new TextDecoder().decode(body));
      const result = await context.book(id, { transactionId, amountMinor: BigInt(amountMinor), currency: "KZT" });
      return Response.json({ state: result.state }, { status: result.state === "not_found" ? 404 : 200 });
    },
  };
}
