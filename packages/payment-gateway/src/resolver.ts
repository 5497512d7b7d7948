import { Resolver, lookup as systemLookup } from "node:dns/promises";
import type { ResolvedAddress } from "./sender.ts";

interface ResolverOptions {
  /** Name servers, as `ip:port`. @defaultValue those of the system */
  readonly servers?: readonly string[];
  /** For a first question of two to a name server, in milliseconds. @defaultValue 2_000 */
  readonly timeoutMs?: number;
  /** Names that name servers do not know are looked for in the system, as in `/etc/hosts`. */
  readonly asksSystem: boolean;
}

/**
 * Looks names up without the threads that the system's resolver takes: a few names whose servers are silent would hold
 * all of them, and every other look-up of the process would wait. Of the system one name at a time is asked, and only one
 * that name servers say is not there. Tries at one host share a look-up.
 *
 * @returns A function that rejects when there is no address, or no answer in time.
 */
export function createResolver({
  servers,
  timeoutMs = 2_000,
  asksSystem,
}: ResolverOptions): (hostname: string) => Promise<readonly ResolvedAddress[]> {
  const resolver = new Resolver({ timeout: timeoutMs, tries: 2 });
  if (servers) resolver.setServers(servers);
  const underWay = new Map<string, Promise<readonly ResolvedAddress[]>>();
  let lastAsked: Promise<unknown> = Promise.resolve();

  function askSystem(hostname: string): Promise<readonly ResolvedAddress[]> {
    const askedMs = performance.now();
    const answer = lastAsked.then(() => {
      if (performance.now() - askedMs > patienceMs) throw new Error("too many names are looked up in the system");
      return systemLookup(hostname, { all: true, verbatim: true });
    });
    lastAsked = answer.catch(() => undefined);
    return answer;
  }

  async function ask(hostname: string): Promise<readonly ResolvedAddress[]> {
    if (asksSystem && !hostname.includes(".")) return askSystem(hostname); // `localhost`, which needs no name server
    const [v4, v6] = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)]);
    const found = [
      ...(v4.status === "fulfilled" ? v4.value.map((address) => ({ address, family: 4 })) : []),
      ...(v6.status === "fulfilled" ? v6.value.map((address) => ({ address, family: 6 })) : []),
    ];
    if (found.length > 0) return found;
    const failures = [v4, v6].flatMap((one): unknown[] => (one.status === "rejected" ? [one.reason] : []));
    if (!asksSystem || !failures.every(isNotThere)) throw failures[0] ?? new Error("no address");
    return askSystem(hostname);
  }

  return (hostname) => {
    const known = underWay.get(hostname);
    if (known) return known;
    const asked = ask(hostname).finally(() => underWay.delete(hostname));
    underWay.set(hostname, asked);
    return asked;
  };
}

/** Longer than this nobody waits for a turn at the system, so that no queue grows. */
const patienceMs = 10_000;

/** Answered at once: there is no such name, or no name server. One that is silent would hold the system's thread. */
const isNotThere = (error: unknown): boolean =>
  error instanceof Error && "code" in error && ["ENOTFOUND", "ENODATA", "ECONNREFUSED"].includes(String(error.code));
