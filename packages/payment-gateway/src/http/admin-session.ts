import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { type Clock, ConfigError } from "@orderbridge/core";
import { createClientAddress } from "@orderbridge/core/node";
import { networkOf } from "../addresses.ts";
import { randomId } from "../ids.ts";

export interface AdminOptions {
  /** At least 12 characters. A new one ends all sessions. */
  readonly password: string;
  /** Signs sessions; at least 32 characters, the same in every process. */
  readonly sessionSecret: string;
  /** Tells who logs in, to limit tries by address. @defaultValue the socket's other end */
  readonly clientAddress?: (request: Request) => string | undefined;
}

export interface AdminSession {
  /** Goes into every form, and comes back with it. */
  readonly csrfToken: string;
}

export interface AdminSessions {
  /** `locked` after five wrong passwords from one address (IPv6: one /64) within 15 minutes, in this process. */
  login(
    request: Request,
    password: string,
  ): { readonly state: "open"; readonly cookie: string } | { readonly state: "wrong" | "locked" };
  /** The session of a request's cookie, if it is genuine and not over. */
  read(request: Request): AdminSession | undefined;
  isCsrfToken(session: AdminSession, token: string): boolean;
  /** The `Set-Cookie` that ends a session in the browser. */
  readonly endCookie: string;
}

const cookieName = "orderbridge_admin";
const sessionMs = 8 * 3_600_000;
const windowMs = 15 * 60_000;
const maxFailures = 5;
const maxAddresses = 10_000;

/** Signed sessions: nothing is stored, so every process knows them. */
export function createAdminSessions({
  admin,
  clock,
  path,
  secure,
}: {
  readonly admin: AdminOptions;
  readonly clock: Clock;
  /** Where the cookie is sent. */
  readonly path: string;
  /** Only over HTTPS. */
  readonly secure: boolean;
}): AdminSessions {
  const { password, sessionSecret, clientAddress = createClientAddress({ trustedProxies: [] }) } = admin;
  if (password.length < 12) throw new ConfigError("admin.password must have at least 12 characters");
  if (sessionSecret.length < 32) throw new ConfigError("admin.sessionSecret must have at least 32 characters");
  const key = createHmac("sha256", sessionSecret).update(`password:${password}`).digest();
  const sign = (text: string): string => createHmac("sha256", key).update(text).digest("base64url");
  const attributes = `Path=${path}; HttpOnly; SameSite=Strict${secure ? "; Secure" : ""}`;
  const failures = new Map<string, { count: number; readonly sinceMs: number }>();

  /** Counts a try before its password is looked at, so that many at once are counted too. */
  function countTry(address: string): boolean {
    const nowMs = clock.monotonicMs();
    const known = failures.get(address);
    const entry = known && nowMs - known.sinceMs < windowMs ? known : { count: 0, sinceMs: nowMs };
    if (entry.count >= maxFailures) return false;
    entry.count++;
    failures.delete(address);
    failures.set(address, entry);
    const [oldest] = failures.keys();
    if (failures.size > maxAddresses && oldest !== undefined) failures.delete(oldest);
    return true;
  }

  return {
    endCookie: `${cookieName}=; Max-Age=0; ${attributes}`,
    login(request, given) {
      const address = networkOf(clientAddress(request) ?? "unknown");
      if (!countTry(address)) return { state: "locked" };
      if (!isEqual(given, password)) return { state: "wrong" };
      failures.delete(address);
      const session = `${clock.now().getTime() + sessionMs}.${randomId()}`;
      return {
        state: "open",
        cookie: `${cookieName}=${session}.${sign(`session:${session}`)}; Max-Age=${sessionMs / 1000}; ${attributes}`,
      };
    },
    read(request) {
      for (const pair of (request.headers.get("cookie") ?? "").split(";")) {
        const [endsAt = "", nonce = "", signature = "", rest] = pair.trim().startsWith(`${cookieName}=`)
          ? pair
              .trim()
              .slice(cookieName.length + 1)
              .split(".")
          : [];
        const isGenuine = rest === undefined && isEqual(signature, sign(`session:${endsAt}.${nonce}`));
        if (isGenuine && Number(endsAt) > clock.now().getTime()) return { csrfToken: sign(`csrf:${nonce}`) };
      }
      return undefined;
    },
    isCsrfToken: ({ csrfToken }, token) => isEqual(csrfToken, token),
  };
}

/** In constant time, whatever the lengths. */
function isEqual(left: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(left), digest(right));
}
