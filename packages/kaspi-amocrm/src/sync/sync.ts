import { randomUUID } from "node:crypto";
import {
  ApiError,
  BlockedError,
  ConfigError,
  type Logger,
  NeedsReauthError,
  redactingLogger,
  SdkError,
  silentLogger,
  systemClock,
  withLease,
} from "@orderbridge/core";
import { handleAmocrmEvents } from "../amocrm/events.ts";
import type { Kaspi } from "../kaspi/client.ts";
import { createOrderFeed } from "../kaspi/feed.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import { kaspiStates } from "../kaspi/order.ts";
import { cutWindows, maxWindowMs } from "../kaspi/windows.ts";
import type { LedgerPhase, LedgerRow, OrderKey } from "../ledger.ts";
import { createAlerts } from "./alerts.ts";
import { checkAccount } from "./check.ts";
import { createContactFinder } from "./contacts.ts";
import { createElementFinder } from "./elements.ts";
import { createIntakes } from "./intake.ts";
import { createLedgerClock } from "./ledger-clock.ts";
import { emptyReport, type KaspiAmocrmSyncOptions, type RunReport, type StageTarget } from "./options.ts";
import { createSweeps } from "./sweeps.ts";
import { createOrderWriter, isUnsigned } from "./writer.ts";

export interface KaspiAmocrmSync {
  /**
   * Imports what is new since the watermark, and goes on with what is unfinished and due. Resolves to `undefined` when
   * another process is at it.
   */
  importNew(options?: { readonly signal?: AbortSignal }): Promise<RunReport | undefined>;
  /**
   * Compares every order that may still change with what the CRM was given: the last 14 days in full, older ones as long
   * as they are not final. Resolves to `undefined` when another process is at it.
   */
  reconcile(options?: { readonly signal?: AbortSignal }): Promise<RunReport | undefined>;
  /**
   * Imports a span of the past; the watermark stays. What is in the CRM already is left as it is. Interrupted, the same
   * call goes on behind the last complete 14 days.
   */
  backfill(options: BackfillOptions): Promise<RunReport>;
  /** Brings one order up to date now, also a parked one. Resolves to `undefined` when Kaspi does not know it. */
  rerun(key: OrderKey): Promise<RunReport | undefined>;
  /**
   * Forgets a buyer: every phone of the contacts that have this one (E.164). Resolves to their ids in amoCRM, which is
   * asked first, and where an administrator deletes them, since its API cannot; until then the next look at the contacts
   * finds them again.
   */
  erase(phone: string): Promise<readonly string[]>;
  /**
   * Looks at what amoCRM's webhooks told of since the last look: one call of the API when little happened, however many
   * webhooks came. Resolves to `undefined` when nothing waits, or another process is at it.
   */
  handleEvents(options?: { readonly signal?: AbortSignal }): Promise<{ readonly events: number } | undefined>;
  /**
   * Imports every minute, reconciles every ten and looks for events every ten seconds, until the signal. A failed run is
   * logged and comes again.
   */
  run(signal: AbortSignal): Promise<void>;
  status(): Promise<SyncStatus>;
  /**
   * Compares the options with the account. Gives what is wrong, each with how to mend it; empty when all is well.
   *
   * @throws {ConfigError} when a Kaspi token is known under another shop's name.
   */
  check(): Promise<readonly string[]>;
}

export interface BackfillOptions {
  readonly from: Date;
  readonly to: Date;
  /** Counts what would be done, and writes nothing. @defaultValue false */
  readonly dryRun?: boolean;
  /** Called when a folder of a span of 14 days is done; `done` goes from 0 to 1. */
  readonly onProgress?: (progress: { readonly done: number; readonly seen: number }) => void;
  readonly signal?: AbortSignal;
}

/** What an operator looks at first. */
export interface SyncStatus {
  readonly shops: readonly {
    readonly shop: string;
    /** Everything created before it is in the ledger. */
    readonly watermark: Date | undefined;
  }[];
  /** Orders in each phase. */
  readonly orders: Readonly<Partial<Record<LedgerPhase, number>>>;
  /** The first hundred parked orders and why. */
  readonly parked: readonly { readonly shop: string; readonly code: string; readonly reason: string | undefined }[];
}

/** How long before its end a long-lived token is told. */
const tokenWarningMs = 14 * 86_400_000;
const eventsEveryMs = 10_000;
const jobLeaseMs = 300_000;

/** Every Kaspi order becomes exactly one amoCRM lead, and the lead follows the order. */
export function createKaspiAmocrmSync(options: KaspiAmocrmSyncOptions): KaspiAmocrmSync {
  const {
    amocrm,
    storage,
    catalogId,
    contactLookup = "index",
    importUnsigned = false,
    importCancelled = false,
    settleMs = 60_000,
    attemptsBeforeParking = 5,
    importEveryMs = 60_000,
    reconcileEveryMs = 600_000,
    silenceAfterMs = 3_600_000,
    clock = systemClock,
    logger: givenLogger = silentLogger,
  } = options;
  const shops = [options.kaspi].flat() as readonly Kaspi[];
  if (shops.length === 0) throw new ConfigError("kaspi-amocrm: name at least one shop");
  if (new Set(shops.map(({ shop }) => shop)).size !== shops.length) {
    throw new ConfigError("kaspi-amocrm: two shops have the same name; give each client its own `shop`");
  }
  const logger: Logger = redactingLogger(givenLogger);
  const stages = readStatusMap(options.statusMap ?? {});
  const alerts = createAlerts({ logger, onAlert: options.onAlert });
  const contacts = createContactFinder({
    amocrm,
    index: storage.contacts,
    watermarks: storage.watermarks,
    lookup: contactLookup,
    responsibleUserId: options.responsibleUserId,
    clock,
  });
  const ledgerClock = createLedgerClock({ orders: storage.orders, clock });
  const writer = createOrderWriter({
    amocrm,
    orders: storage.orders,
    leases: storage.leases,
    watermarks: storage.watermarks,
    contacts,
    elements: catalogId === undefined ? undefined : createElementFinder({ amocrm, index: storage.elements, catalogId }),
    catalogId,
    pipelineId: options.pipelineId,
    statusId: options.statusId,
    responsibleUserId: options.responsibleUserId,
    orderCodeFieldId: options.orderCodeFieldId,
    stageOf: ({ state, status }) => stages.get(`${state}/${status}`) ?? stages.get(status),
    showShop: shops.length > 1,
    importUnsigned,
    importCancelled,
    settleMs,
    attemptsBeforeParking,
    shops: shops.map(({ shop }) => shop),
    tellsUnmapped: stages.size > 0,
    alerts,
    clock: ledgerClock,
    logger,
  });

  const intakes = createIntakes({ orders: storage.orders, writer, clock: ledgerClock });
  const { isDue } = intakes;
  const { sweep, sweepOld, resume } = createSweeps({ orders: storage.orders, clock: ledgerClock });

  /** A token belongs to one shop: under another name, all its orders would come a second time. */
  async function claimTokens(): Promise<void> {
    const secret = await storage.contacts.secret();
    for (const kaspi of shops) {
      const key = `kaspi-token:${kaspi.tokenHash(secret)}`;
      if (await storage.watermarks.advance(key, undefined, kaspi.shop)) continue;
      const name = await storage.watermarks.get(key);
      if (name === kaspi.shop) continue;
      throw new ConfigError(
        `kaspi-amocrm: the token of shop "${kaspi.shop}" is known as that of "${name}"; use that name, or this shop's token`,
      );
    }
  }
  let tokensClaimed: Promise<void> | undefined;
  async function ensureTokens(): Promise<void> {
    tokensClaimed ??= claimTokens();
    try {
      await tokensClaimed;
    } catch (error) {
      tokensClaimed = undefined;
      throw error;
    }
  }

  /** Tells what only people can mend. */
  function tell(error: unknown): void {
    if (error instanceof BlockedError) alerts.raise({ kind: "block", vendor: error.vendor });
    else if (error instanceof NeedsReauthError) alerts.raise({ kind: "consent" });
    else if (error instanceof ApiError && [401, 402, 403].includes(error.status)) {
      alerts.raise({ kind: "refused", vendor: error.vendor, status: error.status });
    }
  }

  async function watched<T>(work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      const { tokenEndsAt } = amocrm;
      if (tokenEndsAt && tokenEndsAt.getTime() - clock.now().getTime() < tokenWarningMs) {
        alerts.raise({ kind: "token", endsAt: tokenEndsAt });
      }
      return result;
    } catch (error) {
      tell(error);
      throw error;
    }
  }

  /** Runs all steps, also after one that failed, unless going on would be wrong; then throws the first failure. */
  async function inTurn(...steps: readonly (() => Promise<void>)[]): Promise<void> {
    const failures: unknown[] = [];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        tell(error);
        if (failures.length > 0) logger.error("kaspi-amocrm: this failed too", { error }); // only the first is thrown
        failures.push(error);
        const mustStop =
          !SdkError.isInstance(error) || error instanceof BlockedError || error instanceof NeedsReauthError;
        if (mustStop) break; // a lost lease, a stop signal, a defect; a block or a lost consent, which only people mend
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Moves a position wherever it is; who came first is as right. */
  async function setPosition(key: string, to: string): Promise<void> {
    await storage.watermarks.advance(key, await storage.watermarks.get(key), to);
  }
  const importKey = (kaspi: Kaspi) => `kaspi-import:${kaspi.shop}`;
  /** When an import of the shop ended last; before the first one, when this was asked first. */
  async function importedAt(kaspi: Kaspi): Promise<Date> {
    const position = await storage.watermarks.get(importKey(kaspi));
    if (position !== undefined) return new Date(Number(position));
    const now = clock.now();
    await storage.watermarks.advance(importKey(kaspi), undefined, String(now.getTime()));
    return now;
  }

  const starts = new Map<string, Date>();
  /** Where the shop's first run began: kept, since what Kaspi showed before is another program's. */
  async function startOf(kaspi: Kaspi): Promise<Date> {
    const key = `kaspi-start:${kaspi.shop}`;
    let start = starts.get(kaspi.shop);
    if (start) return start;
    let position = await storage.watermarks.get(key);
    if (position === undefined) {
      const wanted = options.importFrom?.getTime() ?? clock.now().getTime() - 86_400_000;
      const imported = await feedOf(kaspi).watermark(); // of a ledger that is older than this key
      await storage.watermarks.advance(key, undefined, String(Math.min(wanted, imported?.getTime() ?? wanted)));
      position = await storage.watermarks.get(key);
    }
    start = new Date(Number(position));
    starts.set(kaspi.shop, start);
    return start;
  }

  /** An order is visible from its approval on, and may wait for it, or for a signature, long after its checkout. */
  async function foreignTo(kaspi: Kaspi): Promise<(order: KaspiOrder) => boolean> {
    const start = await startOf(kaspi);
    return (order) => {
      const { createdAt, approvedAt = createdAt } = order;
      if (createdAt === undefined || createdAt >= start) return false;
      return !(approvedAt && approvedAt >= start) && (importUnsigned || !isUnsigned(order));
    };
  }

  const feedOf = (kaspi: Kaspi, startAt?: Date) =>
    createOrderFeed({
      kaspi,
      watermarks: storage.watermarks,
      leases: storage.leases,
      clock,
      logger,
      ...(startAt && { startAt }),
    });

  const hasChanged = (row: LedgerRow, order: KaspiOrder): boolean =>
    row.phase === "done" &&
    (!writer.isUpToDate(row, order) ||
      (row.contactId === undefined && order.phone !== undefined) ||
      row.attempts > 0 || // it could not be read the last time: its failures are counted anew
      // A write that did not end: the lead may be where the order is no more.
      (row.intentAt !== undefined && row.intentAt.getTime() + settleMs <= ledgerClock.now().getTime()));
  /** A held back order is looked at whenever it shows something new; one that failed pauses. */
  const isReleased = (row: LedgerRow, order: KaspiOrder): boolean =>
    row.phase === "seen" && row.attempts === 0 && !isUnsigned(order);

  async function begin(): Promise<void> {
    await ensureTokens();
    await ledgerClock.align();
  }

  /** Runs a job that must not run twice at the same time. */
  async function exclusively(name: string, work: (assertHeld: () => void) => Promise<RunReport>) {
    await begin();
    const lease = {
      leases: storage.leases,
      name: `kaspi-amocrm:${name}`,
      holder: randomUUID(),
      ttlMs: jobLeaseMs,
      clock,
    };
    const result = await withLease(lease, ({ assertHeld }) => watched(() => work(assertHeld)));
    return result.state === "done" ? result.value : undefined;
  }

  /** One shop's trouble does not hold the others; it ends the run at last. */
  const eachShop = (work: (kaspi: Kaspi) => Promise<void>): Promise<void> =>
    inTurn(...shops.map((kaspi) => () => work(kaspi)));

  const sync: KaspiAmocrmSync = {
    importNew: ({ signal } = {}) =>
      exclusively("new", async (assertHeld) => {
        const report = emptyReport();
        await eachShop(async (kaspi) => {
          const startAt = await startOf(kaspi);
          const needsWork = (row: LedgerRow, order: KaspiOrder) => isDue(row) || isReleased(row, order);
          const intake = intakes.open(kaspi, report, { needsWork, isForeign: await foreignTo(kaspi) });
          await inTurn(
            async () => {
              for await (const page of feedOf(kaspi, startAt).pages({ ...(signal && { signal }) })) {
                assertHeld();
                await intake.take(page.orders);
                await page.commit();
              }
            },
            intake.flush,
            () => resume({ kaspi, intake, signal }),
            intake.flush,
          );
          await setPosition(importKey(kaspi), String(clock.now().getTime()));
        });
        return report;
      }),

    reconcile: ({ signal } = {}) =>
      exclusively("reconcile", async (assertHeld) => {
        const report = emptyReport();
        for (const kaspi of shops) {
          const since = await importedAt(kaspi); // before any call of a vendor, which may refuse
          if (clock.now().getTime() - since.getTime() > silenceAfterMs) {
            alerts.raise({ kind: "silence", shop: kaspi.shop, since });
          } else alerts.clear({ kind: "silence", shop: kaspi.shop });
        }
        if (await writer.look()) {
          // amoCRM has answered: the next time is a new trouble.
          for (const kind of ["block", "consent", "refused"] as const)
            alerts.clear({ kind, ...(kind !== "consent" && { vendor: "amocrm" }) });
        }
        await eachShop(async (kaspi) => {
          const needsWork = (row: LedgerRow, order: KaspiOrder) =>
            isDue(row) || isReleased(row, order) || hasChanged(row, order);
          const intake = intakes.open(kaspi, report, { needsWork, isForeign: await foreignTo(kaspi) });
          const run = { kaspi, intake, assertHeld, signal };
          const now = clock.now();
          const recent = new Date(now.getTime() - maxWindowMs);
          await inTurn(
            () => sweep(run, recent, now),
            () => sweepOld(run, recent),
            intake.flush,
          );
        });
        alerts.clear({ kind: "refused", vendor: "kaspi" });
        return report;
      }),

    backfill: ({ from, to, dryRun = false, onProgress, signal }) =>
      watched(async () => {
        if (from > to) throw new ConfigError("kaspi-amocrm: backfill ends before it begins; swap from and to");
        await begin();
        const report = emptyReport();
        const windows = cutWindows(from, to);
        const stepCount = shops.length * windows.length * kaspiStates.length;
        let steps = 0;
        await eachShop(async (kaspi) => {
          const key = `kaspi-backfill:${kaspi.shop}:${from.getTime()}:${to.getTime()}`;
          let position = dryRun ? undefined : await storage.watermarks.get(key);
          for (const window of windows) {
            // Of a code that moves from one folder to the next only the first sight counts.
            const intake = dryRun ? intakes.foresee(report) : intakes.open(kaspi, report, { needsWork: isDue });
            for (const state of kaspiStates) {
              signal?.throwIfAborted();
              if (window.to.getTime() > Number(position ?? 0)) {
                const query = { createdFrom: window.from, createdTo: window.to, state, ...(signal && { signal }) };
                for await (const page of kaspi.orders.pages(query)) {
                  signal?.throwIfAborted();
                  await intake.take(page.orders);
                }
                await intake.flush();
              }
              steps++;
              onProgress?.({ done: steps / stepCount, seen: report.seen });
            }
            if (dryRun || window.to.getTime() <= Number(position ?? 0)) continue;
            // The end of the last window is the end of the span: the next call begins again.
            const next = window === windows.at(-1) ? "0" : String(window.to.getTime());
            await storage.watermarks.advance(key, position, next);
            position = next;
          }
        });
        return report;
      }),

    rerun: ({ shop, code }) =>
      watched(async () => {
        const kaspi = shops.find((candidate) => candidate.shop === shop);
        if (!kaspi) throw new ConfigError(`kaspi-amocrm: there is no shop "${shop}"`);
        await begin();
        const order = await kaspi.orders.byCode(code);
        if (!order) return undefined;
        const report = emptyReport();
        const intake = intakes.open(kaspi, report, { needsWork: () => true });
        await intake.take([order]);
        await intake.flush();
        return report;
      }),
    erase: contacts.erase,

    async handleEvents({ signal } = {}) {
      const events = await handleAmocrmEvents({
        events: storage.events,
        leases: storage.leases,
        // Leads are listed by their last change, so which of them were told of does not matter.
        onEvents: async (told) => !told.some(({ entity }) => entity === "leads") || watched(writer.lookAtStages),
        clock,
        ...(signal && { signal }),
      });
      return events ? { events } : undefined;
    },

    async run(signal) {
      const every = async (task: "importNew" | "reconcile" | "handleEvents", pauseMs: number) => {
        while (!signal.aborted) {
          try {
            const report = await sync[task]({ signal });
            if (report) logger.info(`kaspi-amocrm: ${task} ended`, { ...report });
          } catch (error) {
            if (!signal.aborted) logger.error(`kaspi-amocrm: ${task} failed; it comes again`, { error });
          }
          await clock.sleep(pauseMs, signal).catch(() => undefined);
        }
      };
      await Promise.all([
        every("importNew", importEveryMs),
        every("reconcile", reconcileEveryMs),
        every("handleEvents", eventsEveryMs),
      ]);
    },

    async status() {
      const watermark = (kaspi: Kaspi) => feedOf(kaspi).watermark();
      return {
        shops: await Promise.all(shops.map(async (kaspi) => ({ shop: kaspi.shop, watermark: await watermark(kaspi) }))),
        orders: await storage.orders.counts(),
        parked: (await storage.orders.parked(100)).map(({ shop, code, lastError }) => ({
          shop,
          code,
          reason: lastError,
        })),
      };
    },
    async check() {
      await ensureTokens();
      return checkAccount(amocrm, options, stages);
    },
  };
  return sync;
}

function readStatusMap(map: NonNullable<KaspiAmocrmSyncOptions["statusMap"]>): ReadonlyMap<string, StageTarget> {
  return new Map(
    Object.entries(map).map(([key, target]) => {
      if (!/^([A-Z_]+\/)?[A-Z_]+$/.test(key)) {
        throw new ConfigError(`kaspi-amocrm: statusMap has the key "${key}"; use STATUS or STATE/STATUS`);
      }
      return [key, typeof target === "string" ? { statusId: target } : target];
    }),
  );
}
