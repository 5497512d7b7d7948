/** What the process that visits the zoo is asked for, and what it answers. */
export interface Visit {
  readonly scheme: "http" | "https";
  readonly port: number;
  readonly tries: number;
  /** The tries run at once, under a deadline that ends each of them; else sixteen at a time, with time to end by themselves. */
  readonly isSilent: boolean;
}

export interface VisitReport {
  /** How often each outcome is in the log. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** The longest try, in milliseconds. */
  readonly longestMs: number;
  /** Characters of the longest answer that was kept. */
  readonly answerLength: number;
  /** Bytes, after garbage was collected; `rise`: how much more memory the process held at most while it sent. */
  readonly memory: {
    readonly heap: number;
    readonly external: number;
    readonly buffers: number;
    readonly rise: number;
  };
}

export const patientDeadlineMs = 10_000;
