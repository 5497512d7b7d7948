import type { Engine } from "./engine.ts";

/** What one process works on at the same time. */
const places = 8;
/** What it takes in one go where it can give back; few, so that others get the rest when it ends. */
const batch = 32;

/** Takes what is due and works on it, a few at a time. Several processes may do so: claims keep them apart. */
export interface DueWork {
  /** For people and leases, e.g. `gateway checks kaspi-qr`. */
  readonly name: string;
  /** Takes what is due until nothing is left, what it took is due again, or `signal` is aborted. What it has begun may still be under way then. */
  start(signal?: AbortSignal): Promise<void>;
  /** Resolves when everything that was begun has ended. */
  ended(): Promise<void>;
}

export interface DueWorkOptions<Item> {
  readonly name: string;
  /** Takes at most so many, and nobody else gets them for a while. */
  readonly claim: (limit: number) => Promise<readonly Item[]>;
  /** What was taken longer ago, in milliseconds, is not begun: it would not end before its claim. */
  readonly beginMs: number;
  /** What is due again while others are taken waits for the next start. */
  readonly id: (item: Item) => string;
  /** One that fails is logged and holds up no other. */
  readonly work: (item: Item) => Promise<unknown>;
  /** Makes something due again that was taken and not begun. Left out: no more is taken than can begin at once. */
  readonly giveBack?: (item: Item) => Promise<unknown>;
}

/** One that hangs takes one place, not all. */
export function createDueWork<Item>(
  { clock, logger }: Pick<Engine, "clock" | "logger">,
  { name, claim, beginMs, id, work, giveBack }: DueWorkOptions<Item>,
): DueWork {
  const underWay = new Set<Promise<void>>();
  let isTaking = false;

  const logged = async (what: Promise<unknown>): Promise<void> => {
    try {
      await what;
    } catch (error) {
      logger.error(`${name} failed and will be repeated`, { error });
    }
  };
  function begin(item: Item): void {
    const done: Promise<void> = logged(work(item)).then(() => void underWay.delete(done));
    underWay.add(done);
  }
  async function aPlace(): Promise<void> {
    while (underWay.size >= places) await Promise.race(underWay);
  }

  async function take(signal: AbortSignal | undefined): Promise<void> {
    const taken = new Set<string>();
    for (;;) {
      await aPlace();
      if (signal?.aborted) return;
      const limit = giveBack ? batch : places - underWay.size;
      const items = await claim(limit);
      const claimedMs = clock.monotonicMs(); // not before: a slow claim must not keep all of it from beginning
      for (const item of items) {
        await aPlace();
        const isLate = signal?.aborted || clock.monotonicMs() - claimedMs >= beginMs;
        if (giveBack && isLate) await logged(giveBack(item));
        else begin(item);
      }
      if (items.length < limit || items.some((item) => taken.has(id(item)))) return;
      for (const item of items) taken.add(id(item));
    }
  }

  return {
    name,
    async start(signal) {
      if (isTaking) return;
      isTaking = true;
      try {
        await take(signal);
      } finally {
        isTaking = false;
      }
    },
    async ended() {
      while (underWay.size > 0) await Promise.all(underWay);
    },
  };
}
