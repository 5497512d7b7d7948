import { ConfigError, createStatusMapper } from "@orderbridge/core";
import type { Stage } from "./categories.ts";
import type { Deal, Deals } from "./deals.ts";
import type { SideState, SyncSide } from "./status-sync.ts";

export interface DealSideOptions {
  readonly bitrix: { readonly deals: Pick<Deals, "get" | "update" | "stages"> };
  /** Shared status -> stage id: `{ new: "C9:NEW", delivered: "C9:WON" }`. A stage stands for one status. */
  readonly stages: Readonly<Record<string, string>>;
  /** Funnel of these stages. @defaultValue "0" */
  readonly categoryId?: string;
  /** Where a payment moves a deal, from a stage in progress that is sorted before it. Left out: a payment moves nothing. */
  readonly paidStageId?: string;
  /** Field of the deal that holds the other side's id. @defaultValue "UF_CRM_ORDER_ID" */
  readonly linkField?: string;
}

export interface DealSide extends SyncSide {
  /**
   * Compares the mapping with the portal's stages; call it at start.
   * @throws {ConfigError} names stages of the mapping that the funnel does not have.
   */
  check(): Promise<{ readonly unmappedStages: readonly string[] }>;
}

/** The other side's id in a field of text or of whole numbers; `undefined` for an empty one. */
export function readLink(value: unknown): string | undefined {
  if (typeof value === "number") return value > 0 ? String(value) : undefined;
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Deals of Bitrix24 as a side of a sync. */
export function createDealSide(options: DealSideOptions): DealSide {
  const { bitrix, stages: stageByStatus, categoryId = "0", paidStageId, linkField = "UF_CRM_ORDER_ID" } = options;
  const mapper = createStatusMapper<[string, string][]>({
    pairs: Object.entries(stageByStatus).map(([status, stage]) => [stage, status]),
  });
  let loaded: Promise<ReadonlyMap<string, Stage>> | undefined;

  async function load(): Promise<ReadonlyMap<string, Stage>> {
    const stages = new Map((await bitrix.deals.stages(categoryId)).map((stage) => [stage.id, stage]));
    const unknown = [...mapper.codes, ...(paidStageId === undefined ? [] : [paidStageId])].filter(
      (stage) => !stages.has(stage),
    );
    if (unknown.length > 0) {
      throw new ConfigError(
        `stages: funnel ${categoryId} has no ${[...new Set(unknown)].join(", ")}; it has ${[...stages.keys()].join(", ")}`,
      );
    }
    return stages;
  }

  /** Stages are read once; a stage that appears later is read then. */
  async function stageOf(id: string): Promise<Stage | undefined> {
    loaded ??= load();
    try {
      const known = (await loaded).get(id);
      if (known) return known;
      loaded = load();
      return (await loaded).get(id);
    } catch (error) {
      loaded = undefined;
      throw error;
    }
  }

  async function toState(deal: Deal): Promise<SideState> {
    const mapped = mapper.map(deal.stageId);
    // A deal of another funnel has stages of its own; none of ours applies to it.
    const semantics = deal.categoryId === categoryId ? (await stageOf(deal.stageId))?.semantics : undefined;
    const movedAt = new Date(deal.movedTime ?? deal.updatedTime ?? Number.NaN);
    return {
      code: deal.stageId,
      status: "status" in mapped ? mapped.status : undefined,
      paid: undefined,
      rank: semantics === "failure" ? "cancelled" : semantics === "success" ? "final" : "progress",
      changedAt: Number.isNaN(movedAt.getTime()) ? undefined : movedAt,
    };
  }

  return {
    name: "bitrix24",
    async check() {
      loaded = load();
      const stages = await loaded.catch((error) => {
        loaded = undefined;
        throw error;
      });
      return { unmappedStages: [...stages.keys()].filter((stage) => "unmapped" in mapper.map(stage)) };
    },
    async read(id) {
      const deal = await bitrix.deals.get(id);
      return deal && toState(deal);
    },
    async target({ status, paid }, seen) {
      const mapped = status === undefined ? { code: seen.code } : mapper.unmap(status);
      if ("unmapped" in mapped) return undefined;
      if (!paid || paidStageId === undefined) return mapped.code;
      const [from, paidStage] = await Promise.all([stageOf(mapped.code), stageOf(paidStageId)]);
      const advances = from?.semantics === "process" && paidStage !== undefined && from.sort < paidStage.sort;
      return advances ? paidStageId : mapped.code;
    },
    async write(id, { code, seen, peerId, signal }) {
      // The link travels with the first write: a restored or emptied database finds the pair again by it.
      const fields = { stageId: code, categoryId, [linkField]: peerId };
      const deal = await bitrix.deals.update(id, fields, signal ? { signal } : {});
      const state = await toState(deal);
      // What a robot made of it is not ours: it will be seen as a move of the deal. One that put it back has refused it.
      return state.code === seen.code ? state : { ...state, code };
    },
    async peerOf(id) {
      return readLink((await bitrix.deals.get(id))?.fields[linkField]);
    },
  };
}
