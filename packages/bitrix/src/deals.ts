import { ApiError, ResponseShapeError, SdkError } from "@orderbridge/core";
import * as v from "valibot";
import type { Bitrix } from "./bitrix.ts";
import type { ListOptions } from "./list.ts";
import type { Parameters } from "./parameters.ts";

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

export interface Stage {
  /** `NEW`, in other funnels `C9:NEW`. */
  readonly id: string;
  readonly name: string;
  readonly sort: number;
  /** `success` and `failure` end a deal. */
  readonly semantics: "process" | "success" | "failure";
}

export interface Deals {
  /** `undefined` when there is no such deal. */
  get(id: string): Promise<Deal | undefined>;
  /** Changes fields, by their `crm.item` names, and gives the deal as it is then: an unknown field changes nothing. */
  update(id: string, fields: Parameters): Promise<Deal>;
  /**
   * Creates a deal once per (`originatorId`, `originId`): looks for it before, and again when the reply was lost.
   * Two processes that create the same one at the same moment may still both succeed: Bitrix24 has no unique key.
   */
  add(deal: { readonly originatorId: string; readonly originId: string; readonly fields: Parameters }): Promise<Deal>;
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<Deal>;
  /** Stages of a funnel (`0` is the default one), in their order. */
  stages(categoryId: string): Promise<readonly Stage[]>;
}

const dealEntity = 2;

const id = v.pipe(v.union([v.number(), v.string()]), v.transform(String));
const optionalText = v.pipe(
  v.nullish(v.string()),
  v.transform((text) => text ?? undefined),
);
const itemSchema = v.looseObject({
  id,
  title: v.fallback(v.string(), ""),
  stageId: v.string(),
  categoryId: v.fallback(id, "0"),
  movedTime: v.fallback(optionalText, undefined),
  updatedTime: v.fallback(optionalText, undefined),
  originatorId: v.fallback(optionalText, undefined),
  originId: v.fallback(optionalText, undefined),
});
const stageSchema = v.object({
  STATUS_ID: v.string(),
  NAME: v.fallback(v.string(), ""),
  SORT: v.pipe(v.union([v.number(), v.string()]), v.transform(Number)),
  SEMANTICS: v.fallback(v.nullish(v.string()), null),
});

function read<Schema extends v.GenericSchema>(schema: Schema, value: unknown, method: string): v.InferOutput<Schema> {
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  const paths = parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)");
  throw new ResponseShapeError(`bitrix: ${method} answered an unexpected shape at ${paths.slice(0, 5).join(", ")}`, {
    vendor: "bitrix",
    status: 200,
    paths,
    outcome: "executed",
  });
}

function toDeal(item: unknown, method: string): Deal {
  const { id, title, stageId, categoryId, movedTime, updatedTime, originatorId, originId } = read(
    itemSchema,
    item,
    method,
  );
  return {
    id,
    title,
    stageId,
    categoryId,
    movedTime,
    updatedTime,
    originatorId,
    originId,
    fields: item as Readonly<Record<string, unknown>>,
  };
}

const isNotFound = (error: unknown): boolean =>
  error instanceof ApiError && (error.vendorCode === "NOT_FOUND" || error.vendorCode === "ERROR_NOT_FOUND");

/** Deals by the `crm.item` methods: the classic ones are frozen and cannot change the funnel. */
export function createDeals(bitrix: Pick<Bitrix, "call" | "list">): Deals {
  const common = { entityTypeId: dealEntity, useOriginalUfNames: "Y" } as const;

  async function findByOrigin(originatorId: string, originId: string): Promise<Deal | undefined> {
    const { items } = read(
      v.object({ items: v.array(v.unknown()) }),
      await bitrix.call("crm.item.list", {
        ...common,
        filter: { "=originatorId": originatorId, "=originId": originId },
        order: { id: "ASC" },
      }),
      "crm.item.list",
    );
    return items.length > 0 ? toDeal(items[0], "crm.item.list") : undefined;
  }

  return {
    async get(id) {
      try {
        const { item } = await bitrix.call<{ item: unknown }>("crm.item.get", { ...common, id });
        return toDeal(item, "crm.item.get");
      } catch (error) {
        if (isNotFound(error)) return undefined;
        throw error;
      }
    },
    async update(id, fields) {
      const { item } = await bitrix.call<{ item: unknown }>("crm.item.update", { ...common, id, fields });
      return toDeal(item, "crm.item.update");
    },
    async add({ originatorId, originId, fields }) {
      const known = await findByOrigin(originatorId, originId);
      if (known) return known;
      try {
        const { item } = await bitrix.call<{ item: unknown }>("crm.item.add", {
          ...common,
          fields: { ...fields, originatorId, originId },
        });
        return toDeal(item, "crm.item.add");
      } catch (error) {
        if (!SdkError.isInstance(error) || (error.outcome !== "unknown" && error.outcome !== "executed")) throw error;
        const created = await findByOrigin(originatorId, originId);
        if (created) return created;
        throw error;
      }
    },
    async *list(parameters = {}, options = {}) {
      for await (const item of bitrix.list("crm.item.list", { ...parameters, ...common }, options)) {
        yield toDeal(item, "crm.item.list");
      }
    },
    async stages(categoryId) {
      const dictionary = categoryId === "0" ? "DEAL_STAGE" : `DEAL_STAGE_${categoryId}`;
      const rows = read(
        v.array(stageSchema),
        await bitrix.call("crm.status.list", { filter: { ENTITY_ID: dictionary }, order: { SORT: "ASC" } }),
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
