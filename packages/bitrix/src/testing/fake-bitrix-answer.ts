/** What the parts of the fake portal share: rows, parameters, answers and refusals. */
export type Row = Record<string, unknown>;
export type Values = Readonly<Record<string, unknown>>;

export interface Answer {
  readonly result: unknown;
  readonly total?: number;
  readonly next?: number;
}

/** Who calls: limits are counted for each, and application-only methods ask for one. */
export interface Caller {
  readonly credential: string;
  readonly isApplication: boolean;
  /** `auth_connector` of the call. */
  readonly connector: string;
}

export type Method = (parameters: Values, caller: Caller) => Answer;

export class Refused extends Error {
  readonly status: number;
  readonly body: Values;
  constructor(status: number, error: unknown, description: string, extra: Values = {}) {
    super(description);
    this.status = status;
    this.body = { error, error_description: description, ...extra };
  }
}
