import type { Clock } from "@orderbridge/core";
import { Refused, type Values } from "./fake-bitrix-answer.ts";

export const rateLimitBody = { error: "QUERY_LIMIT_EXCEEDED", error_description: "Too many requests" };

export type FakeLimits = ReturnType<typeof createFakeLimits>;

/** Whose time it is, and of which method. */
export interface TimeAccount {
  readonly credential: string;
  readonly method: string;
}

/** One request's running time, by account. */
export interface RunningTime {
  /** Before each command. @throws {Refused} `OPERATION_TIME_LIMIT` */
  check(account: TimeAccount): void;
  add(account: TimeAccount, seconds: number): void;
  /** The envelope's `time`, as it is at that moment. */
  describe(account: TimeAccount, processing: number): Values;
  /** Books the request; a method that ran for 0.1 s or less in it is not recorded at all. */
  end(): void;
}

const keyOf = ({ credential, method }: TimeAccount): string => `${credential} ${method}`;

/** The two limits of "REST API limits", apidocs.bitrix24.ru (read 2026-08): a leaky bucket per address, running time per method. */
export function createFakeLimits({
  clock,
  bucket,
  operatingLimitSeconds,
}: {
  readonly clock: Clock;
  readonly bucket: { readonly perSecond: number; readonly capacity: number };
  readonly operatingLimitSeconds: number | "off";
}) {
  const refusals = { rate: 0, operating: 0 };
  const buckets = new Map<string, { level: number; at: number }>();
  /** Seconds by minute, by account. */
  const minutes = new Map<string, Map<number, number>>();
  const minuteNow = () => Math.floor(clock.now().getTime() / 60_000);

  function recentOf(key: string): { readonly seconds: number; readonly resetAt: number | undefined } {
    const from = minuteNow() - 10;
    let seconds = 0;
    let oldest: number | undefined;
    for (const [minute, part] of minutes.get(key) ?? []) {
      if (minute <= from) continue;
      seconds += part;
      oldest = Math.min(oldest ?? minute, minute);
    }
    return { seconds, resetAt: oldest === undefined ? undefined : (oldest + 10) * 60 };
  }

  return {
    refusals,
    /** Seconds that count now. */
    operating: (credential: string, method: string): number => recentOf(keyOf({ credential, method })).seconds,
    /** Every HTTP request adds 1, whoever sent it. @throws {Refused} when the bucket is full */
    takeRequest(address: string): void {
      const now = clock.now().getTime();
      const row = buckets.get(address) ?? { level: 0, at: now };
      const level = Math.max(0, row.level - ((now - row.at) / 1000) * bucket.perSecond);
      const fits = level + 1 <= bucket.capacity;
      buckets.set(address, { level: fits ? level + 1 : level, at: now });
      if (fits) return;
      refusals.rate++;
      throw new Refused(503, rateLimitBody.error, rateLimitBody.error_description);
    },
    begin(): RunningTime {
      const pending = new Map<string, number>();
      return {
        check(account) {
          const key = keyOf(account);
          if (operatingLimitSeconds === "off") return;
          if (recentOf(key).seconds + (pending.get(key) ?? 0) <= operatingLimitSeconds) return;
          refusals.operating++;
          throw new Refused(429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.");
        },
        add(account, seconds) {
          pending.set(keyOf(account), (pending.get(keyOf(account)) ?? 0) + seconds);
        },
        describe(account, processing) {
          const { seconds, resetAt } = recentOf(keyOf(account));
          const running = pending.get(keyOf(account)) ?? 0;
          const operating = running > 0.1 ? seconds + running : seconds;
          const now = clock.now();
          const time = {
            start: now.getTime() / 1000 - processing,
            finish: now.getTime() / 1000,
            duration: processing,
            processing,
            date_start: now.toISOString(),
            date_finish: now.toISOString(),
          };
          if (operatingLimitSeconds === "off") return time;
          return {
            ...time,
            ...(operating > 0 ? { operating_reset_at: resetAt ?? (minuteNow() + 10) * 60 } : {}),
            operating,
          };
        },
        end() {
          if (operatingLimitSeconds !== "off") {
            for (const [key, seconds] of pending) {
              if (seconds <= 0.1) continue;
              const row = minutes.get(key) ?? new Map<number, number>();
              row.set(minuteNow(), (row.get(minuteNow()) ?? 0) + seconds);
              minutes.set(key, row);
            }
          }
          pending.clear();
        },
      };
    },
  };
}
