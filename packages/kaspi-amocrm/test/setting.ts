import type { Clock, Storage } from "@orderbridge/core";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, type FakeClock, fetchFrom } from "@orderbridge/core/testing";
import { createAmocrm } from "../src/amocrm/index.ts";
import { createKaspiAmocrmSync, type KaspiAmocrmStorage, type KaspiAmocrmSyncOptions } from "../src/index.ts";
import { createKaspi } from "../src/kaspi/index.ts";
import { createKaspiAmocrmMemoryStorage } from "../src/memory/index.ts";
import {
  createFakeAmocrm,
  createFakeKaspi,
  type FakeAmocrmOptions,
  type FakeKaspiOptions,
  type FakeOrder,
  fakeAccount,
} from "../src/testing/index.ts";

/** Short sleeps, those of rate limits, end at once and move the time; longer ones wait for the test. */
export function createSteppingClock(start = "2026-11-20T06:00:00.000Z"): FakeClock {
  const clock = createFakeClock(start);
  return {
    ...clock,
    get sleepers() {
      return clock.sleepers;
    },
    async sleep(ms, signal) {
      if (ms >= 10_000) return clock.sleep(ms, signal);
      signal?.throwIfAborted();
      clock.advance(Math.max(ms, 0));
    },
  };
}

export const statusMap = {
  APPROVED_BY_BANK: String(fakeAccount.stageIds.new),
  ACCEPTED_BY_MERCHANT: String(fakeAccount.stageIds.accepted),
  COMPLETED: String(fakeAccount.stageIds.won),
  CANCELLED: { statusId: String(fakeAccount.stageIds.lost), lossReasonId: String(fakeAccount.lossReasonId) },
};

export interface SettingOptions {
  readonly kaspi?: FakeKaspiOptions;
  readonly amocrm?: FakeAmocrmOptions;
  readonly sync?: Partial<KaspiAmocrmSyncOptions>;
  readonly stores?: KaspiAmocrmStorage | ((clock: FakeClock) => KaspiAmocrmStorage);
  readonly core?: (clock: FakeClock) => Storage;
  readonly clock?: FakeClock;
}

/** Both fakes, a storage, and as many workers on it as a test wants. */
export function createSetting(options: SettingOptions = {}) {
  const clock = options.clock ?? createSteppingClock();
  const kaspi = createFakeKaspi({ clock, ...options.kaspi });
  const amocrm = createFakeAmocrm({ clock, ...options.amocrm });
  const core = options.core?.(clock) ?? createMemoryStorage({ clock });
  const { stores = createKaspiAmocrmMemoryStorage() } = options;
  const storage = { ...core, ...(typeof stores === "function" ? stores(clock) : stores) };
  const shops = options.kaspi?.shops ?? { default: "kaspi-token" };

  interface WorkerOptions extends Partial<KaspiAmocrmSyncOptions> {
    readonly workerClock?: Clock;
    readonly guardFetch?: (send: typeof fetch) => typeof fetch;
    /** Without a catalog and without an order-code field. */
    readonly isBare?: boolean;
  }
  const createWorker = (more: WorkerOptions = {}) => {
    const { workerClock = clock, guardFetch = (send) => send, isBare = false, ...rest } = more;
    const client = { clock: workerClock, rateLimits: core.rateLimits, minDelayMs: 1 };
    return createKaspiAmocrmSync({
      kaspi: Object.entries(shops).map(([shop, token]) =>
        createKaspi({ ...client, shop, token, ratePerSecond: 50, fetch: guardFetch(fetchFrom(kaspi.handle)) }),
      ),
      amocrm: createAmocrm({
        ...client,
        host: fakeAccount.host,
        token: "amo-token",
        fetch: guardFetch(fetchFrom(amocrm.handle)),
      }),
      storage,
      pipelineId: String(fakeAccount.pipelineId),
      statusId: String(fakeAccount.stageIds.new),
      responsibleUserId: String(fakeAccount.responsibleUserId),
      ...(!isBare && {
        catalogId: String(fakeAccount.catalogId),
        orderCodeFieldId: String(fakeAccount.orderCodeFieldId),
      }),
      statusMap,
      importFrom: new Date("2026-11-19T00:00:00.000Z"),
      clock: workerClock,
      ...options.sync,
      ...rest,
    });
  };
  return { clock, kaspi, amocrm, storage, createWorker, sync: createWorker() };
}

const phones = ["7010000001", "7770000002", "9160000003"] as const;

/** `count` orders over ten hours; every fifth group of five shares one millisecond. Codes count up from 700000000. */
export function createOrders(count: number, from = Date.parse("2026-11-19T20:00:00.000Z")): readonly FakeOrder[] {
  return Array.from({ length: count }, (_, index) => {
    const group = index - (index % 5);
    const phone = phones[index % 3] as string;
    return {
      code: String(700_000_000 + index),
      creationDate: from + group * 100_000,
      // Every fourth buyer is hidden; the others come back with several orders.
      ...(index % 4 !== 3 && { cellPhone: `${phone.slice(0, 7)}${String(index % 60).padStart(3, "0")}` }),
      entries:
        index % 10 === 0
          ? [{ sku: `WEIGHED-${index % 7}`, name: "Алма", basePrice: 1560, weightGrams: 3800, quantity: 3 }]
          : [
              { sku: `SKU-${index % 30}`, name: "Шам", basePrice: 7990.5, quantity: 2 },
              ...(index % 2 === 0 ? [{ sku: `SKU-${index % 30}`, name: "Шам", basePrice: 7990.5, quantity: 1 }] : []),
              ...(index % 3 === 0 ? [{ sku: `EXTRA-${index % 11}`, name: "Чехол", basePrice: 1200 }] : []),
            ],
    };
  });
}
