import { ApiError, ConfigError, ResponseShapeError } from "@orderbridge/core";
import type { BatchCommand, BatchItem, BatchOptions } from "./batch.ts";
import type { CallOptions, Envelope } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import { type Parameter, type Parameters, reference, toCommandQuery } from "./parameters.ts";

export interface ListOptions {
  /** Field of the id in a row. @defaultValue `ID` for classic CRM methods, else `id` */
  readonly idField?: string;
  /** Name of the id in the filter, where it differs from the row's (`tasks.task.list`). @defaultValue idField */
  readonly filterField?: string;
  /** Continue after this id: the id of the last row that was seen. */
  readonly after?: string;
  readonly signal?: AbortSignal;
}

type Row = Readonly<Record<string, unknown>>;

/** Classic methods have upper-case fields and a bare array; the others wrap their rows in an object with one list. */
const isClassic = (method: string): boolean =>
  /^crm\.(deal|lead|contact|company|quote|product|activity)\.list$/i.test(method);

const pageSize = 50;

/** Pages in the first request that asks for several; doubles up to the 50 that a batch may hold. */
const firstChain = 6;
const longestChain = 50;

/**
 * Keyset pages: ordered by id, each from after the last id of the page before, without a count. Rows that are added or
 * removed meanwhile are neither repeated nor make others be skipped, as offsets would.
 *
 * After a full first page up to 50 pages travel in one batch, each beginning where the one before it ended, so a request
 * of the limit brings 2 500 rows.
 *
 * @see apidocs.bitrix24.ru, "Large amounts of data", "Batch" (read 2026-08)
 */
export function createList({
  request,
  batch,
}: {
  readonly request: (method: string, parameters: Parameters, options: CallOptions) => Promise<Envelope>;
  readonly batch: (
    commands: Readonly<Record<string, BatchCommand>>,
    options: BatchOptions,
  ) => Promise<Readonly<Record<string, BatchItem>>>;
}) {
  return async function* list<Result>(
    method: string,
    parameters: Parameters = {},
    { signal, ...options }: ListOptions = {},
  ): AsyncIterableIterator<Result> {
    const idField = options.idField ?? (isClassic(method) ? "ID" : "id");
    const filterField = options.filterField ?? idField;
    checkParameters(method, parameters, { idField, filterField });
    const callOptions: CallOptions = { safe: true, ...(signal ? { signal } : {}) };
    const pageAfter = (after: Parameter): Parameters => ({
      ...parameters,
      filter: { ...(parameters.filter as Parameters | undefined), [`>${filterField}`]: after },
      order: { [filterField]: "ASC" },
      start: -1,
    });

    let after = options.after ?? "0";
    /** Gives a page's rows in order and moves on; a method that ignores the filter would be read for ever. */
    function* take({ rows }: Page): IterableIterator<Result> {
      for (const row of rows) {
        const id = String(row[idField] ?? "");
        if (!/^\d+$/.test(id) || BigInt(id) <= BigInt(after)) {
          throw shapeError(`${method} did not answer rows in the order of ${idField}`, idField);
        }
        after = id;
        yield row as Result;
      }
    }

    const first = readPage((await request(method, pageAfter(after), callOptions)).result, method);
    yield* take(first);
    let isLast = first.rows.length < pageSize;
    const canChain = fitsIntoCommand(parameters);
    for (let length = firstChain; !isLast; length = Math.min(length * 2, longestChain)) {
      if (!canChain) {
        const page = readPage((await request(method, pageAfter(after), callOptions)).result, method);
        yield* take(page);
        isLast = page.rows.length < pageSize;
        continue;
      }
      const keys = Array.from({ length }, (_, index) => `p${index}`);
      const commands = keys.map((key, index): [string, BatchCommand] => {
        const from = index === 0 ? after : reference(`p${index - 1}`, ...first.path, pageSize - 1, idField);
        return [key, { method, parameters: pageAfter(from) }];
      });
      const items = await batch(Object.fromEntries(commands), { ...callOptions, halt: true });
      for (const key of keys) {
        const page = readItem(items[key] as BatchItem, method);
        if (page === "later") break; // the method has to rest; the next request waits for it
        yield* take(page);
        isLast = page.rows.length < pageSize;
        // What follows a short page referred to a row that is not there, and means nothing.
        if (isLast) break;
      }
    }
  };
}

interface Page {
  readonly rows: readonly Row[];
  /** Where the rows are in the result. */
  readonly path: readonly string[];
}

function checkParameters(
  method: string,
  parameters: Parameters,
  { idField, filterField }: { readonly idField: string; readonly filterField: string },
): void {
  if ("order" in parameters || "start" in parameters) {
    throw new ConfigError(`${method}: a listing is ordered by ${idField}; leave out order and start`);
  }
  if (`>${filterField}` in ((parameters.filter ?? {}) as Parameters)) {
    throw new ConfigError(`${method}: use the option after in place of >${filterField}`);
  }
  const select = parameters.select;
  if (Array.isArray(select) && !select.includes("*") && !select.includes(idField)) {
    throw new ConfigError(`${method}: select must hold ${idField}`);
  }
}

/** A command is a query: it has no null, no empty list and no boolean of its own, and some text would be a reference. */
function fitsIntoCommand(parameters: Parameters): boolean {
  const hasBoolean = (value: Parameter): boolean =>
    typeof value === "boolean" ||
    (typeof value === "object" &&
      value !== null &&
      !(value instanceof Date) &&
      Object.values(value).some((part) => hasBoolean(part as Parameter)));
  try {
    toCommandQuery(parameters);
    return !hasBoolean(parameters);
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}

/** The rows of any family: a bare array, or the only list in the result. */
function readPage(result: unknown, method: string): Page {
  if (Array.isArray(result)) return { rows: result, path: [] };
  if (typeof result === "object" && result !== null) {
    for (const [name, value] of Object.entries(result)) if (Array.isArray(value)) return { rows: value, path: [name] };
  }
  throw shapeError(`${method} answered no list`, "result");
}

function readItem(item: BatchItem, method: string): Page | "later" {
  if (item.state === "done") return readPage(item.result, method);
  if (item.state === "failed") {
    if (item.code === "OPERATION_TIME_LIMIT") return "later";
    throw new ApiError(`bitrix: ${method} failed in a batch${item.code === "" ? "" : ` with ${item.code}`}`, {
      vendor: "bitrix",
      status: 200,
      vendorCode: item.code,
      outcome: item.outcome,
    });
  }
  throw item.error ?? shapeError(`${method} is not in the batch's answer`, "result");
}

const shapeError = (message: string, path: string): ResponseShapeError =>
  new ResponseShapeError(`bitrix: ${message}`, { vendor: "bitrix", status: 200, paths: [path], outcome: "executed" });
