/** The longest span that one listing may ask for, both bounds included: 14 days minus 1 ms (partner guide, "orders"). */
export const maxWindowMs = 14 * 86_400_000 - 1;

export interface TimeWindow {
  readonly from: Date;
  readonly to: Date;
}

/** Cuts `[from, to]` into windows, oldest first. Bounds are inclusive, so the next window begins 1 ms later. */
export function cutWindows(from: Date, to: Date): readonly TimeWindow[] {
  const windows: TimeWindow[] = [];
  for (let start = from.getTime(); start <= to.getTime(); ) {
    const end = Math.min(start + maxWindowMs, to.getTime());
    windows.push({ from: new Date(start), to: new Date(end) });
    start = end + 1;
  }
  return windows;
}
