import { ApiError, ConfigError, type Outcome, RequestError, SdkError } from "@orderbridge/core";
import type { CallOptions, Envelope } from "./bitrix.ts";
import { type BitrixFailure, isBlock, outcomeOf, readFailure } from "./error-body.ts";
import type { OperatingTime } from "./operating-time.ts";
import { type Parameters, referencedKeys, toCommandQuery } from "./parameters.ts";

export interface BatchCommand {
  readonly method: string;
  readonly parameters?: Parameters;
}

export interface BatchOptions extends CallOptions {
  /** Stop at the first command that fails; those after it are `not-run`. @defaultValue false */
  readonly halt?: boolean;
}

/** What became of one command. */
export type BatchItem =
  | {
      readonly state: "done";
      readonly result: unknown;
      readonly total: number | undefined;
      readonly next: number | undefined;
    }
  /** Bitrix24 said no to this command. `outcome` is `unknown` when it may have run all the same. */
  | { readonly state: "failed"; readonly code: string; readonly description: string; readonly outcome: Outcome }
  /** Nothing happened: an earlier command failed under `halt`, or its request was refused as a whole. */
  | { readonly state: "not-run"; readonly error?: SdkError }
  /** The reply was lost, or does not mention the command: it may have run, so look first. */
  | { readonly state: "unknown"; readonly error?: SdkError };

export type BatchResult<Commands extends Readonly<Record<string, BatchCommand>> | readonly BatchCommand[]> = {
  readonly [Key in keyof Commands]: BatchItem;
};

/** Commands in one request; Bitrix24 refuses the 51st. */
const pageSize = 50;
/** Seconds that a request's commands may be expected to take together: Bitrix24 ends it at 60, wherever it stands. */
export const longestRequest = 45;
/** Expected of a write that was never seen to run: the longest of the documents' samples, of `crm.item.update`. */
const unknownWrite = 3.2;

type Page = readonly (readonly [string, BatchCommand])[];

/** Maps of a batch's answer: PHP writes an empty one, or one with the keys 0, 1, 2…, as a JSON array. */
type AnswerMap = Readonly<Record<string, unknown>>;
const readMap = (value: unknown): AnswerMap => {
  // As entries: a list has a length, which may be the name of a command.
  if (Array.isArray(value)) return Object.fromEntries(value.entries());
  return typeof value === "object" && value !== null ? (value as AnswerMap) : {};
};

export function createBatch({
  request,
  isRead,
  operating,
  markWrite,
  block,
}: {
  readonly request: (method: string, parameters: Parameters, options: CallOptions) => Promise<Envelope>;
  readonly isRead: (method: string) => boolean;
  readonly operating: OperatingTime;
  readonly markWrite: (method: string, parameters: Parameters, safe: boolean) => Parameters;
  /** Stores a block that a command was told of. */
  readonly block: (code: string) => Promise<void>;
}) {
  function write({ method, parameters = {} }: BatchCommand): string {
    const query = toCommandQuery(markWrite(method, parameters, isRead(method)));
    return query === "" ? method : `${method}?${query}`;
  }

  const secondsOf = (method: string): number => operating.costOf(method) || (isRead(method) ? 0 : unknownWrite);

  /** How many of these go into one request: as many as its time allows, and what refers to them. */
  function countOfOne(page: Page): number {
    let seconds = 0;
    for (const [index, [, { method }]] of page.entries()) {
      seconds += secondsOf(method);
      if (seconds <= longestRequest || index === 0) continue;
      const inside = new Set(page.slice(0, index).map(([key]) => key));
      const refersInside = ([, { parameters = {} }]: Page[number]) =>
        referencedKeys(parameters).some((key) => inside.has(key));
      if (!page.slice(index).some(refersInside)) return index;
    }
    return page.length;
  }

  /** One request of at most 50 commands. */
  async function runPage(
    page: Page,
    cmd: Readonly<Record<string, string>>,
    { halt = false, ...options }: BatchOptions,
  ): Promise<ReadonlyMap<string, BatchItem>> {
    let answer: AnswerMap;
    const releases: (() => void)[] = [];
    try {
      // In one order everywhere, so that two requests never wait for each other.
      for (const method of [...new Set(page.map(([, command]) => command.method))].sort()) {
        const calls = page.filter(([, command]) => command.method === method).length;
        releases.push(await operating.reserve(method, calls, options.signal));
      }
      const safe = options.safe ?? page.every(([, { method }]) => isRead(method));
      answer = readMap((await request("batch", { halt: halt ? 1 : 0, cmd }, { ...options, safe })).result);
    } catch (error) {
      for (const release of releases) release();
      const known = SdkError.isInstance(error) ? error : notSent(options.signal?.aborted === true);
      const nothingRan = known.outcome === "not-executed" || (known.outcome === "refused" && known instanceof ApiError);
      return new Map(page.map(([key]) => [key, { state: nothingRan ? "not-run" : "unknown", error: known }]));
    }
    const exhausted = new Set<string>();
    const results = readMap(answer.result);
    const failures = readMap(answer.result_error);
    const totals = readMap(answer.result_total);
    const nexts = readMap(answer.result_next);
    const times = readMap(answer.result_time);
    let stopped = false;
    let blockedWith: string | undefined;
    const items = new Map(
      page.map(([key, { method }]): [string, BatchItem] => {
        operating.record(method, times[key] ?? {});
        if (Object.hasOwn(failures, key)) {
          stopped ||= halt;
          const failed = toFailed(failures[key]);
          if (failed.code === "OPERATION_TIME_LIMIT") exhausted.add(method);
          if (isBlock(failed.code)) blockedWith = failed.code;
          return [key, failed];
        }
        if (!Object.hasOwn(results, key)) return [key, { state: stopped ? "not-run" : "unknown" }];
        return [key, { state: "done", result: results[key], total: numberOf(totals[key]), next: numberOf(nexts[key]) }];
      }),
    );
    if (blockedWith !== undefined) await block(blockedWith);
    for (const method of exhausted) await operating.exhaust(method);
    for (const release of releases) release();
    return items;
  }

  return async function batch<const Commands extends Readonly<Record<string, BatchCommand>> | readonly BatchCommand[]>(
    commands: Commands,
    options: BatchOptions = {},
  ): Promise<BatchResult<Commands>> {
    // Own keys for a list: with letters, so that no map of the answer becomes a JSON array.
    const entries: [string, BatchCommand][] = Array.isArray(commands)
      ? commands.map((command: BatchCommand, index) => [`c${index}`, command])
      : Object.entries(commands as Readonly<Record<string, BatchCommand>>);
    for (const [key, { method }] of entries) {
      if (!/^\w+$/.test(key)) throw new ConfigError(`commands: "${key}" must consist of letters, digits and _`);
      if (/^(batch|upload|download)$/i.test(method)) throw new ConfigError(`commands: ${method} is refused in a batch`);
    }
    const pages = Array.from({ length: Math.ceil(entries.length / pageSize) }, (_, index) =>
      entries.slice(index * pageSize, (index + 1) * pageSize),
    );
    for (const page of pages) checkReferences(page);
    // All of them before the first is sent: else an error in a later one would hide what the earlier ones did.
    const written = Object.fromEntries(entries.map(([key, command]) => [key, write(command)]));

    const items = new Map<string, BatchItem>();
    let stopped = false;
    for (const page of pages) {
      for (let rest: Page = page; rest.length > 0; ) {
        const part = stopped ? rest : rest.slice(0, countOfOne(rest));
        const answers: ReadonlyMap<string, BatchItem> = stopped
          ? new Map(part.map(([key]) => [key, { state: "not-run" }]))
          : await runPage(part, Object.fromEntries(part.map(([key]) => [key, written[key] as string])), options);
        for (const [key, item] of answers) {
          items.set(key, item);
          stopped ||= options.halt === true && item.state !== "done";
        }
        rest = rest.slice(part.length);
      }
    }
    const results = entries.map(([key]) => items.get(key) as BatchItem);
    return (
      Array.isArray(commands) ? results : Object.fromEntries(entries.map(([key], index) => [key, results[index]]))
    ) as BatchResult<Commands>;
  };
}

/** A reference reaches only earlier commands of the same request. */
function checkReferences(page: Page): void {
  const earlier = new Set<string>();
  for (const [key, { parameters = {} }] of page) {
    for (const target of referencedKeys(parameters)) {
      if (earlier.has(target)) continue;
      throw new ConfigError(
        `commands: "${key}" refers to "${target}", which is not an earlier one of the same ${pageSize}; reorder them`,
      );
    }
    earlier.add(key);
  }
}

function toFailed(value: unknown): Extract<BatchItem, { state: "failed" }> {
  const { code, description }: BitrixFailure = readFailure(value) ?? { code: "", description: "" };
  return { state: "failed", code, description, outcome: outcomeOf(code, undefined) };
}

/** The caller gave up, or the storage behind budget and address did not answer: both are asked before anything is sent. */
const notSent = (aborted: boolean): RequestError =>
  new RequestError(`bitrix: batch was ${aborted ? "aborted" : "not sent: the storage does not answer"}`, {
    vendor: "bitrix",
    code: aborted ? "aborted" : "network",
    outcome: "not-executed",
  });

const numberOf = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);
