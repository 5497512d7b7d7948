import { shapeError } from "./answers.ts";
import type { Bitrix, CallOptions } from "./bitrix.ts";
import { createCategories, type Stage } from "./categories.ts";
import { createDealPayments, type DealPayments } from "./deal-payments.ts";
import { createItems, type Item } from "./items.ts";
import type { ListOptions } from "./list.ts";
import type { Parameters } from "./parameters.ts";
import { createUserFields, type UserFields } from "./user-fields.ts";

/** A deal as `crm.item` gives it. User fields keep their original names. */
export interface Deal {
  readonly id: string;
  readonly title: string;
  readonly stageId: string;
  readonly categoryId: string;
  /** ISO 8601 with offset. */
  readonly movedTime: string | undefined;
  readonly updatedTime: string | undefined;
  readonly originatorId: string | undefined;
  readonly originId: string | undefined;
  /** Everything that came, user fields included. */
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface Deals {
  /** `undefined` when there is no such deal. */
  get(id: string): Promise<Deal | undefined>;
  /** Changes fields, by their `crm.item` names, and gives the deal as it is then: an unknown field changes nothing. */
  update(id: string, fields: Parameters, options?: Pick<CallOptions, "signal">): Promise<Deal>;
  /**
   * Creates a deal once per (`originatorId`, `originId`): looks for it before, and again when the reply was lost.
   * Two processes that create the same one at the same moment may still both succeed: Bitrix24 has no unique key.
   */
  add(deal: { readonly originatorId: string; readonly originId: string; readonly fields: Parameters }): Promise<Deal>;
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<Deal>;
  /** Stages of a funnel (`0` is the default one), in their order. */
  stages(categoryId: string): Promise<readonly Stage[]>;
  readonly userFields: UserFields;
  readonly payments: DealPayments;
}

const dealEntity = 2;

function toDeal(item: Item): Deal {
  const { id, title, stageId, categoryId = "0", movedTime, updatedTime, originatorId, originId, fields } = item;
  if (stageId === undefined) throw shapeError("crm.item", ["stageId"]);
  return { id, title, stageId, categoryId, movedTime, updatedTime, originatorId, originId, fields };
}

/** Deals by the `crm.item` methods: the classic ones are frozen and cannot change the funnel. */
export function createDeals(bitrix: Pick<Bitrix, "call" | "list">): Deals {
  const items = createItems(bitrix, dealEntity);
  const categories = createCategories(bitrix);
  return {
    async get(id) {
      const item = await items.get(id);
      return item && toDeal(item);
    },
    update: async (id, fields, options) => toDeal(await items.update(id, fields, options)),
    add: async ({ originatorId, originId, fields }) =>
      toDeal(await items.add({ match: { originatorId, originId }, fields })),
    async *list(parameters = {}, options) {
      for await (const item of items.list(parameters, options)) yield toDeal(item);
    },
    stages: (categoryId) => categories.dictionary(categoryId === "0" ? "DEAL_STAGE" : `DEAL_STAGE_${categoryId}`),
    userFields: createUserFields(bitrix),
    payments: createDealPayments(bitrix),
  };
}
