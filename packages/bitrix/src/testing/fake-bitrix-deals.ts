import type { Clock } from "@orderbridge/core";
import { type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { page, type SortedRows, sortedPage } from "./fake-bitrix-rows.ts";

export interface FakeDeal {
  readonly id: number;
  readonly title: string;
  readonly stageId: string;
  readonly categoryId: number;
  readonly fields: Values;
}

export interface FakeStage {
  readonly id: string;
  readonly name: string;
  readonly sort: number;
  readonly semantics: "process" | "success" | "failure";
}

/** Names, order and meaning of the default funnel. "crm.status.list", apidocs.bitrix24.ru (read 2026-08) */
const defaultStages: readonly FakeStage[] = [
  { id: "NEW", name: "Новая", sort: 10, semantics: "process" },
  { id: "PREPARATION", name: "Подготовка документов", sort: 20, semantics: "process" },
  { id: "PREPAYMENT_INVOICE", name: "Cчет на предоплату", sort: 30, semantics: "process" },
  { id: "EXECUTING", name: "В работе", sort: 40, semantics: "process" },
  { id: "FINAL_INVOICE", name: "Финальный счет", sort: 50, semantics: "process" },
  { id: "WON", name: "Сделка успешна", sort: 60, semantics: "success" },
  { id: "LOSE", name: "Сделка провалена", sort: 70, semantics: "failure" },
  { id: "APOLOGY", name: "Анализ причины провала", sort: 80, semantics: "failure" },
];

/** Classic names of a deal's fields. */
const classicNames: Readonly<Record<string, string>> = {
  id: "ID",
  title: "TITLE",
  stageId: "STAGE_ID",
  categoryId: "CATEGORY_ID",
  opportunity: "OPPORTUNITY",
  currencyId: "CURRENCY_ID",
  originatorId: "ORIGINATOR_ID",
  originId: "ORIGIN_ID",
  movedTime: "MOVED_TIME",
  updatedTime: "DATE_MODIFY",
  createdTime: "DATE_CREATE",
  closed: "CLOSED",
  comments: "COMMENTS",
};
const itemNames = Object.fromEntries(Object.entries(classicNames).map(([item, classic]) => [classic, item]));

/** Fields that exist; any other name is ignored without a word, as by the portal. */
const writableFields = new Set([
  "title",
  "stageId",
  "categoryId",
  "opportunity",
  "currencyId",
  "originatorId",
  "originId",
  "comments",
]);
const isUserField = (name: string) => /^UF_CRM_/.test(name);

/**
 * Deals with their funnels, stages and moves, by the classic and the universal methods. "Deals", "Universal methods",
 * "Funnels", apidocs.bitrix24.ru (read 2026-08)
 */
export function createFakeDeals({
  clock,
  raise,
  write,
  nextId,
  userFields,
  movesChangeTime = true,
  skipUnchanged = true,
}: {
  readonly clock: Clock;
  readonly raise: (event: string, data: Values, by?: Caller) => void;
  readonly write: (method: string, id: unknown, fields: Values) => void;
  readonly nextId: () => number;
  readonly userFields: readonly string[];
  readonly movesChangeTime?: boolean | undefined;
  readonly skipUnchanged?: boolean | undefined;
}) {
  const deals = new Map<number, Row>();
  /** Every id that was given, ascending; a deleted deal leaves its id. */
  const dealIds: number[] = [];
  const history: Row[] = [];
  const categories = new Map<number, { name: string; stages: readonly FakeStage[] }>([
    [0, { name: "Общая", stages: defaultStages }],
  ]);
  let robot: ((deal: FakeDeal) => string | undefined) | undefined;

  const stagesOf = (category: number) => categories.get(category)?.stages ?? [];
  const toFakeDeal = (row: Row): FakeDeal => ({
    id: row.id as number,
    title: row.title as string,
    stageId: row.stageId as string,
    categoryId: row.categoryId as number,
    fields: { ...row },
  });

  function recordMove(row: Row, type: number): void {
    const stage = stagesOf(row.categoryId as number).find(({ id }) => id === row.stageId);
    history.push({
      ID: history.length + 1,
      TYPE_ID: type,
      OWNER_ID: row.id,
      CREATED_TIME: clock.now().toISOString(),
      CATEGORY_ID: row.categoryId,
      STAGE_ID: row.stageId,
      STAGE_SEMANTIC_ID: stage?.semantics === "success" ? "S" : stage?.semantics === "failure" ? "F" : "P",
    });
  }

  function createDeal(fields: Values, by?: Caller): Row {
    const now = clock.now().toISOString();
    const categoryId = Number(fields.categoryId ?? 0);
    const row: Row = {
      title: "",
      opportunity: 0,
      currencyId: "KZT",
      originatorId: null,
      originId: null,
      comments: null,
      ...pickFields(fields),
      categoryId,
      id: nextId(),
      stageId: fields.stageId ?? stagesOf(categoryId)[0]?.id ?? "NEW",
      createdTime: now,
      updatedTime: now,
      movedTime: now,
    };
    deals.set(row.id as number, row);
    dealIds.push(row.id as number);
    recordMove(row, 1);
    raise("ONCRMDEALADD", { FIELDS: { ID: row.id } }, by);
    return row;
  }

  const pickFields = (fields: Values): Row =>
    Object.fromEntries(
      Object.entries(fields).filter(([name]) => writableFields.has(name) || userFields.includes(name)),
    );

  /** Changes a deal the way the portal does; `true` when something was saved. */
  function changeDeal(
    row: Row,
    fields: Values,
    { canMoveCategory, by }: { readonly canMoveCategory: boolean; readonly by?: Caller },
  ): boolean {
    const next = pickFields(fields);
    const targetCategory = canMoveCategory && next.categoryId !== undefined ? Number(next.categoryId) : row.categoryId;
    if (!canMoveCategory) delete next.categoryId;
    else if (next.categoryId !== undefined) next.categoryId = Number(next.categoryId);
    // A stage of another funnel is dropped without a word.
    if (next.stageId !== undefined && !stagesOf(targetCategory as number).some(({ id }) => id === next.stageId)) {
      delete next.stageId;
    }
    const changed = Object.entries(next).some(([name, value]) => String(row[name] ?? "") !== String(value ?? ""));
    if (!changed && skipUnchanged) return false;
    const now = clock.now().toISOString();
    const moved = next.stageId !== undefined && next.stageId !== row.stageId;
    const funnelMoved = targetCategory !== row.categoryId;
    Object.assign(
      row,
      next,
      funnelMoved && !movesChangeTime ? {} : { updatedTime: now },
      moved ? { movedTime: now } : {},
    );
    if (moved || funnelMoved) {
      const stage = stagesOf(row.categoryId as number).find(({ id }) => id === row.stageId);
      recordMove(row, funnelMoved ? 5 : stage?.semantics === "process" ? 2 : 3);
    }
    if (funnelMoved) {
      raise(
        "ONCRMDEALMOVETOCATEGORY",
        { FIELDS: { ID: row.id, CATEGORY_ID: row.categoryId, STAGE_ID: row.stageId } },
        by,
      );
    } else raise("ONCRMDEALUPDATE", { FIELDS: { ID: row.id } }, by);
    const robotStage = robot?.(toFakeDeal(row));
    if (robotStage !== undefined && robotStage !== row.stageId)
      changeDeal(row, { stageId: robotStage }, { canMoveCategory: false });
    return true;
  }

  function findDeal(id: unknown): Row {
    const row = deals.get(Number(id));
    if (!row) throw new Refused(400, "", "Not found");
    return row;
  }

  function toClassic(row: Row): Row {
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [
        classicNames[name] ?? name,
        name === "opportunity" ? Number(value).toFixed(2) : value === null ? null : String(value),
      ]),
    );
  }
  const fromClassic = (fields: Values): Row =>
    Object.fromEntries(Object.entries(fields).map(([name, value]) => [itemNames[name] ?? name, value]));

  function checkEntityType(parameters: Values): void {
    if (parameters.entityTypeId === undefined) {
      throw new Refused(400, "100", "Could not find value for parameter {entityTypeId}");
    }
    if (Number(parameters.entityTypeId) !== 2)
      throw new Refused(400, "ENTITY_TYPE_NOT_SUPPORTED", "Entity type is not supported");
  }
  function findItem(parameters: Values): Row {
    checkEntityType(parameters);
    const row = deals.get(Number(parameters.id));
    if (!row) throw new Refused(400, "NOT_FOUND", "Элемент не найден");
    return row;
  }
  /** Without `useOriginalUfNames` user fields get camel-case names. */
  function toItem(row: Row, { useOriginalUfNames }: Values): Row {
    if (useOriginalUfNames === "Y" || !Object.keys(row).some(isUserField)) return { ...row };
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [
        isUserField(name)
          ? name.toLowerCase().replace(/_([a-z])/g, (_all, letter: string) => letter.toUpperCase())
          : name,
        value,
      ]),
    );
  }

  // ----- methods

  const methods: Readonly<Record<string, Method>> = {
    "crm.deal.get": ({ id, ID }) => ({ result: toClassic(findDeal(id ?? ID)) }),
    "crm.deal.list": (parameters) =>
      sortedPage(sortedDeals, parameters, { idName: "ID", view: toClassic, wrap: (rows) => rows }),
    "crm.deal.add": ({ fields }, by) => {
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      const row = createDeal(fromClassic(fields as Values), by);
      write("crm.deal.add", row.id, fields as Values);
      return { result: row.id };
    },
    "crm.deal.update": ({ id, fields }, by) => {
      const row = findDeal(id);
      if (typeof fields !== "object" || fields === null)
        throw new Refused(400, "", "Parameter 'fields' must be array.");
      write("crm.deal.update", row.id, fields as Values);
      changeDeal(row, fromClassic(fields as Values), { canMoveCategory: false, by });
      return { result: true };
    },
    "crm.deal.delete": ({ id }, by) => {
      removeDeal(findDeal(id), by);
      return { result: true };
    },
    "crm.deal.fields": () => ({
      result: Object.fromEntries(
        Object.values(classicNames).map((name) => [name, { type: "string", isMultiple: false, title: name }]),
      ),
    }),
    "crm.item.get": (parameters) => ({ result: { item: toItem(findItem(parameters), parameters) } }),
    "crm.item.list": (parameters) => {
      checkEntityType(parameters);
      const view = (row: Row) => toItem(row, parameters);
      return sortedPage(sortedDeals, parameters, { idName: "id", view, wrap: (items) => ({ items }) });
    },
    "crm.item.add": (parameters, by) => {
      checkEntityType(parameters);
      const row = createDeal((parameters.fields ?? {}) as Values, by);
      write("crm.item.add", row.id, (parameters.fields ?? {}) as Values);
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.update": (parameters, by) => {
      const row = findItem(parameters);
      write("crm.item.update", row.id, (parameters.fields ?? {}) as Values);
      changeDeal(row, (parameters.fields ?? {}) as Values, { canMoveCategory: true, by });
      return { result: { item: toItem(row, parameters) } };
    },
    "crm.item.delete": (parameters, by) => {
      removeDeal(findItem(parameters), by);
      return { result: [] };
    },
    "crm.category.list": (parameters) => {
      checkEntityType(parameters);
      return {
        result: {
          categories: [...categories].map(([id, { name }]) => ({
            id,
            name,
            isDefault: id === 0 ? "Y" : "N",
            entityTypeId: 2,
          })),
        },
        total: categories.size,
      };
    },
    "crm.status.list": ({ filter }) => {
      const entity = (filter as Values | undefined)?.ENTITY_ID;
      const rows = [...categories].flatMap(([category, { stages }]) =>
        stages.map((stage) => ({
          ID: String(1000 + category * 100 + stage.sort),
          ENTITY_ID: category === 0 ? "DEAL_STAGE" : `DEAL_STAGE_${category}`,
          STATUS_ID: stage.id,
          NAME: stage.name,
          SORT: String(stage.sort),
          SEMANTICS: stage.semantics === "success" ? "S" : stage.semantics === "failure" ? "F" : null,
          CATEGORY_ID: String(category),
        })),
      );
      const result = entity === undefined ? rows : rows.filter((row) => row.ENTITY_ID === entity);
      return { result, total: result.length };
    },
    "crm.stagehistory.list": (parameters) =>
      page(history, parameters, { idName: "ID", wrap: (items) => ({ items }), isSorted: true }),
  };

  function removeDeal(row: Row, by?: Caller): void {
    deals.delete(row.id as number);
    raise("ONCRMDEALDELETE", { FIELDS: { ID: row.id } }, by);
  }

  const sortedDeals: SortedRows = {
    ids: dealIds,
    get: (id) => deals.get(id),
    get size() {
      return deals.size;
    },
  };

  return {
    methods,
    deal: (id: number): FakeDeal | undefined => {
      const row = deals.get(id);
      return row && toFakeDeal(row);
    },
    get all(): readonly FakeDeal[] {
      return [...deals.values()].map(toFakeDeal);
    },
    add: (fields: Values): FakeDeal => toFakeDeal(createDeal(fields)),
    move(id: number, stageId: string): void {
      changeDeal(findDeal(id), { stageId }, { canMoveCategory: false });
    },
    moveToCategory(id: number, categoryId: number, stageId: string): void {
      changeDeal(findDeal(id), { categoryId, stageId }, { canMoveCategory: true });
    },
    remove(id: number): void {
      removeDeal(findDeal(id));
    },
    addCategory(id: number, name: string, stages: readonly FakeStage[]): void {
      categories.set(id, { name, stages });
    },
    setRobot(next: typeof robot): void {
      robot = next;
    },
  };
}
