/** One thing that is measured: runs `iterations` times and is timed as a whole. */
export interface Contender {
  readonly name: string;
  run(iterations: number): void;
}

export interface Row {
  readonly name: string;
  /** Median over the rounds. */
  readonly nanosecondsPerCall: number;
}

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((left, right) => left - right);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
};

/**
 * Runs the contenders in turn, round after round, so that a machine that speeds up or slows down does so for all of
 * them; each round starts with another one. The first round warms up and is not counted.
 */
export function measure(contenders: readonly Contender[], { rounds = 9, roundMs = 60 } = {}): readonly Row[] {
  const times = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
  const iterations = new Map<string, number>();
  for (const { name, run } of contenders) {
    let count = 16;
    for (;;) {
      const startedAt = performance.now();
      run(count);
      const elapsed = performance.now() - startedAt;
      if (elapsed > roundMs / 4) {
        iterations.set(name, Math.max(1, Math.round((count * roundMs) / elapsed)));
        break;
      }
      count *= 4;
    }
  }
  for (let round = 0; round <= rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const { name, run } = contenders[(turn + round) % contenders.length] as Contender;
      const count = iterations.get(name) as number;
      const startedAt = process.hrtime.bigint();
      run(count);
      const elapsed = Number(process.hrtime.bigint() - startedAt);
      if (round > 0) times.get(name)?.push(elapsed / count);
    }
  }
  return contenders.map(({ name }) => ({ name, nanosecondsPerCall: median(times.get(name) ?? []) }));
}

export interface Target {
  readonly text: string;
  readonly met: boolean;
}

export interface BenchResult {
  readonly id: string;
  readonly title: string;
  /** First row: the column names. */
  readonly table: readonly (readonly string[])[];
  readonly targets: readonly Target[];
}

export function print({ id, title, table, targets }: BenchResult): void {
  const widths = (table[0] ?? []).map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  process.stdout.write(`\n${id}  ${title}\n`);
  for (const row of table) {
    process.stdout.write(
      `  ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] as number) : cell.padStart(widths[column] as number))).join("  ")}\n`,
    );
  }
  for (const { text, met } of targets) process.stdout.write(`  ${met ? "met " : "MISS"} ${text}\n`);
}
