import { type Clock, redactText } from "@orderbridge/core";
import type { PaymentProvider, ProviderState } from "./provider.ts";

/** How a provider's calls went in this process since it started. */
export interface ProviderHealth {
  readonly provider: string;
  readonly calls: number;
  readonly failures: number;
  readonly lastFailure?: { readonly at: Date; readonly call: string; readonly message: string };
}

/** The same providers, watched: calls that throw, and states that are unknown for a reason, are counted. */
export function watchProviders(
  providers: ReadonlyMap<string, PaymentProvider>,
  clock: Pick<Clock, "now">,
): { readonly providers: ReadonlyMap<string, PaymentProvider>; report(): readonly ProviderHealth[] } {
  const records = new Map<string, ProviderHealth>();

  function watch(provider: PaymentProvider): PaymentProvider {
    const record = (call: string, message?: string): void => {
      const before = records.get(provider.name) ?? { provider: provider.name, calls: 0, failures: 0 };
      records.set(provider.name, {
        ...before,
        calls: before.calls + 1,
        ...(message === undefined
          ? {}
          : {
              failures: before.failures + 1,
              lastFailure: { at: clock.now(), call, message: redactText(message).slice(0, 300) },
            }),
      });
    };
    const told = async <T>(call: string, work: Promise<T>): Promise<T> => {
      try {
        const result = await work;
        record(call, reasonOf(result));
        return result;
      } catch (error) {
        record(call, error instanceof Error ? error.message : String(error));
        throw error;
      }
    };
    // Methods that the provider inherits stay, and those that it lacks stay absent.
    const watched: { -readonly [Name in keyof PaymentProvider]: PaymentProvider[Name] } = Object.create(provider);
    const { start, state, cancel, refund } = provider;
    if (start) watched.start = (payment, context) => told("start", start.call(provider, payment, context));
    if (state) watched.state = (payment, context) => told("state", state.call(provider, payment, context));
    if (cancel) watched.cancel = (payment, context) => told("cancel", cancel.call(provider, payment, context));
    if (refund) watched.refund = (request) => told("refund", refund.call(provider, request));
    return watched;
  }

  return {
    providers: new Map([...providers].map(([name, provider]) => [name, watch(provider)])),
    report: () => [...records.values()].sort((left, right) => (left.provider < right.provider ? -1 : 1)),
  };
}

function reasonOf(result: unknown): string | undefined {
  const state = result as Partial<Extract<ProviderState, { readonly state: "unknown" }>> | undefined;
  return typeof result === "object" && state?.state === "unknown" ? state.reason : undefined;
}
