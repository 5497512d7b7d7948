import type { FastifyPluginAsync } from "fastify";
import type { FetchHandler } from "../http/handler.ts";
import { type NodeListenerOptions, toNodeListener } from "../node/index.ts";

/**
 * Mounts handlers by path: `app.register(toFastifyPlugin({ "/robokassa/result": handler }))`.
 *
 * Inside the plugin's scope bodies stay unread, so the handler sees the bytes that were sent; the rest of the
 * application keeps its own parsers.
 */
export function toFastifyPlugin(
  handlers: Readonly<Record<string, FetchHandler>>,
  options: NodeListenerOptions = {},
): FastifyPluginAsync {
  return async (instance) => {
    instance.removeAllContentTypeParsers();
    instance.addContentTypeParser("*", (_request, payload, done) => done(null, payload));
    for (const [path, handler] of Object.entries(handlers)) {
      const listener = toNodeListener(handler, options);
      instance.all(path, async (request, reply) => {
        reply.hijack();
        await listener(request.raw, reply.raw);
      });
    }
  };
}
