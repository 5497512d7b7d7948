import { systemClock } from "../clock.ts";
import { ApiError, RequestError, SdkError } from "../errors.ts";
import { redactingLogger, silentLogger } from "../http/logger.ts";
import { withLease } from "../jobs/with-lease.ts";
import type { Clock, LeaseStore, Logger, StoredToken, TokenPair, TokenStore } from "../ports.ts";

/** The account has no usable tokens: a person must consent again. */
export class NeedsReauthError extends SdkError {
  override readonly name = "NeedsReauthError";
  readonly vendor: string;
  readonly outcome = "not-executed" as const;

  constructor(vendor: string) {
    super(`${vendor}: the connection has no valid token; a person must connect the account again`);
    this.vendor = vendor;
  }
}

export interface TokenKeeperOptions {
  /** For messages: `amocrm`, `bitrix`, … */
  readonly vendor: string;
  /** Whose pair, e.g. `amocrm:example.amocrm.ru:client-id`. At most 180 characters. */
  readonly key: string;
  readonly storage: { readonly tokens: TokenStore; readonly leases: LeaseStore };
  /** Exchanges the refresh token at the vendor. Must neither repeat the request by itself nor be aborted half-way. */
  readonly refresh: (token: StoredToken & { readonly refreshToken: string }) => Promise<TokenPair>;
  /** Whether the vendor refused the refresh token for good. @defaultValue an answer 400 or 401 that was not executed */
  readonly isRefused?: (error: unknown) => boolean;
  /**
   * Refresh this long before the end, so that a lost answer leaves time to act; needs `expiresAt`. One that fails is
   * tried again after a minute, then ever more rarely, but after a tenth of what is left at the latest. Left out: only
   * after the vendor refused the access token, as Bitrix24 asks.
   */
  readonly refreshAheadMs?: number;
  /** Must exceed the timeout of `refresh`. @defaultValue 60_000 */
  readonly leaseTtlMs?: number;
  /** How long to wait for a refresh in another process. @defaultValue 90_000 */
  readonly waitMs?: number;
  /** Told once when a refresh token was refused: alert somebody. */
  readonly onNeedsReauth?: () => void;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

export interface TokenKeeper {
  /**
   * The token to send now. After a refused refresh this is the old access token, which may live for a while.
   * @throws {NeedsReauthError} when no pair was ever stored
   */
  current(): Promise<StoredToken>;
  /**
   * Another token than the one that the vendor refused: the stored one when it has changed, else a refreshed one.
   * @throws {NeedsReauthError} when there is no way to refresh; what `refresh` threw when its outcome is open
   */
  replace(refused: StoredToken): Promise<StoredToken>;
  /** Calls `work` with a token, and once more with another one when it fails with 401. Never a third time. */
  use<T>(work: (token: StoredToken) => Promise<T>): Promise<T>;
}

/**
 * Keeps an OAuth pair whose refresh token works once: one refresh at a time in this process and, by a lease, over all
 * processes; the new pair is stored before it is used.
 *
 * A refresh without an answer is repeated once with the same refresh token; when that is refused the first one had
 * worked, its pair is lost, and the connection is marked `needs_reauth`.
 */
export function createTokenKeeper(options: TokenKeeperOptions): TokenKeeper {
  const {
    vendor,
    key,
    storage: { tokens, leases },
    refresh,
    isRefused = isRefusedByStatus,
    refreshAheadMs,
    leaseTtlMs = 60_000,
    waitMs = 90_000,
    onNeedsReauth,
    clock = systemClock,
  } = options;
  const logger = redactingLogger(options.logger ?? silentLogger);
  const holder = crypto.randomUUID();
  let underWay: Promise<StoredToken | undefined> | undefined;
  /** A pair that the vendor gave and the store did not take yet: the old one is worthless, so it must not be lost. */
  let unsaved: { readonly pair: TokenPair; readonly version: number } | undefined;
  /** After a refresh ahead of time that failed: the token still works, so that not every call pays for another one. */
  let ahead = { failures: 0, againAtMs: Number.NEGATIVE_INFINITY };

  async function read(): Promise<StoredToken> {
    if (unsaved) await save(unsaved.pair, unsaved.version);
    const stored = await tokens.get(key);
    if (!stored) throw new NeedsReauthError(vendor);
    return stored;
  }

  async function save(pair: TokenPair, version: number): Promise<StoredToken> {
    unsaved = { pair, version };
    for (let attempt = 1; ; attempt++) {
      try {
        const saved = await tokens.save(key, pair, version);
        unsaved = undefined;
        if (saved) return saved;
        logger.warn(`${vendor}: another pair was stored during a refresh; that one is used`);
        return await read();
      } catch (error) {
        if (attempt === 5 || unsaved === undefined) throw error;
        await clock.sleep(100 * 4 ** (attempt - 1));
      }
    }
  }

  async function ask(token: StoredToken & { readonly refreshToken: string }, isAhead: boolean): Promise<TokenPair> {
    try {
      return await refresh(token);
    } catch (error) {
      if (isAhead) throw error; // there is time: the next try is the second one
      if (!SdkError.isInstance(error) || error.outcome !== "unknown") throw error;
      logger.warn(`${vendor}: a refresh got no clear answer; asking once more with the same token`, { error });
      return await refresh(token);
    }
  }

  /** Inside the lease: nobody else refreshes this pair. */
  async function refreshNow(refused: StoredToken, isAhead: boolean): Promise<StoredToken> {
    const stored = await read();
    if (stored.accessToken !== refused.accessToken) return stored;
    const { refreshToken } = stored;
    if (stored.state === "needs_reauth" || refreshToken === undefined) throw new NeedsReauthError(vendor);
    try {
      return await save(await ask({ ...stored, refreshToken }, isAhead), stored.version);
    } catch (error) {
      if (!isRefused(error)) throw error;
      // A consent that was given meanwhile has another version and stays.
      if (await tokens.markNeedsReauth(key, stored.version)) {
        logger.error(`${vendor}: the refresh token was refused; a person must connect the account again`);
        onNeedsReauth?.();
        throw new NeedsReauthError(vendor);
      }
      return read();
    }
  }

  async function takeTurn(refused: StoredToken, isAhead: boolean): Promise<StoredToken | undefined> {
    const stored = await read();
    if (stored.accessToken !== refused.accessToken) return stored;
    const lease = { leases, name: `token ${key}`, holder, ttlMs: leaseTtlMs, clock };
    const result = await withLease(lease, () => refreshNow(refused, isAhead));
    return result.state === "done" ? result.value : undefined;
  }

  /** `undefined` while another process refreshes. Callers of this process that come meanwhile share one turn. */
  function turn(refused: StoredToken, isAhead = false): Promise<StoredToken | undefined> {
    underWay ??= takeTurn(refused, isAhead).finally(() => {
      underWay = undefined;
    });
    return underWay;
  }

  async function replace(refused: StoredToken): Promise<StoredToken> {
    const startedAt = clock.monotonicMs();
    for (;;) {
      const isShared = underWay !== undefined;
      const token = await turn(refused);
      // A shared turn may have been about an older token: what it gave may be the very one that was refused.
      if (token && (!isShared || token.accessToken !== refused.accessToken)) return token;
      if (clock.monotonicMs() - startedAt >= waitMs) {
        const message = `${vendor}: another process has been refreshing the token for too long`;
        throw new RequestError(message, { vendor, code: "timeout", outcome: "not-executed" });
      }
      if (!token) await clock.sleep(200);
    }
  }

  async function current(): Promise<StoredToken> {
    const stored = await read();
    if (refreshAheadMs === undefined || stored.state === "needs_reauth") return stored;
    if (stored.refreshToken === undefined || stored.expiresAt === undefined) return stored;
    const leftMs = stored.expiresAt.getTime() - clock.now().getTime();
    if (leftMs > refreshAheadMs) return stored;
    if (leftMs <= 0) return replace(stored);
    if (clock.monotonicMs() < ahead.againAtMs) return stored;
    try {
      const token = (await turn(stored, true)) ?? stored;
      ahead = { failures: 0, againAtMs: Number.NEGATIVE_INFINITY };
      return token;
    } catch (error) {
      const pauseMs = Math.min(60_000 * 2 ** ahead.failures, leftMs / 10);
      ahead = { failures: Math.min(ahead.failures + 1, 20), againAtMs: clock.monotonicMs() + pauseMs };
      logger.warn(`${vendor}: refreshing ahead of time failed; the old token still works`, { error });
      return stored;
    }
  }

  return {
    current,
    replace,
    async use(work) {
      const token = await current();
      try {
        return await work(token);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 401) throw error;
        return work(await replace(token));
      }
    },
  };
}

function isRefusedByStatus(error: unknown): boolean {
  return error instanceof ApiError && error.outcome === "refused" && (error.status === 400 || error.status === 401);
}
