import type { Logger } from "../ports.ts";
import { redactText } from "./redact.ts";

/** Takes a request, gives an answer, never rejects. Hono, Next, Bun and Deno use it as it is. */
export type FetchHandler = (request: Request) => Promise<Response>;

export interface HandlerOptions {
  /** Largest body that is read, in bytes; a larger one is answered 413. @defaultValue 1_048_576 */
  readonly maxBodyBytes?: number;
  /** Allowed methods; others are answered 405 with `Allow`. HEAD is allowed with GET. @defaultValue ["POST"] */
  readonly methods?: readonly string[];
  /**
   * Allowed media types of a body, without parameters; others are answered 415. Left out: any. A request without a
   * body is not checked.
   */
  readonly contentTypes?: readonly string[];
  /** Told of everything thrown inside; the sender sees an empty 500. @defaultValue writes to `logger` */
  readonly onError?: (error: unknown, request: Request) => void;
  /** @defaultValue console */
  readonly logger?: Pick<Logger, "error">;
}

/** A body that something else has already read. */
export class ConsumedBodyError extends Error {
  override readonly name = "ConsumedBodyError";
  constructor() {
    super("the request body was already read: mount this handler before body parsers");
  }
}

/**
 * Makes a {@link FetchHandler} out of a function of (request, body bytes).
 *
 * The body arrives as the bytes that were sent, so that a signature can be checked over them. Anything thrown becomes
 * an empty 500, and `onError` hears of it.
 */
export function defineHandler(
  handle: (request: Request, body: Uint8Array<ArrayBuffer>) => Promise<Response> | Response,
  options: HandlerOptions = {},
): FetchHandler {
  const { maxBodyBytes = 1_048_576, methods = ["POST"], contentTypes, logger = console } = options;
  const onError =
    options.onError ??
    ((error) =>
      logger.error("handler failed", { error: redactText(error instanceof Error ? error.message : String(error)) }));
  const allowed = new Set(methods);
  if (allowed.has("GET")) allowed.add("HEAD");
  const allow = [...allowed].join(", ");

  return async (request) => {
    try {
      if (request.method === "OPTIONS" && !allowed.has("OPTIONS")) {
        return new Response(null, { status: 204, headers: { allow } });
      }
      if (!allowed.has(request.method)) return new Response(null, { status: 405, headers: { allow } });
      const body = await readBody(request, maxBodyBytes);
      if (body === undefined) return new Response(null, { status: 413, headers: { connection: "close" } });
      if (contentTypes && body.length > 0) {
        const type = (request.headers.get("content-type") ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
        if (!contentTypes.includes(type)) return new Response(null, { status: 415 });
      }
      return await handle(request, body);
    } catch (error) {
      try {
        onError(error, request);
      } catch (reportError) {
        logger.error("onError itself failed", { error: redactText(String(reportError)) });
      }
      return new Response(null, { status: 500 });
    }
  };
}

/** The bytes of a body, or `undefined` when there are more than `maxBytes`. */
async function readBody(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (request.bodyUsed) throw new ConsumedBodyError();
  if (!request.body || request.method === "GET" || request.method === "HEAD") return new Uint8Array(0);
  const declared = Number(request.headers.get("content-length") ?? Number.NaN);
  if (declared > maxBytes) {
    await request.body.cancel();
    return undefined;
  }
  return readLimited(request.body, maxBytes);
}

/** Collects a stream; stops reading and gives `undefined` once it exceeds `maxBytes`. */
export async function readLimited(
  stream: ReadableStream<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.byteLength;
    if (length > maxBytes) {
      await reader.cancel();
      return undefined;
    }
    chunks.push(value);
  }
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole;
}
