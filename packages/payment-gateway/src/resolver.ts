import { Resolver, lookup as systemLookup } from "node:dns/promises";
import { type Clock, systemClock } from "@orderbridge/core";
import type { ResolvedAddress } from "./sender.ts";

interface ResolverOptions {
  /** Name servers, as `ip:port`. @defaultValue those of the system */
  readonly servers?: readonly string[];
  /** For a first question of two to a name server, in milliseconds. @defaultValue 2_000 */
  readonly timeoutMs?: number;
  /** Names that name servers do not know are looked for in the system, as in `/etc/hosts`. */
  readonly asksSystem: boolean;
  /** @defaultValue reads the system's name servers when it is made */
  readonly createNameResolver?: () => NameResolver;
  /** @defaultValue `lookup` of `node:dns` */
  readonly askSystem?: (hostname: string) => Promise<readonly ResolvedAddress[]>;
  readonly clock?: Pick<Clock, "monotonicMs">;
}

/** Of a `Resolver` of `node:dns`. */
interface NameResolver {
  resolve4(hostname: string): Promise<readonly string[]>;
  resolve6(hostname: string): Promise<readonly string[]>;
}

/**
 * Looks names up without the threads that the system's resolver takes: a few names whose servers are silent would hold
 * all of them, and every other look-up of the process would wait. Of the system one name at a time is asked, and only one
 * that name servers say is not there. Tries at one host share a look-up. Name servers that do not answer may be those of
 * another network, so then the system's list of them is read anew.
 *
 * @returns A function that rejects when there is no address, or no answer in time.
 */
export function createResolver({
  servers,
  timeoutMs = 2_000,
  asksSystem,
  createNameResolver = () => {
    const made = new Resolver({ timeout: timeoutMs, tries: 2 });
    if (servers) made.setServers(servers);
    return made;
  },
  askSystem = (hostname) => systemLookup(hostname, { all: true, verbatim: true }),
  clock = systemClock,
}: ResolverOptions): (hostname: string) => Promise<readonly ResolvedAddress[]> {
  let names = createNameResolver();
  let madeMs = clock.monotonicMs();
  const underWay = new Map<string, Promise<readonly ResolvedAddress[]>>();
  let lastAsked: Promise<unknown> = Promise.resolve();

  function askSystemInTurn(hostname: string): Promise<readonly ResolvedAddress[]> {
    const askedMs = clock.monotonicMs();
    const answer = lastAsked.then(() => {
      if (clock.monotonicMs() - askedMs > patienceMs) throw new Error("too many names are looked up in the system");
      return askSystem(hostname);
    });
    lastAsked = answer.catch(() => undefined);
    return answer;
  }

  async function ask(hostname: string): Promise<readonly ResolvedAddress[]> {
    if (asksSystem && !hostname.includes(".")) return askSystemInTurn(hostname); // `localhost`, which needs no name server
    const [v4, v6] = await Promise.allSettled([names.resolve4(hostname), names.resolve6(hostname)]);
    const found = [
      ...(v4.status === "fulfilled" ? v4.value.map((address) => ({ address, family: 4 })) : []),
      ...(v6.status === "fulfilled" ? v6.value.map((address) => ({ address, family: 6 })) : []),
    ];
    if (found.length > 0) return found;
    const failures = [v4, v6].flatMap((one): unknown[] => (one.status === "rejected" ? [one.reason] : []));
    if (!failures.every((error) => hasCode(error, notThere)) && clock.monotonicMs() - madeMs >= renewMs) {
      names = createNameResolver();
      madeMs = clock.monotonicMs();
    }
    if (!asksSystem || !failures.every((error) => hasCode(error, answeredAtOnce)))
      throw failures[0] ?? new Error("no address");
    return askSystemInTurn(hostname);
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

/** At most so often name servers are read anew: a name whose own server is silent fails at every look-up. */
const renewMs = 5_000;

/** A name server has answered: there is no such name, or no address of this kind. */
const notThere = ["ENOTFOUND", "ENODATA"];
/** The same, or there is no name server. One that is silent would hold the system's thread. */
const answeredAtOnce = [...notThere, "ECONNREFUSED"];

const hasCode = (error: unknown, codes: readonly string[]): boolean =>
  error instanceof Error && "code" in error && codes.includes(String(error.code));
