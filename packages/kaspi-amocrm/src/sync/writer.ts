import {
  ApiError,
  type Clock,
  LeaseLostError,
  type LeaseStore,
  type Logger,
  type WatermarkStore,
} from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { Lead, LeadChange, NewLead } from "../amocrm/leads.ts";
import type { ElementLink } from "../amocrm/links.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import type { LedgerChange, LedgerLine, LedgerRow, OrderLedger } from "../ledger.ts";
import { toWholeUnits } from "../money.ts";
import { createWorkLease, type WorkLease } from "../work-lease.ts";
import type { Alerts } from "./alerts.ts";
import { chunks, createBatchSize, sendSplitting, writeSurely } from "./bulk.ts";
import type { ContactFinder } from "./contacts.ts";
import type { ElementFinder } from "./elements.ts";
import type { RunReport, StageTarget } from "./options.ts";
import { clockToleranceMs, closedStages, codeTag, createStageWatch, shopTag } from "./stages.ts";
import { fingerprint, mergeLines, noteMarker, noteText, type OrderLine, orderFingerprint } from "./summary.ts";

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
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Brings leads in line with orders. One holder at a time over all processes, one batch per lease. */
export interface OrderWriter {
  /** `orders` are at most {@link writerBatch}, with entries, each once, and in the ledger. */
  apply(orders: readonly KaspiOrder[], report: RunReport): Promise<void>;
  /** @see createStageWatch */
  lookAtStages(): Promise<void>;
  /** What `apply` would count for an order when nothing fails; writes nothing. */
  foresee(order: KaspiOrder, row: LedgerRow | undefined, report: RunReport): void;
  /** What the ledger would hold for this order if its lead were up to date. */
  fingerprint(order: KaspiOrder): string;
}

/** Orders per turn: what one request may hold by the vendor's advice. */
export const writerBatch = 50;
const leaseMs = 120_000;

/** An order in work: what Kaspi says, what the ledger knows, and what is to be. */
interface Work {
  readonly order: KaspiOrder;
  row: LedgerRow;
  readonly lines: readonly OrderLine[];
  readonly note: string;
  readonly price: number;
  /** An earlier attempt began writing and did not end: look before each kind of write. */
  readonly wasInterrupted: boolean;
  isNew: boolean;
  failure?: string;
  /** Something may still be on its way. */
  isOpen?: boolean;
}

export function createOrderWriter(options: OrderWriterOptions): OrderWriter {
  const { amocrm, orders: ledger, contacts, elements, catalogId, clock, logger, showShop, stageOf } = options;

  const leadBatch = createBatchSize(writerBatch);
  const noteBatch = createBatchSize(writerBatch);
  const linkBatch = createBatchSize(100);
  const leaseName = `amocrm-writer:${amocrm.host}`;

  async function takeLease(): Promise<WorkLease | undefined> {
    for (let tries = 0; tries < 60; tries++) {
      const lease = await createWorkLease({
        leases: options.leases,
        name: leaseName,
        ttlMs: leaseMs,
        clock,
      });
      if (lease) return lease;
      await clock.sleep(500);
    }
    return undefined;
  }

  function carriesCode(lead: Lead, order: KaspiOrder): boolean {
    if (showShop && !lead.tags.includes(shopTag(order))) return false;
    if (options.orderCodeFieldId === undefined) return lead.tags.includes(codeTag(order));
    return lead.fields.some(
      ({ fieldId, values }) => fieldId === options.orderCodeFieldId && values.includes(order.code),
    );
  }

  /** Leads that already exist for orders whose creation was begun: the newest leads, then a search for the few left. */
  async function findLeads(works: readonly Work[], since: Date): Promise<Map<string, Lead>> {
    const found = new Map<string, Lead>();
    const missing = () => works.filter(({ order }) => !found.has(order.code));
    const consider = (lead: Lead) => {
      for (const { order } of missing()) {
        if (carriesCode(lead, order)) found.set(order.code, lead);
      }
    };
    const until = since.getTime() - clockToleranceMs;
    for await (const lead of amocrm.leads.list({ order: { by: "created_at", direction: "desc" } })) {
      if (lead.createdAt && lead.createdAt.getTime() < until) break;
      consider(lead);
      if (missing().length === 0) break;
    }
    for (const { order } of missing().slice(0, 3)) {
      for await (const lead of amocrm.leads.list({ query: order.code })) consider(lead);
    }
    const rows = await ledger.byLead([...found.values()].map(({ id }) => id));
    const owners = new Map(rows.map((row) => [row.leadId, row]));
    for (const { row } of works) {
      const lead = found.get(row.code);
      const owner = lead && owners.get(lead.id);
      if (owner && (owner.code !== row.code || owner.shop !== row.shop)) found.delete(row.code);
    }
    return found;
  }

  function toNewLead({ order, price, row }: Work): NewLead {
    return {
      requestId: order.code,
      name: `Kaspi ${order.code}`,
      price,
      pipelineId: options.pipelineId,
      statusId: row.stageId ?? options.statusId,
      ...(options.responsibleUserId !== undefined && { responsibleUserId: options.responsibleUserId }),
      ...(options.orderCodeFieldId !== undefined && {
        fields: [{ fieldId: options.orderCodeFieldId, values: [order.code] }],
      }),
      tags: [
        "Kaspi",
        ...(showShop ? [shopTag(order)] : []),
        ...(options.orderCodeFieldId === undefined ? [codeTag(order)] : []),
      ],
      ...(row.contactId !== undefined && { contactId: row.contactId }),
    };
  }

  /** A closed stage is refused at creation; the lead is moved there afterwards. */
  function firstStage(order: KaspiOrder): string {
    const target = stageOf(order)?.statusId;
    return target === undefined || closedStages.includes(target) ? options.statusId : target;
  }

  async function apply(given: readonly KaspiOrder[], report: RunReport): Promise<void> {
    const lease = await takeLease();
    if (!lease) {
      report.deferred += given.length;
      return;
    }
    const fence = lease.fencingToken;

    async function save(
      works: readonly Work[],
      changeOf: (work: Work) => Omit<LedgerChange, "shop" | "code">,
    ): Promise<void> {
      if (works.length === 0) return;
      const changes = works.map((work) => ({ work, change: changeOf(work) }));
      const isOurs = await ledger.save(
        changes.map(({ work, change }) => ({ ...change, shop: work.row.shop, code: work.row.code })),
        fence,
      );
      if (!isOurs) throw new LeaseLostError(leaseName);
      for (const { work, change } of changes) work.row = { ...work.row, ...change } as LedgerRow;
    }
    const beforeWrite = () => lease.keep();
    const begin = async (works: readonly Work[]) => {
      const at = clock.now();
      await save(works, () => ({ intentAt: at }));
      await lease.keep();
    };
    const alive = (works: readonly Work[]) => works.filter((work) => work.failure === undefined && !work.isOpen);

    /** Leads that an earlier attempt may have created: adopted when found, created anew only after the settling time. */
    async function resolve(works: readonly Work[]): Promise<void> {
      if (works.length === 0) return;
      const intents = works.map(({ row }) => row.intentAt?.getTime() ?? 0);
      const found = await findLeads(works, new Date(Math.min(...intents)));
      await save(
        works.filter(({ order }) => found.has(order.code)),
        (work) => adopted(work, found.get(work.order.code) as Lead),
      );
      for (const work of works) {
        const age = clock.now().getTime() - (work.row.intentAt?.getTime() ?? 0);
        if (work.row.leadId === undefined && age < options.settleMs) work.isOpen = true;
      }
    }

    const adopted = ({ row, order, price }: Work, lead: Lead) => ({
      phase: "lead" as const,
      leadId: lead.id,
      stageId: row.stageId ?? firstStage(order),
      seenStageId: lead.statusId ?? row.stageId ?? firstStage(order),
      price: lead.price ?? price,
    });

    async function findContacts(works: readonly Work[]): Promise<void> {
      const wanting = works.filter(({ row, order }) => row.contactId === undefined && order.phone !== undefined);
      if (wanting.length === 0) return;
      const result = await contacts.ensure(
        wanting.map(({ order }) => ({
          phone: order.phone as string,
          name: order.customerName ?? (order.phone as string),
        })),
        beforeWrite,
      );
      for (const work of wanting) {
        const phone = work.order.phone as string;
        const reason = result.rejected.get(phone);
        if (reason !== undefined) work.failure = `contact refused: ${reason}`;
        else if (!result.ids.has(phone)) work.isOpen = true;
      }
      await save(
        alive(wanting).filter(({ row }) => row.leadId === undefined),
        ({ order }) => ({
          contactId: result.ids.get(order.phone as string),
        }),
      );
      const late = alive(wanting).filter(({ row }) => row.leadId !== undefined);
      if (late.length === 0) return;
      const links = late.map((work) => ({
        work,
        leadId: work.row.leadId as string,
        contactId: result.ids.get(work.order.phone as string) as string,
      }));
      const { refused, isOpen } = await sendSplitting(links, linkBatch, amocrm.links.linkContacts);
      for (const { work } of refused) work.failure = "linking the contact was refused";
      if (isOpen) for (const work of alive(late)) work.isOpen = true;
      await save(alive(late), ({ order }) => ({ contactId: result.ids.get(order.phone as string) }));
    }

    async function createLeads(works: readonly Work[]): Promise<void> {
      if (works.length === 0) return;
      await begin(works);
      const started = clock.now();
      const byCode = new Map(works.map((work) => [work.order.code, work]));
      const result = await writeSurely({
        items: works,
        keyOf: ({ order }) => order.code,
        batchSize: leadBatch,
        beforeWrite,
        send: (batch) => amocrm.leads.create(batch.map(toNewLead)),
        find: async (batch) => new Map([...(await findLeads(batch, started))].map(([code, { id }]) => [code, id])),
      });
      for (const [code, reason] of result.rejected) {
        const work = byCode.get(code);
        if (work) work.failure = `lead refused: ${reason}`;
      }
      for (const code of result.unknown) {
        const work = byCode.get(code);
        if (work) work.isOpen = true;
      }
      const created = works.filter(({ order }) => result.ids.has(order.code));
      for (const work of created) work.isNew = true;
      await save(created, ({ order, row, price }) => ({
        phase: "lead",
        leadId: result.ids.get(order.code),
        seenStageId: row.stageId,
        price,
      }));
    }

    /** `undefined` when the account has no such list (any more): an order is worth more than its goods. */
    async function ensureElements(finder: ElementFinder, works: readonly Work[]) {
      try {
        return await finder.ensure(
          works.flatMap(({ lines }) => lines),
          { wasInterrupted: works.some((work) => work.wasInterrupted), beforeWrite },
        );
      } catch (error) {
        if (!(error instanceof ApiError) || (error.status !== 403 && error.status !== 404)) throw error;
        options.alerts.raise({ kind: "catalog", catalogId: catalogId as string });
        return undefined;
      }
    }

    async function syncLines(works: readonly Work[]): Promise<void> {
      if (!elements || catalogId === undefined) return;
      const result = await ensureElements(elements, works);
      if (!result) return;
      for (const work of works) {
        for (const { sku } of work.lines) {
          if (sku === undefined) continue;
          const reason = result.rejected.get(sku);
          if (reason !== undefined) work.failure = `catalog element refused: ${reason}`;
          else if (!result.ids.has(sku)) work.isOpen = true;
        }
      }
      const wanted = (work: Work): LedgerLine[] =>
        work.lines.flatMap(({ sku, quantity }) => {
          const elementId = sku === undefined ? undefined : result.ids.get(sku);
          return elementId === undefined ? [] : [{ elementId, quantity }];
        });
      const present = new Map(works.map((work) => [work, work.row.lines ?? []]));
      const read = async (of: readonly Work[]) => {
        for (const part of chunks(of, writerBatch)) {
          const links = await amocrm.links.elements(part.map(({ row }) => row.leadId as string));
          for (const work of part) {
            // Goods that a manager added are not ours to count.
            const ours = new Set([...wanted(work), ...(work.row.lines ?? [])].map(({ elementId }) => elementId));
            present.set(
              work,
              links.filter(({ leadId, elementId }) => leadId === work.row.leadId && ours.has(elementId)),
            );
          }
        }
      };
      await read(works.filter(({ wasInterrupted }) => wasInterrupted));

      let wasOpen = false;
      let pending = alive(works).filter((work) => !sameLines(wanted(work), present.get(work) ?? []));
      for (let round = 0; pending.length > 0; round++) {
        if (wasOpen || round === 3) {
          for (const work of pending) {
            if (wasOpen) work.isOpen = true;
            else work.failure = "the goods did not stay linked";
          }
          break;
        }
        await begin(pending);
        const toUnlink: (ElementLink & { work: Work })[] = [];
        const toLink: (ElementLink & { work: Work })[] = [];
        for (const work of pending) {
          const leadId = work.row.leadId as string;
          const after = wanted(work);
          const before = present.get(work) ?? [];
          // A changed quantity is unlinked first: whether linking again replaces or adds is not documented.
          for (const line of before) {
            if (!after.some((other) => sameLine(line, other))) toUnlink.push({ ...line, leadId, catalogId, work });
          }
          for (const line of after) {
            if (!before.some((other) => sameLine(line, other))) toLink.push({ ...line, leadId, catalogId, work });
          }
        }
        const unlinked = await sendSplitting(toUnlink, linkBatch, amocrm.links.unlinkElements);
        await beforeWrite();
        const linked = await sendSplitting(toLink, linkBatch, amocrm.links.linkElements);
        wasOpen = unlinked.isOpen || linked.isOpen;
        for (const { work } of linked.refused) work.failure = "linking the goods was refused";
        // An element that is refused may have been deleted: the next attempt finds or creates it again.
        if (linked.refused.length > 0) await elements.forget(linked.refused.map(({ elementId }) => elementId));
        await read(pending); // links were seen to get lost in bulk
        pending = alive(pending).filter((work) => !sameLines(wanted(work), present.get(work) ?? []));
      }
      await save(
        alive(works).filter((work) => work.row.lines === undefined || !sameLines(work.row.lines, wanted(work))),
        (work) => ({ lines: wanted(work) }),
      );
    }

    async function syncNotes(works: readonly Work[]): Promise<void> {
      const known = new Map<Work, string>();
      const look = async (of: readonly Work[]) => {
        for (const part of chunks(of, writerBatch)) {
          const notes = await amocrm.notes.list(part.map(({ row }) => row.leadId as string));
          for (const work of part) {
            const marker = noteMarker(work.order, showShop);
            const own = notes.find(
              ({ leadId, text }) => leadId === work.row.leadId && text.split("\n", 1)[0] === marker,
            );
            if (own) known.set(work, own.id);
          }
        }
      };
      await look(works.filter(({ row, wasInterrupted }) => wasInterrupted && row.noteId === undefined));
      await save([...known.keys()], (work) => ({ noteId: known.get(work) }));

      const missing = works.filter(({ row }) => row.noteId === undefined);
      if (missing.length > 0) {
        await begin(missing);
        const byLead = new Map(missing.map((work) => [work.row.leadId as string, work]));
        const result = await writeSurely({
          items: missing,
          keyOf: ({ row }) => row.leadId as string,
          batchSize: noteBatch,
          beforeWrite,
          send: (batch) =>
            amocrm.notes.create(
              batch.map(({ row, note }) => ({
                requestId: row.leadId!,
                leadId: row.leadId!,
                service: "Kaspi",
                text: note,
              })),
            ),
          async find(batch) {
            await look(batch);
            return new Map(batch.flatMap((work) => (known.has(work) ? [[work.row.leadId!, known.get(work)!]] : [])));
          },
        });
        for (const [leadId, work] of byLead) {
          const reason = result.rejected.get(leadId);
          if (reason !== undefined) work.failure = `note refused: ${reason}`;
          else if (result.unknown.has(leadId)) work.isOpen = true;
        }
        await save(
          missing.filter(({ row }) => result.ids.has(row.leadId as string)),
          ({ row, note }) => ({ noteId: result.ids.get(row.leadId as string), noteFingerprint: fingerprint(note) }),
        );
      }
      const changed = works.filter(
        ({ row, note }) => row.noteId !== undefined && row.noteFingerprint !== fingerprint(note),
      );
      const { refused, isOpen } = await sendSplitting(changed, noteBatch, (batch) =>
        amocrm.notes.update(
          batch.map(({ row, note }) => ({ id: row.noteId!, leadId: row.leadId!, service: "Kaspi", text: note })),
        ),
      );
      for (const work of refused) work.failure = "changing the note was refused";
      if (isOpen) for (const work of changed) work.isOpen = true;
      await save(alive(changed), ({ note }) => ({ noteFingerprint: fingerprint(note) }));
    }

    async function updateLeads(works: readonly Work[]): Promise<void> {
      const changes: { work: Work; change: LeadChange }[] = [];
      const there: Work[] = []; // in the wanted stage already, by a person or by a write of ours that had no answer
      for (const work of works) {
        const { row, order, price } = work;
        const target = stageOf(order);
        if (!target) {
          report.unmapped++;
          if (options.tellsUnmapped) {
            options.alerts.raise({ kind: "unmapped", state: order.state, status: order.status });
          }
        }
        if (target && target.statusId === row.seenStageId && row.stageId !== target.statusId) there.push(work);
        const isMovedByHand = row.seenStageId !== row.stageId;
        const change: LeadChange = {
          id: row.leadId as string,
          ...(price !== row.price && { price }),
          ...(target &&
            target.statusId !== row.stageId &&
            !isMovedByHand && {
              pipelineId: options.pipelineId,
              statusId: target.statusId,
              ...(target.lossReasonId !== undefined && { lossReasonId: target.lossReasonId }),
            }),
        };
        if (change.price !== undefined || change.statusId !== undefined) changes.push({ work, change });
      }
      await save(there, ({ row }) => ({ stageId: row.seenStageId }));
      if (changes.length === 0) return;
      await begin(changes.map(({ work }) => work));
      const started = clock.now();
      const result = await writeSurely({
        items: changes,
        keyOf: ({ change }) => change.id,
        batchSize: leadBatch,
        beforeWrite,
        send: (batch) => amocrm.leads.update(batch.map(({ change }) => change)),
        async find(batch) {
          const done = new Map<string, string>();
          for await (const lead of amocrm.leads.list({ order: { by: "updated_at", direction: "desc" } })) {
            if (lead.updatedAt && lead.updatedAt.getTime() < started.getTime() - clockToleranceMs) break;
            const match = batch.find(({ change }) => change.id === lead.id);
            const { price = lead.price, statusId = lead.statusId } = match?.change ?? {};
            if (match && lead.price === price && lead.statusId === statusId) done.set(lead.id, lead.id);
          }
          return done;
        },
      });
      const gone: Work[] = [];
      for (const { work, change } of changes) {
        const reason = result.rejected.get(change.id);
        if (reason !== undefined) {
          if ((await amocrm.leads.get(change.id)) === undefined) gone.push(work);
          work.failure = `change of the lead refused: ${reason}`;
        } else if (!result.ids.has(change.id)) work.isOpen = true;
      }
      const written = changes.filter(({ change }) => result.ids.has(change.id));
      const changeOf = new Map(written.map(({ work, change }) => [work, change]));
      await save([...changeOf.keys()], (work) => {
        const { price, statusId } = changeOf.get(work) as LeadChange;
        return {
          ...(price !== undefined && { price }),
          ...(statusId !== undefined && { stageId: statusId, seenStageId: statusId }),
        };
      });
      await skip(gone, "the lead was deleted");
      report.skipped += gone.length;
    }

    const skip = (works: readonly Work[], reason: string) =>
      save(works, () => ({ phase: "skipped", intentAt: undefined, lastError: reason }));

    try {
      const rows = await ledger.claim(given, fence);
      const rowOf = new Map(rows.map((row) => [`${row.shop}\n${row.code}`, row]));
      const works: Work[] = [];
      for (const order of given) {
        const row = rowOf.get(`${order.shop}\n${order.code}`);
        if (!row || row.phase === "skipped") continue;
        const lines = mergeLines(order.entries ?? []);
        works.push({
          order,
          row,
          lines,
          note: noteText(order, lines, showShop),
          price: toWholeUnits(order.totalMinor ?? 0n),
          wasInterrupted: row.intentAt !== undefined,
          isNew: false,
        });
      }

      await resolve(works.filter(({ row, wasInterrupted }) => row.leadId === undefined && wasInterrupted));

      const fresh = alive(works).filter(({ row }) => row.leadId === undefined);
      const unwanted = fresh.filter(({ order, wasInterrupted }) => !wasInterrupted && isUnwanted(order));
      await skip(unwanted, "first seen cancelled or returned");
      const unsigned = fresh.filter(
        (work) => !unwanted.includes(work) && !work.wasInterrupted && isHeldBack(work.order),
      );
      const later = new Date(clock.now().getTime() + 3_600_000);
      await save(unsigned, () => ({ dueAt: later })); // reconcile looks at it every time; this is for a lone import
      report.skipped += unwanted.length;
      report.deferred += unsigned.length;

      const toCreate = fresh.filter((work) => !unwanted.includes(work) && !unsigned.includes(work));
      const startedAt = clock.now();
      await save(toCreate, ({ order }) => ({ phase: "creating", intentAt: startedAt, stageId: firstStage(order) }));
      const inWork = works.filter((work) => !unwanted.includes(work) && !unsigned.includes(work));
      await findContacts(alive(inWork));
      await createLeads(alive(toCreate));

      const withLead = () => alive(inWork).filter(({ row }) => row.leadId !== undefined && row.phase !== "skipped");
      await syncLines(withLead());
      await syncNotes(withLead());
      await updateLeads(withLead());

      const done = withLead();
      await save(done, ({ order, note }) => ({
        phase: "done",
        fingerprint: orderFingerprint(order, note),
        intentAt: undefined,
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

      const failed = inWork.filter((work) => work.failure !== undefined && work.row.phase !== "skipped");
      await save(failed, ({ row, failure }) => afterFailure(row, failure as string));
      report.failed += failed.length;
      report.parked += failed.filter(({ row }) => row.phase === "parked").length;
    } finally {
      await lease.release();
    }
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
    apply,
    lookAtStages: createStageWatch({ ...options, takeLease }),
    foresee,
    fingerprint: (order) => orderFingerprint(order, noteText(order, mergeLines(order.entries ?? []), showShop)),
  };
}

const isCancelled = ({ status }: KaspiOrder): boolean => status === "CANCELLED" || status === "RETURNED";

const isUnsigned = ({ state, signatureRequired }: KaspiOrder): boolean =>
  state === "SIGN_REQUIRED" || signatureRequired;

const sameLine = (left: LedgerLine, right: LedgerLine): boolean =>
  left.elementId === right.elementId && Number(left.quantity) === Number(right.quantity);

const sameLines = (left: readonly LedgerLine[], right: readonly LedgerLine[]): boolean =>
  left.length === right.length && left.every((line) => right.some((other) => sameLine(line, other)));
