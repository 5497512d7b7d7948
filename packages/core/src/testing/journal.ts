/** One request that a fake received. */
export interface JournalEntry {
  readonly method: string;
  /** Path and query as sent. */
  readonly path: string;
  readonly at: Date;
  readonly status: number;
}

export interface Journal {
  readonly entries: readonly JournalEntry[];
  record(entry: JournalEntry): void;
  /** Entries whose "METHOD path" holds the text or fits the pattern. */
  count(pattern: string | RegExp): number;
  clear(): void;
}

/** What a fake was asked, for asserting budgets and that nothing more was called. */
export function createJournal(): Journal {
  const entries: JournalEntry[] = [];
  return {
    entries,
    record(entry) {
      entries.push(entry);
    },
    count(pattern) {
      return entries.filter(({ method, path }) => {
        const line = `${method} ${path}`;
        return typeof pattern === "string" ? line.includes(pattern) : pattern.test(line);
      }).length;
    },
    clear() {
      entries.length = 0;
    },
  };
}
