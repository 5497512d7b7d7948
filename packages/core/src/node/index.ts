import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { ConsumedBodyError, type FetchHandler } from "../http/handler.ts";
import { redactText } from "../http/redact.ts";
import type { Logger } from "../ports.ts";
import { setRemoteAddress } from "./client-address.ts";

export { type AddressList, createAddressList, createClientAddress, withRemoteAddress } from "./client-address.ts";

export interface NodeListenerOptions {
  /** @defaultValue console */
  readonly logger?: Pick<Logger, "error">;
}

/**
 * Runs a {@link FetchHandler} on `node:http`, Express, Koa (`context.respond = false`) and Nest (`bodyParser: false`).
 * Mount it before any body parser: the handler needs the bytes that were sent.
 */
export function toNodeListener(
  handler: FetchHandler,
  { logger = console }: NodeListenerOptions = {},
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  return async (incoming: IncomingMessage & { originalUrl?: string }, outgoing) => {
    const gone = new AbortController();
    outgoing.once("close", () => {
      if (!outgoing.writableFinished) gone.abort(new Error("the client went away"));
    });
    try {
      const url = toUrl(incoming.originalUrl ?? incoming.url ?? "/");
      if (!url) {
        outgoing.writeHead(400).end();
        return;
      }
      const answer = await handler(toRequest(incoming, url, gone.signal));
      await send(answer, outgoing, { headOnly: incoming.method === "HEAD", gone: gone.signal });
    } catch (error) {
      logger.error("request failed before its handler", {
        error: redactText(error instanceof Error ? error.message : String(error)),
      });
      if (!outgoing.headersSent) outgoing.writeHead(500).end();
      else outgoing.destroy();
    }
  };
}

/**
 * Path and query of a request target as a proxy before us has read them: `//x/admin` is a path, not the host `x`. Scheme
 * and host are the client's claim, so they are left out. `undefined` for what is no target.
 */
function toUrl(target: string): URL | undefined {
  const origin = "http://localhost";
  if (target.startsWith("/")) return new URL(origin + target);
  if (!URL.canParse(target, origin)) return undefined;
  const { pathname, search } = new URL(target, origin);
  const url = new URL(origin);
  url.pathname = pathname;
  url.search = search;
  return url;
}

function toRequest(incoming: IncomingMessage, url: URL, signal: AbortSignal): Request {
  if (incoming.readableDidRead) throw new ConsumedBodyError();
  const headers = new Headers();
  for (const [name, values] of Object.entries(incoming.headersDistinct)) {
    for (const value of values ?? []) headers.append(name, value);
  }
  setRemoteAddress(headers, incoming.socket.remoteAddress);
  const method = incoming.method ?? "GET";
  const hasBody = method !== "GET" && method !== "HEAD";
  return new Request(url, {
    method,
    headers,
    signal,
    ...(hasBody ? { body: toBody(incoming), duplex: "half" } : {}),
  });
}

/**
 * The body for as long as it is asked for; what comes after that is read and dropped, so that the answer still arrives.
 * `Readable.toWeb` would throw where nobody can catch it when a piece arrives after the reader gave up.
 */
function toBody(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  const pieces = incoming.iterator({ destroyOnReturn: false });
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await pieces.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel() {
        void pieces.return?.();
        incoming.resume();
      },
    },
    { highWaterMark: 0 },
  );
}

async function send(
  answer: Response,
  outgoing: ServerResponse,
  { headOnly, gone }: { readonly headOnly: boolean; readonly gone: AbortSignal },
): Promise<void> {
  const headers: Record<string, string | string[]> = Object.fromEntries(answer.headers);
  const cookies = answer.headers.getSetCookie();
  if (cookies.length > 0) headers["set-cookie"] = cookies;
  outgoing.writeHead(answer.status, headers);
  if (headOnly || !answer.body) {
    outgoing.end();
    return;
  }
  for await (const chunk of answer.body) {
    if (outgoing.destroyed) return;
    if (!outgoing.write(chunk)) await once(outgoing, "drain", { signal: gone }).catch(() => undefined); // it is gone
  }
  outgoing.end();
}
