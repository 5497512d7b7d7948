// A whole shop in one route handler of Next: put it into your `app` folder. It imports nothing of Next itself.
import { randomUUID } from "node:crypto";
import { ConfigError, createJobEngine, type FetchHandler } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { verifySharedSecret } from "@orderbridge/core/signature";
import {
  commonVariables,
  createJsonLogger,
  robokassaOptions,
  robokassaProblems,
  robokassaPrune,
  robokassaVariables,
  variables,
} from "@orderbridge/example-support";
import {
  createReconciler,
  createResult2Handler,
  createResultHandler,
  createRobokassa,
  InputError,
  type Order,
  placeOrder,
} from "@orderbridge/robokassa";
import { createRobokassaStorage } from "@orderbridge/robokassa/kysely";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

async function openShop() {
  const read = variables.readVariables({
    ...commonVariables({ port: 3005, database: "sqlite:./robokassa.db" }),
    ...robokassaVariables,
    CRON_SECRET: variables.optional(variables.secret("a secret; make one with: openssl rand -hex 24", 16)),
  });
  const problems = read.ok ? robokassaProblems(read.values) : read.problems;
  if (!read.ok || problems.length > 0) throw new ConfigError(problems.join("; "));
  const logger = createJsonLogger(read.values.LOG_LEVEL);
  const { db, dialect, close } = await openDatabase(read.values.DATABASE_URL);
  const storage = createRobokassaStorage({ db, dialect, firstLiveInvId: read.values.ROBOKASSA_FIRST_INV_ID });
  const core = createKyselyStorage({ db, dialect }); // leases: only one of several processes prunes
  await storage.migrate();
  await core.migrate();
  const robokassa = createRobokassa({ ...robokassaOptions(read.values), logger });
  const certificates = read.values.ROBOKASSA_RESULT2_CERTS;
  const parts = {
    robokassa,
    storage,
    logger,
    // Runs inside the transaction that books the payment, whoever books it: write your own tables through it.
    onPaid: async ({ id, test }: Order) => logger.info("order paid", { id, test }),
  };
  // Finds payments whose notification was lost and drops what is old, while this process lives.
  const stopping = new AbortController();
  const reconciler = createReconciler(parts);
  const engine = createJobEngine({ jobs: [robokassaPrune(storage)], leases: core.leases, logger });
  const working = Promise.all([reconciler, engine].map((each) => each.run(stopping.signal)));
  return {
    robokassa,
    storage,
    reconciler,
    cronSecret: read.values.CRON_SECRET,
    result: createResultHandler(parts),
    result2: certificates && createResult2Handler({ ...parts, certificates }),
    async close() {
      stopping.abort();
      await working;
      await close();
    },
  };
}

/** Opened with the first request: `next build` imports this file too, without the variables. */
let opened: ReturnType<typeof openShop> | undefined;
function shop(): ReturnType<typeof openShop> {
  opened ??= openShop().catch((error) => {
    opened = undefined;
    throw error;
  });
  return opened;
}

/** Ends the connections to the database; Next itself never calls it. */
async function closeShop(): Promise<void> {
  const { close } = await shop();
  opened = undefined;
  await close();
}

const show = ({ id, status, total, invId, paidAt, test }: Order) => ({
  id,
  status,
  total,
  robokassaInvId: invId,
  paidAt: paidAt?.toISOString() ?? null,
  test,
});

async function route(request: Request): Promise<Response> {
  const { robokassa, storage, result, result2, reconciler, cronSecret } = await shop();
  const { pathname, search } = new URL(request.url);
  if (pathname === "/robokassa/result") return result(request);
  if (pathname === "/robokassa/result2" && result2) return result2(request);

  const path = `${request.method} ${pathname}`;
  if (path === "POST /orders") {
    const body = await request.json().catch(() => undefined);
    const { total, description } = (body ?? {}) as { total: string; description: string };
    const { order, paymentUrl } = await placeOrder({ robokassa, storage, id: randomUUID(), total, description });
    return Response.json({ id: order.id, robokassaInvId: order.invId, paymentUrl }, { status: 201 });
  }
  const id = /^GET \/orders\/([^/]+)$/.exec(path)?.[1];
  if (id !== undefined) {
    const order = await storage.orders.get(id);
    return order ? Response.json(show(order)) : Response.json({ detail: "Order not found" }, { status: 404 });
  }
  if (path === "GET /robokassa/success") {
    const visit = robokassa.verifySuccess(search);
    const order = visit.ok ? await storage.orders.getByInvId(visit.notification.invId) : undefined;
    if (!order) return new Response("This link is not genuine.", { status: 400 });
    if (order.status === "new") return new Response("Thank you. We are waiting for the bank; reload in a minute.");
    return new Response(`Thank you. Order ${order.id} is ${order.status}.`);
  }
  if (path === "GET /robokassa/fail") return new Response("The payment was not made. You can go back and try again.");
  // For hosting that freezes processes between requests: a schedule calls it every minute or two.
  if (path === "GET /cron" && cronSecret) {
    const given = request.headers.get("authorization")?.replace(/^Bearer /, "");
    if (!verifySharedSecret(given, [cronSecret]).ok) return Response.json({ detail: "Wrong secret" }, { status: 401 });
    return Response.json(await reconciler.runOnce());
  }
  if (path === "GET /healthz") {
    await storage.ping();
    return Response.json({ status: "ok" });
  }
  return Response.json({ detail: "Not found" }, { status: 404 });
}

const handle: FetchHandler = async (request) => {
  try {
    return await route(request);
  } catch (error) {
    if (error instanceof InputError)
      return Response.json({ detail: error.message, field: error.field }, { status: 400 });
    console.error(ConfigError.isInstance(error) ? error.message : error);
    return Response.json({ detail: "The shop is not available" }, { status: 503 });
  }
};

// Next takes no export of its own names from a route's file: what the tests call hangs on the handler.
export const GET = Object.assign(handle, { closeShop });
export { handle as POST };
