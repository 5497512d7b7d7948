import { ApiError, type Clock, ConfigError, ResponseShapeError, redactText } from "@orderbridge/core";
import { type BatchCommand, type BatchItem, type BatchOptions, longestRequest } from "./batch.ts";
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
  /**
   * Requests side by side, each for up to 2 500 rows. What one of them brings waits in memory for its turn: when the first
   * is slow, up to twice as many rows as they bring together. 1 reads one after the other, and for a list that is known to be
   * short it spares the look at the last id.
   * @defaultValue 8
   */
  readonly parallel?: number;
  /** Told after each page that was handed out. */
  readonly onProgress?: (progress: ListProgress) => void;
  readonly signal?: AbortSignal;
}

export interface ListProgress {
  /** Rows handed out so far. */
  readonly rows: number;
  /** For the option `after` of a later listing. */
  readonly after: string;
  /** The highest id when the listing began; `undefined` where it is not known, as with `parallel: 1`. */
  readonly lastId: string | undefined;
}

type Row = Readonly<Record<string, unknown>>;

/** Classic methods have upper-case fields and a bare array; the others wrap their rows in an object with one list. */
const isClassic = (method: string): boolean =>
  /^crm\.(deal|lead|contact|company|quote|product|activity)\.list$/i.test(method);

const pageSize = 50;
/** Pages of the second request where the last id is not asked for, and the fewest of a piece of its own. */
const firstChain = 6;
const longestChain = 50;
/** Rows for which a new range is prepared at most, for each that is expected: an empty page costs as much as a full one. */
const most = 1.01;
/** Pages beyond the last id, for each page that was read: rows may be added while the listing runs. */
const sparePages = 0.005;

/** Rows with ids after `from`, up to `to`; the last range has no end. */
interface Range {
  from: bigint;
  readonly to: bigint | undefined;
  readonly pages: (readonly Row[])[];
  state: "open" | "asked" | "read";
  /** Pages in a row that the portal could not answer. */
  troubles: number;
}

/**
 * Key-set pages: ordered by id, each from after the last id of the page before, without a count. Rows that are added or
 * removed meanwhile are neither repeated nor make others be skipped, as offsets would.
 *
 * A request is a batch of up to 50 pages, each beginning where the one before it ended: 2 500 rows. The first one brings a
 * page and the last id; then several requests for ranges of ids run side by side. What a range did not bring travels with
 * the next request. Rows are handed out in the order of their ids.
 *
 * @see apidocs.bitrix24.ru, "Large amounts of data", "Batch" (read 2026-08)
 */
export function createList({
  request,
  batch,
  costOf,
  retries,
  minDelayMs,
  clock,
}: {
  readonly request: (method: string, parameters: Parameters, options: CallOptions) => Promise<Envelope>;
  readonly batch: (
    commands: Readonly<Record<string, BatchCommand>>,
    options: BatchOptions,
  ) => Promise<Readonly<Record<string, BatchItem>>>;
  /** Seconds that a page lately took. */
  readonly costOf: (method: string) => number;
  /** Of a page that the portal could not answer; the first after so long, then after twice as long. */
  readonly retries: number;
  readonly minDelayMs: number;
  readonly clock: Clock;
}) {
  return async function* list<Result>(
    method: string,
    parameters: Parameters = {},
    { signal, parallel = 8, onProgress, ...options }: ListOptions = {},
  ): AsyncIterableIterator<Result> {
    const idField = options.idField ?? (isClassic(method) ? "ID" : "id");
    const filterField = options.filterField ?? idField;
    checkParameters(method, parameters, { idField, filterField });
    if (!Number.isInteger(parallel) || parallel < 1) throw new ConfigError("parallel must be a whole number from 1");
    if (!/^\d+$/.test(options.after ?? "0")) throw new ConfigError("after must be the id of a row");
    const stop = new AbortController();
    const callOptions: CallOptions = {
      safe: true,
      signal: signal ? AbortSignal.any([signal, stop.signal]) : stop.signal,
    };
    const pageAfter = (after: Parameter, to?: bigint): Parameters => ({
      ...parameters,
      filter: {
        ...(parameters.filter as Parameters | undefined),
        [`>${filterField}`]: after,
        ...(to === undefined ? {} : { [`<=${filterField}`]: to.toString() }),
      },
      order: { [filterField]: "ASC" },
      start: -1,
    });
    const idOf = (row: Row | undefined): bigint => {
      const id = String(row?.[idField] ?? "");
      if (!/^\d+$/.test(id)) {
        throw shapeError(`${method} answered rows without ${idField}; set idField, e.g. to ID`, idField);
      }
      return BigInt(id);
    };

    let seen = 0;
    let lastId: bigint | undefined;
    function* handOut(rows: readonly Row[], after: bigint): IterableIterator<Result> {
      for (const row of rows) yield row as Result;
      seen += rows.length;
      onProgress?.({ rows: seen, after: after.toString(), lastId: lastId ? lastId.toString() : undefined });
    }

    /** Takes a page into its range; the range is read when the page is short or reaches its end. */
    function take(range: Range, rows: readonly Row[]): void {
      let kept = rows;
      let last = range.from;
      for (const [index, row] of rows.entries()) {
        const id = idOf(row);
        // A method that ignores the filter would be read for ever.
        if (id <= last) throw shapeError(`${method} did not answer rows in the order of ${idField}`, idField);
        if (range.to !== undefined && id > range.to) {
          kept = rows.slice(0, index);
          break;
        }
        last = id;
      }
      range.pages.push(kept);
      range.from = last;
      range.state = rows.length < pageSize || kept.length < rows.length || last === range.to ? "read" : "open";
    }

    const start = BigInt(options.after ?? "0");
    const head: Range = { from: start, to: undefined, pages: [], state: "open", troubles: 0 };
    if (!fitsIntoCommand(parameters)) {
      while (head.state !== "read") {
        take(head, readPage((await request(method, pageAfter(head.from.toString()), callOptions)).result, method).rows);
        yield* handOut(head.pages.shift() as readonly Row[], head.from);
      }
      return;
    }

    /** Ranges in the order of their ids; the first one is being handed out. */
    const ranges: Range[] = [head];
    /** Where a page's rows are in its result; `undefined` before the first page. */
    let rowsPath: readonly string[] | undefined;
    /** Rows per id, as found lately, and how far a range was off. */
    let density: number | undefined;
    let deviation = 0;
    /** As many rows per id as a new range is to be prepared for; where there are more, the rest is asked for later. */
    const expected = (): number => Math.min((density ?? 1) + deviation, (density ?? 1) * most);
    function learn(found: number): void {
      const off = density === undefined ? 0 : Math.abs(found - density);
      density = density === undefined ? found : density / 2 + found / 2;
      deviation = deviation / 2 + off / 2;
    }
    const underWay = new Set<Promise<void>>();

    const looksForEnd = (): boolean => lastId === undefined && parallel > 1;
    const chainLength = (): number => {
      const cost = costOf(method);
      const longest = looksForEnd() ? longestChain - 1 : longestChain;
      return cost > 0 ? Math.max(1, Math.min(longest, Math.floor(longestRequest / cost))) : longest;
    };
    /** Pages of the next request where nobody knows how many rows follow; doubles. */
    let growth = firstChain;
    const pagesOf = ({ from, to }: Range): number => {
      const end = to ?? lastId ?? from;
      return Math.max(1, Math.ceil((Number(end - from) * expected()) / pageSize));
    };
    /** Of the last range, to see its end and what was added behind the last id. */
    const spareOf = (last: bigint): number => Math.ceil(((Number(last - start) * expected()) / pageSize) * sparePages);

    /** The next request: what ranges have left, then a new piece of the last one; `firstOnly` while too much waits for it. */
    function plan({
      firstOnly,
    }: {
      readonly firstOnly: boolean;
    }): readonly { readonly range: Range; readonly pages: number }[] {
      const parts: { range: Range; pages: number }[] = [];
      let room = chainLength();
      for (const [index, range] of ranges.entries()) {
        if (room === 0 || (firstOnly && index > 0)) break;
        if (range.state !== "open") continue;
        if (rowsPath === undefined) {
          range.state = "asked";
          return [{ range, pages: 1 }];
        }
        const wanted = pagesOf(range);
        if (range.to === undefined && (lastId === undefined || lastId <= range.from)) {
          const added = lastId === undefined ? 0 : spareOf(lastId);
          parts.push({ range, pages: Math.min(room, Math.max(growth, added)) });
          range.state = "asked";
          growth = Math.min(growth * 2, longestChain);
          break;
        }
        const spare = range.to === undefined && lastId !== undefined ? spareOf(lastId) : 0;
        const lanes = Math.max(1, parallel - underWay.size);
        const share = Math.min(room, Math.max(firstChain, Math.ceil(wanted / lanes)));
        if (range.to === undefined && wanted > share) {
          // Near the end a page is left free where the last request has room: what one does not bring needs another.
          const left = Math.ceil(wanted / share);
          const isLoose = share === room && left <= parallel && left * share - wanted >= left;
          const span = BigInt(Math.max(1, Math.floor(((share - (isLoose ? 1 : 0)) * pageSize) / expected())));
          const to = range.from + span;
          // What the range has brought comes before the rest, so it goes with the piece.
          const piece: Range = { ...range, to, pages: range.pages.splice(0), state: "asked" };
          ranges.splice(index, 0, piece);
          range.from = to;
          range.troubles = 0;
          parts.push({ range: piece, pages: Math.min(room, share + 1) });
          break;
        }
        const pages = Math.min(room, wanted + spare);
        range.state = "asked";
        parts.push({ range, pages });
        room -= pages;
      }
      return parts;
    }

    async function ask(parts: ReturnType<typeof plan>): Promise<void> {
      let failure: ApiError | undefined;
      const stumbled = new Set<Range>();
      const commands: Record<string, BatchCommand> = {};
      for (const [part, { range, pages }] of parts.entries()) {
        for (let page = 0; page < pages; page++) {
          const from =
            page === 0
              ? range.from.toString()
              : reference(`r${part}p${page - 1}`, ...(rowsPath ?? []), pageSize - 1, idField);
          commands[`r${part}p${page}`] = { method, parameters: pageAfter(from, range.to) };
        }
      }
      const asksForEnd = looksForEnd();
      if (asksForEnd)
        commands.end = { method, parameters: { ...parameters, order: { [filterField]: "DESC" }, start: -1 } };
      const items = await batch(commands, callOptions);
      if (asksForEnd) {
        const end = items.end as BatchItem;
        // Without it, or of a method that does not sort downwards, all is read in one range.
        const rows = end.state === "done" ? readPage(end.result, method).rows : [];
        const isLater = end.state === "failed" && end.code === "OPERATION_TIME_LIMIT";
        if (!isLater) lastId = 0n;
        for (const row of rows) if (lastId === undefined || idOf(row) > lastId) lastId = idOf(row);
      }
      for (const [part, { range, pages }] of parts.entries()) {
        const from = range.from;
        let rows = 0;
        for (let index = 0; index < pages; index++) {
          const page = readItem(items[`r${part}p${index}`] as BatchItem, method);
          if (page === "later") break; // the method has to rest; the next request waits for it
          if (page instanceof ApiError) {
            failure = page; // what follows referred to it
            range.troubles++;
            stumbled.add(range);
            break;
          }
          range.troubles = 0;
          rowsPath ??= page.path;
          const firstId = index === 0 && density === undefined && page.rows.length > 1 ? idOf(page.rows[0]) : undefined;
          take(range, page.rows);
          rows += page.rows.length;
          // Nobody knows how far before its first row the ids of a list begin.
          if (firstId !== undefined) learn((page.rows.length - 1) / Number(range.from - firstId));
          // What follows a short page referred to a row that is not there, and means nothing.
          if (range.state === "read") break;
        }
        if (range.state === "asked" && !stumbled.has(range)) range.state = "open";
        const span = Number((range.state === "read" ? (range.to ?? range.from) : range.from) - from);
        // What a range had left says little. A piece without a row says that there are few.
        if (span > 0 && pages >= firstChain) learn(Math.max(rows, 1) / span);
      }
      if (failure === undefined) return;
      // The portal stumbled: a listing only reads, so it asks again, from where each range stands.
      const troubles = Math.max(...[...stumbled].map((range) => range.troubles));
      if (troubles > retries) throw failure;
      await clock.sleep(minDelayMs * 2 ** (troubles - 1), callOptions.signal);
      for (const range of stumbled) range.state = "open";
    }

    try {
      for (;;) {
        while (ranges[0]) {
          const [range] = ranges as [Range];
          for (let page = range.pages.shift(); page; page = range.pages.shift()) {
            yield* handOut(page, range.pages.length > 0 ? idOf(page.at(-1)) : range.from);
          }
          if (range.state !== "read") break;
          ranges.shift();
        }
        if (ranges.length === 0) return;
        // Until the end is known one request goes alone.
        const limit = lastId === undefined ? 1 : parallel;
        while (underWay.size < limit) {
          const waiting = ranges.reduce((pages, range) => pages + range.pages.length, 0);
          const parts = plan({ firstOnly: waiting >= parallel * longestChain });
          if (parts.length === 0) break;
          const task: Promise<void> = ask(parts).finally(() => underWay.delete(task));
          task.catch(() => undefined); // seen by the race, or no longer wanted
          underWay.add(task);
        }
        await Promise.race(underWay);
      }
    } finally {
      stop.abort();
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
  for (const name of ["FILTER", "ORDER", "SELECT", "START"]) {
    if (!(name in parameters)) continue;
    // Beside our `filter` an old method drops this one without a word, and every row would come.
    throw new ConfigError(`${method}: write ${name} in lower case: ${name.toLowerCase()}`);
  }
  if ("order" in parameters || "start" in parameters) {
    throw new ConfigError(`${method}: a listing is ordered by ${idField}; leave out order and start`);
  }
  if (`>${filterField}` in ((parameters.filter ?? {}) as Parameters)) {
    throw new ConfigError(`${method}: use the option after in place of >${filterField}`);
  }
  const select = parameters.select;
  if (Array.isArray(select) && ![idField, filterField, "*"].some((name) => select.includes(name))) {
    throw new ConfigError(`${method}: select must hold ${filterField}`);
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

/** An error is given, not thrown, when the same page may be there a moment later. */
function readItem(item: BatchItem, method: string): Page | ApiError | "later" {
  if (item.state === "done") return readPage(item.result, method);
  if (item.state === "failed") {
    if (item.code === "OPERATION_TIME_LIMIT") return "later";
    const error = new ApiError(`bitrix: ${method} failed in a batch${item.code === "" ? "" : ` with ${item.code}`}`, {
      vendor: "bitrix",
      status: 200,
      vendorCode: item.code,
      description: redactText(item.description),
      outcome: item.outcome,
    });
    if (item.outcome === "refused") throw error;
    return error;
  }
  throw item.error ?? shapeError(`${method} is not in the batch's answer`, "result");
}

const shapeError = (message: string, path: string): ResponseShapeError =>
  new ResponseShapeError(`bitrix: ${message}`, { vendor: "bitrix", status: 200, paths: [path], outcome: "executed" });
