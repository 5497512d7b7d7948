import type { Clock, HeldLease, WatermarkStore } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { Lead } from "../amocrm/leads.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import type { LedgerRow, OrderLedger } from "../ledger.ts";
import type { Alerts } from "./alerts.ts";
import type { LeadPrices } from "./prices.ts";

/** Clocks differ: how much older than our intent a lead may look. */
export const clockToleranceMs = 600_000;
const lostStage = "143";
/** Won and lost: the same ids in every pipeline. */
export const closedStages: readonly string[] = ["142", lostStage];

/** Tags of our leads. The code's is there when there is no field for it, the shop's when there are several. */
export const codeTag = (order: Pick<KaspiOrder, "code">): string => `Kaspi ${order.code}`;
export const shopTag = (order: Pick<KaspiOrder, "shop">): string => `Kaspi: ${order.shop}`;

/** What a lead says of its order. It may be older than today's options: made before there was a field, or a second shop. */
export interface LeadMarks {
  /** Of the field; while that is empty, of the tags. */
  readonly codes: readonly string[];
  /** `undefined` of leads that were made while there was one shop only. */
  readonly shop: string | undefined;
}

export function leadMarks({ fields, tags }: Pick<Lead, "fields" | "tags">, codeFieldId: string | undefined): LeadMarks {
  const behind = (start: string) => tags.filter((tag) => tag.startsWith(start)).map((tag) => tag.slice(start.length));
  const inField = fields.find(({ fieldId }) => fieldId === codeFieldId)?.values[0];
  return { codes: inField ? [inField] : behind(codeTag({ code: "" })), shop: behind(shopTag({ shop: "" }))[0] };
}

export interface StageWatchOptions {
  readonly amocrm: Amocrm;
  readonly orders: OrderLedger;
  readonly watermarks: WatermarkStore;
  readonly pipelineId: string;
  readonly orderCodeFieldId: string | undefined;
  readonly shops: readonly string[];
  readonly alerts: Alerts;
  readonly clock: Clock;
  readonly prices: Pick<LeadPrices, "learn">;
}

/**
 * Learns where people moved leads by hand since the last look, one request when little happened, and closes second leads
 * of an order. Under the writer's lease: no move of our own is under way meanwhile.
 */
export function createStageWatch({
  amocrm,
  orders: ledger,
  watermarks,
  pipelineId,
  orderCodeFieldId,
  shops,
  alerts,
  clock,
  prices,
}: StageWatchOptions): (lease: HeldLease) => Promise<void> {
  /** The row of the order that a lead says it belongs to; of several the one that has a lead. */
  async function rowOf({ codes, shop }: LeadMarks): Promise<LedgerRow | undefined> {
    const asked = shops.filter((name) => shop === undefined || name === shop);
    const keys = asked.flatMap((name) => codes.map((code) => ({ shop: name, code })));
    const rows = await Promise.all(keys.map((key) => ledger.get(key)));
    return rows.find((row) => row?.leadId !== undefined) ?? rows.find((row) => row?.phase === "creating");
  }

  /**
   * Closes open leads that carry the code of an order whose lead is another one. Gives whether all could be judged: what
   * amoCRM refuses to close is, and is told.
   */
  async function closeTwins(leads: readonly Lead[], lease: HeldLease): Promise<boolean> {
    const open = leads.filter((lead) => lead.pipelineId === pipelineId && !closedStages.includes(lead.statusId ?? ""));
    const carrying = open.filter((lead) => leadMarks(lead, orderCodeFieldId).codes.length > 0);
    const ours = new Set((await ledger.byLead(carrying.map(({ id }) => id))).map(({ leadId }) => leadId));
    let isComplete = true;
    for (const twin of carrying.filter(({ id }) => !ours.has(id))) {
      const row = await rowOf(leadMarks(twin, orderCodeFieldId));
      if (!row) continue;
      const { shop, code } = row;
      if (row.leadId === undefined) {
        isComplete = false; // it may become the order's lead
        continue;
      }
      const own = await amocrm.leads.get(row.leadId);
      if (own === undefined) continue; // a lead that a person made in place of a deleted one is no twin
      const told = { kind: "twin", shop, code, leadId: row.leadId, twinId: twin.id } as const;
      // We write after the checkout, and the second time after the first; what was there before is somebody else's.
      const madeAt = (lead: Lead) => lead.createdAt?.getTime() ?? 0;
      if (madeAt(twin) < Math.max(madeAt(own) - clockToleranceMs, row.orderedAt.getTime() - 1_000)) {
        alerts.raise({ ...told, isClosed: false });
        continue;
      }
      const text = `Двойник: сделка заказа Kaspi ${code} — ${row.leadId}`;
      const notes = await amocrm.notes.list([twin.id]);
      lease.assertHeld();
      if (!notes.some((note) => note.text === text)) {
        const noted = await amocrm.notes.create([{ requestId: twin.id, leadId: twin.id, service: "Kaspi", text }]);
        if (!noted.written.has(twin.id)) {
          if (noted.rejected.has(twin.id)) alerts.raise({ ...told, isClosed: false });
          else isComplete = false;
          continue;
        }
        lease.assertHeld();
      }
      const answer = await amocrm.leads.update([{ id: twin.id, pipelineId: pipelineId, statusId: lostStage }]);
      const isClosed = answer.written.has(twin.id) || (await amocrm.leads.get(twin.id))?.statusId === lostStage; // its answer was lost
      if (isClosed || answer.settled) alerts.raise({ ...told, isClosed });
      else isComplete = false;
    }
    return isComplete;
  }

  async function look(lease: HeldLease): Promise<void> {
    const key = `amocrm-leads:${amocrm.host}`;
    const position = await watermarks.get(key);
    const startedAt = clock.now().getTime();
    const until = position === undefined ? startedAt - 86_400_000 : Number(position) - clockToleranceMs;
    let isComplete = true;
    let part: Lead[] = [];
    const learn = async () => {
      await ledger.noteStages(
        new Map(part.flatMap(({ id, statusId }) => (statusId === undefined ? [] : [[id, statusId]]))),
      );
      if (!(await closeTwins(part, lease))) isComplete = false;
      part = [];
    };
    for await (const lead of amocrm.leads.list({ order: { by: "updated_at", direction: "desc" } })) {
      if (lead.updatedAt && lead.updatedAt.getTime() < until) break;
      prices.learn(lead);
      part.push(lead);
      if (part.length < 250) continue;
      lease.assertHeld();
      await learn();
    }
    await learn();
    if (isComplete) await watermarks.advance(key, position, String(startedAt));
  }

  return look;
}
