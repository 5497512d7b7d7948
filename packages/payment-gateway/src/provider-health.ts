import { type Clock, type Logger, redactText } from "@orderbridge/core";
import type { PaymentProvider, ProviderState } from "./provider.ts";
import type { GatewayStorage, ProviderErrors } from "./storage.ts";

/** Which calls to a provider failed, in all processes together. */
export interface ProviderHealth {
  readonly provider: string;
  /** Failures on this day of UTC. */
  readonly today: number;
  /** Failures in the last {@link shownDays} days, today included. */
  readonly recent: number;
  readonly last?: ProviderErrors["last"];
}

/** Days of a report. */
export const shownDays = 14;
const dayMs = 86_400_000;

/** Of every provider named, and of those that failed before they were taken out. */
export async function reportProviderHealth(
  storage: Pick<GatewayStorage, "providerErrors">,
  names: Iterable<string>,
  now: Date,
): Promise<readonly ProviderHealth[]> {
  const today = Math.floor(now.getTime() / dayMs) * dayMs;
  const found = await storage.providerErrors(new Date(today - (shownDays - 1) * dayMs));
  const byProvider = Map.groupBy(found, ({ provider }) => provider);
  return [...new Set([...names, ...byProvider.keys()])].sort().map((provider): ProviderHealth => {
    const days = byProvider.get(provider) ?? [];
    const sum = (part: readonly ProviderErrors[]) => part.reduce((total, { failures }) => total + failures, 0);
    const [latest] = days;
    return {
      provider,
      today: sum(days.filter(({ day }) => day.getTime() === today)),
      recent: sum(days),
      ...(latest === undefined ? {} : { last: latest.last }),
    };
  });
}

export interface WatchedProviders {
  readonly providers: ReadonlyMap<string, PaymentProvider>;
  /** Resolves when what was counted is stored, or could not be: then it is kept for the next time. */
  flush(): Promise<void>;
}

/**
 * The same providers, watched: calls that throw, and states that are unknown for a reason, are counted in the storage. A
 * call that goes well writes nothing; one that fails does not wait for it. While one write is under way failures are
 * gathered, so a storm of them costs one write at a time. A call that does not end in time throws; what becomes of it later
 * is dropped.
 */
export function watchProviders(
  providers: ReadonlyMap<string, PaymentProvider>,
  {
    storage,
    clock,
    logger,
    timeoutMs,
  }: {
    readonly storage: Pick<GatewayStorage, "recordProviderErrors">;
    readonly clock: Pick<Clock, "now" | "sleep">;
    readonly logger: Pick<Logger, "warn">;
    readonly timeoutMs: number;
  },
): WatchedProviders {
  let gathered = new Map<string, ProviderErrors>();
  let writing: Promise<void> | undefined;

  function gather(errors: ProviderErrors): void {
    const key = `${errors.provider} ${errors.day.getTime()}`;
    const before = gathered.get(key);
    const last = before && before.last.at > errors.last.at ? before.last : errors.last;
    gathered.set(key, { ...errors, failures: errors.failures + (before?.failures ?? 0), last });
  }

  async function writeAll(): Promise<void> {
    while (gathered.size > 0) {
      const taken = [...gathered.values()];
      gathered = new Map();
      for (const [index, errors] of taken.entries()) {
        try {
          await storage.recordProviderErrors(errors);
        } catch (error) {
          for (const left of taken.slice(index)) gather(left);
          logger.warn("failures of a provider could not be counted and will be later", { error });
          return;
        }
      }
    }
  }

  function flush(): Promise<void> {
    writing ??= writeAll().finally(() => {
      writing = undefined;
    });
    return writing;
  }

  async function inTime<T>(work: Promise<T>): Promise<T> {
    const ended = new AbortController();
    const tooLate = clock.sleep(timeoutMs, ended.signal).then(() => {
      throw new Error(`no answer in ${timeoutMs / 1000} s`);
    });
    try {
      return await Promise.race([work, tooLate]);
    } finally {
      tooLate.catch(() => undefined);
      ended.abort();
    }
  }

  function watch(provider: PaymentProvider): PaymentProvider {
    const record = (call: string, message: string): void => {
      const at = clock.now();
      gather({
        provider: provider.name,
        day: new Date(Math.floor(at.getTime() / dayMs) * dayMs),
        failures: 1,
        last: { at, call, message: redactText(message).slice(0, 300).toWellFormed() },
      });
      void flush();
    };
    const told = async <T>(call: string, work: () => Promise<T>): Promise<T> => {
      try {
        const result = await inTime(work());
        const reason = reasonOf(result);
        if (reason !== undefined) record(call, reason);
        return result;
      } catch (error) {
        record(call, error instanceof Error ? error.message : String(error));
        throw error;
      }
    };
    // Methods that the provider inherits stay, and those that it lacks stay absent.
    const watched: { -readonly [Name in keyof PaymentProvider]: PaymentProvider[Name] } = Object.create(provider);
    const { start, state, cancel, refund } = provider;
    if (start) watched.start = (payment, context) => told("start", () => start.call(provider, payment, context));
    if (state) watched.state = (payment, context) => told("state", () => state.call(provider, payment, context));
    if (cancel) watched.cancel = (payment, context) => told("cancel", () => cancel.call(provider, payment, context));
    if (refund) watched.refund = (request) => told("refund", () => refund.call(provider, request));
    return watched;
  }

  return { providers: new Map([...providers].map(([name, provider]) => [name, watch(provider)])), flush };
}

function reasonOf(result: unknown): string | undefined {
  const state = result as Partial<Extract<ProviderState, { readonly state: "unknown" }>> | undefined;
  return typeof result === "object" && state?.state === "unknown" ? state.reason : undefined;
}
