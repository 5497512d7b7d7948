import * as v from "valibot";
import { idText, optionalText, readAnswer, yes } from "./answers.ts";
import type { Bitrix } from "./bitrix.ts";

/** A funnel of deals, or of another CRM type. */
export interface Category {
  /** `0` is the default funnel of deals. */
  readonly id: string;
  readonly name: string;
  readonly isDefault: boolean;
}

export interface Stage {
  /** `NEW`, in other funnels `C9:NEW`. */
  readonly id: string;
  readonly name: string;
  readonly sort: number;
  /** `success` and `failure` end a deal. */
  readonly semantics: "process" | "success" | "failure";
}

export interface Categories {
  /** Funnels of a CRM type. @defaultValue 2, deals */
  list(entityTypeId?: number): Promise<readonly Category[]>;
  /**
   * Entries of a dictionary in their order: `DEAL_STAGE` for the default funnel of deals, `DEAL_STAGE_9` for funnel 9,
   * `SOURCE`, … (`crm.status`). Empty for one that does not exist.
   */
  dictionary(entityId: string): Promise<readonly Stage[]>;
}

const categorySchema = v.object({ id: idText, name: v.fallback(v.string(), ""), isDefault: yes });
const stageSchema = v.object({
  STATUS_ID: v.string(),
  NAME: v.fallback(v.string(), ""),
  SORT: v.pipe(v.union([v.number(), v.string()]), v.transform(Number)),
  SEMANTICS: optionalText,
});

/** Both methods ignore paging and answer everything. "crm.category.list", "crm.status.list", apidocs.bitrix24.ru (read 2026-08) */
export function createCategories(bitrix: Pick<Bitrix, "call">): Categories {
  return {
    async list(entityTypeId = 2) {
      const answer = await bitrix.call("crm.category.list", { entityTypeId });
      return readAnswer(v.object({ categories: v.array(categorySchema) }), answer, "crm.category.list").categories;
    },
    async dictionary(entityId) {
      const parameters = { filter: { ENTITY_ID: entityId }, order: { SORT: "ASC" } };
      const rows = readAnswer(
        v.array(stageSchema),
        await bitrix.call("crm.status.list", parameters),
        "crm.status.list",
      );
      return rows
        .map(
          (row): Stage => ({
            id: row.STATUS_ID,
            name: row.NAME,
            sort: row.SORT,
            semantics: row.SEMANTICS === "S" ? "success" : row.SEMANTICS === "F" ? "failure" : "process",
          }),
        )
        .sort((left, right) => left.sort - right.sort);
    },
  };
}
