import type { FetchHandler } from "@orderbridge/core";
import { withRemoteAddress } from "@orderbridge/core/node";

export interface BillerReply {
  /** The bank's result number; `undefined` when the answer was none of the protocol: the bank calls again. */
  readonly result: number | undefined;
  readonly prvTxnId: string | undefined;
  readonly sum: string | undefined;
  /** HTTP calls that were made. */
  readonly calls: number;
  /** The last answer as it came. */
  readonly text: string;
}

export interface FakeKaspiBiller {
  /** Asks whether an account may be paid; the sum that it sends is fictitious. */
  check(account: string): Promise<BillerReply>;
  /** The payer pays. A broken answer is asked for again with the same `txn_id`, up to three times. */
  pay(payment: {
    readonly account: string;
    /** Decimal with two places. */
    readonly sum: string;
    /** Up to 18 digits. @defaultValue a new one */
    readonly txnId?: string;
    /** `YYYYMMDDHHMMSS` in Kazakhstan's time. @defaultValue "20261101050000" */
    readonly txnDate?: string;
  }): Promise<BillerReply>;
}

/**
 * The bank's side of the biller protocol: `check` and `pay` by GET, a new `txn_id` for each, calls repeated until the
 * answer is one of the protocol's. Written from public implementations of the protocol.
 */
export function createFakeKaspiBiller({
  deliver,
  url,
  address = "194.187.247.152",
}: {
  /** Where calls go: the gateway's handler, or `fetch`. */
  readonly deliver: FetchHandler;
  /** Address of the provider's callback, e.g. `https://pay.example/providers/kaspi-biller`. */
  readonly url: string;
  /** Where the bank seems to call from, when `deliver` is a handler. */
  readonly address?: string;
}): FakeKaspiBiller {
  let lastTxnId = 123_456_789_012_345_600n; // beyond 2^53, as in life

  async function call(parameters: Readonly<Record<string, string>>): Promise<BillerReply> {
    let text = "";
    for (let calls = 1; ; calls++) {
      const target = new URL(url);
      for (const [name, value] of Object.entries(parameters)) target.searchParams.set(name, value);
      const response = await deliver(withRemoteAddress(new Request(target), address));
      text = await response.text();
      const reply = response.status === 200 ? readReply(text) : undefined;
      if (reply) return { ...reply, calls, text };
      if (calls === 3) return { result: undefined, prvTxnId: undefined, sum: undefined, calls, text };
    }
  }

  return {
    check: (account) => call({ command: "check", txn_id: String(++lastTxnId), account, sum: "1.00" }),
    pay: ({ account, sum, txnId = String(++lastTxnId), txnDate = "20261101050000" }) =>
      call({ command: "pay", txn_id: txnId, account, sum, txn_date: txnDate }),
  };
}

function readReply(text: string): Pick<BillerReply, "result" | "prvTxnId" | "sum"> | undefined {
  if (text.startsWith("<")) {
    const element = (name: string) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1];
    const result = element("result");
    return result === undefined
      ? undefined
      : { result: Number(result), prvTxnId: element("prv_txn"), sum: element("sum") };
  }
  try {
    const { result, prv_txn_id: prvTxnId, sum } = JSON.parse(text);
    return typeof result === "number" ? { result, prvTxnId, sum } : undefined;
  } catch {
    return undefined;
  }
}
