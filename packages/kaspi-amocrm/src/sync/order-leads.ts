import type { Clock, HeldLease } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { Lead, LeadChange, NewLead } from "../amocrm/leads.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import type { LedgerRow, OrderLedger } from "../ledger.ts";
import { toWholeUnits } from "../money.ts";
import type { Alerts } from "./alerts.ts";
import { createBatchSize, writeSurely } from "./bulk.ts";
import type { ContactFinder } from "./contacts.ts";
import type { StageTarget } from "./options.ts";
import { type Turn, type Work, writerBatch } from "./order-work.ts";
import { type LeadPrices, leadPrice, priceToWire } from "./prices.ts";
import { clockToleranceMs, closedStages, codeTag, leadMarks, shopTag } from "./stages.ts";

export interface LeadWriterOptions {
  readonly amocrm: Amocrm;
  readonly orders: OrderLedger;
  readonly contacts: Pick<ContactFinder, "forgetGone">;
  readonly pipelineId: string;
  readonly statusId: string;
  readonly responsibleUserId: string | undefined;
  readonly orderCodeFieldId: string | undefined;
  readonly stageOf: (order: KaspiOrder) => StageTarget | undefined;
  /** Several shops: the shop is told by a tag. */
  readonly showShop: boolean;
  readonly settleMs: number;
  /** Statuses without a stage are told; not when no status has one. */
  readonly tellsUnmapped: boolean;
  readonly alerts: Alerts;
  readonly prices: Pick<LeadPrices, "learn">;
  /** Learns where all leads are. */
  readonly lookAtStages: (held: HeldLease) => Promise<void>;
  readonly clock: Clock;
}

/** Up to so many leads are read each by itself, more by the list of what changed. */
const readOneByOne = 3;

const leadName = ({ code }: Pick<KaspiOrder, "code">): string => `Kaspi ${code}`;

/** Creates the lead of an order exactly once, and moves its stage and price along. */
export function createLeadWriter(options: LeadWriterOptions) {
  const { amocrm, orders: ledger, clock, showShop, stageOf } = options;
  const leadBatch = createBatchSize(writerBatch);

  /**
   * Whether a lead is that of an order: `surely`, or `likely` when other options made it, with another field for the
   * code or without a second shop.
   */
  function isOf(order: KaspiOrder, lead: Lead): "surely" | "likely" | undefined {
    const { codes, shop } = leadMarks(lead, options.orderCodeFieldId);
    if (shop !== undefined && shop !== order.shop) return undefined;
    if (codes.includes(order.code)) return shop === undefined && showShop ? "likely" : "surely";
    return codes.length === 0 && lead.name === leadName(order) ? "likely" : undefined;
  }

  /** Leads that already exist for orders whose creation was begun: the newest leads, then a search for the few left. */
  async function findLeads(works: readonly Work[], since: Date): Promise<Map<string, Lead>> {
    const found = new Map<string, Lead>();
    const likely = new Map<string, Lead[]>();
    const missing = () => works.filter(({ order }) => !found.has(order.code));
    const consider = (lead: Lead) => {
      options.prices.learn(lead);
      for (const { order } of missing()) {
        const how = isOf(order, lead);
        if (how === "surely") found.set(order.code, lead);
        else if (how === "likely") likely.set(order.code, [...(likely.get(order.code) ?? []), lead]);
      }
    };
    const until = since.getTime() - clockToleranceMs;
    for await (const lead of amocrm.leads.list({ order: { by: "created_at", direction: "desc" } })) {
      if (lead.createdAt && lead.createdAt.getTime() < until) break;
      consider(lead);
      if (missing().length === 0) break;
    }
    const unseen = missing().filter(({ order }) => !likely.has(order.code));
    for (const { order } of unseen.slice(0, 3)) {
      for await (const lead of amocrm.leads.list({ query: order.code })) consider(lead);
    }
    const candidates = [...found.values(), ...[...likely.values()].flat()];
    const owned = await ledger.byLead(candidates.map(({ id }) => id));
    const isFree = (lead: Lead, { code, shop }: LedgerRow) =>
      owned.every((row) => row.leadId !== lead.id || (row.code === code && row.shop === shop));
    return new Map(
      works.flatMap(({ row }) => {
        const sure = found.get(row.code);
        const lead = [...(sure ? [sure] : (likely.get(row.code) ?? []))].find((candidate) => isFree(candidate, row));
        return lead ? [[row.code, lead] as const] : [];
      }),
    );
  }

  function toNewLead({ order, priceMinor, row }: Work): NewLead {
    return {
      requestId: order.code,
      name: leadName(order),
      ...(priceMinor !== undefined && { price: priceToWire(priceMinor) }),
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

  const adopted = ({ row, order, priceMinor }: Work, lead: Lead) => ({
    phase: "lead" as const,
    leadId: lead.id,
    stageId: row.stageId ?? firstStage(order),
    seenStageId: lead.statusId ?? row.stageId ?? firstStage(order),
    priceMinor: leadPrice(lead) ?? priceMinor,
  });

  /** Leads that an earlier attempt may have created: adopted when found, created anew only after the settling time. */
  async function adopt({ save }: Turn, works: readonly Work[]): Promise<void> {
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

  async function create({ save, begin, beforeWrite }: Turn, works: readonly Work[]): Promise<void> {
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
      if (!work) continue;
      work.failure = `lead refused: ${reason}`;
      const { contactId } = work.row;
      // Merged or deleted since: the next try finds the buyer's other contact, or makes one.
      if (contactId === undefined || !reason.includes("_embedded.contacts")) continue;
      if (await options.contacts.forgetGone(contactId)) await save([work], () => ({ contactId: undefined }));
    }
    for (const code of result.unknown) {
      const work = byCode.get(code);
      if (work) work.isOpen = true;
    }
    const created = works.filter(({ order }) => result.ids.has(order.code));
    for (const work of created) work.isNew = true;
    await save(created, ({ order, row, priceMinor }) => ({
      phase: "lead",
      leadId: result.ids.get(order.code),
      seenStageId: row.stageId,
      priceMinor,
    }));
  }

  /** Where a write of the stage that did not end has left the lead. */
  async function settleStage({ save }: Turn, work: Work): Promise<void> {
    const seenStageId = (await amocrm.leads.get(work.row.leadId as string))?.statusId;
    if (seenStageId === undefined) return; // deleted: the next change of it is refused, and tells
    const isOurs = seenStageId === work.row.intendedStageId;
    await save([work], () => ({ seenStageId, intendedStageId: undefined, ...(isOurs && { stageId: seenStageId }) }));
  }

  /** A former version kept whole units, and its rows a mark: what it rounded has not changed. */
  const isRounded = ({ row, priceMinor }: Work): boolean =>
    row.fingerprint?.endsWith(":") === true &&
    priceMinor !== undefined &&
    priceMinor !== row.priceMinor &&
    toWholeUnits(BigInt(priceMinor)) * 100 === row.priceMinor;

  const isMovedByHand = ({ row }: Work): boolean => row.seenStageId !== row.stageId;

  /** Right before leads are moved: where people have moved them since the last look. */
  async function seeStages(turn: Turn, works: readonly Work[]): Promise<void> {
    const open = works.filter(({ row }) => row.intendedStageId !== undefined);
    for (const work of open) await settleStage(turn, work);
    const moving = works.filter((work) => {
      const target = stageOf(work.order);
      const moves = target !== undefined && target.statusId !== work.row.stageId && !isMovedByHand(work);
      return moves && !work.isNew && !open.includes(work);
    });
    const seen = new Map<string | undefined, string | undefined>();
    if (moving.length <= readOneByOne) {
      for (const { row } of moving) seen.set(row.leadId, (await amocrm.leads.get(row.leadId as string))?.statusId);
    } else {
      await options.lookAtStages(turn.held);
      const rows = await ledger.byLead(moving.map(({ row }) => row.leadId as string));
      for (const { leadId, seenStageId } of rows) seen.set(leadId, seenStageId);
    }
    const isNews = ({ row }: Work) => (seen.get(row.leadId) ?? row.seenStageId) !== row.seenStageId;
    await turn.save(moving.filter(isNews), ({ row }) => ({ seenStageId: seen.get(row.leadId) }));
  }

  async function update(turn: Turn, works: readonly Work[]): Promise<void> {
    const { save, begin, beforeWrite, report } = turn;
    await seeStages(turn, works);
    await save(works.filter(isRounded), ({ priceMinor }) => ({ priceMinor }));
    const changes: { work: Work; change: LeadChange }[] = [];
    const there: Work[] = []; // in the wanted stage already, by a person or by a write of ours that had no answer
    for (const work of works) {
      const { row, order, priceMinor } = work;
      const target = stageOf(order);
      if (!target) {
        report.unmapped++;
        if (options.tellsUnmapped) {
          options.alerts.raise({ kind: "unmapped", state: order.state, status: order.status });
        }
      }
      if (target && target.statusId === row.seenStageId && row.stageId !== target.statusId) there.push(work);
      const change: LeadChange = {
        id: row.leadId as string,
        ...(priceMinor !== undefined && priceMinor !== row.priceMinor && { price: priceToWire(priceMinor) }),
        ...(target &&
          target.statusId !== row.stageId &&
          !isMovedByHand(work) && {
            pipelineId: options.pipelineId,
            statusId: target.statusId,
            ...(target.lossReasonId !== undefined && { lossReasonId: target.lossReasonId }),
          }),
      };
      if (change.price !== undefined || change.statusId !== undefined) changes.push({ work, change });
    }
    await save(there, ({ row }) => ({ stageId: row.seenStageId }));
    if (changes.length === 0) return;
    const stageOfChange = new Map(changes.map(({ work, change }) => [work, change.statusId]));
    await begin([...stageOfChange.keys()], (work) => ({ intendedStageId: stageOfChange.get(work) }));
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
          const told = lead.exactPrice ?? lead.price;
          const { price = told, statusId = lead.statusId } = match?.change ?? {};
          if (match && told === price && lead.statusId === statusId) done.set(lead.id, lead.id);
        }
        return done;
      },
    });
    for (const { work, change } of changes) {
      const reason = result.rejected.get(change.id);
      if (reason !== undefined) work.failure = `change of the lead refused: ${reason}`;
      else if (!result.ids.has(change.id)) work.isOpen = true;
    }
    const written = changes.filter(({ change }) => result.ids.has(change.id));
    const changeOf = new Map(written.map(({ work, change }) => [work, change]));
    await save([...changeOf.keys()], (work) => {
      const { price, statusId } = changeOf.get(work) as LeadChange;
      return {
        ...(price !== undefined && { priceMinor: work.priceMinor }),
        ...(statusId !== undefined && { stageId: statusId, seenStageId: statusId, intendedStageId: undefined }),
      };
    });
  }

  return { adopt, create, update, firstStage };
}
