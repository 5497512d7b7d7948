import { randomUUID } from "node:crypto";
import {
  type HeldLease,
  LeaseLostError,
  type LeaseStore,
  type Logger,
  type WatermarkStore,
  withLease,
} from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import type { LedgerChange, LedgerRow, OrderKey, OrderLedger } from "../ledger.ts";
import type { Alerts } from "./alerts.ts";
import { createBatchSize } from "./bulk.ts";
import type { ContactFinder } from "./contacts.ts";
import type { ElementFinder } from "./elements.ts";
import type { LedgerClock } from "./ledger-clock.ts";
import type { RunReport, StageTarget } from "./options.ts";
import { createBuyerLinker } from "./order-buyers.ts";
import { createLeadWriter } from "./order-leads.ts";
import { createLineWriter } from "./order-lines.ts";
import { createNoteWriter } from "./order-notes.ts";
import { alive, createTurn, markGone, type Work } from "./order-work.ts";
import { createLeadPrices } from "./prices.ts";
import { createStageWatch } from "./stages.ts";
import { headFingerprint, mergeLines, noteText, orderFingerprint } from "./summary.ts";

export interface OrderWriterOptions {
  readonly amocrm: Amocrm;
  readonly orders: OrderLedger;
  readonly leases: LeaseStore;
  readonly watermarks: WatermarkStore;
  readonly contacts: ContactFinder;
  readonly elements: ElementFinder | undefined;
  readonly catalogId: string | undefined;
  readonly pipelineId: string;
  readonly statusId: string;
  readonly responsibleUserId: string | undefined;
  readonly orderCodeFieldId: string | undefined;
  readonly stageOf: (order: KaspiOrder) => StageTarget | undefined;
  /** Several shops: the shop's name is shown, and told apart by a tag. */
  readonly showShop: boolean;
  readonly importUnsigned: boolean;
  readonly importCancelled: boolean;
  readonly settleMs: number;
  readonly attemptsBeforeParking: number;
  /** Names of the shops: of a single one, leads carry none. */
  readonly shops: readonly string[];
  /** Statuses without a stage are told; not when no status has one. */
  readonly tellsUnmapped: boolean;
  readonly alerts: Alerts;
  readonly clock: LedgerClock;
  readonly logger: Logger;
}

/** Brings leads in line with orders. One holder at a time over all processes, one batch per lease. */
export interface OrderWriter {
  /** `orders` are at most {@link writerBatch}, with entries, each once, and in the ledger. */
  apply(orders: readonly KaspiOrder[], report: RunReport): Promise<void>;
  /** Resolves to whether it looked: not while another process writes leads. @see createStageWatch */
  lookAtStages(): Promise<boolean>;
  /** The same, and at contacts whose phones were changed. */
  look(): Promise<boolean>;
  /** Notes that orders could not be read: they pause, and are parked, as after a refusal. */
  fail(failures: readonly (OrderKey & { readonly reason: string })[], report: RunReport): Promise<void>;
  /** What `apply` would count for an order when nothing fails; writes nothing. */
  foresee(order: KaspiOrder, row: LedgerRow | undefined, report: RunReport): void;
  /** Whether the lead was brought to what the order shows; without its lines, by status and total. */
  isUpToDate(row: LedgerRow, order: KaspiOrder): boolean;
}

const leaseMs = 120_000;
/** One writer for each ledger. Its tokens are kept in the rows, so the name must not change with the account's host. */
const leaseName = "kaspi-amocrm:writer";

export function createOrderWriter(options: OrderWriterOptions): OrderWriter {
  const { amocrm, orders: ledger, contacts, elements, catalogId, alerts, clock, logger, showShop, stageOf } = options;
  const linkBatch = createBatchSize(100);
  const prices = createLeadPrices(options);
  const lookAtStages = createStageWatch({ ...options, prices });
  const leads = createLeadWriter({ ...options, prices, lookAtStages });
  const linkBuyers = createBuyerLinker({ amocrm, contacts, linkBatch });
  const syncLines =
    elements && catalogId !== undefined
      ? createLineWriter({ amocrm, elements, catalogId, linkBatch, alerts })
      : undefined;
  const syncNotes = createNoteWriter({ amocrm, showShop });

  /** Waits up to half a minute for its turn; resolves to `false`, without having done the work, when none came. */
  async function underLease(work: (held: HeldLease) => Promise<void>): Promise<boolean> {
    for (let tries = 0; tries < 60; tries++) {
      const lease = { leases: options.leases, name: leaseName, holder: randomUUID(), ttlMs: leaseMs, clock };
      const aligned = async (held: HeldLease) => {
        await clock.align(); // after the lease was taken: what another wrote before is as old as it is
        await work(held);
      };
      if ((await withLease(lease, aligned)).state === "done") return true;
      await clock.sleep(500);
    }
    return false;
  }

  async function applyHeld(given: readonly KaspiOrder[], report: RunReport, held: HeldLease): Promise<void> {
    const turn = createTurn({ ledger, held, leaseName, clock, report });
    const { save } = turn;
    const rows = await ledger.claim(given, held.fencingToken);
    const rowOf = new Map(rows.map((row) => [`${row.shop}\n${row.code}`, row]));
    const priceOf = await prices.of(given);
    const works: Work[] = [];
    for (const order of given) {
      const row = rowOf.get(`${order.shop}\n${order.code}`);
      if (!row) {
        held.assertHeld(); // else it is a newer holder's, rightly
        logger.error(
          "kaspi-amocrm: a row of the ledger was taken by a newer holder; are leases kept with the ledger?",
          {
            shop: order.shop,
            order: order.code,
          },
        );
        report.failed++;
        continue;
      }
      if (row.phase === "skipped") continue;
      const lines = mergeLines(order.entries ?? []);
      works.push({
        order,
        row,
        lines,
        note: noteText(order, lines, showShop),
        priceMinor: priceOf.get(order),
        interruptedAt: row.intentAt,
        isNew: false,
      });
    }

    await leads.adopt(
      turn,
      works.filter(({ row, interruptedAt }) => row.leadId === undefined && interruptedAt),
    );

    const fresh = alive(works).filter(({ row }) => row.leadId === undefined);
    const unwanted = fresh.filter(({ order, interruptedAt }) => !interruptedAt && isUnwanted(order));
    await save(unwanted, () => ({
      phase: "skipped",
      intentAt: undefined,
      lastError: "first seen cancelled or returned",
    }));
    const unsigned = fresh.filter((work) => !unwanted.includes(work) && !work.interruptedAt && isHeldBack(work.order));
    const later = new Date(clock.now().getTime() + 3_600_000);
    await save(unsigned, () => ({ dueAt: later })); // reconcile looks at it every time; this is for a lone import
    report.skipped += unwanted.length;
    report.deferred += unsigned.length;

    const toCreate = fresh.filter((work) => !unwanted.includes(work) && !unsigned.includes(work));
    const startedAt = clock.now();
    await save(toCreate, ({ order }) => ({ phase: "creating", intentAt: startedAt, stageId: leads.firstStage(order) }));
    const inWork = works.filter((work) => !unwanted.includes(work) && !unsigned.includes(work));
    await linkBuyers(turn, alive(inWork));
    await leads.create(turn, alive(toCreate));

    const withLead = () => alive(inWork).filter(({ row }) => row.leadId !== undefined);
    await syncNotes(turn, withLead()); // first: it names the goods also when their list refuses them
    await syncLines?.(turn, withLead());
    await leads.update(turn, withLead());

    const done = withLead();
    await save(done, ({ order, note }) => ({
      phase: "done",
      fingerprint: orderFingerprint(order, note),
      intentAt: undefined,
      intendedStageId: undefined,
      attempts: 0,
      lastError: undefined,
    }));
    report.created += done.filter(({ isNew }) => isNew).length;
    report.updated += done.filter(({ isNew }) => !isNew).length;

    const open = inWork.filter((work) => work.isOpen && work.failure === undefined);
    await save(open, ({ row }) => ({
      dueAt: new Date((row.intentAt ?? clock.now()).getTime() + options.settleMs),
      lastError: "waiting until it is certain what became of a write",
    }));
    report.deferred += open.length;

    const refused = inWork.filter((work) => work.failure !== undefined);
    await markGone(refused, amocrm.leads);
    const gone = refused.filter(({ isGone }) => isGone);
    await save(gone, () => ({ phase: "skipped", intentAt: undefined, lastError: "the lead was deleted" }));
    report.skipped += gone.length;

    const failed = refused.filter(({ isGone }) => !isGone);
    await save(failed, ({ row, failure }) => afterFailure(row, failure as string));
    report.failed += failed.length;
    report.parked += failed.filter(({ row }) => row.phase === "parked").length;
  }

  async function failHeld(
    failures: readonly (OrderKey & { readonly reason: string })[],
    report: RunReport,
    held: HeldLease,
  ): Promise<void> {
    const rows = await ledger.claim(failures, held.fencingToken);
    const changes = rows.map((row) => {
      const { reason } = failures.find(({ shop, code }) => shop === row.shop && code === row.code) ?? { reason: "" };
      return { shop: row.shop, code: row.code, ...afterFailure(row, reason) };
    });
    if (!(await ledger.save(changes, held.fencingToken))) throw new LeaseLostError(leaseName);
    report.failed += failures.length;
    report.parked += changes.filter(({ phase }) => phase === "parked").length;
  }

  function afterFailure(row: LedgerRow, reason: string): Omit<LedgerChange, "shop" | "code"> {
    const attempts = row.attempts + 1;
    const isParked = attempts >= options.attemptsBeforeParking;
    const pauseMs = isParked ? 3_600_000 : 60_000 * 2 ** (attempts - 1);
    logger.error("kaspi-amocrm: an order could not be brought to the CRM", {
      shop: row.shop,
      order: row.code,
      attempts,
      reason,
    });
    if (attempts === options.attemptsBeforeParking) {
      options.alerts.raise({ kind: "parked", shop: row.shop, code: row.code, reason });
    }
    return {
      attempts,
      dueAt: new Date(clock.now().getTime() + pauseMs),
      lastError: reason,
      ...(isParked && { phase: "parked" as const }),
    };
  }

  const isUnwanted = (order: KaspiOrder): boolean => !options.importCancelled && isCancelled(order);
  const isHeldBack = (order: KaspiOrder): boolean => !options.importUnsigned && isUnsigned(order);

  function foresee(order: KaspiOrder, row: LedgerRow | undefined, report: RunReport): void {
    const isFresh = row?.leadId === undefined && row?.intentAt === undefined;
    if (isFresh && isUnwanted(order)) report.skipped++;
    else if (isFresh && isHeldBack(order)) report.deferred++;
    else {
      if (row?.leadId === undefined) report.created++;
      else report.updated++;
      if (!stageOf(order)) report.unmapped++;
    }
  }

  return {
    async apply(orders, report) {
      if (!(await underLease((held) => applyHeld(orders, report, held)))) report.deferred += orders.length;
    },
    async fail(failures, report) {
      if (failures.length === 0) return;
      if (!(await underLease((held) => failHeld(failures, report, held)))) report.deferred += failures.length;
    },
    lookAtStages: () => underLease(lookAtStages),
    look: () =>
      underLease(async (held) => {
        await lookAtStages(held);
        await contacts.refresh();
      }),
    foresee,
    isUpToDate(row, order) {
      if (order.entries === undefined) return row.fingerprint?.split(":", 1)[0] === headFingerprint(order);
      return row.fingerprint === orderFingerprint(order, noteText(order, mergeLines(order.entries), showShop));
    },
  };
}

const isCancelled = ({ status }: KaspiOrder): boolean => status === "CANCELLED" || status === "RETURNED";

/** It waits for the buyer's signature. */
export const isUnsigned = ({ state, signatureRequired }: KaspiOrder): boolean =>
  state === "SIGN_REQUIRED" || signatureRequired;
