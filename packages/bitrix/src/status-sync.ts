import { type Clock, ConfigError, type Logger, redactingLogger, SdkError, systemClock } from "@orderbridge/core";
import type { BitrixStorage, SyncLink } from "./storage.ts";

/** An entity as one side of a sync sees it, in words that both sides share. */
export interface SideState {
  /** The side's own code, e.g. a stage id. Two reads with one code mean that nothing moved. */
  readonly code: string;
  /** The shared status; `undefined` when the code has no mapping. */
  readonly status: string | undefined;
  /** `undefined` when the side does not know of payments. */
  readonly paid: boolean | undefined;
  /** What a conflict ranks by: a cancelled side wins over a final one, that over one in progress. */
  readonly rank: "progress" | "final" | "cancelled";
  /** When the code last changed; for the rule `latest`. */
  readonly changedAt: Date | undefined;
}

export interface SideChange {
  /** Shared status to move to. */
  readonly status?: string | undefined;
  /** The other side was paid; a side decides by itself what that moves. */
  readonly paid?: true | undefined;
}

/** One system of a sync. */
export interface SyncSide {
  /** For messages and the history: `bitrix24`, `backend`, … */
  readonly name: string;
  /** `undefined`: the entity is gone. */
  read(id: string): Promise<SideState | undefined>;
  /** The code that a change leads to, which may be the present one; `undefined` when the status has no mapping here. */
  target(change: SideChange, seen: SideState): Promise<string | undefined>;
  /**
   * Moves the entity on and gives it with the code that was written, or with the one that was seen when the system put it
   * back at once. `changed`, writing nothing, when it is no longer as seen.
   */
  write(id: string, change: SideWrite): Promise<SideState | "changed">;
  /** The other side's entity, as this side knows it; `undefined` when it knows none. */
  peerOf(id: string): Promise<string | undefined>;
  /**
   * Remembers the other side's entity, which was found from there, also in the place of `gonePeerId`; absent where there is
   * nothing to remember.
   */
  link?(id: string, peerId: string, gonePeerId?: string): Promise<void>;
}

export interface SideWrite {
  readonly code: string;
  /** Only for sides that know of payments. */
  readonly paid: true | undefined;
  readonly seen: SideState;
  readonly peerId: string;
  /** Aborted when another worker may soon look after the pair: nothing may be sent any more. */
  readonly signal?: AbortSignal | undefined;
}

export interface StatusSyncOptions {
  /** Names the links in the storage; one per pair of systems. */
  readonly name: string;
  readonly storage: Pick<BitrixStorage, "links" | "work">;
  readonly left: SyncSide;
  readonly right: SyncSide;
  /**
   * Who wins when both sides moved to different statuses since they last agreed. Before it rank: cancelled, paid, final.
   */
  readonly conflict: "left" | "right" | "latest";
  /** How long the echo of a write may take, in milliseconds. @defaultValue 600_000 */
  readonly echoMs?: number;
  readonly clock?: Clock;
  /** @defaultValue console */
  readonly logger?: Logger;
}

export type SyncOutcome =
  /**
   * Nothing was moved. `unmapped` names what was left alone: codes that have no mapping, writes that the system put back,
   * sides that differ.
   */
  | { readonly state: "settled"; readonly unmapped: readonly string[] }
  /** Sides that were moved; what could not be followed besides is the link's note. */
  | { readonly state: "written"; readonly sides: readonly SideName[] }
  /** No partner is known. */
  | { readonly state: "unlinked" }
  /** One side is gone. */
  | { readonly state: "lost" };

type SideName = "left" | "right";
const otherSide = (side: SideName): SideName => (side === "left" ? "right" : "left");

export interface StatusSync {
  /**
   * Looks at the pair of a left entity and brings both sides together. One caller at a time per pair: let a worker call it
   * under the left id. `signal` ends it before the next write.
   */
  sync(leftId: string, options?: { readonly signal?: AbortSignal }): Promise<SyncOutcome>;
  /**
   * The left entity that a right one belongs to, linked now if only the right side knew of it; `undefined` when there is
   * none. For events of the right side: mark the left entity, so that one worker looks at the pair.
   */
  leftOf(rightId: string): Promise<string | undefined>;
  /** Links of this sync, with what was counted. */
  links(options: { readonly after?: string; readonly limit: number }): Promise<readonly SyncLink[]>;
}

const maxTurns = 5;
/** Writes in a row that a system may put back at once. */
const maxPutBack = 3;

/**
 * Two systems that follow each other's status. It compares both sides with what they last agreed on: a side that moved is
 * followed, an echo of our own write finds agreement and moves nothing, and a storm of events ends in one look.
 *
 * A payment is told to the other side once and at once, also while that side's own move is refused. A write that the system
 * puts back at once is sent three times in all; then the pair stands apart, with a note, until either side moves.
 */
export function createStatusSync(options: StatusSyncOptions): StatusSync {
  const { name, storage, left, right, conflict, echoMs = 600_000, clock = systemClock } = options;
  const logger = redactingLogger(options.logger ?? console);
  if (!["left", "right", "latest"].includes(conflict)) {
    throw new ConfigError('conflict must be "left", "right" or "latest"');
  }

  async function save(link: SyncLink, change: Partial<SyncLink>): Promise<SyncLink> {
    const next: SyncLink = { ...link, ...change, version: link.version + 1 };
    if (await storage.links.put(next)) return next;
    throw new Error(`bitrix: sync ${name}: a link was changed by another worker, or its partner is linked elsewhere`);
  }

  const newLink = (leftId: string, rightId: string): SyncLink => ({
    sync: name,
    leftId,
    rightId,
    agreed: undefined,
    expectedEcho: undefined,
    echoes: 0,
    nearMisses: 0,
    state: "active",
    note: undefined,
    unfollowed: undefined,
    version: 0,
  });

  async function syncPair(stored: SyncLink, signal: AbortSignal | undefined): Promise<SyncOutcome> {
    let link = stored;
    const written: SideName[] = [];
    let isSent = false;
    let putBack = 0;
    /** A side that has followed the other one: kept with the next write, so that it is no move, whatever becomes of that. */
    let followed: Partial<SyncLink> = {};
    for (let turn = 0; turn < maxTurns; turn++) {
      const [l, r] = await Promise.all([left.read(link.leftId), right.read(link.rightId)]);
      if (!l || !r) {
        if (link.state !== "lost") {
          logger.warn(`bitrix: sync ${name}: one side is gone`, { left: link.leftId, right: link.rightId });
          await save(link, { state: "lost", note: `${l ? right.name : left.name} is gone` });
        }
        return { state: "lost" };
      }
      const states: Record<SideName, SideState> = { left: l, right: r };
      const plan = decide({ ...link, ...followed }, l, r, conflict);
      const notes = [...plan.notes];
      let { unfollowed } = plan;
      let unpaid: SideName | undefined;
      let refusal: unknown;
      const done = new Set<SideName>();
      let changedMeanwhile = false;
      for (const side of ["left", "right"] as const) {
        const change = plan.changes[side];
        if (!change) continue;
        const system = side === "left" ? left : right;
        const other = otherSide(side);
        const seen = states[side];
        let code = await system.target(change, seen);
        if (code === undefined) {
          notes.push(`${system.name} has no code for ${change.status}`);
          unfollowed = { side: other, status: change.status };
          if (!change.paid) continue;
          // The payment that came with the status is told all the same.
          code = (await system.target({ paid: true }, seen)) ?? seen.code;
        }
        const paid = change.paid && seen.paid === false ? true : undefined;
        if (code === seen.code && !paid) continue;
        signal?.throwIfAborted();
        // Kept before it is sent: a write whose reply was lost is then known for ours.
        if (code !== seen.code) {
          const until = new Date(clock.now().getTime() + echoMs);
          // A payment moves this side away from the status that the other one is still to follow.
          const pending = change.status === undefined && !done.has(other) ? plan.changes[other]?.status : undefined;
          link = await save(link, {
            ...followed,
            expectedEcho: { side, code, until },
            ...(pending === undefined
              ? {}
              : {
                  agreed: agreedAt(link, { left: states.left.code, right: states.right.code, [side]: code }),
                  unfollowed: { side, status: pending },
                  note: undefined,
                }),
          });
          followed = {};
        }
        const [id, peerId] = side === "left" ? [link.leftId, link.rightId] : [link.rightId, link.leftId];
        let result: SideState | "changed";
        try {
          result = await system.write(id, { code, paid, seen, peerId, signal });
        } catch (error) {
          const isRefused = SdkError.isInstance(error) && error.outcome === "refused";
          if (!isRefused || side === "right" || !plan.changes.right?.paid) throw error;
          refusal = error; // the payment does not wait for it
          continue;
        }
        if (result === "changed") {
          changedMeanwhile = true;
          break;
        }
        isSent = true;
        if (code !== seen.code && result.code === seen.code) {
          // A rule that acts by chance may let the next one through. Written on and on, it would be put back without end.
          if (++putBack < maxPutBack) {
            changedMeanwhile = true;
            break;
          }
          notes.push(`${system.name} accepted ${code} and put it back to ${seen.code}`);
          unfollowed = { side: other, status: change.status };
          if (change.paid) unpaid = side;
          done.add(side);
          continue;
        }
        done.add(side);
        states[side] = result;
        if (!written.includes(side)) written.push(side);
        logger.info(`bitrix: sync ${name}: moved`, { side: system.name, id, from: seen.code, to: result.code, paid });
        if (change.status !== undefined) {
          const agreed = agreedAt(link, { left: states.left.code, right: states.right.code });
          followed = { agreed, unfollowed: undefined };
        }
      }
      if (changedMeanwhile) continue;
      if (refusal !== undefined) throw refusal;
      const unmapped = await agree(link, states, { isSent, notes, unfollowed, unpaid });
      return written.length > 0 ? { state: "written", sides: written } : { state: "settled", unmapped };
    }
    throw new Error(`bitrix: sync ${name}: a side changes faster than it can be followed`);
  }

  /** Stores what both sides were left at, and checks off the echo that was expected. Gives why they differ, if they do. */
  async function agree(
    link: SyncLink,
    states: Readonly<Record<SideName, SideState>>,
    {
      isSent,
      notes,
      ...found
    }: {
      readonly isSent: boolean;
      readonly notes: readonly string[];
      readonly unfollowed: SyncLink["unfollowed"];
      /** A side that put a payment back. */
      readonly unpaid: SideName | undefined;
    },
  ): Promise<readonly string[]> {
    let { echoes, nearMisses, expectedEcho } = link;
    if (expectedEcho && clock.now() >= expectedEcho.until) expectedEcho = undefined;
    if (expectedEcho && !isSent) {
      if (states[expectedEcho.side].code === expectedEcho.code) echoes++;
      else nearMisses++;
      expectedEcho = undefined;
    }
    // A payment is agreed once either side knows of it: it is told to the other side once. One that was put back there is
    // open as long as it would still move that side.
    const paid = states.left.paid === true || states.right.paid === true;
    const putBackBy = found.unpaid ?? unpaidSide(link);
    const target =
      paid && putBackBy && (await (putBackBy === "left" ? left : right).target({ paid: true }, states[putBackBy]));
    const unpaid = putBackBy && target && target !== states[putBackBy].code ? putBackBy : undefined;
    const differ = states.left.status === undefined || states.left.status !== states.right.status;
    // A pair that stands where it was noted to stand keeps its note: another event for it is no news.
    const stands =
      (differ || unpaid !== undefined) &&
      (["left", "right"] as const).every((side) => link.agreed?.[side].code === states[side].code);
    // A payment explains a deal that is ahead of its order's status; once it is withdrawn, nothing does.
    const apart =
      differ && !paid ? `${left.name} stands at ${states.left.code}, ${right.name} at ${states.right.code}` : undefined;
    const open = unpaid && `${(unpaid === "left" ? left : right).name} has not taken over the payment`;
    const note = notes.length > 0 ? notes.join("; ") : ((stands ? link.note : undefined) ?? open ?? apart);
    const unfollowed =
      found.unfollowed ??
      (stands && notes.length === 0 && link.note !== undefined ? link.unfollowed : undefined) ??
      (unpaid && { side: otherSide(unpaid), status: undefined });
    if (note !== undefined && note !== link.note) {
      logger.warn(`bitrix: sync ${name}: nothing was moved: ${note}`, { left: link.leftId, right: link.rightId });
    }
    const agreed = {
      left: { code: states.left.code, paid: paid && unpaid !== "left" },
      right: { code: states.right.code, paid: paid && unpaid !== "right" },
    };
    const next: Partial<SyncLink> = { agreed, expectedEcho, echoes, nearMisses, state: "active", note, unfollowed };
    const isNews = Object.entries(next).some(
      ([field, value]) => JSON.stringify(value) !== JSON.stringify(link[field as keyof SyncLink]),
    );
    if (link.version === 0 || isNews) await save(link, next);
    return note === undefined ? [] : note.split("; ");
  }

  return {
    async sync(leftId, { signal } = {}) {
      const known = await storage.links.getByLeft(name, leftId);
      if (known) return syncPair(known, signal);
      const rightId = await left.peerOf(leftId);
      return rightId === undefined ? { state: "unlinked" } : syncPair(newLink(leftId, rightId), signal);
    },
    async leftOf(rightId) {
      const known = await storage.links.getByRight(name, rightId);
      if (known) return known.leftId;
      const leftId = await right.peerOf(rightId);
      if (leftId === undefined || !(await left.read(leftId))) return undefined;
      const other = await storage.links.getByLeft(name, leftId);
      if (other && !(await right.read(other.rightId))) {
        logger.info(`bitrix: sync ${name}: a new partner in the place of one that is gone`, {
          left: leftId,
          right: rightId,
          gone: other.rightId,
        });
        const { agreed, expectedEcho, state, note, unfollowed } = newLink(leftId, rightId);
        await left.link?.(leftId, rightId, other.rightId);
        await save(other, { rightId, agreed, expectedEcho, state, note, unfollowed });
        return leftId;
      }
      if (other) {
        logger.warn(`bitrix: sync ${name}: two entities claim one partner; the first stays`, {
          left: leftId,
          right: other.rightId,
          claimedBy: rightId,
        });
        return undefined;
      }
      // First, so that a crash in between is made up for by the next event: a pair that is linked is not linked again.
      await left.link?.(leftId, rightId);
      await save(newLink(leftId, rightId), {});
      return leftId;
    },
    links: ({ after, limit }) => storage.links.list(name, after === undefined ? { limit } : { after, limit }),
  };
}

interface Plan {
  readonly changes: Readonly<Partial<Record<SideName, SideChange>>>;
  /** Moves that could not be followed. */
  readonly notes: readonly string[];
  readonly unfollowed: SyncLink["unfollowed"];
}

/** These codes are agreed on; payments are as before. */
function agreedAt({ agreed }: SyncLink, codes: Readonly<Record<SideName, string>>): SyncLink["agreed"] {
  return {
    left: { code: codes.left, paid: agreed?.left.paid === true },
    right: { code: codes.right, paid: agreed?.right.paid === true },
  };
}

/** The side that put a payment back, if one did. */
function unpaidSide({ agreed }: SyncLink): SideName | undefined {
  if (!agreed || agreed.left.paid === agreed.right.paid) return undefined;
  return agreed.left.paid ? "right" : "left";
}

/** What has to be written so that both sides agree. */
function decide(link: SyncLink, l: SideState, r: SideState, conflict: StatusSyncOptions["conflict"]): Plan {
  const { expectedEcho } = link;
  // What was not followed is tried again once its note is gone.
  const again = link.note === undefined ? link.unfollowed : undefined;
  const agreed = again?.side === "both" ? undefined : link.agreed;
  const hasMoved = (side: SideName, { code }: SideState): boolean =>
    agreed?.[side].code !== code && !(expectedEcho?.side === side && expectedEcho.code === code);
  const isAgain = (side: SideName, state: SideState): boolean => again?.side === side && !hasMoved(side, state);
  const left = isAgain("left", l) ? { ...l, status: again?.status ?? l.status } : l;
  const right = isAgain("right", r) ? { ...r, status: again?.status ?? r.status } : r;
  const movedSides = (["left", "right"] as const).filter(
    (side) => again?.side === side || hasMoved(side, side === "left" ? left : right),
  );
  const wasPaid = agreed !== undefined && (agreed.left.paid || agreed.right.paid) && !(again && unpaidSide(link));

  let winner: SideName | undefined;
  const notes: string[] = [];
  let unfollowed: SyncLink["unfollowed"];
  if (left.status === undefined || left.status !== right.status) {
    const unmapped = movedSides.filter((side) => (side === "left" ? left : right).status === undefined);
    notes.push(...unmapped.map((side) => `unmapped ${(side === "left" ? left : right).code}`));
    // At first sight of a pair a code without a mapping is left alone, so nothing is moved onto it.
    if (agreed || unmapped.length === 0) {
      winner = movedSides.length === 2 ? settle(left, right, { conflict, wasPaid }) : movedSides[0];
    }
    // A side that won without a mapping stands where it is, and so does the other one.
    if (winner && unmapped.includes(winner)) {
      unfollowed = { side: winner, status: undefined };
      winner = undefined;
    } else if (!agreed && unmapped.length > 0) unfollowed = { side: "both", status: undefined };
  }
  const newlyPaid = (from: SideState, to: SideState): true | undefined =>
    !wasPaid && from.paid === true && to.paid !== true ? true : undefined;
  const toRight = { status: winner === "left" ? left.status : undefined, paid: newlyPaid(left, right) };
  const toLeft = { status: winner === "right" ? right.status : undefined, paid: newlyPaid(right, left) };
  const isChange = ({ status, paid }: SideChange) => status !== undefined || paid !== undefined;
  return {
    changes: { ...(isChange(toLeft) ? { left: toLeft } : {}), ...(isChange(toRight) ? { right: toRight } : {}) },
    notes,
    unfollowed,
  };
}

/** Both sides moved to different statuses. Cancelled, paid, final rank before the rule. */
function settle(
  left: SideState,
  right: SideState,
  { conflict, wasPaid }: { readonly conflict: StatusSyncOptions["conflict"]; readonly wasPaid: boolean },
): SideName {
  const rankOf = (state: SideState, other: SideState): number => {
    if (state.rank === "cancelled") return 3;
    // A status is no payment where the other side knows of payments and has none.
    if ((state.paid === true && !wasPaid) || (state.status === "paid" && other.paid !== false)) return 2;
    return state.rank === "final" ? 1 : 0;
  };
  const difference = rankOf(left, right) - rankOf(right, left);
  if (difference !== 0) return difference > 0 ? "left" : "right";
  if (conflict !== "latest") return conflict;
  return (left.changedAt?.getTime() ?? 0) >= (right.changedAt?.getTime() ?? 0) ? "left" : "right";
}
