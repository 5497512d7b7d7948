import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { FetchHandler } from "../http/handler.ts";
import { toNodeListener } from "../node/index.ts";

export interface Listening {
  /** Origin without a trailing slash, e.g. `http://127.0.0.1:40123`. */
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/** Serves a handler on the loopback interface. A handler that rejects drops the connection without an answer. */
export async function listen(
  handler: FetchHandler,
  { port = 0, host = "127.0.0.1" }: { readonly port?: number; readonly host?: string } = {},
): Promise<Listening> {
  const server = createServer((request, response) => {
    const droppable: FetchHandler = async (webRequest) => {
      try {
        return await handler(webRequest);
      } catch (error) {
        response.destroy();
        if (isDroppedReply(error)) return new Response(null);
        throw error;
      }
    };
    void toNodeListener(droppable)(request, response);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  const address = server.address() as AddressInfo;
  return {
    url: `http://${host}:${address.port}`,
    port: address.port,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}

/** What `fetch` throws when the connection ends without an answer. */
export function droppedReply(): TypeError {
  return new TypeError("fetch failed", {
    cause: Object.assign(new Error("other side closed"), { code: "UND_ERR_SOCKET" }),
  });
}

const isDroppedReply = (error: unknown): boolean =>
  error instanceof TypeError && (error.cause as { code?: unknown } | undefined)?.code === "UND_ERR_SOCKET";

/** Lets a client talk to a handler without a port: pass it as the client's `fetch`. */
export function fetchFrom(handler: FetchHandler): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    request.signal.throwIfAborted();
    const aborted = new Promise<never>((_resolve, reject) => {
      request.signal.addEventListener("abort", () => reject(request.signal.reason), { once: true });
    });
    return await Promise.race([handler(request), aborted]);
  };
}
