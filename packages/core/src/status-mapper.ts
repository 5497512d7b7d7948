import { ConfigError } from "./errors.ts";

export type StatusPair = readonly [code: string, status: string];

type CodeOf<Pairs extends readonly StatusPair[]> = Pairs[number][0];
type StatusOf<Pairs extends readonly StatusPair[]> = Pairs[number][1];

/** Codes of one status. */
type CodesOf<Pairs extends readonly StatusPair[], Status> = Extract<Pairs[number], readonly [string, Status]>[0];

type IsUnion<Type, Whole = Type> = Type extends Whole ? ([Whole] extends [Type] ? false : true) : never;

/** Statuses that several codes lead to: their way back must be named. */
type AmbiguousStatus<Pairs extends readonly StatusPair[]> = {
  [Status in StatusOf<Pairs>]: IsUnion<CodesOf<Pairs, Status>> extends true ? Status : never;
}[StatusOf<Pairs>];

type Back<Pairs extends readonly StatusPair[]> = {
  readonly [Status in AmbiguousStatus<Pairs>]: CodesOf<Pairs, Status>;
};

export type StatusMapperOptions<Pairs extends readonly StatusPair[]> = {
  /** `[vendor code, our status]`; a code appears once, a status may appear several times. */
  readonly pairs: Pairs;
} & ([AmbiguousStatus<Pairs>] extends [never]
  ? { readonly back?: Record<string, never> }
  : {
      /** For each status with several codes: the code that it goes back as. */
      readonly back: Back<Pairs>;
    });

export interface StatusMapper<Code extends string, Status extends string> {
  /** Our status of a vendor code. An unknown code comes back as `unmapped`, never as a guess. */
  map(code: string): { readonly status: Status } | { readonly unmapped: string };
  /** The vendor's code of our status. An unknown status comes back as `unmapped`. */
  unmap(status: string): { readonly code: Code } | { readonly unmapped: string };
  readonly codes: readonly Code[];
  readonly statuses: readonly Status[];
}

/**
 * Translates a vendor's status codes into ours and back.
 *
 * ```ts
 * const mapper = createStatusMapper({
 *   pairs: [["N", "new"], ["RF", "cancelled"], ["UN", "cancelled"]],
 *   back: { cancelled: "UN" },
 * });
 * mapper.map("N"); // { status: "new" }
 * mapper.map("X"); // { unmapped: "X" }
 * ```
 *
 * @throws {ConfigError} for a code that is given twice, an empty name, a status with several codes and no way back,
 *   or a way back that is not one of its codes.
 */
export function createStatusMapper<const Pairs extends readonly StatusPair[]>(
  options: StatusMapperOptions<Pairs>,
): StatusMapper<CodeOf<Pairs>, StatusOf<Pairs>> {
  const statusByCode = new Map<string, string>();
  const codesByStatus = new Map<string, string[]>();
  for (const [code, status] of options.pairs) {
    if (code === "" || status === "") throw new ConfigError("pairs: a code or a status is empty");
    if (statusByCode.has(code)) throw new ConfigError(`pairs: code "${code}" is given twice; keep one`);
    statusByCode.set(code, status);
    codesByStatus.set(status, [...(codesByStatus.get(status) ?? []), code]);
  }

  const named = new Map(Object.entries((options.back ?? {}) as Record<string, string>));
  const codeByStatus = new Map<string, string>();
  for (const [status, codes] of codesByStatus) {
    const back = named.get(status);
    if (back !== undefined && !codes.includes(back)) {
      throw new ConfigError(`back: "${status}" cannot go back as "${back}"; use one of ${codes.join(", ")}`);
    }
    if (back === undefined && codes.length > 1) {
      throw new ConfigError(`back: name the code that "${status}" goes back as: one of ${codes.join(", ")}`);
    }
    codeByStatus.set(status, back ?? (codes[0] as string));
  }
  for (const status of named.keys()) {
    if (!codesByStatus.has(status)) throw new ConfigError(`back: no pair leads to "${status}"; remove it`);
  }

  return {
    map: (code) => {
      const status = statusByCode.get(code);
      return status === undefined ? { unmapped: code } : { status: status as StatusOf<Pairs> };
    },
    unmap: (status) => {
      const code = codeByStatus.get(status);
      return code === undefined ? { unmapped: status } : { code: code as CodeOf<Pairs> };
    },
    codes: [...statusByCode.keys()] as CodeOf<Pairs>[],
    statuses: [...codesByStatus.keys()] as StatusOf<Pairs>[],
  };
}
