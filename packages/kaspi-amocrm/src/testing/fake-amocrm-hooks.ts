import type { Clock } from "@orderbridge/core";

/** One thing that happened in the account, in the vocabulary of the hooks. */
interface FakeHookEvent {
  /** Name in `settings` of a subscription, e.g. `status_lead`. */
  readonly setting: string;
  /** Root of the form, e.g. `leads[status]`. */
  readonly root: string;
  readonly fields: Readonly<Record<string, string | number>>;
}

export interface FakeHook {
  readonly destination: string;
  settings: readonly string[];
  isDisabled: boolean;
}

export interface FakeHooks {
  readonly subscriptions: readonly FakeHook[];
  subscribe(destination: string, settings: readonly string[]): FakeHook;
  unsubscribe(destination: string): boolean;
  happened(event: FakeHookEvent): void;
  /** Sends what is due: all waiting events of a subscription in one body. Resolves to the statuses; 0 without an answer. */
  deliver(): Promise<readonly number[]>;
}

interface Delivery {
  readonly hook: FakeHook;
  readonly body: string;
  attempt: number;
  dueAt: number;
}

const minute = 60_000;
/** Pause after attempt 1, 2, 3, 4. */
const pausesMs = [5 * minute, 15 * minute, 15 * minute, 60 * minute];
const answerWithinMs = 2_000;

/**
 * Webhooks out: form bodies with the names of the old API, several entities in one body, two seconds to answer,
 * the vendor's table of repetitions, and the end of a hook after more than a hundred bad answers in two hours.
 */
export function createFakeHooks({
  clock,
  send,
  account,
}: {
  readonly clock: Clock;
  readonly send: (request: Request) => Promise<Response>;
  readonly account: () => { readonly id: number; readonly subdomain: string };
}): FakeHooks {
  const hooks = new Map<string, FakeHook>();
  const waiting = new Map<FakeHook, FakeHookEvent[]>();
  let deliveries: Delivery[] = [];
  const failures = new Map<FakeHook, number[]>();

  function toBody(events: readonly FakeHookEvent[]): string {
    const form = new URLSearchParams();
    const counts = new Map<string, number>();
    for (const { root, fields } of events) {
      const index = counts.get(root) ?? 0;
      counts.set(root, index + 1);
      for (const [name, value] of Object.entries(fields)) form.set(`${root}[${index}][${name}]`, String(value));
    }
    const { id, subdomain } = account();
    form.set("account[subdomain]", subdomain);
    form.set("account[id]", String(id));
    form.set("account[_links][self]", `https://${subdomain}.amocrm.ru`);
    return String(form);
  }

  async function attempt({ hook, body }: Delivery): Promise<number> {
    const request = new Request(hook.destination, {
      method: "POST",
      body,
      headers: { "content-type": "application/x-www-form-urlencoded" },
    });
    const ended = new AbortController();
    const tooLate = clock.sleep(answerWithinMs, ended.signal).then(
      () => 0,
      () => 0,
    );
    const answered = send(request).then(
      ({ status }) => status,
      () => 0,
    );
    const status = await Promise.race([answered, tooLate]);
    ended.abort();
    return status;
  }

  return {
    get subscriptions() {
      return [...hooks.values()];
    },
    subscribe(destination, settings) {
      const hook = hooks.get(destination) ?? { destination, settings, isDisabled: false };
      hook.settings = settings;
      hook.isDisabled = false;
      hooks.set(destination, hook);
      return hook;
    },
    unsubscribe: (destination) => hooks.delete(destination),
    happened(event) {
      for (const hook of hooks.values()) {
        if (hook.isDisabled || !hook.settings.includes(event.setting)) continue;
        waiting.set(hook, [...(waiting.get(hook) ?? []), event]);
      }
    },
    async deliver() {
      const now = clock.now().getTime();
      for (const [hook, events] of waiting) deliveries.push({ hook, body: toBody(events), attempt: 0, dueAt: now });
      waiting.clear();
      const statuses: number[] = [];
      for (const delivery of deliveries.filter(({ dueAt, hook }) => dueAt <= now && !hook.isDisabled)) {
        const status = await attempt(delivery);
        statuses.push(status);
        delivery.attempt++;
        const isBad = status < 100 || status >= 300;
        const pauseMs = pausesMs[delivery.attempt - 1];
        const isRepeated = isBad && pauseMs !== undefined && (delivery.attempt < 3 || status === 499 || status >= 500);
        if (isRepeated) delivery.dueAt = now + pauseMs;
        else deliveries = deliveries.filter((other) => other !== delivery);
        if (!isBad) continue;
        const recent = [...(failures.get(delivery.hook) ?? []), now].filter((at) => at > now - 120 * minute);
        failures.set(delivery.hook, recent);
        if (recent.length > 100) delivery.hook.isDisabled = true;
      }
      return statuses;
    },
  };
}
