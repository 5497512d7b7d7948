import { createHash } from "node:crypto";
import type { html } from "hono/html";

export type Html = ReturnType<typeof html>;

/** Nothing inline and nothing foreign runs; no other page may frame these; their addresses are not passed on. */
export const pageHeaders = {
  "content-security-policy":
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
} as const;

/** A stylesheet or script of ours. Its address holds a digest, so it may be kept for ever. */
export interface Asset {
  /** `assets/<digest>.css` */
  readonly path: string;
  answer(): Response;
}

export function createAsset(kind: "css" | "js", body: string): Asset {
  const digest = createHash("sha256").update(body).digest("base64url").slice(0, 16);
  return {
    path: `assets/${digest}.${kind}`,
    answer: () =>
      new Response(body, {
        headers: {
          "content-type": `text/${kind === "css" ? "css" : "javascript"}; charset=utf-8`,
          "cache-control": "public, max-age=31536000, immutable",
          "x-content-type-options": "nosniff",
        },
      }),
  };
}
