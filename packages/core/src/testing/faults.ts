import type { FetchHandler } from "../http/handler.ts";
import type { Clock } from "../ports.ts";
import { droppedReply } from "./listen.ts";

/** Trouble on demand, named as in every fake. */
export type Fault =
  /** The request runs, the connection ends without an answer. */
  | { readonly kind: "dropReplyAfterExecuting" }
  | { readonly kind: "failAfterExecuting"; readonly status: number }
  | { readonly kind: "failBeforeExecuting"; readonly status: number }
  /** The answer comes `ms` later. */
  | { readonly kind: "slow"; readonly ms: number }
  /** An HTML page with status 200 in place of the answer; the request does not run. */
  | { readonly kind: "htmlAnswer" }
  /** The request runs; of the answer only `length` characters arrive. @defaultValue half of them */
  | { readonly kind: "truncate"; readonly length?: number }
  /** The vendor's own "too many requests". */
  | { readonly kind: "rateLimit" }
  /** The vendor's own block page, until `clear()`. */
  | { readonly kind: "block" };

export interface FaultRule {
  readonly fault: Fault;
  /** How many requests it hits. @defaultValue 1; a block has no end */
  readonly times?: number;
  /** Which requests; left out: every one. */
  readonly match?: (request: Request) => boolean;
}

export interface Faults {
  /** Adds trouble for coming requests. */
  add(rule: FaultRule): void;
  clear(): void;
  /** How many requests were hit so far. */
  readonly hits: number;
  wrap(handler: FetchHandler): FetchHandler;
}

export interface FaultAnswers {
  /** @defaultValue an HTML page with 429 */
  readonly rateLimited?: () => Response;
  /** @defaultValue an HTML page with 403 */
  readonly blocked?: () => Response;
}

const page = (status: number, text: string): Response =>
  new Response(`<html><head><title>${text}</title></head><body><h1>${text}</h1></body></html>`, {
    status,
    headers: { "content-type": "text/html; charset=utf-8" },
  });

/** Fault switches for a fake vendor. */
export function createFaults(clock: Clock, answers: FaultAnswers = {}): Faults {
  let rules: { rule: FaultRule; left: number }[] = [];
  let hits = 0;

  function next(request: Request): Fault | undefined {
    const entry = rules.find(({ rule, left }) => left > 0 && (rule.match?.(request) ?? true));
    if (!entry) return undefined;
    hits++;
    if (entry.rule.fault.kind !== "block") entry.left--;
    return entry.rule.fault;
  }

  return {
    add(rule) {
      rules.push({ rule, left: rule.times ?? 1 });
    },
    clear() {
      rules = [];
    },
    get hits() {
      return hits;
    },
    wrap: (handler) => async (request) => {
      const fault = next(request);
      switch (fault?.kind) {
        case undefined:
          return handler(request);
        case "dropReplyAfterExecuting":
          await handler(request);
          throw droppedReply();
        case "failAfterExecuting":
          await handler(request);
          return page(fault.status, "Bad gateway");
        case "failBeforeExecuting":
          return page(fault.status, "Bad gateway");
        case "slow": {
          const answer = await handler(request);
          await clock.sleep(fault.ms, request.signal);
          return answer;
        }
        case "htmlAnswer":
          return page(200, "Maintenance");
        case "truncate": {
          const answer = await handler(request);
          const text = await answer.text();
          const headers = new Headers(answer.headers);
          headers.delete("content-length");
          return new Response(text.slice(0, fault.length ?? Math.floor(text.length / 2)), {
            status: answer.status,
            headers,
          });
        }
        case "rateLimit":
          return answers.rateLimited?.() ?? page(429, "Too many requests");
        case "block":
          return answers.blocked?.() ?? page(403, "Forbidden");
      }
    },
  };
}
