import { isIP } from "node:net";
import { type Clock, systemClock } from "@orderbridge/core";
import { Agent, type Dispatcher } from "undici";
import { createAddressGuard } from "./addresses.ts";
import { memoize } from "./memoize.ts";
import { createReceiverConnector } from "./receiver-connector.ts";
import { createResolver } from "./resolver.ts";

export interface ResolvedAddress {
  readonly address: string;
  readonly family: number;
}

export interface SenderOptions {
  /** Addresses and CIDRs that may be reached although the rules forbid them; plain HTTP is allowed to these only. */
  readonly allowAddresses?: readonly string[];
  /** Further addresses and CIDRs that must not be reached. */
  readonly denyAddresses?: readonly string[];
  /** One deadline over look-up, connect, TLS, head and body, in milliseconds. @defaultValue 15_000 */
  readonly timeoutMs?: number;
  /** How much of an answer is read and kept, in bytes. @defaultValue 2_048 */
  readonly maxAnswerBytes?: number;
  /** Open connections are kept for so many receivers. @defaultValue 1_000 */
  readonly maxPools?: number;
  /** @defaultValue the system's name servers, and where `allowAddresses` names any, names of the machine too (`/etc/hosts`) */
  readonly resolve?: (hostname: string) => Promise<readonly ResolvedAddress[]>;
  readonly clock?: Clock;
}

export type SendResult =
  | {
      readonly kind: "answer";
      readonly status: number;
      /** The header `Retry-After`. */
      readonly retryAfter: string | null;
      readonly answer: string;
    }
  /** Nothing was sent: the address or the URL is not allowed. */
  | { readonly kind: "blocked" }
  /** No whole head in time, or no connection. The receiver may have acted all the same. */
  | { readonly kind: "no_answer"; readonly reason: "timeout" | "connection" };

export interface Sender {
  /** Posts once. Follows no redirect. Never rejects. */
  post(url: string, headers: Readonly<Record<string, string>>, body: string | Uint8Array): Promise<SendResult>;
  /** What is wrong with an address that a merchant gave; `undefined` when it may be tried. Looks nothing up. */
  refuse(url: string): string | undefined;
  close(): Promise<void>;
}

/** An address that may be tried. */
interface Target {
  /** Without TLS. */
  readonly isPlain: boolean;
  readonly origin: string;
  readonly path: string;
  /** Name or address. */
  readonly host: string;
  /** 4 or 6; 0 for a name. */
  readonly family: number;
}

/** Ports below 1024 that are not for the web answer to strange bytes in strange ways. */
const isWebPort = (port: number): boolean => port === 80 || port === 443 || port >= 1024;

/**
 * Posts to addresses that strangers choose. The name is resolved once, every answer is checked, and the socket
 * connects to exactly what was checked, so that neither a second look-up nor a redirect leads anywhere else.
 */
export function createSender({
  allowAddresses = [],
  denyAddresses = [],
  timeoutMs = 15_000,
  maxAnswerBytes = 2_048,
  maxPools = 1_000,
  clock = systemClock,
  resolve = createResolver({ asksSystem: allowAddresses.length > 0, clock }),
}: SenderOptions = {}): Sender {
  const guard = createAddressGuard({ allowAddresses, denyAddresses });
  const pools = createPools(maxPools, timeoutMs);
  const deadlines = createDeadlines(clock, timeoutMs);

  function refusalOf(url: URL, host: string): string | undefined {
    if (url.protocol !== "https:" && url.protocol !== "http:") return "must start with https://";
    if (url.protocol === "http:" && allowAddresses.length === 0) return "must start with https://";
    if (url.username !== "" || url.password !== "") return "must not hold a user name or password";
    if (isIP(host) === 0) return isWebPort(portOf(url)) ? undefined : "must use port 443 or one from 1024 up";
    if (guard.isListed(host)) return undefined;
    if (!guard.allows(host)) return "names an address that is not allowed";
    if (url.protocol === "http:") return "must start with https://";
    return isWebPort(portOf(url)) ? undefined : "must use port 443 or one from 1024 up";
  }

  /** Receivers are called again and again: their addresses are taken apart once. */
  const targetOf = memoize(500, (text): Target | { readonly refusal: string } => {
    const url = URL.parse(text);
    if (!url) return { refusal: "must be an absolute address" };
    const host = hostOf(url);
    const refusal = refusalOf(url, host);
    if (refusal !== undefined) return { refusal };
    const { protocol, origin, pathname, search } = url;
    return { isPlain: protocol === "http:", origin, path: `${pathname}${search}`, host, family: isIP(host) };
  });

  /** Whether the socket may connect to each of them. */
  function permitted({ isPlain }: Target, found: readonly ResolvedAddress[]): boolean {
    const mayConnect = ({ address }: ResolvedAddress): boolean =>
      isPlain ? guard.isListed(address) : guard.allows(address);
    return found.length > 0 && found.every(mayConnect);
  }

  return {
    refuse(text) {
      const target = targetOf(text);
      return "refusal" in target ? target.refusal : undefined;
    },
    post(text, headers, body) {
      const target = targetOf(text);
      if ("refusal" in target) return Promise.resolve({ kind: "blocked" });
      const { origin, path, host, family } = target;
      return new Promise((resolvePost) => {
        const exchange = new Exchange(maxAnswerBytes, (result) => {
          stopDeadline();
          resolvePost(result);
        });
        const stopDeadline = deadlines.start(() => exchange.expire());
        const connect = (found: readonly ResolvedAddress[]): void => {
          if (!permitted(target, found)) exchange.end({ kind: "blocked" });
          if (exchange.isOver) return;
          pools.get(origin, found).dispatch(
            {
              origin,
              path,
              method: "POST",
              headers: { "content-type": "application/json", "user-agent": "Orderbridge-Webhooks/1", ...headers },
              body,
              headersTimeout: 0, // one deadline rules
              bodyTimeout: 0,
            },
            exchange,
          );
        };
        const found = family !== 0 ? Promise.resolve([{ address: host, family }]) : resolve(host);
        found.then(connect).catch(() => exchange.end({ kind: "no_answer", reason: "connection" }));
      });
    },
    close: () => pools.close(),
  };
}

const decoder = new TextDecoder();

/** Interim answers (103 and the like) before one that counts. Each is parsed, so a flood of them would cost memory. */
const maxHints = 10;

/** One request. The status is what counts: a body that breaks off, drips or never ends only shortens what is kept. */
class Exchange implements Dispatcher.DispatchHandler {
  readonly #maxBytes: number;
  readonly #settle: (result: SendResult) => void;
  #controller: Dispatcher.DispatchController | undefined;
  #head: { readonly status: number; readonly retryAfter: string | null } | undefined;
  readonly #chunks: Buffer[] = [];
  #length = 0;
  #hints = 0;
  isOver = false;

  constructor(maxBytes: number, settle: (result: SendResult) => void) {
    this.#maxBytes = maxBytes;
    this.#settle = settle;
  }

  end(result: SendResult): void {
    if (this.isOver) return;
    this.isOver = true;
    this.#settle(result);
  }

  expire(): void {
    this.#endWith("timeout");
  }

  /** With the answer, as far as it came; else for this reason. */
  #endWith(reason: "timeout" | "connection"): void {
    if (this.isOver) return;
    if (this.#head) {
      const answer = decoder.decode(Buffer.concat(this.#chunks));
      this.end({ kind: "answer", ...this.#head, answer });
    } else this.end({ kind: "no_answer", reason });
    this.#controller?.abort(enough);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.isOver) controller.abort(enough);
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    if (status < 200) {
      if (++this.#hints > maxHints) this.#endWith("connection");
      return; // more is to come
    }
    const retryAfter = headers["retry-after"];
    this.#head = { status, retryAfter: typeof retryAfter === "string" ? retryAfter : null };
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#chunks.push(chunk.subarray(0, this.#maxBytes - this.#length));
    this.#length += chunk.length;
    if (this.#length >= this.#maxBytes) this.#endWith("connection");
  }

  onResponseEnd(): void {
    this.#controller = undefined; // the connection is used for the next one
    this.#endWith("connection");
  }

  onResponseError(): void {
    this.#controller = undefined;
    this.#endWith("connection");
  }
}

const enough = new Error("enough of this answer");

/** One timer for all: they have the same time, so the first to begin is the first to end. */
function createDeadlines(clock: Clock, timeoutMs: number): { start(expire: () => void): () => void } {
  const waiting = new Map<() => void, number>();
  let idle = new AbortController();
  async function watch(): Promise<void> {
    for (const [expire, endsAt] of waiting) {
      await clock.sleep(Math.max(0, endsAt - clock.monotonicMs()), idle.signal);
      if (waiting.delete(expire)) expire();
    }
  }
  return {
    start(expire) {
      waiting.set(expire, clock.monotonicMs() + timeoutMs);
      if (waiting.size === 1) watch().catch(() => undefined); // ended because nothing is under way
      return () => {
        waiting.delete(expire);
        if (waiting.size > 0) return;
        idle.abort();
        idle = new AbortController();
      };
    },
  };
}

/** Name or address without brackets and without the root's full stop. */
const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");

const portOf = (url: URL): number => Number(url.port || (url.protocol === "https:" ? 443 : 80));

interface Pools {
  get(origin: string, addresses: readonly ResolvedAddress[]): Agent;
  close(): Promise<void>;
}

/** Connections are kept by origin and checked addresses: a name that moves gets new ones. */
function createPools(maxPools: number, timeoutMs: number): Pools {
  const agents = new Map<string, Agent>();
  return {
    get(origin, addresses) {
      const key = JSON.stringify([origin, addresses.map(({ address }) => address).sort()]);
      const agent = agents.get(key) ?? createAgent(addresses, timeoutMs);
      agents.delete(key);
      agents.set(key, agent); // the most recent one last
      if (agents.size > maxPools) {
        const [oldest, unused] = agents.entries().next().value as [string, Agent];
        agents.delete(oldest);
        unused.close().catch(() => undefined);
      }
      return agent;
    },
    async close() {
      await Promise.all([...agents.values()].map((agent) => agent.destroy()));
      agents.clear();
    },
  };
}

function createAgent(addresses: readonly ResolvedAddress[], timeoutMs: number): Agent {
  const connect = createReceiverConnector(addresses, timeoutMs);
  return new Agent({ connect, allowH2: false, pipelining: 1, keepAliveTimeout: 10_000 });
}
