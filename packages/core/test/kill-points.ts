import type { KyselyPlugin } from "kysely";
import { ApiError, createTokenKeeper, type StoredToken } from "../src/index.ts";
import { type AnyKysely, createKyselyStorage, type DatabaseDialect } from "../src/kysely/index.ts";

/** Hears of each moment before a statement is sent and after it was answered: `before 1`, `after 1`, `before 2`, … */
function announce(onMoment: (moment: string) => void): KyselyPlugin {
  let serial = 0;
  return {
    transformQuery({ node }) {
      onMoment(`before ${++serial}`);
      return node;
    },
    async transformResult({ result }) {
      onMoment(`after ${serial}`);
      return result;
    },
  };
}

interface Operation {
  readonly db: AnyKysely;
  readonly dialect: DatabaseDialect;
  readonly key: string;
  readonly onMoment: (moment: string) => void;
}

/** One step of a counter, as a reader of a feed makes it. */
export async function advanceOnce({ db, dialect, key, onMoment }: Operation): Promise<void> {
  const { watermarks } = createKyselyStorage({ db: db.withPlugin(announce(onMoment)), dialect });
  const position = await watermarks.get(key);
  await watermarks.advance(key, position, String(Number(position ?? 0) + 1));
}

/** Replaces the stored token by another one of the vendor at `vendorUrl`, whose refresh tokens work once. */
export async function replaceToken(
  { db, dialect, key, onMoment }: Operation,
  { vendorUrl, refused, onNeedsReauth }: TokenOptions,
): Promise<StoredToken> {
  const storage = createKyselyStorage({ db: db.withPlugin(announce(onMoment)), dialect });
  const keeper = createTokenKeeper({
    vendor: "vendor",
    key,
    storage,
    leaseTtlMs: 2000,
    async refresh({ refreshToken }) {
      const answer = await fetch(`${vendorUrl}/${encodeURIComponent(key)}`, { method: "POST", body: refreshToken });
      const { status } = answer;
      if (status !== 200) throw new ApiError("vendor: refused", { vendor: "vendor", status, outcome: "refused" });
      return (await answer.json()) as { accessToken: string; refreshToken: string };
    },
    ...(onNeedsReauth ? { onNeedsReauth } : {}),
  });
  return keeper.replace(refused ?? (await keeper.current()));
}

interface TokenOptions {
  readonly vendorUrl: string;
  /** @defaultValue the stored one */
  readonly refused?: StoredToken;
  readonly onNeedsReauth?: () => void;
}
