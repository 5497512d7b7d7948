import * as v from "valibot";
import { createOnce, equalTo, holds, idText, isRefusal, optionalId, optionalText, readAnswer } from "./answers.ts";
import type { Bitrix, CallOptions } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import type { ListOptions } from "./list.ts";
import { type Parameter, type Parameters, withFields } from "./parameters.ts";

/** An element of any CRM type as `crm.item` gives it: a deal, a smart invoice, an element of a smart process. */
export interface Item {
  readonly id: string;
  readonly title: string;
  /** `undefined` where the type has no stages. */
  readonly stageId: string | undefined;
  readonly categoryId: string | undefined;
  /** ISO 8601 with offset. */
  readonly movedTime: string | undefined;
  readonly updatedTime: string | undefined;
  readonly xmlId: string | undefined;
  readonly originatorId: string | undefined;
  readonly originId: string | undefined;
  /** Everything that came, in camel case; user fields keep their original names. */
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface Items {
  /** `undefined` when there is no such element. */
  get(id: string): Promise<Item | undefined>;
  /**
   * Creates an element once per `match`: fields of your own system's id, e.g. `{ xmlId: "order-17" }`, or
   * `{ originatorId, originId }` for deals. It is looked for before, and again when the reply was lost. Bitrix24 has no
   * unique key: two processes may still both create.
   *
   * @throws {ResponseShapeError} when this type has no such field, so that the next look would not find the element.
   */
  add(item: { readonly match: Parameters; readonly fields: Parameters }): Promise<Item>;
  /** Gives the element as it is then: an unknown field and a stage of another funnel change nothing, without a word. */
  update(id: string, fields: Parameters, options?: Pick<CallOptions, "signal">): Promise<Item>;
  /** In the order of the ids. `true` and `false` in the filter become `1` and `0`, which `crm.item.list` wants. */
  list(parameters?: Parameters, options?: ListOptions): AsyncIterableIterator<Item>;
}

const itemSchema = v.looseObject({
  id: idText,
  title: v.fallback(v.string(), ""),
  stageId: optionalText,
  categoryId: optionalId,
  movedTime: optionalText,
  updatedTime: optionalText,
  xmlId: optionalText,
  originatorId: optionalText,
  originId: optionalText,
});
/** Asked for beside what a `select` names; what the type does not have is left out. */
const itemFields = Object.keys(itemSchema.entries);
const answerSchema = v.object({ item: v.unknown() });

function toItem(value: unknown, method: string): Item {
  const { id, title, stageId, categoryId, movedTime, updatedTime, xmlId, originatorId, originId } = readAnswer(
    itemSchema,
    value,
    method,
  );
  const fields = value as Readonly<Record<string, unknown>>;
  return { id, title, stageId, categoryId, movedTime, updatedTime, xmlId, originatorId, originId, fields };
}

const withNumbers = (filter: Parameter): Parameter => {
  if (typeof filter === "boolean") return filter ? 1 : 0;
  if (Array.isArray(filter)) return filter.map(withNumbers);
  if (typeof filter !== "object" || filter === null || filter instanceof Date) return filter;
  if (Object.getPrototypeOf(filter) !== Object.prototype || Object.getOwnPropertySymbols(filter).length > 0)
    return filter;
  return Object.fromEntries(Object.entries(filter).map(([name, value]) => [name, withNumbers(value)]));
};

/**
 * Elements of one CRM type by the `crm.item` methods. `entityTypeId`: 1 lead, 2 deal, 3 contact, 4 company, 7 quote,
 * 31 smart invoice, 128 and above smart processes.
 *
 * @see apidocs.bitrix24.ru, "Universal methods" (read 2026-08)
 */
export function createItems(bitrix: Pick<Bitrix, "call" | "list">, entityTypeId: number): Items {
  if (!Number.isSafeInteger(entityTypeId) || entityTypeId < 1) {
    throw new InputError("entityTypeId", "must be the number of a CRM type, e.g. 2 for deals");
  }
  const common = { entityTypeId, useOriginalUfNames: "Y" } as const;

  async function call(method: string, parameters: Parameters, options: CallOptions = {}): Promise<Item> {
    const answer = await bitrix.call(method, { ...common, ...parameters }, options);
    return toItem(readAnswer(answerSchema, answer, method).item, method);
  }

  async function find(match: Parameters): Promise<Item | undefined> {
    const { items } = readAnswer(
      v.object({ items: v.array(v.unknown()) }),
      await bitrix.call("crm.item.list", { ...common, filter: equalTo(match), order: { id: "ASC" } }),
      "crm.item.list",
    );
    return items.map((item) => toItem(item, "crm.item.list")).find(({ fields }) => holds(fields, match));
  }

  return {
    async get(id) {
      try {
        return await call("crm.item.get", { id });
      } catch (error) {
        if (isRefusal(error, ["NOT_FOUND", "ERROR_NOT_FOUND"])) return undefined;
        throw error;
      }
    },
    async add({ match, fields }) {
      const values = Object.entries(match);
      const empty = values.find(([, value]) => value === undefined || value === null || value === "");
      if (empty) throw new InputError(`match.${empty[0]}`, "must not be empty: by it the element is found again");
      if (values.length === 0) throw new InputError("match", "must name at least one field with a value");
      const method = "crm.item.add";
      return createOnce({
        method,
        match,
        find: () => find(match),
        create: () => call(method, { fields: { ...fields, ...match } }),
      });
    },
    update: (id, fields, options) => call("crm.item.update", { id, fields }, options),
    async *list(parameters = {}, options = {}) {
      const filter = parameters.filter === undefined ? {} : { filter: withNumbers(parameters.filter) };
      const all = withFields({ ...parameters, ...filter, ...common }, itemFields);
      for await (const item of bitrix.list("crm.item.list", all, options)) {
        yield toItem(item, "crm.item.list");
      }
    },
  };
}
