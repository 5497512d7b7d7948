import type { Clock } from "@orderbridge/core";
import { sameAmount } from "./amount.ts";
import type { Shop } from "./shop.ts";
import { sign, signatureBase } from "./signature.ts";

/** Robokassa gives no payment this number. */
const probeInvId = "0";
const probeSum = "0.000000";

/** See `Robokassa.resultProbe`. Signed text: `0.000000:0:Password2`. */
export function resultProbe({ live, algorithm }: Shop): string {
  const SignatureValue = sign(signatureBase([probeSum, probeInvId, live.password2]), algorithm).toUpperCase();
  return new URLSearchParams({ OutSum: probeSum, InvId: probeInvId, SignatureValue }).toString();
}

export const isProbe = ({ invId, outSum }: { readonly invId: string; readonly outSum: string }): boolean =>
  invId === probeInvId && sameAmount(outSum, probeSum);

/** What is wrong with the way to the Result URL. */
export type ProbeProblem =
  | "result_url_unreachable"
  | "result_url_redirects"
  | "result_url_not_found"
  | "result_url_closed"
  | "result_url_other_password"
  | "result_url_fails"
  | "answer_bytes";

export interface ProbeResult {
  /** `undefined`: the answer was exactly `OK0`. */
  readonly problem: ProbeProblem | undefined;
  /** What came back; holds no address and no text of the answer. */
  readonly evidence: string;
}

const expected = `OK${probeInvId}`;
/** Longest part of an answer that is read, in bytes. */
const maxAnswerBytes = 65_536;

/**
 * Calls the Result URL as Robokassa does, with a probe that pays nothing, and looks at each byte of the answer.
 *
 * Robokassa follows no redirect and takes `OK<InvId>` alone: a page, a byte order mark or another status is a failure.
 */
export async function probeResultUrl(
  form: string,
  {
    url,
    fetch,
    clock,
    timeoutMs = 10_000,
  }: {
    readonly url: string;
    readonly fetch: typeof globalThis.fetch;
    readonly clock: Clock;
    readonly timeoutMs?: number;
  },
): Promise<ProbeResult> {
  const call = new AbortController();
  const timer = new AbortController();
  clock.sleep(timeoutMs, timer.signal).then(
    () => call.abort(),
    () => undefined, // answered in time
  );
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: form,
      redirect: "manual",
      signal: call.signal,
    });
    return judge(response, { url, body: await readStart(response) });
  } catch (error) {
    const { code } = ((error as Error).cause ?? {}) as { readonly code?: unknown };
    const reason = call.signal.aborted ? `no answer within ${timeoutMs} ms` : String(code ?? "the connection failed");
    return { problem: "result_url_unreachable", evidence: `Result URL: ${reason}` };
  } finally {
    timer.abort();
  }
}

function judge(response: Response, { url, body }: { readonly url: string; readonly body: Buffer }): ProbeResult {
  const { status, headers } = response;
  const type = (headers.get("content-type") ?? "no content type").split(";", 1)[0];
  const found = (problem: ProbeProblem | undefined, seen: string): ProbeResult => ({
    problem,
    evidence: `Result URL answered a probe ${status}, ${seen}`,
  });
  if (status >= 300 && status < 400) {
    return found("result_url_redirects", `a redirect ${describeRedirect(url, headers.get("location"))}`);
  }
  if (status === 401 || status === 403) return found("result_url_closed", type as string);
  if (status === 404 || status === 405) return found("result_url_not_found", type as string);
  if (status >= 500) return found("result_url_fails", type as string);
  const bytes = describeBytes(body);
  if (status === 400) return found(body.length === 0 ? "result_url_other_password" : "answer_bytes", bytes);
  return found(status === 200 && body.equals(Buffer.from(expected)) ? undefined : "answer_bytes", bytes);
}

/** `3 bytes: 4f 4b 30`, and what is known to be wrong with them. */
function describeBytes(body: Buffer): string {
  if (body.length === 0) return "without a body";
  const text = body.toString("utf8");
  const hints = [
    ...(body.subarray(0, 3).equals(Buffer.from([0xef, 0xbb, 0xbf])) ? ["a byte order mark"] : []),
    ...(/<(!doctype|html|body|script|!--)/i.test(text) ? ["HTML"] : []),
    ...(/^\s*[{["]/.test(text.replace(/^\ufeff/, "")) ? ["JSON"] : []),
    ...(/^\s|\s$/.test(text.replace(/^\ufeff/, "")) ? ["spaces or line ends around it"] : []),
  ];
  const start = [...body.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const what = hints.length > 0 ? ` (${hints.join(", ")})` : "";
  return `${body.length} bytes: ${start}${body.length > 8 ? " …" : ""}${what}`;
}

function describeRedirect(from: string, location: string | null): string {
  if (location === null || !URL.canParse(location, from)) return "without an address";
  const [old, target] = [new URL(from), new URL(location, from)];
  const changes = [
    ...(old.protocol === target.protocol ? [] : [`to ${target.protocol.slice(0, -1)}`]),
    ...(old.hostname === target.hostname
      ? []
      : [target.hostname === `www.${old.hostname}` ? "to www." : "to another host"]),
    ...(old.pathname === target.pathname ? [] : ["to another path"]),
  ];
  return changes.join(", ") || "to itself";
}

async function readStart({ body }: Response): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of body ?? []) {
    parts.push(part);
    length += part.byteLength;
    if (length >= maxAnswerBytes) break;
  }
  return Buffer.concat(parts);
}
