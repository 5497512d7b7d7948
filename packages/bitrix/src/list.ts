import { ConfigError, ResponseShapeError } from "@orderbridge/core";
import type { CallOptions, Envelope } from "./bitrix.ts";
import type { Parameters } from "./parameters.ts";

export interface ListOptions {
  /** Field of the id in a row. @defaultValue `ID` for classic CRM methods, else `id` */
  readonly idField?: string;
  /** Name of the id in the filter, where it differs from the row's (`tasks.task.list`). @defaultValue idField */
  readonly filterField?: string;
  /** Continue after this id. */
  readonly after?: string;
  readonly signal?: AbortSignal;
}

type Row = Readonly<Record<string, unknown>>;

/** Classic methods have upper-case fields and a bare array; the others wrap their rows in an object with one list. */
const isClassic = (method: string): boolean =>
  /^crm\.(deal|lead|contact|company|quote|product|activity)\.list$/i.test(method);

const pageSize = 50;

/**
 * Keyset pages: ordered by id, each from after the last id of the page before, without a count. Rows that are added or
 * removed meanwhile are neither repeated nor make others be skipped, as offsets would.
 *
 * @see apidocs.bitrix24.ru, "Large amounts of data" (read 2026-08)
 */
export function createList({
  request,
}: {
  readonly request: (method: string, parameters: Parameters, options: CallOptions) => Promise<Envelope>;
}) {
  return async function* list<Result>(
    method: string,
    parameters: Parameters = {},
    { signal, ...options }: ListOptions = {},
  ): AsyncIterableIterator<Result> {
    const idField = options.idField ?? (isClassic(method) ? "ID" : "id");
    const filterField = options.filterField ?? idField;
    if ("order" in parameters || "start" in parameters) {
      throw new ConfigError(`${method}: a listing is ordered by ${idField}; leave out order and start`);
    }
    const filter = (parameters.filter ?? {}) as Parameters;
    if (`>${filterField}` in filter)
      throw new ConfigError(`${method}: use the option after in place of >${filterField}`);
    const select = parameters.select;
    if (Array.isArray(select) && !select.includes("*") && !select.includes(idField)) {
      throw new ConfigError(`${method}: select must hold ${idField}`);
    }
    let after = options.after ?? "0";
    for (;;) {
      const { result } = await request(
        method,
        {
          ...parameters,
          filter: { ...filter, [`>${filterField}`]: after },
          order: { [filterField]: "ASC" },
          start: -1,
        },
        { safe: true, ...(signal ? { signal } : {}) },
      );
      const rows = readRows(result, method);
      for (const row of rows) {
        const id = String(row[idField] ?? "");
        // A method that ignores the filter would be read for ever.
        if (!/^\d+$/.test(id) || BigInt(id) <= BigInt(after)) {
          throw new ResponseShapeError(`bitrix: ${method} did not answer rows in the order of ${idField}`, {
            vendor: "bitrix",
            status: 200,
            paths: [idField],
            outcome: "executed",
          });
        }
        after = id;
        yield row as Result;
      }
      if (rows.length < pageSize) return;
    }
  };
}

/** The rows of any family: a bare array, or the only list in the result. */
export function readRows(result: unknown, method: string): readonly Row[] {
  const list = Array.isArray(result)
    ? result
    : typeof result === "object" && result !== null
      ? Object.values(result).find((value) => Array.isArray(value))
      : undefined;
  if (Array.isArray(list)) return list as readonly Row[];
  throw new ResponseShapeError(`bitrix: ${method} answered no list`, {
    vendor: "bitrix",
    status: 200,
    paths: ["result"],
    outcome: "executed",
  });
}
