import type { Answer, Row, Values } from "./fake-bitrix-answer.ts";

const pageSize = 50;

function compare(left: unknown, right: unknown): number {
  const a = typeof left === "number" ? left : Number(left);
  const b = typeof right === "number" ? right : Number(right);
  if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
  return String(left ?? "") < String(right ?? "") ? -1 : String(left ?? "") > String(right ?? "") ? 1 : 0;
}

/** SQL's LIKE with `%`, which does not look at the case of letters. */
function isLike(name: string, mask: string): (row: Row) => boolean {
  const source = mask.split("%").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`^${source.join(".*")}$`, "isu");
  return (row) => pattern.test(String(row[name] ?? ""));
}

/**
 * A filter's conditions, read once for all rows. A numbered entry is a group of its own, joined by its `logic`. Prefixes:
 * "crm.item.list", apidocs.bitrix24.ru (read 2026-11)
 */
function conditionsOf(filter: Values): readonly ((row: Row) => boolean)[] {
  return Object.entries(filter)
    .filter(([key]) => key !== "logic")
    .map(([key, wanted]) => {
      if (/^\d+$/.test(key) && typeof wanted === "object" && wanted !== null) {
        const parts = conditionsOf(wanted as Values);
        const isAny = /^or$/i.test(String((wanted as Values).logic ?? "and"));
        return (row) => (isAny ? parts.some((holds) => holds(row)) : parts.every((holds) => holds(row)));
      }
      const [, operator = "", name = ""] = /^(!=%|!%=|!%|=%|%=|%|>=|<=|!=|!@|>|<|=|!|@)?(.*)$/.exec(key) ?? [];
      const list = Object.values(typeof wanted === "object" && wanted !== null ? wanted : { wanted }).map(String);
      const among = (row: Row) => list.includes(String(row[name]));
      switch (operator) {
        case ">":
          return (row) => compare(row[name], wanted) > 0;
        case ">=":
          return (row) => compare(row[name], wanted) >= 0;
        case "<":
          return (row) => compare(row[name], wanted) < 0;
        case "<=":
          return (row) => compare(row[name], wanted) <= 0;
        case "!":
        case "!=":
        case "!@":
          return (row) => !among(row);
        case "%":
          return isLike(name, `%${String(wanted)}%`);
        case "=%":
        case "%=":
          return isLike(name, String(wanted));
        case "!%":
        case "!=%":
        case "!%=": {
          const like = isLike(name, operator === "!%" ? `%${String(wanted)}%` : String(wanted));
          return (row) => !like(row);
        }
        default:
          return among;
      }
    });
}

function sortRows(rows: Row[], order: readonly (readonly [string, unknown])[]): void {
  rows.sort((left, right) => {
    for (const [name, direction] of order) {
      const difference = compare(left[name], right[name]);
      if (difference !== 0) return String(direction).toUpperCase() === "DESC" ? -difference : difference;
    }
    return 0;
  });
}

/** The rows themselves, filtered and ordered, without pages. */
export function matchingRows(
  rows: readonly Row[],
  { filter, order }: { readonly filter: unknown; readonly order: unknown },
): readonly Row[] {
  const conditions = conditionsOf((filter ?? {}) as Values);
  const matching = rows.filter((row) => conditions.every((holds) => holds(row)));
  sortRows(matching, Object.entries(order as Values));
  return matching;
}

/** Rows that are kept by ascending id, so that a page is found without reading them all. */
export interface SortedRows {
  /** Every id that was given, ascending; a removed row leaves its id. */
  readonly ids: readonly number[];
  get(id: number): Row | undefined;
  readonly size: number;
}

/** The place of the first id after the given one. */
function placeAfter(ids: readonly number[], after: number): number {
  let [low, high] = [0, ids.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ids[middle] as number) > after) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** From where the filter lets them begin, to where it lets them end, in either direction. */
function* sortedRows(
  { ids, get }: SortedRows,
  parameters: Values,
  idName: string,
  view: (row: Row) => Row,
): IterableIterator<Row> {
  const filter = (parameters.filter ?? {}) as Values;
  const bound = (name: string, otherwise: number): number => {
    const value = Number(filter[`${name}${idName}`] ?? otherwise);
    return Number.isNaN(value) ? otherwise : value;
  };
  // A reference that led to a page instead of an id: no row is after it, and none needs to be looked at.
  if (typeof filter[`>${idName}`] === "object") return;
  const from = placeAfter(ids, bound(">", 0));
  const to = placeAfter(ids, bound("<=", Number.MAX_SAFE_INTEGER));
  const isDescending = /desc/i.test(String(((parameters.order ?? {}) as Values)[idName] ?? ""));
  for (let index = from; index < to; index++) {
    const row = get(ids[isDescending ? to - 1 - (index - from) : index] as number);
    if (row) yield view(row);
  }
}

/**
 * Filters, orders and cuts rows to a page of 50. `start` is floored to a whole page; `-1` leaves out the count, and then
 * `total` is 0 and `next` absent. "Large amounts of data", apidocs.bitrix24.ru (read 2026-08)
 */
export function page(
  rows: Iterable<Row>,
  parameters: Values,
  {
    idName,
    wrap,
    isSorted = false,
  }: {
    readonly idName: string;
    readonly wrap: (rows: readonly Row[]) => unknown;
    /** The rows come in the order of their ids, as asked. */
    readonly isSorted?: boolean;
  },
): Answer {
  const conditions = conditionsOf((parameters.filter ?? {}) as Values);
  const order = Object.entries((parameters.order ?? { [idName]: "ASC" }) as Values);
  const isById = order.length === 1 && order[0]?.[0] === idName;
  const start = Number(parameters.start ?? 0);
  const inOrder = isById && isSorted;
  const select = Object.values((parameters.select ?? []) as Values).map(String);
  const cut = (found: readonly Row[]): unknown =>
    wrap(
      select.length === 0 || select.includes("*")
        ? found
        : found.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => select.includes(name)))),
    );
  const matching: Row[] = [];
  for (const row of rows) {
    if (conditions.every((holds) => holds(row))) matching.push(row);
    if (inOrder && start < 0 && matching.length === pageSize) break;
  }
  if (!inOrder) sortRows(matching, order);
  if (start < 0) return { result: cut(matching.slice(0, pageSize)), total: 0 };
  const from = Math.floor(start / pageSize) * pageSize;
  const next = from + pageSize;
  return {
    result: cut(matching.slice(from, next)),
    total: matching.length,
    ...(next < matching.length ? { next } : {}),
  };
}

/** A page of rows that are kept by id; without a filter the rows before the page are not looked at. */
export function sortedPage(
  rows: SortedRows,
  parameters: Values,
  {
    idName,
    view,
    wrap,
  }: {
    readonly idName: string;
    readonly view: (row: Row) => Row;
    readonly wrap: (rows: readonly Row[]) => unknown;
  },
): Answer {
  const start = Number(parameters.start ?? 0);
  const isPlain = parameters.filter === undefined && parameters.order === undefined && start >= 0;
  if (!isPlain || rows.size !== rows.ids.length) {
    return page(sortedRows(rows, parameters, idName, view), parameters, { idName, wrap, isSorted: true });
  }
  const from = Math.floor(start / pageSize) * pageSize;
  const found = rows.ids.slice(from, from + pageSize).map((id) => view(rows.get(id) as Row));
  const cut = page(found, { select: parameters.select, start: -1 }, { idName, wrap, isSorted: true });
  const next = from + pageSize;
  return { result: cut.result, total: rows.size, ...(next < rows.size ? { next } : {}) };
}
