import { createHash } from "node:crypto";
import { type Clock, ConfigError } from "@orderbridge/core";
import { randomId } from "./ids.ts";
import { Refusal } from "./refusal.ts";
import type { ApiTokenRecord, GatewayStorage } from "./storage.ts";

/** What a token may do. `admin` may do everything. */
export const apiScopes = ["create", "read", "refund", "admin"] as const;

export type ApiScope = (typeof apiScopes)[number];

/** A token that the configuration gives; taking it out of the configuration revokes it. */
export interface StaticToken {
  readonly merchant: string;
  readonly token: string;
  /** @defaultValue all but admin */
  readonly scopes?: readonly ApiScope[];
}

interface Caller {
  readonly merchant: string;
  readonly scopes: readonly ApiScope[];
}

export interface TokenRegistry {
  /**
   * Makes a token; its text is shown here and never again, only its digest is stored.
   *
   * @throws {Refusal} for a merchant without a name, or with one of more than 100 characters.
   */
  create(request: {
    readonly merchant: string;
    readonly scopes: readonly ApiScope[];
  }): Promise<{ readonly id: string; readonly token: string }>;
  /** Tokens that were made, without their text, the oldest first. */
  list(): Promise<readonly ApiTokenRecord[]>;
  /** From now on the token is refused. Resolves to `false` for an unknown id. */
  revoke(id: string): Promise<boolean>;
  authenticate(token: string): Promise<Caller | undefined>;
}

const defaultScopes: readonly ApiScope[] = ["create", "read", "refund"];

/** Tokens have at least 128 random bits, so a plain digest keeps them safe and look-ups by digest leak nothing. */
const digest = (token: string): string => createHash("sha256").update(token).digest("hex");

/** Whether a text can name a merchant: it is part of keys in the database. */
export const isMerchant = (text: string): boolean => text !== "" && text.length <= 100;

export function createTokenRegistry({
  storage,
  clock,
  tokens,
}: {
  readonly storage: Pick<GatewayStorage, "addToken" | "findToken" | "listTokens" | "removeToken">;
  readonly clock: Clock;
  readonly tokens: readonly StaticToken[];
}): TokenRegistry {
  const configured = new Map<string, Caller>();
  for (const { merchant, token, scopes = defaultScopes } of tokens) {
    if (!isMerchant(merchant)) throw new ConfigError("tokens: a merchant has 1 to 100 characters");
    if (token.length < 16) throw new ConfigError(`tokens: the token of "${merchant}" is shorter than 16 characters`);
    if (configured.has(digest(token))) throw new ConfigError(`tokens: the token of "${merchant}" is there twice`);
    configured.set(digest(token), { merchant, scopes });
  }
  return {
    async create({ merchant, scopes }) {
      if (!isMerchant(merchant)) throw new Refusal("invalid", "must have 1 to 100 characters", "merchant");
      const id = randomId("tok_");
      const token = randomId("obk_");
      await storage.addToken({ id, merchant, scopes, hash: digest(token), createdAt: clock.now() });
      return { id, token };
    },
    list: () => storage.listTokens(),
    revoke: (id) => storage.removeToken(id),
    async authenticate(token) {
      const hash = digest(token);
      const known = configured.get(hash);
      if (known) return known;
      const stored = await storage.findToken(hash);
      return stored && { merchant: stored.merchant, scopes: stored.scopes as readonly ApiScope[] };
    },
  };
}
