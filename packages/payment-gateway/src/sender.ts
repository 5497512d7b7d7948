import { lookup as systemLookup } from "node:dns/promises";
import { isIP, type LookupFunction } from "node:net";
import { type Clock, systemClock } from "@orderbridge/core";
import { Agent, type Dispatcher, request } from "undici";
import { createAddressGuard } from "./addresses.ts";

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
  /** Open connections are kept for so many receivers. @defaultValue 200 */
  readonly maxPools?: number;
  /** @defaultValue the system's resolver */
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
  maxPools = 200,
  resolve = (hostname) => systemLookup(hostname, { all: true, verbatim: true }),
  clock = systemClock,
}: SenderOptions = {}): Sender {
  const guard = createAddressGuard({ allowAddresses, denyAddresses });
  const pools = createPools(maxPools);

  const refuse = (text: string): string | undefined => {
    if (!URL.canParse(text)) return "must be an absolute address";
    const url = new URL(text);
    if (url.protocol !== "https:" && url.protocol !== "http:") return "must start with https://";
    if (url.protocol === "http:" && allowAddresses.length === 0) return "must start with https://";
    if (url.username !== "" || url.password !== "") return "must not hold a user name or password";
    const host = hostOf(url);
    if (isIP(host) === 0) return isWebPort(portOf(url)) ? undefined : "must use port 443 or one from 1024 up";
    if (guard.isListed(host)) return undefined;
    if (!guard.allows(host)) return "names an address that is not allowed";
    if (url.protocol === "http:") return "must start with https://";
    return isWebPort(portOf(url)) ? undefined : "must use port 443 or one from 1024 up";
  };

  /** Addresses that the socket may connect to, or `undefined`. */
  async function permitted(url: URL): Promise<readonly ResolvedAddress[] | undefined> {
    const host = hostOf(url);
    const family = isIP(host);
    const found = family !== 0 ? [{ address: host, family }] : await resolve(host);
    if (found.length === 0) return undefined;
    const mayConnect = ({ address }: ResolvedAddress): boolean =>
      url.protocol === "https:" ? guard.allows(address) : guard.isListed(address);
    return found.every(mayConnect) ? found : undefined;
  }

  async function attempt(
    url: URL,
    headers: Readonly<Record<string, string>>,
    body: string | Uint8Array,
    signal: AbortSignal,
  ): Promise<SendResult> {
    const addresses = await untilAborted(permitted(url), signal);
    if (!addresses) return { kind: "blocked" };
    const response = await request(url, {
      method: "POST",
      headers: { "content-type": "application/json", "user-agent": "Orderbridge-Webhooks/1", ...headers },
      body,
      dispatcher: pools.get(url, addresses),
      signal,
      headersTimeout: 0, // one deadline rules
      bodyTimeout: 0,
    });
    const retryAfter = response.headers["retry-after"];
    return {
      kind: "answer",
      status: response.statusCode,
      retryAfter: typeof retryAfter === "string" ? retryAfter : null,
      answer: await readBeginning(response.body, maxAnswerBytes, signal),
    };
  }

  return {
    refuse,
    async post(text, headers, body) {
      if (refuse(text) !== undefined) return { kind: "blocked" };
      const deadline = new AbortController();
      const finished = new AbortController();
      clock.sleep(timeoutMs, finished.signal).then(
        () => deadline.abort(new Error("deadline")),
        () => undefined,
      );
      try {
        return await attempt(new URL(text), headers, body, deadline.signal);
      } catch {
        return { kind: "no_answer", reason: deadline.signal.aborted ? "timeout" : "connection" };
      } finally {
        finished.abort();
      }
    },
    close: () => pools.close(),
  };
}

/** Name or address without brackets and without the root's full stop. */
const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");

const portOf = (url: URL): number => Number(url.port || (url.protocol === "https:" ? 443 : 80));

function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The status is what counts: a body that breaks off or drips past the deadline only shortens what is kept. */
async function readBeginning(
  body: Dispatcher.ResponseData["body"],
  maxBytes: number,
  signal: AbortSignal,
): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, maxBytes - length));
      length += chunk.length;
      if (length >= maxBytes || signal.aborted) break;
    }
  } catch {
    // What arrived is kept.
  }
  body.destroy();
  return new TextDecoder().decode(Buffer.concat(chunks));
}

interface Pools {
  get(url: URL, addresses: readonly ResolvedAddress[]): Agent;
  close(): Promise<void>;
}

/** Connections are kept by origin and checked addresses: a name that moves gets new ones. */
function createPools(maxPools: number): Pools {
  const agents = new Map<string, Agent>();
  return {
    get(url, addresses) {
      const key = JSON.stringify([url.origin, addresses.map(({ address }) => address).sort()]);
      const agent = agents.get(key) ?? createAgent(addresses);
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

function createAgent(addresses: readonly ResolvedAddress[]): Agent {
  const lookup: LookupFunction = (_hostname, options, callback) => {
    const [first] = addresses;
    if (!first) callback(new Error("no address"), "");
    else if (options.all) callback(null, [...addresses]);
    else callback(null, first.address, first.family);
  };
  return new Agent({ connect: { lookup }, connections: 16, pipelining: 1, keepAliveTimeout: 10_000 });
}
