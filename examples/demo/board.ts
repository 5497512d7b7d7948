/** What the page shows: six flows with their figures and latest events. */
type FlowState = "waiting" | "running" | "passed" | "failed";

export interface FlowView {
  readonly id: number;
  readonly title: string;
  /** What to look for, in one sentence. */
  readonly explains: string;
  readonly state: FlowState;
  /** Name and value, read from the fakes. */
  readonly figures: Readonly<Record<string, string | number>>;
  /** Newest first. */
  readonly log: readonly { readonly at: string; readonly text: string }[];
}

export interface Board {
  snapshot(): readonly FlowView[];
  setState(id: number, state: FlowState): void;
  setFigures(id: number, figures: FlowView["figures"]): void;
  log(id: number, text: string): void;
  /** Calls back after every change; gives a function that ends it. */
  subscribe(listener: () => void): () => void;
}

const keptLines = 8;

export function createBoard(flows: readonly Pick<FlowView, "id" | "title" | "explains">[]): Board {
  const views = new Map<number, FlowView>(
    flows.map((flow) => [flow.id, { ...flow, state: "waiting", figures: {}, log: [] }]),
  );
  const listeners = new Set<() => void>();
  const change = (id: number, patch: (view: FlowView) => Partial<FlowView>): void => {
    const view = views.get(id);
    if (!view) throw new RangeError(`there is no flow ${id}`);
    views.set(id, { ...view, ...patch(view) });
    for (const listener of listeners) listener();
  };
  return {
    snapshot: () => [...views.values()],
    setState: (id, state) => change(id, () => ({ state })),
    setFigures: (id, figures) => change(id, () => ({ figures })),
    log: (id, text) =>
      change(id, ({ log }) => ({
        log: [{ at: new Date().toISOString().slice(11, 19), text }, ...log].slice(0, keptLines),
      })),
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
