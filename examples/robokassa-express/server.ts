// A shop on Express that sells through Robokassa: orders, pay links, notifications, and pages to come back to.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createJobEngine } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { toNodeListener } from "@orderbridge/core/node";
import {
  commonVariables,
  configure,
  createJsonLogger,
  robokassaOptions,
  robokassaProblems,
  robokassaPrune,
  robokassaUnused,
  robokassaVariables,
  start,
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
import express, { type ErrorRequestHandler } from "express";

const variables = configure(
  { ...commonVariables({ port: 3001, database: "sqlite:./robokassa.db" }), ...robokassaVariables },
  robokassaProblems,
);
const logger = createJsonLogger(variables.LOG_LEVEL);
for (const unused of robokassaUnused(variables)) logger.warn(unused);

const show = ({ id, status, total, invId, paidAt, test }: Order) => ({
  id,
  status,
  total,
  robokassaInvId: invId,
  paidAt: paidAt?.toISOString() ?? null,
  test,
});

await start(async () => {
  const { db, dialect, close } = await openDatabase(variables.DATABASE_URL);
  const storage = createRobokassaStorage({ db, dialect, firstLiveInvId: variables.ROBOKASSA_FIRST_INV_ID });
  const core = createKyselyStorage({ db, dialect }); // leases: only one of several servers prunes
  await storage.migrate();
  await core.migrate();
  const robokassa = createRobokassa({ ...robokassaOptions(variables), logger });

  const app = express();
  app.disable("x-powered-by");
  app.get("/healthz", async (_request, response) => {
    try {
      await storage.ping();
      response.json({ status: "ok" });
    } catch {
      response.status(503).json({ status: "storage does not answer" });
    }
  });

  // Before any body parser: the handler reads the bytes that were sent.
  const shop = {
    robokassa,
    storage,
    logger,
    // Runs inside the transaction that books the payment: write your own tables through it.
    onPaid: async ({ id, test }: Order) => logger.info("order paid", { id, test }),
  };
  app.all("/robokassa/result", toNodeListener(createResultHandler(shop), { logger }));
  const certificates = variables.ROBOKASSA_RESULT2_CERTS;
  if (certificates) {
    app.post("/robokassa/result2", toNodeListener(createResult2Handler({ ...shop, certificates }), { logger }));
  }

  app.post("/orders", express.json({ limit: "64kb" }), async (request, response) => {
    const { total, description } = (request.body ?? {}) as { total: string; description: string };
    const placed = await placeOrder({ robokassa, storage, id: randomUUID(), total, description });
    response.status(201).json({
      id: placed.order.id,
      robokassaInvId: placed.order.invId,
      paymentUrl: placed.paymentUrl,
    });
  });
  app.get("/orders/:id", async (request, response) => {
    const order = await storage.orders.get(request.params.id);
    if (order) response.json(show(order));
    else response.status(404).json({ detail: "Order not found" });
  });

  // The buyer's browser. A visit proves nothing: the order's own status decides what the page says.
  app.get("/robokassa/success", async (request, response) => {
    const visit = robokassa.verifySuccess(new URL(request.originalUrl, "http://localhost").search);
    const order = visit.ok ? await storage.orders.getByInvId(visit.notification.invId) : undefined;
    if (!order) response.status(400).type("text").send("This link is not genuine.");
    else if (order.status === "new")
      response.type("text").send("Thank you. We are waiting for the bank; reload in a minute.");
    else response.type("text").send(`Thank you. Order ${order.id} is ${order.status}.`);
  });
  app.get("/robokassa/fail", (_request, response) => {
    response.type("text").send("The payment was not made. You can go back and try again.");
  });

  app.use(((error, _request, response, next) => {
    if (response.headersSent) return next(error);
    if (error instanceof InputError) return response.status(400).json({ detail: error.message, field: error.field });
    if (error.type === "entity.parse.failed") return response.status(400).json({ detail: "The body is not JSON" });
    if (error.status >= 400 && error.status < 500) return response.status(error.status).json({ detail: error.message });
    logger.error("request failed", { error: String(error) });
    response.status(500).json({ detail: "Internal error" });
  }) satisfies ErrorRequestHandler);

  // Finds payments whose notification was lost, and drops what is old: notifications, and the texts of orders.
  const stopping = new AbortController();
  const engine = createJobEngine({ jobs: [robokassaPrune(storage)], leases: core.leases, logger });
  const working = Promise.all([createReconciler(shop), engine].map((each) => each.run(stopping.signal)));
  const onStop = async () => {
    stopping.abort();
    await working;
    await close();
  };
  return { server: createServer(app), port: variables.PORT, host: variables.HOST, onStop };
});
